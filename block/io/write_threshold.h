/* SPDX-License-Identifier: MIT */
/*
 * write threshold: tell somebody once when a node is written past an offset
 *
 * For whoever grows the medium below an image while it fills. The threshold
 * disarms itself when it fires; set it again for the next time.
 */
#ifndef BLOCK_IO_WRITE_THRESHOLD_H
#define BLOCK_IO_WRITE_THRESHOLD_H

#include "block/graph/node.h"

/* @end: where the request ended that reached past @threshold; both bytes. */
typedef void WriteThresholdCallback(BlockDriverState *bs, int64_t threshold,
                                    int64_t end, void *opaque);

/*
 * bdrv_write_threshold_set:
 * From now on the first request that changes bytes of @bs (write, zeroes,
 * discard, a copy by the kernel; failed ones, too) at or after @offset has
 * @callback called, once, from the loop of the calling thread's context. What
 * was set before is forgotten, and its callback does not come any more.
 * @offset 0 only forgets; then @callback may be NULL.
 *
 * The end of @bs forgets as well. @opaque must live until the callback has
 * run or has been forgotten. Control plane; drains @bs for a moment.
 */
void bdrv_write_threshold_set(BlockDriverState *bs, int64_t offset,
                              WriteThresholdCallback *callback, void *opaque);

/* The offset that is armed, or 0. Any thread. */
static inline int64_t bdrv_write_threshold(const BlockDriverState *bs)
{
    return __atomic_load_n(&bs->write_threshold, __ATOMIC_RELAXED);
}

/* -- for the block layer ------------------------------------------------- */

/* bdrv_write_threshold_set(0) of a node that nobody uses. */
void bdrv_write_threshold_forget(BlockDriverState *bs);

/* Disarms and has the callback called, unless another thread was faster. */
void bdrv_write_threshold_fire(BlockDriverState *bs, int64_t end);

/*
 * A request that changed bytes before @end comes to its end. Off is 0, which
 * less one is larger than any end: one compare for both questions.
 */
static inline void bdrv_write_threshold_check(BlockDriverState *bs,
                                              int64_t end)
{
    if (G_UNLIKELY((uint64_t)end - 1 >
                   (uint64_t)bdrv_write_threshold(bs) - 1)) {
        bdrv_write_threshold_fire(bs, end);
    }
}

#endif
