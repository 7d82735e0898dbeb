/* SPDX-License-Identifier: MIT */
/*
 * guest ranges -> runs of clusters, and the changes of that mapping
 */
#ifndef DRIVERS_QCOW2_CLUSTER_H
#define DRIVERS_QCOW2_CLUSTER_H

#include "drivers/qcow2/qcow2.h"

typedef enum Qcow2ClusterType {
    QCOW2_CLUSTER_UNALLOCATED, /* the backing file, or zeros */
    QCOW2_CLUSTER_ZERO_PLAIN,  /* zeros, no host cluster */
    QCOW2_CLUSTER_ZERO_ALLOC,  /* zeros, with a host cluster behind */
    QCOW2_CLUSTER_NORMAL,
    QCOW2_CLUSTER_COMPRESSED,
    QCOW2_CLUSTER_INVALID, /* reserved bits, unaligned offset: -EIO */
} Qcow2ClusterType;

/* Consecutive guest bytes of one type with consecutive host bytes. */
typedef struct Qcow2Run {
    Qcow2ClusterType type;
    bool copied;         /* all of it may be written in place */
    int64_t bytes;       /* from the offset asked for; at least 1 */
    int64_t host_offset; /* NORMAL, ZERO_ALLOC: of the offset asked for */
    uint64_t l2_entry;   /* of the first cluster */
} Qcow2Run;

/* @version 2 has no zero flag. */
Qcow2ClusterType qcow2_entry_type(uint64_t entry, unsigned version);

/*
 * qcow2_map:
 * What [@offset, @offset + up to @bytes) maps to. Never longer than asked; a
 * COMPRESSED run stays within its cluster. INVALID becomes -EIO here. Host
 * offsets were compared with the file: every cluster of a run starts inside.
 * Inside an epoch (the answer holds until it is left); lock not held; yields
 * only when a slice is missing.
 */
int coroutine_fn qcow2_map(BlockDriverState *bs, int64_t offset,
                           int64_t bytes, Qcow2Run *ret_run);

/*
 * qcow2_read:
 * Fills [@iov_offset, + @bytes) of @iov with what a guest sees, from any layer.
 * The range may pass the end of the image up to its last cluster's end. Enters
 * epochs itself. No lock held.
 */
int coroutine_fn qcow2_read(BlockDriverState *bs, int64_t offset,
                            int64_t bytes, IoVec *iov, size_t iov_offset);

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
 * qcow2_clear_clusters:
 * Discards or zeroes whole clusters. @offset and @bytes are cluster-aligned.
 * Lock not held.
 */
int coroutine_fn qcow2_clear_clusters(BlockDriverState *bs, int64_t offset,
                                      int64_t bytes, Qcow2ClearMode mode);

#endif
