/* SPDX-License-Identifier: MIT */
/*
 * Export: one BlockBackend shown as a regular file
 *
 * What a backend does not know and a file has: a name, times, a rule for
 * writes past the end, allocated size as st_blocks. An export lives from
 * before the mount until after it; its backend belongs to it.
 */
#ifndef FUSE_EXPORT_H
#define FUSE_EXPORT_H

#include "block/backend.h"
#include "block/rt/comutex.h"

typedef struct Export {
    char *name; /* in the mount */
    char *reference; /* what the user calls the image, or NULL; owned */
    BlockBackend *blk;
    bool read_only;
    bool growable; /* the file may change its length */
    bool unmap;    /* punched holes give clusters back */
    int64_t cluster_bytes; /* > 0: for st_blksize and statfs */

    /* Who is to know when the length changes by other ways than ours. */
    void (*on_stale)(struct Export *export, void *opaque);
    void *stale_opaque;
    bool is_resizing; /* atomic: we are changing the length */

    int users; /* atomic: opens of the file that are not released yet */

    CoMutex resize_lock; /* a look at the length and a truncate by it */

    /* Atomic; nanoseconds. */
    int64_t mtime_ns; /* of the realtime clock */
    int64_t birth_ns;
    int64_t allocated_bytes; /* as of allocated_at_ns */
    int64_t allocated_at_ns; /* monotonic clock; 0: never asked */
} Export;

typedef enum ExportFlags {
    EXPORT_GROWABLE = 1 << 0,
    EXPORT_UNMAP = 1 << 1,
} ExportFlags;

/* Takes @blk over. @mtime_ns: the file's time until the first write. */
Export *export_new(const char *name, BlockBackend *blk, ExportFlags flags,
                   int64_t mtime_ns);

/* Flushes, closes the image, frees. Control plane. */
void export_free(Export *export);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Export, export_free)

static inline int64_t export_length(const Export *export)
{
    return blk_length(export->blk);
}

/*
 * export_co_allocated:
 * Bytes that the image uses on its medium, at most a second old. Never fails:
 * when the medium cannot tell, the whole length counts.
 */
int64_t coroutine_fn export_co_allocated(Export *export);

/*
 * export_co_make_room:
 * Sees to it that @end is not past the file's end. -ENOSPC when it is and the
 * file may not grow.
 */
int coroutine_fn export_co_make_room(Export *export, int64_t end);

/* A new length. -EPERM unless it is the present one or the file may grow. */
int coroutine_fn export_co_truncate(Export *export, int64_t length);

/*
 * @on_stale(@export, @opaque) is called when somebody below (a job, a snapshot
 * that was gone back to) has changed the length: any thread, no I/O. Before
 * requests begin.
 */
void export_watch_length(Export *export,
                         void (*on_stale)(Export *export, void *opaque),
                         void *opaque);

/* The content changes now. Cheap; any thread. */
void export_touch(Export *export);

#endif
