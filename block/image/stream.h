/* SPDX-License-Identifier: MIT */
/*
 * stream: data from the layers below moves up into a node
 */
#ifndef BLOCK_IMAGE_STREAM_H
#define BLOCK_IMAGE_STREAM_H

#include "block/image/job.h"

/*
 * stream_job_new:
 * A job, not yet started, that fills @top with what the layers between it and
 * @base (exclusive; NULL: all) have. At the end @base is the backing node of
 * @top, also in the header. What was copied stays in @top when the job fails
 * or is cancelled; the chain is as before then.
 *
 * @top may be in use and may be a layer of a longer chain; filters on top of
 * it are looked through. A read-only @top is writable for the time.
 * OPTION: @base is not below @top. UNSUPPORTED: the header cannot be changed.
 * CONFLICT: another job works there, or somebody may resize @top.
 */
Job *stream_job_new(const char *id, BlockDriverState *top,
                    BlockDriverState *base, GError **error);

#endif
