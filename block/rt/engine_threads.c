/* SPDX-License-Identifier: MIT */
/*
 * the engine of last resort: ordinary system calls in worker threads
 *
 * Always to be had. A request goes to the pool as soon as it is queued and its
 * worker wakes the coroutine itself, so there is nothing to submit or to reap.
 *
 * Locking: none here; co_wake() orders a request's result before its reading.
 */
#include "block/rt/engine.h"

#include "block/rt/thread_pool.h"

#include <errno.h>
#include <unistd.h>

/* There is no state; an instance is only a non-NULL pointer. */
static char instance;

static AioEngine *threads_open(AioContext *ctx, int *ret_errno)
{
    return (AioEngine *)&instance;
}

static void threads_close(AioEngine *engine)
{
}

static ssize_t do_request(const AioRequest *request)
{
    switch (request->op) {
    case AIO_OP_READV:
        return preadv(request->fd, request->iov, request->niov,
                      request->offset);
    case AIO_OP_WRITEV:
        return pwritev(request->fd, request->iov, request->niov,
                       request->offset);
    case AIO_OP_FDATASYNC:
    default:
        return fdatasync(request->fd);
    }
}

/* In a worker. */
static void run_request(ThreadPoolTask *task)
{
    AioRequest *request =
        (AioRequest *)((char *)task - G_STRUCT_OFFSET(AioRequest, task));
    ssize_t ret;

    do {
        ret = do_request(request);
    } while (ret < 0 && errno == EINTR);
    request->result = ret < 0 ? -errno : ret;
    co_wake(request->co);
}

static void threads_queue(AioEngine *engine, AioRequest *request)
{
    request->task.run = run_request;
    thread_pool_submit(&request->task);
}

static void threads_submit(AioEngine *engine)
{
}

static unsigned threads_reap(AioEngine *engine)
{
    return 0;
}

static int threads_poll_fd(AioEngine *engine)
{
    return -1;
}

const AioEngineOps aio_engine_threads = {
    .name = "threads",
    .open = threads_open,
    .close = threads_close,
    .queue = threads_queue,
    .submit = threads_submit,
    .reap = threads_reap,
    .poll_fd = threads_poll_fd,
};
