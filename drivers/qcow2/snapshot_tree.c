/* SPDX-License-Identifier: MIT */
/*
 * what an L1 table of a qcow2 image names, as a whole: references and COPIED
 *
 *   L1 ─▶ L2 tables ─▶ clusters, compressed data
 *
 * A snapshot shares its tree with the active tables until they differ. Making
 * one adds a reference to each cluster below the L1, leaving one takes it
 * away; afterwards COPIED tells again which clusters have one reference only.
 *
 * Always true:
 *  T1  raising is all or nothing, lowering goes on after an error: what cannot
 *      be read is leaked;
 *  T2  what a damaged image makes look free, but is metadata, keeps its count;
 *  T3  a hole is punched when nothing on disk names the cluster any more.
 *
 * Locking: control plane with the node drained; q->lock is taken because its
 * functions expect it. Nothing is dirty when L2 tables are read and written
 * directly.
 */
#include "drivers/qcow2/snapshot_tree.h"

#include "block/io/io.h"
#include "drivers/qcow2/cluster.h"
#include "drivers/qcow2/overlap.h"

#include <errno.h>

/* -- counts of a tree ----------------------------------------------------- */

/* One walk over what an L1 table names. */
typedef struct Walk {
    BlockDriverState *bs;
    int delta;
    int64_t limit; /* stop after so many clusters */
    int64_t done;
    Qcow2FreeReason reason;
    GArray *freed; /* of Qcow2Freed: to be punched; NULL: nothing is */
} Walk;

/* A reference more or less to each cluster of the range. Lock held. */
static int coroutine_fn walk_range(Walk *walk, int64_t host_offset,
                                   int64_t bytes)
{
    Qcow2State *q = qcow2_state(walk->bs);
    int64_t at = align_down(host_offset, q->cluster_bytes);

    for (; at < host_offset + bytes && walk->done < walk->limit;
         at += q->cluster_bytes) {
        uint64_t count = 0;
        int ret = qcow2_refcount_of(walk->bs, at, &count);

        if (walk->delta < 0 && count == 1 &&
            qcow2_overlaps_metadata(walk->bs, QCOW2_OVERLAP_ALL, at,
                                    q->cluster_bytes, NULL)) {
            continue; /* a damaged image: better a leak */
        }
        if (ret >= 0) {
            ret = qcow2_refcount_add(walk->bs, at, walk->delta);
        }
        if (ret < 0 && walk->delta > 0) {
            return ret;
        }
        if (ret >= 0 && walk->delta < 0 && count == 1 && walk->freed) {
            qcow2_freed_append(walk->freed,
                               (Qcow2Freed){ at, q->cluster_bytes,
                                             walk->reason });
        }
        walk->done++;
    }
    return 0;
}

/* Free, and nobody allocates meanwhile: the file need not keep it. */
static void coroutine_fn punch_freed(Walk *walk)
{
    BlockDriverState *bs = walk->bs;
    int64_t length = qcow2_file_length(qcow2_state(bs));

    for (guint i = 0; walk->freed && i < walk->freed->len; i++) {
        const Qcow2Freed *freed = &g_array_index(walk->freed, Qcow2Freed, i);
        int64_t bytes = MIN(freed->bytes, length - freed->host_offset);

        if (bytes > 0) {
            /* A hint: freeing is complete without it. */
            (void) bdrv_co_pdiscard(bs->file, freed->host_offset, bytes);
        }
    }
    if (walk->freed) {
        g_array_set_size(walk->freed, 0);
    }
}

static int coroutine_fn walk_entry(Walk *walk, uint64_t entry)
{
    Qcow2State *q = qcow2_state(walk->bs);

    switch (qcow2_cluster_type(&q->header, entry)) {
    case QCOW2_CLUSTER_COMPRESSED:
        return walk_range(walk,
                          qcow2_compressed_offset(entry, q->cluster_bits),
                          qcow2_compressed_bytes(entry, q->cluster_bits));
    case QCOW2_CLUSTER_NORMAL:
    case QCOW2_CLUSTER_ZERO_ALLOC:
        return walk_range(walk, entry & QCOW2_OFFSET_MASK, q->cluster_bytes);
    case QCOW2_CLUSTER_INVALID:
        return walk->delta > 0 ? -EIO : 0;
    default:
        return 0;
    }
}

static int coroutine_fn read_l2(BlockDriverState *bs, uint64_t l1_entry,
                                be64 *l2)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t host_offset = l1_entry & QCOW2_OFFSET_MASK;

    if (qcow2_in_cluster(q, host_offset) != 0 ||
        !range_within(host_offset, q->cluster_bytes, qcow2_file_length(q))) {
        return -EIO;
    }
    return bdrv_co_pread(bs->file, host_offset, q->cluster_bytes, l2, 0);
}

static int coroutine_fn walk_tree(Walk *walk, const uint64_t *l1,
                                  int64_t l1_entries)
{
    BlockDriverState *bs = walk->bs;
    Qcow2State *q = qcow2_state(bs);
    g_autofree be64 *l2 = g_malloc(q->cluster_bytes);
    int ret = 0;

    for (int64_t i = 0; i < l1_entries && ret >= 0; i++) {
        uint64_t entry = l1[i];

        if ((entry & QCOW2_OFFSET_MASK) == 0 || walk->done >= walk->limit) {
            continue;
        }
        ret = read_l2(bs, entry, l2);
        if (walk->delta < 0) {
            bdrv_debug_event(bs->file, BLOCK_DEBUG_CLUSTER_FREE);
        }
        co_mutex_lock(&q->lock);
        for (int64_t k = 0; k < 1 << q->l2_bits && ret >= 0; k++) {
            ret = walk_entry(walk, be64_get(&l2[k * q->l2_words]));
        }
        if (ret >= 0) {
            ret = walk_range(walk, entry & QCOW2_OFFSET_MASK,
                             q->cluster_bytes);
        }
        co_mutex_unlock(&q->lock);
        punch_freed(walk);
        if (ret < 0 && walk->delta < 0) {
            ret = 0; /* what cannot be read is leaked */
        }
        if (ret >= 0) {
            ret = qcow2_co_commit_if_due(bs);
        }
    }
    return ret;
}

int coroutine_fn qcow2_tree_raise(BlockDriverState *bs, const uint64_t *l1,
                                  int64_t l1_entries)
{
    Walk walk = { .bs = bs, .delta = 1, .limit = INT64_MAX };
    int ret = walk_tree(&walk, l1, l1_entries);

    if (ret < 0) {
        Walk back = { .bs = bs, .delta = -1, .limit = walk.done };

        (void) walk_tree(&back, l1, l1_entries);
    }
    return ret;
}

/* One that gives up, for good: the header on disk names nothing of it. */
static Walk walk_down(BlockDriverState *bs, Qcow2FreeReason reason)
{
    return (Walk) {
        .bs = bs,
        .delta = -1,
        .limit = INT64_MAX,
        .reason = reason,
        .freed = qcow2_state(bs)->options.punch[reason]
                     ? g_array_new(FALSE, FALSE, sizeof(Qcow2Freed)) : NULL,
    };
}

int coroutine_fn qcow2_tree_lower(BlockDriverState *bs, const uint64_t *l1,
                                  int64_t l1_entries)
{
    Walk walk = walk_down(bs, QCOW2_FREE_SNAPSHOT);
    int ret = walk_tree(&walk, l1, l1_entries);

    g_clear_pointer(&walk.freed, g_array_unref);
    return ret;
}

void coroutine_fn qcow2_tree_lower_range(BlockDriverState *bs,
                                         int64_t host_offset, int64_t bytes,
                                         Qcow2FreeReason reason)
{
    Walk walk = walk_down(bs, reason);
    Qcow2State *q = qcow2_state(bs);

    co_mutex_lock(&q->lock);
    (void) walk_range(&walk, host_offset, bytes); /* a leak at worst */
    co_mutex_unlock(&q->lock);
    punch_freed(&walk);
    g_clear_pointer(&walk.freed, g_array_unref);
}

/* -- COPIED: is the count exactly 1? -------------------------------------- */

/* @entry as it should be. Lock held. */
static int coroutine_fn with_copied(BlockDriverState *bs, uint64_t entry,
                                    uint64_t *ret_entry)
{
    int64_t host_offset = entry & QCOW2_OFFSET_MASK;
    uint64_t count = 0;
    int ret = host_offset ? qcow2_refcount_of(bs, host_offset, &count) : 0;

    *ret_entry = (entry & ~QCOW2_ENTRY_COPIED) |
                 (count == 1 ? QCOW2_ENTRY_COPIED : 0);
    return ret;
}

static int coroutine_fn copied_in_l2(BlockDriverState *bs, uint64_t l1_entry,
                                     be64 *l2)
{
    Qcow2State *q = qcow2_state(bs);
    bool changed = false;
    int ret = read_l2(bs, l1_entry, l2);

    co_mutex_lock(&q->lock);
    for (int64_t k = 0; k < 1 << q->l2_bits && ret >= 0; k++) {
        be64 *word = &l2[k * q->l2_words];
        uint64_t old = be64_get(word);
        uint64_t entry = old;

        if (!(old & QCOW2_L2_COMPRESSED)) {
            ret = with_copied(bs, old, &entry);
        }
        if (entry != old) {
            be64_set(word, entry);
            changed = true;
        }
    }
    co_mutex_unlock(&q->lock);
    return ret < 0 || !changed
               ? ret
               : bdrv_co_pwrite(bs->file, l1_entry & QCOW2_OFFSET_MASK,
                                q->cluster_bytes, l2, 0);
}

int coroutine_fn qcow2_tree_refresh_copied(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    g_autofree be64 *l2 = g_malloc(q->cluster_bytes);
    int ret = qcow2_co_commit_all(bs);

    if (ret < 0) {
        return ret;
    }
    co_mutex_lock(&q->lock);
    qcow2_l2_drop_slices(bs);
    co_mutex_unlock(&q->lock);
    for (int64_t i = 0; i < q->l2.l1_entries && ret >= 0; i++) {
        uint64_t old = q->l2.l1[i];
        uint64_t entry;

        if ((old & QCOW2_OFFSET_MASK) == 0) {
            continue;
        }
        ret = copied_in_l2(bs, old, l2);
        co_mutex_lock(&q->lock);
        if (ret >= 0) {
            ret = with_copied(bs, old, &entry);
        }
        if (ret >= 0 && entry != old) {
            qcow2_l1_set(bs, i, entry);
        }
        co_mutex_unlock(&q->lock);
    }
    return ret < 0 ? ret : qcow2_co_commit_all(bs);
}
