/* SPDX-License-Identifier: MIT */
/*
 * internal snapshots: finding the node and the snapshot, and keeping everybody
 * away while the driver works
 *
 * Locking: control plane.
 */
#include "block/image/snapshot.h"

#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/io/io.h"

#include <string.h>

static const BlockSnapshotOps *ops_of(BlockDriverState *bs, GError **error)
{
    if (!bs->drv || !bs->drv->snapshots) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: format '%s' has no internal snapshots",
                    bdrv_name(bs), bs->drv ? bs->drv->format_name : "none");
        return NULL;
    }
    return bs->drv->snapshots;
}

const GPtrArray *bdrv_snapshot_list(BlockDriverState *bs)
{
    bs = bdrv_skip_filters(bs);
    return bs->drv && bs->drv->snapshots ? bs->drv->snapshots->list(bs)
                                         : NULL;
}

static const BlockSnapshot *find(BlockDriverState *bs, const char *name)
{
    const GPtrArray *list = bdrv_snapshot_list(bs);
    const BlockSnapshot *found = NULL;

    for (guint i = 0; list && i < list->len; i++) {
        const BlockSnapshot *snapshot = g_ptr_array_index(list, i);

        if (strcmp(snapshot->id, name) == 0) {
            return snapshot;
        }
        if (!found && strcmp(snapshot->name, name) == 0) {
            found = snapshot;
        }
    }
    return found;
}

static bool check_writable(BlockDriverState *bs, GError **error)
{
    if (bs->read_only) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_DENIED,
                    "%s: is open read-only", bdrv_name(bs));
        return false;
    }
    return true;
}

bool bdrv_snapshot_create(BlockDriverState *bs, const char *name,
                          GError **error)
{
    const BlockSnapshotOps *ops;
    bool ok;

    bs = bdrv_skip_filters(bs);
    ops = ops_of(bs, error);
    if (!ops || !check_writable(bs, error)) {
        return false;
    }
    if (name[0] == '\0') {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "a snapshot needs a name");
        return false;
    }
    if (find(bs, name)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: snapshot '%s' exists already", bdrv_name(bs), name);
        return false;
    }
    bdrv_drained_begin(bs);
    ok = ops->create(bs, name, error);
    bdrv_drained_end(bs);
    return ok;
}

typedef bool SnapshotAction(BlockDriverState *bs, const char *id,
                            GError **error);

static const BlockSnapshot *find_or_tell(BlockDriverState *bs,
                                         const char *name, GError **error)
{
    const BlockSnapshot *snapshot = find(bs, name);

    if (!snapshot) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: there is no snapshot '%s'", bdrv_name(bs), name);
    }
    return snapshot;
}

static bool run_on(BlockDriverState *bs, const char *name,
                   SnapshotAction *action, GError **error)
{
    const BlockSnapshot *snapshot = find_or_tell(bs, name, error);
    g_autofree char *id = NULL;
    bool ok;

    if (!snapshot) {
        return false;
    }
    /* The list changes under the action. */
    id = g_strdup(snapshot->id);
    bdrv_drained_begin(bs);
    ok = action(bs, id, error);
    bdrv_drained_end(bs);
    return ok;
}

bool bdrv_snapshot_goto(BlockDriverState *bs, const char *name,
                        GError **error)
{
    const BlockSnapshotOps *ops;
    int64_t old_length;
    bool ok;

    bs = bdrv_skip_filters(bs);
    ops = ops_of(bs, error);
    if (!ops || !check_writable(bs, error)) {
        return false;
    }
    old_length = bdrv_node_length(bs);
    bdrv_drained_begin(bs);
    ok = run_on(bs, name, ops->go_to, error);
    if (ok && bdrv_node_length(bs) != old_length) {
        bdrv_length_changed(bs, old_length); /* filters, mounts above */
    }
    bdrv_drained_end(bs);
    return ok;
}

bool bdrv_snapshot_remove(BlockDriverState *bs, const char *name,
                          GError **error)
{
    const BlockSnapshotOps *ops;

    bs = bdrv_skip_filters(bs);
    ops = ops_of(bs, error);
    return ops && check_writable(bs, error) &&
           run_on(bs, name, ops->remove, error);
}

bool bdrv_snapshot_load_tmp(BlockDriverState *bs, const char *name,
                            GError **error)
{
    const BlockSnapshotOps *ops;

    bs = bdrv_skip_filters(bs);
    ops = ops_of(bs, error);
    if (ops && !bs->read_only) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_DENIED,
                    "%s: only a read-only node can show a snapshot",
                    bdrv_name(bs));
        return false;
    }
    return ops && run_on(bs, name, ops->load_tmp, error);
}

/* -- views ------------------------------------------------------------------ */

BlockSnapshotView *bdrv_snapshot_view_open(BlockDriverState *bs,
                                           const char *name, GError **error)
{
    const BlockSnapshotOps *ops = ops_of(bs, error);
    const BlockSnapshot *snapshot;

    if (!ops) {
        return NULL;
    }
    if (!ops->view_open) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: format '%s' cannot show snapshots beside the image",
                    bdrv_name(bs), bs->drv->format_name);
        return NULL;
    }
    snapshot = find_or_tell(bs, name, error);
    return snapshot ? ops->view_open(bs, snapshot->id, error) : NULL;
}

void bdrv_snapshot_view_close(BlockDriverState *bs, BlockSnapshotView *view)
{
    if (view) {
        bs->drv->snapshots->view_close(bs, view);
    }
}

int coroutine_fn bdrv_co_snapshot_view_preadv(BlockDriverState *bs,
                                              BlockSnapshotView *view,
                                              int64_t offset, int64_t bytes,
                                              IoVec *iov, size_t iov_offset)
{
    return bs->drv->snapshots->co_view_preadv(bs, view, offset, bytes, iov,
                                              iov_offset);
}

int coroutine_fn bdrv_co_snapshot_view_status(BlockDriverState *bs,
                                              BlockSnapshotView *view,
                                              bool want_zero, int64_t offset,
                                              int64_t bytes,
                                              BlockStatus *ret_status)
{
    return bs->drv->snapshots->co_view_block_status(bs, view, want_zero,
                                                    offset, bytes,
                                                    ret_status);
}
