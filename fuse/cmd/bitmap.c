/* SPDX-License-Identifier: MIT */
/*
 * imgfuse bitmap: add, remove, clear, enable, disable and merge the dirty
 * bitmaps that an image keeps
 *
 * Options follow qemu-img bitmap. Actions are done in the order given; when
 * one fails, those before it stay done.
 *
 * Locking: none; main thread.
 */
#include "fuse/cmd/common.h"

#include "block/graph/node.h"
#include "block/image/stored_bitmap.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

enum {
    OPTION_ADD = COMMON_FIRST_FREE,
    OPTION_REMOVE,
    OPTION_CLEAR,
    OPTION_ENABLE,
    OPTION_DISABLE,
    OPTION_MERGE,
};

typedef struct Action {
    int what; /* OPTION_... */
    const char *source; /* MERGE: the other bitmap */
} Action;

typedef struct BitmapArgs {
    CommonArgs common;
    const char *filename;
    const char *name;
    const char *source_name; /* -b */
    const char *source_format;
    int64_t granularity; /* 0: not said */
    GArray *actions;     /* of Action */
} BitmapArgs;

/* Some options only mean something beside a certain action. */
static bool has_action(const BitmapArgs *args, int what)
{
    for (guint i = 0; i < args->actions->len; i++) {
        if (g_array_index(args->actions, Action, i).what == what) {
            return true;
        }
    }
    return false;
}

/* -- the work ------------------------------------------------------------- */

/*
 * A new bitmap knows of no write yet, and from now on of each: that is what a
 * backup wants that begins with a full copy.
 */
static bool add(const BitmapArgs *args, BlockDriverState *bs, GError **error)
{
    int64_t granularity = args->granularity;

    return bdrv_bitmap_add(bs, args->name,
                           granularity ? granularity
                                       : bdrv_bitmap_default_granularity(bs),
                           /* is_enabled= */ true, error);
}

/*
 * A merge takes bits from another image only with -b; else the two bitmaps lie
 * side by side, and @source is NULL.
 */
static bool run_action(const BitmapArgs *args, const Action *action,
                       BlockDriverState *bs, BlockDriverState *source,
                       GError **error)
{
    switch (action->what) {
    case OPTION_ADD:
        return add(args, bs, error);
    case OPTION_REMOVE:
        return bdrv_bitmap_remove(bs, args->name, error);
    case OPTION_CLEAR:
        return bdrv_bitmap_clear(bs, args->name, error);
    case OPTION_ENABLE:
        return bdrv_bitmap_set_enabled(bs, args->name, true, error);
    case OPTION_DISABLE:
        return bdrv_bitmap_set_enabled(bs, args->name, false, error);
    default:
        return bdrv_bitmap_merge_from(bs, args->name, source ? source : bs,
                                      action->source, error);
    }
}

/*
 * The backing file stays closed: bitmaps are about writes to this layer, and
 * an overlay whose backing file has gone can still be tidied.
 *
 * What was done before an action failed is stored all the same: the options
 * say "in the order given", so a script can tell what is left to do. Its own
 * failure to store must not hide the first error, so that one is dropped.
 */
static int bitmap_body(void *opaque, GError **error)
{
    const BitmapArgs *args = opaque;
    g_autoptr(BlockBackend) blk = NULL;
    g_autoptr(BlockBackend) source = NULL;
    g_autoptr(GError) store_error = NULL;
    BdrvOpenFlags flags = BDRV_O_RDWR | BDRV_O_RESIZE | BDRV_O_UNMAP |
                          BDRV_O_NO_BACKING;
    bool ok = true;

    blk = common_args_open(&args->common, args->filename,
                           args->common.format, flags, "bitmap", error);
    if (!blk || !bdrv_bitmaps_supported(blk_bs(blk), error)) {
        return CMD_EXIT_ERROR;
    }
    if (args->source_name) {
        CommonArgs common = args->common;

        common.image_opts = false;
        source = common_args_open(&common, args->source_name,
                                  args->source_format,
                                  BDRV_O_RDONLY | BDRV_O_NO_BACKING, "bitmap",
                                  error);
        if (!source) {
            return CMD_EXIT_ERROR;
        }
    }
    for (guint i = 0; ok && i < args->actions->len; i++) {
        ok = run_action(args, &g_array_index(args->actions, Action, i),
                        blk_bs(blk), source ? blk_bs(source) : NULL, error);
    }
    if (!bdrv_bitmaps_store(blk_bs(blk), ok ? error : &store_error)) {
        ok = false;
    }
    return ok ? CMD_EXIT_OK : CMD_EXIT_ERROR;
}

/* -- arguments ------------------------------------------------------------ */

/* The driver knows what it can keep; 0 would mean "not said" (bitmap_body). */
static bool parse_granularity(const char *text, int64_t *ret_bytes)
{
    if (common_parse_size(text, "-g", ret_bytes) && *ret_bytes == 0) {
        fprintf(stderr, "imgfuse: -g is a power of two from 512 to 2G\n");
    }
    return *ret_bytes > 0;
}

/* One list for all actions keeps the order in which they were given. */
static bool parse_letter(void *opaque, int option)
{
    BitmapArgs *args = opaque;
    Action action = { option, optarg };

    switch (option) {
    case OPTION_ADD:
    case OPTION_REMOVE:
    case OPTION_CLEAR:
    case OPTION_ENABLE:
    case OPTION_DISABLE:
    case OPTION_MERGE:
        g_array_append_val(args->actions, action);
        return true;
    case 'g':
        return parse_granularity(optarg, &args->granularity);
    case 'b':
        args->source_name = optarg;
        return true;
    case 'F':
        args->source_format = optarg;
        return true;
    default:
        return common_args_take(&args->common, option);
    }
}

/*
 * An option without the action that it is for is a slip of the keyboard:
 * better to say so than to do something else than was meant.
 */
static bool check_args(const BitmapArgs *args)
{
    if (args->actions->len == 0) {
        fprintf(stderr, "imgfuse: nothing to do: give --add, --remove, "
                "--clear, --enable, --disable or --merge\n");
        return false;
    }
    if (args->granularity && !has_action(args, OPTION_ADD)) {
        fprintf(stderr, "imgfuse: -g is for --add\n");
        return false;
    }
    if (args->source_name && !has_action(args, OPTION_MERGE)) {
        fprintf(stderr, "imgfuse: -b is for --merge\n");
        return false;
    }
    if (args->source_format && !args->source_name) {
        fprintf(stderr, "imgfuse: -F is for -b\n");
        return false;
    }
    return true;
}

/*
 * A bitmap's name comes last; it may look like anything, so nothing is made of
 * it here.
 */
static bool parse_args(int argc, char **argv, BitmapArgs *args)
{
    static const struct option long_options[] = {
        COMMON_LONG_OPTIONS,
        { "add", no_argument, NULL, OPTION_ADD },
        { "remove", no_argument, NULL, OPTION_REMOVE },
        { "clear", no_argument, NULL, OPTION_CLEAR },
        { "enable", no_argument, NULL, OPTION_ENABLE },
        { "disable", no_argument, NULL, OPTION_DISABLE },
        { "merge", required_argument, NULL, OPTION_MERGE },
        { "granularity", required_argument, NULL, 'g' },
        { "source-file", required_argument, NULL, 'b' },
        { "source-format", required_argument, NULL, 'F' },
        { NULL, 0, NULL, 0 },
    };
    if (!common_parse(argc, argv, COMMON_LETTERS "g:b:F:", long_options,
                      parse_letter, args)) {
        return false;
    }
    if (optind != argc - 2 || !check_args(args)) {
        return false;
    }
    args->filename = argv[optind];
    args->name = argv[optind + 1];
    return true;
}

static int bitmap_run(int argc, char **argv)
{
    g_autoptr(GArray) actions = g_array_new(FALSE, FALSE, sizeof(Action));
    BitmapArgs args = { .actions = actions };
    int code;

    common_args_init(&args.common, &image_command_bitmap);
    if (parse_args(argc, argv, &args)) {
        code = image_command_with_loop(bitmap_body, &args);
    } else {
        code = common_usage(&image_command_bitmap);
    }
    common_args_clear(&args.common);
    return code;
}

const ImageCommand image_command_bitmap = {
    .name = "bitmap",
    .summary = "add, remove, clear, enable, disable and merge dirty bitmaps",
    .usage = "{--add | --remove | --clear | --enable | --disable | --merge "
             "SOURCE}... [-g GRANULARITY] [-b FILE [-F FORMAT]] [-f FORMAT] "
             "[--allow-path=DIR] [--image-opts] IMAGE BITMAP",
    .options =
        "      --add                  make BITMAP, clear and enabled\n"
        "      --remove               forget it\n"
        "      --clear                clear all its bits\n"
        "      --enable, --disable    are writes tracked?\n"
        "      --merge=SOURCE         set the bits that bitmap SOURCE has set\n"
        "  -g, --granularity=BYTES    with --add: what one bit stands for\n"
        "  -b, --source-file=FILE     with --merge: the image that has SOURCE\n"
        "  -F, --source-format=FMT    its format\n"
        "Actions are done in the order given.\n",
    .run = bitmap_run,
};
