/* SPDX-License-Identifier: MIT */
/*
 * AioFile: asynchronous I/O on one file descriptor, inline first
 *
 * Knows, per file, the cheapest way to a result:
 *  - memory file systems (tmpfs, ramfs, hugetlbfs) never block and refuse
 *    RWF_NOWAIT: plain preadv/pwritev at once;
 *  - cached files: preadv2(RWF_NOWAIT) at once, what it does not have goes to
 *    the engine; buffered writes go inline too when they fit;
 *  - O_DIRECT and block devices: the engine, batched per turn of the loop.
 * The engine is the calling context's own (engine.h); an AioFile is used by
 * all threads at a time and has no lock: it is constant after init but for one
 * atomic hint.
 */
#ifndef BLOCK_RT_AIO_FILE_H
#define BLOCK_RT_AIO_FILE_H

#include "block/rt/coroutine.h"

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

typedef enum AioEngineKind {
    AIO_ENGINE_AUTO,     /* io_uring, else native for O_DIRECT, else threads */
    AIO_ENGINE_IO_URING,
    AIO_ENGINE_NATIVE,   /* libaio; O_DIRECT only */
    AIO_ENGINE_THREADS,
} AioEngineKind;

typedef struct AioFile {
    int fd;
    AioEngineKind engine; /* never AUTO after init */
    bool direct;          /* opened with O_DIRECT */
    bool memory;          /* on a memory file system: everything inline */
    bool nowait;          /* RWF_NOWAIT reads work */
    bool nowait_write;    /* ... and writes; atomic, cleared when refused */
} AioFile;

/*
 * aio_file_init:
 * Looks at @fd (which stays the caller's) and settles the engine. Fails with
 * UNSUPPORTED when @kind was asked for and cannot be had here.
 */
bool aio_file_init(AioFile *file, int fd, AioEngineKind kind, GError **error);

/*
 * aio_file_preadv, aio_file_pwritev:
 * Move up to @bytes (the sum of @iov, at most INT_MAX) at @offset. Short
 * kernel results are continued: less than @bytes comes back only at the end
 * of the file (reads). EINTR and EAGAIN are handled inside.
 * Returns the bytes moved or -errno.
 */
ssize_t coroutine_fn aio_file_preadv(AioFile *file, const struct iovec *iov,
                                     int niov, int64_t offset, size_t bytes);
ssize_t coroutine_fn aio_file_pwritev(AioFile *file, const struct iovec *iov,
                                      int niov, int64_t offset, size_t bytes);

/* fdatasync(2) without blocking the loop. 0 or -errno. */
int coroutine_fn aio_file_fdatasync(AioFile *file);

#endif
