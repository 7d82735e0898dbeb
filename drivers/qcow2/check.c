/* SPDX-License-Identifier: MIT */
/*
 * checking a qcow2 image, and repairing what can be
 *
 *   walk (check_walk.c) -> compare refcounts (check_refcounts.c)
 *   -> compare COPIED flags
 *   with a repair: snapshot table (check_snapshots.c) -> copies of what is
 *   named twice (check_unshare.c) -> refcounts -> COPIED flags -> header
 *   bits -> all of it again
 *
 * What was fixed is what the second look does not find any more. So nothing
 * is called repaired that is not.
 *
 * Always true between two writes of a repair:
 *  F1  no count gets lower than the number of references found;
 *  F2  COPIED is set only where count and references both are 1.
 *
 * Locking: none. Control plane, node drained, nothing dirty in memory.
 */
#include "drivers/qcow2/check_internal.h"

#include "block/io/io.h"
#include "drivers/qcow2/bitmaps.h"
#include "drivers/qcow2/cluster.h"
#include "drivers/qcow2/data_file.h"

#include <inttypes.h>
#include <stddef.h>

bool qcow2_check_write(Check *check, int64_t host_offset, int64_t bytes,
                       const void *buffer, GError **error)
{
    int ret = bdrv_pwrite(check->walk.bs->file, host_offset, bytes, buffer);

    if (ret < 0) {
        error_set_errno(error, -ret, "cannot write %" PRId64 " bytes at 0x%"
                        PRIx64, bytes, host_offset);
    }
    return ret == 0;
}

bool qcow2_check_flush(Check *check, GError **error)
{
    int ret = bdrv_flush(check->walk.bs->file->bs);

    if (ret < 0) {
        error_set_errno(error, -ret, "cannot flush");
    }
    return ret == 0;
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
    if (!qcow2_check_disk_count(check, cluster, &disk, error)) {
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
    return qcow2_check_write(check, table->host_offset, bytes, raw, error);
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
        !qcow2_check_compare(check, error) ||
        (!is_all_copied(check) && !visit_copied(check, /* fix= */ 0, error))) {
        return false;
    }
    result->image_end_offset = check->end_cluster * cluster_bytes;
    return true;
}

/* -- the whole repair ---------------------------------------------------- */

static bool repair_refcounts(Check *check, Qcow2CheckFix fix, GError **error)
{
    bool is_broken = check->walk.refcounts_broken || check->needs_new_blocks;

    if (is_broken && (fix & QCOW2_FIX_ERRORS)) {
        return qcow2_check_rebuild(check, error);
    }
    if (check->walk.refcounts_broken || check->walk.snapshots_broken) {
        return true; /* not even leaks can be told from it */
    }
    return qcow2_check_fix_in_place(check, fix, error) &&
           qcow2_check_flush(check, error);
}

static bool look_again(Check *check, BlockDriverState *bs,
                       BlockCheckResult *after, GError **error)
{
    check_clear(check);
    *after = (BlockCheckResult) { 0 };
    return look(check, bs, after, error);
}

/*
 * What changes who points where comes before the refcounts: after each such
 * step the image is looked at anew.
 */
static bool repair_pointers(BlockDriverState *bs, Check *check,
                            BlockCheckResult *after, GError **error)
{
    bool changed = false;

    if (check->walk.snapshots_broken) {
        if (!qcow2_walk_mend_snapshots(&check->walk, error) ||
            !look_again(check, bs, after, error)) {
            return false;
        }
    }
    if (!qcow2_walk_mend_bitmaps(&check->walk, &changed, error) ||
        (changed && !look_again(check, bs, after, error))) {
        return false;
    }
    return qcow2_walk_unshare(&check->walk, &changed, error) &&
           (!changed || look_again(check, bs, after, error));
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

    ok = ok && look_again(check, bs, after, error) &&
         visit_copied(check, fix, error) && qcow2_check_flush(check, error);
    if (!ok) {
        check_clear(check);
        *check = (Check) { .cached_block = -1 };
        return false;
    }
    return look_again(check, bs, after, error);
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
    if (!qcow2_check_write(check,
                           offsetof(Qcow2RawHeader, incompatible_features),
                           sizeof(raw), &raw, error) ||
        !qcow2_check_flush(check, error)) {
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
        ok = qcow2_check_rebuild(&check, error);
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
