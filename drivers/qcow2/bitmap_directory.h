/* SPDX-License-Identifier: MIT */
/*
 * the directory of persistent bitmaps: bytes on disk <-> a list
 *
 *   bitmaps extension ──▶ [entry: fields, extra data, name, padding] ...
 *                            └──▶ table ──▶ clusters of bits
 *
 * Knows nothing of tables and bits: that is bitmaps.c and bitmap_data.c. No
 * I/O here, no locks.
 */
#ifndef DRIVERS_QCOW2_BITMAP_DIRECTORY_H
#define DRIVERS_QCOW2_BITMAP_DIRECTORY_H

#include "block/image/stored_bitmap.h"
#include "block/io/hbitmap.h"
#include "drivers/qcow2/format.h"

/* A bound of ours, and of others: it is read into memory as a whole. */
#define QCOW2_BITMAP_DIRECTORY_MAX_BYTES (64 * MIB)

/*
 * One bitmap. The first part is what the directory says, the second where its
 * content is by now. Changed under commit_lock or with the node drained;
 * flags are atomic, for who only shows them.
 */
typedef struct Qcow2Bitmap {
    BlockStoredBitmap info; /* first: the list is a list of these */
    uint32_t flags;         /* as on disk, or as the next store writes them */
    unsigned granularity_bits;
    uint8_t type;
    GBytes *extra;          /* extra data, NULL: none */
    int64_t table_offset;   /* 0: nothing stored yet */
    uint32_t table_entries;

    bool is_marked;  /* IN_USE on disk is ours: the content is in memory */
    bool is_changed; /* memory differs from the disk: to be stored */
    bool is_tracked; /* the content is the node's dirty bitmap of that name */
    HBitmap *bits;   /* the content when read and not tracked; NULL: on disk */
} Qcow2Bitmap;

void qcow2_bitmap_free(Qcow2Bitmap *bitmap);

/* A new one without content; takes a copy of @name. */
Qcow2Bitmap *qcow2_bitmap_new(const char *name, unsigned granularity_bits,
                              uint32_t flags);

/* Sets flags, and what info says of them. */
void qcow2_bitmap_set_flags(Qcow2Bitmap *bitmap, uint32_t flags);

/*
 * qcow2_bitmaps_parse:
 * The @count entries that @directory of @bytes holds. Every length, name and
 * granularity is within the format's limits, names differ. What is valid but
 * not for us (other types, unknown flags, unknown extra data), and what is in
 * use, is in the list and not usable. NULL with CORRUPT.
 */
GPtrArray *qcow2_bitmaps_parse(const uint8_t *directory, int64_t bytes,
                               uint32_t count, GError **error);

/* The directory of @bitmaps, as their fields say. */
GByteArray *qcow2_bitmaps_encode(const GPtrArray *bitmaps);

/* An entry's length with its padding; 0: it does not fit into @bytes. */
int64_t qcow2_bitmap_entry_bytes(const uint8_t *entry, int64_t bytes);

/*
 * Sets IN_USE in the entry at @at of a parsed directory when it lacks it and
 * is enabled, or in any case with @all. True: it did. *ret_next: the next.
 */
bool qcow2_bitmap_entry_mark(uint8_t *directory, int64_t bytes, int64_t at,
                             bool all, int64_t *ret_next);

#endif
