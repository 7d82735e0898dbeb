/* SPDX-License-Identifier: MIT */
/*
 * BlockDriverState: a node of the graph - one driver's instance with its
 * children, its parents and what the block layer keeps about it
 *
 * Ownership: nodes are counted. Each edge to a node and each bdrv_ref() holds
 * one count; the last bdrv_unref() flushes, closes the driver and drops the
 * children. Counting happens on the control plane only.
 *
 * Who may touch what:
 *  - structure (driver, children, parents, flags, limits, names): written by
 *    the control plane while the node is drained, so I/O threads read it
 *    without a lock;
 *  - length and the generations: atomic, any thread;
 *  - requests: see block/io/request.h.
 */
#ifndef BLOCK_GRAPH_NODE_H
#define BLOCK_GRAPH_NODE_H

#include "block/types.h"

typedef enum BdrvDetectZeroes {
    BDRV_DETECT_ZEROES_OFF,
    BDRV_DETECT_ZEROES_ON,
    BDRV_DETECT_ZEROES_UNMAP,
} BdrvDetectZeroes;

struct BlockDriverState {
    const BlockDriver *drv; /* NULL: closed, every request is -ENOMEDIUM */
    void *opaque;           /* the driver's state */

    /* -- structure (control plane) --------------------------------------- */
    unsigned ref_count;
    char *node_name;      /* unique; "#block1"-like when generated */
    char *filename;       /* for messages: exact name or json:{...} */
    char *exact_filename; /* one plain name that reopens this node, or NULL */
    char *directory;      /* real folder of the file, for relative names */
    BdrvOpenFlags open_flags;
    bool read_only;
    bool force_share;
    bool probed;
    bool encrypted;
    bool inactive;  /* handed over: requests are -EPERM (inactivate.h) */
    bool temporary; /* overlay on an unlinked file: named after its backing */
    BdrvChild *file;    /* primary or filtered child, NULL for protocols */
    BdrvChild *backing; /* cow child, or NULL */
    GPtrArray *children; /* of BdrvChild *, in order of attaching */
    GPtrArray *parents;  /* of BdrvChild *, edges that end here */
    BlockOptions *options;          /* effective ones, as resolved */
    BlockOptions *explicit_options; /* as the user gave them */
    BlockLimits limits;
    BdrvRequestFlags supported_read_flags;
    BdrvRequestFlags supported_write_flags;
    BdrvRequestFlags supported_zero_flags;
    BdrvDetectZeroes detect_zeroes;
    char *backing_name;   /* as the image's header says, or NULL */
    char *backing_format; /* likewise */
    unsigned quiesce_count; /* > 0 while drained */
    GPtrArray *op_blockers; /* NULL: none (op_blocker.h) */
    GPtrArray *dirty_bitmaps; /* of BdrvDirtyBitmap *, NULL: none (bitmap.h) */
    unsigned source_stops;  /* > 0: the driver's drain_begin was called */
    int chain_depth;        /* edges to the deepest leaf, for BDRV_MAX_DEPTH */
    uint32_t perm;          /* what all parents need together */
    uint32_t shared;        /* what all parents let others do */

    /* -- data plane (atomic) --------------------------------------------- */
    int64_t length;             /* bytes; bdrv_length() */
    uint64_t write_generation;  /* completed writes so far */
    int copy_on_read;           /* > 0: reads fill this layer */
    uint32_t blocked_ops;       /* bit n: BdrvOp n is blocked */
    int64_t write_threshold;    /* 0: off (io/write_threshold.h) */
    BdrvWriteThreshold *write_threshold_event;

    Accounting *accounting;     /* NULL: not counted (io/accounting.h) */
    BdrvTracker *tracker;       /* requests in flight */
    BdrvFlushState *flush;      /* shared flushes, sticky error */
    BdrvStatusCache *status_cache; /* protocol nodes */
};

/*
 * An empty node for @drv with state of its instance_size. Control plane.
 * @node_name NULL: generated. NULL result: the name is in use or ill-formed.
 */
BlockDriverState *bdrv_new(const BlockDriver *drv, const char *node_name,
                           GError **error);

BlockDriverState *bdrv_ref(BlockDriverState *bs);
void bdrv_unref(BlockDriverState *bs);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlockDriverState, bdrv_unref)

/* By node name; NULL when there is none. Control plane. */
BlockDriverState *bdrv_find_node(const char *node_name);

/* Calls @visit for every node there is. Control plane. */
void bdrv_foreach_node(void (*visit)(BlockDriverState *bs, void *opaque),
                       void *opaque);

/* The name to show for @bs in messages. Never NULL. */
const char *bdrv_name(const BlockDriverState *bs);

/* The child that a filter shows unchanged; NULL for other nodes. */
BdrvChild *bdrv_filter_child(const BlockDriverState *bs);
/* The child read where @bs has nothing; NULL when there is none. */
BdrvChild *bdrv_cow_child(const BlockDriverState *bs);
/* filter or cow child: the next layer down. */
BdrvChild *bdrv_filter_or_cow_child(const BlockDriverState *bs);
/* @bs or, while that is a filter, what it shows. */
BlockDriverState *bdrv_skip_filters(BlockDriverState *bs);

/* Sets bs->directory, filename and exact_filename anew, parents too. */
void bdrv_refresh_filename(BlockDriverState *bs);

static inline int64_t bdrv_node_length(const BlockDriverState *bs)
{
    return __atomic_load_n(&bs->length, __ATOMIC_ACQUIRE);
}

#endif
