/* SPDX-License-Identifier: MIT */
/*
 * snapshot access: the checks before a driver's second view is asked
 *
 * The range and the driver are checked here; consistency is the driver's.
 *
 * Locking: none.
 */
#include "block/io/snapshot_access.h"

#include "block/driver.h"
#include "block/graph/edge.h"

#include <errno.h>

bool bdrv_has_snapshot_access(const BlockDriverState *bs)
{
    return bs->drv != NULL && bs->drv->snapshot_access != NULL;
}

int64_t bdrv_snapshot_length(BlockDriverState *bs)
{
    return bdrv_has_snapshot_access(bs)
        ? bs->drv->snapshot_access->snapshot_length(bs) : -ENOTSUP;
}

/* 0 or -errno: may the view of @bs be asked about the range? */
static int check(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    if (bs->drv == NULL) {
        return -ENOMEDIUM;
    }
    if (bs->drv->snapshot_access == NULL) {
        return -ENOTSUP;
    }
    if (offset < 0 || bytes < 0 ||
        !range_within(offset, bytes, bdrv_snapshot_length(bs))) {
        return -EINVAL;
    }
    return 0;
}

int coroutine_fn bdrv_co_preadv_snapshot(BdrvChild *child, int64_t offset,
                                         int64_t bytes, IoVec *iov,
                                         size_t iov_offset)
{
    BlockDriverState *bs = child->bs;
    int ret = check(bs, offset, bytes);

    if (ret < 0 || bytes == 0) {
        return ret;
    }
    return bs->drv->snapshot_access->co_preadv_snapshot(bs, offset, bytes,
                                                        iov, iov_offset);
}

int coroutine_fn bdrv_co_snapshot_block_status(BdrvChild *child,
                                               bool want_zero, int64_t offset,
                                               int64_t bytes,
                                               BlockStatus *ret_status)
{
    BlockDriverState *bs = child->bs;
    int ret = check(bs, offset, bytes);

    if (ret < 0) {
        return ret;
    }
    return bs->drv->snapshot_access->co_snapshot_block_status(
        bs, want_zero, offset, bytes, ret_status);
}

int coroutine_fn bdrv_co_pdiscard_snapshot(BdrvChild *child, int64_t offset,
                                           int64_t bytes)
{
    BlockDriverState *bs = child->bs;
    int ret = check(bs, offset, bytes);

    if (ret < 0 || bytes == 0) {
        return ret;
    }
    return bs->drv->snapshot_access->co_pdiscard_snapshot(bs, offset, bytes);
}

int coroutine_fn bdrv_co_keep_snapshot(BdrvChild *child, int64_t offset,
                                       int64_t bytes)
{
    BlockDriverState *bs = child->bs;
    int ret = check(bs, offset, bytes);

    if (ret < 0 || bytes == 0 ||
        bs->drv->snapshot_access->co_keep_snapshot == NULL) {
        return ret;
    }
    return bs->drv->snapshot_access->co_keep_snapshot(bs, offset, bytes);
}
