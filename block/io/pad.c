/* SPDX-License-Identifier: MIT */
/*
 * padding of requests that are not aligned to request_alignment
 *
 *        offset                                  offset + bytes
 *          |◀──────────── the user's vector ──────────▶|
 *   |▒▒▒▒▒▒|          |          |          |          |▒▒▒▒|
 *   ◀── head block ──▶                       ◀── tail block ─▶
 *
 * A read puts what nobody wants into the scratch blocks; a write fills them
 * from the node first (read-modify-write) and writes all of it at once. The
 * caller has made the write serialising over whole blocks.
 *
 * Locking: none.
 */
#include "block/driver.h"
#include "block/io/internal.h"
#include "block/rt/buffer_pool.h"

#include <errno.h>

int bdrv_pad_init(BdrvPad *pad, BlockDriverState *bs, int64_t offset,
                  int64_t bytes, const IoVec *iov, size_t at)
{
    int64_t block = bs->limits.request_alignment;
    int64_t head_bytes = offset & (block - 1);
    int64_t tail_bytes = -(offset + bytes) & (block - 1);

    pad->block = block;
    pad->offset = offset - head_bytes;
    pad->bytes = head_bytes + bytes + tail_bytes;
    pad->head = head_bytes ? buffer_pool_get(block) : NULL;
    if (head_bytes && pad->bytes == block) {
        pad->tail = tail_bytes ? pad->head : NULL;
    } else {
        pad->tail = tail_bytes ? buffer_pool_get(block) : NULL;
    }
    iovec_init(&pad->iov);
    if ((head_bytes && !pad->head) || (tail_bytes && !pad->tail)) {
        bdrv_pad_destroy(pad);
        return -ENOMEM;
    }

    if (head_bytes) {
        iovec_add(&pad->iov, pad->head, head_bytes);
    }
    iovec_add_slice(&pad->iov, iov, at, bytes);
    if (tail_bytes) {
        iovec_add(&pad->iov, pad->tail + block - tail_bytes, tail_bytes);
    }
    return 0;
}

void bdrv_pad_destroy(BdrvPad *pad)
{
    if (pad->tail != pad->head) {
        buffer_pool_put(pad->tail, pad->block);
    }
    buffer_pool_put(pad->head, pad->block);
    iovec_destroy(&pad->iov);
}

static int coroutine_fn read_block(BlockDriverState *bs, int64_t offset,
                                   int64_t block, uint8_t *buffer)
{
    IoVec iov;

    if (offset >= bdrv_node_length(bs)) {
        memset(buffer, 0, block); /* a write past the end */
        return 0;
    }
    iovec_init_buffer(&iov, buffer, block);
    return bdrv_read_aligned(bs, offset, block, &iov, 0, /* flags= */ 0);
}

int coroutine_fn bdrv_pad_fill(BdrvPad *pad, BlockDriverState *bs)
{
    int ret = 0;

    if (pad->head) {
        bdrv_node_debug_event(bs, BLOCK_DEBUG_PWRITEV_RMW_HEAD);
        ret = read_block(bs, pad->offset, pad->block, pad->head);
        bdrv_node_debug_event(bs, BLOCK_DEBUG_PWRITEV_RMW_AFTER_HEAD);
    }
    if (ret == 0 && pad->tail && pad->tail != pad->head) {
        bdrv_node_debug_event(bs, BLOCK_DEBUG_PWRITEV_RMW_TAIL);
        ret = read_block(bs, pad->offset + pad->bytes - pad->block,
                         pad->block, pad->tail);
        bdrv_node_debug_event(bs, BLOCK_DEBUG_PWRITEV_RMW_AFTER_TAIL);
    }
    return ret;
}
