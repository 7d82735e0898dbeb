/* SPDX-License-Identifier: MIT */
/*
 * AioContext: one thread's event loop
 *
 * Each I/O thread has one, and so has the control plane's thread. A context
 * owns its ready list of coroutines, one-shot callbacks, timers, watched file
 * descriptors and its instances of the I/O engines (engine.h).
 *
 * One turn of the loop (aio_poll): run what is ready -> submit queued I/O ->
 * reap completions -> look at file descriptors -> and, when nothing at all is
 * ready and the caller allows it, sleep.
 *
 * Threads: everything is for the context's own thread, except the functions
 * marked "any thread". Work from other threads arrives on a lock-free list,
 * followed by aio_notify().
 */
#ifndef BLOCK_RT_AIO_CONTEXT_H
#define BLOCK_RT_AIO_CONTEXT_H

#include "block/rt/coroutine.h"

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* Contexts that may exist at a time; state per context is an array of these. */
#define AIO_CONTEXTS_MAX 64

typedef void AioCallback(void *opaque);
typedef void AioFdHandler(int fd, uint32_t epoll_events, void *opaque);

/*
 * Something that can sleep in the kernel for the next request instead of the
 * loop, at one system call instead of two or three. It is used only when
 * nothing else can make this thread runnable but a notify: no live coroutine,
 * no timer, no I/O in flight.
 */
typedef struct AioIdleSource {
    /* Sleeps for a request and handles it, or returns because of interrupt. */
    void (*wait)(void *opaque);
    /*
     * Makes a wait() that runs, or is about to, return soon. Any thread. May
     * come when wait() has just returned: then it may do nothing.
     */
    void (*interrupt)(void *opaque);
    void *opaque;
} AioIdleSource;

/*
 * aio_context_new:
 * Makes a context and binds it to the calling thread, which must have none.
 * NULL with @error when the kernel refuses a descriptor or AIO_CONTEXTS_MAX
 * are in use. A missing io_uring is not an error: engines that the kernel
 * lacks are absent (engine.h).
 */
AioContext *aio_context_new(GError **error);

/* Unbinds and frees. No coroutine, timer or I/O of it may be left. */
void aio_context_free(AioContext *ctx);

/* The calling thread's context, or NULL. */
AioContext *aio_context_current(void);

/* 0 .. AIO_CONTEXTS_MAX - 1, unique among the contexts that exist now. */
unsigned aio_context_index(const AioContext *ctx);

/* One more than the highest index that was ever in use. Any thread. */
unsigned aio_context_index_limit(void);

/*
 * aio_poll:
 * One turn. With @may_sleep it sleeps until something happened. Returns
 * whether anything was done. Not from a coroutine.
 */
bool aio_poll(AioContext *ctx, bool may_sleep);

/*
 * Makes a sleeping aio_poll() return, or the next one not sleep: what the
 * caller wrote before is seen by whoever looks after that turn. Any thread.
 */
void aio_notify(AioContext *ctx);

/* Runs @callback(@opaque) once on a coming turn of @ctx. Any thread. */
void aio_schedule(AioContext *ctx, AioCallback *callback, void *opaque);

/*
 * aio_set_fd_handler:
 * Calls @handler when @fd has any of @epoll_events (level-triggered; EPOLLIN,
 * EPOLLOUT, EPOLLEXCLUSIVE, ...). @handler NULL stops watching. The caller
 * keeps @fd open while it is watched.
 */
void aio_set_fd_handler(AioContext *ctx, int fd, uint32_t epoll_events,
                        AioFdHandler *handler, void *opaque);

/*
 * aio_set_idle_source:
 * Installs (NULL removes) the idle source; *source must live as long. While
 * it sleeps nobody looks at watched descriptors: what they announce must wake
 * the source, too. Home thread; after the return no interrupt() runs.
 */
void aio_set_idle_source(AioContext *ctx, const AioIdleSource *source);

/*
 * aio_idle_source_awake:
 * For wait(): from here on until the next wait() no interrupt() is wanted,
 * because a request has come and the loop will turn anyway. Optional.
 */
void aio_idle_source_awake(AioContext *ctx);

/*
 * aio_run_sync:
 * Runs @entry(@opaque) in a coroutine of the calling thread and polls its
 * context until it has ended. How the control plane does I/O. Not from a
 * coroutine (there, call the function itself).
 */
void aio_run_sync(CoEntry *entry, void *opaque);

#endif
