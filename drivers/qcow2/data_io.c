/* SPDX-License-Identifier: MIT */
/*
 * guest data of a qcow2 image at its place on the host
 *
 * Locking: none; what is used here is constant after opening, or atomic.
 */
#include "drivers/qcow2/data_io.h"

#include "block/io/io.h"
#include "drivers/qcow2/crypto.h"
#include "drivers/qcow2/data_file.h"

int coroutine_fn qcow2_data_co_preadv(BlockDriverState *bs,
                                      int64_t host_offset, int64_t offset,
                                      int64_t bytes, IoVec *iov,
                                      size_t iov_offset)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t length = qcow2_data_length(q);
    int64_t there = CLAMP(length - host_offset, 0, bytes);
    int ret = 0;

    /* The last cluster of the file may be cut off. */
    if (there < bytes) {
        iovec_memset(iov, iov_offset + there, 0, bytes - there);
    }
    bdrv_debug_event(bs->file, BLOCK_DEBUG_READ_AIO);
    if (there) {
        ret = bdrv_co_preadv(q->data, host_offset, there, iov, iov_offset, 0);
    }
    if (ret >= 0 && qcow2_is_encrypted(q)) {
        ret = image_encryption_co_decrypt(
            q->encryption, qcow2_crypto_position(q, host_offset, offset), iov,
            iov_offset, bytes);
    }
    return ret;
}

int coroutine_fn qcow2_data_co_pwritev(BlockDriverState *bs,
                                       int64_t host_offset, int64_t offset,
                                       int64_t bytes, IoVec *iov,
                                       size_t iov_offset)
{
    Qcow2State *q = qcow2_state(bs);
    int ret;

    bdrv_debug_event(bs->file, BLOCK_DEBUG_WRITE_AIO);
    if (qcow2_is_encrypted(q)) {
        ret = image_encryption_co_pwritev(
            q->encryption, q->data, host_offset,
            qcow2_crypto_position(q, host_offset, offset), bytes, iov,
            iov_offset, 0);
    } else {
        ret = bdrv_co_pwritev(q->data, host_offset, bytes, iov, iov_offset,
                              0);
    }
    if (ret >= 0 && qcow2_has_data_file(q)) {
        qcow2_raise_data_length(q, host_offset + bytes); /* may be longer now */
    }
    return ret;
}

bool qcow2_data_reads_zeros_unwritten(const BlockDriverState *bs)
{
    return !qcow2_is_encrypted(qcow2_state(bs));
}
