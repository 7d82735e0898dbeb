/* SPDX-License-Identifier: MIT */
/*
 * is this host range metadata?
 *
 * The cheap part, for writes in place, is qcow2_hits_main_metadata() in
 * qcow2.h. This is the full one: for clusters that are about to be allocated
 * or freed, and for L2 entries that are loaded or replaced - a refcount or a
 * COPIED flag may be a lie.
 */
#ifndef DRIVERS_QCOW2_OVERLAP_H
#define DRIVERS_QCOW2_OVERLAP_H

#include "block/types.h"

/* What a write can be kept off; the user's choice (options.h). */
typedef enum Qcow2OverlapClass {
    QCOW2_OVERLAP_MAIN_HEADER = 1 << 0, /* and the crypto header */
    QCOW2_OVERLAP_ACTIVE_L1 = 1 << 1,
    QCOW2_OVERLAP_ACTIVE_L2 = 1 << 2,
    QCOW2_OVERLAP_REFCOUNT_TABLE = 1 << 3,
    QCOW2_OVERLAP_REFCOUNT_BLOCK = 1 << 4,
    QCOW2_OVERLAP_SNAPSHOT_TABLE = 1 << 5,
    QCOW2_OVERLAP_INACTIVE_L1 = 1 << 6, /* of snapshots */
    QCOW2_OVERLAP_INACTIVE_L2 = 1 << 7,
    QCOW2_OVERLAP_BITMAP_DIRECTORY = 1 << 8,
} Qcow2OverlapClass;

#define QCOW2_OVERLAP_CLASSES 9
#define QCOW2_OVERLAP_ALL ((1u << QCOW2_OVERLAP_CLASSES) - 1)

/*
 * qcow2_overlaps_metadata:
 * Does the host range touch a structure of @classes that we know of? Tables of
 * snapshots are known of an image open for writing. *ret_what (may be NULL)
 * names it. No I/O; lock held.
 */
bool qcow2_overlaps_metadata(BlockDriverState *bs, unsigned classes,
                             int64_t host_offset, int64_t bytes,
                             const char **ret_what);

/* The main_metadata ranges (bits by their index) that belong to @classes. */
unsigned qcow2_overlap_ranges(unsigned classes);

/* A new L2 table or refcount block. Lock held. */
void qcow2_overlap_note(BlockDriverState *bs, int64_t host_offset);

/* How a cluster of a snapshot's table is told. */
static inline int64_t qcow2_overlap_number(int64_t cluster, bool is_l2)
{
    return cluster << 1 | is_l2;
}

/*
 * The numbers of all L1 and L2 tables of snapshots, in any order, now ours;
 * NULL: none. Lock held, or nobody else there.
 */
void qcow2_overlap_set_snapshots(BlockDriverState *bs, GArray *numbers);

/*
 * qcow2_overlap_check_entry:
 * May the host cluster of L2 entry @entry be a guest's? 0 also when there is
 * none or it is past the end of the file; -EUCLEAN: it is metadata of a class
 * that is to be checked, or free (qcow2_refcount_distrust); other -errno: its
 * refcount cannot be read. Coroutine, lock held.
 */
int coroutine_fn qcow2_overlap_check_entry(BlockDriverState *bs,
                                           uint64_t entry);

/*
 * qcow2_overlap_guard:
 * Takes COPIED from each L2 entry, of the just loaded @count words, that fails
 * qcow2_overlap_check_entry(), so that no write in place follows it; allocation
 * ends when one names a free cluster. Nothing
 * when the image is not to be written to (q->guards). Coroutine, lock held.
 */
void coroutine_fn qcow2_overlap_guard(BlockDriverState *bs, uint64_t *words,
                                      int64_t count);

/*
 * Drops everything behind it: before closing, and when the tables were read
 * anew. Lock held, or nobody else there.
 */
void qcow2_overlap_forget(BlockDriverState *bs);

#endif
