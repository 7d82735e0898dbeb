/* SPDX-License-Identifier: MIT */
/*
 * flush state of a node (the calls are in io.h)
 *
 * write_generation of the node counts completed writes; the state remembers
 * which generation the last successful flush covered, the one flush that is
 * running (others that come meanwhile wait and, if it started after their
 * writes, share the next one), and a failure, which sticks until reopen.
 */
#ifndef BLOCK_IO_FLUSH_H
#define BLOCK_IO_FLUSH_H

#include "block/types.h"

BdrvFlushState *bdrv_flush_state_new(void);
void bdrv_flush_state_free(BdrvFlushState *state);

/* Forgets a sticky failure: the node was opened anew. Control plane. */
void bdrv_flush_state_reset(BlockDriverState *bs);

/* Marks @bs as written by a request that has just completed. Any thread. */
void bdrv_mark_written(BlockDriverState *bs);

#endif
