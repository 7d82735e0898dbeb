/* SPDX-License-Identifier: MIT */
/*
 * IoThread: a thread that runs an AioContext until told to stop
 */
#ifndef BLOCK_RT_IO_THREAD_H
#define BLOCK_RT_IO_THREAD_H

#include "block/rt/aio_context.h"

typedef struct IoThread IoThread;

/*
 * io_thread_new:
 * Starts a thread named @name with a context of its own; returns when the
 * context runs. All signals are blocked in it, except those that an idle
 * source unblocks for itself.
 */
IoThread *io_thread_new(const char *name, GError **error);

AioContext *io_thread_context(IoThread *thread);

/*
 * io_thread_run:
 * Runs @callback(@opaque) on @thread's loop, outside of any coroutine, and
 * returns when it has returned. Control plane only.
 */
void io_thread_run(IoThread *thread, AioCallback *callback, void *opaque);

/*
 * io_thread_free:
 * Lets the thread's loop end once no coroutine of it is left, and joins it.
 */
void io_thread_free(IoThread *thread);

#endif
