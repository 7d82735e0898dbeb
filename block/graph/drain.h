/* SPDX-License-Identifier: MIT */
/*
 * drain: no request is in flight in a node, and none will start
 *
 * Requests enter the graph only through roots (backends and jobs), so a node
 * is quiet once every root above it holds back new requests and has none in
 * flight, and drivers with own sources of requests below have stopped them.
 * While drained the graph around the node may be changed. Calls nest.
 * Control plane, outside of coroutines; sleeps in the thread's own loop.
 */
#ifndef BLOCK_GRAPH_DRAIN_H
#define BLOCK_GRAPH_DRAIN_H

#include "block/types.h"

void bdrv_drained_begin(BlockDriverState *bs);
void bdrv_drained_end(BlockDriverState *bs);

/*
 * The same for @bs and all nodes below: users that reach one of them on other
 * ways are held back, too. The end is for the nodes of the begin.
 */
void bdrv_subtree_drained_begin(BlockDriverState *bs);
void bdrv_subtree_drained_end(BlockDriverState *bs);

/* The same for all nodes there are. */
void bdrv_drain_all_begin(void);
void bdrv_drain_all_end(void);

/*
 * bdrv_cancel_in_flight, bdrv_cancel_all_in_flight:
 * The drivers of @bs and of what is below (of all nodes) let go of requests
 * that may wait long; each is told once. Does not wait, and stops nothing that
 * comes later: for a cancelled job whose target hangs, and before an unmount.
 */
void bdrv_cancel_in_flight(BlockDriverState *bs);
void bdrv_cancel_all_in_flight(void);

/* A root's request ended while a drain may wait for it. Any thread. */
void bdrv_drain_kick(void);

/* Members of bdrv_child_of_bs: the parent node passes the drain on upwards. */
void bdrv_child_of_bs_drained_begin(BdrvChild *child);
bool bdrv_child_of_bs_drained_poll(BdrvChild *child);
void bdrv_child_of_bs_drained_end(BdrvChild *child);

#endif
