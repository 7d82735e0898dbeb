/* SPDX-License-Identifier: MIT */
/*
 * what nobody has used for long leaves the caches of a qcow2 image
 *
 * All functions: control plane, on the thread that opened the image.
 */
#ifndef DRIVERS_QCOW2_CACHE_CLEAN_H
#define DRIVERS_QCOW2_CACHE_CLEAN_H

#include "block/types.h"

/* The image is open: begins, unless the interval is 0. */
void qcow2_cache_clean_init(BlockDriverState *bs);

/*
 * For draining: a drained node has no timer; afterwards the interval counts
 * from the start, as the options say then. Harmless before init.
 */
void qcow2_cache_clean_stop(BlockDriverState *bs);
void qcow2_cache_clean_start(BlockDriverState *bs);

#endif
