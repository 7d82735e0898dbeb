/* SPDX-License-Identifier: MIT */
/*
 * the event loop: ready list, callbacks, descriptors, engines, sleeping
 *
 * One turn:
 *
 *   due timers -> callbacks -> ready coroutines -> engines: submit, reap
 *     ^                                                        |
 *     |            something was done: look at descriptors  ◀──┤
 *     └──────────  nothing to do: sleep in the idle source  ◀──┘
 *                  or in epoll
 *
 * Work that comes up during a turn waits for the next one, so that no list
 * starves the others.
 *
 * How no wake-up is lost. Work from other threads is pushed on a lock-free
 * stack (newest first; the loop takes it all and turns it round); a bare
 * notify, for a caller of aio_poll() that waits for a flag of its own, leaves
 * is_notified, which the turn that sees it clears at its end. The loop
 * sleeps like this:     the waker wakes like this:
 *     state = SLEEP_x       push the work
 *     fence                 fence
 *     work there? go on     state == RUNNING? done
 *     sleep                 CAS state to RUNNING, then kick
 *     state = RUNNING
 * One of the two sees the other's write. Only who changed the state kicks: one
 * kick for a sleep.
 *
 * Always true outside a function of this file:
 *  A1  outside of aio_poll() the state is AIO_RUNNING;
 *  A2  event_fd and the idle source are used by another thread only while
 *      ctx->notifiers counts it, after its CAS; who takes them away waits for
 *      that count to be zero with the state AIO_RUNNING.
 *
 * event_fd is watched edge-triggered and never read: every write is an edge.
 *
 * Locking: contexts_lock protects the array of contexts (in_use); the rest is
 * for the home thread or atomic (context_state.h).
 */
#include "block/rt/aio_context.h"

#include "block/error.h"
#include "block/rt/buffer_pool.h"
#include "block/rt/context_state.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/* Events taken from the kernel at a time; the rest comes with the next turn. */
#define EVENTS_MAX 32

_Thread_local AioContext *aio_thread_context;

static AioContext contexts[AIO_CONTEXTS_MAX];
static GMutex contexts_lock;
static unsigned index_limit; /* atomic */

AioContext *aio_context_current(void)
{
    return aio_thread_context;
}

unsigned aio_context_index(const AioContext *ctx)
{
    return ctx->index;
}

unsigned aio_context_index_limit(void)
{
    return __atomic_load_n(&index_limit, __ATOMIC_ACQUIRE);
}

/* ---- waking ---- */

/* One side of "write mine, fence, look at yours". */
static inline void full_fence(AioContext *ctx)
{
#ifdef __SANITIZE_THREAD__
    /* ThreadSanitizer knows no fences; a read-modify-write serves it. */
    __atomic_fetch_add(&ctx->state, 0, __ATOMIC_SEQ_CST);
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

static void kick(AioContext *ctx, int slept_in)
{
    if (slept_in == AIO_SLEEP_IDLE) {
        ctx->idle_source->interrupt(ctx->idle_source->opaque);
    } else {
        uint64_t one = 1;

        /* Cannot fail: the counter does not reach its limit in 2^64 kicks. */
        (void) !write(ctx->event_fd, &one, sizeof(one));
    }
}

/* What is for @ctx has been written. */
static void wake(AioContext *ctx)
{
    int state;

    full_fence(ctx);
    state = __atomic_load_n(&ctx->state, __ATOMIC_RELAXED);
    if (state == AIO_RUNNING) {
        return;
    }
    __atomic_fetch_add(&ctx->notifiers, 1, __ATOMIC_SEQ_CST);
    if (__atomic_compare_exchange_n(&ctx->state, &state, AIO_RUNNING,
                                    /* weak= */ false, __ATOMIC_SEQ_CST,
                                    __ATOMIC_SEQ_CST)) {
        kick(ctx, state);
    }
    __atomic_fetch_sub(&ctx->notifiers, 1, __ATOMIC_RELEASE);
}

void aio_notify(AioContext *ctx)
{
    __atomic_store_n(&ctx->is_notified, true, __ATOMIC_RELEASE);
    wake(ctx);
}

/* A2; the state is AIO_RUNNING (A1). */
static void wait_for_notifiers(AioContext *ctx)
{
    while (__atomic_load_n(&ctx->notifiers, __ATOMIC_SEQ_CST)) {
        sched_yield();
    }
}

void aio_context_make_ready(AioContext *ctx, Coroutine *co)
{
    co->next = NULL;
    if (ctx->first_ready) {
        ctx->last_ready->next = co;
    } else {
        ctx->first_ready = co;
    }
    ctx->last_ready = co;
    ctx->n_ready++;
}

void aio_context_make_ready_remote(AioContext *ctx, Coroutine *co)
{
    Coroutine *head = __atomic_load_n(&ctx->remote_ready, __ATOMIC_RELAXED);

    do {
        co->next = head;
    } while (!__atomic_compare_exchange_n(&ctx->remote_ready, &head, co,
                                          /* weak= */ true, __ATOMIC_RELEASE,
                                          __ATOMIC_RELAXED));
    wake(ctx);
}

void aio_schedule(AioContext *ctx, AioCallback *callback, void *opaque)
{
    AioScheduled *node = g_new(AioScheduled, 1);
    AioScheduled *head = __atomic_load_n(&ctx->remote_callbacks,
                                         __ATOMIC_RELAXED);

    node->callback = callback;
    node->opaque = opaque;
    do {
        node->next = head;
    } while (!__atomic_compare_exchange_n(&ctx->remote_callbacks, &head, node,
                                          /* weak= */ true, __ATOMIC_RELEASE,
                                          __ATOMIC_RELAXED));
    wake(ctx);
}

/* ---- running what is ready ---- */

/* Moves what other threads have pushed to our lists, oldest first. */
static void take_remote(AioContext *ctx)
{
    Coroutine *co = NULL, *oldest_co = NULL;
    AioScheduled *node = NULL, *oldest_node = NULL;

    if (__atomic_load_n(&ctx->remote_ready, __ATOMIC_RELAXED)) {
        co = __atomic_exchange_n(&ctx->remote_ready, NULL, __ATOMIC_ACQUIRE);
    }
    while (co) {
        Coroutine *next = co->next;

        co->next = oldest_co;
        oldest_co = co;
        co = next;
    }
    while (oldest_co) {
        Coroutine *next = oldest_co->next;

        aio_context_make_ready(ctx, oldest_co);
        oldest_co = next;
    }

    if (__atomic_load_n(&ctx->remote_callbacks, __ATOMIC_RELAXED)) {
        node = __atomic_exchange_n(&ctx->remote_callbacks, NULL,
                                   __ATOMIC_ACQUIRE);
    }
    while (node) {
        AioScheduled *next = node->next;

        node->next = oldest_node;
        oldest_node = node;
        ctx->n_callbacks++;
        node = next;
    }
    if (oldest_node) {
        if (ctx->first_callback) {
            ctx->last_callback->next = oldest_node;
        } else {
            ctx->first_callback = oldest_node;
        }
        while (oldest_node->next) {
            oldest_node = oldest_node->next;
        }
        ctx->last_callback = oldest_node;
    }
}

/*
 * Each entry leaves its list before it runs, and the counts only bound this
 * turn: a callback may poll the loop itself.
 */
static bool run_ready(AioContext *ctx)
{
    bool progress = timer_run_due(ctx);
    unsigned callbacks, coroutines;

    take_remote(ctx);
    callbacks = ctx->n_callbacks;
    while (callbacks-- && ctx->first_callback) {
        AioScheduled *node = ctx->first_callback;

        ctx->first_callback = node->next;
        ctx->n_callbacks--;
        node->callback(node->opaque);
        g_free(node);
        progress = true;
    }

    coroutines = ctx->n_ready;
    while (coroutines-- && ctx->first_ready) {
        Coroutine *co = ctx->first_ready;

        ctx->first_ready = co->next;
        ctx->n_ready--;
        co_enter(co);
        progress = true;
    }
    return progress;
}

static bool has_work(AioContext *ctx)
{
    return ctx->first_ready || ctx->first_callback ||
           __atomic_load_n(&ctx->remote_ready, __ATOMIC_RELAXED) ||
           __atomic_load_n(&ctx->remote_callbacks, __ATOMIC_RELAXED);
}

/* A loop that is wanted does not sleep. */
static bool is_wanted(AioContext *ctx)
{
    return has_work(ctx) ||
           __atomic_load_n(&ctx->is_notified, __ATOMIC_RELAXED);
}

/* ---- engines ---- */

static const AioEngineOps *engine_ops(AioEngineKind kind)
{
    switch (kind) {
    case AIO_ENGINE_IO_URING:
        return &aio_engine_uring;
    case AIO_ENGINE_NATIVE:
        return &aio_engine_libaio;
    case AIO_ENGINE_THREADS:
        return &aio_engine_threads;
    case AIO_ENGINE_AUTO:
    default:
        g_assert_not_reached();
    }
}

/* epoll's data for descriptors that only have to end a sleep. */
static void watch_for_wake(AioContext *ctx, int fd)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLET };

    if (epoll_ctl(ctx->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        g_error("epoll_ctl: %s", g_strerror(errno));
    }
}

AioEngineSlot *aio_context_engine(AioContext *ctx, AioEngineKind kind)
{
    AioEngineSlot *slot = &ctx->engines[kind];

    if (G_LIKELY(slot->engine)) {
        return slot;
    }
    if (!ctx->engine_tried[kind]) {
        int errnum;

        g_assert(ctx == aio_thread_context);
        ctx->engine_tried[kind] = true;
        slot->ops = engine_ops(kind);
        slot->engine = slot->ops->open(ctx, &errnum);
        if (slot->engine && slot->ops->poll_fd(slot->engine) >= 0) {
            watch_for_wake(ctx, slot->ops->poll_fd(slot->engine));
        }
    }
    return slot->engine ? slot : NULL;
}

bool aio_engine_available(AioEngineKind kind)
{
    static gsize available[AIO_ENGINE_THREADS + 1]; /* 1 no, 2 yes */

    g_assert(kind != AIO_ENGINE_AUTO);
    if (g_once_init_enter(&available[kind])) {
        const AioEngineOps *ops = engine_ops(kind);
        int errnum;
        AioEngine *engine = ops->open(/* ctx= */ NULL, &errnum);

        if (engine) {
            ops->close(engine);
        }
        g_once_init_leave(&available[kind], engine ? 2 : 1);
    }
    return available[kind] == 2;
}

static bool run_engines(AioContext *ctx)
{
    unsigned reaped = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(ctx->engines); i++) {
        AioEngineSlot *slot = &ctx->engines[i];

        if (slot->engine) {
            slot->ops->submit(slot->engine);
            reaped += slot->ops->reap(slot->engine);
        }
    }
    return reaped > 0;
}

/* ---- descriptors and sleeping ---- */

/* As epoll_wait(); @timeout_ns -1 is for ever, rounded up where need be. */
static int wait_for_events(AioContext *ctx, struct epoll_event *events,
                           int64_t timeout_ns)
{
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 35)
    static bool no_pwait2; /* atomic; Linux before 5.11 */

    if (timeout_ns > 0 && !__atomic_load_n(&no_pwait2, __ATOMIC_RELAXED)) {
        struct timespec timeout = {
            .tv_sec = timeout_ns / 1000000000,
            .tv_nsec = timeout_ns % 1000000000,
        };
        int n = epoll_pwait2(ctx->epoll_fd, events, EVENTS_MAX, &timeout,
                             NULL);

        if (n >= 0 || errno != ENOSYS) {
            return n;
        }
        __atomic_store_n(&no_pwait2, true, __ATOMIC_RELAXED);
    }
#endif
    if (timeout_ns > 0) {
        timeout_ns = MIN((timeout_ns - 1) / 1000000 + 1, G_MAXINT);
    }
    return epoll_wait(ctx->epoll_fd, events, EVENTS_MAX, (int)timeout_ns);
}

/* A handler may stop the watch of any descriptor, so dead_fds keeps it. */
static bool call_handlers(const struct epoll_event *events, int n_events)
{
    bool progress = false;

    for (int i = 0; i < n_events; i++) {
        AioFd *watched = events[i].data.ptr;

        if (watched && watched->handler) {
            watched->handler(watched->fd, events[i].events, watched->opaque);
            progress = true;
        }
    }
    return progress;
}

/* Sleeps unless there is work. True: something may have happened. */
static void sleep_for_work(AioContext *ctx)
{
    bool idle = ctx->idle_source && !ctx->n_coroutines && !ctx->n_timers;
    struct epoll_event events[EVENTS_MAX];
    int n_events = 0;

    __atomic_store_n(&ctx->state, idle ? AIO_SLEEP_IDLE : AIO_SLEEP_EPOLL,
                     __ATOMIC_SEQ_CST);
    full_fence(ctx);
    if (!is_wanted(ctx)) {
        if (idle) {
            ctx->idle_source->wait(ctx->idle_source->opaque);
        } else {
            n_events = wait_for_events(ctx, events, timer_next_delay_ns(ctx));
        }
    }
    __atomic_store_n(&ctx->state, AIO_RUNNING, __ATOMIC_SEQ_CST);

    (void) call_handlers(events, n_events); /* n_events < 0: a signal */
}

bool aio_poll(AioContext *ctx, bool may_sleep)
{
    bool progress;

    g_assert(ctx == aio_thread_context && !ctx->current);
    ctx->poll_depth++;
    progress = run_ready(ctx);
    progress |= run_engines(ctx);

    if (may_sleep && !progress && !is_wanted(ctx)) {
        sleep_for_work(ctx);
        progress = true;
    } else if (g_hash_table_size(ctx->fds)) {
        struct epoll_event events[EVENTS_MAX];
        int n_events = wait_for_events(ctx, events, /* timeout_ns= */ 0);

        progress |= call_handlers(events, n_events);
    }

    /* Who notified us did so before the caller looks at what it waits for. */
    if (__atomic_load_n(&ctx->is_notified, __ATOMIC_RELAXED) &&
        __atomic_exchange_n(&ctx->is_notified, false, __ATOMIC_ACQUIRE)) {
        progress = true;
    }

    if (--ctx->poll_depth == 0 && ctx->dead_fds->len) {
        g_ptr_array_set_size(ctx->dead_fds, 0);
    }
    return progress;
}

static void unwatch(AioContext *ctx, AioFd *watched)
{
    (void) epoll_ctl(ctx->epoll_fd, EPOLL_CTL_DEL, watched->fd, NULL);
    watched->handler = NULL;
    g_hash_table_remove(ctx->fds, GINT_TO_POINTER(watched->fd));
    if (ctx->poll_depth) {
        g_ptr_array_add(ctx->dead_fds, watched);
    } else {
        g_free(watched);
    }
}

void aio_set_fd_handler(AioContext *ctx, int fd, uint32_t epoll_events,
                        AioFdHandler *handler, void *opaque)
{
    AioFd *watched = g_hash_table_lookup(ctx->fds, GINT_TO_POINTER(fd));
    struct epoll_event event = { .events = epoll_events };

    g_assert(ctx == aio_thread_context);
    /* Anew each time: EPOLLEXCLUSIVE does not allow a change. */
    if (watched) {
        unwatch(ctx, watched);
    }
    if (!handler) {
        return;
    }
    watched = g_new(AioFd, 1);
    watched->fd = fd;
    watched->handler = handler;
    watched->opaque = opaque;
    event.data.ptr = watched;
    if (epoll_ctl(ctx->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        g_error("cannot watch descriptor %d: %s", fd, g_strerror(errno));
    }
    g_hash_table_insert(ctx->fds, GINT_TO_POINTER(fd), watched);
}

void aio_set_idle_source(AioContext *ctx, const AioIdleSource *source)
{
    g_assert(ctx == aio_thread_context);
    aio_idle_source_awake(ctx); /* may be called by wait() itself */
    wait_for_notifiers(ctx);
    ctx->idle_source = source;
}

void aio_idle_source_awake(AioContext *ctx)
{
    __atomic_store_n(&ctx->state, AIO_RUNNING, __ATOMIC_SEQ_CST);
}

/* ---- life ---- */

static AioContext *take_slot(GError **error)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&contexts_lock);

    for (unsigned i = 0; i < AIO_CONTEXTS_MAX; i++) {
        if (!contexts[i].in_use) {
            contexts[i].in_use = true;
            contexts[i].index = i;
            if (i >= index_limit) {
                __atomic_store_n(&index_limit, i + 1, __ATOMIC_RELEASE);
            }
            return &contexts[i];
        }
    }
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                "more than %d event loops", AIO_CONTEXTS_MAX);
    return NULL;
}

static void release_slot(AioContext *ctx)
{
    g_mutex_lock(&contexts_lock);
    ctx->in_use = false;
    g_mutex_unlock(&contexts_lock);
}

AioContext *aio_context_new(GError **error)
{
    AioContext *ctx;
    int epoll_fd, event_fd;

    g_assert(!aio_thread_context);
    ctx = take_slot(error);
    if (!ctx) {
        return NULL;
    }
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (epoll_fd < 0 || event_fd < 0) {
        error_set_errno(error, errno, "no descriptor for an event loop");
        if (epoll_fd >= 0) {
            close(epoll_fd);
        }
        release_slot(ctx);
        return NULL;
    }

    /* All else was left empty by aio_context_free(). */
    ctx->epoll_fd = epoll_fd;
    ctx->event_fd = event_fd;
    ctx->fds = g_hash_table_new(g_direct_hash, g_direct_equal);
    ctx->dead_fds = g_ptr_array_new_with_free_func(g_free);
    watch_for_wake(ctx, event_fd);
    aio_thread_context = ctx;
    return ctx;
}

static void close_engines(AioContext *ctx)
{
    for (size_t i = 0; i < G_N_ELEMENTS(ctx->engines); i++) {
        AioEngineSlot *slot = &ctx->engines[i];

        if (slot->engine) {
            slot->ops->close(slot->engine);
        }
        slot->engine = NULL;
        ctx->engine_tried[i] = false;
    }
}

void aio_context_free(AioContext *ctx)
{
    GHashTableIter iter;
    gpointer watched;

    if (!ctx) {
        return;
    }
    g_assert(ctx == aio_thread_context && !ctx->poll_depth);
    g_assert(!ctx->n_coroutines && !ctx->n_timers && !has_work(ctx));
    wait_for_notifiers(ctx); /* A2 */
    ctx->is_notified = false;

    close_engines(ctx);
    g_hash_table_iter_init(&iter, ctx->fds);
    while (g_hash_table_iter_next(&iter, NULL, &watched)) {
        g_free(watched);
    }
    g_clear_pointer(&ctx->fds, g_hash_table_unref);
    g_clear_pointer(&ctx->dead_fds, g_ptr_array_unref);
    coroutine_free_idle(ctx);
    buffer_pool_drain();
    g_clear_pointer(&ctx->timers, g_free);
    ctx->timers_capacity = 0;
    ctx->idle_source = NULL;
    close(ctx->epoll_fd);
    close(ctx->event_fd);
    aio_thread_context = NULL;
    release_slot(ctx);
}

typedef struct SyncRun {
    CoEntry *entry;
    void *opaque;
    bool done;
} SyncRun;

static void coroutine_fn sync_entry(void *opaque)
{
    SyncRun *run = opaque;

    run->entry(run->opaque);
    run->done = true;
}

void aio_run_sync(CoEntry *entry, void *opaque)
{
    AioContext *ctx = aio_thread_context;
    SyncRun run = { .entry = entry, .opaque = opaque };

    g_assert(ctx && !ctx->current);
    co_enter(co_create(sync_entry, &run));
    while (!run.done) {
        aio_poll(ctx, /* may_sleep= */ true);
    }
}
