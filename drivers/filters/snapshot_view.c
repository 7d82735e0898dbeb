/* SPDX-License-Identifier: MIT */
/*
 * snapshot-view: shows an internal snapshot of another node, read-only, while
 * that node goes on being written
 *
 *   image's users ─▶ image (qcow2) ◀─file─ snapshot-view ◀─ who reads the past
 *
 * The image is opened once; this node is one more user of it, so draining the
 * image (to make or remove a snapshot) holds readers of the past back, too.
 * How old data is found, and kept, is the format's business
 * (block/image/snapshot.h).
 *
 * Locking: none; the state is constant after open.
 */
#include "drivers/registry.h"

#include "block/graph/open.h"
#include "block/image/snapshot.h"
#include "block/io/io.h"

#include <errno.h>

typedef struct ViewState {
    BlockSnapshotView *view; /* of bs->file's node */
} ViewState;

static bool snapshot_view_open(BlockDriverState *bs, BlockOptions *options,
                               BdrvOpenFlags flags, GError **error)
{
    ViewState *state = bs->opaque;
    g_autofree char *name = NULL;
    BdrvChild *child;

    if (!block_options_take_string(options, "snapshot-name", &name, error)) {
        return false;
    }
    if (!name) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "driver 'snapshot-view' needs option 'snapshot-name'");
        return false;
    }
    if (flags & BDRV_O_RDWR) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_DENIED,
                    "a snapshot cannot be written, open it read-only");
        return false;
    }
    if (!bdrv_open_child(bs, options, "file",
                         BDRV_CHILD_DATA | BDRV_CHILD_PRIMARY,
                         /* required= */ true, &child, error)) {
        return false;
    }
    state->view = bdrv_snapshot_view_open(child->bs, name, error);
    if (!state->view) {
        return false;
    }
    bs->length = state->view->length;
    return true;
}

static void snapshot_view_close(BlockDriverState *bs)
{
    ViewState *state = bs->opaque;

    bdrv_snapshot_view_close(bs->file->bs, state->view);
}

/* The past does not change: whoever wants may write the present. */
static void snapshot_view_child_perm(BlockDriverState *bs, BdrvChild *child,
                                     BdrvChildRole role, uint32_t perm,
                                     uint32_t shared, uint32_t *ret_perm,
                                     uint32_t *ret_shared)
{
    *ret_perm = BLK_PERM_CONSISTENT_READ;
    *ret_shared = BLK_PERM_ALL;
}

static int coroutine_fn snapshot_view_co_preadv(BlockDriverState *bs,
                                                int64_t offset, int64_t bytes,
                                                IoVec *iov, size_t iov_offset,
                                                BdrvRequestFlags flags)
{
    ViewState *state = bs->opaque;

    return bdrv_co_snapshot_view_preadv(bs->file->bs, state->view, offset,
                                        bytes, iov, iov_offset);
}

static int coroutine_fn snapshot_view_co_block_status(
    BlockDriverState *bs, bool want_zero, int64_t offset, int64_t bytes,
    BlockStatus *ret_status)
{
    ViewState *state = bs->opaque;
    int ret = bdrv_co_snapshot_view_status(bs->file->bs, state->view,
                                           want_zero, offset, bytes,
                                           ret_status);

    if (ret == 0) {
        /* Where it lies is the format's own affair. */
        ret_status->flags &= BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO;
        ret_status->flags |= BDRV_BLOCK_ALLOCATED;
        ret_status->file = NULL;
    }
    return ret;
}

/* How much of the file is the snapshot's cannot be told quickly. */
static int64_t coroutine_fn snapshot_view_co_get_allocated_file_size(
    BlockDriverState *bs)
{
    return -ENOTSUP;
}

static const BlockOptionDesc snapshot_view_options[] = {
    { "file", BLOCK_OPTION_CHILD, "the image that has the snapshot", NULL,
      NULL, false, false },
    { "snapshot-name", BLOCK_OPTION_STRING, "id or name of the snapshot", NULL,
      NULL, false, false },
    { NULL, BLOCK_OPTION_STRING, NULL, NULL, NULL, false, false },
};

static const BlockPermOps snapshot_view_perm = {
    .child_perm = snapshot_view_child_perm,
};

const BlockDriver bdrv_snapshot_view = {
    .format_name = "snapshot-view",
    .instance_size = sizeof(ViewState),
    .options = snapshot_view_options,
    .open = snapshot_view_open,
    .close = snapshot_view_close,
    .perm = &snapshot_view_perm,
    .co_preadv = snapshot_view_co_preadv,
    .co_block_status = snapshot_view_co_block_status,
    .co_get_allocated_file_size = snapshot_view_co_get_allocated_file_size,
};
