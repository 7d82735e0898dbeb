/* SPDX-License-Identifier: MIT */
/*
 * Control: work that an I/O thread's request hands to the control plane
 *
 * Snapshots are made, views opened and documents written on the main thread
 * only. A request puts its question here and sleeps; the main loop runs what
 * is pending between two of its turns, never inside one, because the answer
 * may drain nodes and turn the loop itself.
 */
#ifndef FUSE_CONTROL_H
#define FUSE_CONTROL_H

#include "block/rt/aio_context.h"

typedef struct Control Control;

/* On the main thread: 0 or -errno for the request. May do I/O and drain. */
typedef int ControlFunction(void *opaque);

/* @ctx: the main thread's; it is woken when there is work. */
Control *control_new(AioContext *ctx);
/* Nothing may be pending. NULL is harmless. */
void control_free(Control *control);

/*
 * control_co_run:
 * @function(@opaque) on the main thread; returns what it returns. Coroutine,
 * any I/O thread; no lock may be held.
 */
int coroutine_fn control_co_run(Control *control, ControlFunction *function,
                                void *opaque);

/* The same without an answer to wait for; any thread. */
void control_post(Control *control, ControlFunction *function, void *opaque);

/* Runs what has come so far. Main thread, outside of callbacks. */
void control_run_pending(Control *control);

#endif
