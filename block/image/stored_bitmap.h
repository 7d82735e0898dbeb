/* SPDX-License-Identifier: MIT */
/*
 * stored bitmaps: dirty bitmaps that an image keeps in its file
 *
 * While an image is open for writing, each enabled one is also a dirty bitmap
 * of the node (block/io/bitmap.h), so that writes are tracked. Here is what a
 * user does with them. Control plane; each call drains the node that has them
 * (filters above are skipped). A change is in memory until the next
 * bdrv_bitmaps_store(), handing over, reopening read-only or closing.
 */
#ifndef BLOCK_IMAGE_STORED_BITMAP_H
#define BLOCK_IMAGE_STORED_BITMAP_H

#include "block/io/hbitmap.h"
#include "block/types.h"

typedef enum BlockBitmapState {
    BLOCK_BITMAP_USABLE,
    BLOCK_BITMAP_INCONSISTENT, /* its last writer did not store it */
    BLOCK_BITMAP_FOREIGN,      /* of a kind that only its maker can use */
    BLOCK_BITMAP_DAMAGED,      /* its content cannot be read */
} BlockBitmapState;

/* One of them; owned by the list that it is in. */
typedef struct BlockStoredBitmap {
    char *name; /* unique */
    int64_t granularity;
    bool is_enabled; /* writes are to be tracked */
    BlockBitmapState state;
} BlockStoredBitmap;

/*
 * For the driver's table; control plane, node drained and, but for list and
 * bits, writable. Names were checked: add's is new, the others' are those of
 * usable bitmaps (remove: of any).
 */
typedef struct BlockBitmapOps BlockBitmapOps;
struct BlockBitmapOps {
    /* Of BlockStoredBitmap; the driver's own, until the next change. */
    const GPtrArray *(*list)(BlockDriverState *bs);
    bool (*add)(BlockDriverState *bs, const char *name, int64_t granularity,
                bool is_enabled, GError **error);
    bool (*remove)(BlockDriverState *bs, const char *name, GError **error);
    bool (*set_enabled)(BlockDriverState *bs, const char *name,
                        bool is_enabled, GError **error);
    /* Its bits, until the next change; changed ones need touched(). */
    HBitmap *(*bits)(BlockDriverState *bs, const char *name, GError **error);
    void (*touched)(BlockDriverState *bs, const char *name);
    /* Everything to the medium. Nothing to store: no I/O. */
    bool (*store)(BlockDriverState *bs, GError **error);
};

/* Can @bs keep bitmaps now? False with UNSUPPORTED. */
bool bdrv_bitmaps_supported(BlockDriverState *bs, GError **error);

/* Of BlockStoredBitmap, until the node changes; NULL: the format has none. */
const GPtrArray *bdrv_bitmap_list(BlockDriverState *bs);

/* The granularity of new bitmaps: the cluster size within 4 and 64 KiB. */
int64_t bdrv_bitmap_default_granularity(BlockDriverState *bs);

/*
 * False with UNSUPPORTED (the format has no bitmaps), OPTION (no such bitmap,
 * or add: there is one; a bad granularity or name), CORRUPT (not usable, it
 * can only be removed), DENIED (read-only node), CONFLICT (a job has it).
 */
bool bdrv_bitmap_add(BlockDriverState *bs, const char *name,
                     int64_t granularity, bool is_enabled, GError **error);
bool bdrv_bitmap_remove(BlockDriverState *bs, const char *name,
                        GError **error);
bool bdrv_bitmap_set_enabled(BlockDriverState *bs, const char *name,
                             bool is_enabled, GError **error);
bool bdrv_bitmap_clear(BlockDriverState *bs, const char *name,
                       GError **error);

/*
 * bdrv_bitmap_merge_from:
 * Bits of @source of the node @from, which may be read-only and @bs itself,
 * are set in @name, too. OPTION when the nodes differ in length.
 */
bool bdrv_bitmap_merge_from(BlockDriverState *bs, const char *name,
                            BlockDriverState *from, const char *source,
                            GError **error);

/*
 * bdrv_bitmaps_copy:
 * @bs gets each bitmap of @from: name, granularity, whether it is enabled,
 * bits; and they are on the medium. Those that are not usable are an error,
 * or are left out with a warning. can_copy says so before.
 */
bool bdrv_bitmaps_can_copy(BlockDriverState *from, bool skip_broken,
                           GError **error);
bool bdrv_bitmaps_copy(BlockDriverState *bs, BlockDriverState *from,
                       bool skip_broken, GError **error);

/* Whatever has changed is on the medium when it returns true. */
bool bdrv_bitmaps_store(BlockDriverState *bs, GError **error);

#endif
