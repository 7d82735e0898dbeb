/* SPDX-License-Identifier: MIT */
/*
 * reopening: nodes get new flags and options while in use
 *
 * A reopen is a transaction over any number of nodes: every driver prepares
 * and the permissions are checked, then all commit; or all abort and nothing
 * has changed. Control plane, outside of coroutines; drains by itself.
 */
#ifndef BLOCK_GRAPH_REOPEN_H
#define BLOCK_GRAPH_REOPEN_H

#include "block/types.h"

typedef struct BdrvReopenQueue BdrvReopenQueue;

/* The flags that a reopen can change; options say the same of single nodes. */
#define BDRV_REOPEN_FLAGS \
    (BDRV_O_RDWR | BDRV_O_NOCACHE | BDRV_O_NO_FLUSH | BDRV_O_UNMAP)

BdrvReopenQueue *bdrv_reopen_queue_new(void);
void bdrv_reopen_queue_free(BdrvReopenQueue *queue);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BdrvReopenQueue, bdrv_reopen_queue_free)

/*
 * bdrv_reopen_queue_add:
 * @bs shall have @flags (as bs->open_flags, other than BDRV_REOPEN_FLAGS
 * unchanged) and @options (taken over, may be NULL). Changed flags go for the
 * children, too, but for the backing file, as at open; a node cannot write
 * without its file. What is queued for a child, or its options say, is
 * stronger. Keys below a child's name ("file.aio") are for the child.
 * Options not given stay as they are. A node added again: later ones count.
 */
void bdrv_reopen_queue_add(BdrvReopenQueue *queue, BlockDriverState *bs,
                           BdrvOpenFlags flags, BlockOptions *options);

/*
 * bdrv_reopen_multiple:
 * Does all that is queued, or nothing; frees @queue. OPTION: unknown, has a
 * bad value, or its value differs and it is not mutable; CONFLICT: a user of
 * a node still needs to write, or something blocks reopening; UNSUPPORTED: a
 * driver cannot change; LOCKED or DENIED: the file refuses. Forgets sticky
 * flush errors of nodes whose files were opened anew.
 */
bool bdrv_reopen_multiple(BdrvReopenQueue *queue, GError **error);

/* One node with @options (taken over); as above. */
bool bdrv_reopen_options(BlockDriverState *bs, BlockOptions *options,
                         GError **error);

/* One node, read-only or not; as above. */
bool bdrv_reopen_set_read_only(BlockDriverState *bs, bool read_only,
                               GError **error);

#endif
