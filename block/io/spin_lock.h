/* SPDX-License-Identifier: MIT */
/*
 * SpinLock: for a few instructions on memory that is mostly one thread's own
 *
 * Zero is unlocked. Never held across a yield or a call that may sleep. After
 * a moment a contender gives up its time slice: the holder may have lost its
 * CPU.
 */
#ifndef BLOCK_IO_SPIN_LOCK_H
#define BLOCK_IO_SPIN_LOCK_H

#include <sched.h>

#define SPIN_LOCK_ROUNDS 100

typedef struct SpinLock {
    int held; /* atomic */
} SpinLock;

static inline void spin_lock(SpinLock *lock)
{
    int rounds = 0;

    while (__atomic_exchange_n(&lock->held, 1, __ATOMIC_ACQUIRE)) {
        while (__atomic_load_n(&lock->held, __ATOMIC_RELAXED)) {
            if (++rounds >= SPIN_LOCK_ROUNDS) {
                sched_yield();
                rounds = 0;
            }
        }
    }
}

static inline void spin_unlock(SpinLock *lock)
{
    __atomic_store_n(&lock->held, 0, __ATOMIC_RELEASE);
}

#endif
