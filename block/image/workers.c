/* SPDX-License-Identifier: MIT */
/*
 * workers: several coroutines on several I/O threads walk over an image
 *
 *   worker:  lock ─▶ next ─▶ unlock ─▶ run ─▶ lock ─▶ ...
 *
 * The first failure, or the end, stops all workers before their next piece.
 * The last one to stop wakes the control plane, which waits in its loop and
 * then joins the threads.
 *
 * Always true outside a function of this file:
 *  W1  next() was never called again after it said "end" or failed;
 *  W2  active is the number of coroutines that may still touch the crew.
 *
 * Locking: lock (CoMutex) covers next(), has_ended and the order of pieces.
 * ret, active, position and told are atomic.
 */
#include "block/image/workers.h"

#include "block/rt/comutex.h"
#include "block/rt/io_thread.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

#define THREADS_MAX 8

typedef struct Crew {
    const ImageWorkers *workers;
    CoMutex lock;
    bool has_ended;
    int ret;          /* of the first failure */
    int active;       /* W2 */
    int64_t position; /* end of the last piece handed out */
    int64_t told;     /* the position that the control plane was woken for */
    AioContext *home; /* the control plane's */
} Crew;

static void fail(Crew *crew, int ret)
{
    int none = 0;

    (void) __atomic_compare_exchange_n(&crew->ret, &none, ret,
                                       /* weak= */ false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST);
}

static void tell_failure(const Crew *crew, GError **error)
{
    const ImageFault *fault = crew->workers->fault;

    if (crew->ret == -ECANCELED) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "interrupted at offset %" PRId64, crew->position);
    } else if (!fault || !image_fault_tell(fault, error)) {
        error_set_errno(error, -crew->ret, "stopped at offset %" PRId64,
                        crew->position);
    }
}

/* True with a piece; false: stop. */
static bool coroutine_fn take(Crew *crew, ImageWork *work)
{
    int ret = 0;

    co_mutex_lock(&crew->lock);
    if (!crew->has_ended &&
        __atomic_load_n(&crew->ret, __ATOMIC_SEQ_CST) == 0) {
        ret = crew->workers->next(crew->workers->opaque, work);
    }
    if (ret > 0) {
        __atomic_store_n(&crew->position, work->offset + work->bytes,
                         __ATOMIC_RELAXED);
    } else {
        crew->has_ended = true; /* W1 */
    }
    co_mutex_unlock(&crew->lock);
    if (ret < 0) {
        fail(crew, ret);
    }
    return ret > 0;
}

/* Wakes the control plane when a hundredth more has been handed out. */
static void tell_progress(Crew *crew)
{
    int64_t position = __atomic_load_n(&crew->position, __ATOMIC_RELAXED);
    int64_t told = __atomic_load_n(&crew->told, __ATOMIC_RELAXED);

    if (crew->workers->progress &&
        position - told >= crew->workers->total / 100) {
        __atomic_store_n(&crew->told, position, __ATOMIC_RELAXED);
        aio_notify(crew->home);
    }
}

static void coroutine_fn worker_entry(void *opaque)
{
    Crew *crew = opaque;
    AioContext *home = crew->home;
    ImageWork work;

    while (take(crew, &work)) {
        int ret = crew->workers->run(crew->workers->opaque, &work);

        if (ret < 0) {
            fail(crew, ret);
            break;
        }
        tell_progress(crew);
    }
    /* After the last one's decrement the crew may be gone (W2). */
    (void) __atomic_sub_fetch(&crew->active, 1, __ATOMIC_SEQ_CST);
    aio_notify(home);
}

static void start_worker(void *opaque)
{
    co_enter(co_create(worker_entry, opaque));
}

static void wait_for_end(Crew *crew)
{
    int64_t shown = -1;

    while (__atomic_load_n(&crew->active, __ATOMIC_SEQ_CST) > 0) {
        int64_t position = __atomic_load_n(&crew->position, __ATOMIC_RELAXED);

        if (crew->workers->progress && position != shown) {
            crew->workers->progress(crew->workers->opaque, position);
            shown = position;
        }
        (void) aio_poll(crew->home, /* may_sleep= */ true);
    }
    if (crew->workers->progress && crew->ret == 0) {
        crew->workers->progress(crew->workers->opaque, crew->workers->total);
    }
}

static void free_threads(IoThread **threads, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        io_thread_free(threads[i]);
    }
}

int image_workers_run(const ImageWorkers *workers, GError **error)
{
    Crew crew = { .workers = workers, .home = aio_context_current() };
    IoThread *threads[THREADS_MAX];
    unsigned wanted = CLAMP(workers->count, 1, IMAGE_WORKERS_MAX);
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned count = MIN(wanted, (unsigned)CLAMP(cpus, 1, THREADS_MAX));

    for (unsigned i = 0; i < count; i++) {
        g_autofree char *name = g_strdup_printf("worker-%u", i);

        threads[i] = io_thread_new(name, error);
        if (!threads[i]) {
            free_threads(threads, i);
            return -EAGAIN;
        }
    }
    co_mutex_init(&crew.lock);
    crew.active = wanted;
    for (unsigned i = 0; i < wanted; i++) {
        aio_schedule(io_thread_context(threads[i % count]), start_worker,
                     &crew);
    }
    wait_for_end(&crew);
    free_threads(threads, count);
    co_mutex_destroy(&crew.lock);
    if (crew.ret < 0) {
        tell_failure(&crew, error);
    }
    return crew.ret;
}
