/* SPDX-License-Identifier: MIT */
/*
 * CoMutex and CoQueue
 *
 * state of a CoMutex:
 *
 *         lock (CAS)                another lock, under wait_lock
 *   0 free ─────────▶ 1 held ──────────────────────▶ 2 held, perhaps awaited
 *     ◀─────────────            unlock, under wait_lock: the first waiter is
 *       unlock (CAS)            the next holder (state 2, or 1 if it was the
 *                               last one); without a waiter 0
 *
 * Always true:
 *  M1  while a waiter is queued the state is 2, so that unlock takes the slow
 *      way and cannot miss it: a waiter writes 2 and queues itself without
 *      letting go of wait_lock in between;
 *  M2  with a waiter queued the state never becomes 0: the mutex is handed to
 *      the first waiter while it is still held. So nobody overtakes, and who
 *      is woken from the queue owns the mutex without trying again.
 *
 * Memory order: the fast ways pair by acquire and release on state; a hand-over
 * pairs by the wake-up (co_wake releases, the home loop acquires).
 *
 * Spinning: a metadata section lasts less than a sleep and a wake-up across
 * threads. So a contender spins for a moment, but only while the holder is
 * running, on another thread, and nobody is queued (it would overtake). The
 * holder may have ended meanwhile: its pointer is compared, never followed.
 *
 * Locking: wait_lock and the lock of a CoQueue are leaves; co_wake() comes
 * after they are released.
 */
#include "block/rt/comutex.h"

#include "block/rt/context_state.h"

/* About a microsecond. */
#define SPIN_ROUNDS 200

struct CoWaiter {
    CoWaiter *next;
    Coroutine *co;
};

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void waiters_push(CoWaiter **first, CoWaiter **last, CoWaiter *waiter)
{
    waiter->next = NULL;
    if (*first) {
        (*last)->next = waiter;
    } else {
        *first = waiter;
    }
    *last = waiter;
}

static CoWaiter *waiters_pop(CoWaiter **first)
{
    CoWaiter *waiter = *first;

    if (waiter) {
        *first = waiter->next;
    }
    return waiter;
}

void co_mutex_init(CoMutex *mutex)
{
    mutex->state = 0;
    g_mutex_init(&mutex->wait_lock);
    mutex->first_waiter = NULL;
    mutex->last_waiter = NULL;
    mutex->holder = NULL;
    mutex->holder_context = NULL;
}

void co_mutex_destroy(CoMutex *mutex)
{
    g_assert(__atomic_load_n(&mutex->state, __ATOMIC_ACQUIRE) == 0);
    g_mutex_clear(&mutex->wait_lock);
}

static inline void set_holder(CoMutex *mutex, Coroutine *co)
{
    if (co) {
        __atomic_store_n(&mutex->holder_context, co_context(co),
                         __ATOMIC_RELAXED);
    }
    __atomic_store_n(&mutex->holder, co, __ATOMIC_RELAXED);
}

static inline bool try_state(CoMutex *mutex)
{
    int free_state = 0;

    return __atomic_compare_exchange_n(&mutex->state, &free_state, 1,
                                       /* weak= */ false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

/* Is the holder running right now, on another thread? */
static bool holder_runs_elsewhere(CoMutex *mutex, AioContext *own)
{
    Coroutine *holder = __atomic_load_n(&mutex->holder, __ATOMIC_RELAXED);
    AioContext *ctx = __atomic_load_n(&mutex->holder_context,
                                      __ATOMIC_RELAXED);

    /* No holder yet: between its two steps, so it is running. */
    return ctx != own &&
           (!holder || !ctx ||
            __atomic_load_n(&ctx->current, __ATOMIC_RELAXED) == holder);
}

static bool spin(CoMutex *mutex, AioContext *own)
{
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        int state = __atomic_load_n(&mutex->state, __ATOMIC_RELAXED);

        if (state == 0 && try_state(mutex)) {
            return true;
        }
        if (state == 2 || !holder_runs_elsewhere(mutex, own)) {
            return false;
        }
        cpu_relax();
    }
    return false;
}

static void coroutine_fn lock_slow(CoMutex *mutex, Coroutine *self)
{
    CoWaiter waiter = { .co = self };

    if (spin(mutex, co_context(self))) {
        return;
    }

    g_mutex_lock(&mutex->wait_lock);
    if (__atomic_exchange_n(&mutex->state, 2, __ATOMIC_ACQUIRE) == 0) {
        /* Freed meanwhile: ours. The 2 makes one unlock slow, no more. */
        g_mutex_unlock(&mutex->wait_lock);
        return;
    }
    waiters_push(&mutex->first_waiter, &mutex->last_waiter, &waiter); /* M1 */
    g_mutex_unlock(&mutex->wait_lock);

    co_yield(); /* M2: comes back with the mutex held */
}

void coroutine_fn co_mutex_lock(CoMutex *mutex)
{
    Coroutine *self = co_self();

    g_assert(self);
    if (G_UNLIKELY(!try_state(mutex))) {
        g_assert(__atomic_load_n(&mutex->holder, __ATOMIC_RELAXED) != self);
        lock_slow(mutex, self);
    }
    set_holder(mutex, self);
}

bool coroutine_fn co_mutex_trylock(CoMutex *mutex)
{
    Coroutine *self = co_self();

    g_assert(self);
    if (!try_state(mutex)) {
        return false;
    }
    set_holder(mutex, self);
    return true;
}

/* Hands over to the first waiter, or frees if there is none after all. */
static void unlock_slow(CoMutex *mutex)
{
    CoWaiter *waiter;
    Coroutine *co = NULL;
    int state = 0;

    g_mutex_lock(&mutex->wait_lock);
    waiter = waiters_pop(&mutex->first_waiter);
    if (waiter) {
        co = waiter->co; /* *waiter goes away with the wake-up */
        state = mutex->first_waiter ? 2 : 1; /* M1, M2 */
    }
    __atomic_store_n(&mutex->state, state, __ATOMIC_RELEASE);
    g_mutex_unlock(&mutex->wait_lock);

    if (co) {
        co_wake(co);
    }
}

void coroutine_fn co_mutex_unlock(CoMutex *mutex)
{
    int held = 1;

    co_mutex_assert_held(mutex);
    set_holder(mutex, NULL);
    if (G_UNLIKELY(!__atomic_compare_exchange_n(&mutex->state, &held, 0,
                                                /* weak= */ false,
                                                __ATOMIC_RELEASE,
                                                __ATOMIC_RELAXED))) {
        unlock_slow(mutex);
    }
}

void co_mutex_assert_held(const CoMutex *mutex)
{
    Coroutine *self = co_self();

    g_assert(self &&
             __atomic_load_n(&mutex->holder, __ATOMIC_RELAXED) == self);
}

void co_queue_init(CoQueue *queue)
{
    g_mutex_init(&queue->lock);
    queue->first_waiter = NULL;
    queue->last_waiter = NULL;
}

void co_queue_destroy(CoQueue *queue)
{
    g_assert(!queue->first_waiter);
    g_mutex_clear(&queue->lock);
}

void coroutine_fn co_queue_wait(CoQueue *queue, CoMutex *mutex)
{
    CoWaiter waiter = { .co = co_self() };

    g_assert(waiter.co);
    /* Queued before the mutex is free: no wake after that is lost. */
    g_mutex_lock(&queue->lock);
    waiters_push(&queue->first_waiter, &queue->last_waiter, &waiter);
    g_mutex_unlock(&queue->lock);

    if (mutex) {
        co_mutex_unlock(mutex);
    }
    co_yield();
    if (mutex) {
        co_mutex_lock(mutex);
    }
}

bool co_queue_wake_one(CoQueue *queue)
{
    CoWaiter *waiter;
    Coroutine *co = NULL;

    g_mutex_lock(&queue->lock);
    waiter = waiters_pop(&queue->first_waiter);
    if (waiter) {
        co = waiter->co;
    }
    g_mutex_unlock(&queue->lock);

    if (co) {
        co_wake(co);
    }
    return co != NULL;
}

void co_queue_wake_all(CoQueue *queue)
{
    CoWaiter *waiter;

    /* Takes the whole list: who queues again is not woken twice. */
    g_mutex_lock(&queue->lock);
    waiter = queue->first_waiter;
    queue->first_waiter = NULL;
    g_mutex_unlock(&queue->lock);

    while (waiter) {
        CoWaiter *next = waiter->next;

        co_wake(waiter->co);
        waiter = next;
    }
}

bool co_queue_is_empty(CoQueue *queue)
{
    bool empty;

    g_mutex_lock(&queue->lock);
    empty = !queue->first_waiter;
    g_mutex_unlock(&queue->lock);
    return empty;
}
