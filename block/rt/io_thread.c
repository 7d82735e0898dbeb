/* SPDX-License-Identifier: MIT */
/*
 * threads that run an event loop
 *
 * Starting waits until the loop exists, stopping until its last coroutine has
 * ended; what runs on the loop is its users' affair.
 *
 * Locking: IoThread.lock protects ctx and error while the thread starts;
 * `stop` belongs to the thread itself. A RemoteCall has a lock of its own.
 */
#include "block/rt/io_thread.h"

#include "block/rt/context_state.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>

struct IoThread {
    GThread *thread;
    char name[16]; /* as much as the kernel keeps */
    GMutex lock;
    GCond started_cond;
    bool started;
    AioContext *ctx; /* NULL with @error set: it could not be made */
    GError *error;
    bool stop;
};

static void *io_thread_main(void *opaque)
{
    IoThread *thread = opaque;
    GError *error = NULL;
    AioContext *ctx = aio_context_new(&error);

    (void) pthread_setname_np(pthread_self(), thread->name);
    g_mutex_lock(&thread->lock);
    thread->ctx = ctx;
    thread->error = error;
    thread->started = true;
    g_cond_signal(&thread->started_cond);
    g_mutex_unlock(&thread->lock);
    if (!ctx) {
        return NULL;
    }

    while (!thread->stop || ctx->n_coroutines) {
        aio_poll(ctx, /* may_sleep= */ true);
    }
    /* Callbacks that came last, and coroutines that they have made. */
    while (aio_poll(ctx, /* may_sleep= */ ctx->n_coroutines > 0) ||
           ctx->n_coroutines) {
    }
    aio_context_free(ctx);
    return NULL;
}

IoThread *io_thread_new(const char *name, GError **error)
{
    IoThread *thread = g_new0(IoThread, 1);
    sigset_t all, before;

    g_strlcpy(thread->name, name, sizeof(thread->name));
    g_mutex_init(&thread->lock);
    g_cond_init(&thread->started_cond);

    /* The new thread inherits the mask. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread->thread = g_thread_try_new(thread->name, io_thread_main, thread,
                                      error);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!thread->thread) {
        io_thread_free(thread);
        return NULL;
    }

    g_mutex_lock(&thread->lock);
    while (!thread->started) {
        g_cond_wait(&thread->started_cond, &thread->lock);
    }
    g_mutex_unlock(&thread->lock);
    if (!thread->ctx) {
        g_propagate_error(error, g_steal_pointer(&thread->error));
        io_thread_free(thread);
        return NULL;
    }
    return thread;
}

AioContext *io_thread_context(IoThread *thread)
{
    return thread->ctx;
}

typedef struct RemoteCall {
    AioCallback *callback;
    void *opaque;
    GMutex lock;
    GCond cond;
    bool done;
} RemoteCall;

static void remote_call_run(void *opaque)
{
    RemoteCall *call = opaque;

    call->callback(call->opaque);
    g_mutex_lock(&call->lock);
    call->done = true;
    g_cond_signal(&call->cond);
    g_mutex_unlock(&call->lock);
}

void io_thread_run(IoThread *thread, AioCallback *callback, void *opaque)
{
    RemoteCall call = { .callback = callback, .opaque = opaque };

    g_assert(thread->ctx != aio_context_current());
    g_mutex_init(&call.lock);
    g_cond_init(&call.cond);
    aio_schedule(thread->ctx, remote_call_run, &call);
    g_mutex_lock(&call.lock);
    while (!call.done) {
        g_cond_wait(&call.cond, &call.lock);
    }
    g_mutex_unlock(&call.lock);
    g_cond_clear(&call.cond);
    g_mutex_clear(&call.lock);
}

static void set_stop(void *opaque)
{
    IoThread *thread = opaque;

    thread->stop = true;
}

void io_thread_free(IoThread *thread)
{
    if (!thread) {
        return;
    }
    if (thread->ctx) {
        aio_schedule(thread->ctx, set_stop, thread);
    }
    if (thread->thread) {
        g_thread_join(thread->thread);
    }
    g_clear_error(&thread->error);
    g_cond_clear(&thread->started_cond);
    g_mutex_clear(&thread->lock);
    g_free(thread);
}
