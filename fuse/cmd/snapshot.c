/* SPDX-License-Identifier: MIT */
/*
 * imgfuse snapshot: list, create, apply and delete internal snapshots
 *
 * Letters and output follow qemu-img. Listing opens the image read-only and
 * without its backing file; the others write.
 *
 * Locking: none; main thread.
 */
#include "fuse/cmd/common.h"
#include "fuse/image_info.h"

#include "block/graph/node.h"
#include "block/image/snapshot.h"

#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

typedef struct SnapshotArgs {
    CommonArgs common;
    const char *filename;
    const char *name;
    char action; /* l c a d; 0: list */
} SnapshotArgs;

/*
 * Columns as qemu-img has them; a long tag pushes the rest to the right rather
 * than being cut.
 */
static void print_snapshot(const BlockSnapshot *one)
{
    g_autoptr(GDateTime) date = g_date_time_new_from_unix_local(one->date_sec);
    g_autofree char *when =
        date ? g_date_time_format(date, "%Y-%m-%d %H:%M:%S") : g_strdup("");
    g_autofree char *size = common_human_size(one->vm_state_bytes);
    uint64_t seconds = one->vm_clock_nsec / 1000000000;
    g_autofree char *clock = g_strdup_printf(
        "%02" PRIu64 ":%02d:%02d.%03d", seconds / 3600,
        (int)(seconds / 60 % 60), (int)(seconds % 60),
        (int)(one->vm_clock_nsec / 1000000 % 1000));
    g_autofree char *icount =
        one->icount < 0 ? g_strdup("")
                        : g_strdup_printf("%" PRId64, one->icount);

    printf("%-9s %-16s %8s%20s%13s%11s\n", one->id, one->name, size, when,
           clock, icount);
}

/* No heading for an empty list: "no output" is easy to test for. */
void image_command_print_snapshots(const GPtrArray *list)
{
    if (!list || list->len == 0) {
        return;
    }
    printf("Snapshot list:\n%-9s %-16s %8s%20s%13s%11s\n", "ID", "TAG",
           "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
    for (guint i = 0; i < list->len; i++) {
        print_snapshot(g_ptr_array_index(list, i));
    }
}

/* JSON is asked for by programs: -q is for people. */
static void print_list(const SnapshotArgs *args, BlockDriverState *bs)
{
    if (args->common.json) {
        JsonNode *root = json_node_new(JSON_NODE_ARRAY);

        json_node_take_array(root,
                             image_info_snapshots(bdrv_skip_filters(bs)));
        image_command_print_json(root);
    } else if (!args->common.quiet) {
        image_command_print_snapshots(bdrv_snapshot_list(bs));
    }
}

/*
 * The backing file stays closed: snapshots are about this layer. Whether one
 * command has changed the image all or not at all is the driver's promise.
 */
static int snapshot_body(void *opaque, GError **error)
{
    const SnapshotArgs *args = opaque;
    bool is_list = args->action == 'l';
    BdrvOpenFlags flags = is_list ? BDRV_O_RDONLY | BDRV_O_NO_BACKING
                                  : BDRV_O_RDWR | BDRV_O_RESIZE |
                                        BDRV_O_UNMAP | BDRV_O_NO_BACKING;
    g_autoptr(BlockBackend) blk = NULL;
    BlockDriverState *bs;
    bool ok = true;

    blk = common_args_open(&args->common, args->filename, args->common.format,
                           flags, "snapshot", error);
    if (!blk) {
        return CMD_EXIT_ERROR;
    }
    bs = blk_bs(blk);
    switch (args->action) {
    case 'c':
        ok = bdrv_snapshot_create(bs, args->name, error);
        break;
    case 'a':
        ok = bdrv_snapshot_goto(bs, args->name, error);
        break;
    case 'd':
        ok = bdrv_snapshot_remove(bs, args->name, error);
        break;
    default:
        print_list(args, bs);
    }
    return ok ? CMD_EXIT_OK : CMD_EXIT_ERROR;
}

/* One action at a time: the order of two would be a guess. */
static bool parse_letter(void *opaque, int option)
{
    SnapshotArgs *args = opaque;

    /* Long options are beyond char, where strchr() would see another. */
    if (option > CHAR_MAX || !strchr("lcad", option)) {
        return common_args_take(&args->common, option);
    }
    if (args->action) {
        fprintf(stderr, "imgfuse: one of -l, -c, -a and -d at a time\n");
        return false;
    }
    args->action = option;
    args->name = optarg;
    return true;
}

static bool parse_args(int argc, char **argv, SnapshotArgs *args)
{
    static const struct option long_options[] = {
        COMMON_LONG_OPTIONS,
        { NULL, 0, NULL, 0 },
    };
    if (!common_parse(argc, argv, COMMON_LETTERS "lc:a:d:", long_options,
                      parse_letter, args)) {
        return false;
    }
    args->action = args->action ? args->action : 'l';
    if (args->common.json && args->action != 'l') {
        fprintf(stderr, "imgfuse: --output=json is for -l\n");
        return false;
    }
    args->filename = argv[optind];
    return optind == argc - 1;
}

static int snapshot_run(int argc, char **argv)
{
    SnapshotArgs args = { .filename = NULL };
    int code;

    common_args_init(&args.common, &image_command_snapshot);
    if (parse_args(argc, argv, &args)) {
        code = image_command_with_loop(snapshot_body, &args);
    } else {
        code = common_usage(&image_command_snapshot);
    }
    common_args_clear(&args.common);
    return code;
}

const ImageCommand image_command_snapshot = {
    .name = "snapshot",
    .summary = "list, create, apply and delete internal snapshots",
    .usage = "[-l | -c NAME | -a NAME | -d NAME] [--output=human|json] "
             "[-f FORMAT] [-q] [-U] [--image-opts] IMAGE",
    .prints_json = true,
    .options =
        "  -l                         list the snapshots (default)\n"
        "  -c NAME                    create one\n"
        "  -a NAME                    go back to it; what is there now is lost\n"
        "  -d NAME                    delete it\n"
        "NAME is a snapshot's tag or ID.\n",
    .run = snapshot_run,
};
