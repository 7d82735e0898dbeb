/* SPDX-License-Identifier: MIT */
/*
 * copies that the kernel makes
 *
 * The request goes down the source's chain (from) to the node that can name a
 * file, then down the destination's chain (to). At each node it is tracked
 * like a read or a write; the data never passes through us.
 *
 *   copy_range ─▶ from(src) ─▶ driver ─▶ from(its child) ─▶ driver
 *                                                            │
 *                 to(dst's child) ◀─ driver ◀─ to(dst) ◀─────┘
 *
 * Each node gets pieces that its limits and those of the other end allow.
 *
 * Whatever the two ends cannot do is -ENOTSUP: the caller copies all of it
 * through memory, also what the kernel may have copied already.
 *
 * Locking: none. A read request may wait for a write's: the graph has no
 * circle, so it ends.
 */
#include "block/driver.h"
#include "block/io/internal.h"
#include "block/io/io.h"

#include <errno.h>

/* What both ends take in one call, in whole blocks of @alignment. */
static int64_t longest_copy(const BlockLimits *src, const BlockLimits *dst,
                            int64_t alignment)
{
    int64_t longest = BDRV_REQUEST_MAX_BYTES;

    /* 0 is no limit. */
    longest = src->max_transfer ? MIN(longest, src->max_transfer) : longest;
    longest = dst->max_transfer ? MIN(longest, dst->max_transfer) : longest;
    return align_down(longest, alignment);
}

/*
 * Both ends in whole blocks and of a legal length? *ret_longest: of a piece.
 */
static int check_copy(const BdrvChild *src, int64_t src_offset,
                      const BdrvChild *dst, int64_t dst_offset, int64_t bytes,
                      int64_t *ret_longest)
{
    int64_t alignment;
    int ret = bdrv_check_range(src->bs, src_offset, bytes);

    if (ret == 0) {
        ret = bdrv_check_range(dst->bs, dst_offset, bytes);
    }
    if (ret < 0) {
        return ret;
    }
    if (bytes > BDRV_REQUEST_MAX_BYTES ||
        src_offset + bytes > bdrv_node_length(src->bs)) {
        return -EINVAL;
    }
    alignment = MAX(src->bs->limits.request_alignment,
                    dst->bs->limits.request_alignment);
    if (!is_aligned(src_offset | dst_offset | bytes, alignment)) {
        return -ENOTSUP;
    }
    if (src->bs == dst->bs &&
        ranges_overlap(src_offset, bytes, dst_offset, bytes)) {
        return -ENOTSUP;
    }
    *ret_longest = longest_copy(&src->bs->limits, &dst->bs->limits,
                                alignment);
    /* One end's longest call may be less than the other's block. */
    return *ret_longest > 0 ? 0 : -ENOTSUP;
}

int coroutine_fn bdrv_co_copy_range_from(BdrvChild *src, int64_t src_offset,
                                         BdrvChild *dst, int64_t dst_offset,
                                         int64_t bytes, BdrvRequestFlags flags)
{
    BlockDriverState *bs = src->bs;
    BdrvRequest request;
    int64_t longest;
    int ret = check_copy(src, src_offset, dst, dst_offset, bytes, &longest);

    if (ret < 0 || bytes == 0) {
        return ret;
    }
    if (__atomic_load_n(&bs->copy_on_read, __ATOMIC_RELAXED)) {
        return -ENOTSUP; /* what is read must be kept, so it must be seen */
    }
    bdrv_request_begin(&request, bs, src_offset, bytes, BDRV_TRACKED_READ);
    bdrv_request_wait_serialising(&request);
    for (int64_t at = 0; ret == 0 && at < bytes; at += longest) {
        ret = bs->drv->co_copy_range_from(bs, src, src_offset + at, dst,
                                          dst_offset + at,
                                          MIN(longest, bytes - at), flags);
    }
    bdrv_request_end(&request);
    return ret;
}

int coroutine_fn bdrv_co_copy_range_to(BdrvChild *src, int64_t src_offset,
                                       BdrvChild *dst, int64_t dst_offset,
                                       int64_t bytes, BdrvRequestFlags flags)
{
    BlockDriverState *bs = dst->bs;
    BdrvRequest request;
    int64_t longest;
    int ret = check_copy(src, src_offset, dst, dst_offset, bytes, &longest);

    if (ret == 0) {
        ret = bdrv_check_write(dst, dst_offset, bytes, flags);
    }
    if (ret < 0 || bytes == 0) {
        return ret;
    }
    bdrv_request_begin(&request, bs, dst_offset, bytes, BDRV_TRACKED_WRITE);
    bdrv_request_wait_serialising(&request);
    for (int64_t at = 0; ret == 0 && at < bytes; at += longest) {
        ret = bs->drv->co_copy_range_to(bs, src, src_offset + at, dst,
                                        dst_offset + at,
                                        MIN(longest, bytes - at),
                                        flags & ~BDRV_REQ_FUA);
    }
    bdrv_finish_write(dst, dst_offset, bytes, ret);
    bdrv_request_end(&request);

    if (ret == 0 && (flags & BDRV_REQ_FUA)) {
        ret = bdrv_co_flush(bs);
    }
    return ret;
}

int coroutine_fn bdrv_co_copy_range(BdrvChild *src, int64_t src_offset,
                                    BdrvChild *dst, int64_t dst_offset,
                                    int64_t bytes, BdrvRequestFlags flags)
{
    return bdrv_co_copy_range_from(src, src_offset, dst, dst_offset, bytes,
                                   flags);
}
