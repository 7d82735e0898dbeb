/* SPDX-License-Identifier: MIT */
/*
 * reopening: a node changes between read-only and read-write while in use
 *
 * A node cannot write without its file, so the change covers the node and all
 * children but the backing file. It is a transaction: every driver prepares
 * and the permissions are checked, then all commit; or all abort and nothing
 * has changed. Control plane, outside of coroutines; drains by itself.
 */
#ifndef BLOCK_GRAPH_REOPEN_H
#define BLOCK_GRAPH_REOPEN_H

#include "block/types.h"

/*
 * bdrv_reopen_set_read_only:
 * CONFLICT when a user of the node still needs to write, UNSUPPORTED when a
 * driver cannot change, LOCKED or DENIED when the file refuses. Forgets
 * sticky flush errors of nodes that were opened anew.
 */
bool bdrv_reopen_set_read_only(BlockDriverState *bs, bool read_only,
                               GError **error);

#endif
