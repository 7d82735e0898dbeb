/* SPDX-License-Identifier: MIT */
/*
 * handing images over and taking them back
 *
 * An inactive node has written all it knew, holds no permission (so the file
 * driver no lock) and remembers its users' wishes only. Requests to it fail
 * with -EPERM until it is activated: then it takes its permissions again,
 * forgets its caches and reads anew what somebody else may have changed.
 * Control plane, outside of coroutines; drains by itself.
 */
#ifndef BLOCK_GRAPH_INACTIVATE_H
#define BLOCK_GRAPH_INACTIVATE_H

#include "block/types.h"

/*
 * bdrv_inactivate:
 * @bs and what is below it, but for nodes that active nodes elsewhere need.
 * CONFLICT when an active node uses @bs itself: its user goes first. IO when
 * something could not be written; all is active then as before.
 */
bool bdrv_inactivate(BlockDriverState *bs, GError **error);

/*
 * bdrv_activate:
 * @bs and all below. On failure (LOCKED: somebody has the image; CORRUPT or
 * IO: it cannot be read any more) what was inactive stays so.
 */
bool bdrv_activate(BlockDriverState *bs, GError **error);

/* All nodes there are, or none. */
bool bdrv_inactivate_all(GError **error);
bool bdrv_activate_all(GError **error);

#endif
