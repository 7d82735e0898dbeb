/* SPDX-License-Identifier: MIT */
/*
 * internal snapshots of a qcow2 image
 *
 * snapshot_table.c knows the table on disk, snapshot.c what making, taking and
 * removing a snapshot does to L1 tables and refcounts.
 */
#ifndef DRIVERS_QCOW2_SNAPSHOT_H
#define DRIVERS_QCOW2_SNAPSHOT_H

#include "block/image/snapshot.h"

typedef struct Qcow2Snapshot {
    BlockSnapshot info; /* first: the driver's list is a list of these */
    int64_t l1_offset;
    int64_t l1_entries;
    GBytes *more_extra; /* extra data that we do not know; NULL: none */
} Qcow2Snapshot;

void qcow2_snapshot_free(Qcow2Snapshot *snapshot);
/* Without its L1. */
Qcow2Snapshot *qcow2_snapshot_new(const char *id, const char *name);

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

/* An L1 table of the file in host byte order. NULL: *ret_error. Coroutine. */
uint64_t *coroutine_fn qcow2_co_read_l1(BlockDriverState *bs,
                                        int64_t host_offset, int64_t entries,
                                        int *ret_error);

/* For the driver's table. */
extern const BlockSnapshotOps qcow2_snapshot_ops;

#endif
