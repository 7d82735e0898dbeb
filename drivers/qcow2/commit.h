/* SPDX-License-Identifier: MIT */
/*
 * metadata in memory -> file, in an order that a crash cannot hurt
 */
#ifndef DRIVERS_QCOW2_COMMIT_H
#define DRIVERS_QCOW2_COMMIT_H

#include "block/types.h"

/*
 * qcow2_co_commit:
 * Writes everything that is dirty now, one commit at a time. Afterwards a
 * flush of the file makes it durable (done here when freed clusters wait for
 * it). On error all stays dirty and a later commit tries again. Nothing
 * dirty: no I/O. Coroutine; no lock held.
 */
int coroutine_fn qcow2_co_commit(BlockDriverState *bs);

/* Commits when dirty metadata or freed clusters exceed their bound. */
int coroutine_fn qcow2_co_commit_if_due(BlockDriverState *bs);

/*
 * qcow2_commit_all:
 * Until nothing is dirty and nothing freed is left waiting. Control plane,
 * node drained (so every grace period has passed). 0 or -errno.
 */
int qcow2_commit_all(BlockDriverState *bs);
/* The same in a coroutine; no lock held. */
int coroutine_fn qcow2_co_commit_all(BlockDriverState *bs);

#endif
