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

/* Oldest first, until the node changes; NULL: the format has none. */
const GPtrArray *bdrv_snapshot_list(BlockDriverState *bs);

#endif
