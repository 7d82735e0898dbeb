/* SPDX-License-Identifier: MIT */
/*
 * BlockLimits of a node: merged from its children, narrowed by its driver,
 * completed and checked. Control plane, node drained.
 */
#ifndef BLOCK_IO_LIMITS_H
#define BLOCK_IO_LIMITS_H

#include "block/types.h"

/*
 * bdrv_refresh_limits:
 * Recomputes @bs->limits (and, up the graph, those of its parents when they
 * changed). FAILED when the driver published something illegal, such as an
 * alignment that is no power of two.
 */
bool bdrv_refresh_limits(BlockDriverState *bs, GError **error);

/* Buffers for @bs should have this alignment; at least 1. Any thread. */
size_t bdrv_mem_alignment(const BlockDriverState *bs);

#endif
