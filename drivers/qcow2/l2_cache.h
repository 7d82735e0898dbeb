/* SPDX-License-Identifier: MIT */
/*
 * L1 and L2 tables in memory
 *
 * The L1 table is whole in memory. L2 tables are cached by slices, of 4 KiB if
 * nobody wants it otherwise, found through atomic pointers without a lock by whoever is inside an
 * epoch: l1 index -> Qcow2L2Table -> Qcow2Slice -> entry. Entries are in host
 * byte order, of one word, or of two in an image with extended L2 entries.
 * Everything that changes them holds the lock.
 *
 * A word is atomic. The two words of an extended entry are read as one with
 * the slice's sequence count: it is odd while a writer is between its stores,
 * and a reader who finds it odd, or changed, reads again. Every store of a
 * word is a release and every load an acquire: so who sees a new word sees
 * the odd count, or a later one, when it looks at the count afterwards, and
 * who saw the even count at first sees the words that belong to it. A writer
 * never waits between its four stores; so a reader hardly ever does.
 */
#ifndef DRIVERS_QCOW2_L2_CACHE_H
#define DRIVERS_QCOW2_L2_CACHE_H

#include "block/rt/comutex.h"
#include "block/types.h"

/* Dirty parts are written in multiples of this. */
#define QCOW2_SECTOR_BYTES 512
/* A slice has so many parts that are dirty each by itself, or fewer. */
#define QCOW2_SLICE_PARTS_MAX 8

typedef struct Qcow2L2Table Qcow2L2Table;

/* What a guest cluster is; @bitmap is 0 without extended L2 entries. */
typedef struct Qcow2L2Entry {
    uint64_t word;
    uint64_t bitmap;
} Qcow2L2Entry;

typedef struct Qcow2Slice {
    Qcow2L2Table *table;
    unsigned index;       /* in the table */
    unsigned pins;        /* under lock: may not be evicted */
    uint8_t dirty;        /* under lock: a bit for each part */
    uint8_t referenced;   /* atomic: used since the clock hand last passed */
    bool is_extended;     /* two words an entry */
    uint32_t sequence;    /* atomic: odd while an extended entry changes */
    unsigned position;    /* in the cache's array of slices */
    uint64_t retired;     /* the ticket, once it was evicted */
    struct Qcow2Slice *next; /* among the retired, or the idle */
    uint64_t word[];      /* atomic */
} Qcow2Slice;

struct Qcow2L2Table {
    int64_t l1_index;
    int64_t host_offset;
    bool is_new; /* under lock: no L1 entry on disk points here */
    uint8_t *loading;   /* under lock: a flag for each slice */
    Qcow2Slice *slice[]; /* atomic; NULL: not in memory */
};

typedef struct Qcow2L2Cache {
    /* -- readable inside an epoch ---------------------------------------- */
    int64_t l1_entries;
    uint64_t *l1;         /* atomic entries, host byte order */
    Qcow2L2Table **table; /* atomic, one for each L1 entry; NULL: unused */
    unsigned slice_bits;  /* log2 of the entries of a slice */
    unsigned slice_words; /* of 8 bytes */
    unsigned slices_per_table;
    unsigned part_words;  /* of the parts that a slice's dirty bits mean */
    /* -- under lock -------------------------------------------------------- */
    int64_t slice_limit;   /* how many to keep */
    GPtrArray *slices;     /* all that can be reached */
    unsigned clock_hand;
    Qcow2Slice *retired;   /* evicted, waiting for their grace period */
    Qcow2Slice *idle;      /* nobody's, to be used again */
    GPtrArray *replaced;   /* tables that were copied; freed at closing */
    GPtrArray *dirty;      /* slices with dirty sectors */
    GHashTable *new_tables;  /* set of Qcow2L2Table: is_new */
    uint8_t *l1_dirty;       /* a flag for each 512-byte sector of the L1 */
    bool any_l1_dirty;
    CoQueue loaded;          /* slices have come */
} Qcow2L2Cache;

/* What lies where in the tables. */
typedef struct Qcow2L2Position {
    int64_t l1_index;
    unsigned slice;    /* of the table */
    unsigned entry;    /* of the slice */
} Qcow2L2Position;

/* Takes @l1 over. Slices are as q->options say. Control plane. */
void qcow2_l2_init(BlockDriverState *bs, uint64_t *l1, int64_t l1_entries);
/* No request may be in flight; what is dirty is lost. */
void qcow2_l2_destroy(BlockDriverState *bs);

/* Reads and converts the L1 table that the header names. Control plane. */
uint64_t *qcow2_l1_read(BlockDriverState *bs, int64_t host_offset,
                        int64_t entries, GError **error);

Qcow2L2Position qcow2_l2_position(const BlockDriverState *bs, int64_t offset);

/*
 * qcow2_l2_lookup:
 * The slice at @position, for a reader inside an epoch. 0 with NULL when the
 * L1 entry has no L2 table. -EIO when the L1 entry is damaged or the table
 * cannot be read. Without a lock when the slice is in memory; else takes the
 * lock and may yield.
 */
int coroutine_fn qcow2_l2_lookup(BlockDriverState *bs,
                                 Qcow2L2Position position,
                                 Qcow2Slice **ret_slice);

/* The same, only if it is in memory; NULL otherwise. Inside an epoch. */
Qcow2Slice *qcow2_l2_peek(const BlockDriverState *bs,
                          Qcow2L2Position position);

/*
 * qcow2_l2_get_for_write:
 * The slice at @position of a table that is ours alone (a missing table is
 * allocated, a shared one copied), pinned. Lock held; it may be dropped and
 * taken again meanwhile, which *ret_dropped says.
 */
int coroutine_fn qcow2_l2_get_for_write(BlockDriverState *bs,
                                        Qcow2L2Position position,
                                        Qcow2Slice **ret_slice,
                                        bool *ret_dropped);

/* Lock held. */
void qcow2_l2_unpin(BlockDriverState *bs, Qcow2Slice *slice);

/* Both words of an extended entry, as they belong together. */
Qcow2L2Entry qcow2_l2_get_extended(const Qcow2Slice *slice, unsigned entry);

static inline Qcow2L2Entry qcow2_l2_get(const Qcow2Slice *slice,
                                        unsigned entry)
{
    return slice->is_extended
               ? qcow2_l2_get_extended(slice, entry)
               : (Qcow2L2Entry){ __atomic_load_n(&slice->word[entry],
                                                 __ATOMIC_ACQUIRE), 0 };
}

/* Publishes a new value and marks it dirty. Lock held. */
void qcow2_l2_set(BlockDriverState *bs, Qcow2Slice *slice, unsigned entry,
                  Qcow2L2Entry value);

/* Marks parts (a bit each) of a slice as to be written. Lock held. */
void qcow2_l2_mark_dirty(BlockDriverState *bs, Qcow2Slice *slice,
                         uint8_t parts);

/* Sets an L1 entry in memory and marks it dirty. Lock held. */
void qcow2_l1_set(BlockDriverState *bs, int64_t l1_index, uint64_t value);

/*
 * Takes all slices out of memory: what is on disk counts. Nothing may be dirty
 * or pinned. Control plane, node drained.
 */
void qcow2_l2_drop_slices(BlockDriverState *bs);

/*
 * Gives up the L2 tables from L1 entry @first on, which map nothing any more;
 * one that is not as it is on disk stays. Coroutine, lock held.
 */
void coroutine_fn qcow2_l2_drop_tables(BlockDriverState *bs, int64_t first);

/* Evicts slices that nobody has used since the last call. Lock held. */
void qcow2_l2_clean(BlockDriverState *bs);

/*
 * Begins anew with the same L1 and what q->options say now. As above, and no
 * reader may be left.
 */
void qcow2_l2_restart(BlockDriverState *bs);

/* Frees retired slices whose time has come. Lock held. */
void qcow2_l2_reap(BlockDriverState *bs);

#endif
