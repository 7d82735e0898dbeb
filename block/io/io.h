/* SPDX-License-Identifier: MIT */
/*
 * the data plane's entry points: one request on one edge
 *
 * Every call does, in this order: check range and permission (a missing
 * permission is our own bug: assertion), join the node's tracked requests,
 * wait for serialising ones that overlap, pad to request_alignment (reads
 * into scratch, writes by read-modify-write as a serialising request), split
 * by the node's limits, bounce where memory alignment demands it, call the
 * driver. Drivers use the same calls on their own children.
 *
 * Common to all: coroutine, any I/O thread, may yield; 0 or -errno:
 *   -EIO      the device failed, or the image does not hold the data
 *   -EUCLEAN  never: damage shows as -EIO, details go to the debug log
 *   -ENOSPC   from below
 *   -EROFS    write to a read-only node
 *   -EBUSY    a job needs the length to stay as it is
 *   -EINVAL   negative, or past the end of the node
 *   -ENOMEDIUM no driver (a failed invalidate)
 *   -ENOMEM   no bounce buffer
 * On error of a read the content of @iov is unspecified; on error of a write
 * any part of the range may have been written.
 */
#ifndef BLOCK_IO_IO_H
#define BLOCK_IO_IO_H

#include "block/graph/edge.h"
#include "block/graph/node.h"
#include "block/types.h"

/*
 * bdrv_co_preadv: fills [@iov_offset, + @bytes) of @iov. Any alignment.
 * Reads past the node's end fail, but for the rounding up to
 * request_alignment, which reads as zeros.
 */
int coroutine_fn bdrv_co_preadv(BdrvChild *child, int64_t offset,
                                int64_t bytes, IoVec *iov, size_t iov_offset,
                                BdrvRequestFlags flags);

/*
 * bdrv_co_pwritev: FUA is emulated by a flush where the driver lacks it. A
 * write past the end of a node with RESIZE permission extends it.
 */
int coroutine_fn bdrv_co_pwritev(BdrvChild *child, int64_t offset,
                                 int64_t bytes, IoVec *iov, size_t iov_offset,
                                 BdrvRequestFlags flags);

/* The same on one plain buffer. */
int coroutine_fn bdrv_co_pread(BdrvChild *child, int64_t offset, int64_t bytes,
                               void *buffer, BdrvRequestFlags flags);
int coroutine_fn bdrv_co_pwrite(BdrvChild *child, int64_t offset,
                                int64_t bytes, const void *buffer,
                                BdrvRequestFlags flags);

/* zero.c. Length is not limited by BDRV_REQUEST_MAX_BYTES. */
int coroutine_fn bdrv_co_pwrite_zeroes(BdrvChild *child, int64_t offset,
                                       int64_t bytes, BdrvRequestFlags flags);
int coroutine_fn bdrv_co_pdiscard(BdrvChild *child, int64_t offset,
                                  int64_t bytes);

/*
 * flush.c. 0: every write on the node that completed before the call is on
 * the medium. Elided when nothing was written since the last one; concurrent
 * calls share one. After a failure every later call fails with the same
 * error until the node is reopened.
 */
int coroutine_fn bdrv_co_flush(BlockDriverState *bs);

/* Only out of our own caches into the OS: survives our death, no more. */
int coroutine_fn bdrv_co_flush_to_os(BlockDriverState *bs);

/*
 * truncate.c. Needs the RESIZE permission. Waits for requests beyond the
 * smaller of the two lengths and keeps new ones out meanwhile.
 */
int coroutine_fn bdrv_co_truncate(BdrvChild *child, int64_t length, bool exact,
                                  BdrvPreallocMode prealloc,
                                  BdrvRequestFlags flags, GError **error);

/* The current length; asks the driver when it is variable. -errno. */
int64_t coroutine_fn bdrv_co_getlength(BlockDriverState *bs);

/*
 * The length of @bs, now in bs->length, was @old_length: forgets what was
 * known past the smaller one and tells the parents, filters' parents included.
 * With that range free of requests; coroutine or control plane.
 */
void bdrv_length_changed(BlockDriverState *bs, int64_t old_length);

/* copy_range.c. -ENOTSUP when the two ends cannot copy in the kernel. */
int coroutine_fn bdrv_co_copy_range(BdrvChild *src, int64_t src_offset,
                                    BdrvChild *dst, int64_t dst_offset,
                                    int64_t bytes, BdrvRequestFlags flags);
int coroutine_fn bdrv_co_copy_range_from(BdrvChild *src, int64_t src_offset,
                                         BdrvChild *dst, int64_t dst_offset,
                                         int64_t bytes,
                                         BdrvRequestFlags flags);
int coroutine_fn bdrv_co_copy_range_to(BdrvChild *src, int64_t src_offset,
                                       BdrvChild *dst, int64_t dst_offset,
                                       int64_t bytes, BdrvRequestFlags flags);

/* Bytes in use on the medium, over all children that hold @bs's own data. */
int64_t coroutine_fn bdrv_co_get_allocated_file_size(BlockDriverState *bs);

/*
 * For the control plane, outside of coroutines: the same by aio_run_sync().
 * bdrv_pread reads exactly @bytes; past the end is -EINVAL.
 */
int bdrv_pread(BdrvChild *child, int64_t offset, int64_t bytes, void *buffer);
int bdrv_pwrite(BdrvChild *child, int64_t offset, int64_t bytes,
                const void *buffer);
int bdrv_pwrite_zeroes(BdrvChild *child, int64_t offset, int64_t bytes,
                       BdrvRequestFlags flags);
int bdrv_flush(BlockDriverState *bs);
int bdrv_truncate(BdrvChild *child, int64_t length, bool exact,
                  BdrvPreallocMode prealloc, GError **error);
int64_t bdrv_getlength(BlockDriverState *bs);
int64_t bdrv_get_allocated_file_size(BlockDriverState *bs);

#endif
