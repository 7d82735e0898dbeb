/* SPDX-License-Identifier: MIT */
/*
 * imgfuse rebase: another backing file for an overlay
 *
 * The usual way keeps what the overlay shows: what differs between the old and
 * the new backing file is copied in, and the name in the header changes last.
 * With -u only the name changes, and neither backing file is looked at.
 *
 * Locking: none; main thread.
 */
#include "fuse/cmd/common.h"

#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/graph/filename.h"
#include "block/graph/reference_policy.h"
#include "block/image/rebase.h"
#include "block/image/workers.h"

#include <getopt.h>
#include <stdio.h>
#include <sys/stat.h>

typedef struct RebaseArgs {
    CommonArgs common;
    const char *filename;
    const char *backing_name; /* as it will stand in the header; NULL: none */
    const char *backing_format;
    BdrvOpenFlags overlay_flags;
    bool is_unsafe;
    bool has_backing_name; /* -b was given */
} RebaseArgs;

/* Counts what has been looked at, most of which needs no copying. */
static void show_progress(void *opaque, int64_t done, int64_t total)
{
    const RebaseArgs *args = opaque;

    common_progress(&args->common, done, total);
}

/* Where the name in the header leads to: it starts from the overlay's folder. */
static char *backing_path(const RebaseArgs *args)
{
    g_autofree char *folder =
        args->common.image_opts ? NULL
                                : filename_real_directory(args->filename);

    return filename_combine(folder, args->backing_name);
}

/* An image that is below itself could never be opened again. */
static bool check_no_circle(const RebaseArgs *args, const char *path,
                            BlockBackend *backing, GError **error)
{
    BlockDriverState *bs = backing ? bdrv_skip_filters(blk_bs(backing)) : NULL;
    bool is_circle = common_is_same_file(args->filename, path);

    while (bs && !is_circle) {
        BdrvChild *below = bdrv_cow_child(bs);

        is_circle = common_is_same_file(args->filename, bs->exact_filename);
        bs = below ? bdrv_skip_filters(below->bs) : NULL;
    }
    if (is_circle) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: would be its own backing file by way of '%s'",
                    args->filename, args->backing_name);
    }
    return !is_circle;
}

/* *@ret_blk NULL: none is wanted. */
static bool open_new_backing(const RebaseArgs *args, BlockBackend **ret_blk,
                             GError **error)
{
    g_autoptr(ReferencePolicy) policy = NULL;
    g_autofree char *path = NULL;
    BlockOptions *options;

    *ret_blk = NULL;
    if (!args->backing_name) {
        return true;
    }
    path = backing_path(args);
    if (!check_no_circle(args, path, /* backing= */ NULL, error)) {
        return false;
    }
    if (args->is_unsafe) {
        return true;
    }
    policy = common_args_policy(&args->common, error);
    if (!policy) {
        return false;
    }
    options = block_options_new();
    block_options_set_string(options, "driver", args->backing_format);
    *ret_blk = blk_open(path, options,
                        args->common.source_flags |
                            (args->common.force_share ? BDRV_O_FORCE_SHARE
                                                      : 0),
                        policy, "rebase", error);
    if (!*ret_blk) {
        g_prefix_error(error, "new backing file '%s': ", args->backing_name);
        return false;
    }
    return check_no_circle(args, path, *ret_blk, error);
}

/*
 * From here on a signal ends the work at the next piece. What was copied by
 * then is what the overlay showed before, so nothing has to be undone.
 */
static bool copy_difference(const RebaseArgs *args, BlockBackend *overlay,
                            BlockBackend *new_backing, GError **error)
{
    bool ok;

    common_catch_signals();
    ok = image_rebase_data(
        &(ImageRebase) {
            .overlay = overlay,
            .new_backing = new_backing,
            .coroutines = IMAGE_WORKERS_DEFAULT,
            .cancel = &common_interrupted,
            .progress = show_progress,
            .opaque = (void *)args,
        },
        error);
    common_progress_end(&args->common);
    if (!ok) {
        g_prefix_error(error, "%s: not rebased, its content and backing file "
                       "are as before: ", args->filename);
    }
    return ok;
}

/* Could its header be changed at all? Better now than after the copying. */
static bool check_overlay(const RebaseArgs *args, BlockBackend *overlay,
                          GError **error)
{
    BlockDriverState *bs = bdrv_skip_filters(blk_bs(overlay));

    if (bs->drv->supports_backing && bs->drv->change_backing_file) {
        return true;
    }
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                "%s: format '%s' has no backing file that could be changed",
                args->filename, bs->drv->format_name);
    return false;
}

/*
 * The new backing file is opened first: when it is not there, the overlay need
 * not even be locked.
 */
static int rebase_body(void *opaque, GError **error)
{
    const RebaseArgs *args = opaque;
    BdrvOpenFlags flags = BDRV_O_RDWR | args->overlay_flags |
                          (args->is_unsafe ? BDRV_O_NO_BACKING : 0);
    g_autoptr(BlockBackend) new_backing = NULL;
    g_autoptr(BlockBackend) overlay = NULL;

    if (!open_new_backing(args, &new_backing, error)) {
        return CMD_EXIT_ERROR;
    }
    overlay = common_args_open(&args->common, args->filename,
                               args->common.format, flags, "rebase", error);
    if (!overlay || !check_overlay(args, overlay, error)) {
        return CMD_EXIT_ERROR;
    }
    if (!args->is_unsafe &&
        !copy_difference(args, overlay, new_backing, error)) {
        return CMD_EXIT_ERROR;
    }
    return image_rebase_header(overlay, args->backing_name,
                               args->backing_format, error)
               ? CMD_EXIT_OK : CMD_EXIT_ERROR;
}

/* -b '' means none, which is another thing than no -b. */
static bool parse_letter(void *opaque, int option)
{
    RebaseArgs *args = opaque;

    switch (option) {
    case 'b':
        args->has_backing_name = true;
        args->backing_name = *optarg ? optarg : NULL;
        return true;
    case 'F':
        args->backing_format = optarg;
        return true;
    case 'u':
        args->is_unsafe = true;
        return true;
    case 't':
        return common_parse_cache(optarg, &args->overlay_flags);
    default:
        return common_args_take(&args->common, option);
    }
}

/*
 * A format is never guessed for a backing file: a guest that writes a header
 * into a raw image could choose what it becomes.
 */
static bool check_args(const RebaseArgs *args)
{
    if (!args->has_backing_name && !args->is_unsafe) {
        fprintf(stderr, "imgfuse: name the new backing file with -b ('' for "
                "none)\n");
        return false;
    }
    if (args->backing_name && !args->backing_format) {
        fprintf(stderr, "imgfuse: the backing file needs its format; name it "
                "with -F\n");
        return false;
    }
    if (args->backing_format && !bdrv_find_format(args->backing_format)) {
        fprintf(stderr, "imgfuse: unknown backing format '%s'\n",
                args->backing_format);
        return false;
    }
    return true;
}

static bool parse_args(int argc, char **argv, RebaseArgs *args)
{
    static const struct option long_options[] = {
        COMMON_LONG_OPTIONS,
        { "backing", required_argument, NULL, 'b' },
        { "backing-format", required_argument, NULL, 'F' },
        { NULL, 0, NULL, 0 },
    };
    if (!common_parse(argc, argv, COMMON_LETTERS "b:F:ut:", long_options,
                      parse_letter, args)) {
        return false;
    }
    args->filename = argv[optind];
    return optind == argc - 1 && check_args(args);
}

static int rebase_run(int argc, char **argv)
{
    RebaseArgs args = { .filename = NULL };
    int code;

    common_args_init(&args.common, &image_command_rebase);
    if (parse_args(argc, argv, &args)) {
        code = image_command_with_loop(rebase_body, &args);
    } else {
        code = common_usage(&image_command_rebase);
    }
    common_args_clear(&args.common);
    return code;
}

const ImageCommand image_command_rebase = {
    .name = "rebase",
    .summary = "give an overlay another backing file, content kept",
    .usage = "[-f FORMAT] {-b BACKING -F FORMAT | -b ''} [-u] "
             "[-t CACHE] [-T CACHE] [-p] [-q] [--allow-path=DIR] "
             "[--image-opts] IMAGE",
    .options =
        "  -b, --backing=FILE         the new backing file ('': none)\n"
        "  -F, --backing-format=FMT   its format\n"
        "  -u                         change the name only, and open nothing\n"
        "  -t CACHE, -T CACHE         how the image and the new backing file are\n"
        "                             opened, as --cache of mounts\n",
    .run = rebase_run,
};
