/* SPDX-License-Identifier: MIT */
/*
 * HBitmap: a bitmap of a large range with fast search
 *
 * One bit per 2^granularity_bits bytes, with levels of summary words above
 * the bits (a bit there: some bit in the word below is set), so that finding
 * the next set bit in a huge, nearly empty bitmap looks at a few words.
 *
 * Not locked: its user locks. Any thread. Offsets and lengths are bytes
 * within [0, hbitmap_bytes()], checked by assertion.
 */
#ifndef BLOCK_IO_HBITMAP_H
#define BLOCK_IO_HBITMAP_H

#include "block/types.h"

typedef struct HBitmap HBitmap;

/* Covers [0, @bytes). @granularity_bits: 0 .. 63, bytes per bit as log2. */
HBitmap *hbitmap_new(int64_t bytes, int granularity_bits);
void hbitmap_free(HBitmap *bitmap);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(HBitmap, hbitmap_free)

int64_t hbitmap_bytes(const HBitmap *bitmap);
int hbitmap_granularity_bits(const HBitmap *bitmap);

/* Whole units that the byte range touches (set) or fully covers (reset). */
void hbitmap_set(HBitmap *bitmap, int64_t offset, int64_t bytes);
void hbitmap_reset(HBitmap *bitmap, int64_t offset, int64_t bytes);
void hbitmap_reset_all(HBitmap *bitmap);
bool hbitmap_get(const HBitmap *bitmap, int64_t offset);

/* Set bytes, counted in whole units but for the bitmap's end. */
int64_t hbitmap_count(const HBitmap *bitmap);

/*
 * The next dirty (clean) byte offset at or after @offset and before
 * @offset + @bytes; -1 when there is none.
 */
int64_t hbitmap_next_dirty(const HBitmap *bitmap, int64_t offset,
                           int64_t bytes);
int64_t hbitmap_next_clean(const HBitmap *bitmap, int64_t offset,
                           int64_t bytes);

/*
 * The next dirty area in [@offset, @end), at most @max_bytes of it. False
 * when there is none.
 */
bool hbitmap_next_dirty_area(const HBitmap *bitmap, int64_t offset,
                             int64_t end, int64_t max_bytes,
                             int64_t *ret_offset, int64_t *ret_bytes);

/* @target |= @source. Same length; granularities may differ. */
void hbitmap_merge(HBitmap *target, const HBitmap *source);

/* New bits are clear; bits past a smaller length are forgotten. */
void hbitmap_truncate(HBitmap *bitmap, int64_t bytes);

/*
 * Serialised form: the bits as little-endian bytes, unit 0 in bit 0 of byte 0
 * (qcow2 specification, "Bitmap data"). Positions are multiples of
 * hbitmap_serial_alignment() bytes of guest data, or the bitmap's end.
 */
int64_t hbitmap_serial_alignment(const HBitmap *bitmap);
size_t hbitmap_serial_size(const HBitmap *bitmap, int64_t offset,
                           int64_t bytes);
void hbitmap_serialise(const HBitmap *bitmap, uint8_t *buffer, int64_t offset,
                       int64_t bytes);
void hbitmap_deserialise(HBitmap *bitmap, const uint8_t *buffer,
                         int64_t offset, int64_t bytes);
void hbitmap_deserialise_zeroes(HBitmap *bitmap, int64_t offset,
                                int64_t bytes);
void hbitmap_deserialise_ones(HBitmap *bitmap, int64_t offset, int64_t bytes);
/* After the last deserialise call: rebuilds summaries and count. */
void hbitmap_deserialise_finish(HBitmap *bitmap);

#endif
