/* SPDX-License-Identifier: MIT */
/*
 * debug events: names, and the way from a driver to the node that debugs
 *
 * The node told is the first with a debug table on the way down from where
 * the event happens, through filters for events and through primary children
 * for breakpoints. What happens there is the driver's (filters/blkdebug.c).
 *
 * Locking: bdrv_debug_nodes is atomic; the rest is constant.
 */
#include "block/io/debug_event.h"

#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"

#include <string.h>

int bdrv_debug_nodes;

static const char *const event_names[BLOCK_DEBUG_EVENTS] = {
    [BLOCK_DEBUG_NONE] = "none",
    [BLOCK_DEBUG_L1_UPDATE] = "l1_update",
    [BLOCK_DEBUG_L1_GROW_ALLOC_TABLE] = "l1_grow_alloc_table",
    [BLOCK_DEBUG_L1_GROW_WRITE_TABLE] = "l1_grow_write_table",
    [BLOCK_DEBUG_L1_GROW_ACTIVATE_TABLE] = "l1_grow_activate_table",
    [BLOCK_DEBUG_L1_SHRINK_WRITE_TABLE] = "l1_shrink_write_table",
    [BLOCK_DEBUG_L1_SHRINK_FREE_L2_CLUSTERS] = "l1_shrink_free_l2_clusters",
    [BLOCK_DEBUG_L2_LOAD] = "l2_load",
    [BLOCK_DEBUG_L2_UPDATE] = "l2_update",
    [BLOCK_DEBUG_L2_UPDATE_COMPRESSED] = "l2_update_compressed",
    [BLOCK_DEBUG_L2_ALLOC_COW_READ] = "l2_alloc_cow_read",
    [BLOCK_DEBUG_L2_ALLOC_WRITE] = "l2_alloc_write",
    [BLOCK_DEBUG_READ_AIO] = "read_aio",
    [BLOCK_DEBUG_READ_BACKING_AIO] = "read_backing_aio",
    [BLOCK_DEBUG_READ_COMPRESSED] = "read_compressed",
    [BLOCK_DEBUG_WRITE_AIO] = "write_aio",
    [BLOCK_DEBUG_WRITE_COMPRESSED] = "write_compressed",
    [BLOCK_DEBUG_COW_READ] = "cow_read",
    [BLOCK_DEBUG_COW_WRITE] = "cow_write",
    [BLOCK_DEBUG_COR_WRITE] = "cor_write",
    [BLOCK_DEBUG_REFTABLE_LOAD] = "reftable_load",
    [BLOCK_DEBUG_REFTABLE_GROW] = "reftable_grow",
    [BLOCK_DEBUG_REFTABLE_UPDATE] = "reftable_update",
    [BLOCK_DEBUG_REFBLOCK_LOAD] = "refblock_load",
    [BLOCK_DEBUG_REFBLOCK_UPDATE] = "refblock_update",
    [BLOCK_DEBUG_REFBLOCK_ALLOC] = "refblock_alloc",
    [BLOCK_DEBUG_REFBLOCK_ALLOC_HOOKUP] = "refblock_alloc_hookup",
    [BLOCK_DEBUG_REFBLOCK_ALLOC_WRITE] = "refblock_alloc_write",
    [BLOCK_DEBUG_REFBLOCK_ALLOC_WRITE_BLOCKS] =
        "refblock_alloc_write_blocks",
    [BLOCK_DEBUG_REFBLOCK_ALLOC_WRITE_TABLE] = "refblock_alloc_write_table",
    [BLOCK_DEBUG_REFBLOCK_ALLOC_SWITCH_TABLE] =
        "refblock_alloc_switch_table",
    [BLOCK_DEBUG_CLUSTER_ALLOC] = "cluster_alloc",
    [BLOCK_DEBUG_CLUSTER_ALLOC_BYTES] = "cluster_alloc_bytes",
    [BLOCK_DEBUG_CLUSTER_ALLOC_SPACE] = "cluster_alloc_space",
    [BLOCK_DEBUG_CLUSTER_FREE] = "cluster_free",
    [BLOCK_DEBUG_FLUSH_TO_OS] = "flush_to_os",
    [BLOCK_DEBUG_FLUSH_TO_DISK] = "flush_to_disk",
    [BLOCK_DEBUG_PWRITEV_RMW_HEAD] = "pwritev_rmw_head",
    [BLOCK_DEBUG_PWRITEV_RMW_AFTER_HEAD] = "pwritev_rmw_after_head",
    [BLOCK_DEBUG_PWRITEV_RMW_TAIL] = "pwritev_rmw_tail",
    [BLOCK_DEBUG_PWRITEV_RMW_AFTER_TAIL] = "pwritev_rmw_after_tail",
    [BLOCK_DEBUG_PWRITEV] = "pwritev",
    [BLOCK_DEBUG_PWRITEV_ZERO] = "pwritev_zero",
    [BLOCK_DEBUG_PWRITEV_DONE] = "pwritev_done",
    [BLOCK_DEBUG_EMPTY_IMAGE_PREPARE] = "empty_image_prepare",
};

BlockDebugEvent block_debug_event_from_name(const char *name)
{
    for (int event = 0; event < BLOCK_DEBUG_EVENTS; event++) {
        if (strcmp(event_names[event], name) == 0) {
            return event;
        }
    }
    return BLOCK_DEBUG_EVENTS;
}

const char *block_debug_event_name(BlockDebugEvent event)
{
    g_assert(event < BLOCK_DEBUG_EVENTS);
    return event_names[event];
}

static const BlockDebugOps *ops_of(const BlockDriverState *bs)
{
    return bs->drv != NULL ? bs->drv->debug : NULL;
}

void coroutine_fn bdrv_tell_debug_event(BlockDriverState *bs,
                                        BlockDebugEvent event)
{
    BdrvChild *shown;

    while (ops_of(bs) == NULL) {
        shown = bdrv_filter_child(bs);
        if (shown == NULL) {
            return;
        }
        bs = shown->bs;
    }
    /* Opening and closing do I/O outside of coroutines: nobody to suspend. */
    if (co_in_coroutine()) {
        ops_of(bs)->co_debug_event(bs, event);
    }
}

void coroutine_fn bdrv_tell_child_debug_event(BdrvChild *child,
                                              BlockDebugEvent event)
{
    bdrv_tell_debug_event(child->bs, event);
}

/* The node that takes breakpoints for @bs. */
static BlockDriverState *find_debugger(BlockDriverState *bs, GError **error)
{
    BlockDriverState *node = bs;

    while (ops_of(node) == NULL && node->file != NULL) {
        node = node->file->bs;
    }
    if (ops_of(node) == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "there is no blkdebug node below '%s'", bs->node_name);
        return NULL;
    }
    return node;
}

bool bdrv_debug_set_breakpoint(BlockDriverState *bs, const char *event,
                               const char *tag, GError **error)
{
    BlockDriverState *node = find_debugger(bs, error);

    return node != NULL &&
           ops_of(node)->set_breakpoint(node, event, tag, error);
}

bool bdrv_debug_remove_breakpoint(BlockDriverState *bs, const char *tag,
                                  GError **error)
{
    BlockDriverState *node = find_debugger(bs, error);

    return node != NULL && ops_of(node)->remove_breakpoint(node, tag, error);
}

bool bdrv_debug_resume(BlockDriverState *bs, const char *tag, GError **error)
{
    BlockDriverState *node = find_debugger(bs, error);

    return node != NULL && ops_of(node)->resume(node, tag, error);
}

bool bdrv_debug_is_suspended(BlockDriverState *bs, const char *tag)
{
    BlockDriverState *node = find_debugger(bs, /* error= */ NULL);

    return node != NULL && ops_of(node)->is_suspended(node, tag);
}
