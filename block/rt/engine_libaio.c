/* SPDX-License-Identifier: MIT */
/*
 * the kernel's native AIO, for O_DIRECT where io_uring is not to be had
 *
 *   queue ──▶ [waiting, first in first out] ──▶ io_submit, as many as there
 *             are free control blocks ──▶ io_getevents
 *
 * The kernel's completion ring is mapped to user space; its head and tail are
 * compared before io_getevents() is called, so that a turn without completions
 * costs no system call. An eventfd ends sleeps; it is never read.
 *
 * Always true outside a function of this file:
 *  L1  a control block is either on `free_blocks` or in the kernel;
 *  L2  requests wait only while blocks are in the kernel (their completion
 *      submits more) or retry_timer is armed.
 *
 * Locking: none; home thread only.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "block/rt/engine.h"

#include "block/rt/timer.h"

#include <errno.h>

#ifdef HAVE_LIBAIO

#include <libaio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BLOCKS 128
#define RETRY_DELAY_NS 1000000

/* The start of the kernel's ring, as it is mapped at an io_context_t. */
typedef struct KernelRing {
    unsigned id;
    unsigned nr;
    unsigned head;
    unsigned tail;
    unsigned magic;
} KernelRing;

#define KERNEL_RING_MAGIC 0xa10a10a1

typedef struct LibaioEngine {
    io_context_t aio;
    int event_fd;
    AioTimer retry_timer;
    AioRequest *first_waiting;
    AioRequest *last_waiting;
    unsigned n_free;
    struct iocb *free_blocks[BLOCKS];
    struct iocb blocks[BLOCKS];
} LibaioEngine;

static void libaio_submit(AioEngine *opaque);

static void retry_submit(void *opaque)
{
    libaio_submit(opaque);
}

static AioEngine *libaio_open(AioContext *ctx, int *ret_errno)
{
    g_autofree LibaioEngine *engine = g_new0(LibaioEngine, 1);
    int ret = io_setup(BLOCKS, &engine->aio);

    if (ret < 0) {
        *ret_errno = -ret;
        return NULL;
    }
    engine->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (engine->event_fd < 0) {
        *ret_errno = errno;
        io_destroy(engine->aio);
        return NULL;
    }
    for (unsigned i = 0; i < BLOCKS; i++) {
        engine->free_blocks[engine->n_free++] = &engine->blocks[i];
    }
    aio_timer_init(&engine->retry_timer, ctx, retry_submit, engine);
    return (AioEngine *)g_steal_pointer(&engine);
}

static void libaio_close(AioEngine *opaque)
{
    LibaioEngine *engine = (LibaioEngine *)opaque;

    g_assert(engine->n_free == BLOCKS && !engine->first_waiting);
    io_destroy(engine->aio);
    close(engine->event_fd);
    g_free(engine);
}

static void libaio_queue(AioEngine *opaque, AioRequest *request)
{
    LibaioEngine *engine = (LibaioEngine *)opaque;

    request->next = NULL;
    if (engine->first_waiting) {
        engine->last_waiting->next = request;
    } else {
        engine->first_waiting = request;
    }
    engine->last_waiting = request;
}

static void prepare(LibaioEngine *engine, struct iocb *block,
                    AioRequest *request)
{
    switch (request->op) {
    case AIO_OP_READV:
        io_prep_preadv(block, request->fd, request->iov, request->niov,
                       request->offset);
        break;
    case AIO_OP_WRITEV:
        io_prep_pwritev(block, request->fd, request->iov, request->niov,
                        request->offset);
        break;
    case AIO_OP_FDATASYNC:
        io_prep_fdsync(block, request->fd);
        break;
    }
    io_set_eventfd(block, engine->event_fd);
    block->data = request;
}

static void complete(AioRequest *request, ssize_t result)
{
    request->result = result;
    co_wake(request->co);
}

/* Takes the first waiting requests, as many as the kernel has got. */
static void drop_waiting(LibaioEngine *engine, int count)
{
    while (count-- > 0) {
        engine->first_waiting = engine->first_waiting->next;
        engine->n_free--; /* L1: these were the last of the list */
    }
}

static void libaio_submit(AioEngine *opaque)
{
    LibaioEngine *engine = (LibaioEngine *)opaque;

    while (engine->first_waiting && engine->n_free) {
        struct iocb *batch[BLOCKS];
        AioRequest *request = engine->first_waiting;
        int count = 0;
        int ret;

        while (request && (unsigned)count < engine->n_free) {
            batch[count] = engine->free_blocks[engine->n_free - 1 - count];
            prepare(engine, batch[count], request);
            request = request->next;
            count++;
        }
        ret = io_submit(engine->aio, count, batch);
        if (ret > 0) {
            drop_waiting(engine, ret);
        } else if (ret == 0 || ret == -EAGAIN || ret == -EINTR) {
            if (engine->n_free == BLOCKS) { /* L2 */
                aio_timer_arm(&engine->retry_timer,
                              clock_now_ns() + RETRY_DELAY_NS);
            }
            return;
        } else {
            /* It is the first one that was refused. */
            request = engine->first_waiting;
            engine->first_waiting = request->next;
            complete(request, ret);
        }
    }
}

static bool has_completions(const LibaioEngine *engine)
{
    const KernelRing *ring = (const KernelRing *)engine->aio;

    return ring->magic != KERNEL_RING_MAGIC ||
           __atomic_load_n(&ring->head, __ATOMIC_RELAXED) !=
           __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
}

static unsigned libaio_reap(AioEngine *opaque)
{
    LibaioEngine *engine = (LibaioEngine *)opaque;
    struct timespec no_time = { 0, 0 };
    unsigned reaped = 0;

    while (engine->n_free < BLOCKS && has_completions(engine)) {
        struct io_event events[BLOCKS];
        int n = io_getevents(engine->aio, 0, BLOCKS, events, &no_time);

        if (n <= 0) {
            break;
        }
        for (int i = 0; i < n; i++) {
            engine->free_blocks[engine->n_free++] = events[i].obj;
            complete(events[i].data, (ssize_t)(long)events[i].res);
        }
        reaped += (unsigned)n;
    }
    return reaped;
}

static int libaio_poll_fd(AioEngine *opaque)
{
    return ((LibaioEngine *)opaque)->event_fd;
}

#else /* !HAVE_LIBAIO */

static AioEngine *libaio_open(AioContext *ctx, int *ret_errno)
{
    *ret_errno = ENOSYS;
    return NULL;
}

#define libaio_close NULL
#define libaio_queue NULL
#define libaio_submit NULL
#define libaio_reap NULL
#define libaio_poll_fd NULL

#endif

const AioEngineOps aio_engine_libaio = {
    .name = "native",
    .open = libaio_open,
    .close = libaio_close,
    .queue = libaio_queue,
    .submit = libaio_submit,
    .reap = libaio_reap,
    .poll_fd = libaio_poll_fd,
};
