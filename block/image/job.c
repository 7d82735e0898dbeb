/* SPDX-License-Identifier: MIT */
/*
 * jobs: long work on a live graph
 *
 * This file knows threads, states, progress, speed and cancelling. What a job
 * does to images is its JobDriver's.
 *
 * Threads: the coroutine lives on one context; everything that changes the
 * graph, and freeing, is the control plane's. The two meet in
 *  - atomics: status, cancelled, should_complete, progress, speed;
 *  - job->lock, which protects the coroutine's sleep (sleeping and kicked, so
 *    that a kick wakes it exactly once and is never lost) and is innermost;
 *  - the coroutine's end: a callback on the control plane's context is the
 *    last that it does; jobs_finish() goes on from there. A callback, since a
 *    bare notify is lost when the control plane is just about to sleep.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "block/image/job.h"

#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/image/fault.h"
#include "block/rt/timer.h"

#include <errno.h>

#define NS_PER_SECOND INT64_C(1000000000)
/* A longer sleep for the rate limit looks again whether it changed. */
#define SLEEP_MAX_NS (NS_PER_SECOND / 2)

struct Job {
    const JobDriver *driver;
    char *id;
    void *state;
    AioContext *control; /* the control plane's context */

    /* atomic */
    JobStatus status;
    bool cancelled;
    bool should_complete;
    int64_t done_bytes;
    int64_t total_bytes;
    int64_t speed;

    /* the coroutine's own */
    int64_t next_chunk_ns; /* when the rate limit allows the next one */
    int ret;
    ImageFault fault; /* why, when a request failed */

    GMutex lock;
    Coroutine *sleeping; /* who a kick must wake; protected by lock */
    bool kicked;         /* while it was awake; protected by lock */

    /* control plane */
    bool ended;    /* the coroutine will not touch the job any more */
    GError *error; /* why it failed */
};

static GPtrArray *all_jobs; /* control plane */

/* -- life (control plane) ------------------------------------------------ */

static Job *find_job(const char *id)
{
    for (guint i = 0; all_jobs != NULL && i < all_jobs->len; i++) {
        Job *job = g_ptr_array_index(all_jobs, i);

        if (g_str_equal(job->id, id)) {
            return job;
        }
    }
    return NULL;
}

Job *job_new(const JobDriver *driver, const char *id, GError **error)
{
    Job *job;

    if (find_job(id) != NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "job '%s' exists already", id);
        return NULL;
    }
    job = g_new0(Job, 1);
    job->driver = driver;
    job->id = g_strdup(id);
    job->state = g_malloc0(MAX(driver->instance_size, 1));
    job->control = aio_context_current();
    g_mutex_init(&job->lock);
    if (all_jobs == NULL) {
        all_jobs = g_ptr_array_new();
    }
    g_ptr_array_add(all_jobs, job);
    return job;
}

void *job_state(Job *job)
{
    return job->state;
}

static JobStatus status_of(Job *job)
{
    return __atomic_load_n(&job->status, __ATOMIC_ACQUIRE);
}

static void set_status(Job *job, JobStatus status)
{
    __atomic_store_n(&job->status, status, __ATOMIC_RELEASE);
}

static void on_end(void *opaque)
{
    Job *job = opaque;

    job->ended = true;
}

static void coroutine_fn run_job(void *opaque)
{
    Job *job = opaque;

    job->ret = job->driver->run(job);
    aio_schedule(job->control, on_end, job);
    /* The job may be freed from here on. */
}

static void enter_job(void *opaque)
{
    co_enter(co_create(run_job, opaque));
}

void job_start(Job *job, IoThread *thread)
{
    g_assert(status_of(job) == JOB_CREATED);
    set_status(job, JOB_RUNNING);
    aio_schedule(thread != NULL ? io_thread_context(thread) : job->control,
                 enter_job, job);
}

/* After the coroutine: decide, change the graph, clean. */
static void finish_job(Job *job)
{
    const JobDriver *driver = job->driver;
    bool ok;

    set_status(job, JOB_FINISHING);
    if (job->ret == 0 && job_is_cancelled(job)) {
        job->ret = -ECANCELED;
    }
    if (job->ret == -ECANCELED && job->error == NULL) {
        g_set_error(&job->error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "interrupted");
    }
    if (job->ret < 0 && job->error == NULL &&
        !image_fault_tell(&job->fault, &job->error)) {
        error_set_errno(&job->error, -job->ret, "%s job '%s'", driver->name,
                        job->id);
    }
    ok = job->ret == 0 &&
         (driver->prepare == NULL || driver->prepare(job, &job->error));
    if (ok && driver->commit != NULL) {
        driver->commit(job);
    } else if (!ok && driver->abort != NULL) {
        driver->abort(job);
    }
    if (driver->clean != NULL) {
        driver->clean(job);
    }
    set_status(job, JOB_DONE);
}

/* A job that has ended and is not finished, or NULL. */
static Job *next_to_finish(void)
{
    for (guint i = 0; all_jobs != NULL && i < all_jobs->len; i++) {
        Job *job = g_ptr_array_index(all_jobs, i);

        if (job->ended && status_of(job) < JOB_FINISHING) {
            return job;
        }
    }
    return NULL;
}

bool jobs_finish(void)
{
    bool found = false;
    Job *job;

    /* Finishing one polls the loop, in which others may end. */
    while ((job = next_to_finish()) != NULL) {
        finish_job(job);
        found = true;
    }
    return found;
}

static void do_nothing(void *opaque)
{
}

bool job_wait(Job *job, bool until_ready, int64_t timeout_ns)
{
    int64_t deadline_ns = clock_now_ns() + timeout_ns;
    AioTimer timer;
    bool reached;

    aio_timer_init(&timer, job->control, do_nothing, NULL);
    for (;;) {
        jobs_finish();
        reached = status_of(job) == JOB_DONE ||
                  (until_ready && status_of(job) == JOB_READY);
        if (reached || (timeout_ns >= 0 && clock_now_ns() >= deadline_ns)) {
            break;
        }
        if (timeout_ns >= 0) {
            aio_timer_arm(&timer, deadline_ns);
        }
        aio_poll(job->control, /* may_sleep= */ true);
    }
    aio_timer_cancel(&timer);
    return reached;
}

bool job_result(Job *job, GError **error)
{
    g_assert(status_of(job) == JOB_DONE);
    if (job->error != NULL) {
        g_propagate_error(error, g_error_copy(job->error));
        return false;
    }
    return true;
}

void job_free(Job *job)
{
    if (job == NULL) {
        return;
    }
    if (status_of(job) != JOB_CREATED) {
        if (status_of(job) != JOB_DONE) {
            job_cancel(job);
        }
        if (!job->ended && job->driver->let_go != NULL) {
            job->driver->let_go(job);
        }
        (void) job_wait(job, /* until_ready= */ false, /* timeout_ns= */ -1);
    } else if (job->driver->clean != NULL) {
        job->driver->clean(job);
    }
    g_ptr_array_remove(all_jobs, job);
    if (all_jobs->len == 0) {
        g_clear_pointer(&all_jobs, g_ptr_array_unref);
    }
    g_clear_error(&job->error);
    image_fault_clear(&job->fault);
    g_mutex_clear(&job->lock);
    g_free(job->state);
    g_free(job->id);
    g_free(job);
}

/* -- steering (any thread) ----------------------------------------------- */

void job_kick(Job *job)
{
    g_mutex_lock(&job->lock);
    if (job->sleeping != NULL) {
        co_wake(g_steal_pointer(&job->sleeping));
    } else {
        job->kicked = true;
    }
    g_mutex_unlock(&job->lock);
}

void job_set_speed(Job *job, int64_t bytes_per_second)
{
    __atomic_store_n(&job->speed, bytes_per_second, __ATOMIC_RELEASE);
    job_kick(job);
}

void job_cancel(Job *job)
{
    __atomic_store_n(&job->cancelled, true, __ATOMIC_RELEASE);
    job_kick(job);
}

bool job_complete(Job *job, GError **error)
{
    if (status_of(job) != JOB_READY) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "%s job '%s' is not ready to complete", job->driver->name,
                    job->id);
        return false;
    }
    __atomic_store_n(&job->should_complete, true, __ATOMIC_RELEASE);
    job_kick(job);
    return true;
}

void job_get_progress(Job *job, JobProgress *ret_progress)
{
    ret_progress->status = status_of(job);
    ret_progress->done_bytes =
        __atomic_load_n(&job->done_bytes, __ATOMIC_RELAXED);
    ret_progress->total_bytes =
        __atomic_load_n(&job->total_bytes, __ATOMIC_RELAXED);
}

/* -- for the job's coroutine --------------------------------------------- */

int job_note_fault(Job *job, int ret, const char *what, BlockBackend *blk,
                   int64_t offset, int64_t bytes)
{
    return ret >= 0 ? ret
                    : image_fault_note(
                          &job->fault, ret, what,
                          bdrv_name(bdrv_skip_filters(blk_bs(blk))), offset,
                          bytes);
}

bool job_is_cancelled(Job *job)
{
    return __atomic_load_n(&job->cancelled, __ATOMIC_ACQUIRE);
}

bool job_should_complete(Job *job)
{
    return __atomic_load_n(&job->should_complete, __ATOMIC_ACQUIRE);
}

static void on_sleep_end(void *opaque)
{
    job_kick(opaque);
}

void coroutine_fn job_co_sleep_ns(Job *job, int64_t delay_ns)
{
    AioTimer timer;
    bool kicked;

    g_mutex_lock(&job->lock);
    kicked = job->kicked;
    job->kicked = false;
    job->sleeping = kicked ? NULL : co_self();
    g_mutex_unlock(&job->lock);
    if (kicked) {
        return;
    }
    aio_timer_init(&timer, co_context(co_self()), on_sleep_end, job);
    aio_timer_arm(&timer, clock_now_ns() + delay_ns);
    co_yield();
    aio_timer_cancel(&timer);
}

int coroutine_fn job_co_pause_point(Job *job, int64_t bytes)
{
    int64_t now_ns = clock_now_ns();

    job->next_chunk_ns = MAX(job->next_chunk_ns, now_ns);
    while (!job_is_cancelled(job)) {
        int64_t speed = __atomic_load_n(&job->speed, __ATOMIC_ACQUIRE);
        int64_t wait_ns;

        if (speed <= 0) {
            job->next_chunk_ns = 0;
            break;
        }
        if (bytes > 0) {
            job->next_chunk_ns += (double) bytes / speed * NS_PER_SECOND;
            bytes = 0;
        }
        wait_ns = job->next_chunk_ns - clock_now_ns();
        if (wait_ns <= 0) {
            break;
        }
        job_co_sleep_ns(job, MIN(wait_ns, SLEEP_MAX_NS));
    }
    return job_is_cancelled(job) ? -ECANCELED : 0;
}

void job_set_total(Job *job, int64_t bytes)
{
    __atomic_store_n(&job->total_bytes, bytes, __ATOMIC_RELAXED);
}

void job_progress(Job *job, int64_t bytes)
{
    __atomic_add_fetch(&job->done_bytes, bytes, __ATOMIC_RELAXED);
}

void job_set_ready(Job *job)
{
    set_status(job, JOB_READY);
    /* Runs before the callback of the job's end, so it needs no waiting. */
    aio_schedule(job->control, do_nothing, NULL);
}
