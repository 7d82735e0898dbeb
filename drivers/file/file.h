/* SPDX-License-Identifier: MIT */
/*
 * posix files and block devices: the state that the driver's files share
 *
 * file.c owns the life of a node (options, descriptors, locks, reopen);
 * file_io.c moves data; file_zero.c makes and frees holes; device.c knows
 * what a device tells of itself. Nothing outside
 * drivers/file includes this header.
 */
#ifndef DRIVERS_FILE_FILE_H
#define DRIVERS_FILE_FILE_H

#include "block/driver.h"
#include "block/rt/aio_file.h"
#include "drivers/file/locks.h"

/* Alignment that direct I/O on a descriptor demands. */
typedef struct FileAlignment {
    int64_t request; /* of offsets and lengths */
    size_t memory;   /* of addresses */
} FileAlignment;

/*
 * Constant while the node is not drained, but for the atomic members.
 * @lock_fd is opened first, for reading, and kept until close, so that locks
 * survive a reopen; @aio.fd is the same descriptor when nothing more is asked.
 */
typedef struct FileState {
    char *filename; /* as given */
    AioEngineKind engine;
    int lock_fd;
    AioFile aio;
    FileLocks locks;
    bool is_device;
    dev_t device; /* which file it is, for reopen */
    ino_t inode;
    FileAlignment alignment;
    int64_t device_block_bytes; /* logical sector; 1 for regular files */

    /* what the file system turned out not to know; atomic, only ever set */
    bool no_punch;
    bool no_zero_range;
    bool no_allocate;
    bool no_seek_data;
    bool no_copy_range;
    int flush_error; /* atomic; 0 or the sticky -errno */
} FileState;

/* Length of the open file or device; -errno. Any thread. */
int64_t file_fd_length(int fd, bool is_device);

/* file_io.c; each is a member of BlockDriver. */
int coroutine_fn file_co_preadv(BlockDriverState *bs, int64_t offset,
                                int64_t bytes, IoVec *iov, size_t iov_offset,
                                BdrvRequestFlags flags);
int coroutine_fn file_co_pwritev(BlockDriverState *bs, int64_t offset,
                                 int64_t bytes, IoVec *iov, size_t iov_offset,
                                 BdrvRequestFlags flags);
int coroutine_fn file_co_flush_to_disk(BlockDriverState *bs);
int coroutine_fn file_co_block_status(BlockDriverState *bs, bool want_zero,
                                      int64_t offset, int64_t bytes,
                                      BlockStatus *ret_status);
int coroutine_fn file_co_copy_range_from(BlockDriverState *bs, BdrvChild *src,
                                         int64_t src_offset, BdrvChild *dst,
                                         int64_t dst_offset, int64_t bytes,
                                         BdrvRequestFlags flags);
int coroutine_fn file_co_copy_range_to(BlockDriverState *bs, BdrvChild *src,
                                       int64_t src_offset, BdrvChild *dst,
                                       int64_t dst_offset, int64_t bytes,
                                       BdrvRequestFlags flags);
int64_t coroutine_fn file_co_getlength(BlockDriverState *bs);
int64_t coroutine_fn file_co_get_allocated_file_size(BlockDriverState *bs);

/* device.c; likewise. */
int file_probe_blocksizes(BlockDriverState *bs, BlockSizes *ret_sizes);
int file_probe_geometry(BlockDriverState *bs, BlockGeometry *ret_geometry);
int coroutine_fn file_co_ioctl(BlockDriverState *bs, unsigned long request,
                               void *argument);
extern const BlockMediaOps file_media;

/* file_zero.c; likewise. */
int coroutine_fn file_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, BdrvRequestFlags flags);
int coroutine_fn file_co_pdiscard(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes);
int coroutine_fn file_co_truncate(BlockDriverState *bs, int64_t length,
                                  bool exact, BdrvPreallocMode prealloc,
                                  BdrvRequestFlags flags, GError **error);

/*
 * file_run_blocking:
 * Calls @function(@opaque), which may sleep in the kernel: at once on a memory
 * file system, else on a worker while the coroutine sleeps.
 */
int coroutine_fn file_run_blocking(FileState *s, int (*function)(void *opaque),
                                   void *opaque);

#endif
