/* SPDX-License-Identifier: MIT */
/*
 * what `convert` and `measure` read: one image or several one behind the
 * other, as it is now or as an internal snapshot has it
 */
#ifndef FUSE_CMD_SOURCE_H
#define FUSE_CMD_SOURCE_H

#include "fuse/cmd/common.h"

typedef struct SourceArgs {
    const CommonArgs *common;
    char *const *names;
    unsigned count;       /* of names */
    const char *snapshot; /* -l; NULL: the current state */
    bool salvage;         /* what cannot be read is zeros */
} SourceArgs;

/* The source, read-only; @user as for blk_open(). NULL with @error. */
BlockBackend *source_open(const SourceArgs *args, const char *user,
                          GError **error);

/*
 * source_tell_lost:
 * Says on standard error, line by line, what a source opened with salvage
 * could not read so far.
 */
void source_tell_lost(const SourceArgs *args, BlockBackend *source);

#endif
