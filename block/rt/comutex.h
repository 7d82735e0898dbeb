/* SPDX-License-Identifier: MIT */
/*
 * locks on which a coroutine sleeps instead of its thread
 *
 * CoMutex: held across yields, fair (first come, first served), usable from
 * coroutines of several threads. Uncontended lock and unlock are one atomic
 * operation each. A contended lock spins for a moment when the holder is
 * running on another thread, then sleeps.
 * CoQueue: a condition on which coroutines of several threads wait.
 *
 * Order: a CoMutex may be held when another is taken; who does so documents
 * the order beside the mutex. Thread mutexes (GMutex) may be taken under a
 * CoMutex, never the other way round.
 */
#ifndef BLOCK_RT_COMUTEX_H
#define BLOCK_RT_COMUTEX_H

#include "block/rt/coroutine.h"

#include <glib.h>
#include <stdbool.h>

typedef struct CoWaiter CoWaiter; /* lives on the sleeper's stack */

typedef struct CoMutex {
    int state;        /* 0 free, 1 held, 2 held and perhaps awaited; atomic */
    GMutex wait_lock; /* protects the waiters */
    CoWaiter *first_waiter;
    CoWaiter *last_waiter;
    Coroutine *holder;          /* for assertions and spinning; atomic */
    AioContext *holder_context; /* where it lives; atomic */
} CoMutex;

typedef struct CoQueue {
    GMutex lock; /* protects the waiters; innermost */
    CoWaiter *first_waiter;
    CoWaiter *last_waiter;
} CoQueue;

void co_mutex_init(CoMutex *mutex);
void co_mutex_destroy(CoMutex *mutex);
void coroutine_fn co_mutex_lock(CoMutex *mutex);
bool coroutine_fn co_mutex_trylock(CoMutex *mutex);
void coroutine_fn co_mutex_unlock(CoMutex *mutex);

/* Aborts unless the calling coroutine holds @mutex. */
void co_mutex_assert_held(const CoMutex *mutex);

void co_queue_init(CoQueue *queue);
void co_queue_destroy(CoQueue *queue);

/*
 * co_queue_wait:
 * Unlocks @mutex (may be NULL), sleeps until woken, locks @mutex again. A wake
 * that comes after @mutex was unlocked is not lost. Wakes may be spurious:
 * check the condition in a loop.
 */
void coroutine_fn co_queue_wait(CoQueue *queue, CoMutex *mutex);

/* Wakes the longest waiter; false when there is none. Any thread. */
bool co_queue_wake_one(CoQueue *queue);

/* Wakes all who wait now. Any thread. */
void co_queue_wake_all(CoQueue *queue);

/* Is nobody waiting? A hint unless the caller excludes waiters. */
bool co_queue_is_empty(CoQueue *queue);

#endif
