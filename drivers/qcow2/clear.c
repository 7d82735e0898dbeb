/* SPDX-License-Identifier: MIT */
/*
 * zeroing and discarding: changes of the mapping that move no data
 *
 * Entries change under the lock, slice by slice, where no allocation is in
 * flight. A host cluster that loses its entry goes to the quarantine. Parts
 * of clusters are zeroed by the bitmaps of extended L2 entries. Only where a
 * part of a compressed cluster is to be zeroed zeros are written as data.
 *
 * Locking: the entry point takes q->lock; allocations of tables may drop it.
 */
#include "drivers/qcow2/cluster.h"
#include "drivers/qcow2/data_file.h"

#include <errno.h>

/* Both words of a cluster that reads zeros and has no host cluster. */
static Qcow2L2Entry zero_entry(const Qcow2State *q)
{
    return q->subclusters > 1
               ? (Qcow2L2Entry){ 0, QCOW2_BITMAP_ALL_ZERO }
               : (Qcow2L2Entry){ QCOW2_L2_ZERO, 0 };
}

/*
 * What becomes of the entry of guest @offset; *ret_drop: the host cluster is
 * given up. A damaged one is forgotten, and what it named kept: a leak.
 */
static Qcow2L2Entry cleared_entry(const BlockDriverState *bs, int64_t offset,
                                  Qcow2L2Entry entry, Qcow2ClearMode mode,
                                  bool *ret_drop)
{
    const Qcow2State *q = qcow2_state(bs);
    bool is_misplaced = qcow2_is_misplaced(q, entry.word, offset);
    Qcow2ClusterType type = is_misplaced ? QCOW2_CLUSTER_INVALID
                                         : qcow2_subcluster_type(q, entry, 0);
    bool has_host = qcow2_has_host_cluster(type);

    *ret_drop = false;
    if (!bs->backing &&
        (type == QCOW2_CLUSTER_UNALLOCATED ||
         (type == QCOW2_CLUSTER_ZERO_PLAIN && q->subclusters > 1))) {
        return entry; /* reads zeros, and nothing is behind it */
    }
    if (mode == QCOW2_CLEAR_ZERO && has_host &&
        (entry.word & QCOW2_ENTRY_COPIED)) {
        return q->subclusters > 1
                   ? (Qcow2L2Entry){ entry.word, QCOW2_BITMAP_ALL_ZERO }
                   : (Qcow2L2Entry){ entry.word | QCOW2_L2_ZERO, 0 };
    }
    *ret_drop = has_host || type == QCOW2_CLUSTER_COMPRESSED;
    return mode == QCOW2_CLEAR_UNALLOCATED ? (Qcow2L2Entry){ 0, 0 }
                                           : zero_entry(q);
}

static void set_entry(BlockDriverState *bs, Qcow2Slice *slice, unsigned at,
                      Qcow2L2Entry old, Qcow2L2Entry entry)
{
    if (entry.word != old.word || entry.bitmap != old.bitmap) {
        qcow2_l2_set(bs, slice, at, entry);
    }
}

/* Clears whole clusters from guest @offset on that one slice maps. */
static void clear_whole(BlockDriverState *bs, Qcow2Slice *slice,
                        int64_t offset, int64_t clusters, Qcow2ClearMode mode)
{
    unsigned first = qcow2_l2_position(bs, offset).entry;
    int64_t cluster_bytes = qcow2_state(bs)->cluster_bytes;

    for (int64_t i = 0; i < clusters; i++) {
        unsigned at = first + (unsigned)i;
        Qcow2L2Entry old = qcow2_l2_get(slice, at);
        bool drop;

        set_entry(bs, slice, at, old,
                  cleared_entry(bs, offset + i * cluster_bytes, old, mode,
                                &drop));
        if (drop) {
            qcow2_quarantine_add_entry(bs, old.word, QCOW2_FREE_REQUEST);
        }
    }
}

/*
 * Subclusters of one cluster read zeros; where nothing shows through, those
 * that are not allocated do so already.
 */
static int clear_part(BlockDriverState *bs, Qcow2Slice *slice, int64_t offset,
                      unsigned count)
{
    const Qcow2State *q = qcow2_state(bs);
    unsigned at = qcow2_l2_position(bs, offset).entry;
    unsigned first = qcow2_subcluster_index(q, offset);
    Qcow2L2Entry old = qcow2_l2_get(slice, at);
    Qcow2L2Entry entry = old;
    uint64_t range = qcow2_bitmap_range(first, count);
    Qcow2ClusterType type = qcow2_subcluster_type(q, old, 0);

    if (qcow2_is_misplaced(q, old.word, offset - qcow2_in_cluster(q, offset))) {
        return -EIO;
    }
    if (type == QCOW2_CLUSTER_COMPRESSED || type == QCOW2_CLUSTER_INVALID) {
        return type == QCOW2_CLUSTER_INVALID ? -EIO : -ENOTSUP;
    }
    if (!bs->backing) {
        range &= old.bitmap;
    }
    entry.bitmap = (old.bitmap & ~range) | range << 32;
    set_entry(bs, slice, at, old, entry);
    return 0;
}

/* Clears what one slice maps, up to the next allocation in flight. */
static int coroutine_fn clear_some(BlockDriverState *bs, int64_t offset,
                                   int64_t unit, int64_t *bytes,
                                   Qcow2ClearMode mode)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2L2Position position = qcow2_l2_position(bs, offset);
    Qcow2Slice *slice;
    int ret;

    if (!bs->backing && q->l2.l1[position.l1_index] == 0) {
        /* No table: reads zeros already. An allocation makes one first. */
        int64_t reach = q->cluster_bytes << q->l2_bits;

        *bytes = MIN(*bytes, reach - (offset & (reach - 1)));
        return 0;
    }
    ret = qcow2_own_range(bs, offset, unit, bytes, &slice);
    if (ret < 0) {
        return ret;
    }
    if (unit == q->cluster_bytes) {
        clear_whole(bs, slice, offset, *bytes >> q->cluster_bits, mode);
    } else {
        ret = clear_part(bs, slice, offset, *bytes >> q->subcluster_bits);
    }
    qcow2_l2_unpin(bs, slice);
    return ret;
}

int coroutine_fn qcow2_clear_clusters(BlockDriverState *bs, int64_t offset,
                                      int64_t bytes, Qcow2ClearMode mode)
{
    Qcow2State *q = qcow2_state(bs);
    int ret = 0;

    while (bytes > 0 && ret >= 0) {
        int64_t rest = q->cluster_bytes - qcow2_in_cluster(q, offset);
        int64_t unit = q->subcluster_bytes;
        int64_t part = MIN(bytes, rest);

        if (part == q->cluster_bytes) {
            unit = q->cluster_bytes;
            part = align_down(bytes, unit);
        }
        ret = qcow2_co_commit_if_due(bs);
        if (ret < 0) {
            break;
        }
        co_mutex_lock(&q->lock);
        ret = clear_some(bs, offset, unit, &part, mode);
        co_mutex_unlock(&q->lock);
        if (ret == -ENOTSUP) {
            ret = qcow2_write_zeros(bs, offset, offset + part);
        }
        offset += part;
        bytes -= part;
    }
    return ret;
}
