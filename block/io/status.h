/* SPDX-License-Identifier: MIT */
/*
 * block status: where bytes of a node come from, layer by layer
 *
 * Coroutine, any I/O thread. 0 or -errno. @bytes must be positive and within
 * the node's length; ret_status->bytes is at least 1.
 */
#ifndef BLOCK_IO_STATUS_H
#define BLOCK_IO_STATUS_H

#include "block/types.h"

/* One layer's own answer: DATA, ZERO, ALLOCATED, OFFSET_VALID, ... */
int coroutine_fn bdrv_co_block_status(BlockDriverState *bs, bool want_zero,
                                      int64_t offset, int64_t bytes,
                                      BlockStatus *ret_status);

/*
 * bdrv_co_block_status_above:
 * What a reader of @bs sees, looking down the chain to @base (exclusive; NULL:
 * to the end). Ranges that no layer has read as ZERO. @ret_depth (may be
 * NULL): how many layers below @bs decided.
 */
int coroutine_fn bdrv_co_block_status_above(BlockDriverState *bs,
                                            BlockDriverState *base,
                                            bool want_zero, int64_t offset,
                                            int64_t bytes,
                                            BlockStatus *ret_status,
                                            int *ret_depth);

/* Does @offset come from a layer above @base? 1, 0 or -errno. */
int coroutine_fn bdrv_co_is_allocated_above(BlockDriverState *bs,
                                            BlockDriverState *base,
                                            bool include_base, int64_t offset,
                                            int64_t bytes, int64_t *ret_bytes);

/* 1 when all of the range surely reads zeros, 0 when not known, -errno. */
int coroutine_fn bdrv_co_is_zero(BlockDriverState *bs, int64_t offset,
                                 int64_t bytes);

/*
 * The protocol node's cache of one known data extent: asking the file system
 * (SEEK_DATA) for each cluster of a large extent would be quadratic.
 */
BdrvStatusCache *bdrv_status_cache_new(void);
void bdrv_status_cache_free(BdrvStatusCache *cache);
/* A write, zero-write, discard or truncate changed the range. Any thread. */
void bdrv_status_cache_invalidate(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes);

#endif
