/* SPDX-License-Identifier: MIT */
/*
 * dirty bitmaps: which parts of a node were written
 *
 * A BdrvDirtyBitmap is a named HBitmap on a node. bdrv_set_dirty() marks each
 * completed write in every enabled bitmap of the node; a job or a user reads,
 * clears, merges. While a job works on a bitmap its writes go to a successor,
 * which replaces it (success) or is merged back (failure).
 *
 * Locking: a bitmap's own mutex protects its HBitmap (innermost; taken on the
 * data plane by the write path, only when the node has bitmaps at all). The
 * node's list changes on the control plane while the node is drained.
 */
#ifndef BLOCK_IO_BITMAP_H
#define BLOCK_IO_BITMAP_H

#include "block/io/hbitmap.h"
#include "block/types.h"

typedef struct BdrvDirtyBitmap BdrvDirtyBitmap;

/*
 * bdrv_dirty_bitmap_new:
 * A bitmap @name (unique on the node; NULL: anonymous) on @bs, enabled.
 * @granularity: a power of two, 512 .. 2 GiB. OPTION error otherwise, or when
 * the name is in use.
 */
BdrvDirtyBitmap *bdrv_dirty_bitmap_new(BlockDriverState *bs, const char *name,
                                       int64_t granularity, GError **error);
void bdrv_dirty_bitmap_remove(BdrvDirtyBitmap *bitmap);
BdrvDirtyBitmap *bdrv_dirty_bitmap_find(BlockDriverState *bs,
                                        const char *name);
const char *bdrv_dirty_bitmap_name(const BdrvDirtyBitmap *bitmap);
int64_t bdrv_dirty_bitmap_granularity(const BdrvDirtyBitmap *bitmap);

void bdrv_dirty_bitmap_enable(BdrvDirtyBitmap *bitmap);
void bdrv_dirty_bitmap_disable(BdrvDirtyBitmap *bitmap);
/*
 * The bits themselves, for who stores or loads them: while nobody writes (the
 * node is drained), and until the bitmap changes.
 */
HBitmap *bdrv_dirty_bitmap_bits(BdrvDirtyBitmap *bitmap);
bool bdrv_dirty_bitmap_is_enabled(const BdrvDirtyBitmap *bitmap);
void bdrv_dirty_bitmap_clear(BdrvDirtyBitmap *bitmap);

/* Any thread; each locks the bitmap. */
void bdrv_dirty_bitmap_set(BdrvDirtyBitmap *bitmap, int64_t offset,
                           int64_t bytes);
void bdrv_dirty_bitmap_reset(BdrvDirtyBitmap *bitmap, int64_t offset,
                             int64_t bytes);
int64_t bdrv_dirty_bitmap_count(BdrvDirtyBitmap *bitmap);
bool bdrv_dirty_bitmap_next_area(BdrvDirtyBitmap *bitmap, int64_t offset,
                                 int64_t end, int64_t max_bytes,
                                 int64_t *ret_offset, int64_t *ret_bytes);
/* As next_area, and clears what it returns in one step. */
bool bdrv_dirty_bitmap_take_area(BdrvDirtyBitmap *bitmap, int64_t offset,
                                 int64_t end, int64_t max_bytes,
                                 int64_t *ret_offset, int64_t *ret_bytes);

bool bdrv_dirty_bitmap_merge(BdrvDirtyBitmap *target, BdrvDirtyBitmap *source,
                             GError **error);

/* Freezes @bitmap: writes go to a new successor until one of the two ends. */
bool bdrv_dirty_bitmap_create_successor(BdrvDirtyBitmap *bitmap,
                                        GError **error);
/* The successor takes the bitmap's name and place; returns it. */
BdrvDirtyBitmap *bdrv_dirty_bitmap_abdicate(BdrvDirtyBitmap *bitmap);
/* The successor is merged back. */
void bdrv_dirty_bitmap_reclaim(BdrvDirtyBitmap *bitmap);
bool bdrv_dirty_bitmap_is_frozen(const BdrvDirtyBitmap *bitmap);

/* The node's bitmaps: the write path, truncate, and closing. */
void bdrv_set_dirty(BlockDriverState *bs, int64_t offset, int64_t bytes);
void bdrv_dirty_bitmaps_truncate(BlockDriverState *bs, int64_t bytes);
void bdrv_dirty_bitmaps_free(BlockDriverState *bs);

#endif
