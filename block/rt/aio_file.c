/* SPDX-License-Identifier: MIT */
/*
 * one file's I/O: at once when that cannot block, else through an engine
 *
 *   read:   memory ──▶ preadv                                   ──▶ done
 *           cached ──▶ preadv2(RWF_NOWAIT) ──▶ all there?       ──▶ done
 *           direct ──▶ engine ◀────────────────┘ the rest
 *   write:  the same with pwritev; few file systems take RWF_NOWAIT for
 *           buffered writes, one refusal settles it for the file
 *   sync:   memory ──▶ at once; else the engine, or a worker thread
 *
 * Progress within one request is a Transfer. The loop that continues short
 * results is in one place, transfer_run().
 *
 * Locking: none. A Transfer is one coroutine's; of AioFile only nowait_write
 * changes, a hint.
 */
#include "block/rt/aio_file.h"

#include "block/error.h"
#include "block/rt/aio_context.h"
#include "block/rt/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* <linux/magic.h> has them, but not everywhere. */
#define MAGIC_TMPFS 0x01021994
#define MAGIC_RAMFS 0x858458f6
#define MAGIC_HUGETLBFS 0x958458f6
#define MAGIC_XFS 0x58465342
#define MAGIC_BTRFS 0x9123683e

/* Elements of a continued request that go into one system call. */
#define REST_ELEMENTS 64

/* A short direct read that ends between two of these ends the file. */
#define SMALLEST_SECTOR 512

typedef struct Transfer {
    AioFile *file;
    AioOp op;
    const struct iovec *iov; /* of the whole request */
    int niov;
    int64_t offset;
    size_t bytes;
    size_t done;
    struct iovec rest[REST_ELEMENTS];
} Transfer;

/* ---- init ---- */

static bool reads_without_waiting(int fd)
{
    char byte;
    struct iovec iov = { .iov_base = &byte, .iov_len = 1 };

    return preadv2(fd, &iov, 1, 0, RWF_NOWAIT) >= 0 || errno == EAGAIN;
}

static bool settle_engine(AioFile *file, AioEngineKind kind, GError **error)
{
    static const char *const names[] = { "auto", "io_uring", "native",
                                         "threads" };

    if (kind == AIO_ENGINE_AUTO) {
        if (aio_engine_available(AIO_ENGINE_IO_URING)) {
            kind = AIO_ENGINE_IO_URING;
        } else if (file->direct && aio_engine_available(AIO_ENGINE_NATIVE)) {
            kind = AIO_ENGINE_NATIVE;
        } else {
            kind = AIO_ENGINE_THREADS;
        }
    }
    if (kind == AIO_ENGINE_NATIVE && !file->direct) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "native I/O needs a file opened with O_DIRECT");
        return false;
    }
    if (!aio_engine_available(kind)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "the I/O engine '%s' is not available here", names[kind]);
        return false;
    }
    file->engine = kind;
    return true;
}

bool aio_file_init(AioFile *file, int fd, AioEngineKind kind, GError **error)
{
    struct stat st;
    struct statfs fs;
    int flags = fcntl(fd, F_GETFL);
    bool regular;

    if (flags < 0 || fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0) {
        error_set_errno(error, errno, "cannot look at descriptor %d", fd);
        return false;
    }
    regular = S_ISREG(st.st_mode);
    memset(file, 0, sizeof(*file));
    file->fd = fd;
    file->direct = flags & O_DIRECT;
    if (!settle_engine(file, kind, error)) {
        return false;
    }

    /* A device node's file system says nothing about the device. */
    switch ((unsigned)fs.f_type) {
    case MAGIC_TMPFS:
    case MAGIC_RAMFS:
    case MAGIC_HUGETLBFS:
        file->memory = regular;
        break;
    case MAGIC_XFS:
    case MAGIC_BTRFS:
        file->nowait_write = regular && !file->direct;
        break;
    }
    file->nowait = !file->memory && !file->direct &&
                   (regular || S_ISBLK(st.st_mode)) &&
                   reads_without_waiting(fd);
    return true;
}

/* ---- moving bytes ---- */

/* What is left of the request, in as many elements as one call may have. */
static void transfer_rest(Transfer *transfer, const struct iovec **ret_iov,
                          int *ret_niov)
{
    const struct iovec *from = transfer->iov;
    size_t skip = transfer->done;
    int left = transfer->niov;
    int count = 0;

    while (left > 0 && skip >= from->iov_len) {
        skip -= from->iov_len;
        from++;
        left--;
    }
    if (skip == 0) {
        *ret_iov = from;
        *ret_niov = MIN(left, IOV_MAX);
        return;
    }
    while (left > 0 && count < REST_ELEMENTS) {
        transfer->rest[count].iov_base = (char *)from->iov_base + skip;
        transfer->rest[count].iov_len = from->iov_len - skip;
        skip = 0;
        count++;
        from++;
        left--;
    }
    *ret_iov = transfer->rest;
    *ret_niov = count;
}

/* One system call that does not wait, or that cannot (memory). */
static ssize_t transfer_inline(Transfer *transfer, int flags)
{
    int64_t offset = transfer->offset + (int64_t)transfer->done;
    const struct iovec *iov;
    int niov;
    ssize_t ret;

    transfer_rest(transfer, &iov, &niov);
    do {
        if (transfer->op == AIO_OP_READV) {
            ret = preadv2(transfer->file->fd, iov, niov, offset, flags);
        } else {
            ret = pwritev2(transfer->file->fd, iov, niov, offset, flags);
        }
    } while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : ret;
}

/* Falls back to the worker threads when @kind cannot be had any more. */
static AioEngineSlot *engine_slot(AioEngineKind kind)
{
    AioContext *ctx = aio_context_current();
    AioEngineSlot *slot = aio_context_engine(ctx, kind);

    return slot ? slot : aio_context_engine(ctx, AIO_ENGINE_THREADS);
}

static ssize_t coroutine_fn engine_run(AioEngineKind kind, AioRequest *request)
{
    AioEngineSlot *slot = engine_slot(kind);

    request->co = co_self();
    slot->ops->queue(slot->engine, request);
    co_yield();
    return request->result;
}

static ssize_t coroutine_fn transfer_engine(Transfer *transfer)
{
    AioRequest request = {
        .op = transfer->op,
        .fd = transfer->file->fd,
        .offset = transfer->offset + (int64_t)transfer->done,
    };
    ssize_t ret;

    transfer_rest(transfer, &request.iov, &request.niov);
    do {
        ret = engine_run(transfer->file->engine, &request);
    } while (ret == -EINTR);
    if (ret == -EAGAIN) {
        /* An engine that does not wait there, although it should. */
        ret = engine_run(AIO_ENGINE_THREADS, &request);
    }
    return ret;
}

/* Has a read come to the end of the file, although it moved something? */
static bool ends_file(const Transfer *transfer)
{
    return transfer->op == AIO_OP_READV && transfer->file->direct &&
           transfer->done % SMALLEST_SECTOR != 0;
}

/*
 * Runs @transfer to its end. With @try_nowait the first attempt does not wait
 * (a result that only says "not now" is no error).
 */
static ssize_t coroutine_fn transfer_run(Transfer *transfer, bool try_nowait)
{
    AioFile *file = transfer->file;

    while (transfer->done < transfer->bytes) {
        ssize_t ret;

        if (file->memory) {
            ret = transfer_inline(transfer, /* flags= */ 0);
        } else if (try_nowait) {
            try_nowait = false;
            ret = transfer_inline(transfer, RWF_NOWAIT);
            if (ret == -EOPNOTSUPP && transfer->op == AIO_OP_WRITEV) {
                __atomic_store_n(&file->nowait_write, false,
                                 __ATOMIC_RELAXED);
            }
            if (ret <= 0) {
                continue; /* an error will come again */
            }
        } else {
            ret = transfer_engine(transfer);
        }

        if (ret < 0) {
            return ret;
        }
        transfer->done += (size_t)ret;
        if (ret == 0 || ends_file(transfer)) {
            break;
        }
    }
    return (ssize_t)transfer->done;
}

ssize_t coroutine_fn aio_file_preadv(AioFile *file, const struct iovec *iov,
                                     int niov, int64_t offset, size_t bytes)
{
    Transfer transfer;

    g_assert(co_in_coroutine() && bytes <= INT_MAX);
    /* Not an initialiser: that would clear `rest`, too. */
    transfer.file = file;
    transfer.op = AIO_OP_READV;
    transfer.iov = iov;
    transfer.niov = niov;
    transfer.offset = offset;
    transfer.bytes = bytes;
    transfer.done = 0;
    return transfer_run(&transfer, file->nowait);
}

ssize_t coroutine_fn aio_file_pwritev(AioFile *file, const struct iovec *iov,
                                      int niov, int64_t offset, size_t bytes)
{
    Transfer transfer;
    ssize_t ret;

    g_assert(co_in_coroutine() && bytes <= INT_MAX);
    transfer.file = file;
    transfer.op = AIO_OP_WRITEV;
    transfer.iov = iov;
    transfer.niov = niov;
    transfer.offset = offset;
    transfer.bytes = bytes;
    transfer.done = 0;
    ret = transfer_run(&transfer,
                       __atomic_load_n(&file->nowait_write,
                                       __ATOMIC_RELAXED));
    /* A device that takes no more without saying why is full. */
    return ret >= 0 && (size_t)ret < bytes ? -ENOSPC : ret;
}

/* ---- sync ---- */

static int sync_in_worker(void *opaque)
{
    const AioFile *file = opaque;

    return fdatasync(file->fd) < 0 ? -errno : 0;
}

int coroutine_fn aio_file_fdatasync(AioFile *file)
{
    AioRequest request = { .op = AIO_OP_FDATASYNC, .fd = file->fd };
    ssize_t ret;

    g_assert(co_in_coroutine());
    if (file->memory) {
        return sync_in_worker(file);
    }
    do {
        ret = engine_run(file->engine, &request);
    } while (ret == -EINTR);
    /* Many a file system has no native asynchronous sync. */
    if ((ret == -EINVAL || ret == -EAGAIN) &&
        file->engine != AIO_ENGINE_THREADS) {
        ret = thread_pool_co_run(sync_in_worker, file);
    }
    return (int)ret;
}
