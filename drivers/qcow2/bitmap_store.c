/* SPDX-License-Identifier: MIT */
/*
 * persistent bitmaps: memory -> file, in an order that a crash cannot hurt
 *
 *   1. new clusters: bits and tables of what has changed, a new directory
 *      without our marks ── commit of the refcounts ── flush ──
 *   2. the header's extension names the new directory ── flush ──
 *   3. the old directory, tables and bits are given up (quarantine)
 *
 * Always true:
 *  P1  until step 2 the file has the old directory: what was written to since
 *      is marked in use there. After it, bits are as in memory, and nobody
 *      writes: the next guest write marks again before it does;
 *  P2  nothing that the old directory names is written to or given up before
 *      step 2 is durable;
 *  P3  a failure before step 2 gives the new clusters back; if nobody knows
 *      which directory the header names, the image takes no more writes.
 *
 * Locking: control plane with the node drained; commit_lock for the header.
 */
#include "drivers/qcow2/bitmaps.h"

#include "block/io/bitmap.h"
#include "block/io/io.h"
#include "block/rt/aio_context.h"
#include "drivers/qcow2/qcow2.h"

#include <errno.h>

typedef struct Store {
    BlockDriverState *bs;
    GPtrArray *next; /* of Qcow2Bitmap: copies with the new places */
    GArray *taken;   /* of Qcow2Freed: new clusters */
    GArray *freed;   /* of Qcow2Freed: old ones */
    int64_t directory_offset;
    int64_t directory_bytes;
    int ret;
} Store;

static bool is_due(const Qcow2Bitmap *bitmap)
{
    return bitmap->info.state == BLOCK_BITMAP_USABLE &&
           (bitmap->is_changed || bitmap->is_marked);
}

static bool anything_due(const Qcow2State *q)
{
    bool due = q->removed_bitmaps && q->removed_bitmaps->len > 0;

    for (guint i = 0; q->bitmaps && i < q->bitmaps->len && !due; i++) {
        due = is_due(g_ptr_array_index(q->bitmaps, i));
    }
    return due;
}

/* Is a job at work on one? Its bits are in two places. */
static bool any_frozen(BlockDriverState *bs)
{
    const GPtrArray *list = qcow2_state(bs)->bitmaps;

    for (guint i = 0; i < list->len; i++) {
        const Qcow2Bitmap *bitmap = g_ptr_array_index(list, i);
        const BdrvDirtyBitmap *dirty =
            bitmap->is_tracked ? bdrv_dirty_bitmap_find(bs, bitmap->info.name)
                               : NULL;

        if (dirty && bdrv_dirty_bitmap_is_frozen(dirty)) {
            return true;
        }
    }
    return false;
}

/* -- step 1 --------------------------------------------------------------- */

static int coroutine_fn write_bits(Store *store, const Qcow2Bitmap *bitmap,
                                   Qcow2Bitmap *next)
{
    const HBitmap *bits = qcow2_bitmap_bits(store->bs, bitmap);
    int ret;

    if (!bits) {
        return 0; /* somebody took it off the node: it stays in use */
    }
    ret = qcow2_bitmap_co_write(store->bs, bits, store->taken,
                                &next->table_offset, &next->table_entries);
    if (ret >= 0) {
        next->flags &= ~QCOW2_BITMAP_IN_USE;
        qcow2_bitmap_co_collect(store->bs, bitmap->table_offset,
                                bitmap->table_entries, store->freed);
    }
    return ret;
}

static int coroutine_fn write_directory(Store *store)
{
    g_autoptr(GByteArray) directory = qcow2_bitmaps_encode(store->next);
    int ret;

    store->directory_bytes = directory->len;
    if (directory->len > QCOW2_BITMAP_DIRECTORY_MAX_BYTES) {
        return -EFBIG;
    }
    if (store->next->len == 0) {
        return 0;
    }
    ret = qcow2_bitmap_co_take(store->bs, directory->len, store->taken,
                               &store->directory_offset);
    return ret < 0 ? ret
                   : bdrv_co_pwrite(store->bs->file, store->directory_offset,
                                    directory->len, directory->data, 0);
}

static int coroutine_fn write_new(Store *store)
{
    Qcow2State *q = qcow2_state(store->bs);
    int ret = 0;

    for (guint i = 0; i < q->bitmaps->len && ret >= 0; i++) {
        Qcow2Bitmap *bitmap = g_ptr_array_index(q->bitmaps, i);
        Qcow2Bitmap *next = g_memdup2(bitmap, sizeof(*bitmap));

        g_ptr_array_add(store->next, next);
        if (is_due(bitmap)) {
            ret = write_bits(store, bitmap, next);
        }
    }
    for (guint i = 0; ret >= 0 && q->removed_bitmaps &&
                      i < q->removed_bitmaps->len; i++) {
        const Qcow2Bitmap *bitmap = g_ptr_array_index(q->removed_bitmaps, i);

        qcow2_bitmap_co_collect(store->bs, bitmap->table_offset,
                                bitmap->table_entries, store->freed);
    }
    if (ret >= 0) {
        ret = write_directory(store);
    }
    if (ret >= 0) {
        ret = qcow2_co_commit(store->bs);
    }
    return ret < 0 ? ret : bdrv_co_flush(store->bs->file->bs);
}

static void coroutine_fn give_back(Store *store)
{
    Qcow2State *q = qcow2_state(store->bs);

    co_mutex_lock(&q->lock);
    for (guint i = 0; i < store->taken->len; i++) {
        const Qcow2Freed *range = &g_array_index(store->taken, Qcow2Freed, i);

        qcow2_unalloc_clusters(store->bs, range->host_offset,
                               range->bytes >> q->cluster_bits);
    }
    co_mutex_unlock(&q->lock);
}

/* -- steps 2 and 3 -------------------------------------------------------- */

/* Memory follows the file. */
static void adopt(Store *store)
{
    Qcow2State *q = qcow2_state(store->bs);

    for (guint i = 0; i < q->bitmaps->len; i++) {
        Qcow2Bitmap *bitmap = g_ptr_array_index(q->bitmaps, i);
        const Qcow2Bitmap *next = g_ptr_array_index(store->next, i);

        bitmap->table_offset = next->table_offset;
        bitmap->table_entries = next->table_entries;
        qcow2_bitmap_set_flags(bitmap, next->flags);
        bitmap->is_changed = false;
        bitmap->is_marked = false;
    }
    g_clear_pointer(&q->removed_bitmaps, g_ptr_array_unref);
    qcow2_set_range(q, QCOW2_RANGE_BITMAPS, store->directory_offset,
                    store->directory_bytes);
    /* P1: whoever writes next prepares anew. */
    __atomic_store_n(&q->write_state, 0, __ATOMIC_RELEASE);
}

static void coroutine_fn give_up_old(Store *store, const Qcow2Freed *directory)
{
    Qcow2State *q = qcow2_state(store->bs);

    co_mutex_lock(&q->lock);
    for (guint i = 0; i < store->freed->len; i++) {
        const Qcow2Freed *range = &g_array_index(store->freed, Qcow2Freed, i);

        qcow2_quarantine_add(store->bs, range->host_offset, range->bytes,
                             QCOW2_FREE_OTHER);
    }
    if (directory->bytes > 0) {
        qcow2_quarantine_add(store->bs, directory->host_offset,
                             directory->bytes, QCOW2_FREE_OTHER);
    }
    co_mutex_unlock(&q->lock);
}

static void coroutine_fn store_entry(void *opaque)
{
    Store *store = opaque;
    Qcow2State *q = qcow2_state(store->bs);
    const Qcow2HostRange *range = &q->main_metadata[QCOW2_RANGE_BITMAPS];
    Qcow2Freed old = { range->start, range->end - range->start,
                       QCOW2_FREE_OTHER };
    int ret = write_new(store);

    if (ret >= 0) {
        co_mutex_lock(&q->commit_lock);
        ret = qcow2_bitmap_extension_co_write(store->bs, store->next->len,
                                              store->directory_bytes,
                                              store->directory_offset);
        co_mutex_unlock(&q->commit_lock);
    }
    if (ret >= 0) {
        adopt(store);
        give_up_old(store, &old);
    } else if (ret == -ENOTRECOVERABLE) {
        __atomic_store_n(&q->is_corrupt, 1, __ATOMIC_SEQ_CST); /* P3 */
    } else {
        give_back(store);
    }
    store->ret = ret;
}

int qcow2_bitmaps_store(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    Store store = { .bs = bs };
    int ret;

    if (!anything_due(q)) {
        return 0;
    }
    if (any_frozen(bs)) {
        return -EBUSY;
    }
    ret = qcow2_commit_all(bs);
    if (ret < 0) {
        return ret;
    }
    store.next = g_ptr_array_new_with_free_func(g_free);
    store.taken = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    store.freed = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    aio_run_sync(store_entry, &store);
    g_ptr_array_unref(store.next);
    g_array_unref(store.taken);
    g_array_unref(store.freed);
    /* What is given up or back is tidied up; failing that is a leak. */
    ret = qcow2_commit_all(bs);
    return store.ret < 0 ? store.ret : ret;
}
