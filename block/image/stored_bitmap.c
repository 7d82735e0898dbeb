/* SPDX-License-Identifier: MIT */
/*
 * stored bitmaps: finding node and bitmap, refusing what cannot be, and
 * keeping everybody away while the driver works
 *
 * Locking: control plane.
 */
#include "block/image/stored_bitmap.h"

#include "block/driver.h"
#include "block/graph/drain.h"

#include <inttypes.h>
#include <string.h>

#define DEFAULT_GRANULARITY_MIN (4 * KIB)
#define DEFAULT_GRANULARITY_MAX (64 * KIB)

static const BlockBitmapOps *ops_of(BlockDriverState *bs, GError **error)
{
    if (!bs->drv || !bs->drv->bitmaps || !bs->drv->bitmaps->list(bs)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: format '%s' keeps no bitmaps%s", bdrv_name(bs),
                    bs->drv ? bs->drv->format_name : "none",
                    bs->drv && bs->drv->bitmaps ? " in this version of it"
                                                : "");
        return NULL;
    }
    return bs->drv->bitmaps;
}

bool bdrv_bitmaps_supported(BlockDriverState *bs, GError **error)
{
    return ops_of(bdrv_skip_filters(bs), error) != NULL;
}

const GPtrArray *bdrv_bitmap_list(BlockDriverState *bs)
{
    bs = bdrv_skip_filters(bs);
    return bs->drv && bs->drv->bitmaps ? bs->drv->bitmaps->list(bs) : NULL;
}

int64_t bdrv_bitmap_default_granularity(BlockDriverState *bs)
{
    BlockDriverInfo info = { 0 };

    bs = bdrv_skip_filters(bs);
    if (!bs->drv || !bs->drv->get_info || !bs->drv->get_info(bs, &info) ||
        info.cluster_bytes <= 0) {
        return DEFAULT_GRANULARITY_MAX;
    }
    return CLAMP(info.cluster_bytes, DEFAULT_GRANULARITY_MIN,
                 DEFAULT_GRANULARITY_MAX);
}

static const BlockStoredBitmap *find(BlockDriverState *bs, const char *name)
{
    const GPtrArray *list = bdrv_bitmap_list(bs);

    for (guint i = 0; list && i < list->len; i++) {
        const BlockStoredBitmap *bitmap = g_ptr_array_index(list, i);

        if (strcmp(bitmap->name, name) == 0) {
            return bitmap;
        }
    }
    return NULL;
}

static bool check_writable(BlockDriverState *bs, GError **error)
{
    if (bs->read_only || bs->inactive) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_DENIED,
                    "%s: is open read-only", bdrv_name(bs));
        return false;
    }
    return true;
}

static bool check_usable(BlockDriverState *bs, const char *name,
                         GError **error)
{
    static const char *const reasons[] = {
        [BLOCK_BITMAP_INCONSISTENT] =
            "is inconsistent: its last writer did not close the image "
            "properly",
        [BLOCK_BITMAP_FOREIGN] = "is of a kind that is not known here",
        [BLOCK_BITMAP_DAMAGED] = "is damaged: its content cannot be read",
    };
    const BlockStoredBitmap *bitmap = find(bs, name);

    if (!bitmap) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: there is no bitmap '%s'", bdrv_name(bs), name);
        return false;
    }
    if (bitmap->state != BLOCK_BITMAP_USABLE) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                    "%s: bitmap '%s' %s; it can only be removed "
                    "(bitmap --remove)", bdrv_name(bs), name,
                    reasons[bitmap->state]);
        return false;
    }
    return true;
}

bool bdrv_bitmap_add(BlockDriverState *bs, const char *name,
                     int64_t granularity, bool is_enabled, GError **error)
{
    const BlockBitmapOps *ops;
    bool ok;

    bs = bdrv_skip_filters(bs);
    ops = ops_of(bs, error);
    if (!ops || !check_writable(bs, error)) {
        return false;
    }
    if (find(bs, name)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: bitmap '%s' exists already", bdrv_name(bs), name);
        return false;
    }
    bdrv_drained_begin(bs);
    ok = ops->add(bs, name, granularity, is_enabled, error);
    bdrv_drained_end(bs);
    return ok;
}

bool bdrv_bitmap_remove(BlockDriverState *bs, const char *name,
                        GError **error)
{
    const BlockBitmapOps *ops;
    bool ok;

    bs = bdrv_skip_filters(bs);
    ops = ops_of(bs, error);
    if (!ops || !check_writable(bs, error)) {
        return false;
    }
    if (!find(bs, name)) {
        return check_usable(bs, name, error);
    }
    bdrv_drained_begin(bs);
    ok = ops->remove(bs, name, error);
    bdrv_drained_end(bs);
    return ok;
}

bool bdrv_bitmap_set_enabled(BlockDriverState *bs, const char *name,
                             bool is_enabled, GError **error)
{
    const BlockBitmapOps *ops;
    bool ok;

    bs = bdrv_skip_filters(bs);
    ops = ops_of(bs, error);
    if (!ops || !check_writable(bs, error) ||
        !check_usable(bs, name, error)) {
        return false;
    }
    bdrv_drained_begin(bs);
    ok = ops->set_enabled(bs, name, is_enabled, error);
    bdrv_drained_end(bs);
    return ok;
}

bool bdrv_bitmap_clear(BlockDriverState *bs, const char *name, GError **error)
{
    const BlockBitmapOps *ops;
    HBitmap *bits;

    bs = bdrv_skip_filters(bs);
    ops = ops_of(bs, error);
    if (!ops || !check_writable(bs, error) ||
        !check_usable(bs, name, error)) {
        return false;
    }
    bdrv_drained_begin(bs);
    bits = ops->bits(bs, name, error);
    if (bits) {
        hbitmap_reset_all(bits);
        ops->touched(bs, name);
    }
    bdrv_drained_end(bs);
    return bits != NULL;
}

/* Both nodes drained. */
static bool merge(BlockDriverState *bs, const char *name,
                  BlockDriverState *from, const char *source, GError **error)
{
    HBitmap *bits = bs->drv->bitmaps->bits(bs, name, error);
    const HBitmap *more =
        bits ? from->drv->bitmaps->bits(from, source, error) : NULL;

    if (!more) {
        return false;
    }
    if (hbitmap_bytes(bits) != hbitmap_bytes(more)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "bitmaps '%s' of %s and '%s' of %s differ in size: %"
                    PRId64 " and %" PRId64 " bytes", name, bdrv_name(bs),
                    source, bdrv_name(from), hbitmap_bytes(bits),
                    hbitmap_bytes(more));
        return false;
    }
    if (bits != more) {
        hbitmap_merge(bits, more);
        bs->drv->bitmaps->touched(bs, name);
    }
    return true;
}

bool bdrv_bitmap_merge_from(BlockDriverState *bs, const char *name,
                            BlockDriverState *from, const char *source,
                            GError **error)
{
    bool ok;

    bs = bdrv_skip_filters(bs);
    from = bdrv_skip_filters(from);
    if (!ops_of(bs, error) || !check_writable(bs, error) ||
        !check_usable(bs, name, error) || !ops_of(from, error) ||
        !check_usable(from, source, error)) {
        return false;
    }
    bdrv_drained_begin(bs);
    bdrv_drained_begin(from);
    ok = merge(bs, name, from, source, error);
    bdrv_drained_end(from);
    bdrv_drained_end(bs);
    return ok;
}

bool bdrv_bitmaps_store(BlockDriverState *bs, GError **error)
{
    bool ok;

    bs = bdrv_skip_filters(bs);
    if (!bdrv_bitmap_list(bs) || bs->read_only || bs->inactive) {
        return true;
    }
    bdrv_drained_begin(bs);
    ok = bs->drv->bitmaps->store(bs, error);
    bdrv_drained_end(bs);
    return ok;
}

/* -- copying all of them -------------------------------------------------- */

bool bdrv_bitmaps_can_copy(BlockDriverState *from, bool skip_broken,
                           GError **error)
{
    const GPtrArray *list;

    from = bdrv_skip_filters(from);
    if (!ops_of(from, error)) {
        return false;
    }
    list = bdrv_bitmap_list(from);
    for (guint i = 0; !skip_broken && i < list->len; i++) {
        const BlockStoredBitmap *bitmap = g_ptr_array_index(list, i);

        if (!check_usable(from, bitmap->name, error)) {
            g_prefix_error(error, "bitmaps cannot be copied (but "
                           "--skip-broken-bitmaps leaves out such ones): ");
            return false;
        }
    }
    return true;
}

static bool copy_one(BlockDriverState *bs, BlockDriverState *from,
                     const BlockStoredBitmap *bitmap, GError **error)
{
    return bdrv_bitmap_add(bs, bitmap->name, bitmap->granularity,
                           bitmap->is_enabled, error) &&
           bdrv_bitmap_merge_from(bs, bitmap->name, from, bitmap->name,
                                  error);
}

bool bdrv_bitmaps_copy(BlockDriverState *bs, BlockDriverState *from,
                       bool skip_broken, GError **error)
{
    const GPtrArray *list;

    from = bdrv_skip_filters(from);
    if (!bdrv_bitmaps_can_copy(from, skip_broken, error) ||
        !bdrv_bitmaps_supported(bs, error)) {
        return false;
    }
    list = bdrv_bitmap_list(from);
    for (guint i = 0; i < list->len; i++) {
        const BlockStoredBitmap *bitmap = g_ptr_array_index(list, i);

        if (bitmap->state != BLOCK_BITMAP_USABLE) {
            g_warning("%s: bitmap '%s' is not usable and is left out",
                      bdrv_name(from), bitmap->name);
        } else if (!copy_one(bs, from, bitmap, error)) {
            return false;
        }
    }
    return bdrv_bitmaps_store(bs, error);
}
