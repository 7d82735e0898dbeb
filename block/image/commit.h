/* SPDX-License-Identifier: MIT */
/*
 * commit: data of upper layers moves down into a lower one
 */
#ifndef BLOCK_IMAGE_COMMIT_H
#define BLOCK_IMAGE_COMMIT_H

#include "block/image/job.h"

/*
 * commit_job_new:
 * A job, not yet started, that copies what the layers above @base up to and
 * including @top have into @base. At the end all users of @top use @base
 * instead, and headers that named @top name @base.
 *
 * When somebody may write @top, the job gets ready (job.h) and follows the
 * writes until job_complete(). @base is writable and as long as @top for the
 * time; it is read-only again afterwards if nobody writes it then. After a
 * failure or a cancel the chain is as before; @base may have got some of the
 * data, which no layer above shows.
 *
 * OPTION: @base is not below @top. CONFLICT: another job works there, @base or
 * a layer in between has other users, or somebody may resize @top.
 * UNSUPPORTED: a header cannot be changed. DENIED, LOCKED, ...: @base cannot
 * be written.
 */
Job *commit_job_new(const char *id, BlockDriverState *top,
                    BlockDriverState *base, GError **error);

#endif
