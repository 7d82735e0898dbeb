/* SPDX-License-Identifier: MIT */
/*
 * imgfuse map: which layer of an image has what, and where in its file
 *
 * The human form lists only what other programs could read in the files
 * themselves, the JSON form all. Both are printed while the image is being
 * asked: the map of a large image needs no memory.
 *
 * Locking: none; main thread.
 */
#include "fuse/cmd/common.h"
#include "fuse/image_info.h"

#include "block/graph/node.h"
#include "block/image/map.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

typedef struct MapArgs {
    CommonArgs common;
    const char *filename;
    int64_t start;
    int64_t length;
    bool is_first;      /* nothing printed yet */
    bool is_unreadable; /* the human form met data that has no place */
} MapArgs;

/*
 * Line by line while the image is walked: a map may have millions of extents.
 */
static bool print_json(const ImageMapExtent *extent, void *opaque)
{
    MapArgs *args = opaque;
    g_autoptr(GString) text = g_string_new(NULL);

    image_info_append_extent(text, extent, args->is_first);
    fputs(text->str, stdout);
    args->is_first = false;
    return true;
}

/*
 * Who reads this wants to find bytes in a file with dd. Compressed or
 * encrypted data is not there as it is, so it is left out and the end says so.
 */
static bool print_human(const ImageMapExtent *extent, void *opaque)
{
    MapArgs *args = opaque;

    if (!extent->is_data || extent->reads_zeros) {
        return true;
    }
    if (!extent->has_offset) {
        args->is_unreadable = true;
        return false;
    }
    printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n",
           extent->start, extent->length, extent->host_offset,
           bdrv_name(extent->file));
    return true;
}

/*
 * Output begins before the walk, so an error comes behind part of it: the exit
 * code tells.
 */
static int map_body(void *opaque, GError **error)
{
    MapArgs *args = opaque;
    g_autoptr(BlockBackend) blk =
        common_args_open(&args->common, args->filename, args->common.format,
                         BDRV_O_RDONLY, "map", error);
    bool ok;

    if (!blk) {
        return CMD_EXIT_ERROR;
    }
    printf(args->common.json ? "[" : "%-16s%-16s%-16s%s\n", "Offset", "Length",
           "Mapped to", "File");
    ok = image_map(blk, args->start, args->length,
                   args->common.json ? print_json : print_human, args, error);
    if (args->common.json) {
        printf("]\n");
    }
    if (!ok) {
        g_prefix_error(error, "%s: ", args->filename);
        return CMD_EXIT_ERROR;
    }
    if (args->is_unreadable) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: has compressed or encrypted data, which is in no "
                    "file as it is; use --output=json", args->filename);
        return CMD_EXIT_ERROR;
    }
    return CMD_EXIT_OK;
}

/* OFFSET and LENGTH take suffixes, as sizes do everywhere. */
static bool parse_letter(void *opaque, int option)
{
    MapArgs *args = opaque;

    switch (option) {
    case 's':
        return common_parse_size(optarg, "-s", &args->start);
    case 'l':
        return common_parse_size(optarg, "-l", &args->length);
    default:
        return common_args_take(&args->common, option);
    }
}

static bool parse_args(int argc, char **argv, MapArgs *args)
{
    static const struct option long_options[] = {
        COMMON_LONG_OPTIONS,
        { "start-offset", required_argument, NULL, 's' },
        { "max-length", required_argument, NULL, 'l' },
        { NULL, 0, NULL, 0 },
    };
    if (!common_parse(argc, argv, COMMON_LETTERS "s:l:", long_options,
                      parse_letter, args)) {
        return false;
    }
    args->filename = argv[optind];
    return optind == argc - 1;
}

static int map_run(int argc, char **argv)
{
    MapArgs args = { .length = INT64_MAX, .is_first = true };
    int code;

    common_args_init(&args.common, &image_command_map);
    if (parse_args(argc, argv, &args)) {
        code = image_command_with_loop(map_body, &args);
    } else {
        code = common_usage(&image_command_map);
    }
    common_args_clear(&args.common);
    return code;
}

const ImageCommand image_command_map = {
    .name = "map",
    .summary = "show which layer has what, and where",
    .usage = "[-f FORMAT] [-s OFFSET] [-l LENGTH] [--output=human|json] "
             "[-U] [--image-opts] IMAGE",
    .options =
        "  -s, --start-offset=OFFSET  where to begin (default: 0)\n"
        "  -l, --max-length=LENGTH    how much to look at (default: all)\n",
    .prints_json = true,
    .run = map_run,
};
