/* SPDX-License-Identifier: MIT */
/*
 * making, taking and removing internal snapshots of a qcow2 image
 *
 * A snapshot is a copy of the L1 table at some time. All L2 tables and host
 * clusters below it are shared with the active tables: they have a reference
 * more, and lost COPIED, so that a write goes elsewhere.
 *
 *   create  counts of the active tree up ─ COPIED off ─ L1 copy, new table
 *           ── flush ── header names the table
 *   go to   counts of the snapshot's tree up ─ new L1 ── flush ── header names
 *           L1 and size ── counts of the old tree down ─ COPIED on again
 *   remove  new table ── flush ── header names it ── counts down ─ COPIED on
 *
 * Always true:
 *  S1  what the header names was complete on disk, with its counts, before;
 *  S2  a count drops after a flush of the header that gave up the pointer;
 *  S3  a failure before the header was written undoes the counts; a crash
 *      leaves counts too high, or COPIED missing: space is lost, no more;
 *  S4  a failure after it is no failure of the change.
 *
 * What happens below an L1 table is snapshot_tree.c's.
 *
 * Locking: control plane with the node drained; the coroutines here are alone
 * and take q->lock only because its functions expect it.
 */
#include "drivers/qcow2/snapshot.h"

#include "block/io/io.h"
#include "block/rt/aio_context.h"
#include "drivers/qcow2/data_file.h"
#include "drivers/qcow2/cluster.h"
#include "drivers/qcow2/compress.h"
#include "drivers/qcow2/snapshot_tree.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Clusters of their own that the change needs. */
typedef struct Room {
    int64_t offset;
    int64_t clusters;
} Room;

typedef struct Change {
    BlockDriverState *bs;
    const char *id; /* go_to, remove */
    const char *name;
    int ret;
    Room l1, table;
    uint32_t table_count;
    int64_t table_bytes;
} Change;

static int coroutine_fn take_room(BlockDriverState *bs, int64_t bytes,
                                  Room *ret_room)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t clusters = div_round_up(bytes, q->cluster_bytes);
    int64_t offset, got;
    int ret;

    if (clusters == 0) {
        *ret_room = (Room) { 0, 0 };
        return 0;
    }
    co_mutex_lock(&q->lock);
    ret = qcow2_alloc_clusters(bs, clusters, clusters, &offset, &got);
    co_mutex_unlock(&q->lock);
    if (ret >= 0) {
        *ret_room = (Room) { offset, clusters };
    }
    return ret;
}

static void coroutine_fn give_room(BlockDriverState *bs, const Room *room)
{
    Qcow2State *q = qcow2_state(bs);

    co_mutex_lock(&q->lock);
    qcow2_unalloc_clusters(bs, room->offset, room->clusters);
    co_mutex_unlock(&q->lock);
}

/* -- tables --------------------------------------------------------------- */

/* Without COPIED: the clusters have other owners. */
static int coroutine_fn write_l1(BlockDriverState *bs, int64_t host_offset,
                                 const uint64_t *l1, int64_t entries)
{
    g_autofree be64 *raw = g_new(be64, MAX(entries, 1));

    for (int64_t i = 0; i < entries; i++) {
        be64_set(&raw[i], l1[i] & ~QCOW2_ENTRY_COPIED);
    }
    return entries ? bdrv_co_pwrite(bs->file, host_offset, entries * 8, raw,
                                    0) : 0;
}

/* Count and place are neighbours, in one sector. */
static int coroutine_fn write_header(BlockDriverState *bs, uint32_t count,
                                     int64_t offset)
{
    Qcow2RawHeader raw;
    int ret;

    be32_set(&raw.nb_snapshots, count);
    be64_set(&raw.snapshots_offset, offset);
    ret = bdrv_co_pwrite(bs->file, offsetof(Qcow2RawHeader, nb_snapshots), 12,
                         &raw.nb_snapshots, 0);
    return ret < 0 ? ret : bdrv_co_flush(bs->file->bs);
}

/*
 * Writes @snapshots as a new table and has the header name it. On failure the
 * header names the old one, or nobody knows: -ENOTRECOVERABLE.
 */
static int coroutine_fn switch_table(Change *change,
                                     const GPtrArray *snapshots)
{
    BlockDriverState *bs = change->bs;
    Qcow2State *q = qcow2_state(bs);
    uint32_t count;
    g_autoptr(GByteArray) table = qcow2_snapshots_encode(snapshots, &count);
    int ret = 0;

    g_assert(table->len == change->table_bytes);
    if (table->len > 0) {
        ret = bdrv_co_pwrite(bs->file, change->table.offset, table->len,
                             table->data, 0);
    }
    if (ret >= 0) {
        ret = bdrv_co_flush(bs->file->bs);
    }
    if (ret < 0) {
        return ret;
    }
    ret = write_header(bs, count, change->table.offset);
    if (ret < 0) {
        return write_header(bs, q->header.snapshots,
                            q->header.snapshots_offset) < 0
                   ? -ENOTRECOVERABLE : ret;
    }
    q->header.snapshots = count;
    q->header.snapshots_offset = change->table.offset;
    return 0;
}

/*
 * The header has switched: it is done. What could not be tidied up is leaked,
 * what could not be written is still dirty, and a flush will tell.
 */
static void finish(const BlockDriverState *bs, int ret)
{
    if (ret < 0) {
        g_debug("%s: after a change of snapshots: %s", bdrv_name(bs),
                g_strerror(-ret));
    }
}

/* Takes clusters for the table that @snapshots will make. */
static int coroutine_fn take_table(Change *change, const GPtrArray *snapshots)
{
    uint32_t count;
    g_autoptr(GByteArray) table = qcow2_snapshots_encode(snapshots, &count);

    change->table_bytes = table->len;
    if (count > QCOW2_SNAPSHOTS_MAX ||
        table->len > QCOW2_SNAPSHOT_TABLE_MAX_BYTES) {
        return -EFBIG;
    }
    return take_room(change->bs, table->len, &change->table);
}

/* The old table's clusters go, the new ones are metadata. */
static void coroutine_fn adopt_table(Change *change)
{
    Qcow2State *q = qcow2_state(change->bs);
    const Qcow2HostRange old = q->main_metadata[QCOW2_RANGE_SNAPSHOTS];

    qcow2_set_range(q, QCOW2_RANGE_SNAPSHOTS, change->table.offset,
                    change->table_bytes);
    /* What cannot be read is not known to the guard, no more. */
    (void) qcow2_snapshots_index(change->bs);
    qcow2_tree_lower_range(change->bs, old.start, old.end - old.start, QCOW2_FREE_OTHER);
}

/* -- create --------------------------------------------------------------- */

/* The least number above all others. */
static char *next_id(const GPtrArray *snapshots)
{
    uint64_t highest = 0;

    for (guint i = 0; i < snapshots->len; i++) {
        const Qcow2Snapshot *one = g_ptr_array_index(snapshots, i);

        highest = MAX(highest, strtoull(one->info.id, NULL, 10));
    }
    return g_strdup_printf("%" PRIu64, highest + 1);
}

static Qcow2Snapshot *snapshot_of_now(const Change *change)
{
    Qcow2State *q = qcow2_state(change->bs);
    g_autofree char *id = next_id(q->snapshots);
    Qcow2Snapshot *snapshot = qcow2_snapshot_new(id, change->name);
    int64_t now_us = g_get_real_time();

    snapshot->info.date_sec = now_us / G_USEC_PER_SEC;
    snapshot->info.date_nsec = now_us % G_USEC_PER_SEC * 1000;
    snapshot->info.disk_bytes = q->header.size;
    snapshot->info.icount = 0;
    snapshot->l1_entries = q->header.l1_entries;
    return snapshot;
}

/* The counts are up; -ENOTRECOVERABLE: they have to stay. */
static int coroutine_fn create_raised(Change *change, Qcow2Snapshot *snapshot)
{
    BlockDriverState *bs = change->bs;
    Qcow2State *q = qcow2_state(bs);
    int ret = qcow2_tree_refresh_copied(bs);

    snapshot->l1_offset = change->l1.offset;
    if (ret >= 0) {
        ret = write_l1(bs, snapshot->l1_offset, q->l2.l1,
                       snapshot->l1_entries);
    }
    return ret < 0 ? ret : switch_table(change, q->snapshots);
}

static void coroutine_fn create_entry(void *opaque)
{
    Change *change = opaque;
    BlockDriverState *bs = change->bs;
    Qcow2State *q = qcow2_state(bs);
    Qcow2Snapshot *snapshot = snapshot_of_now(change);
    int ret;

    g_ptr_array_add(q->snapshots, snapshot);
    ret = take_room(bs, snapshot->l1_entries * 8, &change->l1);
    if (ret >= 0) {
        ret = take_table(change, q->snapshots);
    }
    if (ret >= 0) {
        ret = qcow2_tree_raise(bs, q->l2.l1, q->header.l1_entries);
    }
    if (ret >= 0) {
        ret = create_raised(change, snapshot);
        if (ret < 0 && ret != -ENOTRECOVERABLE) {
            (void) qcow2_tree_lower(bs, q->l2.l1, q->header.l1_entries);
        }
    }
    if (ret < 0) {
        if (ret != -ENOTRECOVERABLE) {
            give_room(bs, &change->l1);
            give_room(bs, &change->table);
            (void) qcow2_tree_refresh_copied(bs); /* as far as the file lets us */
        }
        g_ptr_array_remove(q->snapshots, snapshot);
    } else {
        adopt_table(change);
        finish(bs, qcow2_co_commit_all(bs));
    }
    change->ret = ret;
}

/* -- the same snapshots, as we write them --------------------------------- */

static void coroutine_fn rewrite_entry(void *opaque)
{
    Change *change = opaque;
    BlockDriverState *bs = change->bs;
    const GPtrArray *snapshots = qcow2_state(bs)->snapshots;
    int ret = take_table(change, snapshots);

    if (ret >= 0) {
        ret = qcow2_co_commit_all(bs); /* its refcount before the pointer to it */
    }
    if (ret >= 0) {
        ret = switch_table(change, snapshots);
    }
    if (ret >= 0) {
        adopt_table(change);
        finish(bs, qcow2_co_commit_all(bs));
    } else if (ret != -ENOTRECOVERABLE) {
        give_room(bs, &change->table);
    }
    change->ret = ret;
}

/* -- finding -------------------------------------------------------------- */

static Qcow2Snapshot *find(const Qcow2State *q, const char *id, guint *index)
{
    for (guint i = 0; i < q->snapshots->len; i++) {
        Qcow2Snapshot *one = g_ptr_array_index(q->snapshots, i);

        if (strcmp(one->info.id, id) == 0) {
            *index = i;
            return one;
        }
    }
    return NULL;
}

Qcow2Snapshot *qcow2_snapshot_find(const BlockDriverState *bs, const char *id)
{
    guint index;

    return find(qcow2_state(bs), id, &index);
}

/* -- go to ---------------------------------------------------------------- */

/* The header's size and L1; -ENOTRECOVERABLE as above. */
static int coroutine_fn switch_l1(BlockDriverState *bs, int64_t size,
                                  int64_t offset, int64_t entries)
{
    const Qcow2Header *header = &qcow2_state(bs)->header;
    int ret = qcow2_header_co_write_l1(bs, size, offset, entries);

    if (ret >= 0) {
        ret = bdrv_co_flush(bs->file->bs);
    }
    if (ret < 0 &&
        (qcow2_header_co_write_l1(bs, header->size, header->l1_offset,
                                  header->l1_entries) < 0 ||
         bdrv_co_flush(bs->file->bs) < 0)) {
        return -ENOTRECOVERABLE;
    }
    return ret;
}

/* Memory follows the header; @l1 is taken over. */
static void coroutine_fn adopt_l1(BlockDriverState *bs, int64_t size,
                                  int64_t offset, uint64_t *l1,
                                  int64_t entries)
{
    Qcow2State *q = qcow2_state(bs);

    q->header.size = size;
    q->header.l1_offset = offset;
    q->header.l1_entries = entries;
    qcow2_l2_destroy(bs);
    qcow2_l2_init(bs, l1, entries);
    qcow2_set_range(q, QCOW2_RANGE_L1, offset, entries * 8);
    __atomic_store_n(&bs->length, size, __ATOMIC_RELEASE);
}

/* @l1 has the snapshot's entries, and room for @entries. */
static int coroutine_fn go_to_l1(Change *change, uint64_t *l1,
                                 int64_t entries, int64_t size)
{
    BlockDriverState *bs = change->bs;
    Qcow2State *q = qcow2_state(bs);
    int64_t old_offset = q->header.l1_offset;
    int64_t old_entries = q->header.l1_entries;
    g_autofree uint64_t *old = g_memdup2(q->l2.l1, MAX(old_entries, 1) * 8);
    int ret = take_room(bs, entries * 8, &change->l1);

    if (ret < 0) {
        return ret;
    }
    ret = qcow2_tree_raise(bs, l1, entries);
    if (ret >= 0) {
        ret = qcow2_co_commit_all(bs);
        if (ret >= 0) {
            ret = write_l1(bs, change->l1.offset, l1, entries);
        }
        if (ret >= 0) {
            ret = bdrv_co_flush(bs->file->bs);
        }
        if (ret >= 0) {
            ret = switch_l1(bs, size, change->l1.offset, entries);
        }
        if (ret < 0 && ret != -ENOTRECOVERABLE) {
            (void) qcow2_tree_lower(bs, l1, entries);
        }
    }
    if (ret < 0) {
        if (ret != -ENOTRECOVERABLE) {
            give_room(bs, &change->l1);
            (void) qcow2_co_commit_all(bs);
        }
        return ret;
    }
    adopt_l1(bs, size, change->l1.offset, g_memdup2(l1, MAX(entries, 1) * 8),
             entries);
    ret = qcow2_tree_lower(bs, old, old_entries);
    qcow2_tree_lower_range(bs, old_offset, old_entries * 8, QCOW2_FREE_SNAPSHOT);
    qcow2_inflater_invalidate(q->inflater);
    finish(bs, ret < 0 ? ret : qcow2_tree_refresh_copied(bs));
    return 0;
}

uint64_t *coroutine_fn qcow2_snapshot_co_read_l1(BlockDriverState *bs,
                                                 const Qcow2Snapshot *snapshot,
                                                 int64_t *ret_entries,
                                                 int64_t *ret_size, int *ret)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t reach = q->cluster_bytes << q->l2_bits;
    int64_t size = snapshot->info.disk_bytes >= 0 ? snapshot->info.disk_bytes
                                                  : q->header.size;
    int64_t entries = MAX(snapshot->l1_entries, div_round_up(size, reach));
    uint64_t *l1 = qcow2_co_read_l1(bs, snapshot->l1_offset,
                                    snapshot->l1_entries, ret);

    if (l1) {
        l1 = g_renew(uint64_t, l1, MAX(entries, 1));
        memset(l1 + snapshot->l1_entries, 0,
               (entries - snapshot->l1_entries) * 8);
        for (int64_t i = 0; i < entries; i++) {
            l1[i] &= ~QCOW2_ENTRY_COPIED;
        }
    }
    *ret_entries = entries;
    *ret_size = size;
    return l1;
}

static void coroutine_fn go_to_entry(void *opaque)
{
    Change *change = opaque;
    BlockDriverState *bs = change->bs;
    g_autofree uint64_t *l1 = NULL;
    int64_t entries, size;
    guint index;
    Qcow2Snapshot *snapshot = find(qcow2_state(bs), change->id, &index);

    l1 = qcow2_snapshot_co_read_l1(bs, snapshot, &entries, &size, &change->ret);
    if (l1) {
        change->ret = go_to_l1(change, l1, entries, size);
    }
}

/* -- remove --------------------------------------------------------------- */

static void coroutine_fn remove_entry(void *opaque)
{
    Change *change = opaque;
    BlockDriverState *bs = change->bs;
    Qcow2State *q = qcow2_state(bs);
    g_autofree uint64_t *l1 = NULL;
    guint index = 0;
    Qcow2Snapshot *snapshot = find(q, change->id, &index);
    int ret = 0;

    l1 = qcow2_co_read_l1(bs, snapshot->l1_offset, snapshot->l1_entries,
                          &ret);
    if (l1) {
        q->snapshots->pdata[index] = NULL;
        ret = take_table(change, q->snapshots);
        if (ret >= 0) {
            ret = qcow2_co_commit_all(bs); /* the table's own counts first (S1) */
            ret = ret < 0 ? ret : switch_table(change, q->snapshots);
            if (ret < 0 && ret != -ENOTRECOVERABLE) {
                give_room(bs, &change->table);
                (void) qcow2_co_commit_all(bs);
            }
        }
        q->snapshots->pdata[index] = snapshot;
    }
    if (ret >= 0) {
        int64_t l1_offset = snapshot->l1_offset;
        int64_t l1_entries = snapshot->l1_entries;

        g_ptr_array_remove_index(q->snapshots, index);
        adopt_table(change);
        ret = qcow2_tree_lower(bs, l1, l1_entries);
        qcow2_tree_lower_range(bs, l1_offset, l1_entries * 8, QCOW2_FREE_SNAPSHOT);
        qcow2_inflater_invalidate(q->inflater);
        finish(bs, ret < 0 ? ret : qcow2_tree_refresh_copied(bs));
        ret = 0;
    }
    change->ret = ret;
}

/* -- the driver's table --------------------------------------------------- */

typedef struct Prepare {
    BlockDriverState *bs;
    int ret;
} Prepare;

static void coroutine_fn prepare_entry(void *opaque)
{
    Prepare *prepare = opaque;

    prepare->ret = qcow2_prepare_write(prepare->bs);
}

static bool run(BlockDriverState *bs, CoEntry *entry, Change *change,
                const char *what, GError **error)
{
    Prepare prepare = { bs, 0 };
    int ret;

    if (qcow2_has_data_file(qcow2_state(bs))) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: %s: an image with an external data file cannot have "
                    "snapshots", bdrv_name(bs), what);
        return false;
    }
    aio_run_sync(prepare_entry, &prepare);
    ret = prepare.ret < 0 ? prepare.ret : qcow2_commit_all(bs);
    if (ret >= 0) {
        change->bs = bs;
        aio_run_sync(entry, change);
        ret = change->ret;
    }
    if (ret == -ERANGE) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: %s: refcounts of %u bits have no room for another "
                    "snapshot", bdrv_name(bs), what,
                    1u << qcow2_state(bs)->header.refcount_order);
    } else if (ret < 0) {
        error_set_errno(error, -ret, "%s: %s", bdrv_name(bs), what);
    }
    return ret >= 0;
}

bool qcow2_snapshots_rewrite(BlockDriverState *bs, GError **error)
{
    Change change = { .bs = NULL };

    return qcow2_state(bs)->header.snapshots == 0 ||
           run(bs, rewrite_entry, &change, "writing the snapshot table anew",
               error);
}

static bool qcow2_snapshot_create(BlockDriverState *bs, const char *name,
                                  GError **error)
{
    Change change = { .name = name };

    if (strlen(name) > UINT16_MAX) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "the snapshot's name is longer than %d bytes",
                    UINT16_MAX);
        return false;
    }
    return run(bs, create_entry, &change, "making a snapshot", error);
}

static bool qcow2_snapshot_go_to(BlockDriverState *bs, const char *id,
                                 GError **error)
{
    Change change = { .id = id };
    guint bitmaps = qcow2_state(bs)->bitmaps->len;

    if (bitmaps > 0) {
        /* They say what was written, not what going back changes. */
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CONFLICT,
                    "%s: an image with %u bitmaps cannot go back to a "
                    "snapshot; remove them first (bitmap --remove)",
                    bdrv_name(bs), bitmaps);
        return false;
    }
    return run(bs, go_to_entry, &change, "going back to a snapshot", error);
}

static bool qcow2_snapshot_remove(BlockDriverState *bs, const char *id,
                                  GError **error)
{
    Change change = { .id = id };

    if (qcow2_view_exists(bs, id)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CONFLICT,
                    "%s: snapshot %s is being read", bdrv_name(bs), id);
        return false;
    }
    return run(bs, remove_entry, &change, "removing a snapshot", error);
}

static const GPtrArray *qcow2_snapshot_list(BlockDriverState *bs)
{
    return qcow2_state(bs)->snapshots;
}

static void coroutine_fn load_tmp_entry(void *opaque)
{
    Change *change = opaque;
    BlockDriverState *bs = change->bs;
    Qcow2State *q = qcow2_state(bs);
    int64_t entries, size;
    guint index;
    uint64_t *l1 = qcow2_snapshot_co_read_l1(bs, find(q, change->id, &index),
                                    &entries, &size, &change->ret);

    if (l1) {
        /* The header in memory is of no use any more: nothing is written. */
        adopt_l1(bs, size, q->header.l1_offset, l1, entries);
    }
}

static bool qcow2_snapshot_load_tmp(BlockDriverState *bs, const char *id,
                                    GError **error)
{
    Change change = { .bs = bs, .id = id };

    aio_run_sync(load_tmp_entry, &change);
    if (change.ret < 0) {
        error_set_errno(error, -change.ret, "%s: reading the snapshot",
                        bdrv_name(bs));
    }
    return change.ret >= 0;
}

const BlockSnapshotOps qcow2_snapshot_ops = {
    .create = qcow2_snapshot_create,
    .go_to = qcow2_snapshot_go_to,
    .remove = qcow2_snapshot_remove,
    .list = qcow2_snapshot_list,
    .load_tmp = qcow2_snapshot_load_tmp,
    .view_open = qcow2_view_open,
    .view_close = qcow2_view_close,
    .co_view_preadv = qcow2_view_co_preadv,
    .co_view_block_status = qcow2_view_co_block_status,
};
