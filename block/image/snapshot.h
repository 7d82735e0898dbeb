/* SPDX-License-Identifier: MIT */
/*
 * internal snapshots: states of a disk that an image keeps beside the current
 * one
 *
 * Control plane. Each call drains the node that has them (filters above are
 * skipped), so it is safe on a live mount; what clients have cached of a disk
 * that went back is theirs to drop.
 */
#ifndef BLOCK_IMAGE_SNAPSHOT_H
#define BLOCK_IMAGE_SNAPSHOT_H

#include "block/types.h"

/* One of them; owned by the list that it is in. */
typedef struct BlockSnapshot {
    char *id;   /* unique */
    char *name;
    int64_t date_sec; /* since 1970 */
    int64_t date_nsec;
    uint64_t vm_clock_nsec;
    int64_t vm_state_bytes;
    int64_t disk_bytes; /* virtual size at that time; -1: not said */
    int64_t icount;     /* -1: not recorded */
} BlockSnapshot;

/* A snapshot opened for reading beside its image; the driver adds its own. */
typedef struct BlockSnapshotView {
    char *id;
    int64_t length; /* bytes, constant */
} BlockSnapshotView;

/*
 * For the driver's table; control plane, node drained. Names were checked:
 * create's is new, the others' is an existing id. On failure the image is as
 * it was (space may be leaked, no more).
 */
typedef struct BlockSnapshotOps BlockSnapshotOps;
struct BlockSnapshotOps {
    /* The current state gets a name. */
    bool (*create)(BlockDriverState *bs, const char *name, GError **error);
    /* The snapshot's state, and size, become the current one. */
    bool (*go_to)(BlockDriverState *bs, const char *id, GError **error);
    bool (*remove)(BlockDriverState *bs, const char *id, GError **error);
    /* Oldest first, of BlockSnapshot; the driver's own. NULL: none. */
    const GPtrArray *(*list)(BlockDriverState *bs);
    /* A read-only node shows the snapshot from now on. */
    bool (*load_tmp)(BlockDriverState *bs, const char *id, GError **error);
    /*
     * A second look at the node's file, by the snapshot's own tables, while
     * the node is being used and written; the node need not be drained. As
     * long as a view is open remove fails with CONFLICT; every other
     * operation leaves what it shows alone. NULL: not offered.
     */
    BlockSnapshotView *(*view_open)(BlockDriverState *bs, const char *id,
                                    GError **error);
    void (*view_close)(BlockDriverState *bs, BlockSnapshotView *view);
    /*
     * Coroutine, any I/O thread, many at a time; the range is within the
     * view's length. The view's user is a parent of the node and drained
     * with it. Status: DATA or ZERO, backing files included.
     */
    int coroutine_fn (*co_view_preadv)(BlockDriverState *bs,
                                       BlockSnapshotView *view,
                                       int64_t offset, int64_t bytes,
                                       IoVec *iov, size_t iov_offset);
    int coroutine_fn (*co_view_block_status)(BlockDriverState *bs,
                                             BlockSnapshotView *view,
                                             bool want_zero, int64_t offset,
                                             int64_t bytes,
                                             BlockStatus *ret_status);
};

/*
 * @name: a snapshot's id or name, ids first. False with UNSUPPORTED when the
 * format has no snapshots, OPTION when there is no (or, for create, is
 * already) such a snapshot, DENIED on a read-only node.
 */
bool bdrv_snapshot_create(BlockDriverState *bs, const char *name,
                          GError **error);
bool bdrv_snapshot_goto(BlockDriverState *bs, const char *name,
                        GError **error);
bool bdrv_snapshot_remove(BlockDriverState *bs, const char *name,
                          GError **error);
bool bdrv_snapshot_load_tmp(BlockDriverState *bs, const char *name,
                            GError **error);

/*
 * bdrv_snapshot_view_open:
 * For a parent of @bs that shows snapshot @name (id or name) of exactly this
 * node; filters are not skipped. UNSUPPORTED or OPTION as above. Close it
 * before the edge to @bs goes.
 */
BlockSnapshotView *bdrv_snapshot_view_open(BlockDriverState *bs,
                                           const char *name, GError **error);
/* NULL is harmless. */
void bdrv_snapshot_view_close(BlockDriverState *bs, BlockSnapshotView *view);
/* As the driver's operations above. */
int coroutine_fn bdrv_co_snapshot_view_preadv(BlockDriverState *bs,
                                              BlockSnapshotView *view,
                                              int64_t offset, int64_t bytes,
                                              IoVec *iov, size_t iov_offset);
int coroutine_fn bdrv_co_snapshot_view_status(BlockDriverState *bs,
                                              BlockSnapshotView *view,
                                              bool want_zero, int64_t offset,
                                              int64_t bytes,
                                              BlockStatus *ret_status);

/* Oldest first, until the node changes; NULL: the format has none. */
const GPtrArray *bdrv_snapshot_list(BlockDriverState *bs);

#endif
