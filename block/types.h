/* SPDX-License-Identifier: MIT */
/*
 * names that every room of the block layer shares: forward declarations and
 * the flag sets that travel through it
 */
#ifndef BLOCK_TYPES_H
#define BLOCK_TYPES_H

#include "block/error.h"
#include "block/rt/bytes.h"
#include "block/rt/coroutine.h"
#include "block/rt/iovec.h"

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct BlockDriver BlockDriver;
typedef struct BlockDriverState BlockDriverState; /* a node of the graph */
typedef struct BdrvChild BdrvChild;               /* an edge, owned by parent */
typedef struct BdrvChildClass BdrvChildClass;
typedef struct BlockBackend BlockBackend;         /* a user's handle on a root */
typedef struct BlockOptions BlockOptions;
typedef struct ReferencePolicy ReferencePolicy;
typedef struct Accounting Accounting;           /* block/io/accounting.h */
typedef struct BdrvWriteThreshold BdrvWriteThreshold;
typedef struct BdrvTracker BdrvTracker;         /* block/io/request.h */
typedef struct BdrvFlushState BdrvFlushState;   /* block/io/flush.h */
typedef struct BdrvStatusCache BdrvStatusCache; /* block/io/status.h */

/*
 * The longest request: what one call may move, and so what a driver may get
 * where its limits say nothing. A multiple of every legal alignment.
 */
#define BDRV_REQUEST_MAX_BYTES ((int64_t)0x7fff0000)

/* The longest node we can address: room for rounding up without overflow. */
#define BDRV_MAX_LENGTH (INT64_MAX & -(int64_t)(1 << 30))

/* Backing chains and node trees deeper than this are refused. */
#define BDRV_MAX_DEPTH 256

/* How a node is opened. Children get theirs from the parent's by role. */
typedef enum BdrvOpenFlags {
    BDRV_O_RDONLY = 0,
    BDRV_O_RDWR = 1 << 0,
    BDRV_O_NOCACHE = 1 << 1,     /* O_DIRECT on protocol nodes */
    BDRV_O_WRITETHROUGH = 1 << 2, /* every write is flushed (backend's doing) */
    BDRV_O_NO_FLUSH = 1 << 3,    /* cache=unsafe: flush requests are dropped */
    BDRV_O_UNMAP = 1 << 4,       /* discards reach the image */
    BDRV_O_FORCE_SHARE = 1 << 5, /* take no locks, look at none (read-only) */
    BDRV_O_NO_BACKING = 1 << 6,  /* do not open the backing file */
    BDRV_O_NO_IO = 1 << 7,       /* only metadata will be looked at */
    BDRV_O_PROBED = 1 << 8,      /* the driver was guessed, not named */
    BDRV_O_CHECK = 1 << 9,       /* for check: open though damaged */
    BDRV_O_RESIZE = 1 << 10,     /* the length may change */
    BDRV_O_PROTOCOL = 1 << 11,   /* the file's bytes: do not probe a format */
} BdrvOpenFlags;

/* Properties of one request. */
typedef enum BdrvRequestFlags {
    BDRV_REQ_FUA = 1 << 0,             /* on the medium when it returns */
    BDRV_REQ_MAY_UNMAP = 1 << 1,       /* zeroes may deallocate */
    BDRV_REQ_NO_FALLBACK = 1 << 2,     /* zeroes: -ENOTSUP rather than slow */
    BDRV_REQ_WRITE_UNCHANGED = 1 << 3, /* visible content stays the same */
    BDRV_REQ_WRITE_COMPRESSED = 1 << 4,
    BDRV_REQ_SERIALISING = 1 << 5,     /* nothing may overlap it */
    BDRV_REQ_COPY_ON_READ = 1 << 6,
    BDRV_REQ_PREFETCH = 1 << 7,        /* only the side effect is wanted */
    BDRV_REQ_REGISTERED_BUF = 1 << 8,
} BdrvRequestFlags;

/* What a user of a node does with it, or lets others do. */
typedef enum BdrvPerm {
    BLK_PERM_CONSISTENT_READ = 1 << 0,
    BLK_PERM_WRITE = 1 << 1,
    BLK_PERM_WRITE_UNCHANGED = 1 << 2,
    BLK_PERM_RESIZE = 1 << 3,
} BdrvPerm;
#define BLK_PERM_ALL 15

/* What a child is to its parent; decides flags, probing and permissions. */
typedef enum BdrvChildRole {
    BDRV_CHILD_DATA = 1 << 0,     /* holds guest data */
    BDRV_CHILD_METADATA = 1 << 1, /* holds the format's structures */
    BDRV_CHILD_FILTERED = 1 << 2, /* parent shows it unchanged */
    BDRV_CHILD_COW = 1 << 3,      /* read where the parent has nothing */
    BDRV_CHILD_PRIMARY = 1 << 4,  /* the one main child */
} BdrvChildRole;
/* A format's file: everything in one. */
#define BDRV_CHILD_IMAGE \
    (BDRV_CHILD_DATA | BDRV_CHILD_METADATA | BDRV_CHILD_PRIMARY)

/* Where bytes of a node come from. */
typedef enum BlockStatusFlags {
    BDRV_BLOCK_DATA = 1 << 0,         /* reading it needs I/O */
    BDRV_BLOCK_ZERO = 1 << 1,         /* it reads zeros */
    BDRV_BLOCK_OFFSET_VALID = 1 << 2, /* host_offset in file says where */
    BDRV_BLOCK_ALLOCATED = 1 << 3,    /* this layer decides, not the backing */
    BDRV_BLOCK_RAW = 1 << 4,          /* driver: ask file at host_offset */
    BDRV_BLOCK_COMPRESSED = 1 << 5,
    BDRV_BLOCK_RECURSE = 1 << 6,      /* driver: file may know of zeros */
    BDRV_BLOCK_EOF = 1 << 7,          /* the range ends at the node's end */
} BlockStatusFlags;

typedef struct BlockStatus {
    BlockStatusFlags flags;
    int64_t bytes;          /* the answer holds from offset for this long */
    int64_t host_offset;    /* with OFFSET_VALID */
    BlockDriverState *file; /* with OFFSET_VALID or RAW: the node it is in */
} BlockStatus;

typedef enum BdrvPreallocMode {
    PREALLOC_OFF,
    PREALLOC_METADATA,
    PREALLOC_FALLOC,
    PREALLOC_FULL,
} BdrvPreallocMode;

/*
 * What a node can take. 0 means "no limit" for the max_ members and "none" for
 * alignments other than request_alignment. Only block/io enforces them.
 */
typedef struct BlockLimits {
    int64_t request_alignment; /* power of two, >= 1 */
    int64_t max_transfer;      /* multiple of request_alignment */
    int64_t opt_transfer;
    int64_t max_pdiscard;
    int64_t pdiscard_alignment;
    int64_t max_pwrite_zeroes;
    int64_t pwrite_zeroes_alignment;
    int64_t max_hw_transfer;
    int max_hw_iov;
    int max_iov;
    size_t min_mem_alignment; /* addresses and lengths of iov elements */
    size_t opt_mem_alignment;
} BlockLimits;

#endif
