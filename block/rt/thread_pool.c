/* SPDX-License-Identifier: MIT */
/*
 * the process's worker threads
 *
 *   submit ──▶ [queue, first in first out] ──▶ up to THREAD_POOL_MAX workers
 *
 * A worker is started when a task comes and fewer workers are idle than tasks
 * queued; it ends after IDLE_SECONDS without a task. Workers are joinable, so
 * that leak checkers see their ends: who needs a slot, or shuts down, joins
 * what has ended there.
 *
 * Locking: pool.lock protects all of `pool`; it is a leaf, tasks run without.
 */
#include "block/rt/thread_pool.h"

#include "block/rt/aio_context.h"
#include "block/rt/buffer_pool.h"

#include <pthread.h>
#include <signal.h>

#define IDLE_SECONDS 10

typedef enum SlotState {
    SLOT_FREE,
    SLOT_RUNNING,
    SLOT_ENDED, /* to be joined */
} SlotState;

typedef struct Worker {
    SlotState state;
    GThread *thread;
} Worker;

static struct {
    GMutex lock;
    GCond work;  /* a task was queued, or stop */
    GCond ended; /* a worker ended */
    ThreadPoolTask *first;
    ThreadPoolTask *last;
    unsigned n_queued;
    unsigned n_idle;
    unsigned n_running; /* workers, busy or idle */
    bool stop;
    Worker workers[THREAD_POOL_MAX];
} pool;

/* The next task, or NULL when the worker shall end. Lock held. */
static ThreadPoolTask *next_task(void)
{
    gint64 end_time_us = g_get_monotonic_time() +
                         IDLE_SECONDS * G_TIME_SPAN_SECOND;
    ThreadPoolTask *task;
    bool in_time = true;

    pool.n_idle++;
    while (!pool.first && !pool.stop && in_time) {
        in_time = g_cond_wait_until(&pool.work, &pool.lock, end_time_us);
    }
    pool.n_idle--;

    task = pool.first; /* queued tasks are served before a stop */
    if (task) {
        pool.first = task->next;
        pool.n_queued--;
    }
    return task;
}

static void *worker_main(void *opaque)
{
    Worker *worker = opaque;
    ThreadPoolTask *task;

    (void) pthread_setname_np(pthread_self(), "imgfuse-worker");
    g_mutex_lock(&pool.lock);
    while ((task = next_task()) != NULL) {
        g_mutex_unlock(&pool.lock);
        task->run(task);
        g_mutex_lock(&pool.lock);
    }
    worker->state = SLOT_ENDED;
    pool.n_running--;
    g_cond_broadcast(&pool.ended);
    g_mutex_unlock(&pool.lock);
    buffer_pool_drain();
    return NULL;
}

/* Starts a worker in a slot; false when it cannot be. Lock held. */
static bool start_worker(void)
{
    Worker *worker = pool.workers;
    sigset_t all, before;

    while (worker->state == SLOT_RUNNING) {
        worker++; /* n_running < THREAD_POOL_MAX: there is one */
    }
    if (worker->state == SLOT_ENDED) {
        g_thread_join(worker->thread);
        worker->state = SLOT_FREE;
    }

    /* Signals are the main thread's affair; the worker inherits the mask. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    worker->thread = g_thread_try_new("imgfuse-worker", worker_main, worker,
                                      /* error= */ NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!worker->thread) {
        return false;
    }
    worker->state = SLOT_RUNNING;
    pool.n_running++;
    return true;
}

void thread_pool_submit(ThreadPoolTask *task)
{
    g_mutex_lock(&pool.lock);
    if (pool.n_idle <= pool.n_queued && pool.n_running < THREAD_POOL_MAX &&
        !start_worker() && pool.n_running == 0) {
        g_mutex_unlock(&pool.lock);
        task->run(task);
        return;
    }
    task->next = NULL;
    if (pool.first) {
        pool.last->next = task;
    } else {
        pool.first = task;
    }
    pool.last = task;
    pool.n_queued++;
    g_cond_signal(&pool.work);
    g_mutex_unlock(&pool.lock);
}

typedef struct CoTask {
    ThreadPoolTask task;
    int (*function)(void *opaque);
    void *opaque;
    Coroutine *co;
    int result;
} CoTask;

static void co_task_run(ThreadPoolTask *task)
{
    CoTask *co_task = (CoTask *)task;

    co_task->result = co_task->function(co_task->opaque);
    co_wake(co_task->co);
}

int coroutine_fn thread_pool_co_run(int (*function)(void *opaque),
                                    void *opaque)
{
    CoTask task = {
        .task.run = co_task_run,
        .function = function,
        .opaque = opaque,
        .co = co_self(),
    };

    g_assert(task.co);
    thread_pool_submit(&task.task);
    co_yield();
    return task.result;
}

void thread_pool_shutdown(void)
{
    g_mutex_lock(&pool.lock);
    pool.stop = true;
    g_cond_broadcast(&pool.work);
    while (pool.n_running) {
        g_cond_wait(&pool.ended, &pool.lock);
    }
    for (int i = 0; i < THREAD_POOL_MAX; i++) {
        Worker *worker = &pool.workers[i];

        if (worker->state == SLOT_ENDED) {
            g_thread_join(worker->thread);
            worker->state = SLOT_FREE;
        }
    }
    pool.stop = false; /* may be used again */
    g_mutex_unlock(&pool.lock);
}
