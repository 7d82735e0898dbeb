/* SPDX-License-Identifier: MIT */
/*
 * persistent dirty bitmaps of a qcow2 image
 *
 *   bitmap_directory.c  the directory: bytes on disk <-> q->bitmaps
 *   bitmap_data.c       tables and clusters of bits <-> HBitmap
 *   bitmap_extension.c  the header extension that names the directory
 *   bitmaps.c           their life: load, track, mark in use, change
 *   bitmap_store.c      memory -> file, in an order that a crash cannot hurt
 *
 * q->bitmaps changes with the node drained. Flags and marks of its members
 * change under commit_lock, or drained.
 */
#ifndef DRIVERS_QCOW2_BITMAPS_H
#define DRIVERS_QCOW2_BITMAPS_H

#include "drivers/qcow2/bitmap_directory.h"

/* Of the bits of all bitmaps in memory: an image may claim more. */
#define QCOW2_BITMAP_BITS_MAX_BYTES (512 * MIB)

/* -- bitmaps.c -- */

/* Reads the directory that the header names. CORRUPT. Control plane. */
bool qcow2_bitmaps_load(BlockDriverState *bs, GError **error);
void qcow2_bitmaps_unload(BlockDriverState *bs);

/*
 * qcow2_bitmaps_track:
 * Enabled bitmaps become dirty bitmaps of the node, which has its length and
 * will be written to. One that cannot be read is damaged from now on, with a
 * warning. Control plane, node drained.
 */
void qcow2_bitmaps_track(BlockDriverState *bs);
/* The other way. What is not stored is lost. True: there were some. */
bool qcow2_bitmaps_untrack(BlockDriverState *bs);

/*
 * qcow2_bitmaps_co_mark:
 * Enabled bitmaps (@all: every one) are marked in use in the file, and that
 * is on the medium: their stored content is stale from now on. commit_lock
 * held. 0 or -errno. Coroutine.
 */
int coroutine_fn qcow2_bitmaps_co_mark(BlockDriverState *bs, bool all);

/*
 * The length will change: all bitmaps are in memory and marked. False with
 * what one of them has against it. After: disabled ones get the new length
 * (enabled ones are the block layer's). Coroutine; no lock held.
 */
bool coroutine_fn qcow2_bitmaps_co_before_resize(BlockDriverState *bs,
                                                 GError **error);
void coroutine_fn qcow2_bitmaps_co_after_resize(BlockDriverState *bs,
                                                int64_t length);

/* The content in memory; NULL: it is on disk, or nowhere. */
HBitmap *qcow2_bitmap_bits(BlockDriverState *bs, const Qcow2Bitmap *bitmap);

/* For the driver's table. */
extern const BlockBitmapOps qcow2_bitmap_ops;

/* -- bitmap_store.c -- */

/*
 * qcow2_bitmaps_store:
 * Everything that is not on disk goes there, and marks of ours are taken
 * away; the next guest write marks again. Nothing to store: no I/O. 0 or
 * -errno: the file still has the old ones, marked. Control plane, drained.
 */
int qcow2_bitmaps_store(BlockDriverState *bs);

/* -- bitmap_data.c -- */

/* Entries of the table of a bitmap for @length bytes; 0: too large. */
int64_t qcow2_bitmap_table_entries(BlockDriverState *bs, int64_t length,
                                   unsigned granularity_bits);

/*
 * qcow2_bitmap_co_read:
 * What the file has, into @bits of the image's length. -EUCLEAN: not as the
 * format says; -EIO. Coroutine.
 */
int coroutine_fn qcow2_bitmap_co_read(BlockDriverState *bs,
                                      const Qcow2Bitmap *bitmap,
                                      HBitmap *bits);

/*
 * qcow2_bitmap_co_write:
 * @bits into new clusters, nothing flushed. All clusters that were taken are
 * appended to @taken (of Qcow2Freed), also on failure. Coroutine.
 */
int coroutine_fn qcow2_bitmap_co_write(BlockDriverState *bs,
                                       const HBitmap *bits, GArray *taken,
                                       int64_t *ret_table_offset,
                                       uint32_t *ret_table_entries);

/* Appends the clusters of the table and what it names; no more than a leak
 * when it cannot be read. Coroutine. */
void coroutine_fn qcow2_bitmap_co_collect(BlockDriverState *bs,
                                          int64_t table_offset,
                                          uint32_t table_entries,
                                          GArray *freed);

/* Takes @bytes of contiguous clusters, appended to @taken. Coroutine. */
int coroutine_fn qcow2_bitmap_co_take(BlockDriverState *bs, int64_t bytes,
                                      GArray *taken,
                                      int64_t *ret_host_offset);

/* -- bitmap_extension.c -- */

/*
 * qcow2_bitmap_extension_co_write:
 * The header names a directory of @count bitmaps from now on, durably; 0: none
 * at all. -ENOTRECOVERABLE: nobody knows which one it names; other errors: the
 * old one, or none. q->header follows. commit_lock held. Coroutine.
 */
int coroutine_fn qcow2_bitmap_extension_co_write(BlockDriverState *bs,
                                                 uint32_t count,
                                                 int64_t bytes,
                                                 int64_t host_offset);

#endif
