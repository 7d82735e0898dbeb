/* SPDX-License-Identifier: MIT */
/*
 * is this host range metadata?
 *
 * An image may say that a cluster is free (refcount 0) which holds its L1
 * table, a refcount block or an L2 table. Allocating it would destroy the
 * image at the next write, so the allocator asks here first.
 *
 * An L2 entry may lie as well: it says that a cluster is its own (COPIED) and
 * points at such a structure. Writes in place look at the entry only, so the
 * lie has to be found when the slice is loaded: the guard takes COPIED away,
 * and a write that has to replace the cluster asks here again and fails. An
 * entry that names a free cluster shows that counts are not to be trusted: the
 * next allocation might hand out what a guest has, so there is none.
 *
 * A few ranges are kept in q->main_metadata. L2 tables and refcount blocks
 * are many: their cluster numbers are put into a sorted array at the first
 * question, the tables of snapshots into another when snapshots are read.
 *
 * Always true outside a function of this file:
 *  O1  the index holds every L2 table and refcount block that the tables
 *      named when it was made, the set of late ones all made since;
 *  O2  a hit in either is only a suspicion (a table may have moved since):
 *      the tables themselves decide.
 *
 * Locking: q->lock is held. No I/O but for refcount blocks, in the guard.
 */
#include "drivers/qcow2/overlap.h"

#include "drivers/qcow2/cluster.h"
#include "drivers/qcow2/data_file.h"

#include <errno.h>
#include <inttypes.h>

static gint compare_clusters(gconstpointer a, gconstpointer b)
{
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* Adds the clusters that @table's entries name. */
static void index_table(const Qcow2State *q, GArray *index,
                        const uint64_t *table, int64_t entries, uint64_t mask)
{
    for (int64_t i = 0; i < entries; i++) {
        uint64_t entry = __atomic_load_n(&table[i], __ATOMIC_RELAXED) & mask;
        int64_t cluster = entry >> q->cluster_bits;

        if (entry) {
            g_array_append_val(index, cluster);
        }
    }
}

static GArray *index_get(Qcow2State *q)
{
    if (!q->overlap_index) {
        q->overlap_index = g_array_new(/* zero_terminated= */ FALSE,
                                       /* clear= */ FALSE, sizeof(int64_t));
        index_table(q, q->overlap_index, q->l2.l1, q->l2.l1_entries,
                    QCOW2_OFFSET_MASK);
        index_table(q, q->overlap_index, q->refcounts.table,
                    q->refcounts.table_entries, QCOW2_REFTABLE_OFFSET_MASK);
        g_array_sort(q->overlap_index, compare_clusters);
    }
    return q->overlap_index;
}

/* Is a number in [@first, @last] in the sorted @index? */
static bool index_has(const GArray *index, int64_t first, int64_t last)
{
    guint low = 0;
    guint high = index->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;

        if (g_array_index(index, int64_t, middle) < first) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < index->len && g_array_index(index, int64_t, low) <= last;
}

/* Does @table name a cluster that touches the range? */
static bool table_names(const Qcow2State *q, const uint64_t *table,
                        int64_t entries, uint64_t mask, int64_t host_offset,
                        int64_t bytes)
{
    for (int64_t i = 0; i < entries; i++) {
        uint64_t entry = __atomic_load_n(&table[i], __ATOMIC_RELAXED) & mask;

        if (entry && entry < (uint64_t)host_offset + bytes &&
            entry + q->cluster_bytes > (uint64_t)host_offset) {
            return true;
        }
    }
    return false;
}

static const struct {
    unsigned class;
    const char *name;
} ranges[QCOW2_RANGES] = {
    [QCOW2_RANGE_HEADER] = { QCOW2_OVERLAP_MAIN_HEADER, "header" },
    [QCOW2_RANGE_L1] = { QCOW2_OVERLAP_ACTIVE_L1, "L1 table" },
    [QCOW2_RANGE_REFTABLE] = { QCOW2_OVERLAP_REFCOUNT_TABLE,
                               "refcount table" },
    [QCOW2_RANGE_SNAPSHOTS] = { QCOW2_OVERLAP_SNAPSHOT_TABLE,
                                "snapshot table" },
    [QCOW2_RANGE_BITMAPS] = { QCOW2_OVERLAP_BITMAP_DIRECTORY,
                              "bitmap directory" },
    [QCOW2_RANGE_CRYPTO] = { QCOW2_OVERLAP_MAIN_HEADER, "crypto header" },
};

unsigned qcow2_overlap_ranges(unsigned classes)
{
    unsigned found = 0;

    for (unsigned i = 0; i < QCOW2_RANGES; i++) {
        found |= classes & ranges[i].class ? 1u << i : 0;
    }
    return found;
}

static const char *main_metadata_name(const Qcow2State *q, unsigned classes,
                                      int64_t host_offset, int64_t bytes)
{
    for (unsigned i = 0; i < QCOW2_RANGES; i++) {
        const Qcow2HostRange *range = &q->main_metadata[i];

        if ((classes & ranges[i].class) && host_offset < range->end &&
            range->start < host_offset + bytes) {
            return ranges[i].name;
        }
    }
    return NULL;
}

/* Has a snapshot its L1 (or its L2, as @classes say) tables there? */
static bool is_of_snapshot(const Qcow2State *q, unsigned classes,
                           int64_t first, int64_t last)
{
    for (int64_t i = first; q->snapshot_index && i <= last; i++) {
        int64_t l1 = qcow2_overlap_number(i, /* is_l2= */ false);
        int64_t l2 = qcow2_overlap_number(i, /* is_l2= */ true);

        if (((classes & QCOW2_OVERLAP_INACTIVE_L1) &&
             index_has(q->snapshot_index, l1, l1)) ||
            ((classes & QCOW2_OVERLAP_INACTIVE_L2) &&
             index_has(q->snapshot_index, l2, l2))) {
            return true;
        }
    }
    return false;
}

/* Was one of the clusters made a table since the index was? */
static bool late_has(const Qcow2State *q, int64_t first, int64_t last)
{
    if (!q->overlap_late) {
        return false;
    }
    for (int64_t i = first; i <= last; i++) {
        if (g_hash_table_contains(q->overlap_late, GSIZE_TO_POINTER(i))) {
            return true;
        }
    }
    return false;
}

/* The same for what the tables in memory name. */
static const char *table_name(Qcow2State *q, unsigned classes,
                              int64_t host_offset, int64_t bytes)
{
    int64_t first = host_offset >> q->cluster_bits;
    int64_t last = (host_offset + bytes - 1) >> q->cluster_bits;

    if (!index_has(index_get(q), first, last) && !late_has(q, first, last)) {
        return NULL;
    }
    if ((classes & QCOW2_OVERLAP_REFCOUNT_BLOCK) &&
        table_names(q, q->refcounts.table, q->refcounts.table_entries,
                    QCOW2_REFTABLE_OFFSET_MASK, host_offset, bytes)) {
        return "refcount block";
    }
    return (classes & QCOW2_OVERLAP_ACTIVE_L2) &&
                   table_names(q, q->l2.l1, q->l2.l1_entries,
                               QCOW2_OFFSET_MASK, host_offset, bytes)
               ? "L2 table" : NULL;
}

bool qcow2_overlaps_metadata(BlockDriverState *bs, unsigned classes,
                             int64_t host_offset, int64_t bytes,
                             const char **ret_what)
{
    Qcow2State *q = qcow2_state(bs);
    const char *what = main_metadata_name(q, classes, host_offset, bytes);

    if (!what && is_of_snapshot(q, classes, host_offset >> q->cluster_bits,
                                (host_offset + bytes - 1) >>
                                    q->cluster_bits)) {
        what = "table of a snapshot";
    }
    if (!what && (classes & (QCOW2_OVERLAP_REFCOUNT_BLOCK |
                             QCOW2_OVERLAP_ACTIVE_L2))) {
        what = table_name(q, classes, host_offset, bytes);
    }
    if (what && ret_what) {
        *ret_what = what;
    }
    return what != NULL;
}

void qcow2_overlap_note(BlockDriverState *bs, int64_t host_offset)
{
    Qcow2State *q = qcow2_state(bs);

    if (!q->overlap_late) {
        q->overlap_late = g_hash_table_new(NULL, NULL);
    }
    g_hash_table_add(q->overlap_late,
                     GSIZE_TO_POINTER(host_offset >> q->cluster_bits));
}

void qcow2_overlap_set_snapshots(BlockDriverState *bs, GArray *numbers)
{
    Qcow2State *q = qcow2_state(bs);

    g_clear_pointer(&q->snapshot_index, g_array_unref);
    if (numbers) {
        g_array_sort(numbers, compare_clusters);
        q->snapshot_index = numbers;
    }
}

void qcow2_overlap_forget(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);

    g_clear_pointer(&q->overlap_index, g_array_unref);
    g_clear_pointer(&q->overlap_late, g_hash_table_unref);
    g_clear_pointer(&q->snapshot_index, g_array_unref);
}

/* -- the guard ------------------------------------------------------------ */

/* -EUCLEAN: a cluster of the range is free, which its count must not say. */
static int coroutine_fn check_counted(BlockDriverState *bs,
                                      int64_t host_offset, int64_t bytes)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t end = MIN(host_offset + bytes, qcow2_file_length(q));

    for (int64_t at = align_down(host_offset, q->cluster_bytes); at < end;
         at += q->cluster_bytes) {
        uint64_t count;
        int ret = qcow2_refcount_of(bs, at, &count);

        if (ret < 0) {
            return ret;
        }
        if (count == 0) {
            g_debug("%s: an L2 entry points at a free cluster at 0x%" PRIx64,
                    bdrv_name(bs), (uint64_t)at);
            qcow2_refcount_distrust(bs);
            return -EUCLEAN;
        }
    }
    return 0;
}

int coroutine_fn qcow2_overlap_check_entry(BlockDriverState *bs,
                                           uint64_t entry)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t host_offset = entry & QCOW2_OFFSET_MASK;
    const char *what = NULL;

    if (qcow2_has_data_file(q)) {
        return 0;
    }
    if (entry & QCOW2_L2_COMPRESSED) {
        return check_counted(bs,
                             qcow2_compressed_offset(entry, q->cluster_bits),
                             qcow2_compressed_bytes(entry, q->cluster_bits));
    }
    if (host_offset == 0 || host_offset >= qcow2_file_length(q)) {
        return 0;
    }
    if (qcow2_overlaps_metadata(bs, q->options.overlap_classes, host_offset,
                                q->cluster_bytes, &what)) {
        g_debug("%s: L2 entry 0x%" PRIx64 " points at the %s", bdrv_name(bs),
                entry, what);
        return -EUCLEAN;
    }
    return check_counted(bs, host_offset, q->cluster_bytes);
}

void coroutine_fn qcow2_overlap_guard(BlockDriverState *bs, uint64_t *words,
                                      int64_t count)
{
    Qcow2State *q = qcow2_state(bs);

    if (!q->guards || qcow2_has_data_file(q)) {
        return;
    }
    for (int64_t i = 0; i < count; i += q->l2_words) {
        if (words[i] != 0 && qcow2_overlap_check_entry(bs, words[i]) < 0 &&
            !(words[i] & QCOW2_L2_COMPRESSED)) {
            words[i] &= ~QCOW2_ENTRY_COPIED;
        }
    }
}
