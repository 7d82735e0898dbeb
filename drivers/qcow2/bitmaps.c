/* SPDX-License-Identifier: MIT */
/*
 * persistent dirty bitmaps: their life while an image is open
 *
 *   open read-write  enabled ones are read and become dirty bitmaps of the node
 *   first write      ... and are marked in use in the file, before any guest
 *                    data changes (qcow2_prepare_write)
 *   close, handing over, reopening read-only
 *                    bitmap_store.c writes all that is not in the file and
 *                    takes the marks away
 *
 * Disabled ones stay in the file; their bits are read when a user asks, or
 * when the image is resized. A bitmap that is not usable (in use when it was
 * opened, unreadable, of a foreign kind) is kept as it is, and can be removed.
 *
 * Always true:
 *  M1  before guest data changes, every enabled bitmap is marked in the file,
 *      and that is on the medium;
 *  M2  a usable, marked bitmap has its content in memory.
 *
 * Locking: bitmaps.h.
 */
#include "drivers/qcow2/bitmaps.h"

#include "block/io/bitmap.h"
#include "block/io/io.h"
#include "block/rt/aio_context.h"
#include "drivers/qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static Qcow2Bitmap *find(const Qcow2State *q, const char *name)
{
    for (guint i = 0; i < q->bitmaps->len; i++) {
        Qcow2Bitmap *bitmap = g_ptr_array_index(q->bitmaps, i);

        if (strcmp(bitmap->info.name, name) == 0) {
            return bitmap;
        }
    }
    return NULL;
}

HBitmap *qcow2_bitmap_bits(BlockDriverState *bs, const Qcow2Bitmap *bitmap)
{
    BdrvDirtyBitmap *dirty;

    if (!bitmap->is_tracked) {
        return bitmap->bits;
    }
    dirty = bdrv_dirty_bitmap_find(bs, bitmap->info.name);
    return dirty ? bdrv_dirty_bitmap_bits(dirty) : NULL;
}

/* -- loading -------------------------------------------------------------- */

bool qcow2_bitmaps_load(BlockDriverState *bs, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t bytes = q->header.bitmap_directory_bytes;
    g_autofree uint8_t *directory = NULL;
    int ret;

    if (!q->header.has_bitmaps) {
        q->bitmaps = g_ptr_array_new_with_free_func(
            (GDestroyNotify)qcow2_bitmap_free);
        return true;
    }
    directory = g_try_malloc(bytes);
    if (!directory) {
        g_set_error_literal(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                            "no memory for the bitmap directory");
        return false;
    }
    ret = bdrv_pread(bs->file, q->header.bitmap_directory_offset, bytes,
                     directory);
    if (ret < 0) {
        error_set_errno(error, -ret, "reading the bitmap directory");
        return false;
    }
    q->bitmaps = qcow2_bitmaps_parse(directory, bytes, q->header.bitmaps,
                                     error);
    return q->bitmaps != NULL;
}

void qcow2_bitmaps_unload(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);

    g_clear_pointer(&q->bitmaps, g_ptr_array_unref);
    g_clear_pointer(&q->removed_bitmaps, g_ptr_array_unref);
}

/* May @bitmap take its memory? All of them together have a limit. */
static bool fits_in_memory(BlockDriverState *bs, const Qcow2Bitmap *bitmap)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t bytes = 0;
    void *probe;

    for (guint i = 0; i < q->bitmaps->len; i++) {
        const Qcow2Bitmap *one = g_ptr_array_index(q->bitmaps, i);

        if (one == bitmap || one->is_tracked || one->bits) {
            bytes += q->header.size / 8 / one->info.granularity;
        }
    }
    if (bytes > QCOW2_BITMAP_BITS_MAX_BYTES) {
        return false;
    }
    /* Making an HBitmap cannot fail: ask before. */
    probe = g_try_malloc(bytes + 1);
    g_free(probe);
    return probe != NULL;
}

/* The content into @bitmap->bits. 0 or -errno. Coroutine. */
static int coroutine_fn co_fetch(BlockDriverState *bs, Qcow2Bitmap *bitmap)
{
    g_autoptr(HBitmap) bits = NULL;
    int ret;

    if (!fits_in_memory(bs, bitmap)) {
        return -ENOMEM;
    }
    bits = hbitmap_new(qcow2_state(bs)->header.size,
                       (int)bitmap->granularity_bits);
    ret = qcow2_bitmap_co_read(bs, bitmap, bits);
    if (ret >= 0) {
        bitmap->bits = g_steal_pointer(&bits);
    }
    return ret;
}

typedef struct Fetch {
    BlockDriverState *bs;
    Qcow2Bitmap *bitmap;
    int ret;
} Fetch;

static void coroutine_fn fetch_entry(void *opaque)
{
    Fetch *fetch = opaque;

    fetch->ret = co_fetch(fetch->bs, fetch->bitmap);
}

static int fetch_bits(BlockDriverState *bs, Qcow2Bitmap *bitmap)
{
    Fetch fetch = { bs, bitmap, 0 };

    aio_run_sync(fetch_entry, &fetch);
    return fetch.ret;
}

/* -- tracking ------------------------------------------------------------- */

/* The content, which is in ->bits, moves to a dirty bitmap of the node. */
static bool start_tracking(BlockDriverState *bs, Qcow2Bitmap *bitmap,
                           GError **error)
{
    BdrvDirtyBitmap *dirty = bdrv_dirty_bitmap_new(
        bs, bitmap->info.name, bitmap->info.granularity, error);

    if (!dirty) {
        return false;
    }
    hbitmap_merge(bdrv_dirty_bitmap_bits(dirty), bitmap->bits);
    g_clear_pointer(&bitmap->bits, hbitmap_free);
    bitmap->is_tracked = true;
    return true;
}

static void track_one(BlockDriverState *bs, Qcow2Bitmap *bitmap)
{
    g_autoptr(GError) error = NULL;
    int ret = bitmap->bits ? 0 : fetch_bits(bs, bitmap);

    if (ret < 0) {
        error_set_errno(&error, -ret, "its content cannot be read");
    }
    if (ret < 0 || !start_tracking(bs, bitmap, &error)) {
        g_warning("%s: bitmap '%s' is not usable: %s", bdrv_name(bs),
                  bitmap->info.name, error->message);
        bitmap->info.state = BLOCK_BITMAP_DAMAGED;
    }
}

void qcow2_bitmaps_track(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);

    for (guint i = 0; q->bitmaps && i < q->bitmaps->len; i++) {
        Qcow2Bitmap *bitmap = g_ptr_array_index(q->bitmaps, i);

        if ((bitmap->flags & QCOW2_BITMAP_AUTO) && !bitmap->is_tracked &&
            bitmap->info.state == BLOCK_BITMAP_USABLE) {
            track_one(bs, bitmap);
        }
    }
}

bool qcow2_bitmaps_untrack(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    bool any = false;

    for (guint i = 0; q->bitmaps && i < q->bitmaps->len; i++) {
        Qcow2Bitmap *bitmap = g_ptr_array_index(q->bitmaps, i);
        BdrvDirtyBitmap *dirty =
            bitmap->is_tracked ? bdrv_dirty_bitmap_find(bs, bitmap->info.name)
                               : NULL;

        if (dirty) {
            bdrv_dirty_bitmap_remove(dirty);
        }
        any = any || bitmap->is_tracked;
        bitmap->is_tracked = false;
    }
    return any;
}

/* -- in use --------------------------------------------------------------- */

/* Marks in memory what was marked in the file. */
static void remember_marks(Qcow2State *q, bool all)
{
    for (guint i = 0; i < q->bitmaps->len; i++) {
        Qcow2Bitmap *bitmap = g_ptr_array_index(q->bitmaps, i);

        if (bitmap->table_offset != 0 &&
            (all || (bitmap->flags & QCOW2_BITMAP_AUTO)) &&
            !(bitmap->flags & QCOW2_BITMAP_IN_USE)) {
            qcow2_bitmap_set_flags(bitmap,
                                   bitmap->flags | QCOW2_BITMAP_IN_USE);
        }
        if (bitmap->info.state == BLOCK_BITMAP_USABLE &&
            (bitmap->flags & QCOW2_BITMAP_IN_USE)) {
            bitmap->is_marked = true;
        }
    }
}

int coroutine_fn qcow2_bitmaps_co_mark(BlockDriverState *bs, bool all)
{
    Qcow2State *q = qcow2_state(bs);
    const Qcow2Header *header = &q->header;
    int64_t bytes = header->bitmap_directory_bytes;
    g_autofree uint8_t *directory = NULL;
    bool changed = false;
    int64_t at = 0;
    int ret;

    /* Stale ones may lie where somebody else's data is by now. */
    if (!header->has_bitmaps || !q->bitmaps ||
        !(header->autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
        return 0;
    }
    directory = g_try_malloc(bytes);
    if (!directory) {
        return -ENOMEM;
    }
    ret = bdrv_co_pread(bs->file, header->bitmap_directory_offset, bytes,
                        directory, 0);
    for (uint32_t i = 0; ret >= 0 && i < header->bitmaps; i++) {
        if (qcow2_bitmap_entry_bytes(directory + at, bytes - at) == 0) {
            return -EIO; /* not what was parsed */
        }
        changed |= qcow2_bitmap_entry_mark(directory, bytes, at, all, &at);
    }
    if (ret >= 0 && changed) {
        ret = bdrv_co_pwrite(bs->file, header->bitmap_directory_offset, bytes,
                             directory, 0);
        ret = ret < 0 ? ret : bdrv_co_flush(bs->file->bs);
    }
    if (ret >= 0) {
        remember_marks(q, all);
    }
    return ret < 0 ? ret : 0;
}

/* -- another length ------------------------------------------------------- */

/* What @bitmap has against another length; its bits are in memory after. */
static bool coroutine_fn ready_for_resize(BlockDriverState *bs,
                                          Qcow2Bitmap *bitmap,
                                          GError **error)
{
    int ret = 0;

    if (bitmap->info.state != BLOCK_BITMAP_USABLE) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                    "bitmap '%s' is %s, and so cannot get another size; "
                    "remove it first (bitmap --remove)", bitmap->info.name,
                    bitmap->info.state == BLOCK_BITMAP_INCONSISTENT
                        ? "inconsistent" : "not usable");
        return false;
    }
    if (!bitmap->is_tracked && !bitmap->bits) {
        ret = co_fetch(bs, bitmap);
    }
    if (ret < 0) {
        error_set_errno(error, -ret, "reading bitmap '%s'",
                        bitmap->info.name);
    }
    return ret >= 0;
}

bool coroutine_fn qcow2_bitmaps_co_before_resize(BlockDriverState *bs,
                                                 GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    int ret = 0;

    for (guint i = 0; i < q->bitmaps->len; i++) {
        if (!ready_for_resize(bs, g_ptr_array_index(q->bitmaps, i), error)) {
            return false;
        }
    }
    co_mutex_lock(&q->commit_lock);
    ret = qcow2_bitmaps_co_mark(bs, /* all= */ true);
    co_mutex_unlock(&q->commit_lock);
    if (ret < 0) {
        error_set_errno(error, -ret, "marking bitmaps as in use");
    }
    return ret >= 0;
}

void coroutine_fn qcow2_bitmaps_co_after_resize(BlockDriverState *bs,
                                                int64_t length)
{
    Qcow2State *q = qcow2_state(bs);

    for (guint i = 0; i < q->bitmaps->len; i++) {
        Qcow2Bitmap *bitmap = g_ptr_array_index(q->bitmaps, i);

        bitmap->is_changed = true;
        if (bitmap->bits) {
            hbitmap_truncate(bitmap->bits, length);
        }
    }
}

/* -- the driver's table --------------------------------------------------- */

static const GPtrArray *bitmap_list(BlockDriverState *bs)
{
    const Qcow2State *q = qcow2_state(bs);

    return q->header.version < 3 ? NULL : q->bitmaps;
}

static bool check_new(BlockDriverState *bs, const char *name,
                      int64_t granularity, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    size_t name_bytes = strlen(name);

    if (name_bytes == 0 || name_bytes > QCOW2_BITMAP_NAME_MAX) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "a bitmap's name has 1 to %d bytes, not %zu",
                    QCOW2_BITMAP_NAME_MAX, name_bytes);
        return false;
    }
    if (granularity < 512 || granularity > 2 * GIB ||
        (granularity & (granularity - 1)) != 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "bitmap granularity %" PRId64 " is not a power of two "
                    "from 512 to 2G", granularity);
        return false;
    }
    if (q->bitmaps->len >= QCOW2_BITMAPS_MAX) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: has %u bitmaps, and there is no room for more",
                    bdrv_name(bs), q->bitmaps->len);
        return false;
    }
    if (qcow2_bitmap_table_entries(bs, q->header.size,
                                   __builtin_ctzll(granularity)) == 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: a bitmap with granularity %" PRId64 " would have "
                    "more than %" PRId64 " MiB; use a larger one",
                    bdrv_name(bs), granularity,
                    QCOW2_BITMAP_BITS_MAX_BYTES / MIB);
        return false;
    }
    return true;
}

static bool bitmap_add(BlockDriverState *bs, const char *name,
                       int64_t granularity, bool is_enabled, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2Bitmap *bitmap;

    if (!check_new(bs, name, granularity, error)) {
        return false;
    }
    bitmap = qcow2_bitmap_new(name, __builtin_ctzll(granularity),
                              is_enabled ? QCOW2_BITMAP_AUTO : 0);
    if (!fits_in_memory(bs, bitmap)) {
        error_set_errno(error, ENOMEM, "%s: adding bitmap '%s'",
                        bdrv_name(bs), name);
        qcow2_bitmap_free(bitmap);
        return false;
    }
    bitmap->bits = hbitmap_new(q->header.size, (int)bitmap->granularity_bits);
    bitmap->is_changed = true;
    if (is_enabled && !start_tracking(bs, bitmap, error)) {
        qcow2_bitmap_free(bitmap);
        return false;
    }
    g_ptr_array_add(q->bitmaps, bitmap);
    return true;
}

/* NULL with @error when a job works on it, or nobody has its bits. */
static HBitmap *free_bits(BlockDriverState *bs, Qcow2Bitmap *bitmap,
                          GError **error)
{
    BdrvDirtyBitmap *dirty =
        bitmap->is_tracked ? bdrv_dirty_bitmap_find(bs, bitmap->info.name)
                           : NULL;
    int ret = bitmap->is_tracked || bitmap->bits ? 0 : fetch_bits(bs, bitmap);

    if (dirty && bdrv_dirty_bitmap_is_frozen(dirty)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CONFLICT,
                    "%s: bitmap '%s' is in use by a job", bdrv_name(bs),
                    bitmap->info.name);
        return NULL;
    }
    if (ret < 0 || (bitmap->is_tracked && !dirty)) {
        error_set_errno(error, ret < 0 ? -ret : ENOENT,
                        "%s: reading bitmap '%s'", bdrv_name(bs),
                        bitmap->info.name);
        return NULL;
    }
    return qcow2_bitmap_bits(bs, bitmap);
}

static bool bitmap_remove(BlockDriverState *bs, const char *name,
                          GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2Bitmap *bitmap = find(q, name);
    BdrvDirtyBitmap *dirty =
        bitmap->is_tracked ? bdrv_dirty_bitmap_find(bs, name) : NULL;
    guint index = 0;

    if (dirty && !free_bits(bs, bitmap, error)) {
        return false;
    }
    if (dirty) {
        bdrv_dirty_bitmap_remove(dirty);
    }
    (void) g_ptr_array_find(q->bitmaps, bitmap, &index);
    bitmap = g_ptr_array_steal_index(q->bitmaps, index);
    bitmap->is_tracked = false;
    if (!q->removed_bitmaps) {
        q->removed_bitmaps = g_ptr_array_new_with_free_func(
            (GDestroyNotify)qcow2_bitmap_free);
    }
    g_ptr_array_add(q->removed_bitmaps, bitmap);
    return true;
}

static bool bitmap_set_enabled(BlockDriverState *bs, const char *name,
                               bool is_enabled, GError **error)
{
    Qcow2Bitmap *bitmap = find(qcow2_state(bs), name);
    HBitmap *bits = free_bits(bs, bitmap, error);

    if (!bits) {
        return false;
    }
    if (is_enabled == bitmap->is_tracked) {
        return true;
    }
    if (is_enabled && !start_tracking(bs, bitmap, error)) {
        return false;
    }
    if (!is_enabled) {
        bitmap->bits = hbitmap_new(hbitmap_bytes(bits),
                                   (int)bitmap->granularity_bits);
        hbitmap_merge(bitmap->bits, bits);
        bitmap->is_tracked = false;
        bdrv_dirty_bitmap_remove(bdrv_dirty_bitmap_find(bs, name));
    }
    qcow2_bitmap_set_flags(bitmap,
                           is_enabled ? bitmap->flags | QCOW2_BITMAP_AUTO
                                      : bitmap->flags & ~QCOW2_BITMAP_AUTO);
    bitmap->is_changed = true;
    return true;
}

static HBitmap *bitmap_bits(BlockDriverState *bs, const char *name,
                            GError **error)
{
    return free_bits(bs, find(qcow2_state(bs), name), error);
}

static void bitmap_touched(BlockDriverState *bs, const char *name)
{
    find(qcow2_state(bs), name)->is_changed = true;
}

static bool bitmap_store(BlockDriverState *bs, GError **error)
{
    int ret = qcow2_bitmaps_store(bs);

    if (ret < 0) {
        error_set_errno(error, -ret, "%s: storing bitmaps", bdrv_name(bs));
    }
    return ret >= 0;
}

const BlockBitmapOps qcow2_bitmap_ops = {
    .list = bitmap_list,
    .add = bitmap_add,
    .remove = bitmap_remove,
    .set_enabled = bitmap_set_enabled,
    .bits = bitmap_bits,
    .touched = bitmap_touched,
    .store = bitmap_store,
};
