/* SPDX-License-Identifier: MIT */
/*
 * changes of the mapping by writes: allocation and copy-on-write
 *
 * Looking a mapping up and reading through it is map.c's, zeroing and
 * discarding clear.c's. Writing where nothing can be overwritten in place:
 *
 *   lock:    own slice of the L2 table, take host clusters, register in flight
 *   no lock: read what the write leaves of the old content, write all at once
 *   lock:    publish the entries, drop what they replaced, wake who waits
 *
 * Always true:
 *  C1  guest subclusters in flight change by their owner only (Q4): a write
 *      on new clusters holds whole clusters, one into its own host cluster
 *      the subclusters that it fills;
 *  C2  the slice of an allocation in flight is pinned;
 *  C3  clusters of a failed allocation were never published: free at once.
 *
 * Locking: all entry points take q->lock and never hold it across data I/O.
 */
#include "drivers/qcow2/cluster.h"

#include "block/io/io.h"
#include "block/rt/buffer_pool.h"
#include "drivers/qcow2/data_file.h"
#include "drivers/qcow2/data_io.h"
#include "drivers/qcow2/overlap.h"
#include "drivers/qcow2/packing.h"

#include <errno.h>
#include <inttypes.h>

/* Zeros to write from; a head or tail repeats it. */
#define ZERO_BUFFER_BYTES 65536
static const uint8_t zero_buffer[ZERO_BUFFER_BYTES]
    __attribute__((aligned(4096)));

/* -- allocations in flight ------------------------------------------------ */

/*
 * Cuts [offset, offset + *bytes) off before the next allocation in flight, to
 * whole units; false when nothing is left. Lock held.
 */
static bool clip_to_in_flight(const Qcow2State *q, int64_t offset,
                              int64_t unit, int64_t *bytes)
{
    for (Qcow2InFlight *i = q->in_flight; i; i = i->next) {
        if (!ranges_overlap(i->offset, i->bytes, offset, *bytes)) {
            continue;
        }
        *bytes = align_down(MAX(i->offset - offset, 0), unit);
        if (*bytes == 0) {
            return false;
        }
    }
    return true;
}

static void in_flight_add(Qcow2State *q, Qcow2InFlight *entry)
{
    entry->next = q->in_flight;
    entry->link = &q->in_flight;
    if (entry->next) {
        entry->next->link = &entry->next;
    }
    q->in_flight = entry;
}

static void in_flight_remove(Qcow2State *q, Qcow2InFlight *entry)
{
    *entry->link = entry->next;
    if (entry->next) {
        entry->next->link = entry->link;
    }
    co_queue_wake_all(&q->in_flight_queue);
}

/* Bytes from guest @offset to the end of what its slice maps. */
static int64_t slice_room(const Qcow2State *q, int64_t offset)
{
    int64_t reach = q->cluster_bytes << q->l2.slice_bits;

    return reach - (offset & (reach - 1));
}

int coroutine_fn qcow2_own_range(BlockDriverState *bs, int64_t offset,
                                 int64_t unit, int64_t *bytes,
                                 Qcow2Slice **ret_slice)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2L2Position position = qcow2_l2_position(bs, offset);
    int64_t wanted = MIN(*bytes, slice_room(q, offset));

    for (;;) {
        bool dropped;
        int ret;

        *bytes = wanted;
        if (!clip_to_in_flight(q, offset, unit, bytes)) {
            co_queue_wait(&q->in_flight_queue, &q->lock);
            continue;
        }
        ret = qcow2_l2_get_for_write(bs, position, ret_slice, &dropped);
        if (ret < 0 || !dropped) {
            return ret;
        }
        qcow2_l2_unpin(bs, *ret_slice);
    }
}

/* -- allocating writes ---------------------------------------------------- */

/* One step of a write on new or reused clusters. */
typedef struct Allocation {
    BlockDriverState *bs;
    int64_t offset; /* the guest's data */
    int64_t bytes;
    IoVec *iov;
    size_t iov_offset;
    Qcow2L2Position position;
    Qcow2Slice *slice;
    int64_t clusters;    /* that the write touches */
    int64_t host_offset; /* of the first cluster */
    bool is_reused;      /* our own clusters: subclusters of them are filled */
    bool is_fresh;       /* the file reads zeros there */
    bool met_damage;     /* an entry to replace points at metadata */
    Qcow2InFlight in_flight;
    void *buffer[2]; /* head and tail, when old content is kept */
    int64_t buffer_bytes[2];
} Allocation;

static Qcow2L2Entry entry_of(const Allocation *a, int64_t cluster)
{
    return qcow2_l2_get(a->slice, a->position.entry + (unsigned)cluster);
}

/* Has the entry a host cluster that nobody else has? */
static bool is_own(const Qcow2State *q, Qcow2L2Entry entry)
{
    return (entry.word & QCOW2_ENTRY_COPIED) &&
           qcow2_has_host_cluster(qcow2_subcluster_type(q, entry, 0));
}

/* Nobody can tell what the entry of the @i-th cluster means. */
static bool is_damaged(const Allocation *a, int64_t i)
{
    const Qcow2State *q = qcow2_state(a->bs);
    Qcow2L2Entry entry = entry_of(a, i);
    int64_t start = align_down(a->offset, q->cluster_bytes);

    return qcow2_subcluster_type(q, entry, 0) == QCOW2_CLUSTER_INVALID ||
           qcow2_is_misplaced(q, entry.word,
                              start + (i << q->cluster_bits));
}

/* Clusters from the first that can be written to the same way. */
static int64_t count_alike(const Qcow2State *q, const Allocation *a,
                           uint64_t first, int64_t limit)
{
    int64_t count = 1;

    for (; count < limit; count++) {
        Qcow2L2Entry entry = entry_of(a, count);

        if (a->is_reused ? entry.word != first + (count << q->cluster_bits)
                         : is_own(q, entry)) {
            break;
        }
        if (is_damaged(a, count)) {
            break;
        }
    }
    return count;
}

/*
 * Clips the run before the first entry whose host cluster cannot be a guest's
 * (qcow2_overlap_guard); -EIO when that is the first. Lock held.
 */
static int coroutine_fn clip_to_sound(Allocation *a, int64_t *clusters)
{
    for (int64_t i = 0; i < *clusters; i++) {
        int ret = qcow2_overlap_check_entry(a->bs, entry_of(a, i).word);

        if (ret < 0 && i == 0) {
            a->met_damage = ret == -EUCLEAN;
            return a->met_damage ? -EIO : ret;
        }
        if (ret < 0) {
            *clusters = i;
        }
    }
    return 0;
}

/*
 * Chooses where the start of the write goes, and clips it to what can go there
 * at once. 1: go on, 0: it may be written in place by now, -EAGAIN: wait for
 * an allocation in flight, or another -errno. Lock held, slice pinned.
 */
static int coroutine_fn choose_clusters(Allocation *a)
{
    Qcow2State *q = qcow2_state(a->bs);
    Qcow2L2Entry entry = entry_of(a, 0);
    unsigned index = qcow2_subcluster_index(q, a->offset);
    Qcow2ClusterType type = qcow2_subcluster_type(q, entry, index);
    int64_t unit, start, bytes;
    int ret;

    if (is_damaged(a, 0)) {
        return -EIO;
    }
    if (type == QCOW2_CLUSTER_NORMAL && (entry.word & QCOW2_ENTRY_COPIED)) {
        return 0;
    }
    a->host_offset = entry.word & QCOW2_OFFSET_MASK;
    a->is_reused = is_own(q, entry) && a->host_offset < qcow2_data_length(q);
    /* On new clusters all of the entry changes, else subclusters of it. */
    unit = a->is_reused ? q->subcluster_bytes : q->cluster_bytes;
    start = align_down(a->offset, unit);
    bytes = MIN(align_up(a->offset + a->bytes, unit) - start,
                slice_room(q, start));
    if (!clip_to_in_flight(q, start, unit, &bytes)) {
        return -EAGAIN;
    }
    a->clusters = (qcow2_in_cluster(q, start) + bytes + q->cluster_bytes - 1)
                  >> q->cluster_bits;
    a->clusters = count_alike(q, a, entry.word, a->clusters);
    ret = clip_to_sound(a, &a->clusters);
    if (ret < 0) {
        return ret;
    }
    a->in_flight.offset = start;
    a->in_flight.bytes = MIN(bytes, (a->clusters << q->cluster_bits) -
                                        qcow2_in_cluster(q, start));
    return 1;
}

/* New host clusters for those of the guest. Lock held. */
static int coroutine_fn take_new_clusters(Allocation *a)
{
    Qcow2State *q = qcow2_state(a->bs);
    int64_t fresh = q->fresh_offset;
    int ret = 0;

    if (qcow2_has_data_file(q)) {
        /* Each guest cluster has a place of its own, free or not. */
        a->host_offset = a->in_flight.offset;
        fresh = qcow2_data_length(q);
    } else {
        ret = qcow2_alloc_clusters(a->bs, a->clusters, /* needed= */ 1,
                                   &a->host_offset, &a->clusters);
    }
    a->is_fresh = ret >= 0 && a->host_offset >= fresh;
    a->in_flight.bytes = a->clusters << q->cluster_bits;
    return ret;
}

/* What was chosen becomes ours. 1 or -errno. Lock held. */
static int coroutine_fn take_clusters(Allocation *a)
{
    int ret = a->is_reused ? 0 : take_new_clusters(a);
    int64_t end = a->in_flight.offset + a->in_flight.bytes;

    if (ret < 0) {
        return ret;
    }
    a->bytes = MIN(a->bytes, end - a->offset);
    in_flight_add(qcow2_state(a->bs), &a->in_flight);
    return 1;
}

/* 1: go on, 0: it may be written in place by now, or -errno. Lock held. */
static int coroutine_fn begin_allocation(Allocation *a)
{
    BlockDriverState *bs = a->bs;
    Qcow2State *q = qcow2_state(bs);
    bool dropped;
    int ret;

    a->position = qcow2_l2_position(bs, a->offset);
    for (;;) {
        ret = qcow2_l2_get_for_write(bs, a->position, &a->slice, &dropped);
        if (ret < 0) {
            return ret;
        }
        ret = choose_clusters(a);
        if (ret > 0) {
            ret = take_clusters(a);
        }
        if (ret > 0) {
            return ret;
        }
        qcow2_l2_unpin(bs, a->slice);
        if (ret != -EAGAIN) {
            return ret;
        }
        co_queue_wait(&q->in_flight_queue, &q->lock);
    }
}

/* The subclusters of the @i-th cluster that the guest's data touches. */
static void touched_subclusters(const Allocation *a, int64_t i,
                                unsigned *ret_first, unsigned *ret_last)
{
    const Qcow2State *q = qcow2_state(a->bs);
    int64_t start = align_down(a->offset, q->cluster_bytes) +
                    (i << q->cluster_bits);
    int64_t last = a->offset + a->bytes - 1;

    *ret_first = a->offset > start ? qcow2_subcluster_index(q, a->offset) : 0;
    *ret_last = last < start + q->cluster_bytes
                    ? qcow2_subcluster_index(q, last)
                    : q->subclusters - 1;
}

/* The entry of the @i-th cluster, @old until now, when the data is there. */
static Qcow2L2Entry written_entry(const Allocation *a, int64_t i,
                                  Qcow2L2Entry old)
{
    const Qcow2State *q = qcow2_state(a->bs);
    int64_t host_offset = a->host_offset + (i << q->cluster_bits);
    Qcow2L2Entry entry = { (uint64_t)host_offset | QCOW2_ENTRY_COPIED, 0 };
    unsigned first, last;
    uint64_t touched;

    if (q->subclusters == 1) {
        return entry;
    }
    if (old.word & QCOW2_L2_COMPRESSED) {
        entry.bitmap = QCOW2_BITMAP_ALL_ALLOC;
        return entry;
    }
    touched_subclusters(a, i, &first, &last);
    touched = qcow2_bitmap_range(first, last - first + 1);
    entry.bitmap = (old.bitmap | touched) & ~(touched << 32);
    return entry;
}

/* Publishes or takes back, by @ret. Lock held. */
static void coroutine_fn end_allocation(Allocation *a, int ret)
{
    BlockDriverState *bs = a->bs;
    Qcow2State *q = qcow2_state(bs);

    if (ret < 0 && !a->is_reused && !qcow2_has_data_file(q)) {
        qcow2_unalloc_clusters(bs, a->host_offset, a->clusters);
    }
    for (int64_t i = 0; ret >= 0 && i < a->clusters; i++) {
        Qcow2L2Entry old = entry_of(a, i);

        qcow2_l2_set(bs, a->slice, a->position.entry + (unsigned)i,
                     written_entry(a, i, old));
        if (!a->is_reused) {
            qcow2_quarantine_add_entry(bs, old.word, QCOW2_FREE_OTHER);
        }
        q->allocated_since_barrier = true;
    }
    qcow2_l2_unpin(bs, a->slice);
    in_flight_remove(q, &a->in_flight);
}

/* -- old content that a write keeps --------------------------------------- */

/* Does the guest see zeros in [@offset, + @bytes), a part of one cluster? */
static bool reads_zeros(const BlockDriverState *bs, Qcow2L2Entry entry,
                        int64_t offset, int64_t bytes)
{
    const Qcow2State *q = qcow2_state(bs);
    unsigned last = qcow2_subcluster_index(q, offset + bytes - 1);
    bool backing_ends =
        !bs->backing || offset >= bdrv_node_length(bs->backing->bs);

    for (unsigned i = qcow2_subcluster_index(q, offset); i <= last;
         i += qcow2_subcluster_run(q, entry, i)) {
        Qcow2ClusterType type = qcow2_subcluster_type(q, entry, i);
        bool is_unallocated = type == QCOW2_CLUSTER_UNALLOCATED ||
                              type == QCOW2_CLUSTER_UNALLOCATED_ALLOC;

        if (type != QCOW2_CLUSTER_ZERO_PLAIN &&
            type != QCOW2_CLUSTER_ZERO_ALLOC &&
            !(is_unallocated && backing_ends)) {
            return false;
        }
    }
    return true;
}

/*
 * Bytes of old content before the guest's data: what the first touched
 * subcluster lacks and, on a new cluster, all back to the first allocated
 * one, since the old cluster goes.
 */
static int64_t head_bytes(const Allocation *a)
{
    const Qcow2State *q = qcow2_state(a->bs);
    Qcow2L2Entry entry = entry_of(a, 0);
    unsigned first = qcow2_subcluster_index(q, a->offset);
    uint32_t allocated = entry.word & QCOW2_L2_COMPRESSED
                             ? UINT32_MAX : (uint32_t)entry.bitmap;

    if (!a->is_reused && allocated != 0) {
        first = MIN(first, (unsigned)__builtin_ctz(allocated));
    }
    return qcow2_in_cluster(q, a->offset) -
           ((int64_t)first << q->subcluster_bits);
}

/* The same behind it. What can be written in place is left alone. */
static int64_t tail_bytes(const Allocation *a)
{
    const Qcow2State *q = qcow2_state(a->bs);
    Qcow2L2Entry entry = entry_of(a, a->clusters - 1);
    int64_t last_byte = a->offset + a->bytes - 1;
    unsigned last = qcow2_subcluster_index(q, last_byte);
    uint32_t allocated = entry.word & QCOW2_L2_COMPRESSED
                             ? UINT32_MAX : (uint32_t)entry.bitmap;

    if (a->is_reused &&
        qcow2_subcluster_type(q, entry, last) == QCOW2_CLUSTER_NORMAL) {
        return 0;
    }
    if (!a->is_reused && allocated != 0 && q->subclusters > 1) {
        last = MAX(last, 31 - (unsigned)__builtin_clz(allocated));
    }
    return ((int64_t)(last + 1) << q->subcluster_bits) - 1 -
           qcow2_in_cluster(q, last_byte);
}

static void add_zeros(IoVec *vec, int64_t bytes)
{
    while (bytes > 0) {
        int64_t part = MIN(bytes, ZERO_BUFFER_BYTES);

        iovec_add(vec, (void *)zero_buffer, part);
        bytes -= part;
    }
}

/*
 * Adds the old content of [@offset, + @bytes), a part of one cluster, to
 * @vec. Zeros that the file has already are left out: *ret_skipped.
 */
static int coroutine_fn add_old_content(Allocation *a, int which,
                                        int64_t offset, int64_t bytes,
                                        IoVec *vec, bool *ret_skipped)
{
    BlockDriverState *bs = a->bs;
    Qcow2State *q = qcow2_state(bs);
    int64_t cluster = (offset >> q->cluster_bits) -
                      (a->offset >> q->cluster_bits);
    IoVec old;

    *ret_skipped = false;
    if (bytes == 0) {
        return 0;
    }
    if (reads_zeros(bs, entry_of(a, cluster), offset, bytes)) {
        *ret_skipped = a->is_fresh && qcow2_data_reads_zeros_unwritten(bs);
        if (!*ret_skipped) {
            add_zeros(vec, bytes);
        }
        return 0;
    }
    a->buffer[which] = buffer_pool_get(bytes);
    a->buffer_bytes[which] = bytes;
    if (!a->buffer[which]) {
        return -ENOMEM;
    }
    iovec_init_buffer(&old, a->buffer[which], bytes);
    iovec_add(vec, a->buffer[which], bytes);
    bdrv_debug_event(bs->file, BLOCK_DEBUG_COW_READ);
    return qcow2_read(bs, offset, bytes, &old, 0);
}

/* Head, data and tail in one write. No lock. */
static int coroutine_fn write_clusters(Allocation *a)
{
    const Qcow2State *q = qcow2_state(a->bs);
    int64_t head = head_bytes(a);
    int64_t tail = tail_bytes(a);
    int64_t end = a->offset + a->bytes;
    int64_t start = a->offset;
    bool skipped;
    IoVec vec;
    int ret;

    iovec_init(&vec);
    ret = add_old_content(a, 0, a->offset - head, head, &vec, &skipped);
    start -= skipped ? 0 : head;
    iovec_add_slice(&vec, a->iov, a->iov_offset, a->bytes);
    if (ret >= 0) {
        ret = add_old_content(a, 1, end, tail, &vec, &skipped);
    }
    if (ret >= 0 && vec.size > (size_t)a->bytes) {
        bdrv_debug_event(a->bs->file, BLOCK_DEBUG_COW_WRITE);
    }
    if (ret >= 0) {
        ret = qcow2_data_co_pwritev(a->bs,
                                    a->host_offset + start -
                                        align_down(a->offset,
                                                   q->cluster_bytes),
                                    start, vec.size, &vec, 0);
    }
    iovec_destroy(&vec);
    buffer_pool_put(a->buffer[0], a->buffer_bytes[0]);
    buffer_pool_put(a->buffer[1], a->buffer_bytes[1]);
    return ret;
}

int coroutine_fn qcow2_write_allocating(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes, IoVec *iov,
                                        size_t iov_offset,
                                        int64_t *ret_bytes)
{
    Qcow2State *q = qcow2_state(bs);
    Allocation a = {
        .bs = bs,
        .offset = offset,
        .bytes = bytes,
        .iov = iov,
        .iov_offset = iov_offset,
    };
    int ret;

    *ret_bytes = 0;
    co_mutex_lock(&q->lock);
    ret = begin_allocation(&a);
    a.met_damage |= ret < 0 && q->refcounts.is_contradicted;
    co_mutex_unlock(&q->lock);
    if (a.met_damage) {
        qcow2_mark_corrupt(bs, "an L2 entry points at a wrong place");
    }
    if (ret <= 0) {
        return ret;
    }
    ret = write_clusters(&a);
    co_mutex_lock(&q->lock);
    end_allocation(&a, ret);
    co_mutex_unlock(&q->lock);
    *ret_bytes = a.bytes;
    return ret;
}

/* -- compressed writes ---------------------------------------------------- */

/* The L2 entry for @bytes at @host_offset; 0: cannot be told in one. */
static uint64_t compressed_entry(const Qcow2State *q, int64_t host_offset,
                                 int64_t bytes)
{
    int bits = qcow2_compressed_offset_bits(q->cluster_bits);
    int64_t sector = QCOW2_COMPRESSED_SECTOR_BYTES;
    uint64_t more = (host_offset + bytes - 1) / sector - host_offset / sector;

    return host_offset >> bits
               ? 0 : QCOW2_L2_COMPRESSED | more << bits | host_offset;
}

/* Lock held. -ERANGE: store it as it is. */
static int coroutine_fn begin_compressed(Allocation *a)
{
    BlockDriverState *bs = a->bs;
    Qcow2State *q = qcow2_state(bs);
    int64_t whole = q->cluster_bytes;
    int ret;

    a->position = qcow2_l2_position(bs, a->offset);
    a->clusters = 1;
    ret = qcow2_own_range(bs, a->offset, /* unit= */ whole, &whole,
                          &a->slice);
    if (ret < 0) {
        return ret;
    }
    ret = is_damaged(a, 0) ? -EIO : clip_to_sound(a, &a->clusters);
    if (ret >= 0) {
        ret = qcow2_pack(bs, a->bytes, &a->host_offset);
    }
    if (ret >= 0 && !compressed_entry(q, a->host_offset, a->bytes)) {
        qcow2_unpack(bs, a->host_offset, a->bytes);
        ret = -ERANGE;
    }
    if (ret < 0) {
        qcow2_l2_unpin(bs, a->slice);
        return ret;
    }
    a->in_flight.offset = a->offset;
    a->in_flight.bytes = whole;
    in_flight_add(q, &a->in_flight);
    return 0;
}

/* Lock held. */
static void coroutine_fn end_compressed(Allocation *a, int ret)
{
    BlockDriverState *bs = a->bs;
    Qcow2State *q = qcow2_state(bs);
    Qcow2L2Entry old = entry_of(a, 0);

    if (ret < 0) {
        qcow2_unpack(bs, a->host_offset, a->bytes);
    } else {
        qcow2_l2_set(bs, a->slice, a->position.entry,
                     (Qcow2L2Entry){ compressed_entry(q, a->host_offset,
                                                      a->bytes), 0 });
        qcow2_quarantine_add_entry(bs, old.word, QCOW2_FREE_OTHER);
        q->allocated_since_barrier = true;
    }
    qcow2_l2_unpin(bs, a->slice);
    in_flight_remove(q, &a->in_flight);
}

int coroutine_fn qcow2_write_packed(BlockDriverState *bs, int64_t offset,
                                    const void *data, int64_t bytes)
{
    Qcow2State *q = qcow2_state(bs);
    Allocation a = { .bs = bs, .offset = offset, .bytes = bytes };
    int ret;

    co_mutex_lock(&q->lock);
    ret = begin_compressed(&a);
    a.met_damage |= ret < 0 && q->refcounts.is_contradicted;
    co_mutex_unlock(&q->lock);
    if (a.met_damage) {
        qcow2_mark_corrupt(bs, "an L2 entry points at a wrong place");
    }
    if (ret < 0) {
        return ret;
    }
    bdrv_debug_event(bs->file, BLOCK_DEBUG_WRITE_COMPRESSED);
    ret = bdrv_co_pwrite(bs->file, a.host_offset, bytes, data, 0);
    bdrv_debug_event(bs->file, BLOCK_DEBUG_L2_UPDATE_COMPRESSED);
    co_mutex_lock(&q->lock);
    end_compressed(&a, ret);
    co_mutex_unlock(&q->lock);
    return ret;
}
