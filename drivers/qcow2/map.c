/* SPDX-License-Identifier: MIT */
/*
 * guest ranges -> runs of subclusters, and reading them
 *
 *   offset ──▶ L2 entry ──▶ run of one type ──▶ file, backing, inflater
 *                                               or zeros
 *
 * A run is mapped inside an epoch, its data moved, the epoch left: so what
 * the run names stays what it was until the data is there. How mappings
 * change is cluster.c's.
 *
 * Locking: none but for a missing slice, which takes q->lock for its load.
 */
#include "drivers/qcow2/cluster.h"

#include "block/io/io.h"
#include "drivers/qcow2/compress.h"
#include "drivers/qcow2/data_file.h"
#include "drivers/qcow2/data_io.h"
#include "drivers/qcow2/readahead.h"

#include <errno.h>
#include <inttypes.h>

/* -- mapping -------------------------------------------------------------- */

/* What the entries of a run have in common, and what the next one has. */
typedef struct Pattern {
    uint64_t word; /* expected next */
    int64_t step;  /* from word to word */
    unsigned index; /* of the next subcluster in its cluster */
    unsigned kind;  /* of its bits in a bitmap */
} Pattern;

/*
 * How many subclusters from @entry of @slice on, before entry @end, go on with
 * @pattern, which is left as the entry after them should be. *is_cut: another
 * entry came first.
 */
static int64_t follow_extended(const Qcow2State *q, const Qcow2Slice *slice,
                               unsigned entry, unsigned end, Pattern *pattern,
                               bool *is_cut)
{
    int64_t count = 0;

    for (; entry < end; entry++) {
        Qcow2L2Entry next = qcow2_l2_get(slice, entry);
        unsigned alike;

        *is_cut = true;
        if (next.word != pattern->word) {
            break;
        }
        /* A damaged one ends the run, and is met by the next lookup. */
        alike = (next.bitmap & next.bitmap >> 32) == 0
                    ? qcow2_bitmap_run(next.bitmap, pattern->index,
                                       pattern->kind)
                    : 0;
        count += alike;
        if (pattern->index + alike < q->subclusters) {
            break;
        }
        *is_cut = false;
        pattern->index = 0;
        pattern->word += pattern->step;
    }
    return count;
}

/* The same without subclusters. Walks over big images live in this loop. */
static int64_t follow_plain(const Qcow2Slice *slice, unsigned entry,
                            unsigned end, Pattern *pattern, bool *is_cut)
{
    uint64_t expected = pattern->word;
    int64_t step = pattern->step;
    unsigned i = entry;

    while (i < end &&
           __atomic_load_n(&slice->word[i], __ATOMIC_ACQUIRE) == expected) {
        expected += step;
        i++;
    }
    pattern->word = expected;
    *is_cut = i < end;
    return i - entry;
}

/*
 * How many of at most @limit subclusters from the one at @position on go on
 * with @pattern: they are of the same kind, and each cluster has the same
 * word, one cluster further if it has an offset. Goes on in slices that are in
 * memory.
 */
static int64_t count_run(const BlockDriverState *bs, Qcow2L2Position position,
                         const Qcow2Slice *slice, Pattern pattern,
                         int64_t limit)
{
    const Qcow2State *q = qcow2_state(bs);
    unsigned entries = 1u << q->l2.slice_bits;
    int64_t count = 0;
    bool is_cut = false;

    for (;;) {
        if (q->subclusters > 1) {
            count += follow_extended(q, slice, position.entry, entries,
                                     &pattern, &is_cut);
        } else {
            count += follow_plain(slice, position.entry, entries, &pattern,
                                  &is_cut);
        }
        if (is_cut || count >= limit ||
            ++position.slice == q->l2.slices_per_table) {
            break;
        }
        position.entry = 0;
        slice = qcow2_l2_peek(bs, position);
        if (!slice) {
            break;
        }
    }
    return MIN(count, limit);
}

/* Fills in a run that @entry starts. -EIO when it cannot be in the file. */
static int map_entry(BlockDriverState *bs, Qcow2L2Position position,
                     const Qcow2Slice *slice, int64_t offset, int64_t bytes,
                     Qcow2Run *run)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2L2Entry entry = qcow2_l2_get(slice, position.entry);
    int64_t in_cluster = qcow2_in_cluster(q, offset);
    unsigned index = qcow2_subcluster_index(q, in_cluster);
    int64_t in_subcluster = in_cluster & (q->subcluster_bytes - 1);
    int64_t limit = (in_subcluster + bytes + q->subcluster_bytes - 1) >>
                    q->subcluster_bits;
    Pattern pattern = { .word = entry.word, .index = index,
                        .kind = qcow2_bitmap_kind(entry.bitmap, index) };

    run->l2_entry = entry.word;
    run->type = qcow2_subcluster_type(q, entry, index);
    run->copied = entry.word & QCOW2_ENTRY_COPIED;
    if (run->type == QCOW2_CLUSTER_INVALID ||
        qcow2_is_misplaced(q, entry.word, offset - in_cluster)) {
        g_debug("%s: damaged L2 entry 0x%" PRIx64 ", 0x%" PRIx64,
                bdrv_name(bs), entry.word, entry.bitmap);
        return -EIO;
    }
    if (run->type == QCOW2_CLUSTER_COMPRESSED) {
        run->bytes = MIN(bytes, q->cluster_bytes - in_cluster);
        return 0;
    }
    if (qcow2_has_host_cluster(run->type)) {
        int64_t host_offset = entry.word & QCOW2_OFFSET_MASK;
        int64_t room = qcow2_data_length(q) - host_offset;

        /* Each cluster of the run has to start inside the file. */
        if (room <= 0) {
            g_debug("%s: L2 entry 0x%" PRIx64 " points past the end of the "
                    "file", bdrv_name(bs), entry.word);
            return -EIO;
        }
        room = (room + q->cluster_bytes - 1) >> q->cluster_bits;
        limit = MIN(limit, room * q->subclusters - index);
        pattern.step = q->cluster_bytes;
        run->host_offset = host_offset + in_cluster;
    }
    limit = count_run(bs, position, slice, pattern, limit);
    /* The first entry may have changed since: the rest follows, later. */
    limit = MAX(limit, 1);
    run->bytes = MIN(bytes, (limit << q->subcluster_bits) - in_subcluster);
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
    return map_entry(bs, position, slice, offset, bytes, ret_run);
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

int coroutine_fn qcow2_read_run(BlockDriverState *bs, const Qcow2Run *run,
                                int64_t offset, IoVec *iov,
                                size_t iov_offset)
{
    Qcow2State *q = qcow2_state(bs);

    switch (run->type) {
    case QCOW2_CLUSTER_NORMAL:
        return qcow2_data_co_preadv(bs, run->host_offset, offset, run->bytes,
                                    iov, iov_offset);
    case QCOW2_CLUSTER_UNALLOCATED:
    case QCOW2_CLUSTER_UNALLOCATED_ALLOC:
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

/*
 * Reads whole compressed clusters from @offset (aligned) on, the first of
 * which is @run, as many as there are one behind the other. *@ret_bytes: how
 * much that was. Inside an epoch.
 */
static int coroutine_fn read_compressed(BlockDriverState *bs,
                                        const Qcow2Run *run, int64_t offset,
                                        int64_t bytes, IoVec *iov,
                                        size_t iov_offset, int64_t *ret_bytes)
{
    Qcow2State *q = qcow2_state(bs);
    uint64_t l2_entry[QCOW2_INFLATER_BATCH_MAX] = { run->l2_entry };
    int64_t limit = MIN(bytes, QCOW2_INFLATER_BATCH_BYTES) >> q->cluster_bits;
    unsigned count = 1;

    while (count < MIN(limit, QCOW2_INFLATER_BATCH_MAX)) {
        int64_t at = offset + ((int64_t)count << q->cluster_bits);
        Qcow2Run more;

        /* What fails here is asked again, and told, when its turn comes. */
        if (qcow2_map(bs, at, q->cluster_bytes, &more) < 0 ||
            more.type != QCOW2_CLUSTER_COMPRESSED) {
            break;
        }
        l2_entry[count++] = more.l2_entry;
    }
    *ret_bytes = (int64_t)count << q->cluster_bits;
    return qcow2_inflater_co_read_many(q->inflater, bs->file,
                                       qcow2_file_length(q), l2_entry, count,
                                       iov, iov_offset);
}

int coroutine_fn qcow2_read(BlockDriverState *bs, int64_t offset,
                            int64_t bytes, IoVec *iov, size_t iov_offset)
{
    Qcow2State *q = qcow2_state(bs);
    bool is_told = false; /* read-ahead knows of this request */
    int ret = 0;

    while (ret == 0 && bytes > 0) {
        unsigned side = qcow2_epoch_enter(q->epoch);
        Qcow2Run run;

        ret = qcow2_map(bs, offset, bytes, &run);
        if (ret == 0 && run.type == QCOW2_CLUSTER_COMPRESSED && !is_told) {
            qcow2_readahead_begin(q->readahead, offset, bytes);
            is_told = true;
        }
        if (ret == 0 && run.type == QCOW2_CLUSTER_COMPRESSED &&
            run.bytes == q->cluster_bytes) {
            ret = read_compressed(bs, &run, offset, bytes, iov, iov_offset,
                                  &run.bytes);
        } else if (ret == 0) {
            ret = qcow2_read_run(bs, &run, offset, iov, iov_offset);
        }
        qcow2_epoch_leave(q->epoch, side);
        offset += run.bytes;
        iov_offset += run.bytes;
        bytes -= run.bytes;
    }
    if (is_told) {
        qcow2_readahead_end(q->readahead);
    }
    return ret;
}
