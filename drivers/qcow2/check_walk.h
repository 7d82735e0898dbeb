/* SPDX-License-Identifier: MIT */
/*
 * who references which host cluster: the walk behind check.c
 *
 * Follows every pointer of an image and counts, for each cluster, how often
 * it is pointed at. Looks at no refcount. Control plane.
 */
#ifndef DRIVERS_QCOW2_CHECK_WALK_H
#define DRIVERS_QCOW2_CHECK_WALK_H

#include "block/image/check.h"
#include "drivers/qcow2/qcow2.h"

/* Counts for sparse cluster numbers: pages that exist where something is. */
typedef struct Qcow2Counts Qcow2Counts;

Qcow2Counts *qcow2_counts_new(void);
void qcow2_counts_free(Qcow2Counts *counts);
uint32_t qcow2_counts_get(Qcow2Counts *counts, int64_t cluster);
/*
 * The counts from @first on as an array, *ret_clusters (at least one, at most
 * @limit) long. Valid until the next call that changes @counts.
 */
const uint32_t *qcow2_counts_span(Qcow2Counts *counts, int64_t first,
                                  int64_t limit, int64_t *ret_clusters);
/*
 * Adds @times to each of @clusters counts (saturating). False: over the memory
 * limit.
 */
bool qcow2_counts_add(Qcow2Counts *counts, int64_t first, int64_t clusters,
                      uint32_t times);
/* Takes one off a count that is not 0. */
void qcow2_counts_drop(Qcow2Counts *counts, int64_t cluster);
/* @count[i] is that of cluster @first + i. */
typedef void Qcow2CountsVisit(int64_t first, const uint32_t *count,
                              int64_t clusters, void *opaque);
/* Shows every count that is not 0 to @visit, among others, in no order. */
void qcow2_counts_foreach(Qcow2Counts *counts, Qcow2CountsVisit *visit,
                          void *opaque);

typedef struct Qcow2Walk {
    BlockDriverState *bs;
    const Qcow2Header *header;
    int64_t cluster_bytes;
    int64_t file_bytes;
    BlockCheckResult *result;
    Qcow2Counts *counts;
    /* The active L1 and the refcount table, host byte order. */
    uint64_t *l1;
    uint64_t *reftable;
    int64_t reftable_entries;
    /* The refcount structures cannot be repaired in place. */
    bool refcounts_broken;
    GPtrArray *snapshots;  /* of Qcow2Snapshot, as far as they can be told */
    bool snapshots_broken; /* their table on disk says something else */
    GArray *l2_refs; /* the walk's own: L2 tables met */
    int64_t l2_offset; /* of the table that is being walked */
    GArray *bad_bitmaps; /* int64_t: L2 tables with such; NULL: none */
    int64_t next_host_offset; /* of a mapping without fragments */
    bool lacks_copied;     /* an active pointer has no COPIED flag */
} Qcow2Walk;

/*
 * qcow2_walk:
 * Fills @walk (bs and result set by the caller, the rest zero). Findings go to
 * walk->result. False: cannot go on (IO for the file's own errors, FAILED
 * when limits of time or memory are passed).
 */
bool qcow2_walk(Qcow2Walk *walk, GError **error);
void qcow2_walk_clear(Qcow2Walk *walk);

/*
 * qcow2_walk_read:
 * @bytes at @host_offset, which is inside the file; zeros past its end.
 */
bool qcow2_walk_read(Qcow2Walk *walk, int64_t host_offset, int64_t bytes,
                     void *buffer, GError **error);

/*
 * qcow2_walk_scan_snapshots:
 * Fills walk->snapshots from the table, which starts in the file; faults are
 * reported. @ret_bytes: the length of the table. For qcow2_walk().
 */
bool qcow2_walk_scan_snapshots(Qcow2Walk *walk, int64_t *ret_bytes,
                               GError **error);

/*
 * qcow2_walk_mend_snapshots:
 * Writes walk->snapshots, but for those whose L1 table is nowhere, as a new
 * table behind the end of the file, and has the header point at it. Refcounts
 * are the caller's; what the walk knows is wrong afterwards.
 */
bool qcow2_walk_mend_snapshots(Qcow2Walk *walk, GError **error);

/*
 * qcow2_walk_mend_bitmaps:
 * Subcluster bitmaps that cannot be get a value that can: what is marked as
 * data and as zeros is data from then on, what has no cluster has no data.
 * *ret_changed: there was such a thing; look again.
 */
bool qcow2_walk_mend_bitmaps(Qcow2Walk *walk, bool *ret_changed,
                             GError **error);

/*
 * qcow2_walk_unshare:
 * What the active tables name twice is copied behind the end of the file, so
 * that each entry has its own. The content stays. *ret_changed: there was
 * such a thing; what the walk knows is wrong then, refcounts are the caller's.
 */
bool qcow2_walk_unshare(Qcow2Walk *walk, bool *ret_changed, GError **error);

/* One more corruption, with a line that says what. */
#define qcow2_walk_corrupt(walk, ...)                     \
    do {                                                  \
        (walk)->result->corruptions++;                    \
        block_check_report((walk)->result, "ERROR " __VA_ARGS__); \
    } while (0)

#endif
