/* SPDX-License-Identifier: MIT */
/*
 * L1 and L2 tables in memory
 *
 * Answers "what is the L2 entry of this guest cluster?" without a lock, and
 * keeps changed entries until a commit has written them. What an entry means
 * is cluster.c's.
 *
 *   l1[i] ─ raw L1 entries
 *   table[i] ──▶ Qcow2L2Table ─ slice[j] ──▶ Qcow2Slice ─ word[k], or
 *                                            word[2k] and word[2k + 1]
 *
 * Always true when the lock is free:
 *  L1  a slice in memory is what the table on disk says, or its changed
 *      sectors are marked dirty, or its table is new;
 *  L2  slices that are dirty, pinned or of a new table are not evicted: their
 *      copy on disk is stale;
 *  L3  an evicted slice stays readable until its grace period has passed;
 *  L4  a table struct, once reachable, lives until the image is closed;
 *  L5  a slice is loaded by one coroutine at a time (table->loading); one may
 *      load several that follow each other.
 *
 * Locking: pointers and entries are atomic and may be read inside an epoch.
 * All changes are made under q->lock. A load drops it during its I/O; copying
 * a shared table keeps it (rare: once for each table after a snapshot).
 */
#include "drivers/qcow2/l2_cache.h"

#include "block/io/io.h"
#include "drivers/qcow2/overlap.h"
#include "drivers/qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>

/* How far the clock hand moves at most for one new slice. */
#define CLOCK_STEPS_MAX 128
/* Slices to keep in any case: many small ones, a few large ones. */
#define SLICES_MIN_BYTES (64 * KIB)
#define SLICES_MIN 2
#define SMALL_SLICES_MIN 16
/* Slices that one read brings to who walks from one to the next. */
#define AHEAD_MAX 16
/* Looks at an entry that changes, until its writer gets the processor. */
#define SPINS_MAX 64

static unsigned slice_entries(const Qcow2L2Cache *cache)
{
    return 1u << cache->slice_bits;
}

static size_t slice_bytes(const Qcow2L2Cache *cache)
{
    return cache->slice_words * sizeof(uint64_t);
}

void qcow2_l2_init(BlockDriverState *bs, uint64_t *l1, int64_t l1_entries)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2L2Cache *cache = &q->l2;
    int64_t bytes = MIN(q->cluster_bytes, q->options.l2_entry_bytes);
    int64_t least = CLAMP(SLICES_MIN_BYTES / bytes, SLICES_MIN,
                          SMALL_SLICES_MIN);

    cache->l1 = l1;
    cache->l1_entries = l1_entries;
    cache->table = g_new0(Qcow2L2Table *, MAX(l1_entries, 1));
    cache->slice_words = bytes / sizeof(uint64_t);
    cache->slice_bits = __builtin_ctz(cache->slice_words / q->l2_words);
    cache->slices_per_table = q->cluster_bytes / bytes;
    cache->part_words = MAX(bytes / QCOW2_SLICE_PARTS_MAX,
                            QCOW2_SECTOR_BYTES) / sizeof(uint64_t);
    cache->slice_limit = MAX(q->options.l2_cache_bytes / bytes, least);
    cache->slices = g_ptr_array_new();
    cache->replaced = g_ptr_array_new_with_free_func(g_free);
    cache->new_tables = g_hash_table_new(NULL, NULL);
    cache->l1_dirty =
        g_malloc0(div_round_up(l1_entries * 8, QCOW2_SECTOR_BYTES) + 1);
    cache->clock_hand = 0;
    cache->dirty = g_ptr_array_new();
    cache->any_l1_dirty = false;
    co_queue_init(&cache->loaded);
}

static void free_list(Qcow2Slice **list)
{
    while (*list) {
        Qcow2Slice *slice = *list;

        *list = slice->next;
        g_free(slice);
    }
}

void qcow2_l2_destroy(BlockDriverState *bs)
{
    Qcow2L2Cache *cache = &qcow2_state(bs)->l2;

    if (!cache->slices) {
        return;
    }
    for (guint i = 0; i < cache->slices->len; i++) {
        g_free(g_ptr_array_index(cache->slices, i));
    }
    free_list(&cache->retired);
    free_list(&cache->idle);
    for (int64_t i = 0; i < cache->l1_entries; i++) {
        g_free(cache->table[i]);
    }
    g_clear_pointer(&cache->slices, g_ptr_array_unref);
    g_clear_pointer(&cache->replaced, g_ptr_array_unref);
    g_clear_pointer(&cache->dirty, g_ptr_array_unref);
    g_clear_pointer(&cache->new_tables, g_hash_table_unref);
    g_clear_pointer(&cache->l1_dirty, g_free);
    g_clear_pointer(&cache->table, g_free);
    g_clear_pointer(&cache->l1, g_free);
    co_queue_destroy(&cache->loaded);
    *cache = (Qcow2L2Cache) { .l1_entries = 0 };
}

uint64_t *qcow2_l1_read(BlockDriverState *bs, int64_t host_offset,
                        int64_t entries, GError **error)
{
    /* Bounded by QCOW2_L1_MAX_BYTES: the header was checked. */
    g_autofree uint64_t *l1 = g_try_malloc0(MAX(entries, 1) * 8);
    int ret;

    if (!l1) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "no memory for an L1 table of %" PRId64 " entries",
                    entries);
        return NULL;
    }
    ret = entries ? bdrv_pread(bs->file, host_offset, entries * 8, l1) : 0;
    if (ret < 0) {
        error_set_errno(error, -ret, "reading the L1 table at 0x%" PRIx64,
                        host_offset);
        return NULL;
    }
    for (int64_t i = 0; i < entries; i++) {
        l1[i] = be64toh(l1[i]);
    }
    return g_steal_pointer(&l1);
}

Qcow2L2Position qcow2_l2_position(const BlockDriverState *bs, int64_t offset)
{
    const Qcow2State *q = qcow2_state(bs);
    int64_t cluster = offset >> q->cluster_bits;
    unsigned in_table = cluster & ((1u << q->l2_bits) - 1);

    return (Qcow2L2Position){
        .l1_index = cluster >> q->l2_bits,
        .slice = in_table >> q->l2.slice_bits,
        .entry = in_table & (slice_entries(&q->l2) - 1),
    };
}

Qcow2Slice *qcow2_l2_peek(const BlockDriverState *bs,
                          Qcow2L2Position position)
{
    const Qcow2L2Cache *cache = &qcow2_state(bs)->l2;
    Qcow2L2Table **tables, *table;
    Qcow2Slice *slice;

    tables = __atomic_load_n(&cache->table, __ATOMIC_ACQUIRE);
    table = __atomic_load_n(&tables[position.l1_index], __ATOMIC_ACQUIRE);
    if (!table) {
        return NULL;
    }
    slice = __atomic_load_n(&table->slice[position.slice], __ATOMIC_ACQUIRE);
    /* Written only when it changes: the line stays shared among readers. */
    if (slice && !__atomic_load_n(&slice->referenced, __ATOMIC_RELAXED)) {
        __atomic_store_n(&slice->referenced, 1, __ATOMIC_RELAXED);
    }
    return slice;
}

Qcow2L2Entry qcow2_l2_get_extended(const Qcow2Slice *slice, unsigned entry)
{
    const uint64_t *word = &slice->word[2 * entry];

    for (unsigned turn = 1;; turn++) {
        uint32_t before = __atomic_load_n(&slice->sequence, __ATOMIC_ACQUIRE);
        Qcow2L2Entry value = {
            __atomic_load_n(&word[0], __ATOMIC_ACQUIRE),
            __atomic_load_n(&word[1], __ATOMIC_ACQUIRE),
        };

        if (!(before & 1) &&
            __atomic_load_n(&slice->sequence, __ATOMIC_RELAXED) == before) {
            return value;
        }
        /* Its thread was put aside between two stores: let it run. */
        if (turn % SPINS_MAX == 0) {
            g_thread_yield();
        }
    }
}

/* -- slices come and go --------------------------------------------------- */

/*
 * Idle ones are kept and used again: threads that free each other's memory to
 * the C library make it keep twice as much. There are no more of them than
 * were retired at a time. Lock held.
 */
static void slice_free(Qcow2L2Cache *cache, Qcow2Slice *slice)
{
    slice->next = cache->idle;
    cache->idle = slice;
}

/* Its words are for the caller to fill. Lock held. */
static Qcow2Slice *slice_new(Qcow2L2Cache *cache)
{
    Qcow2Slice *slice = cache->idle;

    if (slice) {
        cache->idle = slice->next;
    } else {
        slice = g_malloc(sizeof(Qcow2Slice) + slice_bytes(cache));
    }
    *slice = (Qcow2Slice) {
        .is_extended = cache->slice_words >> cache->slice_bits > 1,
    };
    return slice;
}

static Qcow2Slice *slice_new_empty(Qcow2L2Cache *cache)
{
    Qcow2Slice *slice = slice_new(cache);

    memset(slice->word, 0, slice_bytes(cache));
    return slice;
}

static bool may_evict(const Qcow2Slice *slice)
{
    return slice->pins == 0 && slice->dirty == 0 && !slice->table->is_new;
}

/* Takes the slice out of reach; its memory follows later (L3). */
static void evict(Qcow2State *q, Qcow2Slice *slice)
{
    Qcow2L2Cache *cache = &q->l2;
    Qcow2Slice *last;

    __atomic_store_n(&slice->table->slice[slice->index], NULL,
                     __ATOMIC_SEQ_CST);
    last = g_ptr_array_index(cache->slices, cache->slices->len - 1);
    last->position = slice->position;
    g_ptr_array_remove_index_fast(cache->slices, slice->position);
    slice->retired = qcow2_epoch_retire(q->epoch);
    slice->next = cache->retired;
    cache->retired = slice;
}

/*
 * The bound is soft: when everything near the hand is in use we go over. Where
 * all was referenced lately, as in a walk, one of those has to go.
 */
static void make_room(Qcow2State *q)
{
    Qcow2L2Cache *cache = &q->l2;
    Qcow2Slice *referenced = NULL;

    for (unsigned i = 0; i < CLOCK_STEPS_MAX; i++) {
        Qcow2Slice *slice;

        if ((int64_t)cache->slices->len < cache->slice_limit) {
            return;
        }
        cache->clock_hand = (cache->clock_hand + 1) % cache->slices->len;
        slice = g_ptr_array_index(cache->slices, cache->clock_hand);
        if (!may_evict(slice)) {
            continue;
        }
        if (__atomic_exchange_n(&slice->referenced, 0, __ATOMIC_RELAXED)) {
            referenced = referenced ? referenced : slice;
            continue;
        }
        evict(q, slice);
        referenced = NULL;
    }
    if (referenced) {
        evict(q, referenced);
    }
}

void qcow2_l2_reap(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2Slice **link = &q->l2.retired;

    if (!*link) {
        return;
    }
    qcow2_epoch_poll(q->epoch);
    while (*link) {
        Qcow2Slice *slice = *link;

        if (qcow2_epoch_passed(q->epoch, slice->retired)) {
            *link = slice->next;
            slice_free(&q->l2, slice);
        } else {
            link = &slice->next;
        }
    }
}

/* Makes a filled slice reachable. */
static void install(BlockDriverState *bs, Qcow2L2Table *table, unsigned index,
                    Qcow2Slice *slice)
{
    Qcow2L2Cache *cache = &qcow2_state(bs)->l2;

    qcow2_l2_reap(bs);
    make_room(qcow2_state(bs));
    slice->table = table;
    slice->index = index;
    slice->referenced = 1;
    slice->position = cache->slices->len;
    g_ptr_array_add(cache->slices, slice);
    __atomic_store_n(&table->slice[index], slice, __ATOMIC_RELEASE);
}

/* -- tables --------------------------------------------------------------- */

static Qcow2L2Table *table_new(const Qcow2L2Cache *cache, int64_t l1_index,
                               int64_t host_offset)
{
    size_t pointers = cache->slices_per_table * sizeof(Qcow2Slice *);
    Qcow2L2Table *table =
        g_malloc0(sizeof(*table) + pointers + cache->slices_per_table);

    table->l1_index = l1_index;
    table->host_offset = host_offset;
    table->loading = (uint8_t *)table + sizeof(*table) + pointers;
    return table;
}

/* -EIO unless the L1 entry may point where it does. */
static int check_l1_entry(const Qcow2State *q, uint64_t entry)
{
    int64_t host_offset = entry & QCOW2_OFFSET_MASK;

    if ((entry & QCOW2_L1_RESERVED) ||
        qcow2_in_cluster(q, host_offset) != 0 ||
        host_offset >= qcow2_file_length(q) ||
        qcow2_hits_main_metadata(q, host_offset, q->cluster_bytes)) {
        g_debug("%s: damaged L1 entry 0x%" PRIx64, bdrv_name(q->bs), entry);
        return -EIO;
    }
    return 0;
}

/* The table of an L1 entry, made on first use; NULL when there is none. */
static int get_table(Qcow2State *q, int64_t l1_index, Qcow2L2Table **ret)
{
    Qcow2L2Cache *cache = &q->l2;
    uint64_t entry = cache->l1[l1_index];
    Qcow2L2Table *table = cache->table[l1_index];

    if (!table && (entry & ~QCOW2_ENTRY_COPIED) != 0) {
        int status = check_l1_entry(q, entry);

        if (status < 0) {
            return status;
        }
        table = table_new(cache, l1_index, entry & QCOW2_OFFSET_MASK);
        __atomic_store_n(&cache->table[l1_index], table, __ATOMIC_RELEASE);
    }
    *ret = table;
    return 0;
}

/* Reads slices of the table on disk, from @index on. No lock needed. */
static int coroutine_fn read_slices(BlockDriverState *bs,
                                    const Qcow2L2Table *table, unsigned index,
                                    Qcow2Slice *const *slice, unsigned count)
{
    const Qcow2L2Cache *cache = &qcow2_state(bs)->l2;
    int64_t bytes = slice_bytes(cache);
    struct iovec pieces[AHEAD_MAX];
    IoVec iov;
    int ret;

    for (unsigned i = 0; i < count; i++) {
        pieces[i] = (struct iovec) { slice[i]->word, bytes };
    }
    iovec_init_external(&iov, pieces, (int)count);
    bdrv_debug_event(bs->file, BLOCK_DEBUG_L2_LOAD);
    ret = bdrv_co_preadv(bs->file, table->host_offset + index * bytes,
                         count * bytes, &iov, 0, 0);
    if (ret < 0) {
        return ret == -EINVAL ? -EIO : ret; /* past the end of the file */
    }
    for (unsigned i = 0; i < count; i++) {
        for (unsigned j = 0; j < cache->slice_words; j++) {
            slice[i]->word[j] = be64toh(slice[i]->word[j]);
        }
    }
    return 0;
}

/* Is the slice before this one, perhaps of the table before, in memory? */
static bool follows_another(const Qcow2L2Cache *cache,
                            const Qcow2L2Table *table, unsigned index)
{
    const Qcow2L2Table *before;

    if (index > 0) {
        return table->slice[index - 1] != NULL;
    }
    before = table->l1_index > 0 ? cache->table[table->l1_index - 1] : NULL;
    return before && before->slice[cache->slices_per_table - 1];
}

/*
 * How many slices to read from @index on: who walks over the image wants the
 * next ones soon, and one read costs little more for many. Lock held.
 */
static unsigned count_ahead(const Qcow2L2Cache *cache,
                            const Qcow2L2Table *table, unsigned index)
{
    unsigned limit = MIN(AHEAD_MAX, cache->slices_per_table - index);
    unsigned count = 1;

    if (!follows_another(cache, table, index)) {
        return 1;
    }
    limit = (unsigned)MIN(limit, MAX(cache->slice_limit / 4, 1));
    while (count < limit && !table->loading[index + count] &&
           !table->slice[index + count]) {
        count++;
    }
    return count;
}

/* Takes a slice that was read into the cache. Lock held. */
static void coroutine_fn take_slice(BlockDriverState *bs, Qcow2L2Table *table,
                                    unsigned index, Qcow2Slice *slice)
{
    qcow2_overlap_guard(bs, slice->word, qcow2_state(bs)->l2.slice_words);
    install(bs, table, index, slice);
}

/* The lock is dropped while reading (L5). */
static int coroutine_fn load_from_disk(BlockDriverState *bs,
                                       Qcow2L2Table *table, unsigned index)
{
    Qcow2State *q = qcow2_state(bs);
    unsigned wanted = count_ahead(&q->l2, table, index);
    unsigned count = wanted;
    Qcow2Slice *slice[AHEAD_MAX];
    int ret;

    for (unsigned i = 0; i < wanted; i++) {
        slice[i] = slice_new(&q->l2);
        table->loading[index + i] = 1;
    }
    co_mutex_unlock(&q->lock);
    ret = read_slices(bs, table, index, slice, count);
    if (ret < 0 && count > 1) {
        count = 1; /* only what was asked for may fail the request */
        ret = read_slices(bs, table, index, slice, count);
    }
    co_mutex_lock(&q->lock);
    for (unsigned i = wanted; i-- > 0;) {
        table->loading[index + i] = 0;
        if (ret < 0 || i >= count) {
            slice_free(&q->l2, slice[i]);
        } else {
            take_slice(bs, table, index + i, slice[i]);
        }
    }
    co_queue_wake_all(&q->l2.loaded);
    return ret;
}

/* The slice at @position, loaded if need be. Lock held, perhaps dropped. */
static int coroutine_fn get_slice(BlockDriverState *bs,
                                  Qcow2L2Position position,
                                  Qcow2Slice **ret_slice, bool *dropped)
{
    Qcow2State *q = qcow2_state(bs);

    for (;;) {
        Qcow2L2Table *table;
        int ret = get_table(q, position.l1_index, &table);

        if (ret < 0) {
            return ret;
        }
        *ret_slice = table ? qcow2_l2_peek(bs, position) : NULL;
        if (!table || *ret_slice) {
            return 0;
        }
        if (table->is_new) {
            /* Nothing on disk yet: what is missing is empty. */
            install(bs, table, position.slice, slice_new_empty(&q->l2));
            continue;
        }
        *dropped = true;
        if (table->loading[position.slice]) {
            co_queue_wait(&q->l2.loaded, &q->lock);
            continue;
        }
        ret = load_from_disk(bs, table, position.slice);
        if (ret < 0) {
            return ret;
        }
    }
}

int coroutine_fn qcow2_l2_lookup(BlockDriverState *bs,
                                 Qcow2L2Position position,
                                 Qcow2Slice **ret_slice)
{
    Qcow2State *q = qcow2_state(bs);
    uint64_t *l1 = __atomic_load_n(&q->l2.l1, __ATOMIC_ACQUIRE);
    bool dropped = false;
    int ret;

    *ret_slice = qcow2_l2_peek(bs, position);
    if (*ret_slice ||
        __atomic_load_n(&l1[position.l1_index], __ATOMIC_ACQUIRE) == 0) {
        return 0;
    }
    co_mutex_lock(&q->lock);
    ret = get_slice(bs, position, ret_slice, &dropped);
    co_mutex_unlock(&q->lock);
    return ret;
}

/* -- tables of our own ---------------------------------------------------- */

/* Puts a table that is not yet on disk into the L1. */
static void publish_table(BlockDriverState *bs, Qcow2L2Table *table)
{
    Qcow2L2Cache *cache = &qcow2_state(bs)->l2;

    table->is_new = true;
    g_hash_table_add(cache->new_tables, table);
    qcow2_overlap_note(bs, table->host_offset);
    __atomic_store_n(&cache->table[table->l1_index], table, __ATOMIC_RELEASE);
    qcow2_l1_set(bs, table->l1_index,
                 (uint64_t)table->host_offset | QCOW2_ENTRY_COPIED);
}

static int coroutine_fn add_table(BlockDriverState *bs, int64_t l1_index)
{
    int64_t host_offset, clusters;
    int ret = qcow2_alloc_clusters(bs, /* wanted= */ 1, /* needed= */ 1,
                                   &host_offset, &clusters);

    if (ret < 0) {
        return ret;
    }
    publish_table(bs, table_new(&qcow2_state(bs)->l2, l1_index, host_offset));
    return 0;
}

/* Has all slices of @table in memory; -EAGAIN: somebody loads one, wait. */
static int coroutine_fn load_all(BlockDriverState *bs, Qcow2L2Table *table)
{
    Qcow2L2Cache *cache = &qcow2_state(bs)->l2;

    for (unsigned i = 0; i < cache->slices_per_table; i++) {
        Qcow2Slice *slice;
        int ret;

        if (table->loading[i]) {
            return -EAGAIN;
        }
        if (table->slice[i]) {
            table->slice[i]->pins++;
            continue;
        }
        slice = slice_new(cache);
        ret = read_slices(bs, table, i, &slice, /* count= */ 1);
        if (ret < 0) {
            slice_free(cache, slice);
            return ret;
        }
        slice->pins = 1;
        take_slice(bs, table, i, slice);
    }
    return 0;
}

/* Takes back what load_all() has pinned, as far as it came. */
static void unpin_all(const Qcow2L2Cache *cache, Qcow2L2Table *table)
{
    for (unsigned i = 0; i < cache->slices_per_table; i++) {
        if (table->loading[i] || !table->slice[i] ||
            table->slice[i]->pins == 0) {
            return;
        }
        table->slice[i]->pins--;
    }
}

/*
 * The new table takes over the slices: who still has the old one in hand finds
 * the same entries. COPIED is cleared because the old table keeps pointing to
 * the clusters.
 */
static void move_slices(Qcow2L2Cache *cache, Qcow2L2Table *from,
                        Qcow2L2Table *to)
{
    for (unsigned i = 0; i < cache->slices_per_table; i++) {
        Qcow2Slice *slice = from->slice[i];

        slice->table = to;
        to->slice[i] = slice;
        for (unsigned k = 0; k < cache->slice_words;
             k += slice->is_extended ? 2 : 1) {
            uint64_t word = slice->word[k];

            if (word & QCOW2_ENTRY_COPIED) {
                __atomic_store_n(&slice->word[k], word & ~QCOW2_ENTRY_COPIED,
                                 __ATOMIC_RELEASE);
            }
        }
    }
}

/* A table that a snapshot shares: ours becomes a copy. -EAGAIN as above. */
static int coroutine_fn copy_table(BlockDriverState *bs, int64_t l1_index)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2L2Table *old, *table;
    int64_t host_offset, clusters;
    int ret = get_table(q, l1_index, &old);

    if (ret < 0) {
        return ret;
    }
    bdrv_debug_event(bs->file, BLOCK_DEBUG_L2_ALLOC_COW_READ);
    ret = load_all(bs, old);
    if (ret >= 0) {
        ret = qcow2_alloc_clusters(bs, 1, 1, &host_offset, &clusters);
    }
    unpin_all(&q->l2, old);
    if (ret < 0) {
        return ret;
    }
    table = table_new(&q->l2, l1_index, host_offset);
    move_slices(&q->l2, old, table);
    publish_table(bs, table);
    qcow2_quarantine_add(bs, old->host_offset, q->cluster_bytes,
                         QCOW2_FREE_OTHER);
    g_ptr_array_add(q->l2.replaced, old);
    return 0;
}

int coroutine_fn qcow2_l2_get_for_write(BlockDriverState *bs,
                                        Qcow2L2Position position,
                                        Qcow2Slice **ret_slice,
                                        bool *ret_dropped)
{
    Qcow2State *q = qcow2_state(bs);
    uint64_t entry;
    int ret;

    *ret_dropped = false;
    do {
        ret = 0;
        entry = q->l2.l1[position.l1_index];
        if ((entry & ~QCOW2_ENTRY_COPIED) == 0) {
            ret = add_table(bs, position.l1_index);
        } else if (!(entry & QCOW2_ENTRY_COPIED)) {
            ret = copy_table(bs, position.l1_index);
        }
        if (ret == -EAGAIN) {
            *ret_dropped = true;
            co_queue_wait(&q->l2.loaded, &q->lock);
        }
    } while (ret == -EAGAIN);
    if (ret >= 0) {
        ret = get_slice(bs, position, ret_slice, ret_dropped);
    }
    if (ret >= 0) {
        (*ret_slice)->pins++;
    }
    return ret;
}

void qcow2_l2_unpin(BlockDriverState *bs, Qcow2Slice *slice)
{
    g_assert(slice->pins > 0);
    slice->pins--;
}

void qcow2_l2_drop_slices(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2L2Cache *cache = &q->l2;

    while (cache->slices->len > 0) {
        Qcow2Slice *slice =
            g_ptr_array_index(cache->slices, cache->slices->len - 1);

        g_assert(may_evict(slice));
        evict(q, slice);
    }
    cache->clock_hand = 0;
    qcow2_l2_reap(bs);
}

void qcow2_l2_clean(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2L2Cache *cache = &q->l2;

    for (guint i = cache->slices->len; i-- > 0;) {
        Qcow2Slice *slice = g_ptr_array_index(cache->slices, i);

        if (!__atomic_exchange_n(&slice->referenced, 0, __ATOMIC_RELAXED) &&
            may_evict(slice)) {
            evict(q, slice);
        }
    }
    qcow2_l2_reap(bs);
    free_list(&cache->idle);
}

void qcow2_l2_restart(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t entries = q->l2.l1_entries;
    uint64_t *l1 = g_steal_pointer(&q->l2.l1);

    qcow2_l2_drop_slices(bs);
    qcow2_l2_destroy(bs);
    qcow2_l2_init(bs, l1, entries);
}

/* Is nothing of it on its way from or to the disk? */
static bool is_idle(const Qcow2L2Cache *cache, const Qcow2L2Table *table)
{
    for (unsigned i = 0; i < cache->slices_per_table; i++) {
        const Qcow2Slice *slice = table->slice[i];

        if (table->loading[i] || (slice && !may_evict(slice))) {
            return false;
        }
    }
    return !table->is_new;
}

void coroutine_fn qcow2_l2_drop_tables(BlockDriverState *bs, int64_t first)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2L2Cache *cache = &q->l2;
    bool any = false;

    for (int64_t i = first; i < cache->l1_entries; i++) {
        Qcow2L2Table *table;

        if (get_table(q, i, &table) < 0 || !table || !is_idle(cache, table)) {
            continue;
        }
        if (!any) {
            bdrv_debug_event(bs->file, BLOCK_DEBUG_L1_SHRINK_WRITE_TABLE);
            any = true;
        }
        qcow2_l1_set(bs, i, 0);
        for (unsigned k = 0; k < cache->slices_per_table; k++) {
            if (table->slice[k]) {
                evict(q, table->slice[k]);
            }
        }
        __atomic_store_n(&cache->table[i], NULL, __ATOMIC_RELEASE);
        g_ptr_array_add(cache->replaced, table);
        qcow2_quarantine_add(bs, table->host_offset, q->cluster_bytes,
                             QCOW2_FREE_OTHER);
    }
    if (any) {
        bdrv_debug_event(bs->file, BLOCK_DEBUG_L1_SHRINK_FREE_L2_CLUSTERS);
    }
}

/* -- changes -------------------------------------------------------------- */

void qcow2_l2_mark_dirty(BlockDriverState *bs, Qcow2Slice *slice,
                         uint8_t parts)
{
    if (slice->dirty == 0 && parts != 0) {
        g_ptr_array_add(qcow2_state(bs)->l2.dirty, slice);
    }
    slice->dirty |= parts;
}

/* Readers see the old entry or the new one: see the header. */
static void store_extended(Qcow2Slice *slice, unsigned first,
                           Qcow2L2Entry value)
{
    uint32_t sequence = __atomic_load_n(&slice->sequence, __ATOMIC_RELAXED);

    __atomic_store_n(&slice->sequence, sequence + 1, __ATOMIC_RELAXED);
    __atomic_store_n(&slice->word[first], value.word, __ATOMIC_RELEASE);
    __atomic_store_n(&slice->word[first + 1], value.bitmap, __ATOMIC_RELEASE);
    __atomic_store_n(&slice->sequence, sequence + 2, __ATOMIC_SEQ_CST);
}

void qcow2_l2_set(BlockDriverState *bs, Qcow2Slice *slice, unsigned entry,
                  Qcow2L2Entry value)
{
    unsigned first = slice->is_extended ? 2 * entry : entry;

    if (slice->is_extended) {
        store_extended(slice, first, value);
    } else {
        __atomic_store_n(&slice->word[first], value.word, __ATOMIC_SEQ_CST);
    }
    qcow2_l2_mark_dirty(bs, slice,
                        1u << (first / qcow2_state(bs)->l2.part_words));
}

void qcow2_l1_set(BlockDriverState *bs, int64_t l1_index, uint64_t value)
{
    Qcow2L2Cache *cache = &qcow2_state(bs)->l2;

    __atomic_store_n(&cache->l1[l1_index], value, __ATOMIC_RELEASE);
    cache->l1_dirty[l1_index * sizeof(value) / QCOW2_SECTOR_BYTES] = 1;
    cache->any_l1_dirty = true;
}
