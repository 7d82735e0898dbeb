/* SPDX-License-Identifier: MIT */
/*
 * TransportDev: requests and replies over /dev/fuse, for one I/O thread
 *
 * Each thread has clones of the mount's device of its own: they share the
 * kernel's queue of requests, and a reply goes back to the clone that the
 * request came from.
 */
#ifndef FUSE_TRANSPORT_DEV_H
#define FUSE_TRANSPORT_DEV_H

#include "block/rt/io_thread.h"

#include "fuse/dispatch.h"

typedef struct TransportDev TransportDev;

/*
 * transport_dev_new:
 * Clones @fuse_fd (INIT must have been answered) and serves it on @thread.
 * @payload_bytes: the largest READ or WRITE agreed on.
 * @on_end(@opaque) is called once, on @thread, when the kernel says that the
 * connection has ended (unmounted or aborted). Control plane.
 */
TransportDev *transport_dev_new(const FuseMountState *mount, int fuse_fd,
                                IoThread *thread, size_t payload_bytes,
                                AioCallback *on_end, void *opaque,
                                GError **error);

/* Takes no more requests; those in flight go on. Control plane. */
void transport_dev_stop(TransportDev *transport);

/* Has every request that was taken been answered? Control plane. */
bool transport_dev_is_idle(TransportDev *transport);

/* Stops and frees; the thread's coroutines must have ended. Control plane. */
void transport_dev_free(TransportDev *transport);

#endif
