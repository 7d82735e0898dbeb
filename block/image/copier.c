/* SPDX-License-Identifier: MIT */
/*
 * Copier: copies what a dirty bitmap says
 *
 *   bitmap ──take (clears)──▶ operation ──status──▶ zeros ──▶ target
 *      ▲                          └────────read──▶ write ──▶ target
 *      └── guest's writes
 *
 * One coroutine takes areas and starts an operation for each, in a coroutine
 * of its own, up to IN_FLIGHT_MAX.
 *
 * Always true:
 *  C1  a bit is cleared before the source is read for it, so a write that the
 *      read did not see sets it again;
 *  C2  no two operations in flight overlap: the older one could overwrite
 *      what the newer one copied;
 *  C3  the bits of a failed operation are set again.
 *
 * Locking: none; all coroutines of a copier are on one context, the bitmap
 * locks itself.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "block/image/copier.h"

#include "block/rt/buffer_pool.h"

#include <errno.h>

#define IN_FLIGHT_MAX 16
#define OP_MAX_BYTES MIB
/* So much may be dirty in a job that is ready. */
#define READY_MAX_BYTES (IN_FLIGHT_MAX * OP_MAX_BYTES)
/* How long a live copier waits for news from the bitmap. */
#define IDLE_NS (20 * INT64_C(1000000))
/* A step of marking; the rate limit and cancelling look in between. */
#define MARK_MAX_BYTES (256 * MIB)

struct CopyOp {
    Copier *copier;
    int64_t offset;
    int64_t bytes;
    CopyOp *next;
};

int64_t copier_granularity(BlockBackend *target, int64_t wanted)
{
    int64_t cluster_bytes = blk_cluster_bytes(target);

    if (wanted == 0) {
        wanted = COPIER_GRANULARITY_DEFAULT;
    }
    /* A cluster size that is no power of two cannot be met. */
    return (cluster_bytes & (cluster_bytes - 1)) == 0
        ? MAX(wanted, cluster_bytes) : wanted;
}

/* -- what is to be copied ------------------------------------------------ */

static const char status_what[] = "find out what is allocated in";

int coroutine_fn copier_co_mark_allocated(Copier *copier, BlockBackend *layers,
                                          BlockDriverState *base)
{
    int64_t offset = 0;

    while (offset < copier->length) {
        int64_t bytes = MIN(copier->length - offset, MARK_MAX_BYTES);
        int ret = blk_co_is_allocated_above(layers, base,
                                            /* include_base= */ false, offset,
                                            bytes, &bytes);

        if (ret < 0) {
            return job_note_fault(copier->job, ret, status_what, layers,
                                  offset, bytes);
        }
        if (ret > 0) {
            bdrv_dirty_bitmap_set(copier->dirty, offset, bytes);
        }
        offset += bytes;
        ret = job_co_pause_point(copier->job, /* bytes= */ 0);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* The goal moves while a guest writes. */
static void update_total(Copier *copier)
{
    job_set_total(copier->job,
                  copier->done_bytes + copier->in_flight_bytes +
                      bdrv_dirty_bitmap_count(copier->dirty));
}

/* -- one operation ------------------------------------------------------- */

static int coroutine_fn copy_data(Copier *copier, int64_t offset,
                                  int64_t bytes)
{
    uint8_t *buffer = buffer_pool_get(bytes);
    IoVec iov;
    int ret;

    if (buffer == NULL) {
        return -ENOMEM;
    }
    iovec_init_buffer(&iov, buffer, bytes);
    ret = blk_co_preadv(copier->source, offset, bytes, &iov, /* flags= */ 0);
    (void) job_note_fault(copier->job, ret, "read", copier->source, offset,
                          bytes);
    if (ret == 0) {
        ret = blk_co_pwritev(copier->target, offset, bytes, &iov,
                             /* flags= */ 0);
        (void) job_note_fault(copier->job, ret, "write", copier->target,
                              offset, bytes);
    }
    buffer_pool_put(buffer, bytes);
    return ret;
}

static int coroutine_fn copy_range(Copier *copier, int64_t offset,
                                   int64_t bytes)
{
    int ret = 0;

    while (ret == 0 && bytes > 0) {
        BlockStatus status;

        ret = blk_co_block_status(copier->source, /* want_zero= */ true,
                                  offset, bytes, &status);
        if (ret < 0) {
            return job_note_fault(copier->job, ret, status_what,
                                  copier->source, offset, bytes);
        }
        if (status.flags & BDRV_BLOCK_ZERO) {
            ret = blk_co_pwrite_zeroes(copier->target, offset, status.bytes,
                                       BDRV_REQ_MAY_UNMAP);
            (void) job_note_fault(copier->job, ret, "write", copier->target,
                                  offset, status.bytes);
        } else {
            ret = copy_data(copier, offset, status.bytes);
        }
        offset += status.bytes;
        bytes -= status.bytes;
    }
    return ret;
}

static void unlink_op(CopyOp *op)
{
    CopyOp **link = &op->copier->ops;

    while (*link != op) {
        link = &(*link)->next;
    }
    *link = op->next;
}

static void coroutine_fn run_op(void *opaque)
{
    CopyOp *op = opaque;
    Copier *copier = op->copier;
    int ret = copier->keeper != NULL
        ? blk_co_keep_snapshot(copier->keeper, op->offset, op->bytes)
        : copy_range(copier, op->offset, op->bytes);

    if (ret < 0) {
        bdrv_dirty_bitmap_set(copier->dirty, op->offset, op->bytes); /* C3 */
        copier->ret = copier->ret < 0 ? copier->ret : ret;
    } else {
        copier->done_bytes += op->bytes;
        job_progress(copier->job, op->bytes);
    }
    unlink_op(op);
    copier->in_flight--;
    copier->in_flight_bytes -= op->bytes;
    g_free(op);
    if (copier->waiter != NULL) {
        co_wake(g_steal_pointer(&copier->waiter));
    }
}

/* -- the loop ------------------------------------------------------------ */

static void coroutine_fn wait_for_op(Copier *copier)
{
    copier->waiter = co_self();
    co_yield();
}

static bool overlaps_op(const Copier *copier, int64_t offset, int64_t bytes)
{
    for (const CopyOp *op = copier->ops; op != NULL; op = op->next) {
        if (ranges_overlap(op->offset, op->bytes, offset, bytes)) {
            return true;
        }
    }
    return false;
}

static void coroutine_fn start_op(Copier *copier, int64_t offset,
                                  int64_t bytes)
{
    CopyOp *op = g_new0(CopyOp, 1);

    while (overlaps_op(copier, offset, bytes)) {
        wait_for_op(copier); /* C2 */
    }
    *op = (CopyOp) { copier, offset, bytes, copier->ops };
    copier->ops = op;
    copier->in_flight++;
    copier->in_flight_bytes += bytes;
    co_enter(co_create(run_op, op));
}

/* The next dirty area from where we are, once around (C1). */
static bool take_next(Copier *copier, int64_t *ret_offset, int64_t *ret_bytes)
{
    bool found = bdrv_dirty_bitmap_take_area(copier->dirty, copier->position,
                                             copier->length, OP_MAX_BYTES,
                                             ret_offset, ret_bytes);

    copier->has_passed = copier->has_passed || !found;
    if (!found && copier->position > 0) {
        found = bdrv_dirty_bitmap_take_area(copier->dirty, 0, copier->length,
                                            OP_MAX_BYTES, ret_offset,
                                            ret_bytes);
    }
    copier->position = found ? *ret_offset + *ret_bytes : 0;
    return found;
}

static bool is_nearly_clean(const Copier *copier)
{
    return bdrv_dirty_bitmap_count(copier->dirty) + copier->in_flight_bytes <=
           READY_MAX_BYTES;
}

/* One step; *@ret_bytes were started. 1: all is done, 0, or -errno. */
static int coroutine_fn step(Copier *copier, int64_t *ret_bytes)
{
    int64_t offset;

    *ret_bytes = 0;
    while (copier->in_flight >= IN_FLIGHT_MAX) {
        wait_for_op(copier);
    }
    if (copier->ret < 0) {
        return copier->ret;
    }
    if (copier->is_live && copier->has_passed && !copier->is_ready &&
        is_nearly_clean(copier)) {
        copier->is_ready = true;
        job_set_ready(copier->job);
    }
    if (copier->is_ready && job_should_complete(copier->job)) {
        return 1; /* the rest is for the drained section */
    }
    if (take_next(copier, &offset, ret_bytes)) {
        start_op(copier, offset, *ret_bytes);
    } else if (copier->in_flight > 0) {
        wait_for_op(copier);
    } else if (!copier->is_live) {
        return 1;
    } else if (copier->is_ready) {
        job_co_sleep_ns(copier->job, IDLE_NS);
    }
    return 0;
}

int coroutine_fn copier_co_run(Copier *copier)
{
    int64_t bytes;
    int ret;

    do {
        ret = step(copier, &bytes);
        update_total(copier);
        if (ret == 0) {
            ret = job_co_pause_point(copier->job, bytes);
        }
    } while (ret == 0);
    while (copier->in_flight > 0) {
        wait_for_op(copier);
    }
    return copier->ret < 0 ? copier->ret : MIN(ret, 0);
}

/* -- the drained section ------------------------------------------------- */

int copier_finish(Copier *copier)
{
    size_t buffer_bytes =
        MAX(OP_MAX_BYTES, bdrv_dirty_bitmap_granularity(copier->dirty));
    uint8_t *buffer = buffer_pool_get(buffer_bytes);
    int64_t offset, bytes;
    int ret = buffer != NULL ? 0 : -ENOMEM;

    copier->position = 0;
    while (ret == 0 && take_next(copier, &offset, &bytes)) {
        ret = blk_pread(copier->source, offset, bytes, buffer);
        if (ret == 0) {
            ret = buffer_is_zero(buffer, bytes)
                ? blk_pwrite_zeroes(copier->target, offset, bytes,
                                    BDRV_REQ_MAY_UNMAP)
                : blk_pwrite(copier->target, offset, bytes, buffer);
        }
        job_progress(copier->job, bytes);
    }
    buffer_pool_put(buffer, buffer_bytes);
    return ret == 0 ? blk_flush(copier->target) : ret;
}
