/* SPDX-License-Identifier: MIT */
/*
 * views: a snapshot of a qcow2 image read beside the image itself
 *
 *   view ─▶ L1 of the snapshot, in memory ─▶ L2 slices, a few in memory
 *        ─▶ clusters in the same file, by the same code as the image's own
 *
 * A view opens nothing: it shares the node's file, backing file and decoder
 * of compressed clusters. It looks at nothing that writers change.
 *
 * Always true:
 *  V1  what a view's tables name has a reference of the snapshot's, so it is
 *      neither written in place nor given away while the snapshot exists; so
 *      a view needs no epoch;
 *  V2  a snapshot that has a view is not removed;
 *  V3  L2 tables of a snapshot change in COPIED only, which is masked here,
 *      and only while the node, and so every view, is drained.
 *
 * Locking: q->views by the control plane. Each slot of slices has a spin lock
 * for as long as a run is looked up in it, never across I/O. The rest of a
 * view is constant.
 */
#include "drivers/qcow2/snapshot.h"

#include "block/io/io.h"
#include "block/io/spin_lock.h"
#include "block/io/status.h"
#include "block/rt/aio_context.h"
#include "drivers/qcow2/cluster.h"

#include <errno.h>
#include <string.h>

/* Slices that a view keeps: at most 512 KiB, made with their first use. */
#define VIEW_SLOTS 128
#define VIEW_SLICE_BYTES_MAX 4096

typedef struct Slot {
    SpinLock lock;
    int64_t host_offset; /* of the slice in memory; 0: none */
    uint64_t *entry;     /* host byte order, without COPIED */
} Slot;

typedef struct Qcow2View {
    BlockSnapshotView info; /* first: what callers see */
    uint64_t *l1;
    int64_t l1_entries;
    int64_t slice_bytes;
    Slot slots[VIEW_SLOTS];
} Qcow2View;

static void view_free(Qcow2View *view)
{
    for (unsigned i = 0; i < VIEW_SLOTS; i++) {
        g_free(view->slots[i].entry);
    }
    g_free(view->info.id);
    g_free(view->l1);
    g_free(view);
}

/* -- life: control plane --------------------------------------------------- */

typedef struct Opening {
    BlockDriverState *bs;
    const Qcow2Snapshot *snapshot;
    Qcow2View *view;
    int ret;
} Opening;

static void coroutine_fn open_entry(void *opaque)
{
    Opening *opening = opaque;
    Qcow2View *view = opening->view;

    view->l1 = qcow2_snapshot_co_read_l1(opening->bs, opening->snapshot,
                                         &view->l1_entries,
                                         &view->info.length, &opening->ret);
}

BlockSnapshotView *qcow2_view_open(BlockDriverState *bs, const char *id,
                                   GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2View *view = g_new0(Qcow2View, 1);
    Opening opening = {
        .bs = bs,
        .snapshot = qcow2_snapshot_find(bs, id),
        .view = view,
    };

    aio_run_sync(open_entry, &opening);
    if (!view->l1) {
        error_set_errno(error, -opening.ret, "%s: reading the snapshot",
                        bdrv_name(bs));
        view_free(view);
        return NULL;
    }
    view->info.id = g_strdup(id);
    view->slice_bytes = MIN(q->cluster_bytes, VIEW_SLICE_BYTES_MAX);
    if (!q->views) {
        q->views = g_ptr_array_new();
    }
    g_ptr_array_add(q->views, view);
    return &view->info;
}

void qcow2_view_close(BlockDriverState *bs, BlockSnapshotView *info)
{
    g_ptr_array_remove_fast(qcow2_state(bs)->views, info);
    view_free((Qcow2View *)info);
}

bool qcow2_view_exists(const BlockDriverState *bs, const char *id)
{
    const GPtrArray *views = qcow2_state(bs)->views;

    for (guint i = 0; views && i < views->len; i++) {
        const BlockSnapshotView *view = g_ptr_array_index(views, i);

        if (strcmp(view->id, id) == 0) {
            return true;
        }
    }
    return false;
}

/* -- mapping --------------------------------------------------------------- */

static Qcow2L2Entry entry_at(const Qcow2State *q, const uint64_t *word,
                             int64_t i)
{
    word += i * q->l2_words;
    return (Qcow2L2Entry){ word[0], q->l2_words > 1 ? word[1] : 0 };
}

/*
 * Where the run of subcluster @index of the first entry ends, in subclusters
 * from that entry's first on; in @limit entries, whose offsets grow by @step.
 */
static int64_t count_alike(const Qcow2State *q, const uint64_t *word,
                           int64_t limit, unsigned index, int64_t step)
{
    Qcow2L2Entry first = entry_at(q, word, 0);
    unsigned kind = qcow2_bitmap_kind(first.bitmap, index);
    int64_t end = index;

    for (int64_t i = 0; i < limit; i++) {
        Qcow2L2Entry entry = entry_at(q, word, i);
        unsigned alike = 1;

        if (entry.word != first.word + i * step) {
            break;
        }
        if (q->subclusters > 1) {
            alike = (entry.bitmap & entry.bitmap >> 32) == 0
                        ? qcow2_bitmap_run(entry.bitmap, index, kind) : 0;
        }
        end += alike;
        if (index + alike < q->subclusters) {
            break;
        }
        index = 0;
    }
    return end;
}

/*
 * The run that starts with the entry at @word, of which @left follow each other in
 * memory. The bytes are the image's: a cluster has to start in the file.
 */
static int run_at(const Qcow2State *q, const uint64_t *word, int64_t left,
                  int64_t in_cluster, int64_t bytes, Qcow2Run *run)
{
    unsigned index = qcow2_subcluster_index(q, in_cluster);
    int64_t limit =
        MIN(div_round_up(in_cluster + bytes, q->cluster_bytes), left);
    int64_t step = 0;

    *run = (Qcow2Run) {
        .type = qcow2_subcluster_type(q, entry_at(q, word, 0), index),
        .l2_entry = word[0],
    };
    if (run->type == QCOW2_CLUSTER_INVALID) {
        return -EIO;
    }
    if (run->type == QCOW2_CLUSTER_COMPRESSED) {
        run->bytes = MIN(bytes, q->cluster_bytes - in_cluster);
        return 0;
    }
    if (qcow2_has_host_cluster(run->type)) {
        int64_t host_offset = word[0] & QCOW2_OFFSET_MASK;
        int64_t room = qcow2_file_length(q) - host_offset;

        if (room <= 0) {
            return -EIO;
        }
        limit = MIN(limit, div_round_up(room, q->cluster_bytes));
        step = q->cluster_bytes;
        run->host_offset = host_offset + in_cluster;
    }
    run->bytes = MIN(bytes, count_alike(q, word, limit, index, step) *
                                q->subcluster_bytes - in_cluster);
    return 0;
}

/* Brings the slice at @host_offset of the file into @slot. */
static int coroutine_fn load_slice(BlockDriverState *bs, Slot *slot,
                                   int64_t host_offset, int64_t slice_bytes)
{
    int64_t words = slice_bytes / (int64_t)sizeof(uint64_t);
    uint64_t *fresh = g_malloc(slice_bytes);
    uint64_t *old;
    int ret = bdrv_co_pread(bs->file, host_offset, slice_bytes, fresh, 0);

    if (ret < 0) {
        g_free(fresh);
        return ret;
    }
    for (int64_t i = 0; i < words; i++) {
        /* In a compressed entry the bit is part of nothing, and 0. */
        uint64_t copied = i % qcow2_state(bs)->l2_words == 0
                              ? QCOW2_ENTRY_COPIED : 0;

        fresh[i] = be64toh(fresh[i]) & ~copied;
    }
    spin_lock(&slot->lock);
    old = slot->entry;
    slot->entry = fresh;
    slot->host_offset = host_offset;
    spin_unlock(&slot->lock);
    g_free(old);
    return 0;
}

/*
 * Looks @index up in the slice at @host_offset, reading it if need be. Two
 * slices that want one slot take turns; each reader makes progress because a
 * lost race is only another read.
 */
static int coroutine_fn map_in_slice(BlockDriverState *bs, Qcow2View *view,
                                     int64_t host_offset, int64_t index,
                                     int64_t in_cluster, int64_t bytes,
                                     Qcow2Run *run)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t entries = view->slice_bytes / 8 / q->l2_words;
    Slot *slot = &view->slots[host_offset / view->slice_bytes % VIEW_SLOTS];

    for (;;) {
        int ret = -EAGAIN;

        spin_lock(&slot->lock);
        if (slot->host_offset == host_offset) {
            ret = run_at(q, slot->entry + index * q->l2_words,
                         entries - index, in_cluster, bytes, run);
        }
        spin_unlock(&slot->lock);
        if (ret == -EAGAIN) {
            ret = load_slice(bs, slot, host_offset, view->slice_bytes);
            if (ret == 0) {
                continue;
            }
        }
        return ret;
    }
}

static int coroutine_fn map(BlockDriverState *bs, Qcow2View *view,
                            int64_t offset, int64_t bytes, Qcow2Run *run)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t reach = q->cluster_bytes << q->l2_bits;
    int64_t l1_index = offset / reach;
    int64_t entry_bytes = q->l2_words * (int64_t)sizeof(uint64_t);
    int64_t in_table = offset % reach / q->cluster_bytes * entry_bytes;
    int64_t table;

    table = l1_index < view->l1_entries
            ? (int64_t)(view->l1[l1_index] & QCOW2_OFFSET_MASK) : 0;
    if (table == 0) {
        *run = (Qcow2Run) {
            .type = QCOW2_CLUSTER_UNALLOCATED,
            .bytes = MIN(bytes, reach - offset % reach),
        };
        return 0;
    }
    if (qcow2_in_cluster(q, table) != 0 ||
        !range_within(table, q->cluster_bytes, qcow2_file_length(q))) {
        return -EIO;
    }
    return map_in_slice(bs, view,
                        table + align_down(in_table, view->slice_bytes),
                        in_table % view->slice_bytes / entry_bytes,
                        qcow2_in_cluster(q, offset), bytes, run);
}

/* -- data plane ------------------------------------------------------------ */

int coroutine_fn qcow2_view_co_preadv(BlockDriverState *bs,
                                      BlockSnapshotView *info, int64_t offset,
                                      int64_t bytes, IoVec *iov,
                                      size_t iov_offset)
{
    while (bytes > 0) {
        Qcow2Run run;
        int ret = map(bs, (Qcow2View *)info, offset, bytes, &run);

        if (ret >= 0) {
            ret = qcow2_read_run(bs, &run, offset, iov, iov_offset);
        }
        if (ret < 0) {
            return ret;
        }
        offset += run.bytes;
        iov_offset += run.bytes;
        bytes -= run.bytes;
    }
    return 0;
}

/* What the snapshot has not comes from the backing file, or is zeros. */
static int coroutine_fn backing_status(BlockDriverState *bs, bool want_zero,
                                       int64_t offset, BlockStatus *status)
{
    int64_t there = bs->backing
                    ? bdrv_node_length(bs->backing->bs) - offset : 0;

    if (there <= 0) {
        status->flags = BDRV_BLOCK_ZERO;
        return 0;
    }
    return bdrv_co_block_status_above(bs->backing->bs, /* base= */ NULL,
                                      want_zero, offset,
                                      MIN(there, status->bytes), status,
                                      /* ret_depth= */ NULL);
}

int coroutine_fn qcow2_view_co_block_status(BlockDriverState *bs,
                                            BlockSnapshotView *info,
                                            bool want_zero, int64_t offset,
                                            int64_t bytes,
                                            BlockStatus *ret_status)
{
    BlockStatus status = { 0 };
    Qcow2Run run;
    int ret = map(bs, (Qcow2View *)info, offset, bytes, &run);

    if (ret < 0) {
        return ret;
    }
    status.bytes = run.bytes;
    status.flags = qcow2_run_flags(qcow2_state(bs), &run);
    if (run.type == QCOW2_CLUSTER_UNALLOCATED ||
        run.type == QCOW2_CLUSTER_UNALLOCATED_ALLOC) {
        status.flags = 0;
        ret = backing_status(bs, want_zero, offset, &status);
    }
    *ret_status = status;
    return ret;
}
