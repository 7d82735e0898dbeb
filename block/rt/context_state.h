/* SPDX-License-Identifier: MIT */
/*
 * the inside of an AioContext, shared by the files of the runtime
 *
 * Who owns what: coroutine.c the stacks and the running coroutine; timer.c the
 * heap; aio_context.c all the rest. Nobody outside of block/rt includes this.
 *
 * Contexts stand in a static array and are never unmapped: a waker that is
 * late may look at the state of a context that has gone (it then finds it
 * AIO_RUNNING, or belonging to a successor, which a stray notify does not
 * hurt).
 */
#ifndef BLOCK_RT_CONTEXT_STATE_H
#define BLOCK_RT_CONTEXT_STATE_H

#include "block/rt/aio_context.h"
#include "block/rt/coroutine_switch.h"
#include "block/rt/engine.h"
#include "block/rt/sanitize.h"
#include "block/rt/timer.h"

/* Where the loop is; wakers look at it. See aio_context.c. */
enum {
    AIO_RUNNING,
    AIO_SLEEP_EPOLL,
    AIO_SLEEP_IDLE,
};

/* A watched descriptor. */
typedef struct AioFd {
    int fd;
    AioFdHandler *handler; /* NULL: not watched any more */
    void *opaque;
} AioFd;

/* A one-shot callback. */
typedef struct AioScheduled {
    struct AioScheduled *next;
    AioCallback *callback;
    void *opaque;
} AioScheduled;

struct Coroutine {
    AioContext *ctx;
    CoEntry *entry;
    void *opaque;
    Coroutine *caller; /* who entered us; NULL: the loop */
    Coroutine *next;   /* ready list, wake list or idle stacks */
    bool ended;
    CoSwitchPoint point;
    SanStack san;
    void *mapping; /* guard page, stack, and this struct at the top */
};

struct AioContext {
    /* For the home thread. */
    Coroutine *current; /* relaxed atomic: spinners of CoMutex look at it */
    Coroutine *idle_stacks;
    unsigned n_idle_stacks;
    unsigned n_coroutines; /* created and not ended */
    CoSwitchPoint leader;  /* where the loop entered a coroutine */
    SanStack leader_san;

    Coroutine *first_ready; /* first in, first out */
    Coroutine *last_ready;
    unsigned n_ready;
    AioScheduled *first_callback;
    AioScheduled *last_callback;
    unsigned n_callbacks;

    AioTimer **timers; /* heap, the earliest first */
    size_t n_timers;
    size_t timers_capacity;

    const AioIdleSource *idle_source;
    AioEngineSlot engines[AIO_ENGINE_THREADS + 1];
    bool engine_tried[AIO_ENGINE_THREADS + 1];
    GHashTable *fds;   /* int -> AioFd */
    GPtrArray *dead_fds; /* freed when no turn looks at events any more */
    unsigned poll_depth;
    int epoll_fd;
    unsigned index;
    bool in_use; /* protected by the lock of the array */

    /* Written by other threads. All atomic. */
    Coroutine *remote_ready __attribute__((aligned(64)));
    AioScheduled *remote_callbacks;
    int state;
    bool is_notified; /* a notify that no turn has answered yet */
    unsigned notifiers; /* threads that may be using event_fd or idle_source */
    int event_fd;
} __attribute__((aligned(64)));

extern _Thread_local AioContext *aio_thread_context;

/* aio_context.c: appends to the ready list. Home thread. */
void aio_context_make_ready(AioContext *ctx, Coroutine *co);

/* aio_context.c: the same from another thread, and wakes the loop. */
void aio_context_make_ready_remote(AioContext *ctx, Coroutine *co);

/* coroutine.c: unmaps the idle stacks. Home thread. */
void coroutine_free_idle(AioContext *ctx);

/* timer.c: calls what is due; true when there was something. */
bool timer_run_due(AioContext *ctx);

/* timer.c: nanoseconds until the first timer (0: due), -1 without any. */
int64_t timer_next_delay_ns(const AioContext *ctx);

#endif
