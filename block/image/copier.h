/* SPDX-License-Identifier: MIT */
/*
 * Copier: copies what a dirty bitmap says from one backend to another
 *
 * The common part of commit, mirror and backup. The bitmap is cleared before
 * the source is read, so what is written meanwhile becomes dirty again and is
 * copied again. A live copier goes on until the job is told to complete, with
 * the rest left for copier_finish() in a drained section.
 *
 * The owner makes and frees backends and bitmap, which outlive the copying.
 * The source's length does not change meanwhile (jobs block resizing).
 */
#ifndef BLOCK_IMAGE_COPIER_H
#define BLOCK_IMAGE_COPIER_H

#include "block/backend.h"
#include "block/image/job.h"
#include "block/io/bitmap.h"

/* Bytes per bit when nobody says otherwise. */
#define COPIER_GRANULARITY_DEFAULT (64 * KIB)

typedef struct CopyOp CopyOp;

typedef struct Copier {
    Job *job;
    BlockBackend *source;
    BlockBackend *target;
    BlockBackend *keeper; /* not NULL: it keeps the data by itself (backup) */
    BdrvDirtyBitmap *dirty;
    int64_t length;
    bool is_live;

    /* -- the coroutine's own --------------------------------------------- */
    int64_t position;   /* where the search for dirty bits goes on */
    int64_t done_bytes;
    int64_t in_flight_bytes;
    unsigned in_flight;
    CopyOp *ops;
    Coroutine *waiter;  /* for an operation to end */
    bool has_passed;    /* came to the end of the bitmap once */
    bool is_ready;
    int ret;            /* the first error */
} Copier;

/* The granularity for copying to @target: never less than its clusters. */
int64_t copier_granularity(BlockBackend *target, int64_t wanted);

/* The bits of all that @layers has above @base. Coroutine; 0 or -errno. */
int coroutine_fn copier_co_mark_allocated(Copier *copier, BlockBackend *layers,
                                          BlockDriverState *base);

/*
 * copier_co_run:
 * Copies until nothing is dirty or, when live, until the job should complete.
 * A live job gets ready after the first pass, once little is dirty: a busy
 * guest may never let us see nothing. 0 or -errno; in either case nothing is
 * in flight at the return. Coroutine.
 */
int coroutine_fn copier_co_run(Copier *copier);

/*
 * copier_finish:
 * Copies what is dirty still and flushes the target; the source is drained by
 * the caller. Control plane. 0 or -errno.
 */
int copier_finish(Copier *copier);

#endif
