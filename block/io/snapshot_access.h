/* SPDX-License-Identifier: MIT */
/*
 * snapshot access: a second view of a node, as it was at a point in time
 *
 * A driver that keeps old data (copy-before-write) offers it in a table beside
 * its ordinary I/O. These calls are like those of block/io/io.h, but see the
 * old content; they do not take part in the node's tracked requests: the
 * driver itself keeps writers from overtaking them.
 *
 * Coroutine, any I/O thread; 0 or -errno: -ENOTSUP when the driver has no such
 * view, -EACCES for a part that the snapshot does not contain (any more).
 */
#ifndef BLOCK_IO_SNAPSHOT_ACCESS_H
#define BLOCK_IO_SNAPSHOT_ACCESS_H

#include "block/types.h"

/* What a driver fills (driver.h); ranges are within the node's length. */
typedef struct BlockSnapshotAccessOps {
    int coroutine_fn (*co_preadv_snapshot)(BlockDriverState *bs,
                                           int64_t offset, int64_t bytes,
                                           IoVec *iov, size_t iov_offset);
    int coroutine_fn (*co_snapshot_block_status)(BlockDriverState *bs,
                                                 bool want_zero,
                                                 int64_t offset,
                                                 int64_t bytes,
                                                 BlockStatus *ret_status);
    /* The range will not be read any more: it need not be kept. */
    int coroutine_fn (*co_pdiscard_snapshot)(BlockDriverState *bs,
                                             int64_t offset, int64_t bytes);
    /*
     * Old data of the range that is not kept yet is kept now, as if it were
     * about to be overwritten; parts that are no longer in the view are
     * skipped. NULL: nothing has to be kept.
     */
    int coroutine_fn (*co_keep_snapshot)(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes);
    /* Bytes that the view has; constant while open. */
    int64_t (*snapshot_length)(BlockDriverState *bs);
} BlockSnapshotAccessOps;

/* Does @bs have such a view? */
bool bdrv_has_snapshot_access(const BlockDriverState *bs);

int64_t bdrv_snapshot_length(BlockDriverState *bs);
int coroutine_fn bdrv_co_preadv_snapshot(BdrvChild *child, int64_t offset,
                                         int64_t bytes, IoVec *iov,
                                         size_t iov_offset);
int coroutine_fn bdrv_co_snapshot_block_status(BdrvChild *child,
                                               bool want_zero, int64_t offset,
                                               int64_t bytes,
                                               BlockStatus *ret_status);
int coroutine_fn bdrv_co_pdiscard_snapshot(BdrvChild *child, int64_t offset,
                                           int64_t bytes);
int coroutine_fn bdrv_co_keep_snapshot(BdrvChild *child, int64_t offset,
                                       int64_t bytes);

#endif
