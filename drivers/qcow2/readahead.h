/* SPDX-License-Identifier: MIT */
/*
 * decoding compressed clusters before they are asked for
 *
 * For one reader that goes through an image alone, one request after the
 * other: while it digests what it got, workers decode what it will want next.
 * Many requests at a time keep the processors busy without this, and get no
 * read-ahead.
 */
#ifndef DRIVERS_QCOW2_READAHEAD_H
#define DRIVERS_QCOW2_READAHEAD_H

#include "block/types.h"

typedef struct Qcow2ReadAhead Qcow2ReadAhead;

/* For clusters of a size where it pays; else NULL. Control plane. */
Qcow2ReadAhead *qcow2_readahead_new(BlockDriverState *bs);
/* Nothing may run, that is, after a drain. NULL is harmless. */
void qcow2_readahead_free(Qcow2ReadAhead *ahead);

/*
 * A request reads compressed clusters of [@offset, @offset + @bytes); may
 * start read-ahead. Each begin has its end. Coroutine; @ahead may be NULL.
 */
void coroutine_fn qcow2_readahead_begin(Qcow2ReadAhead *ahead, int64_t offset,
                                        int64_t bytes);
void coroutine_fn qcow2_readahead_end(Qcow2ReadAhead *ahead);

/* The driver's drain_begin, drain_poll and drain_end. */
void qcow2_readahead_stop(BlockDriverState *bs);
bool qcow2_readahead_is_running(BlockDriverState *bs);
void qcow2_readahead_resume(BlockDriverState *bs);

#endif
