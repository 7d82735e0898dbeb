/* SPDX-License-Identifier: MIT */
/*
 * timers: a binary heap per context
 *
 *   slot 0 is the earliest; the children of slot i are 2i + 1 and 2i + 2.
 *
 * Always true outside a function of this file:
 *  T1  timers[i]->heap_slot == i + 1, and 0 for every timer not in the heap;
 *  T2  no child is due before its parent.
 * Sleeping until the first deadline is left to aio_context.c.
 *
 * Locking: none, home thread only.
 */
#include "block/rt/timer.h"

#include "block/rt/context_state.h"

#include <time.h>

int64_t clock_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void heap_place(AioContext *ctx, size_t slot, AioTimer *timer)
{
    ctx->timers[slot] = timer;
    timer->heap_slot = slot + 1; /* T1 */
}

/* Moves @timer from the free @slot towards the root as far as T2 asks. */
static size_t heap_sift_up(AioContext *ctx, size_t slot, AioTimer *timer)
{
    while (slot > 0) {
        size_t parent = (slot - 1) / 2;

        if (ctx->timers[parent]->deadline_ns <= timer->deadline_ns) {
            break;
        }
        heap_place(ctx, slot, ctx->timers[parent]);
        slot = parent;
    }
    heap_place(ctx, slot, timer);
    return slot;
}

/* The same towards the leaves. */
static void heap_sift_down(AioContext *ctx, size_t slot, AioTimer *timer)
{
    for (;;) {
        size_t child = 2 * slot + 1;

        if (child >= ctx->n_timers) {
            break;
        }
        if (child + 1 < ctx->n_timers &&
            ctx->timers[child + 1]->deadline_ns <
            ctx->timers[child]->deadline_ns) {
            child++;
        }
        if (timer->deadline_ns <= ctx->timers[child]->deadline_ns) {
            break;
        }
        heap_place(ctx, slot, ctx->timers[child]);
        slot = child;
    }
    heap_place(ctx, slot, timer);
}

void aio_timer_init(AioTimer *timer, AioContext *ctx, AioCallback *callback,
                    void *opaque)
{
    timer->ctx = ctx;
    timer->callback = callback;
    timer->opaque = opaque;
    timer->deadline_ns = 0;
    timer->heap_slot = 0;
}

void aio_timer_arm(AioTimer *timer, int64_t deadline_ns)
{
    AioContext *ctx = timer->ctx;

    g_assert(ctx == aio_thread_context);
    aio_timer_cancel(timer);
    if (ctx->n_timers == ctx->timers_capacity) {
        ctx->timers_capacity = MAX(16, 2 * ctx->timers_capacity);
        ctx->timers = g_renew(AioTimer *, ctx->timers, ctx->timers_capacity);
    }
    timer->deadline_ns = deadline_ns;
    heap_sift_up(ctx, ctx->n_timers++, timer);
}

void aio_timer_cancel(AioTimer *timer)
{
    AioContext *ctx = timer->ctx;
    size_t slot;
    AioTimer *last;

    if (!timer->heap_slot) {
        return;
    }
    g_assert(ctx == aio_thread_context);
    slot = timer->heap_slot - 1;
    timer->heap_slot = 0;
    last = ctx->timers[--ctx->n_timers];
    if (last != timer) {
        /* The last one fills the gap; it may belong above or below it. */
        slot = heap_sift_up(ctx, slot, last);
        heap_sift_down(ctx, slot, last);
    }
}

bool aio_timer_is_armed(const AioTimer *timer)
{
    return timer->heap_slot != 0;
}

/* A callback may arm and cancel timers, its own among them. */
bool timer_run_due(AioContext *ctx)
{
    bool progress = false;
    int64_t now_ns;

    if (!ctx->n_timers) {
        return false;
    }
    now_ns = clock_now_ns();
    while (ctx->n_timers && ctx->timers[0]->deadline_ns <= now_ns) {
        AioTimer *timer = ctx->timers[0];

        aio_timer_cancel(timer);
        timer->callback(timer->opaque);
        progress = true;
    }
    return progress;
}

int64_t timer_next_delay_ns(const AioContext *ctx)
{
    int64_t delay_ns;

    if (!ctx->n_timers) {
        return -1;
    }
    delay_ns = ctx->timers[0]->deadline_ns - clock_now_ns();
    return MAX(0, delay_ns);
}

static void wake_sleeper(void *opaque)
{
    co_wake(opaque);
}

void coroutine_fn co_sleep_ns(int64_t delay_ns)
{
    AioTimer timer;

    aio_timer_init(&timer, aio_context_current(), wake_sleeper, co_self());
    aio_timer_arm(&timer, clock_now_ns() + delay_ns);
    co_yield();
}
