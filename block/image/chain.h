/* SPDX-License-Identifier: MIT */
/*
 * backing chains, as jobs look at them and change them
 *
 * A chain leads from a top node down over backing files, and over the shown
 * children of filters in between. Jobs freeze the part they work on, and at
 * their end let users of one layer go to another one, with the names in the
 * images' headers following. Control plane.
 */
#ifndef BLOCK_IMAGE_CHAIN_H
#define BLOCK_IMAGE_CHAIN_H

#include "block/graph/op_blocker.h"
#include "block/types.h"

/*
 * chain_edge_to:
 * The edge on the chain below @top that ends at @base; NULL with OPTION when
 * @base is not below @top.
 */
BdrvChild *chain_edge_to(BlockDriverState *top, BlockDriverState *base,
                         GError **error);

/*
 * chain_freeze:
 * Freezes the edges from @top down to @base (NULL: to the end) and adds them
 * to @frozen; CONFLICT when one is frozen already, and then none is.
 */
bool chain_freeze(GPtrArray *frozen, BlockDriverState *top,
                  BlockDriverState *base, GError **error);
/* Edges must still be there. Empties the array; NULL is harmless. */
void chain_unfreeze(GPtrArray *frozen);

/*
 * chain_claim:
 * Begins @op on @bs in the name of @owner: CONFLICT when another job works on
 * it, else what could disturb is blocked until chain_release(), which is
 * harmless for nodes that are not claimed, and NULL.
 */
bool chain_claim(BlockDriverState *bs, BdrvOp op, const void *owner,
                 GError **error);
void chain_release(BlockDriverState *bs, const void *owner);

/*
 * chain_can_rename:
 * Can the header of @bs name another backing file? True when it names none.
 * UNSUPPORTED otherwise.
 */
bool chain_can_rename(BlockDriverState *bs, GError **error);

/* The same for all images whose backing file is @bs, filters overlooked. */
bool chain_can_rename_overlays(BlockDriverState *bs, GError **error);

/*
 * chain_rename_backing:
 * The header of @bs, if it names a backing file, names the file of @backing
 * (NULL: none). A read-only @bs is reopened for the time. On failure the
 * header is as it was.
 */
bool chain_rename_backing(BlockDriverState *bs, BlockDriverState *backing,
                          GError **error);

/*
 * chain_set_backing:
 * @backing (NULL: none) becomes the backing node of @bs, in the graph and in
 * the header. All or nothing. @bs has a backing node now.
 */
bool chain_set_backing(BlockDriverState *bs, BlockDriverState *backing,
                       GError **error);

/*
 * chain_move_parents:
 * All users of @from use @to; the headers of overlays among them name it. All
 * or nothing.
 */
bool chain_move_parents(BlockDriverState *from, BlockDriverState *to,
                        GError **error);

#endif
