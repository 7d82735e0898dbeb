/* SPDX-License-Identifier: MIT */
/*
 * what an L1 table of a qcow2 image names, as a whole: references and COPIED
 *
 * All functions: coroutine, the node drained, no lock held. @l1 has
 * @l1_entries in host byte order, COPIED or not.
 */
#ifndef DRIVERS_QCOW2_SNAPSHOT_TREE_H
#define DRIVERS_QCOW2_SNAPSHOT_TREE_H

#include "drivers/qcow2/qcow2.h"

/*
 * qcow2_tree_raise:
 * One reference more to every cluster below @l1; or -errno, and none has.
 * -ERANGE: a count has no room; -EIO: a table, or a pointer, is damaged.
 */
int coroutine_fn qcow2_tree_raise(BlockDriverState *bs, const uint64_t *l1,
                                  int64_t l1_entries);

/*
 * qcow2_tree_lower:
 * One reference less to every cluster below @l1, as far as it can be read.
 * Nothing on disk names @l1 any more. -errno: of a commit on the way.
 */
int coroutine_fn qcow2_tree_lower(BlockDriverState *bs, const uint64_t *l1,
                                  int64_t l1_entries);

/* The same for the clusters of a range, such as the L1 table itself. */
void coroutine_fn qcow2_tree_lower_range(BlockDriverState *bs,
                                         int64_t host_offset, int64_t bytes,
                                         Qcow2FreeReason reason);

/*
 * qcow2_tree_refresh_copied:
 * Sets or clears COPIED in all active tables by the counts, which are on disk
 * before and after: nothing is dirty. 0 or -errno.
 */
int coroutine_fn qcow2_tree_refresh_copied(BlockDriverState *bs);

#endif
