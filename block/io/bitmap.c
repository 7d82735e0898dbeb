/* SPDX-License-Identifier: MIT */
/*
 * dirty bitmaps: which parts of a node were written
 *
 * The bits are an HBitmap's; this file knows names, nodes, successors and
 * locking. It does not know how bitmaps are stored: that is the format's.
 *
 * Always true:
 *  B1  a write that has completed is set in every enabled bitmap of its node
 *      before its caller hears of it (bdrv_set_dirty comes first);
 *  B2  a frozen bitmap takes no writes, its successor does;
 *  B3  a node's array is NULL or not empty, so that the write path pays one
 *      test where there are no bitmaps.
 *
 * Locking: bitmap.h.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "block/io/bitmap.h"

#include "block/graph/node.h"

#define GRANULARITY_MIN 512
#define GRANULARITY_MAX (INT64_C(1) << 31)

struct BdrvDirtyBitmap {
    BlockDriverState *bs;
    char *name;
    GMutex lock;
    HBitmap *bits;              /* protected by lock */
    bool enabled;               /* control plane, drained */
    BdrvDirtyBitmap *successor; /* not in the node's array; B2 */
};

/* -- life ---------------------------------------------------------------- */

static BdrvDirtyBitmap *bitmap_alloc(BlockDriverState *bs, const char *name,
                                     int granularity_bits)
{
    BdrvDirtyBitmap *bitmap = g_new0(BdrvDirtyBitmap, 1);

    bitmap->bs = bs;
    bitmap->name = g_strdup(name);
    g_mutex_init(&bitmap->lock);
    bitmap->bits = hbitmap_new(bdrv_node_length(bs), granularity_bits);
    bitmap->enabled = true;
    return bitmap;
}

static void bitmap_free(BdrvDirtyBitmap *bitmap)
{
    if (bitmap == NULL) {
        return;
    }
    bitmap_free(bitmap->successor);
    hbitmap_free(bitmap->bits);
    g_mutex_clear(&bitmap->lock);
    g_free(bitmap->name);
    g_free(bitmap);
}

BdrvDirtyBitmap *bdrv_dirty_bitmap_new(BlockDriverState *bs, const char *name,
                                       int64_t granularity, GError **error)
{
    BdrvDirtyBitmap *bitmap;

    if (granularity < GRANULARITY_MIN || granularity > GRANULARITY_MAX ||
        (granularity & (granularity - 1)) != 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "bitmap granularity %" G_GINT64_FORMAT
                    " is not a power of two from 512 to 2G", granularity);
        return NULL;
    }
    if (name != NULL && bdrv_dirty_bitmap_find(bs, name) != NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "bitmap '%s' exists already on %s", name, bdrv_name(bs));
        return NULL;
    }
    bitmap = bitmap_alloc(bs, name, __builtin_ctzll(granularity));
    if (bs->dirty_bitmaps == NULL) {
        bs->dirty_bitmaps = g_ptr_array_new();
    }
    g_ptr_array_add(bs->dirty_bitmaps, bitmap);
    return bitmap;
}

void bdrv_dirty_bitmap_remove(BdrvDirtyBitmap *bitmap)
{
    BlockDriverState *bs = bitmap->bs;

    g_ptr_array_remove(bs->dirty_bitmaps, bitmap);
    if (bs->dirty_bitmaps->len == 0) {
        g_clear_pointer(&bs->dirty_bitmaps, g_ptr_array_unref);
    }
    bitmap_free(bitmap);
}

void bdrv_dirty_bitmaps_free(BlockDriverState *bs)
{
    while (bs->dirty_bitmaps != NULL) {
        bdrv_dirty_bitmap_remove(g_ptr_array_index(bs->dirty_bitmaps, 0));
    }
}

/* -- facts --------------------------------------------------------------- */

BdrvDirtyBitmap *bdrv_dirty_bitmap_find(BlockDriverState *bs, const char *name)
{
    for (guint i = 0; bs->dirty_bitmaps && i < bs->dirty_bitmaps->len; i++) {
        BdrvDirtyBitmap *bitmap = g_ptr_array_index(bs->dirty_bitmaps, i);

        if (g_strcmp0(bitmap->name, name) == 0) {
            return bitmap;
        }
    }
    return NULL;
}

const char *bdrv_dirty_bitmap_name(const BdrvDirtyBitmap *bitmap)
{
    return bitmap->name;
}

int64_t bdrv_dirty_bitmap_granularity(const BdrvDirtyBitmap *bitmap)
{
    return INT64_C(1) << hbitmap_granularity_bits(bitmap->bits);
}

HBitmap *bdrv_dirty_bitmap_bits(BdrvDirtyBitmap *bitmap)
{
    return bitmap->bits;
}

bool bdrv_dirty_bitmap_is_enabled(const BdrvDirtyBitmap *bitmap)
{
    return bitmap->enabled;
}

bool bdrv_dirty_bitmap_is_frozen(const BdrvDirtyBitmap *bitmap)
{
    return bitmap->successor != NULL;
}

void bdrv_dirty_bitmap_enable(BdrvDirtyBitmap *bitmap)
{
    bitmap->enabled = true;
}

void bdrv_dirty_bitmap_disable(BdrvDirtyBitmap *bitmap)
{
    bitmap->enabled = false;
}

/* -- bits ---------------------------------------------------------------- */

void bdrv_dirty_bitmap_clear(BdrvDirtyBitmap *bitmap)
{
    g_mutex_lock(&bitmap->lock);
    hbitmap_reset_all(bitmap->bits);
    g_mutex_unlock(&bitmap->lock);
}

/* A request may reach past the length that the bitmap has been told of. */
static int64_t clip(const BdrvDirtyBitmap *bitmap, int64_t offset,
                    int64_t bytes)
{
    int64_t limit = hbitmap_bytes(bitmap->bits);

    return offset >= limit ? 0 : MIN(bytes, limit - offset);
}

void bdrv_dirty_bitmap_set(BdrvDirtyBitmap *bitmap, int64_t offset,
                           int64_t bytes)
{
    g_mutex_lock(&bitmap->lock);
    bytes = clip(bitmap, offset, bytes);
    if (bytes > 0) {
        hbitmap_set(bitmap->bits, offset, bytes);
    }
    g_mutex_unlock(&bitmap->lock);
}

void bdrv_dirty_bitmap_reset(BdrvDirtyBitmap *bitmap, int64_t offset,
                             int64_t bytes)
{
    g_mutex_lock(&bitmap->lock);
    bytes = clip(bitmap, offset, bytes);
    if (bytes > 0) {
        hbitmap_reset(bitmap->bits, offset, bytes);
    }
    g_mutex_unlock(&bitmap->lock);
}

int64_t bdrv_dirty_bitmap_count(BdrvDirtyBitmap *bitmap)
{
    int64_t count;

    g_mutex_lock(&bitmap->lock);
    count = hbitmap_count(bitmap->bits);
    g_mutex_unlock(&bitmap->lock);
    return count;
}

bool bdrv_dirty_bitmap_next_area(BdrvDirtyBitmap *bitmap, int64_t offset,
                                 int64_t end, int64_t max_bytes,
                                 int64_t *ret_offset, int64_t *ret_bytes)
{
    bool found;

    g_mutex_lock(&bitmap->lock);
    found = hbitmap_next_dirty_area(bitmap->bits, offset, end, max_bytes,
                                    ret_offset, ret_bytes);
    g_mutex_unlock(&bitmap->lock);
    return found;
}

bool bdrv_dirty_bitmap_take_area(BdrvDirtyBitmap *bitmap, int64_t offset,
                                 int64_t end, int64_t max_bytes,
                                 int64_t *ret_offset, int64_t *ret_bytes)
{
    int64_t granularity = bdrv_dirty_bitmap_granularity(bitmap);
    bool found;

    /* Only whole units can be taken: a part would stay dirty. */
    max_bytes = MAX(align_down(max_bytes, granularity), granularity);
    g_mutex_lock(&bitmap->lock);
    found = hbitmap_next_dirty_area(bitmap->bits, align_down(offset,
                                                             granularity),
                                    end, max_bytes, ret_offset, ret_bytes);
    if (found) {
        int64_t limit = hbitmap_bytes(bitmap->bits);

        *ret_bytes = MIN(align_up(*ret_offset + *ret_bytes, granularity),
                         limit) - *ret_offset;
        hbitmap_reset(bitmap->bits, *ret_offset, *ret_bytes);
    }
    g_mutex_unlock(&bitmap->lock);
    return found;
}

bool bdrv_dirty_bitmap_merge(BdrvDirtyBitmap *target, BdrvDirtyBitmap *source,
                             GError **error)
{
    if (bdrv_dirty_bitmap_is_frozen(target)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CONFLICT,
                    "bitmap '%s' is in use by a job", target->name);
        return false;
    }
    if (hbitmap_bytes(target->bits) != hbitmap_bytes(source->bits)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "bitmaps '%s' and '%s' differ in size: %" G_GINT64_FORMAT
                    " and %" G_GINT64_FORMAT " bytes", target->name,
                    source->name, hbitmap_bytes(target->bits),
                    hbitmap_bytes(source->bits));
        return false;
    }
    if (target == source) {
        return true;
    }
    /* Two bitmap locks: in the order of their addresses. */
    g_mutex_lock(&MIN(target, source)->lock);
    g_mutex_lock(&MAX(target, source)->lock);
    hbitmap_merge(target->bits, source->bits);
    g_mutex_unlock(&target->lock);
    g_mutex_unlock(&source->lock);
    return true;
}

/* -- successors ---------------------------------------------------------- */

bool bdrv_dirty_bitmap_create_successor(BdrvDirtyBitmap *bitmap,
                                        GError **error)
{
    if (bdrv_dirty_bitmap_is_frozen(bitmap)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CONFLICT,
                    "bitmap '%s' is in use by a job", bitmap->name);
        return false;
    }
    bitmap->successor = bitmap_alloc(bitmap->bs, bitmap->name,
                                     hbitmap_granularity_bits(bitmap->bits));
    bitmap->successor->enabled = bitmap->enabled;
    return true;
}

BdrvDirtyBitmap *bdrv_dirty_bitmap_abdicate(BdrvDirtyBitmap *bitmap)
{
    BdrvDirtyBitmap *successor = g_steal_pointer(&bitmap->successor);
    guint index = 0;

    g_assert(successor != NULL);
    g_assert(g_ptr_array_find(bitmap->bs->dirty_bitmaps, bitmap, &index));
    bitmap->bs->dirty_bitmaps->pdata[index] = successor;
    bitmap_free(bitmap);
    return successor;
}

void bdrv_dirty_bitmap_reclaim(BdrvDirtyBitmap *bitmap)
{
    BdrvDirtyBitmap *successor = g_steal_pointer(&bitmap->successor);

    g_assert(successor != NULL);
    g_mutex_lock(&bitmap->lock);
    hbitmap_merge(bitmap->bits, successor->bits);
    g_mutex_unlock(&bitmap->lock);
    bitmap_free(successor);
}

/* -- the node's side ----------------------------------------------------- */

void bdrv_set_dirty(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    for (guint i = 0; bs->dirty_bitmaps && i < bs->dirty_bitmaps->len; i++) {
        BdrvDirtyBitmap *bitmap = g_ptr_array_index(bs->dirty_bitmaps, i);

        if (bitmap->successor != NULL) {
            bitmap = bitmap->successor;
        }
        if (bitmap->enabled) {
            bdrv_dirty_bitmap_set(bitmap, offset, bytes);
        }
    }
}

static void truncate_bits(BdrvDirtyBitmap *bitmap, int64_t bytes)
{
    g_mutex_lock(&bitmap->lock);
    hbitmap_truncate(bitmap->bits, bytes);
    g_mutex_unlock(&bitmap->lock);
}

void bdrv_dirty_bitmaps_truncate(BlockDriverState *bs, int64_t bytes)
{
    for (guint i = 0; bs->dirty_bitmaps && i < bs->dirty_bitmaps->len; i++) {
        BdrvDirtyBitmap *bitmap = g_ptr_array_index(bs->dirty_bitmaps, i);

        truncate_bits(bitmap, bytes);
        if (bitmap->successor != NULL) {
            truncate_bits(bitmap->successor, bytes);
        }
    }
}
