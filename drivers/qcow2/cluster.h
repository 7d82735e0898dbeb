/* SPDX-License-Identifier: MIT */
/*
 * guest ranges -> runs of clusters, and the changes of that mapping
 */
#ifndef DRIVERS_QCOW2_CLUSTER_H
#define DRIVERS_QCOW2_CLUSTER_H

#include "drivers/qcow2/subcluster.h"

/* Consecutive guest bytes of one type with consecutive host bytes. */
typedef struct Qcow2Run {
    Qcow2ClusterType type;
    bool copied;         /* all of it may be written in place */
    int64_t bytes;       /* from the offset asked for; at least 1 */
    int64_t host_offset; /* with a host cluster: of the offset asked for */
    uint64_t l2_entry;   /* of the first cluster; its first word */
} Qcow2Run;

/* status.c: what a block status says of @run. */
BlockStatusFlags qcow2_run_flags(const Qcow2State *q, const Qcow2Run *run);

/*
 * qcow2_map (map.c):
 * What [@offset, @offset + up to @bytes) maps to. Never longer than asked; a
 * COMPRESSED run stays within its cluster. INVALID becomes -EIO here. Host
 * offsets were compared with the file: every cluster of a run starts inside.
 * Inside an epoch (the answer holds until it is left); lock not held; yields
 * only when a slice is missing.
 */
int coroutine_fn qcow2_map(BlockDriverState *bs, int64_t offset,
                           int64_t bytes, Qcow2Run *ret_run);

/*
 * qcow2_read_run (map.c):
 * Fills [@iov_offset, + run->bytes) of @iov with what @run, mapped at guest
 * position @offset, stands for. Its clusters have to stay what they are: the
 * caller is inside an epoch, or they belong to a snapshot that stays.
 */
int coroutine_fn qcow2_read_run(BlockDriverState *bs, const Qcow2Run *run,
                                int64_t offset, IoVec *iov,
                                size_t iov_offset);

/*
 * qcow2_read (map.c):
 * Fills [@iov_offset, + @bytes) of @iov with what a guest sees, from any layer.
 * The range may pass the end of the image up to its last cluster's end. Enters
 * epochs itself. No lock held.
 */
int coroutine_fn qcow2_read(BlockDriverState *bs, int64_t offset,
                            int64_t bytes, IoVec *iov, size_t iov_offset);

/*
 * qcow2_own_range:
 * Waits until no allocation holds the first @unit (q->cluster_bytes or
 * q->subcluster_bytes) at @offset, a multiple of it, and pins the slice that
 * maps it, of a table of our own. *bytes, a multiple of @unit, is clipped to
 * the slice and to what is in flight behind. Lock held; may be dropped on the
 * way.
 */
int coroutine_fn qcow2_own_range(BlockDriverState *bs, int64_t offset,
                                 int64_t unit, int64_t *bytes,
                                 Qcow2Slice **ret_slice);

/*
 * qcow2_write_allocating:
 * Writes a first part of the range that cannot be written in place, on new
 * clusters. *ret_bytes may be 0: the mapping has changed, look again. Inside
 * an epoch; lock not held.
 */
int coroutine_fn qcow2_write_allocating(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes, IoVec *iov,
                                        size_t iov_offset,
                                        int64_t *ret_bytes);

/*
 * qcow2_write_packed:
 * The cluster at @offset (aligned) has the content that the @bytes compressed
 * ones at @data stand for. -ERANGE: the place cannot be told in an L2 entry.
 * No lock held, not inside an epoch.
 */
int coroutine_fn qcow2_write_packed(BlockDriverState *bs, int64_t offset,
                                    const void *data, int64_t bytes);

/* What qcow2_clear_clusters leaves behind. */
typedef enum Qcow2ClearMode {
    QCOW2_CLEAR_ZERO,        /* reads zeros, allocation is kept */
    QCOW2_CLEAR_ZERO_UNMAP,  /* reads zeros, allocation is given up */
    QCOW2_CLEAR_UNALLOCATED, /* no entry at all: no backing file below */
} Qcow2ClearMode;

/*
 * qcow2_clear_clusters (clear.c):
 * Discards or zeroes subclusters, where they are a whole cluster: the cluster.
 * @offset and @bytes are subcluster-aligned. A part of a cluster keeps its
 * allocation in every mode. Lock not held.
 */
int coroutine_fn qcow2_clear_clusters(BlockDriverState *bs, int64_t offset,
                                      int64_t bytes, Qcow2ClearMode mode);

#endif
