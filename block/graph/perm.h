/* SPDX-License-Identifier: MIT */
/*
 * permissions: who may do what with a node, and what follows for its children
 *
 * Each parent edge holds permissions and shares others. Two users of a node
 * agree when neither holds what the other does not share. A node's own sums
 * then become, through its driver's child_perm, what it holds on its
 * children. Changes run over the whole subgraph in two phases: check
 * everything, then set everything, or abort and leave all as it was.
 * An inactive node (inactivate.h) holds nothing and lets others do all.
 * Control plane.
 */
#ifndef BLOCK_GRAPH_PERM_H
#define BLOCK_GRAPH_PERM_H

#include "block/types.h"

/*
 * bdrv_refresh_perms:
 * Recomputes and applies everything below @bs from its parent edges' wishes.
 * False with CONFLICT (two users in this process), LOCKED (a lock of another
 * process) or the driver's own error; nothing has changed then.
 */
bool bdrv_refresh_perms(BlockDriverState *bs, GError **error);

/* The same for all of @nodes (of BlockDriverState *) at once. */
bool bdrv_refresh_perms_of(GPtrArray *nodes, GError **error);

/* Changes what a parent wants of the edge @child; as above. */
bool bdrv_child_set_perm(BdrvChild *child, uint32_t perm, uint32_t shared,
                         GError **error);

/* The usual answers by role: filters pass on, formats need their metadata. */
void bdrv_default_perms(BlockDriverState *bs, BdrvChild *child,
                        BdrvChildRole role, uint32_t perm, uint32_t shared,
                        uint32_t *ret_perm, uint32_t *ret_shared);

/* "consistent read, write"; the caller frees. */
char *bdrv_perm_names(uint32_t perm);

#endif
