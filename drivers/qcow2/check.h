/* SPDX-License-Identifier: MIT */
/*
 * checking a qcow2 image, and repairing what can be
 *
 * Repaired: leaks, wrong refcounts (in place, or by writing all refcount
 * structures anew), clusters that two active entries name (by copies), COPIED
 * flags, subcluster bitmaps that cannot be, entries of the snapshot table (a
 * snapshot whose L1 table is nowhere goes), the dirty and the corrupt bit. Not
 * repaired: pointers to nowhere - nobody knows what they meant.
 */
#ifndef DRIVERS_QCOW2_CHECK_H
#define DRIVERS_QCOW2_CHECK_H

#include "block/image/check.h"

typedef enum Qcow2CheckFix {
    QCOW2_FIX_LEAKS = BLOCK_CHECK_FIX_LEAKS,
    QCOW2_FIX_ERRORS = BLOCK_CHECK_FIX_ERRORS,
} Qcow2CheckFix;
typedef BlockCheckResult Qcow2CheckResult;

/*
 * qcow2_check:
 * Walks the image as it is in the file (bs->file) with the header in
 * qcow2_state(bs)->header; nothing may be dirty in memory (qcow2_commit_all).
 * A repair writes to the file and flushes, and clears the dirty and corrupt
 * bits when nothing is left to repair; the caller then calls qcow2_reload().
 * @ret_result: zeroed but for its report member. False only when the check
 * itself cannot go on. Control plane.
 * Memory: 4 bytes for each cluster in use, at most 2 GiB.
 */
bool qcow2_check(BlockDriverState *bs, Qcow2CheckFix fix,
                 Qcow2CheckResult *ret_result, GError **error);

/*
 * qcow2_change_refcount_order:
 * Writes all refcounts anew, 1 << @order bits each, behind the end of the
 * file; then the header names them, with one write: a crash leaves the old or
 * the new ones. Refused when the image has errors or a count no room; @only_try
 * tells just that. As for qcow2_check(): nothing dirty, qcow2_reload() after.
 */
bool qcow2_change_refcount_order(BlockDriverState *bs, unsigned order,
                                 bool only_try, GError **error);

/* For the driver's table: commit, qcow2_check, reload. */
extern const BlockCheckOps qcow2_check_ops;

#endif
