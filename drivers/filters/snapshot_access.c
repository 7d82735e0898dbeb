/* SPDX-License-Identifier: MIT */
/*
 * snapshot-access: shows another node's snapshot as a node of its own
 *
 * The node given as `file` keeps the old data (copy-before-write);
 * here its second view becomes an ordinary node that can be mounted, copied or
 * exported while the guest goes on writing. It cannot be written to. A discard
 * (when opened for writing) tells it that a part is no longer needed.
 *
 * Locking: none; the state is constant after open.
 */
#include "drivers/registry.h"

#include "block/graph/open.h"
#include "block/io/io.h"

#include <errno.h>

static bool snapshot_access_open(BlockDriverState *bs, BlockOptions *options,
                                 BdrvOpenFlags flags, GError **error)
{
    BdrvChild *child;

    if (!bdrv_open_child(bs, options, "file",
                         BDRV_CHILD_DATA | BDRV_CHILD_PRIMARY,
                         /* required= */ true, &child, error)) {
        return false;
    }
    if (!bdrv_has_snapshot_access(child->bs)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "driver '%s' keeps no snapshot to show",
                    child->bs->drv->format_name);
        return false;
    }
    bs->length = bdrv_snapshot_length(child->bs);
    return true;
}

/* The snapshot does not change with the node: whoever may write that. */
static void snapshot_access_child_perm(BlockDriverState *bs, BdrvChild *child,
                                       BdrvChildRole role, uint32_t perm,
                                       uint32_t shared, uint32_t *ret_perm,
                                       uint32_t *ret_shared)
{
    *ret_perm = BLK_PERM_CONSISTENT_READ;
    *ret_shared = BLK_PERM_ALL;
}

static int coroutine_fn snapshot_access_co_preadv(BlockDriverState *bs,
                                                  int64_t offset,
                                                  int64_t bytes, IoVec *iov,
                                                  size_t iov_offset,
                                                  BdrvRequestFlags flags)
{
    return bdrv_co_preadv_snapshot(bs->file, offset, bytes, iov, iov_offset);
}

static int coroutine_fn snapshot_access_co_block_status(
    BlockDriverState *bs, bool want_zero, int64_t offset, int64_t bytes,
    BlockStatus *ret_status)
{
    int ret = bdrv_co_snapshot_block_status(bs->file, want_zero, offset,
                                            bytes, ret_status);

    if (ret == 0) {
        /* Where it is now says nothing: the next write may move it. */
        ret_status->flags &= BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO;
        ret_status->flags |= BDRV_BLOCK_ALLOCATED;
        ret_status->file = NULL;
    }
    return ret;
}

static int coroutine_fn snapshot_access_co_pdiscard(BlockDriverState *bs,
                                                    int64_t offset,
                                                    int64_t bytes)
{
    return bdrv_co_pdiscard_snapshot(bs->file, offset, bytes);
}

/* The old data's share of the medium is not known. */
static int64_t coroutine_fn snapshot_access_co_get_allocated_file_size(
    BlockDriverState *bs)
{
    return -ENOTSUP;
}

static const BlockPermOps snapshot_access_perm = {
    .child_perm = snapshot_access_child_perm,
};

const BlockDriver bdrv_snapshot_access = {
    .format_name = "snapshot-access",
    .open = snapshot_access_open,
    .perm = &snapshot_access_perm,
    .co_preadv = snapshot_access_co_preadv,
    .co_block_status = snapshot_access_co_block_status,
    .co_pdiscard = snapshot_access_co_pdiscard,
    .co_get_allocated_file_size = snapshot_access_co_get_allocated_file_size,
};
