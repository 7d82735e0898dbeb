/* SPDX-License-Identifier: MIT */
/*
 * a node in memory, for tests of the data plane
 *
 * Its limits are the test's choice, and it aborts when a call breaks them: so
 * every test is also a test of the border between block layer and driver. It
 * can fail, or hold up, calls on demand, and counts them. With a backing node
 * it is an overlay with clusters of its own.
 *
 * Content is not locked: a race between requests that should exclude each
 * other is one that ThreadSanitizer sees. Failing and holding up is for tests
 * with one thread. All functions: the control plane's thread.
 */
#ifndef TESTS_UNIT_MEMORY_DRIVER_H
#define TESTS_UNIT_MEMORY_DRIVER_H

#include "block/graph/edge.h"
#include "block/graph/node.h"
#include "block/io/io.h"
#include "block/rt/aio_context.h"

typedef enum MemoryOp {
    MEMORY_READ,
    MEMORY_WRITE,
    MEMORY_ZEROES,
    MEMORY_DISCARD,
    MEMORY_STATUS,
    MEMORY_TO_OS,
    MEMORY_TO_DISK,
    MEMORY_TRUNCATE,
    MEMORY_COMPRESSED,
    MEMORY_COPY_FROM,
    MEMORY_COPY_TO,
    MEMORY_OPS,
} MemoryOp;

typedef struct MemoryConfig {
    int64_t length;
    BlockLimits limits;
    BdrvOpenFlags open_flags;      /* 0: RDWR | UNMAP */
    BdrvRequestFlags write_flags;  /* supported ones */
    BdrvRequestFlags zero_flags;
    bool no_zeroes;   /* co_pwrite_zeroes is -ENOTSUP */
    bool yields;      /* each call lets other coroutines run */
    int64_t cluster_bytes;  /* of an overlay; 0: no overlay */
    BdrvChild *backing;     /* the overlay's, may be NULL */
    BdrvChild *metadata;    /* a child that it may write, only flushed */
    bool recurses;    /* its data is in @metadata: that one knows zeros */
    bool compresses;  /* co_pwritev_compressed is there */
    bool merges;      /* its limits are its children's alone */
    bool copies;      /* so is copy_range, between two such nodes */
} MemoryConfig;

/* One call, as the driver saw it. */
typedef struct MemoryCall {
    MemoryOp op;
    int64_t offset;
    int64_t bytes;
    BdrvRequestFlags flags;
    unsigned order; /* among the calls of all memory nodes; from 1 */
} MemoryCall;

/* A root edge with all permissions to a new node; end with memory_close(). */
BdrvChild *memory_open(const MemoryConfig *config);
void memory_close(BdrvChild *child);

/* What the driver publishes at the next bdrv_refresh_limits(). */
void memory_set_limits(BdrvChild *child, const BlockLimits *limits);

/* The content itself; as long as the longest the node has been (and more). */
uint8_t *memory_data(BdrvChild *child);

/* Is the overlay's cluster at @offset its own? */
bool memory_is_allocated(BdrvChild *child, int64_t offset);

/* Calls so far, and forgetting them. */
unsigned memory_count(BdrvChild *child, MemoryOp op);
void memory_reset_counts(BdrvChild *child);

/* The last call of a kind. */
MemoryCall memory_last(BdrvChild *child, MemoryOp op);

/* The next call of @op fails with @ret; 0 takes that back. */
void memory_fail_next(BdrvChild *child, MemoryOp op, int ret);

/* The next call of @op stays until memory_release(). */
void memory_hold_next(BdrvChild *child, MemoryOp op);
bool memory_is_held(BdrvChild *child);
void memory_release(BdrvChild *child);

/* Starts @entry(@opaque) as a coroutine; polls until *@done. */
void memory_start(CoEntry *entry, void *opaque);
void memory_wait(const bool *done);
/* Turns of the loop in which all that can happen happens. */
void memory_settle(void);

/* Vectored requests by aio_run_sync(). */
int memory_preadv(BdrvChild *child, int64_t offset, IoVec *iov,
                  BdrvRequestFlags flags);
int memory_pwritev(BdrvChild *child, int64_t offset, IoVec *iov,
                   BdrvRequestFlags flags);
int memory_pdiscard(BdrvChild *child, int64_t offset, int64_t bytes);

#endif
