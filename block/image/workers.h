/* SPDX-License-Identifier: MIT */
/*
 * workers: several coroutines on several I/O threads walk over an image
 *
 * The owner cuts the image into pieces, in order and one call at a time
 * (next), and works on pieces, many at a time and in any order (run). What an
 * image command does with a whole image is these two functions.
 */
#ifndef BLOCK_IMAGE_WORKERS_H
#define BLOCK_IMAGE_WORKERS_H

#include "block/image/fault.h"

#define IMAGE_WORKERS_MAX 16
#define IMAGE_WORKERS_DEFAULT 4

/* One piece; @kind is the owner's. */
typedef struct ImageWork {
    int64_t offset;
    int64_t bytes;
    int kind;
} ImageWork;

typedef struct ImageWorkers {
    /*
     * The next piece, behind the one before. 1, 0 when there is none, or
     * -errno. Coroutine of any worker, never two at a time.
     */
    int coroutine_fn (*next)(void *opaque, ImageWork *ret_work);
    /* Does a piece. 0 or -errno, which ends all. Coroutine. */
    int coroutine_fn (*run)(void *opaque, const ImageWork *work);
    /* All before @offset has been handed out. Control plane; may be NULL. */
    void (*progress)(void *opaque, int64_t offset);
    void *opaque;
    ImageFault *fault; /* where the owner notes what failed; may be NULL */
    int64_t total;  /* bytes, for the steps in which progress is told */
    unsigned count; /* coroutines, 1 .. IMAGE_WORKERS_MAX */
} ImageWorkers;

/*
 * image_workers_run:
 * Returns when there is no piece left and all are done: 0, or the -errno of
 * the first that failed (then pieces may be left, none is being worked on).
 * The error names image, offset and bytes when they were noted; after
 * -ECANCELED it says that the work was interrupted.
 * Threads are as many as CPUs and coroutines allow. Control plane; its
 * loop turns meanwhile.
 */
int image_workers_run(const ImageWorkers *workers, GError **error);

#endif
