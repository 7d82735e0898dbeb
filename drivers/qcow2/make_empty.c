/* SPDX-License-Identifier: MIT */
/*
 * giving up all that an overlay has itself, after its data went elsewhere
 *
 * Guest clusters lose their entries as by a discard that leaves holes, which
 * discards of a guest never do while there is a backing file. L2 tables stay
 * for what comes next; snapshots keep what they share.
 *
 * Locking: clear.c's; the caller keeps everybody else out.
 */
#include "drivers/qcow2/cluster.h"

#include "block/io/io.h"
#include "block/rt/aio_context.h"

typedef struct Emptying {
    BlockDriverState *bs;
    int ret;
} Emptying;

static void coroutine_fn empty_entry(void *opaque)
{
    Emptying *emptying = opaque;
    BlockDriverState *bs = emptying->bs;
    int64_t cluster_bytes = qcow2_state(bs)->cluster_bytes;

    bdrv_debug_event(bs->file, BLOCK_DEBUG_EMPTY_IMAGE_PREPARE);
    emptying->ret = qcow2_prepare_write(bs);
    if (emptying->ret >= 0 && bdrv_node_length(bs) > 0) {
        emptying->ret =
            qcow2_clear_clusters(bs, 0,
                                 align_up(bdrv_node_length(bs), cluster_bytes),
                                 QCOW2_CLEAR_UNALLOCATED);
    }
}

bool qcow2_make_empty(BlockDriverState *bs, GError **error)
{
    Emptying emptying = { bs, 0 };

    aio_run_sync(empty_entry, &emptying);
    if (emptying.ret >= 0) {
        emptying.ret = qcow2_commit_all(bs); /* what was freed is free */
    }
    if (emptying.ret >= 0) {
        emptying.ret = bdrv_flush(bs);
    }
    if (emptying.ret < 0) {
        error_set_errno(error, -emptying.ret, "%s: giving up its data",
                        bdrv_name(bs));
    }
    return emptying.ret >= 0;
}
