/* SPDX-License-Identifier: MIT */
/*
 * changing the virtual size of a qcow2 image
 *
 * Growing: a larger L1 table, if need be, then what the backing file would
 * show in the new part becomes zeros, then the new size in the header.
 * Shrinking: the size first, then what lies behind it is given up. A crash in
 * between leaves the old or the new size, and leaks at worst.
 *
 * A new L1 table is written from memory at a moment when memory and disk
 * agree, into clusters whose counts are durable; the header then switches to
 * it with one write. Readers keep using the old array until they have ended;
 * it is freed at closing.
 *
 * Locking: commit_lock for the switch, q->lock inside it. The caller keeps
 * requests behind the smaller length out.
 */
#include "drivers/qcow2/cluster.h"

#include "block/io/io.h"
#include "block/rt/buffer_pool.h"
#include "drivers/qcow2/bitmaps.h"
#include "drivers/qcow2/data_file.h"
#include "drivers/qcow2/preallocate.h"

#include <errno.h>
#include <inttypes.h>

#define ZERO_STEP_BYTES (256 * KIB)

static int64_t l1_entries_for(const Qcow2State *q, int64_t length)
{
    return div_round_up(length, q->cluster_bytes << q->l2_bits);
}

/* The arrays in memory, longer. Lock held. */
static void swap_l1_arrays(Qcow2L2Cache *cache, int64_t entries)
{
    int64_t old = cache->l1_entries;
    uint64_t *l1 = g_new0(uint64_t, entries);
    Qcow2L2Table **table = g_new0(Qcow2L2Table *, entries);
    int64_t sectors = div_round_up(entries * 8, QCOW2_SECTOR_BYTES);

    memcpy(l1, cache->l1, old * sizeof(*l1));
    memcpy(table, cache->table, old * sizeof(*table));
    g_ptr_array_add(cache->replaced, cache->l1);
    g_ptr_array_add(cache->replaced, cache->table);
    __atomic_store_n(&cache->l1, l1, __ATOMIC_RELEASE);
    __atomic_store_n(&cache->table, table, __ATOMIC_RELEASE);
    cache->l1_entries = entries;
    g_free(cache->l1_dirty);
    cache->l1_dirty = g_malloc0(sectors + 1);
}

/* Under commit_lock, with an L1 that is on disk as in memory. */
static int coroutine_fn switch_l1(BlockDriverState *bs, int64_t host_offset,
                                  int64_t entries, uint64_t *image)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t old_offset = q->header.l1_offset;
    int64_t old_bytes = q->header.l1_entries * 8;
    int ret;

    bdrv_debug_event(bs->file, BLOCK_DEBUG_L1_GROW_WRITE_TABLE);
    ret = bdrv_co_pwrite(bs->file, host_offset, entries * 8, image, 0);
    if (ret >= 0) {
        ret = bdrv_co_flush(bs->file->bs);
    }
    if (ret >= 0) {
        bdrv_debug_event(bs->file, BLOCK_DEBUG_L1_GROW_ACTIVATE_TABLE);
        ret = qcow2_header_co_write_l1(bs, q->header.size, host_offset,
                                       entries);
    }
    if (ret < 0) {
        return ret;
    }
    /*
     * The header names the new table, even if the flush fails: updates must go
     * there from now on. The old one is given back after a flush that works.
     */
    ret = bdrv_co_flush(bs->file->bs);
    co_mutex_lock(&q->lock);
    q->header.l1_offset = host_offset;
    q->header.l1_entries = entries;
    qcow2_set_range(q, QCOW2_RANGE_L1, host_offset, entries * 8);
    if (old_bytes > 0) {
        qcow2_quarantine_add(bs, old_offset, old_bytes, QCOW2_FREE_OTHER);
    }
    co_mutex_unlock(&q->lock);
    return ret;
}

/* One attempt; -EAGAIN: the L1 has changed since the commit. */
static int coroutine_fn try_switch(BlockDriverState *bs, int64_t host_offset,
                                   int64_t entries)
{
    Qcow2State *q = qcow2_state(bs);
    g_autofree uint64_t *image = g_new0(uint64_t, entries);
    int ret = -EAGAIN;

    co_mutex_lock(&q->commit_lock);
    co_mutex_lock(&q->lock);
    if (!q->l2.any_l1_dirty) {
        for (int64_t i = 0; i < q->header.l1_entries; i++) {
            image[i] = htobe64(q->l2.l1[i]);
        }
        if (q->l2.l1_entries < entries) {
            swap_l1_arrays(&q->l2, entries);
        }
        ret = 0;
    }
    co_mutex_unlock(&q->lock);
    if (ret >= 0) {
        ret = switch_l1(bs, host_offset, entries, image);
    }
    co_mutex_unlock(&q->commit_lock);
    return ret;
}

static int coroutine_fn grow_l1(BlockDriverState *bs, int64_t entries)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t clusters = div_round_up(entries * 8, q->cluster_bytes);
    int64_t host_offset, got;
    int ret;

    bdrv_debug_event(bs->file, BLOCK_DEBUG_L1_GROW_ALLOC_TABLE);
    co_mutex_lock(&q->lock);
    ret = qcow2_alloc_clusters(bs, clusters, clusters, &host_offset, &got);
    co_mutex_unlock(&q->lock);
    if (ret < 0) {
        return ret;
    }
    do {
        ret = qcow2_co_commit(bs);
        if (ret >= 0) {
            ret = bdrv_co_flush(bs->file->bs);
        }
        if (ret >= 0) {
            ret = try_switch(bs, host_offset, entries);
        }
    } while (ret == -EAGAIN);
    /* On failure the clusters leak: the header may name them or not. */
    return ret;
}

static int coroutine_fn write_size(BlockDriverState *bs, int64_t length)
{
    Qcow2State *q = qcow2_state(bs);
    int ret;

    co_mutex_lock(&q->commit_lock);
    ret = qcow2_header_co_write_l1(bs, length, q->header.l1_offset,
                                   q->header.l1_entries);
    if (ret >= 0) {
        ret = bdrv_co_flush(bs->file->bs);
    }
    if (ret >= 0) {
        q->header.size = length;
    }
    co_mutex_unlock(&q->commit_lock);
    return ret;
}

int coroutine_fn qcow2_write_zeros(BlockDriverState *bs, int64_t offset,
                                   int64_t end)
{
    void *zeros = buffer_pool_get(ZERO_STEP_BYTES);
    int ret = zeros ? 0 : -ENOMEM;
    IoVec iov;

    if (zeros) {
        memset(zeros, 0, ZERO_STEP_BYTES);
    }
    iovec_init_buffer(&iov, zeros, ZERO_STEP_BYTES);
    while (offset < end && ret >= 0) {
        int64_t bytes = MIN(end - offset, ZERO_STEP_BYTES);

        ret = bs->drv->co_pwritev(bs, offset, bytes, &iov, 0, 0);
        offset += bytes;
    }
    buffer_pool_put(zeros, ZERO_STEP_BYTES);
    return ret;
}

/* What is mapped, or shows through, in [@offset, @end) becomes zeros. */
static int coroutine_fn zero_range(BlockDriverState *bs, int64_t offset,
                                   int64_t end)
{
    Qcow2State *q = qcow2_state(bs);
    bool has_zero_flag = q->header.version >= 3 || !bs->backing;
    int64_t whole = MIN(align_up(offset, q->subcluster_bytes), end);
    int64_t bytes = align_up(end, q->cluster_bytes) - whole;
    Qcow2Run run;
    unsigned side;
    int ret = 0;

    if (offset < whole) {
        side = qcow2_epoch_enter(q->epoch);
        ret = qcow2_map(bs, offset, 1, &run);
        qcow2_epoch_leave(q->epoch, side);
        if (ret >= 0 && (bs->backing ||
                         run.type == QCOW2_CLUSTER_NORMAL ||
                         run.type == QCOW2_CLUSTER_COMPRESSED)) {
            ret = qcow2_write_zeros(bs, offset, whole);
        }
    }
    if (ret < 0 || bytes <= 0) {
        return ret;
    }
    return has_zero_flag
               ? qcow2_clear_clusters(bs, whole, bytes,
                                      bs->backing ? QCOW2_CLEAR_ZERO_UNMAP
                                                  : QCOW2_CLEAR_UNALLOCATED)
               : qcow2_write_zeros(bs, whole, end);
}

static int coroutine_fn grow(BlockDriverState *bs, int64_t length, bool exact,
                             BdrvPreallocMode prealloc, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t old = bdrv_node_length(bs);
    int64_t entries = l1_entries_for(q, length);
    int64_t backing =
        bs->backing ? bdrv_node_length(bs->backing->bs) : 0;
    int ret = 0;

    if (entries * 8 > QCOW2_L1_MAX_BYTES) {
        return -EFBIG;
    }
    if (entries > q->header.l1_entries) {
        ret = grow_l1(bs, entries);
    }
    if (ret >= 0 && backing > old) {
        ret = zero_range(bs, old, MIN(backing, length));
    }
    if (ret >= 0) {
        ret = qcow2_data_file_resize(bs, old, length, exact, error);
    }
    if (ret >= 0 && prealloc != PREALLOC_OFF) {
        ret = qcow2_preallocate(bs, align_up(old, q->cluster_bytes),
                                align_up(length, q->cluster_bytes), prealloc);
    }
    return ret < 0 ? ret : write_size(bs, length);
}

/* L2 tables of nothing but what lies behind @length are given up. */
static int coroutine_fn drop_tables(BlockDriverState *bs, int64_t length)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t first = l1_entries_for(q, length);
    int ret;

    if (first >= q->l2.l1_entries) {
        return 0;
    }
    ret = qcow2_co_commit(bs); /* a table with changes stays */
    if (ret >= 0) {
        co_mutex_lock(&q->lock);
        qcow2_l2_drop_tables(bs, first);
        co_mutex_unlock(&q->lock);
    }
    return ret;
}

static int coroutine_fn shrink(BlockDriverState *bs, int64_t length,
                               bool exact, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t old = align_up(bdrv_node_length(bs), q->cluster_bytes);
    int64_t whole = MIN(align_up(length, q->cluster_bytes), old);
    int ret = write_size(bs, length);

    /* What is left in the last cluster must not come back by growing. */
    if (ret >= 0 && length < whole) {
        ret = zero_range(bs, length, whole);
    }
    if (ret >= 0 && whole < old) {
        ret = qcow2_clear_clusters(bs, whole, old - whole,
                                   QCOW2_CLEAR_UNALLOCATED);
    }
    if (ret >= 0) {
        ret = drop_tables(bs, length);
    }
    return ret < 0 ? ret
                   : qcow2_data_file_resize(bs, length, length, exact, error);
}

int coroutine_fn qcow2_co_truncate(BlockDriverState *bs, int64_t length,
                                   bool exact, BdrvPreallocMode prealloc,
                                   BdrvRequestFlags flags, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t old = bdrv_node_length(bs);
    int ret;

    if (length < old && prealloc != PREALLOC_OFF) {
        g_set_error_literal(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                            "preallocation is for growing");
        return -EINVAL;
    }
    if (prealloc == PREALLOC_OFF && qcow2_data_is_raw(q)) {
        prealloc = PREALLOC_METADATA; /* as all of it is */
    }
    if (length < old && q->header.snapshots > 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "an image with %" PRIu32 " snapshots cannot shrink",
                    q->header.snapshots);
        return -ENOTSUP;
    }
    ret = qcow2_prepare_write(bs);
    if (ret >= 0 && length != old) {
        if (!qcow2_bitmaps_co_before_resize(bs, error)) {
            return -ENOTSUP;
        }
        ret = length > old ? grow(bs, length, exact, prealloc, error)
                           : shrink(bs, length, exact, error);
        if (ret >= 0) {
            qcow2_bitmaps_co_after_resize(bs, length);
        }
    }
    if (ret < 0 && error && !*error) {
        error_set_errno(error, -ret, "resizing to %" PRId64 " bytes", length);
    }
    return ret;
}
