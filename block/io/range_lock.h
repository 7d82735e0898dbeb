/* SPDX-License-Identifier: MIT */
/*
 * range locks: for drivers that must keep some requests apart by range
 *
 * A hold is shared or exclusive over a byte range; two that overlap are held
 * at the same time only when both are shared. First come, first served: a
 * hold waits for the earlier ones that clash with it, held or waiting, so
 * nobody starves, and who takes one hold at a time cannot deadlock.
 *
 * Not for the hot path: one CoMutex and a list. What every node has is
 * block/io/request.h.
 */
#ifndef BLOCK_IO_RANGE_LOCK_H
#define BLOCK_IO_RANGE_LOCK_H

#include "block/rt/comutex.h"

#include <stdint.h>

/* Lives on the holder's stack between take and release. */
typedef struct RangeHold RangeHold;
struct RangeHold {
    int64_t offset;
    int64_t bytes;
    bool exclusive;
    RangeHold *next; /* who came later */
};

typedef struct RangeLock {
    CoMutex lock; /* protects the list; innermost */
    CoQueue released;
    RangeHold *first;
    RangeHold *last;
} RangeLock;

void range_lock_init(RangeLock *lock);
void range_lock_destroy(RangeLock *lock);

/* Sleeps until nothing that came earlier clashes with the range. */
void coroutine_fn range_lock_take(RangeLock *lock, RangeHold *hold,
                                  int64_t offset, int64_t bytes,
                                  bool exclusive);
void coroutine_fn range_lock_release(RangeLock *lock, RangeHold *hold);

#endif
