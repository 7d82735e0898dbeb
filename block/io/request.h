/* SPDX-License-Identifier: MIT */
/*
 * tracked requests: which ranges of a node are in flight, and who must wait
 *
 * Every request joins its node's tracker. Ordinary requests overlap freely;
 * a serialising one (read-modify-write for alignment, copy-on-read, truncate)
 * excludes every request that overlaps it.
 *
 * Ordinary requests pay for this with one uncontended spin lock: each context
 * has a list of its own, in its own cache line, and looks only at the count of
 * serialising requests. A serialising request raises that count, then looks
 * through all lists. The list's lock orders the two: either the look finds the
 * ordinary request, or that one sees the raised count.
 *
 * Deadlock: who finds that it may have to wait draws a number and is "checking"
 * until nothing is in its way. It waits for all that run, and for those that
 * check with a smaller number; so waiting has an order and no circle.
 *
 * Lock order: a list's lock is innermost; two are never held at a time.
 */
#ifndef BLOCK_IO_REQUEST_H
#define BLOCK_IO_REQUEST_H

#include "block/rt/coroutine.h"
#include "block/types.h"

typedef enum BdrvRequestType {
    BDRV_TRACKED_READ,
    BDRV_TRACKED_WRITE,
    BDRV_TRACKED_DISCARD,
    BDRV_TRACKED_TRUNCATE,
} BdrvRequestType;

/* Lives on the request's stack between begin and end. */
typedef struct BdrvRequest BdrvRequest;
struct BdrvRequest {
    BlockDriverState *bs;
    int64_t offset;
    int64_t bytes;
    BdrvRequestType type;
    unsigned context_index; /* whose list it is in */
    Coroutine *co;

    /* Under the list's lock, written by the owner only (but first_waiter). */
    bool serialising;
    bool checking;          /* has not started: see Deadlock */
    int64_t overlap_offset; /* the range that others must keep out of */
    int64_t overlap_bytes;
    uint64_t sequence;      /* the number drawn, while checking */
    BdrvRequest *first_waiter; /* who waits for this one to end */
    BdrvRequest *next, **link; /* in the list */

    BdrvRequest *next_waiter; /* under the lock of the one it waits for */
};

BdrvTracker *bdrv_tracker_new(void);
void bdrv_tracker_free(BdrvTracker *tracker);

void coroutine_fn bdrv_request_begin(BdrvRequest *request,
                                     BlockDriverState *bs, int64_t offset,
                                     int64_t bytes, BdrvRequestType type);
void coroutine_fn bdrv_request_end(BdrvRequest *request);

/* Sleeps until no serialising request overlaps @request. */
void coroutine_fn bdrv_request_wait_serialising(BdrvRequest *request);

/*
 * Makes @request serialising over its range widened to @alignment (any number
 * but 0), and sleeps until nothing else overlaps that.
 */
void coroutine_fn bdrv_request_serialise(BdrvRequest *request,
                                         int64_t alignment);

#endif
