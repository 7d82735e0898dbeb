/* SPDX-License-Identifier: MIT */
/*
 * a backend as a file: times, length rules, allocated size
 *
 * The kernel's requests are file_ops.c's affair; here is what outlives one.
 *
 * Always true: the length is the backend's; nothing here keeps a copy of it.
 *
 * Locking: resize_lock around "compare the length, then change it", so that
 * two writers past the end cannot shrink each other's file. Times and the
 * cached size are atomics that may be a moment old.
 */
#include "fuse/export.h"

#include "block/rt/timer.h"

#include "fuse/log.h"

#include <errno.h>
#include <inttypes.h>
#include <time.h>

/* How old the answer to "how much does the image use" may be. */
#define ALLOCATED_VALID_NS ((int64_t)1000000000)

/* Writes move the time at most this often: the field's line is shared. */
#define TOUCH_INTERVAL_NS ((int64_t)10000000)

Export *export_new(const char *name, BlockBackend *blk, ExportFlags flags,
                   int64_t mtime_ns)
{
    Export *export = g_new0(Export, 1);

    export->name = g_strdup(name);
    export->blk = blk;
    export->read_only = blk_is_read_only(blk);
    export->growable = (flags & EXPORT_GROWABLE) && !export->read_only;
    export->unmap = flags & EXPORT_UNMAP;
    export->cluster_bytes = blk_cluster_bytes(blk);
    if (export->cluster_bytes <= 0 || export->cluster_bytes > GIB) {
        export->cluster_bytes = 4096;
    }
    export->mtime_ns = mtime_ns;
    export->birth_ns = mtime_ns;
    co_mutex_init(&export->resize_lock);
    return export;
}

void export_free(Export *export)
{
    if (!export) {
        return;
    }
    blk_free(export->blk);
    co_mutex_destroy(&export->resize_lock);
    g_free(export->name);
    g_free(export->reference);
    g_free(export);
}

int64_t coroutine_fn export_co_allocated(Export *export)
{
    int64_t asked_ns = __atomic_load_n(&export->allocated_at_ns,
                                       __ATOMIC_ACQUIRE);
    int64_t now_ns = clock_now_ns();
    int64_t bytes;

    if (asked_ns && now_ns - asked_ns < ALLOCATED_VALID_NS) {
        return __atomic_load_n(&export->allocated_bytes, __ATOMIC_RELAXED);
    }
    bytes = blk_co_get_allocated_file_size(export->blk);
    if (bytes < 0) {
        bytes = export_length(export);
    }
    __atomic_store_n(&export->allocated_bytes, bytes, __ATOMIC_RELAXED);
    __atomic_store_n(&export->allocated_at_ns, now_ns, __ATOMIC_RELEASE);
    return bytes;
}

/* With resize_lock held. */
static int coroutine_fn set_length(Export *export, int64_t length)
{
    g_autoptr(GError) error = NULL;
    int result;

    if (length > BDRV_MAX_LENGTH) {
        return -EFBIG;
    }
    __atomic_store_n(&export->is_resizing, true, __ATOMIC_RELAXED);
    result = blk_co_truncate(export->blk, length, /* exact= */ true,
                             PREALLOC_OFF, &error);
    __atomic_store_n(&export->is_resizing, false, __ATOMIC_RELAXED);
    if (result < 0) {
        log_info("%s: cannot change the length to %" PRId64 ": %s",
                 export->name, length,
                 error ? error->message : g_strerror(-result));
    } else {
        export_touch(export);
    }
    return result;
}

/* Without the lock first: nearly every write ends within the file. */
int coroutine_fn export_co_make_room(Export *export, int64_t end)
{
    int result = 0;

    if (G_LIKELY(end <= export_length(export))) {
        return 0;
    }
    if (!export->growable) {
        return -ENOSPC;
    }
    co_mutex_lock(&export->resize_lock);
    if (end > export_length(export)) {
        result = set_length(export, end);
    }
    co_mutex_unlock(&export->resize_lock);
    return result;
}

/*
 * The length looked at and the one set must be of one moment, hence the lock.
 */
int coroutine_fn export_co_truncate(Export *export, int64_t length)
{
    int result = 0;

    co_mutex_lock(&export->resize_lock);
    if (length != export_length(export)) {
        result = export->growable ? set_length(export, length) : -EPERM;
    }
    co_mutex_unlock(&export->resize_lock);
    return result;
}

/* The kernel knows of changes that it has asked for itself. */
static void on_resize(void *opaque)
{
    Export *export = opaque;

    if (!__atomic_load_n(&export->is_resizing, __ATOMIC_RELAXED)) {
        export_touch(export);
        export->on_stale(export, export->stale_opaque);
    }
}

void export_watch_length(Export *export,
                         void (*on_stale)(Export *export, void *opaque),
                         void *opaque)
{
    export->stale_opaque = opaque;
    export->on_stale = on_stale;
    blk_set_resize_handler(export->blk, on_resize, export);
}

/* mtime changes with the content, as on any file: rsync and make look at it. */
void export_touch(Export *export)
{
    struct timespec now;
    int64_t now_ns;

    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    now_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    if (now_ns - __atomic_load_n(&export->mtime_ns, __ATOMIC_RELAXED) >=
        TOUCH_INTERVAL_NS) {
        __atomic_store_n(&export->mtime_ns, now_ns, __ATOMIC_RELAXED);
    }
}
