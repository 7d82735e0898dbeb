/* SPDX-License-Identifier: MIT */
/*
 * operation blockers of nodes
 *
 * A short list per node, there only while somebody blocks something, and a
 * mask of what it blocks for those who may not look at the list.
 *
 * Always true outside a function of this file:
 *  O1  bit n of bs->blocked_ops is set exactly while a blocker of operation n
 *      is in the list;
 *  O2  bs->op_blockers is NULL, not empty, when nothing is blocked.
 *
 * Locking: none, control plane; the mask is atomic.
 */
#include "block/graph/op_blocker.h"

#include "block/graph/node.h"

typedef struct OpBlocker {
    BdrvOp op;
    const void *owner;
    char *reason;
} OpBlocker;

static const char *const op_names[BDRV_OP_COUNT] = {
    [BDRV_OP_RESIZE] = "resize",
    [BDRV_OP_COMMIT_SOURCE] = "commit source",
    [BDRV_OP_COMMIT_TARGET] = "commit target",
    [BDRV_OP_STREAM] = "stream",
    [BDRV_OP_MIRROR_SOURCE] = "mirror source",
    [BDRV_OP_MIRROR_TARGET] = "mirror target",
    [BDRV_OP_BACKUP_SOURCE] = "backup source",
    [BDRV_OP_BACKUP_TARGET] = "backup target",
    [BDRV_OP_SNAPSHOT] = "snapshot",
    [BDRV_OP_CHANGE_BACKING] = "change of the backing file",
    [BDRV_OP_REPLACE] = "replace",
    [BDRV_OP_REOPEN] = "reopen",
    [BDRV_OP_NEW_USER] = "another user",
};

const char *bdrv_op_name(BdrvOp op)
{
    return op_names[op];
}

static void blocker_free(void *opaque)
{
    OpBlocker *blocker = opaque;

    g_free(blocker->reason);
    g_free(blocker);
}

/* The first blocker of @op by @owner (NULL: by anybody); NULL without. */
static OpBlocker *find_blocker(const BlockDriverState *bs, BdrvOp op,
                               const void *owner)
{
    for (guint i = 0; bs->op_blockers != NULL && i < bs->op_blockers->len;
         i++) {
        OpBlocker *blocker = bs->op_blockers->pdata[i];

        if (blocker->op == op && (owner == NULL || blocker->owner == owner)) {
            return blocker;
        }
    }
    return NULL;
}

void bdrv_op_block(BlockDriverState *bs, BdrvOp op, const void *owner,
                   const char *reason)
{
    OpBlocker *blocker = g_new0(OpBlocker, 1);

    g_assert(owner != NULL && find_blocker(bs, op, owner) == NULL);
    blocker->op = op;
    blocker->owner = owner;
    blocker->reason = g_strdup(reason);
    if (bs->op_blockers == NULL) {
        bs->op_blockers = g_ptr_array_new_with_free_func(blocker_free);
    }
    g_ptr_array_add(bs->op_blockers, blocker);
    __atomic_fetch_or(&bs->blocked_ops, 1u << op, __ATOMIC_RELEASE); /* O1 */
}

void bdrv_op_block_all(BlockDriverState *bs, const void *owner,
                       const char *reason)
{
    for (BdrvOp op = 0; op < BDRV_OP_COUNT; op++) {
        bdrv_op_block(bs, op, owner, reason);
    }
}

void bdrv_op_unblock(BlockDriverState *bs, BdrvOp op, const void *owner)
{
    OpBlocker *blocker = find_blocker(bs, op, owner);

    g_assert(owner != NULL);
    if (blocker == NULL) {
        return;
    }
    g_ptr_array_remove(bs->op_blockers, blocker);
    if (find_blocker(bs, op, /* owner= */ NULL) == NULL) {
        __atomic_fetch_and(&bs->blocked_ops, ~(1u << op), __ATOMIC_RELEASE);
    }
    if (bs->op_blockers->len == 0) {
        g_clear_pointer(&bs->op_blockers, g_ptr_array_unref); /* O2 */
    }
}

void bdrv_op_unblock_all(BlockDriverState *bs, const void *owner)
{
    for (BdrvOp op = 0; op < BDRV_OP_COUNT; op++) {
        bdrv_op_unblock(bs, op, owner);
    }
}

bool bdrv_op_is_blocked_now(const BlockDriverState *bs, BdrvOp op)
{
    return __atomic_load_n(&bs->blocked_ops, __ATOMIC_ACQUIRE) & (1u << op);
}

bool bdrv_op_is_blocked(const BlockDriverState *bs, BdrvOp op, GError **error)
{
    const OpBlocker *blocker = find_blocker(bs, op, /* owner= */ NULL);

    if (blocker == NULL) {
        return false;
    }
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CONFLICT,
                "%s: %s is not possible now: %s", bdrv_name(bs),
                op_names[op], blocker->reason);
    return true;
}
