/* SPDX-License-Identifier: MIT */
/*
 * internal snapshots of a qcow2 image
 *
 * snapshot_table.c knows the table on disk, snapshot_tree.c what is below an L1
 * table, snapshot.c in which order a snapshot is made, taken and removed.
 */
#ifndef DRIVERS_QCOW2_SNAPSHOT_H
#define DRIVERS_QCOW2_SNAPSHOT_H

#include "block/image/snapshot.h"
#include "drivers/qcow2/format.h"

typedef struct Qcow2Snapshot {
    BlockSnapshot info; /* first: the driver's list is a list of these */
    int64_t l1_offset;
    int64_t l1_entries;
    GBytes *more_extra; /* extra data that we do not know; NULL: none */
} Qcow2Snapshot;

void qcow2_snapshot_free(Qcow2Snapshot *snapshot);
/* Without its L1. */
Qcow2Snapshot *qcow2_snapshot_new(const char *id, const char *name);
/* Of the table: @data is what follows @raw, as long as @raw says. */
Qcow2Snapshot *qcow2_snapshot_parse(const Qcow2RawSnapshot *raw,
                                    const uint8_t *data);

/*
 * qcow2_snapshots_load:
 * Reads the table that the header names into q->snapshots, and sets its
 * range. CORRUPT when it is damaged. Control plane.
 */
bool qcow2_snapshots_load(BlockDriverState *bs, GError **error);
void qcow2_snapshots_clear(BlockDriverState *bs);

/* The table on disk of @snapshots, but for NULL entries; *ret_count of them. */
GByteArray *qcow2_snapshots_encode(const GPtrArray *snapshots,
                                   uint32_t *ret_count);

/*
 * qcow2_snapshots_index:
 * Tells overlap.c which clusters are L1 and L2 tables of q->snapshots. Up to
 * a bound of 32 Mi entries: beyond it what an L2 entry may not hit is not
 * known completely. 0 or -errno. Coroutine.
 */
int coroutine_fn qcow2_snapshots_index(BlockDriverState *bs);

/* The same from the control plane, outside of coroutines. */
bool qcow2_snapshots_guard(BlockDriverState *bs, GError **error);

/*
 * qcow2_snapshots_rewrite:
 * Writes the snapshot table anew, with the extra data that version 3 demands.
 * Control plane, node drained.
 */
bool qcow2_snapshots_rewrite(BlockDriverState *bs, GError **error);

/* An L1 table of the file in host byte order. NULL: *ret_error. Coroutine. */
uint64_t *coroutine_fn qcow2_co_read_l1(BlockDriverState *bs,
                                        int64_t host_offset, int64_t entries,
                                        int *ret_error);

/* The snapshot with that id; NULL when there is none. */
Qcow2Snapshot *qcow2_snapshot_find(const BlockDriverState *bs,
                                   const char *id);

/*
 * The snapshot's L1 without COPIED, as long as its disk wants it, and the
 * disk's length. NULL: *ret_error. The caller frees. Coroutine.
 */
uint64_t *coroutine_fn qcow2_snapshot_co_read_l1(BlockDriverState *bs,
                                                 const Qcow2Snapshot *snapshot,
                                                 int64_t *ret_entries,
                                                 int64_t *ret_length,
                                                 int *ret_error);

/* view.c: reading a snapshot beside the image; see BlockSnapshotOps. */
BlockSnapshotView *qcow2_view_open(BlockDriverState *bs, const char *id,
                                   GError **error);
void qcow2_view_close(BlockDriverState *bs, BlockSnapshotView *view);
bool qcow2_view_exists(const BlockDriverState *bs, const char *id);
int coroutine_fn qcow2_view_co_preadv(BlockDriverState *bs,
                                      BlockSnapshotView *view, int64_t offset,
                                      int64_t bytes, IoVec *iov,
                                      size_t iov_offset);
int coroutine_fn qcow2_view_co_block_status(BlockDriverState *bs,
                                            BlockSnapshotView *view,
                                            bool want_zero, int64_t offset,
                                            int64_t bytes,
                                            BlockStatus *ret_status);

/* For the driver's table. */
extern const BlockSnapshotOps qcow2_snapshot_ops;

#endif
