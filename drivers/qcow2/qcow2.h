/* SPDX-License-Identifier: MIT */
/*
 * state of one open qcow2 image, shared by the files of this driver
 *
 *   qcow2.c     driver table, opening, the loops of read, write, zero, discard
 *   options.c, reopen.c  what a user may choose, and change while in use
 *   info.c      what the image says of itself
 *   cache_clean.c  what nobody has used for long leaves the caches
 *   header.c    header bytes <-> native values
 *   l2_cache.c  guest offset -> L2 entry: L1 and slices of L2 tables in memory
 *   map.c       L2 entry -> run of clusters, and reading it
 *   subcluster.c  what an extended L2 entry says
 *   cluster.c   allocation of clusters, copy-on-write
 *   clear.c     zeroing and discarding
 *   refcount.c  host clusters: which are free, taking and giving back
 *   quarantine.c  those that were given up, until they are free
 *   commit.c    memory -> file, in an order that a crash cannot hurt
 *   epoch.c     when nobody looks at a retired thing any more
 *   deflate.c, packing.c  compressed clusters: encoding, room for them
 *   snapshot.c, snapshot_table.c, snapshot_tree.c, view.c  internal snapshots
 *   data_file.c guest clusters in a file of their own
 *   bitmaps.c, bitmap_*.c  persistent dirty bitmaps
 *   compress.c, status.c, overlap.c, check.c, resize.c
 *
 * How it works. Metadata lives in memory and reaches the file at a commit
 * only: the flush of a user, too much dirty memory, closing. Reads and writes
 * in place find their clusters without any lock.
 *
 * Always true outside of functions that hold the lock:
 *  Q1  what an L2 entry in memory points at has a refcount of at least 1 in
 *      memory, and its data was written before the entry was published;
 *  Q2  on disk a pointer appears after the refcount and the data it relies
 *      on, and a refcount drops after the pointer has gone: so a crash leaks
 *      at worst;
 *  Q3  a cluster that lost its last pointer keeps its refcount (quarantine)
 *      until the loss is durable and a grace period has passed;
 *  Q4  a guest subcluster has at most one allocation in flight, and nobody
 *      else changes its part of the entry, or the entry's host offset,
 *      meanwhile (without extended L2 entries a cluster is one subcluster);
 *  Q5  a read-only image is never written to.
 *
 * Locks, in the order of taking:
 *  commit_lock  one commit at a time; held across its I/O;
 *  lock         everything that changes metadata in memory. Never held across
 *               data I/O or backing reads. Held across reads of refcount
 *               blocks and while an L2 table is copied; a miss of a slice
 *               drops it.
 * Lock-free readers use: l2 (atomics, inside an epoch), file_length (atomic),
 * the ranges of main_metadata (atomic), and what is constant after opening.
 */
#ifndef DRIVERS_QCOW2_QCOW2_H
#define DRIVERS_QCOW2_QCOW2_H

#include "block/driver.h"
#include "block/rt/comutex.h"
#include "block/rt/timer.h"
#include "drivers/qcow2/commit.h"
#include "drivers/qcow2/epoch.h"
#include "drivers/qcow2/format.h"
#include "drivers/qcow2/header.h"
#include "drivers/qcow2/l2_cache.h"
#include "drivers/qcow2/options.h"
#include "drivers/qcow2/refcount.h"

#include <limits.h>

/* Structures that a guest write must never hit. */
enum {
    QCOW2_RANGE_HEADER,
    QCOW2_RANGE_L1,
    QCOW2_RANGE_REFTABLE,
    QCOW2_RANGE_SNAPSHOTS,
    QCOW2_RANGE_BITMAPS,
    QCOW2_RANGE_CRYPTO,
    QCOW2_RANGES,
};

typedef struct Qcow2HostRange {
    int64_t start; /* atomic; end == start: nothing */
    int64_t end;
} Qcow2HostRange;

/*
 * An allocation whose data is being written; on the writer's stack. Guest
 * bytes, whole subclusters.
 */
typedef struct Qcow2InFlight Qcow2InFlight;
struct Qcow2InFlight {
    int64_t offset;
    int64_t bytes;
    Qcow2InFlight *next, **link;
};

typedef struct Qcow2State {
    BlockDriverState *bs;

    /* -- constant after opening (resize: node drained) ------------------- */
    unsigned cluster_bits;
    int64_t cluster_bytes;
    unsigned l2_bits; /* log2 of the entries of an L2 table */
    unsigned l2_words; /* 8-byte words of an entry: 2 if it is extended */
    unsigned subclusters; /* of a cluster: 32, or 1 without extended entries */
    unsigned subcluster_bits; /* log2 of their bytes */
    int64_t subcluster_bytes;
    Qcow2Options options;    /* changes at reopen, node drained */
    AioTimer clean_timer;    /* cache_clean.c's */
    unsigned guarded_ranges; /* of main_metadata: options.overlap_classes */
    BdrvChild *data;      /* where guest clusters are: see data_file.h */
    bool for_check;       /* opened though damaged, to be checked */
    bool is_loaded;       /* all tables are in memory; else no guest I/O */
    bool guards; /* loaded entries are checked: there may be writes */
    struct ImageEncryption *encryption; /* NULL: not encrypted */
    struct Qcow2Inflater *inflater;
    struct Qcow2ReadAhead *readahead; /* of compressed clusters; or NULL */
    struct Qcow2Deflater *deflater;
    Qcow2Epoch *epoch;

    /* -- atomic ----------------------------------------------------------- */
    int64_t file_length; /* of bs->file's node, as far as we know */
    int64_t data_length; /* of a data file, likewise */
    Qcow2HostRange main_metadata[QCOW2_RANGES];
    int write_state; /* 0 not yet written to, 1 ready for writes */
    int is_corrupt;  /* writes fail from now on */

    CoMutex commit_lock;
    CoMutex lock;

    /* -- under lock ------------------------------------------------------- */
    Qcow2Header header; /* follows what is on disk */
    Qcow2L2Cache l2;    /* atomics inside: see l2_cache.h */
    Qcow2Refcounts refcounts;
    Qcow2Quarantine quarantine;
    GArray *overlap_index;    /* overlap.c's; NULL until the first use */
    GHashTable *overlap_late; /* likewise */
    GArray *snapshot_index;   /* likewise; NULL: no snapshots */
    GPtrArray *snapshots; /* of Qcow2Snapshot; control plane */
    GPtrArray *views; /* view.c's; control plane; NULL: never any */
    GPtrArray *bitmaps;   /* of Qcow2Bitmap: bitmaps.h says when it changes */
    GPtrArray *removed_bitmaps; /* to be given up at the next store */
    Qcow2InFlight *in_flight;
    CoQueue in_flight_queue;
    /*
     * The file reads zeros from here on: nobody ever wrote there, we have
     * grown it ourselves.
     */
    int64_t fresh_offset;
    int64_t packing_offset; /* where compressed data goes on; 0: nowhere */
    int64_t used_end; /* of the file; what lies behind we cut at closing */
    bool allocated_since_barrier; /* the next commit orders data first */
} Qcow2State;

static inline Qcow2State *qcow2_state(const BlockDriverState *bs)
{
    return bs->opaque;
}

static inline int64_t qcow2_in_cluster(const Qcow2State *q, int64_t offset)
{
    return offset & (q->cluster_bytes - 1);
}

static inline int64_t qcow2_file_length(const Qcow2State *q)
{
    return __atomic_load_n(&q->file_length, __ATOMIC_ACQUIRE);
}

/* Raises the known length of the file. Any thread. */
void qcow2_raise_file_length(Qcow2State *q, int64_t length);

void qcow2_set_range(Qcow2State *q, unsigned which, int64_t start,
                     int64_t bytes);

/* Sets all main_metadata ranges from the header. */
void qcow2_set_ranges(Qcow2State *q);

/* Does the host range touch one of @ranges (bits) of main_metadata? */
static inline bool qcow2_hits_ranges(const Qcow2State *q, unsigned ranges,
                                     int64_t host_offset, int64_t bytes)
{
    for (unsigned i = 0; i < QCOW2_RANGES; i++) {
        const Qcow2HostRange *range = &q->main_metadata[i];
        int64_t start = __atomic_load_n(&range->start, __ATOMIC_RELAXED);
        int64_t end = __atomic_load_n(&range->end, __ATOMIC_RELAXED);

        if (host_offset < end && start < host_offset + bytes &&
            (ranges & (1u << i))) {
            return true;
        }
    }
    return false;
}

static inline bool qcow2_hits_main_metadata(const Qcow2State *q,
                                            int64_t host_offset,
                                            int64_t bytes)
{
    return qcow2_hits_ranges(q, UINT_MAX, host_offset, bytes);
}

/*
 * qcow2_mark_corrupt:
 * Damage was met that makes writing dangerous: writes fail from now on, and a
 * version 3 image that is open for writing says so in its header. Coroutine;
 * the lock is not held. @what goes to the debug log.
 */
void coroutine_fn qcow2_mark_corrupt(BlockDriverState *bs, const char *what);

/*
 * qcow2_prepare_write:
 * Before the first change of a read-write open: unknown autoclear bits go,
 * stored bitmaps are marked in use. 0 or -errno (-EIO on a corrupt image).
 * Coroutine; the lock is not held.
 */
int coroutine_fn qcow2_prepare_write(BlockDriverState *bs);

/*
 * qcow2_reload:
 * Forgets everything in memory and reads header and tables anew, as after
 * check.c has changed them in the file. Nothing may be dirty or lost: see
 * qcow2_commit_all. After a failure there is no guest I/O until a later call
 * succeeds. Control plane, node drained.
 */
bool qcow2_reload(BlockDriverState *bs, GError **error);

/*
 * qcow2_settle:
 * In memory nothing is left that the file lacks, and the file ends with its
 * last cluster. 0 or -errno, also told as a warning. Control plane, drained.
 */
int qcow2_settle(BlockDriverState *bs);

/* Takes @opts over; the caches are the caller's. Control plane, drained. */
void qcow2_set_options(BlockDriverState *bs, const Qcow2Options *opts);

/*
 * qcow2_check_writable (reopen.c):
 * May an image whose header was loaded be opened with @flags? Refcounts that
 * were left wrong are made right on the way.
 */
bool qcow2_check_writable(BlockDriverState *bs, BdrvOpenFlags flags,
                          GError **error);
extern const BlockReopenOps qcow2_reopen_ops;

/* info.c: for the driver's table. */
bool qcow2_get_info(BlockDriverState *bs, BlockDriverInfo *info);
JsonNode *qcow2_get_specific_info(BlockDriverState *bs);
JsonNode *qcow2_get_cache_figures(BlockDriverState *bs);

/* status.c */
int coroutine_fn qcow2_co_block_status(BlockDriverState *bs, bool want_zero,
                                       int64_t offset, int64_t bytes,
                                       BlockStatus *ret_status);

/* resize.c */
int coroutine_fn qcow2_co_truncate(BlockDriverState *bs, int64_t length,
                                   bool exact, BdrvPreallocMode prealloc,
                                   BdrvRequestFlags flags, GError **error);

/*
 * Writes zeros as data, what else version 2 has not, also parts of clusters
 * (resize.c). 0 or -errno. Coroutine; the lock is not held.
 */
int coroutine_fn qcow2_write_zeros(BlockDriverState *bs, int64_t offset,
                                   int64_t end);

/* backing_name.c */
bool qcow2_change_backing_file(BlockDriverState *bs, const char *name,
                               const char *format, GError **error);

/* make_empty.c */
bool qcow2_make_empty(BlockDriverState *bs, GError **error);

/* The table that drivers/registry.c lists. */
extern const BlockDriver bdrv_qcow2;

#endif
