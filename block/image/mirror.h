/* SPDX-License-Identifier: MIT */
/*
 * mirror: a node's data is copied to another, which then takes its place
 */
#ifndef BLOCK_IMAGE_MIRROR_H
#define BLOCK_IMAGE_MIRROR_H

#include "block/image/job.h"

typedef enum MirrorSync {
    MIRROR_SYNC_FULL, /* all that the source shows */
    MIRROR_SYNC_TOP,  /* what its own layer has */
    MIRROR_SYNC_NONE, /* what is written from now on */
} MirrorSync;

/* What the target has below it; in place before the copying starts. */
typedef enum MirrorBacking {
    MIRROR_BACKING_LEAVE,  /* what it has */
    MIRROR_BACKING_SOURCE, /* the source's backing node, shared */
    MIRROR_BACKING_OPEN,   /* what its header names, opened anew */
} MirrorBacking;

typedef struct MirrorConfig {
    BlockDriverState *source;
    BlockDriverState *target;
    /*
     * The node that the target takes the place of; NULL: the source. Another
     * one must be replaceable unseen (bdrv_recurse_can_replace()), such as a
     * broken child of a quorum.
     */
    BlockDriverState *replaces;
    MirrorSync sync;
    MirrorBacking backing;
    int64_t granularity;     /* bytes per bit; 0: 64 KiB */
    ReferencePolicy *policy; /* for MIRROR_BACKING_OPEN; may be NULL */
} MirrorConfig;

/*
 * mirror_job_new:
 * A job, not yet started, that copies and follows what is written to the
 * source until it is ready (job.h) and told to complete: then all users of
 * the source (or of @replaces) use the target. Cancelled or failed, they stay where they are,
 * and the target has the backing node that it had.
 *
 * Nobody else may write the target, or resize one of the two; the target is
 * made as long as the source when shorter or longer. CONFLICT otherwise.
 * OPTION when @replaces cannot be replaced.
 */
Job *mirror_job_new(const char *id, const MirrorConfig *config,
                    GError **error);

#endif
