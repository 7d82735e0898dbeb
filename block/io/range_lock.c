/* SPDX-License-Identifier: MIT */
/*
 * range locks: a queue of holds in order of arrival
 *
 * Always true outside a function of this file:
 *  L1  a hold whose take has returned clashes with none before it in the list.
 *
 * Locking: lock->lock protects the list and the holds in it.
 */
#include "block/io/range_lock.h"

#include "block/rt/bytes.h"

void range_lock_init(RangeLock *lock)
{
    co_mutex_init(&lock->lock);
    co_queue_init(&lock->released);
    lock->first = NULL;
    lock->last = NULL;
}

void range_lock_destroy(RangeLock *lock)
{
    g_assert(lock->first == NULL);
    co_queue_destroy(&lock->released);
    co_mutex_destroy(&lock->lock);
}

static bool has_to_wait(const RangeLock *lock, const RangeHold *hold)
{
    for (RangeHold *other = lock->first; other != hold; other = other->next) {
        if ((other->exclusive || hold->exclusive) &&
            ranges_overlap(other->offset, other->bytes, hold->offset,
                           hold->bytes)) {
            return true;
        }
    }
    return false;
}

void coroutine_fn range_lock_take(RangeLock *lock, RangeHold *hold,
                                  int64_t offset, int64_t bytes,
                                  bool exclusive)
{
    *hold = (RangeHold){
        .offset = offset,
        .bytes = bytes,
        .exclusive = exclusive,
    };
    co_mutex_lock(&lock->lock);
    if (lock->last != NULL) {
        lock->last->next = hold;
    } else {
        lock->first = hold;
    }
    lock->last = hold;
    while (has_to_wait(lock, hold)) { /* L1 */
        co_queue_wait(&lock->released, &lock->lock);
    }
    co_mutex_unlock(&lock->lock);
}

void coroutine_fn range_lock_release(RangeLock *lock, RangeHold *hold)
{
    RangeHold *before = NULL;

    co_mutex_lock(&lock->lock);
    for (RangeHold *at = lock->first; at != hold; at = at->next) {
        before = at;
    }
    if (before != NULL) {
        before->next = hold->next;
    } else {
        lock->first = hold->next;
    }
    if (lock->last == hold) {
        lock->last = before;
    }
    co_queue_wake_all(&lock->released);
    co_mutex_unlock(&lock->lock);
}
