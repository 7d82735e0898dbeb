/* SPDX-License-Identifier: MIT */
/*
 * making ranges read zeros, and giving them back
 *
 * A zero-write is cut into what the driver does well:
 *
 *   |RMW|  head  |  whole pwrite_zeroes_alignment units, each piece at  | .. |
 *   |   |        |  most max_pwrite_zeroes                              |tail|
 *   block border ^                            pwrite_zeroes_alignment border
 *
 * Where the driver cannot (-ENOTSUP) zeros are written from a shared buffer
 * that nobody ever writes: it costs no memory but the kernel's zero page.
 *
 * Discard is a hint: what does not fill a block is left out, and a driver that
 * cannot is no error.
 *
 * Locking: none; requests exclude each other as in io.c.
 */
#include "block/driver.h"
#include "block/io/internal.h"
#include "block/io/io.h"
#include "block/io/status.h"

#include <errno.h>

#define ZERO_BUFFER_BYTES ((int64_t)1 << 20)

static uint8_t zero_buffer[ZERO_BUFFER_BYTES] __attribute__((aligned(4096)));

/*
 * The next piece of [@offset, + @bytes): up to the next multiple of @unit when
 * @offset is none, else whole units, at most @max; else the tail. A result
 * is a multiple of @block, as @offset and @bytes are.
 */
static int64_t next_piece(int64_t offset, int64_t bytes, int64_t block,
                          int64_t unit, int64_t max)
{
    int64_t limit;

    max = max ? MIN(max, BDRV_REQUEST_MAX_BYTES) : BDRV_REQUEST_MAX_BYTES;
    unit = unit && unit % block == 0 ? unit : block;
    if (offset % unit) {
        bytes = MIN(bytes, unit - offset % unit);
    } else if (bytes > unit) {
        bytes -= bytes % unit;
    }
    /* Whole units if one fits into a call. */
    limit = max >= unit ? max - max % unit : align_down(max, block);
    return MIN(bytes, limit);
}

/* Writes zeros as data. */
static int coroutine_fn write_zero_data(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes, BdrvRequestFlags flags)
{
    /* Larger blocks than the buffer: put together from several. */
    int64_t largest = MAX(ZERO_BUFFER_BYTES, bs->limits.request_alignment);
    int ret = 0;

    while (ret == 0 && bytes > 0) {
        int64_t piece = MIN(bytes, largest);
        IoVec iov;

        iovec_init(&iov);
        for (int64_t at = 0; at < piece; at += ZERO_BUFFER_BYTES) {
            iovec_add(&iov, zero_buffer, MIN(piece - at, ZERO_BUFFER_BYTES));
        }
        ret = bdrv_write_aligned(bs, offset, piece, &iov, 0, flags);
        iovec_destroy(&iov);
        offset += piece;
        bytes -= piece;
    }
    return ret;
}

int coroutine_fn bdrv_zero_aligned(BlockDriverState *bs, int64_t offset,
                                   int64_t bytes, BdrvRequestFlags flags)
{
    const BlockLimits *limits = &bs->limits;

    if ((flags & ~bs->supported_zero_flags) & BDRV_REQ_NO_FALLBACK) {
        return -ENOTSUP; /* the driver itself might write zeros */
    }
    bdrv_status_cache_invalidate(bs, offset, bytes);
    while (bytes > 0) {
        int64_t piece = next_piece(offset, bytes, limits->request_alignment,
                                   limits->pwrite_zeroes_alignment,
                                   limits->max_pwrite_zeroes);
        int ret = bs->drv->co_pwrite_zeroes(bs, offset, piece,
                                            flags & bs->supported_zero_flags);

        if (ret == -ENOTSUP && !(flags & BDRV_REQ_NO_FALLBACK)) {
            ret = write_zero_data(bs, offset, piece,
                                  flags & ~BDRV_REQ_MAY_UNMAP);
        }
        if (ret < 0) {
            return ret;
        }
        offset += piece;
        bytes -= piece;
    }
    return 0;
}

/* Zeroes a part of one block by read-modify-write. */
static int coroutine_fn zero_in_block(BlockDriverState *bs, int64_t offset,
                                      int64_t bytes, BdrvRequestFlags flags)
{
    IoVec iov;
    BdrvPad pad;
    int ret;

    iovec_init(&iov);
    for (int64_t at = 0; at < bytes; at += ZERO_BUFFER_BYTES) {
        iovec_add(&iov, zero_buffer, MIN(bytes - at, ZERO_BUFFER_BYTES));
    }
    ret = bdrv_pad_init(&pad, bs, offset, bytes, &iov, 0);
    iovec_destroy(&iov);
    if (ret < 0) {
        return ret;
    }
    ret = bdrv_pad_fill(&pad, bs);
    if (ret == 0) {
        ret = bdrv_write_aligned(bs, pad.offset, pad.bytes, &pad.iov, 0,
                                 flags & ~BDRV_REQ_MAY_UNMAP);
    }
    bdrv_pad_destroy(&pad);
    return ret;
}

int coroutine_fn bdrv_zero_range(BlockDriverState *bs, int64_t offset,
                                 int64_t bytes, BdrvRequestFlags flags)
{
    int64_t block = bs->limits.request_alignment;
    int64_t end = offset + bytes;
    int64_t first = align_up(offset, block);
    int64_t last = align_down(end, block);
    int ret = 0;

    if (first > last) {
        return zero_in_block(bs, offset, bytes, flags);
    }
    if (first < last) {
        ret = bdrv_zero_aligned(bs, first, last - first, flags);
    }
    if (ret == 0 && offset < first) {
        ret = zero_in_block(bs, offset, first - offset, flags);
    }
    if (ret == 0 && last < end) {
        ret = zero_in_block(bs, last, end - last, flags);
    }
    return ret;
}

static int coroutine_fn zero_request(BdrvChild *child, int64_t offset,
                                     int64_t bytes, BdrvRequestFlags flags)
{
    BlockDriverState *bs = child->bs;
    int64_t alignment = bs->limits.request_alignment;
    BdrvRequest request;
    int ret = bdrv_check_write(child, offset, bytes, flags);

    if (ret < 0 || bytes == 0) {
        return ret;
    }
    if (!(bs->open_flags & BDRV_O_UNMAP)) {
        flags &= ~BDRV_REQ_MAY_UNMAP;
    }

    bdrv_request_begin(&request, bs, offset, bytes, BDRV_TRACKED_WRITE);
    if ((flags & BDRV_REQ_SERIALISING) ||
        !is_aligned(offset | bytes, alignment)) {
        bdrv_request_serialise(&request, alignment);
    } else {
        bdrv_request_wait_serialising(&request);
    }
    ret = bdrv_zero_range(bs, offset, bytes, flags);
    bdrv_finish_write(child, offset, bytes, ret);
    bdrv_request_end(&request);

    if (ret == 0 && (flags & BDRV_REQ_FUA) &&
        !(bs->supported_zero_flags & bs->supported_write_flags &
          BDRV_REQ_FUA)) {
        ret = bdrv_co_flush(bs);
    }
    return ret;
}

int coroutine_fn bdrv_co_pwrite_zeroes(BdrvChild *child, int64_t offset,
                                       int64_t bytes, BdrvRequestFlags flags)
{
    return BDRV_COUNTED(child->bs, ACCOUNTING_ZEROES, bytes,
                        zero_request(child, offset, bytes, flags));
}

static int coroutine_fn discard_aligned(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes)
{
    const BlockLimits *limits = &bs->limits;

    while (bytes > 0) {
        int64_t piece = next_piece(offset, bytes, limits->request_alignment,
                                   limits->pdiscard_alignment,
                                   limits->max_pdiscard);
        int ret = bs->drv->co_pdiscard(bs, offset, piece);

        if (ret < 0 && ret != -ENOTSUP) {
            return ret;
        }
        offset += piece;
        bytes -= piece;
    }
    return 0;
}

static int coroutine_fn discard_request(BdrvChild *child, int64_t offset,
                                        int64_t bytes)
{
    BlockDriverState *bs = child->bs;
    int64_t alignment = bs->limits.request_alignment;
    BdrvRequest request;
    int64_t first, end;
    int ret = bdrv_check_write(child, offset, bytes, /* flags= */ 0);

    if (ret < 0) {
        return ret;
    }
    first = align_up(offset, alignment);
    end = offset + bytes;
    if (end > bdrv_node_length(bs)) {
        return -EINVAL;
    }
    if (!(bs->open_flags & BDRV_O_UNMAP)) {
        return 0;
    }
    /* The last block of the node may be discarded though it is short. */
    end = end == bdrv_node_length(bs) ? align_up(end, alignment)
                                      : align_down(end, alignment);
    if (first >= end) {
        return 0;
    }

    bdrv_request_begin(&request, bs, first, end - first,
                       BDRV_TRACKED_DISCARD);
    bdrv_request_wait_serialising(&request);
    bdrv_status_cache_invalidate(bs, first, end - first);
    ret = discard_aligned(bs, first, end - first);
    bdrv_finish_change(child, offset, bytes, ret);
    bdrv_request_end(&request);
    return ret;
}

int coroutine_fn bdrv_co_pdiscard(BdrvChild *child, int64_t offset,
                                  int64_t bytes)
{
    return BDRV_COUNTED(child->bs, ACCOUNTING_UNMAP, bytes,
                        discard_request(child, offset, bytes));
}
