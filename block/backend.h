/* SPDX-License-Identifier: MIT */
/*
 * BlockBackend: one user's handle on the root node of a graph
 *
 * The only way in for the FUSE front end, the image commands and jobs. A
 * backend holds the root edge with its permissions, counts requests in flight
 * per context (so that a drain can wait for them), holds new ones back while
 * drained, and knows whether its user wants write-through.
 *
 * blk_co_*: coroutine, any I/O thread, many at a time. Others: control plane.
 * Errors of blk_co_* are those of block/io/io.h; in addition -EACCES when the
 * backend was opened without the permission, -ENXIO when it has no root.
 */
#ifndef BLOCK_BACKEND_H
#define BLOCK_BACKEND_H

#include "block/types.h"

#include <json-glib/json-glib.h>

/*
 * blk_open:
 * bdrv_open() and a backend on the result. Permissions follow the flags:
 * RDWR -> consistent read, write (and resize with BDRV_O_RESIZE), shared:
 * consistent read and write-unchanged; read-only -> consistent read, shared:
 * likewise. @user names us in messages ("mount of disk.raw").
 */
BlockBackend *blk_open(const char *filename, BlockOptions *options,
                       BdrvOpenFlags flags, ReferencePolicy *policy,
                       const char *user, GError **error);

/* A backend without a root. */
BlockBackend *blk_new(uint32_t perm, uint32_t shared, const char *user);
/* Takes a count of @bs of its own. */
bool blk_insert_node(BlockBackend *blk, BlockDriverState *bs, GError **error);

/* Drains, flushes (see blk_flush for the error) and lets go of the root. */
void blk_remove_node(BlockBackend *blk);
/* The same, and frees. */
void blk_free(BlockBackend *blk);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlockBackend, blk_free)

BlockDriverState *blk_bs(BlockBackend *blk);
bool blk_is_read_only(const BlockBackend *blk);
bool blk_set_perm(BlockBackend *blk, uint32_t perm, uint32_t shared,
                  GError **error);

/*
 * @handler(@opaque) is called after the length has changed, whoever did it:
 * coroutine of any I/O thread, or control plane. It may not do I/O. Set before
 * @blk is used by threads; NULL: nobody wants to know.
 */
void blk_set_resize_handler(BlockBackend *blk, void (*handler)(void *opaque),
                            void *opaque);

/* Every write is followed by a flush before it returns. */
void blk_set_write_through(BlockBackend *blk, bool on);

/* A probed raw image: refuse writes that fake a header into sector 0. */
void blk_set_protect_probed_raw(BlockBackend *blk, bool on);

int coroutine_fn blk_co_preadv(BlockBackend *blk, int64_t offset,
                               int64_t bytes, IoVec *iov,
                               BdrvRequestFlags flags);
int coroutine_fn blk_co_pwritev(BlockBackend *blk, int64_t offset,
                                int64_t bytes, IoVec *iov,
                                BdrvRequestFlags flags);
int coroutine_fn blk_co_pwrite_zeroes(BlockBackend *blk, int64_t offset,
                                      int64_t bytes, BdrvRequestFlags flags);
int coroutine_fn blk_co_pdiscard(BlockBackend *blk, int64_t offset,
                                 int64_t bytes);
int coroutine_fn blk_co_flush(BlockBackend *blk);
int coroutine_fn blk_co_flush_to_os(BlockBackend *blk);
int coroutine_fn blk_co_truncate(BlockBackend *blk, int64_t length, bool exact,
                                 BdrvPreallocMode prealloc, GError **error);
int coroutine_fn blk_co_block_status(BlockBackend *blk, bool want_zero,
                                     int64_t offset, int64_t bytes,
                                     BlockStatus *ret_status);
/* As bdrv_co_is_allocated_above() of block/io/status.h, from the root. */
int coroutine_fn blk_co_is_allocated_above(BlockBackend *blk,
                                           BlockDriverState *base,
                                           bool include_base, int64_t offset,
                                           int64_t bytes, int64_t *ret_bytes);
int coroutine_fn blk_co_copy_range(BlockBackend *src, int64_t src_offset,
                                   BlockBackend *dst, int64_t dst_offset,
                                   int64_t bytes);
int64_t coroutine_fn blk_co_get_allocated_file_size(BlockBackend *blk);
/* As bdrv_co_keep_snapshot() of block/io/snapshot_access.h. */
int coroutine_fn blk_co_keep_snapshot(BlockBackend *blk, int64_t offset,
                                      int64_t bytes);

/*
 * What has come through blk_co_* so far, by type; the control plane's own I/O
 * is not in it. A copy by the kernel counts as a read and a write. Lives as
 * long as @blk; histograms are set while it is drained.
 */
Accounting *blk_accounting(BlockBackend *blk);

/* Current length in bytes, without I/O. Any thread. */
int64_t blk_length(BlockBackend *blk);

/* The root's limits; cluster size when the format has one, else 0. */
const BlockLimits *blk_limits(BlockBackend *blk);
int64_t blk_cluster_bytes(BlockBackend *blk);

/* The control plane's own I/O (see bdrv_pread). */
int blk_pread(BlockBackend *blk, int64_t offset, int64_t bytes, void *buffer);
int blk_pwrite(BlockBackend *blk, int64_t offset, int64_t bytes,
               const void *buffer);
int blk_pwrite_zeroes(BlockBackend *blk, int64_t offset, int64_t bytes,
                      BdrvRequestFlags flags);
int blk_flush(BlockBackend *blk);

/* Waits until nothing is in flight, and lets go on. Nest. */
void blk_drain_begin(BlockBackend *blk);
void blk_drain_end(BlockBackend *blk);

#endif
