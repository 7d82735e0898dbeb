/* SPDX-License-Identifier: MIT */
/*
 * debug events: points in a driver's work at which a test may step in
 *
 * A driver says bdrv_debug_event(bs->file, BLOCK_DEBUG_L2_LOAD) right before
 * it does what the event's name says on that child. A child that has a debug
 * table (BlockDebugOps, the blkdebug filter) may note it, arm an error for the
 * requests that follow, or hold the coroutine up until it is resumed by name.
 *
 * Events cost one read of a constant while no such node is open.
 */
#ifndef BLOCK_IO_DEBUG_EVENT_H
#define BLOCK_IO_DEBUG_EVENT_H

#include "block/types.h"

/* The names for users are these in lower case, without the prefix. */
typedef enum BlockDebugEvent {
    BLOCK_DEBUG_NONE, /* once, when the debugging node is opened */
    BLOCK_DEBUG_L1_UPDATE,
    BLOCK_DEBUG_L1_GROW_ALLOC_TABLE,
    BLOCK_DEBUG_L1_GROW_WRITE_TABLE,
    BLOCK_DEBUG_L1_GROW_ACTIVATE_TABLE,
    BLOCK_DEBUG_L1_SHRINK_WRITE_TABLE,
    BLOCK_DEBUG_L1_SHRINK_FREE_L2_CLUSTERS,
    BLOCK_DEBUG_L2_LOAD,
    BLOCK_DEBUG_L2_UPDATE,
    BLOCK_DEBUG_L2_UPDATE_COMPRESSED,
    BLOCK_DEBUG_L2_ALLOC_COW_READ,
    BLOCK_DEBUG_L2_ALLOC_WRITE,
    BLOCK_DEBUG_READ_AIO,         /* guest data from this layer */
    BLOCK_DEBUG_READ_BACKING_AIO, /* ... from the layer below */
    BLOCK_DEBUG_READ_COMPRESSED,
    BLOCK_DEBUG_WRITE_AIO,
    BLOCK_DEBUG_WRITE_COMPRESSED,
    BLOCK_DEBUG_COW_READ,
    BLOCK_DEBUG_COW_WRITE,
    BLOCK_DEBUG_COR_WRITE,
    BLOCK_DEBUG_REFTABLE_LOAD,
    BLOCK_DEBUG_REFTABLE_GROW,
    BLOCK_DEBUG_REFTABLE_UPDATE,
    BLOCK_DEBUG_REFBLOCK_LOAD,
    BLOCK_DEBUG_REFBLOCK_UPDATE,
    BLOCK_DEBUG_REFBLOCK_ALLOC,
    BLOCK_DEBUG_REFBLOCK_ALLOC_HOOKUP,
    BLOCK_DEBUG_REFBLOCK_ALLOC_WRITE,
    BLOCK_DEBUG_REFBLOCK_ALLOC_WRITE_BLOCKS,
    BLOCK_DEBUG_REFBLOCK_ALLOC_WRITE_TABLE,
    BLOCK_DEBUG_REFBLOCK_ALLOC_SWITCH_TABLE,
    BLOCK_DEBUG_CLUSTER_ALLOC,
    BLOCK_DEBUG_CLUSTER_ALLOC_BYTES,
    BLOCK_DEBUG_CLUSTER_ALLOC_SPACE,
    BLOCK_DEBUG_CLUSTER_FREE,
    BLOCK_DEBUG_FLUSH_TO_OS,
    BLOCK_DEBUG_FLUSH_TO_DISK,
    BLOCK_DEBUG_PWRITEV_RMW_HEAD, /* before the first block is read */
    BLOCK_DEBUG_PWRITEV_RMW_AFTER_HEAD,
    BLOCK_DEBUG_PWRITEV_RMW_TAIL,
    BLOCK_DEBUG_PWRITEV_RMW_AFTER_TAIL,
    BLOCK_DEBUG_PWRITEV,
    BLOCK_DEBUG_PWRITEV_ZERO,
    BLOCK_DEBUG_PWRITEV_DONE,
    BLOCK_DEBUG_EMPTY_IMAGE_PREPARE,
    BLOCK_DEBUG_EVENTS,
} BlockDebugEvent;

/*
 * What a driver that debugs fills (driver.h). co_debug_event may sleep. The
 * others are control plane; their errors are OPTION (an event nobody knows)
 * and NOT_FOUND (a tag nobody has).
 */
typedef struct BlockDebugOps {
    void coroutine_fn (*co_debug_event)(BlockDriverState *bs,
                                        BlockDebugEvent event);
    bool (*set_breakpoint)(BlockDriverState *bs, const char *event,
                           const char *tag, GError **error);
    bool (*remove_breakpoint)(BlockDriverState *bs, const char *tag,
                              GError **error);
    bool (*resume)(BlockDriverState *bs, const char *tag, GError **error);
    bool (*is_suspended)(BlockDriverState *bs, const char *tag);
} BlockDebugOps;

/* Open nodes with a debug table; atomic. Such a driver counts itself. */
extern int bdrv_debug_nodes;

/* Event of @name, BLOCK_DEBUG_EVENTS when there is none; and back. */
BlockDebugEvent block_debug_event_from_name(const char *name);
const char *block_debug_event_name(BlockDebugEvent event);

/* For the two below: finds the node to tell. */
void coroutine_fn bdrv_tell_debug_event(BlockDriverState *bs,
                                        BlockDebugEvent event);

/*
 * bdrv_node_debug_event, bdrv_debug_event:
 * Tells @bs, or the node that @child ends at, or what these show as filters,
 * that @event is about to happen. Coroutine or control plane; in a coroutine
 * it may yield, so no thread mutex may be held.
 */
static inline void coroutine_fn bdrv_node_debug_event(BlockDriverState *bs,
                                                      BlockDebugEvent event)
{
    if (G_UNLIKELY(__atomic_load_n(&bdrv_debug_nodes, __ATOMIC_RELAXED))) {
        bdrv_tell_debug_event(bs, event);
    }
}

void coroutine_fn bdrv_tell_child_debug_event(BdrvChild *child,
                                              BlockDebugEvent event);

static inline void coroutine_fn bdrv_debug_event(BdrvChild *child,
                                                 BlockDebugEvent event)
{
    if (G_UNLIKELY(__atomic_load_n(&bdrv_debug_nodes, __ATOMIC_RELAXED))) {
        bdrv_tell_child_debug_event(child, event);
    }
}

/*
 * Breakpoints of @bs or the next node below it that has a debug table;
 * UNSUPPORTED when there is none. The next @event suspends its coroutine,
 * once; resume lets all that sleep under @tag go on; remove does that, too.
 */
bool bdrv_debug_set_breakpoint(BlockDriverState *bs, const char *event,
                               const char *tag, GError **error);
bool bdrv_debug_remove_breakpoint(BlockDriverState *bs, const char *tag,
                                  GError **error);
bool bdrv_debug_resume(BlockDriverState *bs, const char *tag, GError **error);
bool bdrv_debug_is_suspended(BlockDriverState *bs, const char *tag);

#endif
