/* SPDX-License-Identifier: MIT */
/*
 * guest ranges -> runs of clusters, and the changes of that mapping
 *
 * Reading: map a run inside an epoch, move its data, leave the epoch.
 *
 * Writing where nothing can be overwritten in place:
 *
 *   lock:    own slice of the L2 table, take host clusters, register in flight
 *   no lock: read what the write leaves of the old content, write all at once
 *   lock:    publish the entries, drop what they replaced, wake who waits
 *
 * Always true:
 *  C1  entries of guest clusters in flight change by their owner only (Q4);
 *  C2  the slice of an allocation in flight is pinned;
 *  C3  clusters of a failed allocation were never published: free at once.
 *
 * Locking: qcow2_map and qcow2_read take none but for a missing slice; the
 * others take q->lock and never hold it across data I/O.
 */
#include "drivers/qcow2/cluster.h"

#include "block/io/io.h"
#include "block/rt/buffer_pool.h"
#include "drivers/qcow2/compress.h"
#include "drivers/qcow2/overlap.h"
#include "drivers/qcow2/packing.h"

#include <errno.h>
#include <inttypes.h>

/* Zeros to write from; a head or tail repeats it. */
#define ZERO_BUFFER_BYTES 65536
static const uint8_t zero_buffer[ZERO_BUFFER_BYTES]
    __attribute__((aligned(4096)));

/* -- mapping -------------------------------------------------------------- */

Qcow2ClusterType qcow2_entry_type(uint64_t entry, unsigned version)
{
    if (entry & QCOW2_L2_COMPRESSED) {
        return QCOW2_CLUSTER_COMPRESSED;
    }
    if ((entry & QCOW2_L2_RESERVED) ||
        ((entry & QCOW2_L2_ZERO) && version < 3)) {
        return QCOW2_CLUSTER_INVALID;
    }
    if (entry & QCOW2_L2_ZERO) {
        return entry & QCOW2_OFFSET_MASK ? QCOW2_CLUSTER_ZERO_ALLOC
                                         : QCOW2_CLUSTER_ZERO_PLAIN;
    }
    return entry & QCOW2_OFFSET_MASK ? QCOW2_CLUSTER_NORMAL
                                     : QCOW2_CLUSTER_UNALLOCATED;
}

/* The type, where an offset that no cluster can have is INVALID, too. */
static Qcow2ClusterType checked_type(const Qcow2State *q, uint64_t entry)
{
    Qcow2ClusterType type = qcow2_entry_type(entry, q->header.version);

    if ((type == QCOW2_CLUSTER_NORMAL || type == QCOW2_CLUSTER_ZERO_ALLOC) &&
        qcow2_in_cluster(q, entry & QCOW2_OFFSET_MASK) != 0) {
        return QCOW2_CLUSTER_INVALID;
    }
    return type;
}

static bool has_host_cluster(Qcow2ClusterType type)
{
    return type == QCOW2_CLUSTER_NORMAL || type == QCOW2_CLUSTER_ZERO_ALLOC;
}

/*
 * How many of at most @limit clusters from @position on continue @first: the
 * next entry is the same word, one cluster further if it has an offset. Goes
 * on in slices that are in memory.
 */
static int64_t count_run(const BlockDriverState *bs, Qcow2L2Position position,
                         const Qcow2Slice *slice, uint64_t first,
                         int64_t step, int64_t limit)
{
    const Qcow2L2Cache *cache = &qcow2_state(bs)->l2;
    unsigned entries = 1u << cache->slice_bits;
    uint64_t expected = first;
    int64_t count = 0;

    while (count < limit) {
        if (position.entry == entries) {
            position.entry = 0;
            if (++position.slice == cache->slices_per_table) {
                break;
            }
            slice = qcow2_l2_peek(bs, position);
            if (!slice) {
                break;
            }
        }
        if (qcow2_l2_get(slice, position.entry) != expected) {
            break;
        }
        expected += step;
        position.entry++;
        count++;
    }
    return count;
}

/* Fills in a run that @entry starts. -EIO when it cannot be in the file. */
static int map_entry(BlockDriverState *bs, Qcow2L2Position position,
                     const Qcow2Slice *slice, int64_t in_cluster,
                     int64_t bytes, Qcow2Run *run)
{
    Qcow2State *q = qcow2_state(bs);
    uint64_t entry = qcow2_l2_get(slice, position.entry);
    int64_t limit = (in_cluster + bytes + q->cluster_bytes - 1) >>
                    q->cluster_bits;
    int64_t step = 0;

    run->l2_entry = entry;
    run->type = checked_type(q, entry);
    run->copied = entry & QCOW2_ENTRY_COPIED;
    if (run->type == QCOW2_CLUSTER_INVALID) {
        g_debug("%s: damaged L2 entry 0x%" PRIx64, bdrv_name(bs), entry);
        return -EIO;
    }
    if (run->type == QCOW2_CLUSTER_COMPRESSED) {
        run->bytes = MIN(bytes, q->cluster_bytes - in_cluster);
        return 0;
    }
    if (has_host_cluster(run->type)) {
        int64_t host_offset = entry & QCOW2_OFFSET_MASK;
        int64_t room = qcow2_file_length(q) - host_offset;

        /* Each cluster of the run has to start inside the file. */
        if (room <= 0) {
            g_debug("%s: L2 entry 0x%" PRIx64 " points past the end of the "
                    "file", bdrv_name(bs), entry);
            return -EIO;
        }
        limit = MIN(limit, (room + q->cluster_bytes - 1) >> q->cluster_bits);
        step = q->cluster_bytes;
        run->host_offset = host_offset + in_cluster;
    }
    limit = count_run(bs, position, slice, entry, step, limit);
    /* The first entry may have changed since: the rest follows, later. */
    limit = MAX(limit, 1);
    run->bytes = MIN(bytes, (limit << q->cluster_bits) - in_cluster);
    return 0;
}

int coroutine_fn qcow2_map(BlockDriverState *bs, int64_t offset,
                           int64_t bytes, Qcow2Run *ret_run)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2L2Position position = qcow2_l2_position(bs, offset);
    Qcow2Slice *slice = qcow2_l2_peek(bs, position);

    if (!slice) {
        int ret = qcow2_l2_lookup(bs, position, &slice);

        if (ret < 0) {
            return ret;
        }
    }
    if (!slice) {
        int64_t reach = q->cluster_bytes << q->l2_bits;

        *ret_run = (Qcow2Run){
            .type = QCOW2_CLUSTER_UNALLOCATED,
            .bytes = MIN(bytes, reach - (offset & (reach - 1))),
        };
        return 0;
    }
    return map_entry(bs, position, slice, qcow2_in_cluster(q, offset), bytes,
                     ret_run);
}

/* -- reading -------------------------------------------------------------- */

static int coroutine_fn read_backing(BlockDriverState *bs, int64_t offset,
                                     int64_t bytes, IoVec *iov,
                                     size_t iov_offset)
{
    int64_t there = 0;

    if (bs->backing) {
        int64_t length = bdrv_node_length(bs->backing->bs);

        there = CLAMP(length - offset, 0, bytes);
    }
    if (there < bytes) {
        iovec_memset(iov, iov_offset + there, 0, bytes - there);
    }
    bdrv_debug_event(bs->file, BLOCK_DEBUG_READ_BACKING_AIO);
    return there ? bdrv_co_preadv(bs->backing, offset, there, iov, iov_offset,
                                  0)
                 : 0;
}

/* The last cluster of the file may be cut off: what is missing reads zeros. */
static int coroutine_fn read_normal(BlockDriverState *bs, const Qcow2Run *run,
                                    IoVec *iov, size_t iov_offset)
{
    int64_t length = qcow2_file_length(qcow2_state(bs));
    int64_t there = CLAMP(length - run->host_offset, 0, run->bytes);

    if (there < run->bytes) {
        iovec_memset(iov, iov_offset + there, 0, run->bytes - there);
    }
    bdrv_debug_event(bs->file, BLOCK_DEBUG_READ_AIO);
    return there ? bdrv_co_preadv(bs->file, run->host_offset, there, iov,
                                  iov_offset, 0)
                 : 0;
}

static int coroutine_fn read_run(BlockDriverState *bs, const Qcow2Run *run,
                                 int64_t offset, IoVec *iov,
                                 size_t iov_offset)
{
    Qcow2State *q = qcow2_state(bs);

    switch (run->type) {
    case QCOW2_CLUSTER_NORMAL:
        return read_normal(bs, run, iov, iov_offset);
    case QCOW2_CLUSTER_UNALLOCATED:
        return read_backing(bs, offset, run->bytes, iov, iov_offset);
    case QCOW2_CLUSTER_COMPRESSED:
        return qcow2_inflater_co_read(q->inflater, bs->file,
                                      qcow2_file_length(q), run->l2_entry,
                                      qcow2_in_cluster(q, offset), run->bytes,
                                      iov, iov_offset);
    default:
        iovec_memset(iov, iov_offset, 0, run->bytes);
        return 0;
    }
}

int coroutine_fn qcow2_read(BlockDriverState *bs, int64_t offset,
                            int64_t bytes, IoVec *iov, size_t iov_offset)
{
    Qcow2State *q = qcow2_state(bs);

    while (bytes > 0) {
        unsigned side = qcow2_epoch_enter(q->epoch);
        Qcow2Run run;
        int ret = qcow2_map(bs, offset, bytes, &run);

        if (ret >= 0) {
            ret = read_run(bs, &run, offset, iov, iov_offset);
        }
        qcow2_epoch_leave(q->epoch, side);
        if (ret < 0) {
            return ret;
        }
        offset += run.bytes;
        iov_offset += run.bytes;
        bytes -= run.bytes;
    }
    return 0;
}

/* -- allocations in flight ------------------------------------------------ */

/*
 * Cuts [first, first + *clusters) off before the next allocation in flight;
 * false when @first itself is in flight. Lock held.
 */
static bool clip_to_in_flight(const Qcow2State *q, int64_t first,
                              int64_t *clusters)
{
    for (Qcow2InFlight *i = q->in_flight; i; i = i->next) {
        if (!ranges_overlap(i->first_cluster, i->clusters, first,
                            *clusters)) {
            continue;
        }
        if (i->first_cluster <= first) {
            return false;
        }
        *clusters = i->first_cluster - first;
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

/*
 * Waits until no allocation holds the first cluster and pins the slice that
 * maps it, of a table of our own. *clusters is clipped to the slice and to
 * what is in flight behind. Lock held; may be dropped on the way.
 */
static int coroutine_fn own_slice(BlockDriverState *bs,
                                  Qcow2L2Position position, int64_t first,
                                  int64_t *clusters, Qcow2Slice **ret_slice)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t room = ((int64_t)1 << q->l2.slice_bits) - position.entry;
    int64_t wanted = MIN(*clusters, room);

    for (;;) {
        bool dropped;
        int ret;

        *clusters = wanted;
        if (!clip_to_in_flight(q, first, clusters)) {
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
    int64_t host_offset; /* of the first cluster */
    bool is_reused;      /* our own clusters, marked as zeros until now */
    bool is_fresh;       /* the file reads zeros there */
    bool met_damage;     /* an entry to replace points at metadata */
    Qcow2InFlight in_flight;
    void *buffer[2]; /* head and tail, when old content is kept */
    int64_t buffer_bytes[2];
} Allocation;

/* Clusters from the first that can be written to the same way. */
static int64_t count_alike(const Qcow2State *q, const Allocation *a,
                           uint64_t first, int64_t limit)
{
    int64_t count = 1;

    for (; count < limit; count++) {
        uint64_t entry =
            qcow2_l2_get(a->slice, a->position.entry + (unsigned)count);
        Qcow2ClusterType type = checked_type(q, entry);

        if (a->is_reused ? entry != first + (count << q->cluster_bits)
                         : (has_host_cluster(type) &&
                            (entry & QCOW2_ENTRY_COPIED)) ||
                               type == QCOW2_CLUSTER_INVALID) {
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
        int ret = qcow2_overlap_check_entry(
            a->bs,
            qcow2_l2_get(a->slice, a->position.entry + (unsigned)i));

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
 * Takes clusters for the start of the write. 1: go on, 0: it may be written
 * in place by now, or -errno. Lock held.
 */
static int coroutine_fn begin_allocation(Allocation *a)
{
    BlockDriverState *bs = a->bs;
    Qcow2State *q = qcow2_state(bs);
    int64_t in_cluster = qcow2_in_cluster(q, a->offset);
    int64_t first = a->offset >> q->cluster_bits;
    int64_t clusters = (in_cluster + a->bytes + q->cluster_bytes - 1) >>
                       q->cluster_bits;
    int64_t fresh;
    uint64_t entry;
    Qcow2ClusterType type;
    int ret;

    a->position = qcow2_l2_position(bs, a->offset);
    ret = own_slice(bs, a->position, first, &clusters, &a->slice);
    if (ret < 0) {
        return ret;
    }
    entry = qcow2_l2_get(a->slice, a->position.entry);
    type = checked_type(q, entry);
    if (type == QCOW2_CLUSTER_INVALID ||
        (type == QCOW2_CLUSTER_NORMAL && (entry & QCOW2_ENTRY_COPIED))) {
        qcow2_l2_unpin(bs, a->slice);
        return type == QCOW2_CLUSTER_INVALID ? -EIO : 0;
    }
    a->host_offset = entry & QCOW2_OFFSET_MASK;
    a->is_reused = type == QCOW2_CLUSTER_ZERO_ALLOC &&
                   (entry & QCOW2_ENTRY_COPIED) &&
                   a->host_offset < qcow2_file_length(q);
    clusters = count_alike(q, a, entry, clusters);
    ret = clip_to_sound(a, &clusters);
    if (ret < 0) {
        qcow2_l2_unpin(bs, a->slice);
        return ret;
    }
    if (!a->is_reused) {
        fresh = q->fresh_offset;
        ret = qcow2_alloc_clusters(bs, clusters, /* needed= */ 1,
                                   &a->host_offset, &clusters);
        a->is_fresh = ret >= 0 && a->host_offset >= fresh;
    }
    if (ret < 0) {
        qcow2_l2_unpin(bs, a->slice);
        return ret;
    }
    a->bytes = MIN(a->bytes, (clusters << q->cluster_bits) - in_cluster);
    a->in_flight.first_cluster = first;
    a->in_flight.clusters = clusters;
    in_flight_add(q, &a->in_flight);
    return 1;
}

/* Publishes or takes back, by @ret. Lock held. */
static void coroutine_fn end_allocation(Allocation *a, int ret)
{
    BlockDriverState *bs = a->bs;
    Qcow2State *q = qcow2_state(bs);
    int64_t clusters = a->in_flight.clusters;

    if (ret < 0 && !a->is_reused) {
        qcow2_unalloc_clusters(bs, a->host_offset, clusters);
    }
    for (int64_t i = 0; ret >= 0 && i < clusters; i++) {
        unsigned at = a->position.entry + (unsigned)i;
        uint64_t old = qcow2_l2_get(a->slice, at);
        int64_t host_offset = a->host_offset + (i << q->cluster_bits);

        qcow2_l2_set(bs, a->slice, at,
                     (uint64_t)host_offset | QCOW2_ENTRY_COPIED);
        if (!a->is_reused) {
            qcow2_quarantine_add_entry(bs, old);
        }
        q->allocated_since_barrier = true;
    }
    qcow2_l2_unpin(bs, a->slice);
    in_flight_remove(q, &a->in_flight);
}

/* Does the guest see zeros in a cluster with this entry, at @offset? */
static bool reads_zeros(const BlockDriverState *bs, uint64_t entry,
                        int64_t offset)
{
    Qcow2ClusterType type =
        qcow2_entry_type(entry, qcow2_state(bs)->header.version);

    return type == QCOW2_CLUSTER_ZERO_PLAIN ||
           type == QCOW2_CLUSTER_ZERO_ALLOC ||
           (type == QCOW2_CLUSTER_UNALLOCATED &&
            (!bs->backing || offset >= bdrv_node_length(bs->backing->bs)));
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
                      a->in_flight.first_cluster;
    uint64_t entry;
    IoVec old;

    *ret_skipped = false;
    if (bytes == 0) {
        return 0;
    }
    entry = qcow2_l2_get(a->slice, a->position.entry + (unsigned)cluster);
    if (reads_zeros(bs, entry, offset)) {
        *ret_skipped = a->is_fresh;
        if (!a->is_fresh) {
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
    Qcow2State *q = qcow2_state(a->bs);
    int64_t head = qcow2_in_cluster(q, a->offset);
    int64_t end = a->offset + a->bytes;
    int64_t tail = (a->in_flight.clusters << q->cluster_bits) - head -
                   a->bytes;
    int64_t host_offset = a->host_offset;
    bool skipped;
    IoVec vec;
    int ret;

    iovec_init(&vec);
    ret = add_old_content(a, 0, a->offset - head, head, &vec, &skipped);
    host_offset += skipped ? head : 0;
    iovec_add_slice(&vec, a->iov, a->iov_offset, a->bytes);
    if (ret >= 0) {
        ret = add_old_content(a, 1, end, tail, &vec, &skipped);
    }
    if (ret >= 0) {
        bdrv_debug_event(a->bs->file, BLOCK_DEBUG_WRITE_AIO);
        ret = bdrv_co_pwritev(a->bs->file, host_offset, vec.size, &vec, 0, 0);
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
    co_mutex_unlock(&q->lock);
    if (a.met_damage) {
        qcow2_mark_corrupt(bs, "an L2 entry points at metadata");
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
    int64_t first = a->offset >> q->cluster_bits;
    int64_t clusters = 1;
    int ret;

    a->position = qcow2_l2_position(bs, a->offset);
    ret = own_slice(bs, a->position, first, &clusters, &a->slice);
    if (ret < 0) {
        return ret;
    }
    if (checked_type(q, qcow2_l2_get(a->slice, a->position.entry)) ==
        QCOW2_CLUSTER_INVALID) {
        ret = -EIO;
    }
    if (ret >= 0) {
        ret = clip_to_sound(a, &clusters);
    }
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
    a->in_flight.first_cluster = first;
    a->in_flight.clusters = 1;
    in_flight_add(q, &a->in_flight);
    return 0;
}

/* Lock held. */
static void coroutine_fn end_compressed(Allocation *a, int ret)
{
    BlockDriverState *bs = a->bs;
    Qcow2State *q = qcow2_state(bs);
    uint64_t old = qcow2_l2_get(a->slice, a->position.entry);

    if (ret < 0) {
        qcow2_unpack(bs, a->host_offset, a->bytes);
    } else {
        qcow2_l2_set(bs, a->slice, a->position.entry,
                     compressed_entry(q, a->host_offset, a->bytes));
        qcow2_quarantine_add_entry(bs, old);
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
    co_mutex_unlock(&q->lock);
    if (a.met_damage) {
        qcow2_mark_corrupt(bs, "an L2 entry points at metadata");
    }
    if (ret < 0) {
        return ret;
    }
    bdrv_debug_event(bs->file, BLOCK_DEBUG_WRITE_COMPRESSED);
    ret = bdrv_co_pwrite(bs->file, a.host_offset, bytes, data, 0);
    co_mutex_lock(&q->lock);
    end_compressed(&a, ret);
    co_mutex_unlock(&q->lock);
    return ret;
}

/* -- zeroes and discards -------------------------------------------------- */

/* What becomes of an entry; *ret_drop: the host cluster is given up. */
static uint64_t cleared_entry(const BlockDriverState *bs, uint64_t entry,
                              Qcow2ClearMode mode, bool *ret_drop)
{
    const Qcow2State *q = qcow2_state(bs);
    Qcow2ClusterType type = checked_type(q, entry);

    *ret_drop = false;
    if (type == QCOW2_CLUSTER_UNALLOCATED && !bs->backing) {
        return entry;
    }
    if (mode == QCOW2_CLEAR_ZERO && has_host_cluster(type) &&
        (entry & QCOW2_ENTRY_COPIED)) {
        return entry | QCOW2_L2_ZERO;
    }
    *ret_drop = has_host_cluster(type) || type == QCOW2_CLUSTER_COMPRESSED;
    return mode == QCOW2_CLEAR_UNALLOCATED ? 0 : QCOW2_L2_ZERO;
}

/* Clears what one slice maps, up to the next allocation in flight. */
static int coroutine_fn clear_some(BlockDriverState *bs, int64_t offset,
                                   int64_t *clusters, Qcow2ClearMode mode)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2L2Position position = qcow2_l2_position(bs, offset);
    Qcow2Slice *slice;
    int ret;

    if (!bs->backing && q->l2.l1[position.l1_index] == 0) {
        /* No table: reads zeros already. An allocation makes one first. */
        int64_t in_table = (offset >> q->cluster_bits) &
                           (((int64_t)1 << q->l2_bits) - 1);

        *clusters = MIN(*clusters, ((int64_t)1 << q->l2_bits) - in_table);
        return 0;
    }
    ret = own_slice(bs, position, offset >> q->cluster_bits, clusters,
                    &slice);
    if (ret < 0) {
        return ret;
    }
    for (int64_t i = 0; i < *clusters; i++) {
        unsigned at = position.entry + (unsigned)i;
        uint64_t old = qcow2_l2_get(slice, at);
        bool drop;
        uint64_t entry = cleared_entry(bs, old, mode, &drop);

        if (entry != old) {
            qcow2_l2_set(bs, slice, at, entry);
        }
        if (drop) {
            qcow2_quarantine_add_entry(bs, old);
        }
    }
    qcow2_l2_unpin(bs, slice);
    return 0;
}

int coroutine_fn qcow2_clear_clusters(BlockDriverState *bs, int64_t offset,
                                      int64_t bytes, Qcow2ClearMode mode)
{
    Qcow2State *q = qcow2_state(bs);
    int ret = 0;

    while (bytes > 0 && ret >= 0) {
        int64_t clusters = bytes >> q->cluster_bits;

        ret = qcow2_co_commit_if_due(bs);
        if (ret < 0) {
            break;
        }
        co_mutex_lock(&q->lock);
        ret = clear_some(bs, offset, &clusters, mode);
        co_mutex_unlock(&q->lock);
        offset += clusters << q->cluster_bits;
        bytes -= clusters << q->cluster_bits;
    }
    return ret;
}
