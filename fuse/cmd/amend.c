/* SPDX-License-Identifier: MIT */
/*
 * imgfuse amend: other properties for an image that exists
 *
 * Locking: none; main thread.
 */
#include "fuse/cmd/common.h"

#include "block/image/amend.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

typedef struct AmendArgs {
    CommonArgs common;
    const char *filename;
    GPtrArray *option_strings; /* of every -o */
    BdrvOpenFlags cache_flags; /* -t */
    bool list_options;
    bool force;
} AmendArgs;

enum { OPTION_FORCE = COMMON_FIRST_FREE };

static void show_progress(int64_t done, int64_t total, void *opaque)
{
    const AmendArgs *args = opaque;

    common_progress(&args->common, done, total);
}

static int list_options(const char *format)
{
    const BlockDriver *driver = format ? bdrv_find_format(format) : NULL;

    if (!driver || !driver->amend) {
        fprintf(stderr, format ? "imgfuse: images of format '%s' cannot be "
                                 "amended\n"
                               : "imgfuse: -o help needs a format: -f\n",
                format);
        return CMD_EXIT_ERROR;
    }
    common_list_options(driver->amend->options);
    return CMD_EXIT_OK;
}

static int amend_body(void *opaque, GError **error)
{
    AmendArgs *args = opaque;
    g_autoptr(BlockOptions) options =
        common_join_options(args->option_strings, error);
    g_autoptr(BlockBackend) blk = NULL;
    BlockAmendHow how = { args->force, show_progress, args };
    bool ok;

    if (!options) {
        return CMD_EXIT_ERROR;
    }
    blk = common_args_open(&args->common, args->filename, args->common.format,
                           BDRV_O_RDWR | BDRV_O_RESIZE | args->cache_flags,
                           "amend", error);
    if (!blk) {
        return CMD_EXIT_ERROR;
    }
    ok = image_amend(blk, options, &how, error);
    if (!ok) {
        g_prefix_error(error, "%s: ", args->filename);
        return CMD_EXIT_ERROR;
    }
    common_progress(&args->common, 1, 1);
    common_progress_end(&args->common);
    return CMD_EXIT_OK;
}

/* --force has no letter, so that nobody types it by accident. */
static bool parse_letter(void *opaque, int option)
{
    AmendArgs *args = opaque;

    switch (option) {
    case 'o':
        args->list_options |= common_wants_list(optarg);
        g_ptr_array_add(args->option_strings, optarg);
        return true;
    case 't':
        return common_parse_cache(optarg, &args->cache_flags);
    case OPTION_FORCE:
        args->force = true;
        return true;
    default:
        return common_args_take(&args->common, option);
    }
}

static bool parse_args(int argc, char **argv, AmendArgs *args)
{
    static const struct option long_options[] = {
        COMMON_LONG_OPTIONS,
        { "options", required_argument, NULL, 'o' },
        { "force", no_argument, NULL, OPTION_FORCE },
        { NULL, 0, NULL, 0 },
    };

    if (!common_parse(argc, argv, COMMON_LETTERS "o:t:", long_options,
                      parse_letter, args)) {
        return false;
    }
    args->filename = argv[optind];
    return args->list_options ||
           (optind == argc - 1 && args->option_strings->len > 0);
}

static int amend_run(int argc, char **argv)
{
    g_autoptr(GPtrArray) strings = g_ptr_array_new();
    AmendArgs args = { .option_strings = strings };
    int code;

    common_args_init(&args.common, &image_command_amend);
    if (!parse_args(argc, argv, &args)) {
        code = common_usage(&image_command_amend);
    } else if (args.list_options) {
        code = list_options(args.common.format);
    } else {
        code = image_command_with_loop(amend_body, &args);
    }
    common_args_clear(&args.common);
    return code;
}

const ImageCommand image_command_amend = {
    .name = "amend",
    .summary = "change the properties of an image",
    .usage = "[-f FORMAT] -o OPTIONS [-t CACHE] [--force] [-p] [-q] "
             "[--image-opts] IMAGE",
    .options =
        "  -o, --options=OPTIONS      what to change; '-f FORMAT -o help' lists it\n"
        "  -t CACHE                   how the image is opened, as --cache of mounts\n"
        "  --force                    also what may leave an image that no key opens\n",
    .run = amend_run,
};
