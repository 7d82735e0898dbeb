/* SPDX-License-Identifier: MIT */
/*
 * reads and writes of one edge
 *
 * The way of a request is straight: check, track, pad, dispatch. Splitting
 * and bouncing are fragment.c, the scratch blocks pad.c, zeros zero.c.
 *
 *   bdrv_co_preadv ──▶ bdrv_read_aligned ─────────────▶ driver
 *                 └──▶ pad ──▶ bdrv_read_aligned
 *   bdrv_co_pwritev ──▶ zeros? ──▶ bdrv_write_aligned ─▶ driver
 *                 └──▶ serialise, pad, fill ──▶ the same
 *
 * Always true outside a function of this file:
 *  I1  whatever calls a driver's read or write holds a tracked request over
 *      the range that the user asked for;
 *  I2  a block that is written in part belongs to a serialising request, over
 *      the whole of it, from before it is read until after it is written;
 *  I3  a write is counted (write_generation) before its caller hears of it.
 *
 * Locking: none of its own. A read touches no memory that other threads write
 * but the node's own counters when something is serialising.
 */
#include "block/io/io.h"

#include "block/driver.h"
#include "block/graph/op_blocker.h"
#include "block/io/bitmap.h"
#include "block/io/flush.h"
#include "block/io/internal.h"
#include "block/io/write_threshold.h"

#include <errno.h>

int bdrv_check_range(const BlockDriverState *bs, int64_t offset,
                     int64_t bytes)
{
    if (G_UNLIKELY(!bs->drv)) {
        return -ENOMEDIUM;
    }
    if (G_UNLIKELY(bs->inactive)) {
        return -EPERM;
    }
    if (G_UNLIKELY(offset < 0 || bytes < 0 ||
                   !range_within(offset, bytes, BDRV_MAX_LENGTH))) {
        return -EINVAL;
    }
    return 0;
}

/* The node's end, rounded up: so far a driver can be asked. */
static inline int64_t padded_length(const BlockDriverState *bs)
{
    return align_up(bdrv_node_length(bs), bs->limits.request_alignment);
}

static int coroutine_fn read_padded(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes, IoVec *iov, size_t at,
                                    BdrvRequestFlags flags)
{
    BdrvPad pad;
    int ret = bdrv_pad_init(&pad, bs, offset, bytes, iov, at);

    if (ret < 0) {
        return ret;
    }
    flags &= ~BDRV_REQ_REGISTERED_BUF;
    ret = bdrv_read_aligned(bs, pad.offset, pad.bytes, &pad.iov, 0, flags);
    bdrv_pad_destroy(&pad);
    return ret;
}

static inline int coroutine_fn read_request(BdrvChild *child, int64_t offset,
                                            int64_t bytes, IoVec *iov,
                                            size_t iov_offset,
                                            BdrvRequestFlags flags)
{
    BlockDriverState *bs = child->bs;
    BdrvRequest request;
    int ret = bdrv_check_range(bs, offset, bytes);

    if (G_UNLIKELY(ret < 0)) {
        return ret;
    }
    if (G_UNLIKELY(offset + bytes > padded_length(bs) ||
                   bytes > BDRV_REQUEST_MAX_BYTES)) {
        return -EINVAL;
    }
    if (G_UNLIKELY(bytes == 0)) {
        return 0;
    }
    if (G_UNLIKELY((flags & BDRV_REQ_COPY_ON_READ) ||
                   __atomic_load_n(&bs->copy_on_read, __ATOMIC_RELAXED))) {
        ret = bdrv_lacks_data(bs, offset, bytes);
        if (ret > 0) {
            return bdrv_copy_on_read(bs, offset, bytes, iov, iov_offset,
                                     flags);
        }
        if (ret < 0 || (flags & BDRV_REQ_PREFETCH)) {
            return ret;
        }
    }

    bdrv_request_begin(&request, bs, offset, bytes, BDRV_TRACKED_READ);
    if (G_UNLIKELY(flags & BDRV_REQ_SERIALISING)) {
        bdrv_request_serialise(&request, bs->limits.request_alignment);
    } else {
        bdrv_request_wait_serialising(&request);
    }
    if (G_LIKELY(is_aligned(offset | bytes, bs->limits.request_alignment))) {
        ret = bdrv_read_aligned(bs, offset, bytes, iov, iov_offset, flags);
    } else {
        ret = read_padded(bs, offset, bytes, iov, iov_offset, flags);
    }
    bdrv_request_end(&request);
    return ret;
}

int coroutine_fn bdrv_co_preadv(BdrvChild *child, int64_t offset,
                                int64_t bytes, IoVec *iov, size_t iov_offset,
                                BdrvRequestFlags flags)
{
    return BDRV_COUNTED(child->bs, ACCOUNTING_READ, bytes,
                        read_request(child, offset, bytes, iov, iov_offset,
                                     flags));
}

int bdrv_check_write(const BdrvChild *child, int64_t offset, int64_t bytes,
                     BdrvRequestFlags flags)
{
    const BlockDriverState *bs = child->bs;
    int ret = bdrv_check_range(bs, offset, bytes);
    uint32_t perm;

    if (ret < 0) {
        return ret;
    }
    if (bs->read_only) {
        return -EROFS;
    }
    perm = bdrv_child_perm(child);
    g_assert(perm & (flags & BDRV_REQ_WRITE_UNCHANGED
                     ? BLK_PERM_WRITE | BLK_PERM_WRITE_UNCHANGED
                     : BLK_PERM_WRITE));
    if (G_LIKELY(offset + bytes <= padded_length(bs))) {
        return 0;
    }
    if (!(perm & BLK_PERM_RESIZE) || bs->drv->only_truncate_grows) {
        return -EINVAL;
    }
    /* A job counts on the length. */
    return bdrv_op_is_blocked_now(bs, BDRV_OP_RESIZE) ? -EBUSY : 0;
}

/* Raises the length to @end unless it is that long already. */
static void extend_length(BlockDriverState *bs, int64_t end)
{
    int64_t length = bdrv_node_length(bs);

    while (end > length &&
           !__atomic_compare_exchange_n(&bs->length, &length, end,
                                        /* weak= */ true, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
        /* length is what another writer has made it */
    }
}

void bdrv_finish_change(BdrvChild *child, int64_t offset, int64_t bytes,
                        int ret)
{
    BlockDriverState *bs = child->bs;

    /* A failed write may have changed any part of the range. */
    if (ret == 0 && (bdrv_child_perm(child) & BLK_PERM_RESIZE) &&
        !bs->drv->only_truncate_grows) {
        extend_length(bs, offset + bytes);
    }
    bdrv_set_dirty(bs, offset, bytes);
    bdrv_write_threshold_check(bs, offset + bytes);
    bdrv_mark_written(bs); /* I3 */
}

void bdrv_finish_write(BdrvChild *child, int64_t offset, int64_t bytes,
                       int ret)
{
    if (G_UNLIKELY(child->bs->accounting != NULL)) {
        accounting_wrote(child->bs->accounting, offset + bytes);
    }
    bdrv_finish_change(child, offset, bytes, ret);
}

/* Zero detection, compression, or a plain write. */
static int coroutine_fn dispatch_write(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, IoVec *iov, size_t at,
                                       BdrvRequestFlags flags)
{
    if (flags & BDRV_REQ_WRITE_COMPRESSED) {
        return bs->drv->co_pwritev_compressed(bs, offset, bytes, iov, at);
    }
    if (bs->detect_zeroes != BDRV_DETECT_ZEROES_OFF &&
        iovec_is_zero(iov, at, bytes)) {
        if (bs->detect_zeroes == BDRV_DETECT_ZEROES_UNMAP &&
            (bs->open_flags & BDRV_O_UNMAP)) {
            flags |= BDRV_REQ_MAY_UNMAP;
        }
        bdrv_node_debug_event(bs, BLOCK_DEBUG_PWRITEV_ZERO);
        return bdrv_zero_aligned(bs, offset, bytes,
                                 flags & ~BDRV_REQ_REGISTERED_BUF);
    }
    bdrv_node_debug_event(bs, BLOCK_DEBUG_PWRITEV);
    return bdrv_write_aligned(bs, offset, bytes, iov, at, flags);
}

/* The request is serialising over whole blocks (I2). */
static int coroutine_fn write_padded(BlockDriverState *bs, int64_t offset,
                                     int64_t bytes, IoVec *iov, size_t at,
                                     BdrvRequestFlags flags)
{
    BdrvPad pad;
    int ret = bdrv_pad_init(&pad, bs, offset, bytes, iov, at);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_pad_fill(&pad, bs);
    if (ret == 0) {
        ret = dispatch_write(bs, pad.offset, pad.bytes, &pad.iov, 0,
                             flags & ~BDRV_REQ_REGISTERED_BUF);
    }
    bdrv_pad_destroy(&pad);
    return ret;
}

/* Does the driver itself see to FUA, whichever way the data takes? */
static bool has_own_fua(const BlockDriverState *bs, BdrvRequestFlags flags)
{
    BdrvRequestFlags supported = bs->supported_write_flags;

    if (bs->detect_zeroes != BDRV_DETECT_ZEROES_OFF) {
        supported &= bs->supported_zero_flags;
    }
    return (supported & BDRV_REQ_FUA) &&
           !(flags & BDRV_REQ_WRITE_COMPRESSED);
}

static inline int coroutine_fn write_request(BdrvChild *child, int64_t offset,
                                             int64_t bytes, IoVec *iov,
                                             size_t iov_offset,
                                             BdrvRequestFlags flags)
{
    BlockDriverState *bs = child->bs;
    int64_t alignment = bs->limits.request_alignment;
    bool aligned = is_aligned(offset | bytes, alignment);
    BdrvRequest request;
    int ret = bdrv_check_write(child, offset, bytes, flags);

    if (ret < 0) {
        return ret;
    }
    if (bytes > BDRV_REQUEST_MAX_BYTES ||
        (!aligned && (flags & BDRV_REQ_WRITE_COMPRESSED))) {
        return -EINVAL;
    }
    if (bytes == 0) {
        return 0;
    }

    bdrv_request_begin(&request, bs, offset, bytes, BDRV_TRACKED_WRITE);
    if (!aligned || (flags & BDRV_REQ_SERIALISING)) {
        bdrv_request_serialise(&request, alignment);
    } else {
        bdrv_request_wait_serialising(&request);
    }
    ret = (aligned ? dispatch_write : write_padded)(bs, offset, bytes, iov,
                                                    iov_offset, flags);
    bdrv_node_debug_event(bs, BLOCK_DEBUG_PWRITEV_DONE);
    bdrv_finish_write(child, offset, bytes, ret);
    bdrv_request_end(&request);

    if (ret == 0 && (flags & BDRV_REQ_FUA) && !has_own_fua(bs, flags)) {
        ret = bdrv_co_flush(bs);
    }
    return ret;
}

int coroutine_fn bdrv_co_pwritev(BdrvChild *child, int64_t offset,
                                 int64_t bytes, IoVec *iov, size_t iov_offset,
                                 BdrvRequestFlags flags)
{
    return BDRV_COUNTED(child->bs, ACCOUNTING_WRITE, bytes,
                        write_request(child, offset, bytes, iov, iov_offset,
                                      flags));
}

int coroutine_fn bdrv_co_pread(BdrvChild *child, int64_t offset, int64_t bytes,
                               void *buffer, BdrvRequestFlags flags)
{
    IoVec iov;

    if (bytes < 0) {
        return -EINVAL;
    }
    iovec_init_buffer(&iov, buffer, bytes);
    return bdrv_co_preadv(child, offset, bytes, &iov, 0, flags);
}

int coroutine_fn bdrv_co_pwrite(BdrvChild *child, int64_t offset,
                                int64_t bytes, const void *buffer,
                                BdrvRequestFlags flags)
{
    IoVec iov;

    if (bytes < 0) {
        return -EINVAL;
    }
    iovec_init_buffer(&iov, (void *)buffer, bytes);
    return bdrv_co_pwritev(child, offset, bytes, &iov, 0, flags);
}
