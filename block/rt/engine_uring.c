/* SPDX-License-Identifier: MIT */
/*
 * the io_uring engine
 *
 * A ring per context. Requests become entries of the submission ring at once;
 * one io_uring_enter() a turn hands them over and collects what has finished.
 *
 * The ring is made with as many of these as the kernel has: SINGLE_ISSUER and
 * DEFER_TASKRUN (6.1) do completion work only when we ask, in our own thread;
 * COOP_TASKRUN (5.19) saves interrupts. With either, finished work shows as
 * IORING_SQ_TASKRUN in the ring's flags, and only io_uring_get_events() turns
 * it into completions. The ring's own descriptor does not wake epoll for such
 * work (seen on 6.18), a registered eventfd is signalled for it: so that is
 * what the loop watches. It is never read.
 *
 * Always true outside a function of this file:
 *  U1  in_flight counts requests queued or in the kernel;
 *  U2  entries that the kernel did not take (short of memory) are offered
 *      again by the next submit, which retry_timer makes happen.
 *
 * Locking: none; home thread only.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "block/rt/engine.h"

#include "block/rt/timer.h"

#include <errno.h>

#ifdef HAVE_LIBURING

#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RING_ENTRIES 128
#define RETRY_DELAY_NS 1000000

/* Newer than some headers; the kernel says whether it knows them. */
#ifndef IORING_SETUP_COOP_TASKRUN
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#endif
#ifndef IORING_SETUP_TASKRUN_FLAG
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif
#ifndef IORING_SQ_TASKRUN
#define IORING_SQ_TASKRUN (1U << 2)
#endif

typedef struct UringEngine {
    struct io_uring ring;
    int event_fd;
    unsigned in_flight;
    unsigned queued; /* of them, not yet taken by the kernel */
    AioTimer retry_timer;
} UringEngine;

static int ring_open(struct io_uring *ring)
{
    static const unsigned flags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
            IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
            IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        0,
    };
    int ret = -EINVAL;

    for (size_t i = 0; i < G_N_ELEMENTS(flags) && ret == -EINVAL; i++) {
        ret = io_uring_queue_init(RING_ENTRIES, ring, flags[i]);
    }
    return ret;
}

/* Kernels before 5.6 lack the plain operations; they count as without. */
static bool ring_has_operations(struct io_uring *ring)
{
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    bool all;

    if (!probe) {
        return false;
    }
    all = io_uring_opcode_supported(probe, IORING_OP_READ) &&
          io_uring_opcode_supported(probe, IORING_OP_WRITE) &&
          io_uring_opcode_supported(probe, IORING_OP_READV) &&
          io_uring_opcode_supported(probe, IORING_OP_WRITEV) &&
          io_uring_opcode_supported(probe, IORING_OP_FSYNC);
    io_uring_free_probe(probe);
    return all;
}

static void uring_submit(AioEngine *opaque);

static void retry_submit(void *opaque)
{
    uring_submit(opaque);
}

static AioEngine *uring_open(AioContext *ctx, int *ret_errno)
{
    g_autofree UringEngine *engine = g_new0(UringEngine, 1);
    int ret = ring_open(&engine->ring);

    if (ret < 0) {
        *ret_errno = -ret;
        return NULL;
    }
    engine->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (engine->event_fd < 0 || !ring_has_operations(&engine->ring) ||
        io_uring_register_eventfd(&engine->ring, engine->event_fd) < 0) {
        if (engine->event_fd >= 0) {
            close(engine->event_fd);
        }
        io_uring_queue_exit(&engine->ring);
        *ret_errno = ENOSYS;
        return NULL;
    }
    aio_timer_init(&engine->retry_timer, ctx, retry_submit, engine);
    return (AioEngine *)g_steal_pointer(&engine);
}

static void uring_close(AioEngine *opaque)
{
    UringEngine *engine = (UringEngine *)opaque;

    g_assert(!engine->in_flight);
    io_uring_queue_exit(&engine->ring);
    close(engine->event_fd);
    g_free(engine);
}

static void prepare(struct io_uring_sqe *sqe, const AioRequest *request)
{
    const struct iovec *iov = request->iov;

    switch (request->op) {
    case AIO_OP_READV:
        if (request->niov == 1) {
            io_uring_prep_read(sqe, request->fd, iov->iov_base,
                               (unsigned)iov->iov_len, request->offset);
        } else {
            io_uring_prep_readv(sqe, request->fd, iov, request->niov,
                                request->offset);
        }
        break;
    case AIO_OP_WRITEV:
        if (request->niov == 1) {
            io_uring_prep_write(sqe, request->fd, iov->iov_base,
                                (unsigned)iov->iov_len, request->offset);
        } else {
            io_uring_prep_writev(sqe, request->fd, iov, request->niov,
                                 request->offset);
        }
        break;
    case AIO_OP_FDATASYNC:
        io_uring_prep_fsync(sqe, request->fd, IORING_FSYNC_DATASYNC);
        break;
    }
}

static unsigned uring_reap(AioEngine *opaque);

static void uring_queue(AioEngine *opaque, AioRequest *request)
{
    UringEngine *engine = (UringEngine *)opaque;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&engine->ring);

    /* Full: make room. Only a kernel out of memory needs more than one go. */
    while (!sqe) {
        uring_submit(opaque);
        (void) uring_reap(opaque);
        sqe = io_uring_get_sqe(&engine->ring);
    }
    prepare(sqe, request);
    io_uring_sqe_set_data(sqe, request);
    engine->in_flight++;
    engine->queued++;
}

static void uring_submit(AioEngine *opaque)
{
    UringEngine *engine = (UringEngine *)opaque;
    int ret;

    if (!engine->queued) {
        return;
    }
    ret = io_uring_submit_and_get_events(&engine->ring);
    if (ret > 0) {
        engine->queued -= (unsigned)ret;
    }
    if (engine->queued) { /* U2 */
        aio_timer_arm(&engine->retry_timer, clock_now_ns() + RETRY_DELAY_NS);
    }
}

/* Completes what is in the completion ring. */
static unsigned take_completions(UringEngine *engine)
{
    struct io_uring_cqe *cqe;
    unsigned head, taken = 0;

    io_uring_for_each_cqe(&engine->ring, head, cqe) {
        AioRequest *request = io_uring_cqe_get_data(cqe);

        request->result = cqe->res;
        co_wake(request->co);
        taken++;
    }
    io_uring_cq_advance(&engine->ring, taken);
    engine->in_flight -= taken;
    return taken;
}

static unsigned uring_reap(AioEngine *opaque)
{
    UringEngine *engine = (UringEngine *)opaque;
    unsigned reaped;

    if (!engine->in_flight) {
        return 0;
    }
    reaped = take_completions(engine);
    while (engine->in_flight &&
           (__atomic_load_n(engine->ring.sq.kflags, __ATOMIC_ACQUIRE) &
            (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW))) {
        unsigned more;

        (void) io_uring_get_events(&engine->ring);
        more = take_completions(engine);
        if (!more) {
            break; /* work that completed nothing: the eventfd tells */
        }
        reaped += more;
    }
    return reaped;
}

static int uring_poll_fd(AioEngine *opaque)
{
    return ((UringEngine *)opaque)->event_fd;
}

#else /* !HAVE_LIBURING */

static AioEngine *uring_open(AioContext *ctx, int *ret_errno)
{
    *ret_errno = ENOSYS;
    return NULL;
}

#define uring_close NULL
#define uring_queue NULL
#define uring_submit NULL
#define uring_reap NULL
#define uring_poll_fd NULL

#endif

const AioEngineOps aio_engine_uring = {
    .name = "io_uring",
    .open = uring_open,
    .close = uring_close,
    .queue = uring_queue,
    .submit = uring_submit,
    .reap = uring_reap,
    .poll_fd = uring_poll_fd,
};
