/* SPDX-License-Identifier: MIT */
/*
 * posix files: reading, writing, flushing, asking where data is, copying
 *
 * The engines are aio_file.c's business. What is added here: what the end of
 * the file means, failures of flush that stick, and system calls that have no
 * asynchronous form.
 *
 *  F5  bytes that the file does not hold are an error, never zeros; only the
 *      rounding of the last sector up to the alignment reads as zeros;
 *  F6  after a failed fdatasync the kernel may have dropped the dirty pages:
 *      no later flush succeeds until the file is opened anew.
 *
 * Locking: none; see file.h.
 */
#include "drivers/file/file.h"

#include "block/io/io.h"
#include "block/rt/thread_pool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#undef G_LOG_DOMAIN
#define G_LOG_DOMAIN "imgfuse-file"

/* A file in memory never waits for a medium: a worker would only cost. */
int coroutine_fn file_run_blocking(FileState *s, int (*function)(void *opaque),
                                   void *opaque)
{
    return s->aio.memory ? function(opaque)
                         : thread_pool_co_run(function, opaque);
}

/* ---- read, write ---- */

/* @part: @iov itself, or @local filled with the slice of it. */
static IoVec *slice_of(IoVec *iov, size_t iov_offset, int64_t bytes,
                       IoVec *local)
{
    iovec_init(local);
    if (iov_offset == 0 && iov->size == (size_t)bytes) {
        return iov;
    }
    iovec_add_slice(local, iov, iov_offset, bytes);
    return local;
}

/*
 * -EIO where the file is shorter than the node believes: somebody has cut it
 * behind our back, and zeros would be taken for the image's data.
 */
int coroutine_fn file_co_preadv(BlockDriverState *bs, int64_t offset,
                                int64_t bytes, IoVec *iov, size_t iov_offset,
                                BdrvRequestFlags flags)
{
    FileState *s = bs->opaque;
    IoVec local;
    IoVec *part = slice_of(iov, iov_offset, bytes, &local);
    ssize_t got = aio_file_preadv(&s->aio, part->iov, part->niov, offset,
                                  bytes);
    int ret = got < 0 ? (int)got : 0;

    if (got >= 0 && got < bytes) {
        /* F5: at least up to the length it must be there */
        if (offset + got < bdrv_node_length(bs) ||
            offset + bytes > align_up(bdrv_node_length(bs),
                                      s->alignment.request)) {
            g_debug("%s: the file ends at %" PRId64 ", expected data up to %"
                    PRId64, s->filename, offset + got, offset + bytes);
            ret = -EIO;
        } else {
            iovec_memset(part, got, /* byte= */ 0, bytes - got);
        }
    }
    iovec_destroy(&local);
    return ret;
}

/* aio_file repeats short writes; one that stays short met a full device. */
int coroutine_fn file_co_pwritev(BlockDriverState *bs, int64_t offset,
                                 int64_t bytes, IoVec *iov, size_t iov_offset,
                                 BdrvRequestFlags flags)
{
    FileState *s = bs->opaque;
    IoVec local;
    IoVec *part = slice_of(iov, iov_offset, bytes, &local);
    ssize_t done = aio_file_pwritev(&s->aio, part->iov, part->niov, offset,
                                    bytes);

    iovec_destroy(&local);
    if (done < 0) {
        return (int)done;
    }
    return done == bytes ? 0 : -EIO;
}

/*
 * Who flushes while the first failure is under way may still succeed or fail
 * by what the kernel says; from the store on all get -EIO.
 */
int coroutine_fn file_co_flush_to_disk(BlockDriverState *bs)
{
    FileState *s = bs->opaque;
    int failed = __atomic_load_n(&s->flush_error, __ATOMIC_ACQUIRE);
    int ret;

    if (failed != 0) {
        return failed;
    }
    ret = aio_file_fdatasync(&s->aio);
    if (ret < 0) {
        g_debug("%s: fdatasync failed: %s", s->filename, g_strerror(-ret));
        __atomic_store_n(&s->flush_error, -EIO, __ATOMIC_RELEASE); /* F6 */
    }
    return ret;
}

/* ---- where is data ---- */

typedef struct SeekTask {
    int fd;
    int64_t offset;
    bool is_data;  /* result: of what @offset is the start */
    int64_t until; /* result: where that ends; INT64_MAX: to the end */
} SeekTask;

/* 0, or -errno: the file system cannot tell. */
static int find_extent(void *opaque)
{
    SeekTask *task = opaque;
    off_t data = lseek(task->fd, task->offset, SEEK_DATA);
    off_t hole;

    if (data < 0 && errno != ENXIO) {
        return -errno;
    }
    if (data < 0 || data > task->offset) {
        task->is_data = false;
        task->until = data < 0 ? INT64_MAX : data;
        return 0;
    }
    hole = lseek(task->fd, task->offset, SEEK_HOLE);
    if (hole < 0) {
        return -errno;
    }
    /* a hole may have been punched between the two calls: say data once */
    task->is_data = true;
    task->until = MAX(hole, task->offset + 1);
    return 0;
}

/*
 * Never fails: not knowing is "data". A file system without SEEK_DATA is asked
 * once only. Without want_zero nobody needs to know about holes.
 */
int coroutine_fn file_co_block_status(BlockDriverState *bs, bool want_zero,
                                      int64_t offset, int64_t bytes,
                                      BlockStatus *ret_status)
{
    FileState *s = bs->opaque;
    SeekTask task = { .fd = s->aio.fd, .offset = offset };
    bool unknown = !want_zero || s->is_device ||
                   __atomic_load_n(&s->no_seek_data, __ATOMIC_RELAXED);

    if (!unknown && file_run_blocking(s, find_extent, &task) < 0) {
        __atomic_store_n(&s->no_seek_data, true, __ATOMIC_RELAXED);
        unknown = true;
    }
    /* a file that shrank behind us has no hole there: reading must fail */
    if (!unknown && !task.is_data && task.until == INT64_MAX &&
        offset >= file_fd_length(s->aio.fd, s->is_device)) {
        unknown = true;
    }
    if (unknown) {
        task.is_data = true;
        task.until = INT64_MAX;
    }

    *ret_status = (BlockStatus) {
        .flags = (task.is_data ? BDRV_BLOCK_DATA : BDRV_BLOCK_ZERO) |
                 BDRV_BLOCK_OFFSET_VALID,
        .bytes = MIN(bytes, task.until - offset),
        .host_offset = offset,
        .file = bs,
    };
    return 0;
}

/* ---- facts ---- */

int64_t coroutine_fn file_co_getlength(BlockDriverState *bs)
{
    FileState *s = bs->opaque;

    return file_fd_length(s->aio.fd, s->is_device);
}

int64_t coroutine_fn file_co_get_allocated_file_size(BlockDriverState *bs)
{
    FileState *s = bs->opaque;
    struct stat st;

    if (fstat(s->aio.fd, &st) < 0) {
        return -errno;
    }
    /* a device node itself occupies nothing; the device all of its length */
    return s->is_device ? bdrv_node_length(bs) : (int64_t)st.st_blocks * 512;
}

/* ---- copying in the kernel ---- */

typedef struct CopyTask {
    int from;
    int to;
    int64_t from_offset;
    int64_t to_offset;
    int64_t bytes;
} CopyTask;

/*
 * In a worker. After an error the bytes before task->from_offset are copied
 * already; the caller's second try, by reading and writing, does them again.
 */
static int copy_in_kernel(void *opaque)
{
    CopyTask *task = opaque;

    while (task->bytes > 0) {
        off_t from_offset = task->from_offset;
        off_t to_offset = task->to_offset;
        ssize_t done = copy_file_range(task->from, &from_offset, task->to,
                                       &to_offset, task->bytes, 0);

        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return -errno;
        }
        if (done == 0) {
            return -ENOTSUP; /* the source ends here: let a read decide */
        }
        task->from_offset += done;
        task->to_offset += done;
        task->bytes -= done;
    }
    return 0;
}

/* Another way may work. */
static bool copy_may_fall_back(int ret)
{
    return ret == -EXDEV || ret == -EINVAL || ret == -EOPNOTSUPP ||
           ret == -ENOSYS || ret == -EBADF || ret == -EPERM;
}

/* The lowest source: from here the way is down the destination's side. */
int coroutine_fn file_co_copy_range_from(BlockDriverState *bs, BdrvChild *src,
                                         int64_t src_offset, BdrvChild *dst,
                                         int64_t dst_offset, int64_t bytes,
                                         BdrvRequestFlags flags)
{
    return bdrv_co_copy_range_to(src, src_offset, dst, dst_offset, bytes,
                                 flags);
}

/*
 * -ENOTSUP: read and write instead. Kept in mind only where it is the system's
 * word on all copies, not that on these two files.
 */
int coroutine_fn file_co_copy_range_to(BlockDriverState *bs, BdrvChild *src,
                                       int64_t src_offset, BdrvChild *dst,
                                       int64_t dst_offset, int64_t bytes,
                                       BdrvRequestFlags flags)
{
    FileState *s = bs->opaque;
    FileState *source;
    CopyTask task;
    int ret;

    if (src->bs->drv == NULL ||
        src->bs->drv->co_copy_range_to != file_co_copy_range_to) {
        return -ENOTSUP; /* the source is not one of us */
    }
    source = src->bs->opaque;
    if (s->is_device || source->is_device ||
        __atomic_load_n(&s->no_copy_range, __ATOMIC_RELAXED)) {
        return -ENOTSUP;
    }
    task = (CopyTask) {
        .from = source->aio.fd,
        .to = s->aio.fd,
        .from_offset = src_offset,
        .to_offset = dst_offset,
        .bytes = bytes,
    };
    ret = file_run_blocking(s, copy_in_kernel, &task);
    if (ret == -ENOSYS || ret == -EOPNOTSUPP) {
        __atomic_store_n(&s->no_copy_range, true, __ATOMIC_RELAXED);
    }
    return copy_may_fall_back(ret) ? -ENOTSUP : ret;
}
