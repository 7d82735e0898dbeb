/* SPDX-License-Identifier: MIT */
/*
 * the refcounts of a qcow2 image on disk: comparing them with what a walk has
 * counted, and making them right
 *
 * They are repaired in their blocks. Where a block is missing, shared or
 * nowhere, all refcount structures are written anew behind the end of the
 * file, and then the header points at them: a crash leaves the old or the
 * new ones.
 *
 * One block is in memory at a time. Clusters that follow each other have their
 * counts in the same one, so it is seldom read twice.
 *
 * Always true between two writes: no count gets lower than the number of
 * references found.
 *
 * Locking: none. Control plane, node drained.
 */
#include "drivers/qcow2/check_internal.h"

#include "block/io/io.h"

#include <inttypes.h>
#include <stddef.h>

/* -- counts as they stand on disk ---------------------------------------- */

/* Has check->block hold the block at @index, which exists. */
static bool load_block(Check *check, int64_t index, GError **error)
{
    Qcow2Walk *walk = &check->walk;

    if (check->cached_block == index) {
        return true;
    }
    check->cached_block = -1;
    if (!qcow2_walk_read(walk, walk->reftable[index] &
                         QCOW2_REFTABLE_OFFSET_MASK, walk->cluster_bytes,
                         check->block, error)) {
        return false;
    }
    check->cached_block = index;
    return true;
}

static bool has_block(const Check *check, int64_t index)
{
    return index < check->walk.reftable_entries &&
           (check->walk.reftable[index] & QCOW2_REFTABLE_OFFSET_MASK);
}

bool qcow2_check_disk_count(Check *check, int64_t cluster, uint64_t *ret_count,
                            GError **error)
{
    int64_t index = cluster / check->counts_per_block;

    *ret_count = 0;
    if (!has_block(check, index)) {
        return true;
    }
    if (!load_block(check, index, error)) {
        return false;
    }
    *ret_count = qcow2_refcount_get(check->block, check->order,
                                    cluster % check->counts_per_block);
    return true;
}

static uint64_t max_count(const Check *check)
{
    return UINT64_MAX >> (64 - (1u << check->order));
}

/* -- comparing refcounts ------------------------------------------------- */

static void compare_count(Check *check, int64_t cluster, uint64_t disk,
                          uint64_t found)
{
    BlockCheckResult *result = check->walk.result;

    /* A count without a reference behind the end of the file wastes nothing. */
    if (!found && cluster * check->walk.cluster_bytes >=
                      check->walk.file_bytes) {
        return;
    }
    if (disk || found) {
        check->end_cluster = MAX(check->end_cluster, cluster + 1);
    }
    if (disk > found) {
        result->leaks++;
        block_check_report(result, "LEAK cluster %" PRId64 " has refcount %"
                           PRIu64 " and %" PRIu64 " references", cluster, disk,
                           found);
    } else if (disk < found) {
        qcow2_walk_corrupt(&check->walk, "cluster %" PRId64 " has refcount %"
                           PRIu64 " and %" PRIu64 " references", cluster, disk,
                           found);
    }
}

/* A used cluster: is there no block that could hold its count? */
static void compare_uncovered(int64_t first, const uint32_t *found,
                              int64_t clusters, void *opaque)
{
    Check *check = opaque;

    for (int64_t i = 0; i < clusters; i++) {
        int64_t index = (first + i) / check->counts_per_block;

        if (has_block(check, index)) {
            i = (index + 1) * check->counts_per_block - first - 1;
        } else if (found[i]) {
            check->needs_new_blocks = true;
            compare_count(check, first + i, /* disk= */ 0, found[i]);
        }
    }
}

/*
 * The usual case, at memory speed: are all counts of the loaded block from
 * @j on, 16 bits wide, those that were found?
 */
static bool are_equal(Check *check, int64_t j, const uint32_t *found,
                      int64_t clusters)
{
    const uint16_t *disk = (const uint16_t *)check->block + j;
    uint32_t difference = 0, shared = 0;

    if (check->order != 4) {
        return false;
    }
    for (int64_t i = 0; i < clusters; i++) {
        difference |= be16toh(disk[i]) ^ found[i];
        shared |= found[i] & ~UINT32_C(1);
    }
    check->has_shared |= shared != 0;
    return difference == 0;
}

static void compare_block(Check *check, int64_t first)
{
    int64_t clusters;

    for (int64_t j = 0; j < check->counts_per_block; j += clusters) {
        const uint32_t *found =
            qcow2_counts_span(check->walk.counts, first + j,
                              check->counts_per_block - j, &clusters);

        if (are_equal(check, j, found, clusters)) {
            for (int64_t i = clusters; i > 0; i--) {
                if (found[i - 1]) {
                    check->end_cluster = MAX(check->end_cluster,
                                             first + j + i);
                    break;
                }
            }
            continue;
        }
        for (int64_t i = 0; i < clusters; i++) {
            check->has_shared |= found[i] > 1;
            compare_count(check, first + j + i,
                          qcow2_refcount_get(check->block, check->order,
                                             j + i), found[i]);
        }
    }
}

/*
 * Refcount structures in clusters that something else uses, too: a repair in
 * place would write over that. The blocks count as missing from here on.
 */
static void reject_shared_structures(Check *check)
{
    Qcow2Walk *walk = &check->walk;
    int64_t table_cluster = walk->header->reftable_offset /
                            walk->cluster_bytes;

    for (int64_t i = 0; walk->reftable &&
                        i < walk->header->reftable_clusters; i++) {
        if (qcow2_counts_get(walk->counts, table_cluster + i) > 1) {
            qcow2_walk_corrupt(walk, "the refcount table shares cluster %"
                               PRId64 " with something else",
                               table_cluster + i);
            walk->refcounts_broken = true;
        }
    }
    for (int64_t i = 0; i < walk->reftable_entries; i++) {
        int64_t cluster = (walk->reftable[i] & QCOW2_REFTABLE_OFFSET_MASK) /
                          walk->cluster_bytes;

        if (has_block(check, i) && qcow2_counts_get(walk->counts, cluster) >
                                       1) {
            qcow2_walk_corrupt(walk, "refcount block %" PRId64 " shares "
                               "cluster %" PRId64 " with something else", i,
                               cluster);
            qcow2_counts_drop(walk->counts, cluster);
            walk->reftable[i] = 0;
            walk->refcounts_broken = true;
        }
    }
}

bool qcow2_check_compare(Check *check, GError **error)
{
    reject_shared_structures(check);
    for (int64_t i = 0; i < check->walk.reftable_entries; i++) {
        if (!has_block(check, i)) {
            continue;
        }
        if (!load_block(check, i, error)) {
            return false;
        }
        compare_block(check, i * check->counts_per_block);
    }
    qcow2_counts_foreach(check->walk.counts, compare_uncovered, check);
    return true;
}

/* -- repairing refcounts in place ---------------------------------------- */

/* Makes the counts of the loaded block right; were any changed? */
static bool fix_block(Check *check, int64_t index, Qcow2CheckFix fix)
{
    uint64_t max = max_count(check);
    bool is_changed = false;

    for (int64_t i = 0; i < check->counts_per_block; i++) {
        uint64_t disk = qcow2_refcount_get(check->block, check->order, i);
        uint64_t found =
            qcow2_counts_get(check->walk.counts,
                             index * check->counts_per_block + i);

        if ((disk > found && (fix & QCOW2_FIX_LEAKS)) ||
            (disk < found && (fix & QCOW2_FIX_ERRORS) && found <= max)) {
            qcow2_refcount_set(check->block, check->order, i, found);
            is_changed = true;
        }
    }
    return is_changed;
}

bool qcow2_check_fix_in_place(Check *check, Qcow2CheckFix fix, GError **error)
{
    for (int64_t i = 0; i < check->walk.reftable_entries; i++) {
        if (!has_block(check, i)) {
            continue;
        }
        if (!load_block(check, i, error)) {
            return false;
        }
        if (fix_block(check, i, fix) &&
            !qcow2_check_write(check, check->walk.reftable[i] &
                               QCOW2_REFTABLE_OFFSET_MASK,
                               check->walk.cluster_bytes, check->block,
                               error)) {
            return false;
        }
    }
    return true;
}

/* -- writing all refcounts anew ------------------------------------------ */

/* Takes the references of the old structures back: they become free. */
static void drop_old_structures(Check *check)
{
    Qcow2Walk *walk = &check->walk;

    for (int64_t i = 0; i < walk->reftable_entries; i++) {
        if (has_block(check, i)) {
            qcow2_counts_drop(walk->counts,
                              (walk->reftable[i] &
                               QCOW2_REFTABLE_OFFSET_MASK) /
                              walk->cluster_bytes);
        }
    }
    for (int64_t i = 0; walk->reftable &&
                        i < walk->header->reftable_clusters; i++) {
        qcow2_counts_drop(walk->counts, walk->header->reftable_offset /
                                        walk->cluster_bytes + i);
    }
    walk->reftable_entries = 0;
}

/* Where the new structures go: first the table, then the blocks. */
typedef struct NewRefcounts {
    int64_t first_cluster;
    int64_t table_clusters;
    int64_t blocks;
} NewRefcounts;

static bool plan_new(Check *check, NewRefcounts *plan, GError **error)
{
    int64_t cluster_bytes = check->walk.cluster_bytes;
    int64_t before;

    *plan = (NewRefcounts) {
        .first_cluster = div_round_up(check->walk.file_bytes, cluster_bytes),
    };
    do {
        before = plan->table_clusters + plan->blocks;
        plan->blocks = div_round_up(plan->first_cluster + before,
                                    check->counts_per_block);
        if (plan->blocks > QCOW2_REFTABLE_MAX_BYTES / 8) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                        "a file of %" PRId64 " bytes needs more refcount "
                        "blocks than a table can name",
                        check->walk.file_bytes);
            return false;
        }
        plan->table_clusters = div_round_up(plan->blocks * 8, cluster_bytes);
    } while (plan->table_clusters + plan->blocks != before);
    return true;
}

static bool write_new_blocks(Check *check, const NewRefcounts *plan,
                             GError **error)
{
    int64_t cluster_bytes = check->walk.cluster_bytes;
    int64_t first_block = plan->first_cluster + plan->table_clusters;
    int64_t end = first_block + plan->blocks;
    g_autofree be64 *table = g_malloc0(plan->table_clusters * cluster_bytes);
    uint64_t max = max_count(check);

    check->cached_block = -1;
    for (int64_t i = 0; i < plan->blocks; i++) {
        int64_t first = i * check->counts_per_block;

        memset(check->block, 0, cluster_bytes);
        for (int64_t j = 0; j < check->counts_per_block; j++) {
            int64_t cluster = first + j;
            uint64_t count =
                cluster >= plan->first_cluster && cluster < end
                    ? 1 : qcow2_counts_get(check->walk.counts, cluster);

            qcow2_refcount_set(check->block, check->order, j,
                               MIN(count, max));
        }
        be64_set(&table[i], (first_block + i) * cluster_bytes);
        if (!qcow2_check_write(check, (first_block + i) * cluster_bytes,
                               cluster_bytes, check->block, error)) {
            return false;
        }
    }
    return qcow2_check_write(check, plan->first_cluster * cluster_bytes,
                             plan->table_clusters * cluster_bytes, table,
                             error);
}

/* With another width: all three fields are in the first sector, too. */
static bool write_order(Check *check, const NewRefcounts *plan,
                        GError **error)
{
    Qcow2RawHeader raw;

    if (!qcow2_walk_read(&check->walk, 0, QCOW2_HEADER_V3_BYTES, &raw,
                         error)) {
        return false;
    }
    be64_set(&raw.refcount_table_offset,
             plan->first_cluster * check->walk.cluster_bytes);
    be32_set(&raw.refcount_table_clusters, plan->table_clusters);
    be32_set(&raw.refcount_order, check->order);
    return qcow2_check_write(check, 0, QCOW2_HEADER_V3_BYTES, &raw, error);
}

/* The header's two fields lie side by side: one write changes both. */
static bool point_header_at(Check *check, const NewRefcounts *plan,
                            GError **error)
{
    struct {
        be64 offset;
        be32 clusters;
    } __attribute__((packed)) raw;
    Qcow2Header *header = &qcow2_state(check->walk.bs)->header;

    be64_set(&raw.offset, plan->first_cluster * check->walk.cluster_bytes);
    be32_set(&raw.clusters, plan->table_clusters);
    if (check->order != header->refcount_order
            ? !write_order(check, plan, error)
            : !qcow2_check_write(
                  check, offsetof(Qcow2RawHeader, refcount_table_offset),
                  sizeof(raw), &raw, error)) {
        return false;
    }
    header->refcount_order = check->order;
    header->reftable_offset = plan->first_cluster * check->walk.cluster_bytes;
    header->reftable_clusters = plan->table_clusters;
    return true;
}

bool qcow2_check_rebuild(Check *check, GError **error)
{
    NewRefcounts plan;

    if (!plan_new(check, &plan, error)) {
        return false;
    }
    drop_old_structures(check);
    return write_new_blocks(check, &plan, error) &&
           qcow2_check_flush(check, error) &&
           point_header_at(check, &plan, error) &&
           qcow2_check_flush(check, error);
}
