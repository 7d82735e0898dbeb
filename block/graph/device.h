/* SPDX-License-Identifier: MIT */
/*
 * what lies below an image: the device's sectors, its geometry, its medium
 *
 * Filters and raw images show their file's device as their own, other formats
 * have none of their own; the medium is that of the file, whatever the format.
 */
#ifndef BLOCK_GRAPH_DEVICE_H
#define BLOCK_GRAPH_DEVICE_H

#include "block/driver.h"

/*
 * 0, or -ENOTSUP when no device is shown or it does not know; the result is
 * set on success only. Control plane.
 */
int bdrv_probe_blocksizes(BlockDriverState *bs, BlockSizes *ret_sizes);
int bdrv_probe_geometry(BlockDriverState *bs, BlockGeometry *ret_geometry);

/* As the member of BlockDriver; -ENOMEDIUM without a driver. Coroutine. */
int coroutine_fn bdrv_co_ioctl(BlockDriverState *bs, unsigned long request,
                               void *argument);

/* Is there something to read? True for all but drives that are empty. */
bool bdrv_is_inserted(BlockDriverState *bs);
/* As the members of BlockMediaOps; -ENOTSUP when it is no such drive. */
int bdrv_eject(BlockDriverState *bs, bool out);
int bdrv_lock_medium(BlockDriverState *bs, bool locked);

#endif
