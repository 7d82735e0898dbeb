/* SPDX-License-Identifier: MIT */
/*
 * is this host range metadata?
 *
 * An image may say that a cluster is free (refcount 0) which holds its L1
 * table, a refcount block or an L2 table. Allocating it would destroy the
 * image at the next write, so the allocator asks here first.
 *
 * Four ranges are few and kept in q->main_metadata. L2 tables and refcount
 * blocks are many: their cluster numbers are put into a sorted array at the
 * first question.
 *
 * Always true outside a function of this file:
 *  O1  the index holds every L2 table and refcount block that the tables
 *      named when it was made. Those made later were allocated by ourselves
 *      and have a count in memory, so they are never candidates;
 *  O2  a hit in the index is only a suspicion (a table may have moved since):
 *      the tables themselves decide.
 *
 * Locking: q->lock is held. No I/O.
 */
#include "drivers/qcow2/overlap.h"

#include "drivers/qcow2/qcow2.h"

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

static const char *main_metadata_name(const Qcow2State *q,
                                      int64_t host_offset, int64_t bytes)
{
    static const char *const names[QCOW2_RANGES] = {
        [QCOW2_RANGE_HEADER] = "header",
        [QCOW2_RANGE_L1] = "L1 table",
        [QCOW2_RANGE_REFTABLE] = "refcount table",
        [QCOW2_RANGE_SNAPSHOTS] = "snapshot table",
    };

    for (unsigned i = 0; i < QCOW2_RANGES; i++) {
        const Qcow2HostRange *range = &q->main_metadata[i];

        if (host_offset < range->end && range->start < host_offset + bytes) {
            return names[i];
        }
    }
    return NULL;
}

bool qcow2_overlaps_metadata(BlockDriverState *bs, int64_t host_offset,
                             int64_t bytes, const char **ret_what)
{
    Qcow2State *q = qcow2_state(bs);
    const char *what = main_metadata_name(q, host_offset, bytes);

    if (!what && index_has(index_get(q), host_offset >> q->cluster_bits,
                           (host_offset + bytes - 1) >> q->cluster_bits)) {
        if (table_names(q, q->refcounts.table, q->refcounts.table_entries,
                        QCOW2_REFTABLE_OFFSET_MASK, host_offset, bytes)) {
            what = "refcount block";
        } else if (table_names(q, q->l2.l1, q->l2.l1_entries,
                               QCOW2_OFFSET_MASK, host_offset, bytes)) {
            what = "L2 table";
        }
    }
    if (what && ret_what) {
        *ret_what = what;
    }
    return what != NULL;
}

void qcow2_overlap_forget(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);

    if (q->overlap_index) {
        g_array_free(q->overlap_index, /* free_segment= */ TRUE);
        q->overlap_index = NULL;
    }
}
