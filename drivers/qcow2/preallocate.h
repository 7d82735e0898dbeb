/* SPDX-License-Identifier: MIT */
/*
 * clusters that are there before anybody writes to them
 */
#ifndef DRIVERS_QCOW2_PREALLOCATE_H
#define DRIVERS_QCOW2_PREALLOCATE_H

#include "drivers/qcow2/qcow2.h"

/*
 * qcow2_preallocate:
 * Maps each guest cluster of [@offset, @end) that has no host cluster to one
 * that reads zeros: by metadata only, with room reserved (falloc), or with
 * zeros written (full). Both are cluster-aligned; L1 reaches that far, and
 * nobody else uses the range. Coroutine, lock not held. On failure what was
 * done stays.
 */
int coroutine_fn qcow2_preallocate(BlockDriverState *bs, int64_t offset,
                                   int64_t end, BdrvPreallocMode prealloc);

#endif
