/* SPDX-License-Identifier: MIT */
/*
 * block status of a qcow2 image: where guest bytes come from
 *
 * Asks cluster.c for one run after the other and joins those that a reader
 * cannot tell apart, so that a sparse copy of a large image asks seldom.
 * The file below is asked for holes only where that can pay: an image whose
 * metadata was preallocated maps clusters that nobody ever wrote.
 *
 * Locking: none held; each lookup is in an epoch of its own, and its answer
 * is a statement about the past by the time it is returned, as ever.
 */
#include "drivers/qcow2/cluster.h"
#include "drivers/qcow2/data_file.h"

#include "block/io/io.h"
#include "drivers/qcow2/crypto.h"

#include <errno.h>

/* Runs to join in one call: bounds the time that one answer takes. */
#define RUNS_MAX 1024

static int coroutine_fn map_once(BlockDriverState *bs, int64_t offset,
                                 int64_t bytes, Qcow2Run *ret_run)
{
    Qcow2State *q = qcow2_state(bs);
    unsigned side = qcow2_epoch_enter(q->epoch);
    int ret = qcow2_map(bs, offset, bytes, ret_run);

    qcow2_epoch_leave(q->epoch, side);
    return ret;
}

BlockStatusFlags qcow2_run_flags(const Qcow2State *q, const Qcow2Run *run)
{
    /* What the file has there is not what the guest sees. */
    BlockStatusFlags place =
        qcow2_is_encrypted(q) ? 0 : BDRV_BLOCK_OFFSET_VALID;

    switch (run->type) {
    case QCOW2_CLUSTER_NORMAL:
        return BDRV_BLOCK_DATA | place | BDRV_BLOCK_ALLOCATED;
    case QCOW2_CLUSTER_ZERO_ALLOC:
        return BDRV_BLOCK_ZERO | place | BDRV_BLOCK_ALLOCATED;
    case QCOW2_CLUSTER_ZERO_PLAIN:
        return BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED;
    case QCOW2_CLUSTER_COMPRESSED:
        return BDRV_BLOCK_DATA | BDRV_BLOCK_COMPRESSED | BDRV_BLOCK_ALLOCATED;
    case QCOW2_CLUSTER_UNALLOCATED_ALLOC:
        return place; /* room, but no say */
    case QCOW2_CLUSTER_UNALLOCATED:
    case QCOW2_CLUSTER_INVALID: /* qcow2_map() has made it an error */
        break;
    }
    return 0;
}

/* Does @run go on where @status ends, in the guest and in the file? */
static bool continues(const Qcow2State *q, const BlockStatus *status,
                      const Qcow2Run *run)
{
    return qcow2_run_flags(q, run) == status->flags &&
           (!(status->flags & BDRV_BLOCK_OFFSET_VALID) ||
            run->host_offset == status->host_offset + status->bytes);
}

/*
 * Are there holes in the file in places that are mapped? A tenth less on the
 * medium than the file is long is a sign of preallocated metadata.
 */
static bool coroutine_fn file_is_sparse(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t used = bdrv_co_get_allocated_file_size(q->data->bs);
    int64_t length = qcow2_data_length(q);

    return used >= 0 && used < length - length / 10;
}

int coroutine_fn qcow2_co_block_status(BlockDriverState *bs, bool want_zero,
                                       int64_t offset, int64_t bytes,
                                       BlockStatus *ret_status)
{
    BlockStatus status = { 0 };
    Qcow2State *q = qcow2_state(bs);
    Qcow2Run run;
    int ret = q->is_loaded && q->data ? map_once(bs, offset, bytes, &run)
                                      : -EIO;

    if (ret < 0) {
        return ret;
    }
    status.flags = qcow2_run_flags(q, &run);
    if (status.flags & BDRV_BLOCK_OFFSET_VALID) {
        status.host_offset = run.host_offset;
        status.file = q->data->bs;
    }
    status.bytes = run.bytes;

    for (int i = 1; i < RUNS_MAX && status.bytes < bytes; i++) {
        /* A later error is for the call that asks about that place. */
        if (map_once(bs, offset + status.bytes, bytes - status.bytes, &run) <
                0 ||
            !continues(q, &status, &run)) {
            break;
        }
        status.bytes += run.bytes;
    }
    if (want_zero && (status.flags & BDRV_BLOCK_DATA) &&
        (status.flags & BDRV_BLOCK_OFFSET_VALID) && file_is_sparse(bs)) {
        status.flags |= BDRV_BLOCK_RECURSE;
    }
    *ret_status = status;
    return 0;
}
