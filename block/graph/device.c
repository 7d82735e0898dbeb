/* SPDX-License-Identifier: MIT */
/*
 * what lies below an image: asking the node that knows
 *
 * Locking: none; control plane, but for bdrv_co_ioctl().
 */
#include "block/graph/device.h"

#include "block/graph/edge.h"
#include "block/graph/node.h"

#include <errno.h>

int bdrv_probe_blocksizes(BlockDriverState *bs, BlockSizes *ret_sizes)
{
    return bs->drv ? bs->drv->probe_blocksizes(bs, ret_sizes) : -ENOTSUP;
}

int bdrv_probe_geometry(BlockDriverState *bs, BlockGeometry *ret_geometry)
{
    return bs->drv ? bs->drv->probe_geometry(bs, ret_geometry) : -ENOTSUP;
}

int coroutine_fn bdrv_co_ioctl(BlockDriverState *bs, unsigned long request,
                               void *argument)
{
    return bs->drv ? bs->drv->co_ioctl(bs, request, argument) : -ENOMEDIUM;
}

/* The first node down the files that is a drive; NULL when there is none. */
static BlockDriverState *find_drive(BlockDriverState *bs)
{
    while (bs && bs->drv && !bs->drv->media) {
        BdrvChild *below = bs->file ? bs->file : bdrv_filter_child(bs);

        bs = below ? below->bs : NULL;
    }
    return bs && bs->drv ? bs : NULL;
}

bool bdrv_is_inserted(BlockDriverState *bs)
{
    BlockDriverState *drive = find_drive(bs);

    return !drive || drive->drv->media->is_inserted(drive);
}

int bdrv_eject(BlockDriverState *bs, bool out)
{
    BlockDriverState *drive = find_drive(bs);

    return drive ? drive->drv->media->eject(drive, out) : -ENOTSUP;
}

int bdrv_lock_medium(BlockDriverState *bs, bool locked)
{
    BlockDriverState *drive = find_drive(bs);

    return drive ? drive->drv->media->lock_medium(drive, locked) : -ENOTSUP;
}
