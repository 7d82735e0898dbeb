/* SPDX-License-Identifier: MIT */
/*
 * worker threads for calls that would block a loop
 *
 * fsync without an async engine, fallocate, large decompression. One pool for
 * the process; threads start on demand (at most THREAD_POOL_MAX) and end when
 * idle for a while.
 */
#ifndef BLOCK_RT_THREAD_POOL_H
#define BLOCK_RT_THREAD_POOL_H

#include "block/rt/coroutine.h"

#define THREAD_POOL_MAX 16

/* A call to make; lives at its owner's until @run has been called. */
typedef struct ThreadPoolTask ThreadPoolTask;
struct ThreadPoolTask {
    void (*run)(ThreadPoolTask *task); /* the worker's last use of @task */
    ThreadPoolTask *next;              /* the pool's own */
};

/*
 * thread_pool_submit:
 * Has a worker call task->run(@task). Any thread. When no thread can be
 * started the call is made here, before the return.
 */
void thread_pool_submit(ThreadPoolTask *task);

/*
 * thread_pool_co_run:
 * Runs @function(@opaque) on a worker while the calling coroutine sleeps;
 * returns what it returned. When no thread can be started it runs inline.
 */
int coroutine_fn thread_pool_co_run(int (*function)(void *opaque),
                                    void *opaque);

/* Ends all workers; before the process ends (leak checkers). Control plane. */
void thread_pool_shutdown(void);

#endif
