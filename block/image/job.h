/* SPDX-License-Identifier: MIT */
/*
 * jobs: long work on a live graph, cancellable, rate-limited, with progress
 *
 * A job runs a coroutine on an I/O thread (or on the control plane's own loop
 * when there is none) and does its I/O through BlockBackends, which hold it
 * still while a drain lasts. Between two chunks it calls job_co_pause_point(),
 * which sleeps for the rate limit and tells of a cancellation. At its end the
 * control plane changes the graph, drained: in jobs_finish(), which the main
 * loop calls between two turns, never from inside one.
 *
 *   created -> running -> (ready, mirror only) -> finishing -> done
 *
 * prepare/commit/abort/clean run on the control plane after the coroutine:
 * prepare may fail (then abort), exactly one of commit and abort runs, clean
 * always. A cancelled job aborts with -ECANCELED.
 */
#ifndef BLOCK_IMAGE_JOB_H
#define BLOCK_IMAGE_JOB_H

#include "block/backend.h"
#include "block/rt/io_thread.h"

typedef struct Job Job;

typedef struct JobDriver {
    const char *name; /* "commit", "stream", ... */
    size_t instance_size;
    /* The work. 0 or -errno. Coroutine. */
    int coroutine_fn (*run)(Job *job);
    /* Control plane, after run. */
    bool (*prepare)(Job *job, GError **error);
    void (*commit)(Job *job);
    void (*abort)(Job *job);
    void (*clean)(Job *job);
    /*
     * Control plane, while run is at work: lets go of requests that may wait
     * long (bdrv_cancel_in_flight()). NULL: there are none.
     */
    void (*let_go)(Job *job);
} JobDriver;

typedef enum JobStatus {
    JOB_CREATED,
    JOB_RUNNING,
    JOB_READY,
    JOB_FINISHING,
    JOB_DONE,
} JobStatus;

typedef struct JobProgress {
    JobStatus status;
    int64_t done_bytes;
    int64_t total_bytes;
} JobProgress;

/* For job implementations: a job with instance_size zeroed bytes of state. */
Job *job_new(const JobDriver *driver, const char *id, GError **error);
void *job_state(Job *job);

/* Starts it on @thread (NULL: the control plane's loop). */
void job_start(Job *job, IoThread *thread);

/* Bytes per second; 0: no limit. Any thread. */
void job_set_speed(Job *job, int64_t bytes_per_second);
void job_cancel(Job *job);
/* Mirror: a ready job finishes and switches. FAILED when it is not ready. */
bool job_complete(Job *job, GError **error);
void job_get_progress(Job *job, JobProgress *ret_progress);

/*
 * Finishes (prepare, commit or abort, clean) the jobs whose coroutines have
 * ended. True when there was one. Control plane, outside of callbacks.
 */
bool jobs_finish(void);

/*
 * Polls the control plane's loop until the job is done (or, ready: it became
 * ready), at most @timeout_ns (-1: for ever). True when it did.
 */
bool job_wait(Job *job, bool until_ready, int64_t timeout_ns);

/* The result of a job that is done: true, or false with its error. */
bool job_result(Job *job, GError **error);
/* Cancels if needed, also requests that hang; waits, frees. */
void job_free(Job *job);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Job, job_free)

/* -- for the job's coroutine --------------------------------------------- */
bool job_is_cancelled(Job *job);
/*
 * What the job's error will say instead of a bare @ret: see fault.h. Returns
 * @ret.
 */
int job_note_fault(Job *job, int ret, const char *what, BlockBackend *blk,
                   int64_t offset, int64_t bytes);
/* After @bytes of work. Returns -ECANCELED once cancelled, else 0. */
int coroutine_fn job_co_pause_point(Job *job, int64_t bytes);
void job_set_total(Job *job, int64_t bytes);
void job_progress(Job *job, int64_t bytes);
/* Mirror: source and target are equal but for what is being written. */
void job_set_ready(Job *job);
bool job_should_complete(Job *job);
/*
 * Sleeps for @delay_ns, or until job_cancel(), job_complete(),
 * job_set_speed() or job_kick(). May return early.
 */
void coroutine_fn job_co_sleep_ns(Job *job, int64_t delay_ns);
/* There is something new to do. Any thread. */
void job_kick(Job *job);

#endif
