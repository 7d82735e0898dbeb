/* SPDX-License-Identifier: MIT */
/*
 * is this host range metadata?
 *
 * The cheap part, for writes in place, is qcow2_hits_main_metadata() in
 * qcow2.h. This is the full one, for clusters that are about to be allocated:
 * a refcount of 0 may be a lie.
 */
#ifndef DRIVERS_QCOW2_OVERLAP_H
#define DRIVERS_QCOW2_OVERLAP_H

#include "block/types.h"

/*
 * qcow2_overlaps_metadata:
 * Does the host range touch a structure that we know of: header, L1, refcount
 * table and blocks, snapshot table, the L2 tables that the L1 names?
 * *ret_what (may be NULL) names it. No I/O; lock held.
 */
bool qcow2_overlaps_metadata(BlockDriverState *bs, int64_t host_offset,
                             int64_t bytes, const char **ret_what);

/*
 * Drops the index behind it (q->overlap_index): before closing, and when the
 * tables were read anew. Lock held, or nobody else there.
 */
void qcow2_overlap_forget(BlockDriverState *bs);

#endif
