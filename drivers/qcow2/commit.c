/* SPDX-License-Identifier: MIT */
/*
 * metadata in memory -> file, in an order that a crash cannot hurt
 *
 *   1. dirty refcount blocks, whole new L2 tables         (nothing points here)
 *      ── flush: also what guests wrote to new clusters, the data file first ──
 *   2. refcount table entries, or a moved table, then the header
 *      ── flush ──
 *   3. dirty sectors of L2 tables, then of the L1 table
 *      ── flush, if freed clusters wait for it ──
 *   4. freed clusters wait for their readers, then their counts drop in memory
 *
 * A plan is made under q->lock: copies of everything dirty at one moment,
 * whose marks are cleared. It is written without that lock. When a step fails
 * the marks come back.
 *
 * Always true:
 *  W1  a plan that points at a cluster was made at a moment when memory
 *      counted it, so that the same plan, or an earlier one, writes the count;
 *  W2  what a plan holds is pinned: nobody reads its stale copy on disk;
 *  W3  a count drops (4) only in plans made after the loss of the pointer (3)
 *      was flushed.
 *
 * Locking: commit_lock for all of a commit, then q->lock for moments.
 */
#include "drivers/qcow2/commit.h"

#include "block/io/io.h"
#include "drivers/qcow2/compress.h"
#include "drivers/qcow2/data_file.h"
#include "drivers/qcow2/qcow2.h"

#include <errno.h>

#define SECTOR_BYTES QCOW2_SECTOR_BYTES
#define SECTOR_ENTRIES (SECTOR_BYTES / 8)

/* Turns of commit_all: each lowers counts, which dirties blocks again. */
#define COMMIT_ALL_TURNS 16

/*
 * One write of a plan; @data is freed with it. NULL: zeros. Of writes in a row
 * with one event the first is announced.
 */
typedef struct PlanWrite {
    BlockDebugEvent event;
    int64_t host_offset;
    int64_t bytes;
    void *data;
} PlanWrite;

/* What to mark again after a failure. */
typedef struct PlanSlice {
    Qcow2Slice *slice;
    uint8_t dirty;
} PlanSlice;

typedef struct PlanBlock {
    Qcow2RefBlock *block;
    size_t start, end;
} PlanBlock;

typedef struct Plan {
    GArray *step1; /* of PlanWrite */
    GArray *step2;
    GArray *step3;
    GArray *slices; /* of PlanSlice */
    GArray *blocks; /* of PlanBlock */
    GPtrArray *new_tables;
    Qcow2FreedBatch *freed;
    bool needs_barrier;
    bool table_moved;
    bool pointers_written; /* step 3 has begun: new tables may be in use */
    int64_t table_offset, table_clusters;
    uint8_t *l1_dirty; /* NULL: none */
    uint8_t *table_dirty;
} Plan;

static void plan_write_clear(void *write)
{
    g_free(((PlanWrite *)write)->data);
}

static GArray *writes_new(void)
{
    GArray *writes = g_array_new(FALSE, FALSE, sizeof(PlanWrite));

    g_array_set_clear_func(writes, plan_write_clear);
    return writes;
}

static Plan *plan_new(void)
{
    Plan *plan = g_new0(Plan, 1);

    plan->step1 = writes_new();
    plan->step2 = writes_new();
    plan->step3 = writes_new();
    plan->slices = g_array_new(FALSE, FALSE, sizeof(PlanSlice));
    plan->blocks = g_array_new(FALSE, FALSE, sizeof(PlanBlock));
    plan->new_tables = g_ptr_array_new();
    return plan;
}

static void plan_free(Plan *plan)
{
    g_array_unref(plan->step1);
    g_array_unref(plan->step2);
    g_array_unref(plan->step3);
    g_array_unref(plan->slices);
    g_array_unref(plan->blocks);
    g_ptr_array_unref(plan->new_tables);
    g_free(plan->l1_dirty);
    g_free(plan->table_dirty);
    g_free(plan);
}

static bool plan_is_empty(const Plan *plan)
{
    return plan->step1->len == 0 && plan->step2->len == 0 &&
           plan->step3->len == 0 && !plan->freed && !plan->table_moved;
}

static void add_write(GArray *writes, BlockDebugEvent event,
                      int64_t host_offset, int64_t bytes, void *data)
{
    PlanWrite write = { event, host_offset, bytes, data };

    g_array_append_val(writes, write);
}

/* Adds 8-byte entries in disk byte order. */
static void add_entries(GArray *writes, BlockDebugEvent event,
                        int64_t host_offset, const uint64_t *entries,
                        int64_t count)
{
    be64 *data = g_new(be64, count);

    for (int64_t i = 0; i < count; i++) {
        be64_set(&data[i], __atomic_load_n(&entries[i], __ATOMIC_RELAXED));
    }
    add_write(writes, event, host_offset, count * 8, data);
}

/* -- making a plan (lock held) -------------------------------------------- */

static BlockDebugEvent block_event(const Qcow2Refcounts *counts,
                                   const Qcow2RefBlock *block)
{
    if (!block->is_new) {
        return BLOCK_DEBUG_REFBLOCK_UPDATE;
    }
    return counts->table_moved ? BLOCK_DEBUG_REFBLOCK_ALLOC_WRITE_BLOCKS
                               : BLOCK_DEBUG_REFBLOCK_ALLOC_WRITE;
}

static void plan_blocks(Qcow2State *q, Plan *plan)
{
    Qcow2Refcounts *counts = &q->refcounts;
    GHashTableIter i;
    gpointer key;

    g_hash_table_iter_init(&i, counts->dirty_blocks);
    while (g_hash_table_iter_next(&i, &key, NULL)) {
        Qcow2RefBlock *block = key;
        size_t start = align_down(block->dirty_start, SECTOR_BYTES);
        size_t end = align_up(block->dirty_end, SECTOR_BYTES);
        PlanBlock saved = { block, start, end };

        add_write(plan->step1, block_event(counts, block),
                  block->host_offset + start, end - start,
                  g_memdup2(block->data + start, end - start));
        g_array_append_val(plan->blocks, saved);
        block->is_dirty = false;
        block->is_new = false;
        block->pins++;
    }
    g_hash_table_remove_all(counts->dirty_blocks);
}

static void plan_reftable(Qcow2State *q, Plan *plan)
{
    Qcow2Refcounts *counts = &q->refcounts;
    int64_t sectors = div_round_up(counts->table_entries, SECTOR_ENTRIES);
    int64_t on_disk;

    plan->table_offset = counts->table_offset;
    plan->table_clusters = counts->table_clusters;
    if (!counts->any_table_dirty && !counts->table_moved) {
        return;
    }
    plan->table_dirty = g_memdup2(counts->table_dirty, sectors);
    plan->table_moved = counts->table_moved;
    counts->any_table_dirty = counts->table_moved = false;
    if (plan->table_moved) {
        add_entries(plan->step2, BLOCK_DEBUG_REFBLOCK_ALLOC_WRITE_TABLE,
                    counts->table_offset, counts->table,
                    counts->table_clusters * q->cluster_bytes / 8);
    }
    /*
     * When moving has failed, the array is longer than the table in the file:
     * what lies behind that is somebody else's.
     */
    on_disk = (counts->table_clusters << q->cluster_bits) / SECTOR_BYTES;
    for (int64_t i = 0; i < MIN(sectors, on_disk) && !plan->table_moved; i++) {
        if (counts->table_dirty[i]) {
            add_entries(plan->step2, BLOCK_DEBUG_REFBLOCK_ALLOC_HOOKUP,
                        counts->table_offset + i * SECTOR_BYTES,
                        &counts->table[i * SECTOR_ENTRIES], SECTOR_ENTRIES);
        }
    }
    memset(counts->table_dirty, 0, sectors);
}

/* Slices of a new table that are not in memory are empty. */
static void plan_new_table(Qcow2State *q, Plan *plan, Qcow2L2Table *table)
{
    const Qcow2L2Cache *cache = &q->l2;
    int64_t words = cache->slice_words;
    int64_t bytes = words * 8;

    for (unsigned i = 0; i < cache->slices_per_table; i++) {
        Qcow2Slice *slice = table->slice[i];
        int64_t at = table->host_offset + i * bytes;

        if (!slice) {
            add_write(plan->step1, BLOCK_DEBUG_L2_ALLOC_WRITE, at, bytes,
                      NULL);
            continue;
        }
        add_entries(plan->step1, BLOCK_DEBUG_L2_ALLOC_WRITE, at, slice->word,
                    words);
        /* W2, and after a failure it must not be taken for an empty one. */
        g_array_append_vals(plan->slices,
                            &(PlanSlice){ slice, slice->dirty }, 1);
        slice->pins++;
        slice->dirty = 0; /* the table stays new until the plan is done */
    }
    g_ptr_array_add(plan->new_tables, table);
}

/* Runs of dirty parts of a slice whose table is on disk. */
static void plan_slice(Qcow2State *q, Plan *plan, Qcow2Slice *slice)
{
    PlanSlice saved = { slice, slice->dirty };
    int64_t at = slice->table->host_offset +
                 slice->index * (int64_t)8 * q->l2.slice_words;
    int64_t words = q->l2.part_words;
    unsigned end;

    for (unsigned i = 0; i < QCOW2_SLICE_PARTS_MAX; i = end + 1) {
        end = i;
        while (end < QCOW2_SLICE_PARTS_MAX && (slice->dirty & (1u << end))) {
            end++;
        }
        if (end > i) {
            add_entries(plan->step3, BLOCK_DEBUG_L2_UPDATE,
                        at + i * words * 8,
                        &slice->word[i * words], (end - i) * words);
        }
    }
    g_array_append_val(plan->slices, saved);
    slice->pins++;
    slice->dirty = 0;
}

static void plan_l2(Qcow2State *q, Plan *plan)
{
    Qcow2L2Cache *cache = &q->l2;
    GHashTableIter i;
    gpointer key;

    g_hash_table_iter_init(&i, cache->new_tables);
    while (g_hash_table_iter_next(&i, &key, NULL)) {
        plan_new_table(q, plan, key);
    }
    for (guint k = 0; k < cache->dirty->len; k++) {
        Qcow2Slice *slice = g_ptr_array_index(cache->dirty, k);

        if (!slice->table->is_new) {
            plan_slice(q, plan, slice);
        }
    }
    g_ptr_array_set_size(cache->dirty, 0);
}

static void plan_l1(Qcow2State *q, Plan *plan)
{
    Qcow2L2Cache *cache = &q->l2;
    /* What disk has: a table in memory may be longer during a resize. */
    int64_t sectors = div_round_up(q->header.l1_entries, SECTOR_ENTRIES);

    if (!cache->any_l1_dirty) {
        return;
    }
    plan->l1_dirty = g_memdup2(cache->l1_dirty, sectors);
    for (int64_t i = 0; i < sectors; i++) {
        int64_t first = i * SECTOR_ENTRIES;

        if (cache->l1_dirty[i]) {
            add_entries(plan->step3, BLOCK_DEBUG_L1_UPDATE,
                        q->header.l1_offset + i * SECTOR_BYTES,
                        &cache->l1[first],
                        MIN(SECTOR_ENTRIES, q->header.l1_entries - first));
        }
    }
    memset(cache->l1_dirty, 0, sectors);
    cache->any_l1_dirty = false;
}

static Plan *make_plan(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    Plan *plan = plan_new();

    plan_blocks(q, plan);
    plan_reftable(q, plan);
    plan_l2(q, plan);
    plan_l1(q, plan);
    plan->freed = qcow2_quarantine_close(bs);
    plan->needs_barrier =
        q->allocated_since_barrier || plan->new_tables->len > 0;
    q->allocated_since_barrier = false;
    return plan;
}

/* -- after it (lock held) ------------------------------------------------- */

static void unpin(BlockDriverState *bs, Plan *plan)
{
    for (guint i = 0; i < plan->slices->len; i++) {
        qcow2_l2_unpin(bs, g_array_index(plan->slices, PlanSlice, i).slice);
    }
    for (guint i = 0; i < plan->blocks->len; i++) {
        g_array_index(plan->blocks, PlanBlock, i).block->pins--;
    }
}

/* From now on their changes are pointers (step 3). */
static void tables_are_on_disk(Qcow2State *q, const Plan *plan)
{
    for (guint i = 0; i < plan->new_tables->len; i++) {
        Qcow2L2Table *table = g_ptr_array_index(plan->new_tables, i);

        table->is_new = false;
        g_hash_table_remove(q->l2.new_tables, table);
    }
}

static void plan_succeeded(BlockDriverState *bs, Plan *plan)
{
    Qcow2State *q = qcow2_state(bs);

    unpin(bs, plan);
    tables_are_on_disk(q, plan);
    if (plan->table_moved) {
        q->refcounts.disk_table_offset = plan->table_offset;
        q->refcounts.disk_table_clusters = plan->table_clusters;
        q->header.reftable_offset = plan->table_offset;
        q->header.reftable_clusters = plan->table_clusters;
        qcow2_set_range(q, QCOW2_RANGE_REFTABLE, plan->table_offset,
                        plan->table_clusters << q->cluster_bits);
    }
    qcow2_quarantine_push(bs, g_steal_pointer(&plan->freed));
    qcow2_refcount_trim(bs);
}

static void or_bytes(uint8_t *to, const uint8_t *from, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        to[i] |= from[i];
    }
}

/* All marks come back; a later commit writes what is in memory then. */
static void plan_failed(BlockDriverState *bs, Plan *plan)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2Refcounts *counts = &q->refcounts;

    unpin(bs, plan);
    /* The L1 on disk may name them: writing them early would not be safe. */
    if (plan->pointers_written) {
        tables_are_on_disk(q, plan);
    }
    for (guint i = 0; i < plan->slices->len; i++) {
        PlanSlice *saved = &g_array_index(plan->slices, PlanSlice, i);

        qcow2_l2_mark_dirty(bs, saved->slice, saved->dirty);
    }
    for (guint i = 0; i < plan->blocks->len; i++) {
        PlanBlock *saved = &g_array_index(plan->blocks, PlanBlock, i);

        qcow2_refcount_mark_dirty(bs, saved->block, saved->start,
                                  saved->end);
    }
    if (plan->table_dirty) {
        or_bytes(counts->table_dirty, plan->table_dirty,
                 div_round_up(plan->table_clusters * q->cluster_bytes / 8,
                              SECTOR_ENTRIES));
        counts->any_table_dirty = true;
        counts->table_moved |= plan->table_moved;
    }
    if (plan->l1_dirty) {
        or_bytes(q->l2.l1_dirty, plan->l1_dirty,
                 div_round_up(q->header.l1_entries, SECTOR_ENTRIES));
        q->l2.any_l1_dirty = true;
    }
    q->allocated_since_barrier |= plan->needs_barrier;
    qcow2_quarantine_reopen(bs, g_steal_pointer(&plan->freed));
}

/* -- writing (commit_lock only) ------------------------------------------- */

static int coroutine_fn write_all(BlockDriverState *bs, const GArray *writes)
{
    BlockDebugEvent announced = BLOCK_DEBUG_NONE;
    int ret = 0;

    for (guint i = 0; i < writes->len && ret >= 0; i++) {
        const PlanWrite *write = &g_array_index(writes, PlanWrite, i);

        if (write->event != announced) {
            announced = write->event;
            bdrv_debug_event(bs->file, announced);
        }
        ret = write->data
                  ? bdrv_co_pwrite(bs->file, write->host_offset,
                                   write->bytes, write->data, 0)
                  : bdrv_co_pwrite_zeroes(bs->file, write->host_offset,
                                          write->bytes, 0);
    }
    return ret;
}

static int coroutine_fn write_reftable(BlockDriverState *bs, const Plan *plan)
{
    int ret;

    if (plan->step2->len == 0) {
        return 0;
    }
    bdrv_debug_event(bs->file, BLOCK_DEBUG_REFTABLE_UPDATE);
    ret = write_all(bs, plan->step2);
    if (ret < 0) {
        return ret;
    }
    ret = bdrv_co_flush(bs->file->bs);
    if (ret < 0 || !plan->table_moved) {
        return ret;
    }
    bdrv_debug_event(bs->file, BLOCK_DEBUG_REFBLOCK_ALLOC_SWITCH_TABLE);
    ret = qcow2_header_co_write_reftable(bs, plan->table_offset,
                                         plan->table_clusters);
    return ret < 0 ? ret : bdrv_co_flush(bs->file->bs);
}

static int coroutine_fn write_plan(BlockDriverState *bs, Plan *plan)
{
    int ret = write_all(bs, plan->step1);

    /* Table entries rely on their blocks, pointers on data and counts (Q2). */
    if (ret >= 0 && plan->needs_barrier) {
        ret = qcow2_data_file_flush(bs);
    }
    if (ret >= 0 && (plan->needs_barrier || plan->step2->len > 0)) {
        ret = bdrv_co_flush(bs->file->bs);
    }
    if (ret >= 0) {
        ret = write_reftable(bs, plan);
    }
    if (ret >= 0) {
        plan->pointers_written = true;
        ret = write_all(bs, plan->step3);
    }
    if (ret >= 0 && plan->freed) {
        ret = bdrv_co_flush(bs->file->bs);
    }
    return ret;
}

static int coroutine_fn commit_once(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    Plan *plan;
    int ret = 0;

    co_mutex_lock(&q->lock);
    plan = make_plan(bs);
    co_mutex_unlock(&q->lock);
    if (!plan_is_empty(plan)) {
        ret = write_plan(bs, plan);
    }
    co_mutex_lock(&q->lock);
    if (ret < 0) {
        plan_failed(bs, plan);
    } else {
        plan_succeeded(bs, plan);
    }
    co_mutex_unlock(&q->lock);
    plan_free(plan);
    return ret;
}

/* -- giving freed clusters back ------------------------------------------- */

/* Punches holes where nobody else has a reference; not yet reusable. */
static void coroutine_fn discard_batch(BlockDriverState *bs,
                                       const Qcow2FreedBatch *batch)
{
    Qcow2State *q = qcow2_state(bs);

    for (guint i = 0; i < batch->freed->len; i++) {
        const Qcow2Freed *freed =
            &g_array_index(batch->freed, Qcow2Freed, i);
        int64_t at = freed->host_offset;
        int64_t end = at + freed->bytes;

        while (at < end && q->options.punch[freed->reason]) {
            int64_t from = at;
            uint64_t count = 1;

            co_mutex_lock(&q->lock);
            for (; at < end; at += q->cluster_bytes) {
                if (qcow2_refcount_of(bs, at, &count) < 0 || count != 1) {
                    break;
                }
                if (q->packing_offset >> q->cluster_bits ==
                    at >> q->cluster_bits) {
                    q->packing_offset = 0; /* nothing new goes there */
                }
            }
            co_mutex_unlock(&q->lock);
            if (at > from) {
                /* A hint: freeing is complete without it. */
                (void) bdrv_co_pdiscard(
                    bs->file, from, MIN(at, qcow2_file_length(q)) - from);
            } else {
                at += q->cluster_bytes;
            }
        }
    }
}

static void coroutine_fn release_ripe(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);

    for (;;) {
        Qcow2FreedBatch *batch;

        co_mutex_lock(&q->lock);
        qcow2_l2_reap(bs);
        batch = qcow2_quarantine_pop(bs);
        co_mutex_unlock(&q->lock);
        if (!batch) {
            return;
        }
        bdrv_debug_event(bs->file, BLOCK_DEBUG_CLUSTER_FREE);
        discard_batch(bs, batch);
        if (batch->has_compressed) {
            qcow2_inflater_invalidate(q->inflater);
        }
        co_mutex_lock(&q->lock);
        qcow2_quarantine_drop(bs, batch);
        co_mutex_unlock(&q->lock);
    }
}

/* Nothing can be dirty in an image that could not be read. */
static bool has_nothing(BlockDriverState *bs)
{
    return bs->read_only || !qcow2_state(bs)->l2.slices;
}

int coroutine_fn qcow2_co_commit(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    int ret;

    if (has_nothing(bs)) {
        return 0;
    }
    co_mutex_lock(&q->commit_lock);
    ret = commit_once(bs);
    release_ripe(bs);
    co_mutex_unlock(&q->commit_lock);
    return ret;
}

int coroutine_fn qcow2_co_commit_if_due(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    bool due;

    co_mutex_lock(&q->lock);
    due = (int64_t)q->l2.dirty->len > q->l2.slice_limit / 2 ||
          (int64_t)g_hash_table_size(q->refcounts.dirty_blocks) >
              q->refcounts.block_limit / 2 ||
          q->quarantine.open_bytes > QCOW2_QUARANTINE_MAX_BYTES;
    co_mutex_unlock(&q->lock);
    return due ? qcow2_co_commit(bs) : 0;
}

/* -- until nothing is left ------------------------------------------------ */

typedef struct CommitAll {
    BlockDriverState *bs;
    int ret;
} CommitAll;

static bool is_clean(const Qcow2State *q)
{
    return q->l2.dirty->len == 0 &&
           g_hash_table_size(q->l2.new_tables) == 0 &&
           !q->l2.any_l1_dirty &&
           g_hash_table_size(q->refcounts.dirty_blocks) == 0 &&
           !q->refcounts.any_table_dirty && !q->refcounts.table_moved &&
           q->quarantine.open->len == 0 && !q->quarantine.first;
}

int coroutine_fn qcow2_co_commit_all(BlockDriverState *bs)
{
    int ret = 0;

    for (int i = 0; i < COMMIT_ALL_TURNS && ret >= 0 &&
                    !is_clean(qcow2_state(bs)); i++) {
        ret = qcow2_co_commit(bs);
    }
    return ret < 0 ? ret : bdrv_co_flush(bs->file->bs);
}

static void coroutine_fn commit_all_entry(void *opaque)
{
    CommitAll *all = opaque;

    all->ret = qcow2_co_commit_all(all->bs);
}

int qcow2_commit_all(BlockDriverState *bs)
{
    CommitAll all = { bs, 0 };

    if (has_nothing(bs)) {
        return 0;
    }
    aio_run_sync(commit_all_entry, &all);
    return all.ret;
}
