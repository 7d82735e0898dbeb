/* SPDX-License-Identifier: MIT */
/*
 * operation blockers: "not now, because"
 *
 * Permissions say what requests may do; they cannot say that two long
 * operations on one node make no sense together (a commit out of what a stream
 * fills, a resize of a mirror's source). For those there are names, and
 * whoever works on a node blocks the ones it could not bear, with a reason
 * that the refused user gets to read.
 *
 * Control plane, but for bdrv_op_is_blocked_now().
 */
#ifndef BLOCK_GRAPH_OP_BLOCKER_H
#define BLOCK_GRAPH_OP_BLOCKER_H

#include "block/types.h"

typedef enum BdrvOp {
    BDRV_OP_RESIZE,
    BDRV_OP_COMMIT_SOURCE, /* its content goes down a layer */
    BDRV_OP_COMMIT_TARGET, /* it receives a layer's content */
    BDRV_OP_STREAM,        /* it is filled from below */
    BDRV_OP_MIRROR_SOURCE,
    BDRV_OP_MIRROR_TARGET,
    BDRV_OP_BACKUP_SOURCE,
    BDRV_OP_BACKUP_TARGET,
    BDRV_OP_SNAPSHOT,      /* internal snapshots: create, apply, delete */
    BDRV_OP_CHANGE_BACKING,
    BDRV_OP_REPLACE,       /* its users go to another node */
    BDRV_OP_REOPEN,        /* between read-only and read-write */
    BDRV_OP_NEW_USER,      /* one more edge ends at it */
    BDRV_OP_COUNT,
} BdrvOp;

/*
 * bdrv_op_block, bdrv_op_block_all:
 * Until the same @owner unblocks, @op (every operation) on @bs is refused with
 * @reason, a clause such as "commit 'job0' works on it". @owner is only
 * compared; it holds a count of @bs. An owner blocks an operation once.
 */
void bdrv_op_block(BlockDriverState *bs, BdrvOp op, const void *owner,
                   const char *reason);
void bdrv_op_block_all(BlockDriverState *bs, const void *owner,
                       const char *reason);

/* Takes back what @owner blocked; harmless where it blocked nothing. */
void bdrv_op_unblock(BlockDriverState *bs, BdrvOp op, const void *owner);
void bdrv_op_unblock_all(BlockDriverState *bs, const void *owner);

/* True: @op may not be begun on @bs, and @error is CONFLICT with the reason. */
bool bdrv_op_is_blocked(const BlockDriverState *bs, BdrvOp op, GError **error);

/* The same for requests: without the reason, any thread. */
bool bdrv_op_is_blocked_now(const BlockDriverState *bs, BdrvOp op);

/* "mirror source"; a constant. */
const char *bdrv_op_name(BdrvOp op);

#endif
