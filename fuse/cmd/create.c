/* SPDX-License-Identifier: MIT */
/*
 * imgfuse create: a new, empty image
 *
 * Never touches a file that exists, unless --force says so; a new file is
 * complete when it appears (block/image/create.h).
 *
 * Locking: none; main thread.
 */
#include "fuse/cmd/common.h"

#include "block/image/create.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { OPTION_FORCE = COMMON_FIRST_FREE };

typedef struct CreateArgs {
    CommonArgs common;
    ImageCreateRequest request;
    GPtrArray *option_strings; /* of every -o */
    bool list_options;
} CreateArgs;

/* The three options that have a letter or an argument of their own, too. */
static bool take_common(BlockOptions *options, ImageCreateRequest *request,
                        char **ret_backing_name, char **ret_backing_format,
                        GError **error)
{
    if (!block_options_take_size(options, "size", &request->length, error) ||
        !block_options_take_string(options, "backing_file", ret_backing_name,
                                   error) ||
        !block_options_take_string(options, "backing_fmt", ret_backing_format,
                                   error)) {
        return false;
    }
    if (*ret_backing_name) {
        request->backing_name = *ret_backing_name;
    }
    if (*ret_backing_format) {
        request->backing_format = *ret_backing_format;
    }
    return true;
}

/*
 * What is printed is what came out: a length may have been rounded up, or
 * taken from the backing file.
 */
static int create_body(void *opaque, GError **error)
{
    CreateArgs *args = opaque;
    ImageCreateRequest request = args->request;
    g_autoptr(BlockOptions) options =
        common_join_options(args->option_strings, error);
    g_autofree char *backing_name = NULL;
    g_autofree char *backing_format = NULL;
    int64_t length;

    if (!options || !take_common(options, &request, &backing_name,
                                 &backing_format, error)) {
        return CMD_EXIT_ERROR;
    }
    request.options = options;
    if (!image_create(&request, &length, error)) {
        return CMD_EXIT_ERROR;
    }
    if (!args->common.quiet) {
        printf("Formatting '%s', fmt=%s size=%" PRId64, request.filename,
               request.format, length);
        if (request.backing_name) {
            printf(" backing_file=%s backing_fmt=%s", request.backing_name,
                   request.backing_format);
        }
        printf("\n");
    }
    return CMD_EXIT_OK;
}

/*
 * -u skips opening the backing file, which may not be there yet; its size then
 * has to be said.
 */
static bool parse_letter(void *opaque, int option)
{
    CreateArgs *args = opaque;

    switch (option) {
    case 'f':
        args->request.format = optarg;
        return true;
    case 'b':
        args->request.backing_name = optarg;
        return true;
    case 'F':
        args->request.backing_format = optarg;
        return true;
    case 'u':
        args->request.backing_unchecked = true;
        return true;
    case 'o':
        args->list_options |= common_wants_list(optarg);
        g_ptr_array_add(args->option_strings, optarg);
        return true;
    case OPTION_FORCE:
        args->request.replace = true;
        return true;
    default:
        return common_args_take(&args->common, option);
    }
}

/*
 * The size is an argument of its own, or -o size: for scripts of either kind.
 */
static bool parse_args(int argc, char **argv, CreateArgs *args)
{
    static const struct option long_options[] = {
        COMMON_LONG_OPTIONS,
        { "backing", required_argument, NULL, 'b' },
        { "backing-format", required_argument, NULL, 'F' },
        { "options", required_argument, NULL, 'o' },
        { "force", no_argument, NULL, OPTION_FORCE },
        { NULL, 0, NULL, 0 },
    };
    if (!common_parse(argc, argv, COMMON_LETTERS "b:F:o:u", long_options,
                      parse_letter, args)) {
        return false;
    }
    if (args->list_options) {
        return true;
    }
    if (argc - optind < 1 || argc - optind > 2) {
        return false;
    }
    args->request.filename = argv[optind];
    return argc - optind == 1 ||
           common_parse_size(argv[optind + 1], "SIZE",
                             &args->request.length);
}

static int create_run(int argc, char **argv)
{
    g_autoptr(GPtrArray) strings = g_ptr_array_new();
    CreateArgs args = {
        .request = { .format = "raw", .length = -1 },
        .option_strings = strings,
    };
    int code;

    common_args_init(&args.common, &image_command_create);
    if (!parse_args(argc, argv, &args)) {
        code = common_usage(&image_command_create);
    } else if (args.list_options) {
        code = common_list_creation_options(args.request.format);
    } else {
        code = image_command_with_loop(create_body, &args);
    }
    common_args_clear(&args.common);
    return code;
}

const ImageCommand image_command_create = {
    .name = "create",
    .summary = "make a new image",
    .usage = "[-f FORMAT] [-o OPTIONS] [-b BACKING -F FORMAT [-u]] "
             "[--force] [-q] IMAGE [SIZE]",
    .options =
        "  -f, --format=FORMAT        format of the image (default: raw)\n"
        "  -o, --options=OPTIONS      of the format; '-o help' lists them\n"
        "  -b, --backing=FILE         image to read where this one has nothing\n"
        "  -F, --backing-format=FMT   format of that one\n"
        "  -u                         do not open the backing file\n"
        "      --force                overwrite a file that exists\n"
        "SIZE is in bytes, or with k, M, G, T, P or E behind it; with -b it\n"
        "defaults to that of the backing file.\n",
    .run = create_run,
};
