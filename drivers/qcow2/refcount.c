/* SPDX-License-Identifier: MIT */
/*
 * refcounts of host clusters
 *
 * Answers "is this host cluster free?" and takes or gives clusters back. It
 * knows nothing of guest offsets. Writing to the file is commit.c's, waiting
 * until something is free quarantine.c's.
 *
 *   header ──▶ [table: 8 bytes an entry] ──▶ [block: one cluster of counts]
 *
 * Always true outside a function of this file:
 *  R1  table and cached blocks are what the disk says, or marked dirty;
 *  R2  a block that enters the cache counts every structure of the image in
 *      its range at least once: so nothing allocated can be a structure;
 *  R3  a missing block means that its whole range is free;
 *  R4  clusters before the cursor are not free.
 *
 * A missing block goes to the start of the run that is being taken, so that
 * it describes itself when nothing else could. A table that is too short
 * moves to new clusters, half as large again.
 *
 * Locking: every entry point expects q->lock to be held. Blocks are read with
 * the lock held: one block covers gigabytes.
 */
#include "drivers/qcow2/refcount.h"

#include "block/io/io.h"
#include "block/rt/aio_context.h"
#include "drivers/qcow2/overlap.h"
#include "drivers/qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>

#define BLOCKS_MIN 8
#define TABLE_SECTOR_ENTRIES 64
#define GROW_STEP_MIN MIB
#define GROW_STEP_MAX (64 * MIB)

/* -- counts of one block -------------------------------------------------- */

uint64_t qcow2_refcount_get(const uint8_t *block, unsigned order,
                            int64_t index)
{
    switch (order) {
    case 3:
        return block[index];
    case 4:
        return be16_get((const be16 *)block + index);
    case 5:
        return be32_get((const be32 *)block + index);
    case 6:
        return be64_get((const be64 *)block + index);
    default: {
        /* 1, 2 or 4 bits: the first count is in the low bits. */
        unsigned bits = 1u << order;
        unsigned per_byte = 8 / bits;
        unsigned shift = (index % per_byte) * bits;

        return (block[index / per_byte] >> shift) & ((1u << bits) - 1);
    }
    }
}

void qcow2_refcount_set(uint8_t *block, unsigned order, int64_t index,
                        uint64_t count)
{
    switch (order) {
    case 3:
        block[index] = count;
        break;
    case 4:
        be16_set((be16 *)block + index, count);
        break;
    case 5:
        be32_set((be32 *)block + index, count);
        break;
    case 6:
        be64_set((be64 *)block + index, count);
        break;
    default: {
        unsigned bits = 1u << order;
        unsigned per_byte = 8 / bits;
        unsigned shift = (index % per_byte) * bits;
        uint8_t mask = ((1u << bits) - 1) << shift;
        uint8_t *byte = &block[index / per_byte];

        *byte = (*byte & ~mask) | ((count << shift) & mask);
    }
    }
}

static void mark_block_dirty(Qcow2Refcounts *counts, Qcow2RefBlock *block,
                             size_t start, size_t end)
{
    if (!block->is_dirty) {
        block->is_dirty = true;
        block->dirty_start = start;
        block->dirty_end = end;
        g_hash_table_add(counts->dirty_blocks, block);
        return;
    }
    block->dirty_start = MIN(block->dirty_start, start);
    block->dirty_end = MAX(block->dirty_end, end);
}

void qcow2_refcount_mark_dirty(BlockDriverState *bs, Qcow2RefBlock *block,
                               size_t start, size_t end)
{
    mark_block_dirty(&qcow2_state(bs)->refcounts, block, start, end);
}

/* Sets the count of host cluster @cluster, which @block covers. */
static void set_count(Qcow2State *q, Qcow2RefBlock *block, int64_t cluster,
                      uint64_t count)
{
    Qcow2Refcounts *counts = &q->refcounts;
    int64_t index = cluster & (((int64_t)1 << counts->block_bits) - 1);
    size_t start = ((uint64_t)index << counts->order) / 8;
    size_t bytes = MAX((size_t)1 << counts->order, 8) / 8;

    qcow2_refcount_set(block->data, counts->order, index, count);
    mark_block_dirty(counts, block, start, start + bytes);
}

static uint64_t get_count(const Qcow2State *q, const Qcow2RefBlock *block,
                          int64_t cluster)
{
    int64_t mask = ((int64_t)1 << q->refcounts.block_bits) - 1;

    return qcow2_refcount_get(block->data, q->refcounts.order,
                              cluster & mask);
}

/* -- table ---------------------------------------------------------------- */

typedef struct TableLoad {
    BlockDriverState *bs;
    int64_t bytes;
    int ret;
} TableLoad;

static void coroutine_fn load_table_entry(void *opaque)
{
    TableLoad *load = opaque;
    Qcow2State *q = qcow2_state(load->bs);

    bdrv_debug_event(load->bs->file, BLOCK_DEBUG_REFTABLE_LOAD);
    load->ret = bdrv_co_pread(load->bs->file, q->header.reftable_offset,
                              load->bytes, q->refcounts.table, 0);
}

bool qcow2_refcount_init(BlockDriverState *bs, int64_t cache_bytes,
                         GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2Refcounts *counts = &q->refcounts;
    int64_t bytes = q->header.reftable_clusters << q->cluster_bits;
    TableLoad load = { .bs = bs };

    memset(counts, 0, sizeof(*counts));
    counts->order = q->header.refcount_order;
    counts->block_bits = q->cluster_bits + 3 - counts->order;
    counts->table_entries = bytes / 8;
    counts->table = g_malloc0(bytes);
    load.bytes = bytes;
    aio_run_sync(load_table_entry, &load);
    if (load.ret < 0) {
        g_clear_pointer(&counts->table, g_free);
        error_set_errno(error, -load.ret, "reading the refcount table at 0x%"
                        PRIx64, q->header.reftable_offset);
        return false;
    }
    for (int64_t i = 0; i < counts->table_entries; i++) {
        counts->table[i] = be64toh(counts->table[i]);
    }
    counts->block = g_new0(Qcow2RefBlock *, counts->table_entries);
    counts->blocks = g_ptr_array_new();
    counts->dirty_blocks = g_hash_table_new(NULL, NULL);
    counts->table_dirty =
        g_malloc0(div_round_up(counts->table_entries, TABLE_SECTOR_ENTRIES));
    qcow2_refcount_set_limit(bs, cache_bytes);
    counts->table_offset = counts->disk_table_offset =
        q->header.reftable_offset;
    counts->table_clusters = counts->disk_table_clusters =
        q->header.reftable_clusters;
    q->quarantine.open = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    return true;
}

static void block_free(Qcow2RefBlock *block)
{
    g_free(block->data);
    g_free(block);
}

void qcow2_refcount_destroy(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2Refcounts *counts = &q->refcounts;

    if (!counts->table) {
        return;
    }
    for (guint i = 0; i < counts->blocks->len; i++) {
        block_free(g_ptr_array_index(counts->blocks, i));
    }
    g_clear_pointer(&counts->blocks, g_ptr_array_unref);
    g_clear_pointer(&counts->dirty_blocks, g_hash_table_unref);
    g_clear_pointer(&counts->block, g_free);
    g_clear_pointer(&counts->table_dirty, g_free);
    g_clear_pointer(&counts->table, g_free);
    while (q->quarantine.first) {
        Qcow2FreedBatch *batch = q->quarantine.first;

        q->quarantine.first = batch->next;
        qcow2_freed_batch_free(batch);
    }
    g_clear_pointer(&q->quarantine.open, g_array_unref);
    memset(&q->quarantine, 0, sizeof(q->quarantine));
}

static void set_table_entry(Qcow2Refcounts *counts, int64_t index,
                            uint64_t value)
{
    counts->table[index] = value;
    counts->table_dirty[index / TABLE_SECTOR_ENTRIES] = 1;
    counts->any_table_dirty = true;
}

/* -- blocks --------------------------------------------------------------- */

/* R2 for [offset, offset + bytes): counted, as far as @block covers it? */
static bool is_counted(const Qcow2State *q, int64_t table_index,
                       const uint8_t *data, int64_t offset, int64_t bytes)
{
    const Qcow2Refcounts *counts = &q->refcounts;
    int64_t covered = (int64_t)1 << counts->block_bits;
    int64_t first = table_index << counts->block_bits;
    int64_t start = MAX(offset >> q->cluster_bits, first);
    int64_t end = MIN((offset + bytes + q->cluster_bytes - 1) >>
                      q->cluster_bits, first + covered);

    for (int64_t i = start; i < end; i++) {
        if (!data ||
            qcow2_refcount_get(data, counts->order, i - first) == 0) {
            g_debug("%s: the image's structure at 0x%" PRIx64 " has a "
                    "refcount of 0", bdrv_name(q->bs), i << q->cluster_bits);
            return false;
        }
    }
    return true;
}

/* R2 for a block that is to enter the cache; @data NULL: a missing one. */
static bool counts_structures(const Qcow2State *q, int64_t table_index,
                              const uint8_t *data)
{
    const Qcow2Refcounts *counts = &q->refcounts;

    for (unsigned i = 0; i < QCOW2_RANGES; i++) {
        const Qcow2HostRange *range = &q->main_metadata[i];

        if (range->end > range->start &&
            !is_counted(q, table_index, data, range->start,
                        range->end - range->start)) {
            return false;
        }
    }
    for (int64_t i = 0; i < q->l2.l1_entries; i++) {
        int64_t offset = q->l2.l1[i] & QCOW2_OFFSET_MASK;

        if (offset != 0 && !is_counted(q, table_index, data, offset,
                                       q->cluster_bytes)) {
            return false;
        }
    }
    for (int64_t i = 0; i < counts->table_entries; i++) {
        int64_t offset = counts->table[i] & QCOW2_REFTABLE_OFFSET_MASK;

        if (offset != 0 && !is_counted(q, table_index, data, offset,
                                       q->cluster_bytes)) {
            return false;
        }
    }
    return true;
}

static Qcow2RefBlock *add_block(Qcow2State *q, int64_t table_index,
                                int64_t host_offset, uint8_t *data)
{
    Qcow2Refcounts *counts = &q->refcounts;
    Qcow2RefBlock *block = g_new0(Qcow2RefBlock, 1);

    block->table_index = table_index;
    block->host_offset = host_offset;
    block->data = data;
    block->last_use = ++counts->use_clock;
    counts->block[table_index] = block;
    g_ptr_array_add(counts->blocks, block);
    return block;
}

void qcow2_refcount_set_limit(BlockDriverState *bs, int64_t cache_bytes)
{
    Qcow2State *q = qcow2_state(bs);

    q->refcounts.block_limit = MAX(cache_bytes >> q->cluster_bits, BLOCKS_MIN);
}

static bool may_evict(const Qcow2RefBlock *block)
{
    return !block->is_dirty && block->pins == 0;
}

static void evict(Qcow2Refcounts *counts, Qcow2RefBlock *block)
{
    counts->block[block->table_index] = NULL;
    g_ptr_array_remove_fast(counts->blocks, block);
    block_free(block);
}

void qcow2_refcount_clean(BlockDriverState *bs)
{
    Qcow2Refcounts *counts = &qcow2_state(bs)->refcounts;

    for (guint i = counts->blocks->len; i-- > 0;) {
        Qcow2RefBlock *block = g_ptr_array_index(counts->blocks, i);

        if (may_evict(block) && block->last_use <= counts->cleaned_at) {
            evict(counts, block);
        }
    }
    counts->cleaned_at = counts->use_clock;
}

void qcow2_refcount_trim(BlockDriverState *bs)
{
    Qcow2Refcounts *counts = &qcow2_state(bs)->refcounts;

    while ((int64_t)counts->blocks->len > counts->block_limit) {
        Qcow2RefBlock *oldest = NULL;

        for (guint i = 0; i < counts->blocks->len; i++) {
            Qcow2RefBlock *block = g_ptr_array_index(counts->blocks, i);

            if (may_evict(block) && block->last_use != counts->use_clock &&
                (!oldest || block->last_use < oldest->last_use)) {
                oldest = block;
            }
        }
        if (!oldest) {
            return; /* all dirty: the next commit makes room */
        }
        evict(counts, oldest);
    }
}

static int coroutine_fn read_block(BlockDriverState *bs, int64_t table_index,
                                   int64_t host_offset,
                                   Qcow2RefBlock **ret_block)
{
    Qcow2State *q = qcow2_state(bs);
    g_autofree uint8_t *data = NULL;
    int ret;

    if (qcow2_in_cluster(q, host_offset) != 0 || host_offset < 0 ||
        host_offset >= QCOW2_HOST_OFFSET_LIMIT ||
        !range_within(host_offset, q->cluster_bytes, qcow2_file_length(q)) ||
        qcow2_hits_main_metadata(q, host_offset, q->cluster_bytes)) {
        g_debug("%s: damaged refcount table entry 0x%" PRIx64, bdrv_name(bs),
                (uint64_t)host_offset);
        return -EIO;
    }
    data = g_malloc(q->cluster_bytes);
    bdrv_debug_event(bs->file, BLOCK_DEBUG_REFBLOCK_LOAD);
    ret = bdrv_co_pread(bs->file, host_offset, q->cluster_bytes, data, 0);
    if (ret < 0) {
        return ret;
    }
    if (!counts_structures(q, table_index, data)) {
        return -EIO;
    }
    *ret_block = add_block(q, table_index, host_offset,
                           g_steal_pointer(&data));
    qcow2_refcount_trim(bs);
    return 0;
}

/* The block of a table entry; NULL when it is missing (R3). */
static int coroutine_fn get_block(BlockDriverState *bs, int64_t table_index,
                                  Qcow2RefBlock **ret_block)
{
    Qcow2Refcounts *counts = &qcow2_state(bs)->refcounts;

    *ret_block = NULL;
    if (table_index >= counts->table_entries) {
        return 0;
    }
    *ret_block = counts->block[table_index];
    if (*ret_block) {
        (*ret_block)->last_use = ++counts->use_clock;
        return 0;
    }
    if (counts->table[table_index] == 0) {
        return 0;
    }
    return read_block(bs, table_index, counts->table[table_index],
                      ret_block);
}

int coroutine_fn qcow2_refcount_of(BlockDriverState *bs, int64_t host_offset,
                                   uint64_t *ret_count)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t cluster = host_offset >> q->cluster_bits;
    Qcow2RefBlock *block;
    int ret = get_block(bs, cluster >> q->refcounts.block_bits, &block);

    if (ret >= 0) {
        *ret_count = block ? get_count(q, block, cluster) : 0;
    }
    return ret;
}

/*
 * A new block for @table_index in host cluster @cluster, which is free and
 * whose own block exists, or is the new one.
 */
static int coroutine_fn make_block(BlockDriverState *bs, int64_t table_index,
                                   int64_t cluster)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2Refcounts *counts = &q->refcounts;
    Qcow2RefBlock *block, *owner;
    int ret;

    if (!counts_structures(q, table_index, NULL)) {
        return -EIO;
    }
    bdrv_debug_event(bs->file, BLOCK_DEBUG_REFBLOCK_ALLOC);
    block = add_block(q, table_index, cluster << q->cluster_bits,
                      g_malloc0(q->cluster_bytes));
    block->is_new = true;
    mark_block_dirty(counts, block, 0, q->cluster_bytes);
    qcow2_overlap_note(bs, block->host_offset);
    set_table_entry(counts, table_index, block->host_offset);
    ret = get_block(bs, cluster >> counts->block_bits, &owner);
    if (ret < 0) {
        /* The owner was in hand a moment ago; nothing of use is left. */
        counts->error = ret;
        return ret;
    }
    set_count(q, owner, cluster, 1);
    /* Whatever becomes of the allocation that wanted it, it will be written. */
    q->fresh_offset = MAX(q->fresh_offset, (cluster + 1) << q->cluster_bits);
    q->used_end = MAX(q->used_end, (cluster + 1) << q->cluster_bits);
    return 0;
}

/* -- allocation ----------------------------------------------------------- */

static int coroutine_fn grow_table(BlockDriverState *bs, int64_t entries);

/*
 * Makes [.., @end) of the host clusters' space part of the file. It grows in
 * steps that are worth the call; closing cuts off what was too much.
 */
static int coroutine_fn grow_file(BlockDriverState *bs, int64_t end)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t length = qcow2_file_length(q);
    int64_t step = CLAMP(length / 4, GROW_STEP_MIN, GROW_STEP_MAX);
    int ret;

    if (end <= length) {
        q->used_end = MAX(q->used_end, end);
        return 0;
    }
    bdrv_debug_event(bs->file, BLOCK_DEBUG_CLUSTER_ALLOC_SPACE);
    ret = bdrv_co_truncate(bs->file, align_up(end + step, q->cluster_bytes),
                           /* exact= */ false, PREALLOC_OFF, 0, NULL);
    if (ret < 0) {
        ret = bdrv_co_truncate(bs->file, end, false, PREALLOC_OFF, 0, NULL);
    }
    if (ret < 0) {
        return ret == -ENOTSUP || ret == -EINVAL ? -ENOSPC : ret;
    }
    qcow2_raise_file_length(q, bdrv_node_length(bs->file->bs));
    q->used_end = MAX(q->used_end, end); /* a commit needs the file that long */
    return 0;
}

/*
 * Finds @needed to @wanted free clusters in a row whose blocks all exist,
 * making blocks on the way. A run of @needed ends with its block: crossing
 * is for those who must.
 */
static int coroutine_fn find_run(BlockDriverState *bs, int64_t wanted,
                                 int64_t needed, int64_t *ret_start,
                                 int64_t *ret_count)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2Refcounts *counts = &q->refcounts;
    int64_t run = counts->cursor, at = run;

    while (at - run < needed) {
        int64_t index = at >> counts->block_bits;
        int64_t block_end = (index + 1) << counts->block_bits;
        Qcow2RefBlock *block;
        int ret = 0;

        if (at >= QCOW2_HOST_OFFSET_LIMIT >> q->cluster_bits) {
            return -ENOSPC;
        }
        if (index >= counts->table_entries) {
            ret = grow_table(bs, index + 1);
            if (ret < 0) {
                return ret;
            }
            run = at = counts->cursor;
            continue;
        }
        ret = get_block(bs, index, &block);
        if (ret >= 0 && !block) {
            /* Room first: a block that cannot be written stops every commit. */
            ret = grow_file(bs, (run + 1) << q->cluster_bits);
            if (ret < 0) {
                return ret;
            }
            ret = make_block(bs, index, run);
            run++;
            at = MAX(at, run);
            if (ret >= 0) {
                continue;
            }
        }
        if (ret < 0) {
            return ret;
        }
        for (; at < block_end && at - run < wanted; at++) {
            if (get_count(q, block, at) != 0) {
                if (at - run >= needed) {
                    break;
                }
                run = at + 1;
            }
        }
    }
    *ret_start = run;
    *ret_count = at - run;
    return 0;
}

/* Counts 0 -> 1; the blocks are there (find_run). */
static int coroutine_fn take_run(BlockDriverState *bs, int64_t start,
                                 int64_t count)
{
    Qcow2State *q = qcow2_state(bs);

    for (int64_t i = start; i < start + count; i++) {
        Qcow2RefBlock *block;
        int ret = get_block(bs, i >> q->refcounts.block_bits, &block);

        if (ret < 0) {
            return ret; /* what was taken is leaked */
        }
        set_count(q, block, i, 1);
    }
    return 0;
}

static int coroutine_fn alloc_run(BlockDriverState *bs, int64_t wanted,
                                  int64_t needed, int64_t *ret_start,
                                  int64_t *ret_count)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2Refcounts *counts = &q->refcounts;
    int64_t start = 0, count = 0;
    int ret = counts->error;

    if (ret >= 0) {
        ret = find_run(bs, wanted, needed, &start, &count);
    }
    if (ret >= 0) {
        ret = grow_file(bs, (start + count) << q->cluster_bits);
    }
    if (ret >= 0) {
        ret = take_run(bs, start, count);
    }
    if (ret < 0) {
        return ret;
    }
    /* Everything before the run is taken if any free cluster would have done
     * (R4). */
    if (needed == 1) {
        counts->cursor = start + count;
    }
    q->fresh_offset =
        MAX(q->fresh_offset, (start + count) << q->cluster_bits);
    q->allocated_since_barrier = true;
    *ret_start = start;
    *ret_count = count;
    return 0;
}

int coroutine_fn qcow2_alloc_clusters(BlockDriverState *bs, int64_t wanted,
                                      int64_t needed,
                                      int64_t *ret_host_offset,
                                      int64_t *ret_clusters)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t start, count;
    int ret;

    bdrv_debug_event(bs->file, BLOCK_DEBUG_CLUSTER_ALLOC);
    ret = alloc_run(bs, wanted, needed, &start, &count);
    qcow2_refcount_trim(bs);
    if (ret < 0) {
        return ret;
    }
    *ret_host_offset = start << q->cluster_bits;
    *ret_clusters = count;
    return 0;
}

void qcow2_refcount_distrust(BlockDriverState *bs)
{
    Qcow2Refcounts *counts = &qcow2_state(bs)->refcounts;

    counts->is_contradicted = true;
    if (counts->error >= 0) {
        counts->error = -EIO;
    }
}

/* The arrays that go with the table, longer. */
static void extend_arrays(Qcow2Refcounts *counts, int64_t entries)
{
    int64_t old = counts->table_entries;
    int64_t old_sectors = div_round_up(old, TABLE_SECTOR_ENTRIES);
    int64_t sectors = div_round_up(entries, TABLE_SECTOR_ENTRIES);

    counts->table = g_renew(uint64_t, counts->table, entries);
    counts->block = g_renew(Qcow2RefBlock *, counts->block, entries);
    counts->table_dirty = g_realloc(counts->table_dirty, sectors);
    memset(counts->table + old, 0, (entries - old) * 8);
    memset(counts->block + old, 0, (entries - old) * sizeof(void *));
    memset(counts->table_dirty + old_sectors, 0, sectors - old_sectors);
    counts->table_entries = entries;
}

/* The table moves to new clusters that hold at least @entries. */
static int coroutine_fn grow_table(BlockDriverState *bs, int64_t entries)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2Refcounts *counts = &q->refcounts;
    int64_t old_offset = counts->table_offset;
    int64_t old_clusters = counts->table_clusters;
    int64_t wanted = MAX(entries + 1, counts->table_entries * 3 / 2);
    int64_t clusters, start, count, covered;
    int ret;

    /* Room for what describes the new table itself, wherever it goes. */
    clusters = div_round_up(wanted * 8, q->cluster_bytes);
    covered = (int64_t)1 << counts->block_bits;
    wanted += 2 + 2 * (clusters / covered);
    clusters = div_round_up(wanted * 8, q->cluster_bytes);
    if (clusters << q->cluster_bits > QCOW2_REFTABLE_MAX_BYTES) {
        return -ENOSPC;
    }
    bdrv_debug_event(bs->file, BLOCK_DEBUG_REFTABLE_GROW);
    extend_arrays(counts, clusters * q->cluster_bytes / 8);
    ret = alloc_run(bs, clusters, clusters, &start, &count);
    if (ret < 0) {
        /* Blocks beyond the table on disk may exist in memory by now. */
        counts->error = ret;
        return ret;
    }
    counts->table_offset = start << q->cluster_bits;
    counts->table_clusters = clusters;
    counts->table_moved = true;
    qcow2_quarantine_add(bs, old_offset, old_clusters << q->cluster_bits,
                         QCOW2_FREE_OTHER);
    return 0;
}

int coroutine_fn qcow2_refcount_add(BlockDriverState *bs, int64_t host_offset,
                                    int delta)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2Refcounts *counts = &q->refcounts;
    int64_t cluster = host_offset >> q->cluster_bits;
    uint64_t max = UINT64_MAX >> (64 - (1u << counts->order));
    Qcow2RefBlock *block;
    uint64_t count;
    int ret = get_block(bs, cluster >> counts->block_bits, &block);

    if (ret < 0) {
        return ret;
    }
    count = block ? get_count(q, block, cluster) : 0;
    if (count == 0) {
        return -EIO; /* it is free: nobody can have a reference */
    }
    if (delta > 0 && count == max) {
        return -ERANGE;
    }
    set_count(q, block, cluster, count + delta);
    if (delta < 0 && count == 1) {
        counts->cursor = MIN(counts->cursor, cluster);
        if (q->packing_offset >> q->cluster_bits == cluster) {
            q->packing_offset = 0; /* its rest is free, too */
        }
    }
    return 0;
}

void coroutine_fn qcow2_unalloc_clusters(BlockDriverState *bs,
                                         int64_t host_offset,
                                         int64_t clusters)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t start = host_offset >> q->cluster_bits;

    for (int64_t i = start; i < start + clusters; i++) {
        Qcow2RefBlock *block;

        if (get_block(bs, i >> q->refcounts.block_bits, &block) < 0 ||
            !block) {
            continue; /* a leak, no more */
        }
        set_count(q, block, i, 0);
        q->refcounts.cursor = MIN(q->refcounts.cursor, i);
    }
}
