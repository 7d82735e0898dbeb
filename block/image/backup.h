/* SPDX-License-Identifier: MIT */
/*
 * backup: a node's data as it is now is copied elsewhere, while it is used
 */
#ifndef BLOCK_IMAGE_BACKUP_H
#define BLOCK_IMAGE_BACKUP_H

#include "block/image/job.h"

typedef enum BackupSync {
    BACKUP_SYNC_FULL,        /* all that the source shows */
    BACKUP_SYNC_TOP,         /* what its own layer has */
    BACKUP_SYNC_INCREMENTAL, /* what a bitmap of the source says */
} BackupSync;

typedef struct BackupConfig {
    BlockDriverState *source;
    BlockDriverState *target; /* as long as the source at least */
    BackupSync sync;
    const char *bitmap; /* the bitmap's name, for INCREMENTAL */
} BackupConfig;

/*
 * backup_job_new:
 * A job, not yet started, that copies the source as it is at this call; what
 * users write from now on is not in it. Success: the bitmap begins anew at
 * this call. Failed or cancelled: it has all that it had, and what was
 * written since. The source's users and graph are as before in either case.
 * When old data cannot be kept it is the job that fails, not the users.
 *
 * Nobody else may write the target. NOT_FOUND: no such bitmap. CONFLICT: it
 * is in use, or permissions clash.
 */
Job *backup_job_new(const char *id, const BackupConfig *config,
                    GError **error);

#endif
