/* SPDX-License-Identifier: MIT */
/*
 * posix files: zeroing, discarding and changing the length
 *
 *   wanted                     regular file               block device
 *   zeros, may unmap           PUNCH_HOLE                 PUNCH_HOLE
 *   zeros, stay allocated      ZERO_RANGE, else           ZERO_RANGE, else
 *                              PUNCH_HOLE + allocate      BLKZEROOUT
 *   discard                    PUNCH_HOLE                 BLKDISCARD
 *
 *  F7  nothing here but file_co_truncate() can shorten the file: another
 *      request may be extending it. So a range past the end is made by
 *      writing its last block, not by ftruncate().
 *
 * What a file system does not know is tried once and remembered. Everything
 * runs where it may sleep (file_run_blocking).
 *
 * Locking: none; see file.h.
 */
#include "drivers/file/file.h"

#include "block/rt/buffer_pool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define FILL_BYTES (1 * MIB)

typedef struct RangeTask {
    FileState *s;
    int64_t offset;
    int64_t bytes;
    int64_t length; /* of the node when the request came */
    BdrvRequestFlags flags;
} RangeTask;

static bool is_unsupported(int ret)
{
    return ret == -EOPNOTSUPP || ret == -ENOSYS || ret == -ENOTTY;
}

/* fallocate(2), remembering in *@missing that there is no such thing. */
static int try_fallocate(FileState *s, int mode, int64_t offset, int64_t bytes,
                         bool *missing)
{
    int ret;

    if (__atomic_load_n(missing, __ATOMIC_RELAXED)) {
        return -ENOTSUP;
    }
    do {
        ret = fallocate(s->aio.fd, mode, offset, bytes) < 0 ? -errno : 0;
    } while (ret == -EINTR);
    if (is_unsupported(ret)) {
        __atomic_store_n(missing, true, __ATOMIC_RELAXED);
        return -ENOTSUP;
    }
    return ret;
}

static int punch(FileState *s, int64_t offset, int64_t bytes)
{
    return try_fallocate(s, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                         bytes, &s->no_punch);
}

/* Writes zeros plainly, with a buffer that suits direct I/O. */
static int write_zeros(FileState *s, int64_t offset, int64_t bytes)
{
    size_t buffer_bytes = MIN(bytes, FILL_BYTES);
    uint8_t *buffer = buffer_pool_get(buffer_bytes);
    int ret = buffer == NULL ? -ENOMEM : 0;

    if (buffer != NULL) {
        memset(buffer, 0, buffer_bytes);
    }
    while (ret == 0 && bytes > 0) {
        ssize_t done = pwrite(s->aio.fd, buffer, MIN(bytes, FILL_BYTES),
                              offset);

        if (done < 0 && errno != EINTR) {
            ret = -errno;
        } else if (done > 0) {
            offset += done;
            bytes -= done;
        }
    }
    buffer_pool_put(buffer, buffer_bytes);
    return ret;
}

/* Makes the file reach to the range's end, sparsely (F7). */
static int extend_to_end(const RangeTask *task)
{
    int64_t end = task->offset + task->bytes;
    int64_t step = MIN(task->bytes, task->s->alignment.request);

    return end <= task->length ? 0 : write_zeros(task->s, end - step, step);
}

static int zero_keeping_space(const RangeTask *task)
{
    FileState *s = task->s;
    int ret = try_fallocate(s, FALLOC_FL_ZERO_RANGE, task->offset,
                            task->bytes, &s->no_zero_range);

    if (ret != -ENOTSUP) {
        return ret;
    }
    if (!__atomic_load_n(&s->no_allocate, __ATOMIC_RELAXED)) {
        ret = punch(s, task->offset, task->bytes);
        if (ret == 0) {
            ret = try_fallocate(s, /* mode= */ 0, task->offset, task->bytes,
                                &s->no_allocate);
        }
    }
    return ret;
}

static int zero_file(const RangeTask *task)
{
    int ret = -ENOTSUP;

    if (task->offset >= task->length || (task->flags & BDRV_REQ_MAY_UNMAP)) {
        /* past the end there is mostly nothing to punch, but there may be
         * blocks that were allocated ahead */
        ret = punch(task->s, task->offset, task->bytes);
        if (ret == 0) {
            return extend_to_end(task);
        }
    }
    return ret == -ENOTSUP ? zero_keeping_space(task) : ret;
}

static int zero_device(const RangeTask *task)
{
    FileState *s = task->s;
    uint64_t range[2] = { task->offset, task->bytes };
    int ret = -ENOTSUP;

    if (task->flags & BDRV_REQ_MAY_UNMAP) {
        ret = punch(s, task->offset, task->bytes);
    }
    if (ret == -ENOTSUP && (task->flags & BDRV_REQ_NO_FALLBACK)) {
        return ret; /* the next two may write zeros themselves */
    }
    if (ret == -ENOTSUP) {
        ret = try_fallocate(s, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                            task->offset, task->bytes, &s->no_zero_range);
    }
    if (ret == -ENOTSUP) {
        ret = ioctl(s->aio.fd, BLKZEROOUT, range) < 0 ? -errno : 0;
        ret = is_unsupported(ret) ? -ENOTSUP : ret;
    }
    return ret;
}

static int zero_task(void *opaque)
{
    RangeTask *task = opaque;

    return task->s->is_device ? zero_device(task) : zero_file(task);
}

/* Devices zero and discard whole sectors only. */
static bool fits_device(const FileState *s, int64_t offset, int64_t bytes)
{
    return is_aligned(offset | bytes, s->device_block_bytes);
}

int coroutine_fn file_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, BdrvRequestFlags flags)
{
    FileState *s = bs->opaque;
    RangeTask task = {
        .s = s,
        .offset = offset,
        .bytes = bytes,
        .length = bdrv_node_length(bs),
        .flags = flags,
    };

    if (!fits_device(s, offset, bytes)) {
        return -ENOTSUP;
    }
    return file_run_blocking(s, zero_task, &task);
}

static int discard_task(void *opaque)
{
    RangeTask *task = opaque;
    uint64_t range[2] = { task->offset, task->bytes };
    int ret;

    if (!task->s->is_device) {
        return punch(task->s, task->offset, task->bytes);
    }
    ret = ioctl(task->s->aio.fd, BLKDISCARD, range) < 0 ? -errno : 0;
    return is_unsupported(ret) ? -ENOTSUP : ret;
}

int coroutine_fn file_co_pdiscard(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes)
{
    FileState *s = bs->opaque;
    RangeTask task = { .s = s, .offset = offset, .bytes = bytes };

    if (!fits_device(s, offset, bytes)) {
        return -ENOTSUP;
    }
    return file_run_blocking(s, discard_task, &task);
}

/* ---- length ---- */

typedef struct TruncateTask {
    FileState *s;
    int64_t old_length;
    int64_t length;
    BdrvPreallocMode prealloc;
} TruncateTask;

static int set_length(FileState *s, int64_t length)
{
    int ret;

    do {
        ret = ftruncate(s->aio.fd, length) < 0 ? -errno : 0;
    } while (ret == -EINTR);
    return ret;
}

static int truncate_task(void *opaque)
{
    TruncateTask *task = opaque;
    int64_t added = task->length - task->old_length;
    int ret = set_length(task->s, task->length);

    if (ret < 0 || added <= 0 || task->prealloc == PREALLOC_OFF) {
        return ret;
    }
    if (task->prealloc == PREALLOC_FALLOC) {
        ret = try_fallocate(task->s, /* mode= */ 0, task->old_length, added,
                            &task->s->no_allocate);
    } else {
        ret = write_zeros(task->s, task->old_length, added);
    }
    if (ret < 0) {
        (void) set_length(task->s, task->old_length); /* as it was */
    }
    return ret;
}

/* A device has the length it has. */
static int truncate_device(FileState *s, int64_t length, bool exact,
                           GError **error)
{
    int64_t have = file_fd_length(s->aio.fd, s->is_device);

    if (have < 0 || length > have || (exact && length != have)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: a block device cannot be resized from here",
                    s->filename);
        return have < 0 ? (int)have : length > have ? -EINVAL : -ENOTSUP;
    }
    return 0;
}

int coroutine_fn file_co_truncate(BlockDriverState *bs, int64_t length,
                                  bool exact, BdrvPreallocMode prealloc,
                                  BdrvRequestFlags flags, GError **error)
{
    FileState *s = bs->opaque;
    TruncateTask task = {
        .s = s,
        .old_length = file_fd_length(s->aio.fd, s->is_device),
        .length = length,
        .prealloc = prealloc,
    };
    int ret;

    if (prealloc == PREALLOC_METADATA) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: a plain file has no metadata to preallocate",
                    s->filename);
        return -ENOTSUP;
    }
    if (s->is_device) {
        return truncate_device(s, length, exact, error);
    }
    ret = task.old_length < 0 ? (int)task.old_length
                              : file_run_blocking(s, truncate_task, &task);
    if (ret < 0) {
        error_set_errno(error, -ret, "%s: cannot set the length to %" PRId64,
                        s->filename, length);
    }
    return ret;
}
