/* SPDX-License-Identifier: MIT */
/*
 * copy-on-read: a read that leaves what it found below in this layer
 *
 * Works on whole clusters, as a serialising request: so no guest write can
 * get in between reading old data and writing it here. What the layer has
 * already is read in the plain way. Data goes through a bounce buffer, since
 * a guest may change its own buffer while we write it.
 *
 * A failed copy does not fail the guest's read; a prefetch, which wants
 * nothing but the copy, it does.
 *
 * Locking: none; see above.
 */
#include "block/driver.h"
#include "block/io/flush.h"
#include "block/io/internal.h"
#include "block/io/status.h"
#include "block/rt/buffer_pool.h"

#include <errno.h>

/* One request: the user's range, and the buffer for copies. */
typedef struct CopyOnRead {
    BlockDriverState *bs;
    int64_t offset; /* what the user wants */
    int64_t bytes;
    IoVec *iov;
    size_t at;
    BdrvRequestFlags flags;
    int64_t unit;       /* bytes of a cluster */
    uint8_t *buffer;    /* on first use */
    int64_t buffer_bytes;
} CopyOnRead;

static int64_t cluster_bytes(BlockDriverState *bs)
{
    BlockDriverInfo info = { .cluster_bytes = 0 };
    int64_t block = bs->limits.request_alignment;

    if (!bs->drv->get_info(bs, &info) || info.cluster_bytes <= block ||
        info.cluster_bytes % block) {
        return block;
    }
    return info.cluster_bytes;
}

/* Writes the copy; zeros as zeros. */
static int coroutine_fn write_copy(CopyOnRead *cor, int64_t offset,
                                   int64_t bytes, IoVec *iov)
{
    BlockDriverState *bs = cor->bs;
    int ret;

    bdrv_node_debug_event(bs, BLOCK_DEBUG_COR_WRITE);
    if (buffer_is_zero(cor->buffer, bytes)) {
        ret = bdrv_zero_aligned(bs, offset, bytes, BDRV_REQ_WRITE_UNCHANGED);
    } else {
        ret = bdrv_write_aligned(bs, offset, bytes, iov, 0,
                                 BDRV_REQ_WRITE_UNCHANGED);
    }
    bdrv_mark_written(bs);
    return ret;
}

/* Hands the user's share of the buffer, which holds [@offset, + @bytes). */
static void deliver(CopyOnRead *cor, int64_t offset, int64_t bytes)
{
    int64_t first = MAX(offset, cor->offset);
    int64_t end = MIN(offset + bytes, cor->offset + cor->bytes);

    if (first < end && !(cor->flags & BDRV_REQ_PREFETCH)) {
        iovec_from_buffer(cor->iov, cor->at + (first - cor->offset),
                          cor->buffer + (first - offset), end - first);
    }
}

/* Reads [@offset, + @bytes), at most the buffer, and copies it if missing. */
static int coroutine_fn read_through(CopyOnRead *cor, int64_t offset,
                                     int64_t bytes, bool copy)
{
    IoVec iov;
    int ret;

    if (!cor->buffer) {
        cor->buffer = buffer_pool_get(cor->buffer_bytes);
        if (!cor->buffer) {
            return -ENOMEM;
        }
    }
    iovec_init_buffer(&iov, cor->buffer, bytes);
    ret = bdrv_read_aligned(cor->bs, offset, bytes, &iov, 0, /* flags= */ 0);
    if (ret < 0) {
        return ret;
    }
    if (copy) {
        ret = write_copy(cor, offset, bytes, &iov);
        if (ret < 0 && (cor->flags & BDRV_REQ_PREFETCH)) {
            return ret;
        }
    }
    deliver(cor, offset, bytes);
    return 0;
}

/* All of [@offset, @end), whole clusters but for the node's end. */
static int coroutine_fn read_clusters(CopyOnRead *cor, int64_t offset,
                                      int64_t end)
{
    BlockDriverState *bs = cor->bs;
    int64_t length = bdrv_node_length(bs);
    int64_t block = bs->limits.request_alignment;

    while (offset < end) {
        int64_t piece = MIN(end - offset, cor->buffer_bytes);
        BlockStatus status;
        bool copy;
        int ret = bdrv_co_block_status(bs, /* want_zero= */ false, offset,
                                       MIN(piece, length - offset), &status);

        if (ret < 0) {
            return ret;
        }
        /* Blocks of which a part is here already may be written again. */
        copy = !bs->read_only && (!(status.flags & BDRV_BLOCK_ALLOCATED) ||
                                  status.bytes < MIN(block, length - offset));
        piece = MIN(piece, MAX(align_down(status.bytes, block), block));
        ret = read_through(cor, offset, piece, copy);
        if (ret < 0) {
            return ret;
        }
        offset += piece;
    }
    return 0;
}

int coroutine_fn bdrv_lacks_data(BlockDriverState *bs, int64_t offset,
                                 int64_t bytes)
{
    int64_t end = MIN(offset + bytes, bdrv_node_length(bs));

    while (offset < end) {
        BlockStatus status;
        int ret = bdrv_co_block_status(bs, /* want_zero= */ false, offset,
                                       end - offset, &status);

        if (ret < 0) {
            return ret;
        }
        if (!(status.flags & BDRV_BLOCK_ALLOCATED)) {
            return 1;
        }
        offset += status.bytes;
    }
    return 0;
}

int coroutine_fn bdrv_copy_on_read(BlockDriverState *bs, int64_t offset,
                                   int64_t bytes, IoVec *iov, size_t at,
                                   BdrvRequestFlags flags)
{
    int64_t block = bs->limits.request_alignment;
    CopyOnRead cor = { .bs = bs, .offset = offset, .bytes = bytes, .iov = iov,
                       .at = at, .flags = flags };
    BdrvRequest request;
    int64_t first, end;
    int ret;

    cor.unit = cluster_bytes(bs);
    cor.buffer_bytes = MAX(cor.unit, BDRV_BOUNCE_BYTES -
                                         BDRV_BOUNCE_BYTES % cor.unit);
    first = offset - offset % cor.unit;
    end = div_round_up(offset + bytes, cor.unit) * cor.unit;
    end = MIN(end, align_up(bdrv_node_length(bs), block));

    bdrv_request_begin(&request, bs, offset, bytes, BDRV_TRACKED_READ);
    bdrv_request_serialise(&request, cor.unit);
    ret = read_clusters(&cor, first, end);
    bdrv_request_end(&request);
    buffer_pool_put(cor.buffer, cor.buffer_bytes);
    return ret;
}
