/* SPDX-License-Identifier: MIT */
/*
 * aligned requests into calls of the driver
 *
 * Splits at max_transfer and max_iov and bounces what the driver cannot take
 * where it lies: memory that is not aligned to min_mem_alignment, or so many
 * small elements that max_iov of them are less than one block.
 *
 * Always true for what the driver sees:
 *  F1  offset and bytes are multiples of request_alignment;
 *  F2  bytes is at most max_transfer;
 *  F3  the part of the vector has at most max_iov elements, each aligned to
 *      min_mem_alignment in address and length.
 *
 * Locking: none; the caller's request covers the range.
 */
#include "block/driver.h"
#include "block/io/internal.h"
#include "block/rt/buffer_pool.h"

#include <errno.h>

/*
 * Where a request that has no alignment is cut: at a multiple of this, so that
 * a block of a node below is not read and written once for each piece, and
 * readers do not see half of a small write.
 */
#define PIECE_BLOCK 4096

/* F2, F3: can the driver take this part as it lies? */
static inline bool fits(const BlockLimits *limits, const IoVec *iov,
                        size_t at, int64_t bytes)
{
    return (!limits->max_transfer || bytes <= limits->max_transfer) &&
           (!limits->max_iov || iov->niov <= limits->max_iov ||
            iovec_slice_count(iov, at, bytes) <= limits->max_iov) &&
           (limits->min_mem_alignment <= 1 ||
            iovec_is_aligned(iov, at, bytes, limits->min_mem_alignment));
}

/* Bytes from @at on in the next @elements elements, at most @bytes. */
static int64_t bytes_of_elements(const IoVec *iov, size_t at, int64_t bytes,
                                 int elements)
{
    int64_t sum = 0;

    for (int i = 0; i < iov->niov && elements > 0 && sum < bytes; i++) {
        size_t length = iov->iov[i].iov_len;

        if (at >= length) {
            at -= length;
            continue;
        }
        sum += length - at;
        at = 0;
        elements--;
    }
    return MIN(sum, bytes);
}

/* The longest piece that a request of @bytes at @offset may begin with. */
static int64_t longest_piece(const BlockLimits *limits, int64_t offset,
                             int64_t bytes)
{
    int64_t max = limits->max_transfer;

    if (!max || bytes <= max) {
        return bytes;
    }
    /* Not for odd limits: a power of two that divides the limit. */
    return max - offset % MIN(max & -max, PIECE_BLOCK);
}

/* How long the next piece is, and whether it needs a bounce buffer. */
static int64_t next_piece(const BlockLimits *limits, const IoVec *iov,
                          int64_t offset, size_t at, int64_t bytes,
                          bool *ret_bounce)
{
    int64_t piece = longest_piece(limits, offset, bytes), shorter;

    *ret_bounce = false;
    if (fits(limits, iov, at, piece)) {
        return piece;
    }
    if (limits->max_iov) {
        shorter = align_down(bytes_of_elements(iov, at, piece,
                                               limits->max_iov),
                             limits->request_alignment);
        if (shorter > 0 && fits(limits, iov, at, shorter)) {
            return shorter;
        }
    }
    *ret_bounce = true;
    return MIN(piece, MAX(BDRV_BOUNCE_BYTES, limits->request_alignment));
}

static int coroutine_fn call_driver(BlockDriverState *bs, bool is_write,
                                    int64_t offset, int64_t bytes, IoVec *iov,
                                    size_t at, BdrvRequestFlags flags)
{
    return is_write
        ? bs->drv->co_pwritev(bs, offset, bytes, iov, at, flags)
        : bs->drv->co_preadv(bs, offset, bytes, iov, at, flags);
}

static int coroutine_fn call_bounced(BlockDriverState *bs, bool is_write,
                                     int64_t offset, int64_t bytes, IoVec *iov,
                                     size_t at, BdrvRequestFlags flags)
{
    uint8_t *buffer = buffer_pool_get(bytes);
    IoVec bounce;
    int ret;

    if (!buffer) {
        return -ENOMEM;
    }
    iovec_init_buffer(&bounce, buffer, bytes);
    flags &= ~BDRV_REQ_REGISTERED_BUF;
    if (is_write) {
        iovec_to_buffer(iov, at, buffer, bytes);
    }
    ret = call_driver(bs, is_write, offset, bytes, &bounce, 0, flags);
    if (ret == 0 && !is_write) {
        iovec_from_buffer(iov, at, buffer, bytes);
    }
    buffer_pool_put(buffer, bytes);
    return ret;
}

static int coroutine_fn call_in_pieces(BlockDriverState *bs, bool is_write,
                                       int64_t offset, int64_t bytes,
                                       IoVec *iov, size_t at,
                                       BdrvRequestFlags flags)
{
    while (bytes > 0) {
        bool bounce;
        int64_t piece = next_piece(&bs->limits, iov, offset, at, bytes,
                                   &bounce);
        int ret = (bounce ? call_bounced : call_driver)(bs, is_write, offset,
                                                        piece, iov, at, flags);
        if (ret < 0) {
            return ret;
        }
        offset += piece;
        at += piece;
        bytes -= piece;
    }
    return 0;
}

int coroutine_fn bdrv_read_aligned(BlockDriverState *bs, int64_t offset,
                                   int64_t bytes, IoVec *iov, size_t at,
                                   BdrvRequestFlags flags)
{
    int64_t length = bdrv_node_length(bs);
    int64_t past_end;
    int ret;

    flags &= bs->supported_read_flags;
    if (G_LIKELY(offset + bytes <= length &&
                 fits(&bs->limits, iov, at, bytes))) {
        return bs->drv->co_preadv(bs, offset, bytes, iov, at, flags);
    }
    ret = call_in_pieces(bs, /* is_write= */ false, offset, bytes, iov, at,
                         flags);
    past_end = MIN(bytes, offset + bytes - length);
    if (ret == 0 && past_end > 0) {
        iovec_memset(iov, at + bytes - past_end, 0, past_end);
    }
    return ret;
}

int coroutine_fn bdrv_write_aligned(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes, IoVec *iov, size_t at,
                                    BdrvRequestFlags flags)
{
    flags &= bs->supported_write_flags;
    if (G_LIKELY(fits(&bs->limits, iov, at, bytes))) {
        return bs->drv->co_pwritev(bs, offset, bytes, iov, at, flags);
    }
    return call_in_pieces(bs, /* is_write= */ true, offset, bytes, iov, at,
                          flags);
}
