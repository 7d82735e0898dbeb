/* SPDX-License-Identifier: MIT */
/*
 * ContextCounter: a count that each thread keeps in a cache line of its own
 *
 * Going up and down costs no shared cache line: every context writes its own
 * slot. Reading the sum is rare and slow. A unit must be taken and given back
 * on the same thread (a coroutine never migrates, so a request may).
 *
 * The pattern it is for: "enter, fence, look at a flag" against "set the flag,
 * fence, wait for the sum to be zero". context_counter_enter() includes the
 * fence of the first side.
 */
#ifndef BLOCK_RT_CONTEXT_COUNTER_H
#define BLOCK_RT_CONTEXT_COUNTER_H

#include "block/rt/aio_context.h"

typedef struct ContextCounter {
    struct {
        int64_t value; /* atomic; written by one thread only */
    } __attribute__((aligned(64))) slot[AIO_CONTEXTS_MAX];
} ContextCounter;

static inline void context_counter_enter(ContextCounter *counter,
                                         unsigned index)
{
    int64_t *value = &counter->slot[index].value;

    __atomic_store_n(value, __atomic_load_n(value, __ATOMIC_RELAXED) + 1,
                     __ATOMIC_SEQ_CST);
}

static inline void context_counter_leave(ContextCounter *counter,
                                         unsigned index)
{
    int64_t *value = &counter->slot[index].value;

    __atomic_store_n(value, __atomic_load_n(value, __ATOMIC_RELAXED) - 1,
                     __ATOMIC_RELEASE);
}

/* The sum over all contexts. Call it after a full fence. Any thread. */
static inline int64_t context_counter_sum(const ContextCounter *counter)
{
    unsigned limit = aio_context_index_limit();
    int64_t sum = 0;

    for (unsigned i = 0; i < limit; i++) {
        sum += __atomic_load_n(&counter->slot[i].value, __ATOMIC_ACQUIRE);
    }
    return sum;
}

#endif
