/* SPDX-License-Identifier: MIT */
/*
 * refcounts of host clusters: which are free, taking and giving back
 *
 * The refcount table is whole in memory, its blocks are cached as they stand
 * on disk. Every function expects the lock to be held unless it says control
 * plane; those marked coroutine may read blocks meanwhile (with the lock).
 */
#ifndef DRIVERS_QCOW2_REFCOUNT_H
#define DRIVERS_QCOW2_REFCOUNT_H

#include "drivers/qcow2/options.h"

typedef struct Qcow2RefBlock {
    int64_t table_index;
    int64_t host_offset;
    unsigned pins;      /* a commit writes it */
    bool is_dirty;
    bool is_new;        /* nothing of it is on disk */
    size_t dirty_start; /* bytes of data that differ from the disk */
    size_t dirty_end;
    uint64_t last_use;
    uint8_t *data;      /* one cluster, disk byte order */
} Qcow2RefBlock;

typedef struct Qcow2Refcounts {
    unsigned order;            /* a count has 1 << order bits */
    unsigned block_bits;       /* log2 of the counts of a block */
    int64_t table_entries;     /* in memory */
    uint64_t *table;           /* host byte order */
    Qcow2RefBlock **block;     /* cached ones, by table index */
    GPtrArray *blocks;         /* cached ones, any order */
    GHashTable *dirty_blocks;  /* set of Qcow2RefBlock */
    int64_t block_limit;       /* how many to keep */
    uint64_t use_clock;
    uint64_t cleaned_at;       /* use_clock when unused blocks last went */
    uint8_t *table_dirty;      /* a flag for each 512-byte sector */
    bool any_table_dirty;
    bool table_moved;          /* not where the header on disk says */
    int64_t table_offset;      /* where it is to be */
    int64_t table_clusters;
    int64_t disk_table_offset; /* where the header says */
    int64_t disk_table_clusters;
    int64_t cursor;            /* cluster index: nothing is free before */
    int error;                 /* sticky: allocation is unsafe */
    bool is_contradicted;      /* an L2 entry names a free cluster */
} Qcow2Refcounts;

/* One host range that lost a reference, see Q3. */
typedef struct Qcow2Freed {
    int64_t host_offset; /* cluster-aligned */
    int64_t bytes;
    Qcow2FreeReason reason;
} Qcow2Freed;

/* Freed ranges of one commit. */
typedef struct Qcow2FreedBatch Qcow2FreedBatch;
struct Qcow2FreedBatch {
    GArray *freed; /* of Qcow2Freed */
    bool has_compressed;
    int64_t bytes;
    uint64_t ticket;
    Qcow2FreedBatch *next;
};

typedef struct Qcow2Quarantine {
    GArray *open;              /* not yet in a commit */
    bool open_has_compressed;
    Qcow2FreedBatch *first;    /* durable, oldest first, wait for readers */
    Qcow2FreedBatch *last;
    int64_t open_bytes;
} Qcow2Quarantine;

/* From this many quarantined bytes on a commit is due. */
#define QCOW2_QUARANTINE_MAX_BYTES (64 * MIB)

/* Reads the refcount table. Control plane. */
bool qcow2_refcount_init(BlockDriverState *bs, int64_t cache_bytes,
                         GError **error);
void qcow2_refcount_destroy(BlockDriverState *bs);

/* Counts of a raw block of counts with 1 << @order bits each. */
uint64_t qcow2_refcount_get(const uint8_t *block, unsigned order,
                            int64_t index);
void qcow2_refcount_set(uint8_t *block, unsigned order, int64_t index,
                        uint64_t count);

/*
 * qcow2_alloc_clusters:
 * Takes a contiguous run of 1 to @wanted free clusters (count 0 -> 1); at
 * least @needed of them. The file is grown to hold them.
 * -ENOSPC; -EIO: the refcounts contradict the image's structures. Coroutine.
 */
int coroutine_fn qcow2_alloc_clusters(BlockDriverState *bs, int64_t wanted,
                                      int64_t needed,
                                      int64_t *ret_host_offset,
                                      int64_t *ret_clusters);

/*
 * qcow2_refcount_add:
 * One reference more (@delta 1) or less (-1) to a cluster in use. -ERANGE: the
 * count has no room; -EIO: the cluster is free. Lowering is for who knows that
 * nobody looks any more: others use the quarantine. Coroutine.
 */
int coroutine_fn qcow2_refcount_add(BlockDriverState *bs, int64_t host_offset,
                                    int delta);

/*
 * An L2 entry was met that names a free cluster: there may be more of them, so
 * nothing is allocated any more (-EIO). No I/O.
 */
void qcow2_refcount_distrust(BlockDriverState *bs);

/* Gives back clusters that were never published. Coroutine. */
void coroutine_fn qcow2_unalloc_clusters(BlockDriverState *bs,
                                         int64_t host_offset,
                                         int64_t clusters);

/*
 * qcow2_quarantine_add:
 * The host range (widened to clusters) has lost a reference; its count drops
 * when that is durable and nobody uses it any more. No I/O.
 */
void qcow2_quarantine_add(BlockDriverState *bs, int64_t host_offset,
                          int64_t bytes, Qcow2FreeReason reason);

/* Drops what the L2 entry @entry points at, whatever kind it is. No I/O. */
void qcow2_quarantine_add_entry(BlockDriverState *bs, uint64_t entry,
                                Qcow2FreeReason reason);

/* Adds @freed to an array of such, joined with the last one if it can be. */
void qcow2_freed_append(GArray *array, Qcow2Freed freed);

/*
 * The freed ranges of a commit that has become durable: closes what is open
 * into a batch (NULL when there is none) that starts its grace period with
 * qcow2_quarantine_push(), or goes back with qcow2_quarantine_reopen(). No I/O.
 */
Qcow2FreedBatch *qcow2_quarantine_close(BlockDriverState *bs);
void qcow2_quarantine_push(BlockDriverState *bs, Qcow2FreedBatch *batch);
void qcow2_quarantine_reopen(BlockDriverState *bs, Qcow2FreedBatch *batch);

/* Has the oldest batch outlived its readers? */
bool qcow2_quarantine_is_ripe(BlockDriverState *bs);

/* The oldest batch, if it is ripe; NULL otherwise. */
Qcow2FreedBatch *qcow2_quarantine_pop(BlockDriverState *bs);

/* Lowers the counts of a popped batch and frees it. Coroutine. */
void coroutine_fn qcow2_quarantine_drop(BlockDriverState *bs,
                                        Qcow2FreedBatch *batch);
void qcow2_freed_batch_free(Qcow2FreedBatch *batch);

/* The count of a cluster. Coroutine; 0 or -errno. */
int coroutine_fn qcow2_refcount_of(BlockDriverState *bs, int64_t host_offset,
                                   uint64_t *ret_count);

/* Marks a part of a cached block as to be written. */
void qcow2_refcount_mark_dirty(BlockDriverState *bs, Qcow2RefBlock *block,
                               size_t start, size_t end);

/* Evicts clean blocks above the limit. */
void qcow2_refcount_trim(BlockDriverState *bs);

/* Another bound for the blocks in memory. */
void qcow2_refcount_set_limit(BlockDriverState *bs, int64_t cache_bytes);

/* Evicts clean blocks that nobody has used since the last call. */
void qcow2_refcount_clean(BlockDriverState *bs);

#endif
