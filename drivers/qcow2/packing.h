/* SPDX-License-Identifier: MIT */
/*
 * room for compressed clusters: several of them share a host cluster
 */
#ifndef DRIVERS_QCOW2_PACKING_H
#define DRIVERS_QCOW2_PACKING_H

#include "block/types.h"

/*
 * qcow2_pack:
 * @bytes (less than a cluster) anywhere in the file, with one reference on
 * each host cluster that they touch. 0, or as qcow2_alloc_clusters(). Giving
 * them back is the quarantine's, by their L2 entry. Coroutine, lock held.
 */
int coroutine_fn qcow2_pack(BlockDriverState *bs, int64_t bytes,
                            int64_t *ret_host_offset);

/* Takes back what was never published. Coroutine, lock held. */
void coroutine_fn qcow2_unpack(BlockDriverState *bs, int64_t host_offset,
                               int64_t bytes);

#endif
