/* SPDX-License-Identifier: MIT */
/*
 * checking a qcow2 image, and repairing what can be
 *
 *   walk (check_walk.c) -> compare refcounts -> compare COPIED flags
 *   with a repair: snapshot table (check_snapshots.c) -> copies of what is
 *   named twice (check_unshare.c) -> refcounts -> COPIED flags -> header
 *   bits -> all of it again
 *
 * What was fixed is what the second look does not find any more. So nothing
 * is called repaired that is not.
 *
 * Refcounts are repaired in their blocks. Where a block is missing, shared or
 * nowhere, all refcount structures are written anew behind the end of the
 * file, and then the header points at them: a crash leaves the old or the
 * new ones.
 *
 * Always true between two writes of a repair:
 *  F1  no count gets lower than the number of references found;
 *  F2  COPIED is set only where count and references both are 1.
 *
 * Locking: none. Control plane, node drained, nothing dirty in memory.
 */
#include "drivers/qcow2/check.h"

#include "block/io/io.h"
#include "drivers/qcow2/bitmaps.h"
#include "drivers/qcow2/check_walk.h"
#include "drivers/qcow2/cluster.h"
#include "drivers/qcow2/data_file.h"

#include <inttypes.h>
#include <stddef.h>

/* One look at the image, with the refcount blocks read so far. */
typedef struct Check {
    Qcow2Walk walk;
    unsigned order;           /* of the refcounts */
    int64_t counts_per_block;
    int64_t cached_block;     /* table index of what @block holds; -1: none */
    uint8_t *block;
    bool needs_new_blocks;    /* a used cluster has no block for its count */
    bool has_shared;          /* a cluster with more than one reference */
    int64_t end_cluster;      /* one past the last used or counted one */
} Check;

static bool write_at(Check *check, int64_t host_offset, int64_t bytes,
                     const void *buffer, GError **error)
{
    int ret = bdrv_pwrite(check->walk.bs->file, host_offset, bytes, buffer);

    if (ret < 0) {
        error_set_errno(error, -ret, "cannot write %" PRId64 " bytes at 0x%"
                        PRIx64, bytes, host_offset);
    }
    return ret == 0;
}

static bool flush(Check *check, GError **error)
{
    int ret = bdrv_flush(check->walk.bs->file->bs);

    if (ret < 0) {
        error_set_errno(error, -ret, "cannot flush");
    }
    return ret == 0;
}

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

static bool disk_count(Check *check, int64_t cluster, uint64_t *ret_count,
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

static bool compare_refcounts(Check *check, GError **error)
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

/* -- COPIED flags -------------------------------------------------------- */

/* The table of pointers that is being looked at. */
typedef struct PointerTable {
    const char *name;
    uint64_t *entry; /* host byte order */
    int64_t entries; /* words: those of an extended L2 entry count as two */
    int64_t host_offset;
    bool is_changed;
} PointerTable;

/*
 * Looks at one flag; @fix: makes it right as far as allowed (F2). A flag that
 * is set wrongly is the dangerous one: a write would change a shared cluster.
 */
static bool check_copied(Check *check, PointerTable *table, int64_t i,
                         int64_t host_offset, Qcow2CheckFix fix,
                         GError **error)
{
    uint64_t entry = table->entry[i];
    int64_t cluster = host_offset / check->walk.cluster_bytes;
    bool is_copied = entry & QCOW2_ENTRY_COPIED;
    uint64_t disk;

    if (host_offset >= check->walk.file_bytes) {
        return true; /* the walk has said so */
    }
    if (!disk_count(check, cluster, &disk, error)) {
        return false;
    }
    if (is_copied == (disk == 1)) {
        return true;
    }
    if (!fix) {
        qcow2_walk_corrupt(&check->walk, "%s entry 0x%" PRIx64 " %s COPIED, "
                           "the refcount is %" PRIu64, table->name, entry,
                           is_copied ? "has" : "lacks", disk);
    } else if (is_copied ? (fix & QCOW2_FIX_ERRORS) != 0
                         : qcow2_counts_get(check->walk.counts, cluster) ==
                               1) {
        table->entry[i] ^= QCOW2_ENTRY_COPIED;
        table->is_changed = true;
    }
    return true;
}

static bool check_l2_copied(Check *check, PointerTable *table,
                            Qcow2CheckFix fix, GError **error)
{
    const Qcow2Header *header = check->walk.header;

    for (int64_t i = 0; i < table->entries;
         i += qcow2_header_l2_words(header)) {
        uint64_t entry = table->entry[i];
        Qcow2ClusterType type = qcow2_cluster_type(header, entry);

        if ((type == QCOW2_CLUSTER_NORMAL ||
             type == QCOW2_CLUSTER_ZERO_ALLOC) &&
            !check_copied(check, table, i, entry & QCOW2_OFFSET_MASK, fix,
                          error)) {
            return false;
        }
    }
    return true;
}

static bool write_table(Check *check, PointerTable *table, GError **error)
{
    int64_t bytes = table->entries * 8;
    g_autofree uint64_t *raw = NULL;

    if (!table->is_changed) {
        return true;
    }
    raw = g_memdup2(table->entry, bytes);
    for (int64_t i = 0; i < table->entries; i++) {
        raw[i] = htobe64(raw[i]);
    }
    return write_at(check, table->host_offset, bytes, raw, error);
}

/* The L2 table at @host_offset; a broken place was reported by the walk. */
static bool visit_l2(Check *check, int64_t host_offset, Qcow2CheckFix fix,
                     GError **error)
{
    Qcow2Walk *walk = &check->walk;
    g_autofree uint64_t *entries = NULL;
    PointerTable table = { .name = "L2", .host_offset = host_offset,
                           .entries = walk->cluster_bytes / 8 };

    if (!is_aligned(host_offset, walk->cluster_bytes) ||
        host_offset >= walk->file_bytes ||
        qcow2_has_data_file(qcow2_state(walk->bs))) {
        return true;
    }
    entries = g_malloc(walk->cluster_bytes);
    if (!qcow2_walk_read(walk, host_offset, walk->cluster_bytes, entries,
                         error)) {
        return false;
    }
    for (int64_t i = 0; i < table.entries; i++) {
        entries[i] = be64toh(entries[i]);
    }
    table.entry = entries;
    return check_l2_copied(check, &table, fix, error) &&
           write_table(check, &table, error);
}

/* Only the active L1 matters: nobody writes through a snapshot's. */
static bool visit_copied(Check *check, Qcow2CheckFix fix, GError **error)
{
    Qcow2Walk *walk = &check->walk;
    PointerTable table = { .name = "L1", .entry = walk->l1,
                           .entries = walk->header->l1_entries,
                           .host_offset = walk->header->l1_offset };

    for (int64_t i = 0; walk->l1 && i < table.entries; i++) {
        int64_t l2_offset = walk->l1[i] & QCOW2_OFFSET_MASK;

        if (l2_offset &&
            (!check_copied(check, &table, i, l2_offset, fix, error) ||
             !visit_l2(check, l2_offset, fix, error))) {
            return false;
        }
    }
    return write_table(check, &table, error);
}

/* Every refcount is 1 and every flag set: no need to read the tables again. */
static bool is_all_copied(const Check *check)
{
    const BlockCheckResult *result = check->walk.result;

    return !result->corruptions && !result->leaks && !check->has_shared &&
           !check->walk.lacks_copied;
}

/* -- one look ------------------------------------------------------------ */

static void check_clear(Check *check)
{
    g_clear_pointer(&check->block, g_free);
    qcow2_walk_clear(&check->walk);
}

static bool look(Check *check, BlockDriverState *bs, BlockCheckResult *result,
                 GError **error)
{
    const Qcow2Header *header = &qcow2_state(bs)->header;
    int64_t cluster_bytes = (int64_t)1 << header->cluster_bits;

    *check = (Check) {
        .walk = { .bs = bs, .result = result },
        .order = header->refcount_order,
        .counts_per_block = cluster_bytes * 8 >> header->refcount_order,
        .cached_block = -1,
        .block = g_malloc(cluster_bytes),
    };
    if (!qcow2_walk(&check->walk, error) ||
        !compare_refcounts(check, error) ||
        (!is_all_copied(check) && !visit_copied(check, /* fix= */ 0, error))) {
        return false;
    }
    result->image_end_offset = check->end_cluster * cluster_bytes;
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

static bool fix_in_place(Check *check, Qcow2CheckFix fix, GError **error)
{
    for (int64_t i = 0; i < check->walk.reftable_entries; i++) {
        if (!has_block(check, i)) {
            continue;
        }
        if (!load_block(check, i, error)) {
            return false;
        }
        if (fix_block(check, i, fix) &&
            !write_at(check, check->walk.reftable[i] &
                      QCOW2_REFTABLE_OFFSET_MASK, check->walk.cluster_bytes,
                      check->block, error)) {
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
        if (!write_at(check, (first_block + i) * cluster_bytes, cluster_bytes,
                      check->block, error)) {
            return false;
        }
    }
    return write_at(check, plan->first_cluster * cluster_bytes,
                    plan->table_clusters * cluster_bytes, table, error);
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
    return write_at(check, 0, QCOW2_HEADER_V3_BYTES, &raw, error);
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
            : !write_at(check,
                        offsetof(Qcow2RawHeader, refcount_table_offset),
                        sizeof(raw), &raw, error)) {
        return false;
    }
    header->refcount_order = check->order;
    header->reftable_offset = plan->first_cluster * check->walk.cluster_bytes;
    header->reftable_clusters = plan->table_clusters;
    return true;
}

static bool rebuild_refcounts(Check *check, GError **error)
{
    NewRefcounts plan;

    if (!plan_new(check, &plan, error)) {
        return false;
    }
    drop_old_structures(check);
    return write_new_blocks(check, &plan, error) && flush(check, error) &&
           point_header_at(check, &plan, error) && flush(check, error);
}

/* -- the whole repair ---------------------------------------------------- */

static bool repair_refcounts(Check *check, Qcow2CheckFix fix, GError **error)
{
    bool is_broken = check->walk.refcounts_broken || check->needs_new_blocks;

    if (is_broken && (fix & QCOW2_FIX_ERRORS)) {
        return rebuild_refcounts(check, error);
    }
    if (check->walk.refcounts_broken || check->walk.snapshots_broken) {
        return true; /* not even leaks can be told from it */
    }
    return fix_in_place(check, fix, error) && flush(check, error);
}

/*
 * What changes who points where comes before the refcounts: after each such
 * step the image is looked at anew.
 */
static bool repair_pointers(BlockDriverState *bs, Check *check,
                            BlockCheckResult *after, GError **error)
{
    bool ok = true, changed = false;

    if (check->walk.snapshots_broken) {
        ok = qcow2_walk_mend_snapshots(&check->walk, error);
        check_clear(check);
        *after = (BlockCheckResult) { 0 };
        ok = ok && look(check, bs, after, error);
    }
    ok = ok && qcow2_walk_unshare(&check->walk, &changed, error);
    if (changed) {
        check_clear(check);
        *after = (BlockCheckResult) { 0 };
        ok = ok && look(check, bs, after, error);
    }
    return ok;
}

/*
 * Repairs what @found says, and looks again into @after. After new refcount
 * structures the COPIED flags need a look of their own, which sees them.
 */
static bool repair(BlockDriverState *bs, Check *check, Qcow2CheckFix fix,
                   BlockCheckResult *after, GError **error)
{
    bool ok = (!(fix & QCOW2_FIX_ERRORS) ||
               repair_pointers(bs, check, after, error)) &&
              repair_refcounts(check, fix, error);

    check_clear(check);
    *after = (BlockCheckResult) { 0 };
    ok = ok && look(check, bs, after, error) &&
         visit_copied(check, fix, error) && flush(check, error);
    check_clear(check);
    if (!ok) {
        *check = (Check) { .cached_block = -1 };
        return false;
    }
    *after = (BlockCheckResult) { 0 };
    return look(check, bs, after, error);
}

/* A version 3 image without damage: the dirty and corrupt bits may go. */
static bool clear_marks(Check *check, GError **error)
{
    Qcow2Header *header = &qcow2_state(check->walk.bs)->header;
    uint64_t marks = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT;
    be64 raw;

    if (header->version < 3 || !(header->incompatible & marks)) {
        return true;
    }
    be64_set(&raw, header->incompatible & ~marks);
    if (!write_at(check, offsetof(Qcow2RawHeader, incompatible_features),
                  sizeof(raw), &raw, error) ||
        !flush(check, error)) {
        return false;
    }
    header->incompatible &= ~marks;
    return true;
}

/* @before and @after the repair -> what is left and what was fixed. */
static void merge_results(BlockCheckResult *before,
                          const BlockCheckResult *after)
{
    BlockCheckResult merged = *after;

    merged.corruptions_fixed = MAX(0, before->corruptions -
                                      after->corruptions);
    merged.leaks_fixed = MAX(0, before->leaks - after->leaks);
    merged.report = before->report;
    merged.report_opaque = before->report_opaque;
    merged.reports = before->reports;
    *before = merged;
}

bool qcow2_check(BlockDriverState *bs, Qcow2CheckFix fix,
                 Qcow2CheckResult *ret_result, GError **error)
{
    BlockCheckResult after = { 0 };
    Check check = { .cached_block = -1 };
    bool ok = look(&check, bs, ret_result, error);

    if (ok && fix && (ret_result->corruptions || ret_result->leaks)) {
        ok = repair(bs, &check, fix, &after, error);
        if (ok) {
            merge_results(ret_result, &after);
        }
    }
    if (ok && (fix & QCOW2_FIX_ERRORS) && !ret_result->corruptions) {
        ok = clear_marks(&check, error);
    }
    check_clear(&check);
    return ok;
}

/* -- another width of refcounts ------------------------------------------ */

typedef struct Fit {
    uint64_t max;
    uint32_t highest;
} Fit;

static void note_highest(int64_t first, const uint32_t *count,
                         int64_t clusters, void *opaque)
{
    Fit *fit = opaque;

    for (int64_t i = 0; i < clusters; i++) {
        fit->highest = MAX(fit->highest, count[i]);
    }
}

static bool check_order_fits(Check *check, unsigned order, GError **error)
{
    Fit fit = { .max = UINT64_MAX >> (64 - (1u << order)) };

    if (check->walk.result->corruptions > 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                    "the image has %" PRId64 " errors; repair it first",
                    check->walk.result->corruptions);
        return false;
    }
    qcow2_counts_foreach(check->walk.counts, note_highest, &fit);
    if (fit.highest > fit.max) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "refcount_bits=%u has no room for a cluster with %" PRIu32
                    " references", 1u << order, fit.highest);
        return false;
    }
    return true;
}

bool qcow2_change_refcount_order(BlockDriverState *bs, unsigned order,
                                 bool only_try, GError **error)
{
    BlockCheckResult result = { 0 };
    Check check = { .cached_block = -1 };
    bool ok = look(&check, bs, &result, error) &&
              check_order_fits(&check, order, error);

    if (ok && !only_try) {
        check.order = order;
        check.counts_per_block = check.walk.cluster_bytes * 8 >> order;
        ok = rebuild_refcounts(&check, error);
    }
    check_clear(&check);
    return ok;
}

static bool check_node(BlockDriverState *bs, BlockCheckFix fix,
                       BlockCheckResult *result, GError **error)
{
    /* An image opened though damaged has nothing in memory to write. */
    int ret = bs->read_only || qcow2_state(bs)->for_check
                  ? 0 : qcow2_commit_all(bs);
    bool had_bitmaps, ok;

    if (ret < 0) {
        error_set_errno(error, -ret, "cannot write the metadata back");
        return false;
    }
    /* Repairing reads everything anew: bitmaps in memory go to the file. */
    if (fix && !bs->read_only) {
        ret = qcow2_bitmaps_store(bs);
    }
    if (ret < 0) {
        error_set_errno(error, -ret, "cannot store the bitmaps");
        return false;
    }
    if (!fix) {
        return qcow2_check(bs, (Qcow2CheckFix)fix, result, error);
    }
    had_bitmaps = qcow2_bitmaps_untrack(bs);
    ok = qcow2_check(bs, (Qcow2CheckFix)fix, result, error) &&
         qcow2_reload(bs, error);
    if (ok && had_bitmaps) {
        qcow2_bitmaps_track(bs);
    }
    return ok;
}

const BlockCheckOps qcow2_check_ops = {
    .check = check_node,
};
