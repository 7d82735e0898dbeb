/* SPDX-License-Identifier: MIT */
/*
 * imgfuse resize: another length for an image
 *
 * Growing reads zeros (or the backing file); shrinking loses data, so it must
 * be asked for in so many words.
 *
 * Locking: none; main thread.
 */
#include "fuse/cmd/common.h"

#include "block/image/create.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { OPTION_SHRINK = COMMON_FIRST_FREE, OPTION_PREALLOCATION };

typedef struct ResizeArgs {
    CommonArgs common;
    const char *filename;
    char sign; /* '+', '-', or 0: @bytes is the new length */
    int64_t bytes;
    bool may_shrink;
    BdrvPreallocMode prealloc;
} ResizeArgs;

/* The length that the arguments ask for; false with @error. */
static bool new_length(const ResizeArgs *args, int64_t length,
                       int64_t *ret_length, GError **error)
{
    int64_t wanted = args->bytes;
    bool fits = true;

    if (args->sign == '+') {
        fits = !__builtin_add_overflow(length, args->bytes, &wanted);
    } else if (args->sign == '-') {
        wanted = length - args->bytes;
    }
    if (!fits || wanted <= 0 || wanted > BDRV_MAX_LENGTH) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: the new size must be 1 to %" PRId64 " bytes",
                    args->filename, BDRV_MAX_LENGTH);
        return false;
    }
    if (wanted < length && !args->may_shrink) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: would shrink from %" PRId64 " to %" PRId64 " bytes "
                    "and lose what is behind; if that is meant, say so with "
                    "--shrink", args->filename, length, wanted);
        return false;
    }
    if (wanted <= length && args->prealloc != PREALLOC_OFF) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: --preallocation is for growing", args->filename);
        return false;
    }
    *ret_length = wanted;
    return true;
}

/*
 * Flushed before it is called done: the header has the new length then, also
 * after a power failure.
 */
static int resize_body(void *opaque, GError **error)
{
    const ResizeArgs *args = opaque;
    g_autoptr(BlockBackend) blk =
        common_args_open(&args->common, args->filename, args->common.format,
                         BDRV_O_RDWR | BDRV_O_RESIZE, "resize", error);
    int64_t length;
    int ret;

    if (!blk || !new_length(args, blk_length(blk), &length, error)) {
        return CMD_EXIT_ERROR;
    }
    if (!image_create_resize(blk, length, args->prealloc, error)) {
        g_prefix_error(error, "%s: ", args->filename);
        return CMD_EXIT_ERROR;
    }
    ret = blk_flush(blk);
    if (ret < 0) {
        error_set_errno(error, -ret, "%s: cannot flush", args->filename);
        return CMD_EXIT_ERROR;
    }
    if (!args->common.quiet) {
        printf("Image resized.\n");
    }
    return CMD_EXIT_OK;
}

/* The order is that of BdrvPreallocMode. */
static bool parse_preallocation(const char *text, BdrvPreallocMode *ret_mode)
{
    static const char *const names[] = {
        [PREALLOC_OFF] = "off",
        [PREALLOC_METADATA] = "metadata",
        [PREALLOC_FALLOC] = "falloc",
        [PREALLOC_FULL] = "full",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (strcmp(names[i], text) == 0) {
            *ret_mode = i;
            return true;
        }
    }
    fprintf(stderr, "imgfuse: --preallocation is off, metadata, falloc or "
            "full, not '%s'\n", text);
    return false;
}

/* [+|-]SIZE */
static bool parse_length(const char *text, ResizeArgs *args)
{
    if (*text == '+' || *text == '-') {
        args->sign = *text++;
    }
    return common_parse_size(text, "SIZE", &args->bytes);
}

/* --shrink has no letter, so that nobody types it by accident. */
static bool parse_letter(void *opaque, int option)
{
    ResizeArgs *args = opaque;

    switch (option) {
    case OPTION_SHRINK:
        args->may_shrink = true;
        return true;
    case OPTION_PREALLOCATION:
        return parse_preallocation(optarg, &args->prealloc);
    default:
        return common_args_take(&args->common, option);
    }
}

/* The size is the last argument, and none of getopt's: it may be "-1G". */
static bool parse_args(int argc, char **argv, ResizeArgs *args)
{
    static const struct option long_options[] = {
        COMMON_LONG_OPTIONS,
        { "shrink", no_argument, NULL, OPTION_SHRINK },
        { "preallocation", required_argument, NULL, OPTION_PREALLOCATION },
        { NULL, 0, NULL, 0 },
    };
    if (argc < 3 || !parse_length(argv[argc - 1], args)) {
        return false;
    }
    argc--;
    if (!common_parse(argc, argv, COMMON_LETTERS, long_options,
                      parse_letter, args)) {
        return false;
    }
    args->filename = argv[optind];
    return optind == argc - 1;
}

static int resize_run(int argc, char **argv)
{
    ResizeArgs args = { .prealloc = PREALLOC_OFF };
    int code;

    common_args_init(&args.common, &image_command_resize);
    if (parse_args(argc, argv, &args)) {
        code = image_command_with_loop(resize_body, &args);
    } else {
        code = common_usage(&image_command_resize);
    }
    common_args_clear(&args.common);
    return code;
}

const ImageCommand image_command_resize = {
    .name = "resize",
    .summary = "change the length of an image",
    .usage = "[-f FORMAT] [--shrink] [--preallocation=MODE] [-q] "
             "[--image-opts] IMAGE [+|-]SIZE",
    .options =
        "      --shrink               lose what is behind the new end\n"
        "      --preallocation=MODE   what is allocated in advance when growing:\n"
        "                             off, metadata, falloc or full\n"
        "SIZE is in bytes, or with k, M, G, T, P or E behind it; '+' and '-' change\n"
        "the length by it.\n",
    .run = resize_run,
};
