/* SPDX-License-Identifier: MIT */
/*
 * timers of an AioContext, on the monotonic clock
 *
 * A context keeps its armed timers in a heap; aio_poll() sleeps no longer
 * than the first of them. Home thread only.
 */
#ifndef BLOCK_RT_TIMER_H
#define BLOCK_RT_TIMER_H

#include "block/rt/aio_context.h"

typedef struct AioTimer {
    AioContext *ctx;
    AioCallback *callback;
    void *opaque;
    int64_t deadline_ns;
    size_t heap_slot; /* position in the context's heap + 1; 0 = not armed */
} AioTimer;

/* Now, in nanoseconds of CLOCK_MONOTONIC. Any thread. */
int64_t clock_now_ns(void);

void aio_timer_init(AioTimer *timer, AioContext *ctx, AioCallback *callback,
                    void *opaque);

/* Arms, or re-arms, @timer to fire once at @deadline_ns. */
void aio_timer_arm(AioTimer *timer, int64_t deadline_ns);

/* After it the callback will not come. Harmless when not armed. */
void aio_timer_cancel(AioTimer *timer);

bool aio_timer_is_armed(const AioTimer *timer);

/* Sleeps the calling coroutine for @delay_ns. */
void coroutine_fn co_sleep_ns(int64_t delay_ns);

#endif
