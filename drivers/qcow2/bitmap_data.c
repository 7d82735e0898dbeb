/* SPDX-License-Identifier: MIT */
/*
 * content of persistent bitmaps: tables and clusters of bits <-> HBitmap
 *
 *   table: 8 bytes an entry   0: all clear   1: all set
 *                             else the host offset of a cluster of bits
 *
 * qcow2 specification, "Bitmap table", "Bitmap data". A table must have as
 * many entries as the image's length asks for, no more and no less: another
 * number means that somebody resized the image and forgot the bitmap.
 *
 * Locking: the allocator's lock is taken here for moments; nobody else knows
 * the clusters. A caller keeps the bitmap itself still.
 */
#include "drivers/qcow2/bitmaps.h"

#include "block/io/io.h"
#include "drivers/qcow2/qcow2.h"

#include <errno.h>

#define ENTRY_ALL_ONES 1ull
#define ENTRY_RESERVED (~(QCOW2_OFFSET_MASK | ENTRY_ALL_ONES))

/* Guest bytes that a cluster of bits is about. */
static int64_t reach_of(const Qcow2State *q, unsigned granularity_bits)
{
    return (q->cluster_bytes * 8) << granularity_bits;
}

int64_t qcow2_bitmap_table_entries(BlockDriverState *bs, int64_t length,
                                   unsigned granularity_bits)
{
    int64_t bytes = div_round_up(div_round_up(length,
                                              INT64_C(1) << granularity_bits),
                                 8);

    return bytes > QCOW2_BITMAP_BITS_MAX_BYTES
               ? 0
               : MAX(div_round_up(length, reach_of(qcow2_state(bs),
                                                   granularity_bits)), 1);
}

/* -- reading -------------------------------------------------------------- */

static int check_table(const Qcow2State *q, int64_t host_offset,
                       int64_t entries)
{
    if (host_offset == 0 || qcow2_in_cluster(q, host_offset) != 0 ||
        !range_within(host_offset, entries * 8, qcow2_file_length(q))) {
        return -EUCLEAN;
    }
    return 0;
}

/* One entry's part of the bits, through @buffer of a cluster. */
static int coroutine_fn read_part(BlockDriverState *bs, uint64_t entry,
                                  HBitmap *bits, int64_t offset,
                                  int64_t bytes, uint8_t *buffer)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t host_offset = entry & QCOW2_OFFSET_MASK;
    int ret;

    if ((entry & ENTRY_RESERVED) || (host_offset && (entry & ENTRY_ALL_ONES)) ||
        qcow2_in_cluster(q, host_offset) != 0) {
        return -EUCLEAN;
    }
    if (host_offset == 0) {
        if (entry & ENTRY_ALL_ONES) {
            hbitmap_deserialise_ones(bits, offset, bytes);
        }
        return 0;
    }
    if (!range_within(host_offset, q->cluster_bytes,
                      align_up(qcow2_file_length(q), q->cluster_bytes))) {
        return -EIO;
    }
    /* The last cluster of a file may be cut off behind the bits. */
    memset(buffer, 0, q->cluster_bytes);
    ret = bdrv_co_pread(bs->file, host_offset,
                        MIN(q->cluster_bytes,
                            qcow2_file_length(q) - host_offset), buffer, 0);
    if (ret >= 0) {
        hbitmap_deserialise(bits, buffer, offset, bytes);
    }
    return ret;
}

int coroutine_fn qcow2_bitmap_co_read(BlockDriverState *bs,
                                      const Qcow2Bitmap *bitmap,
                                      HBitmap *bits)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t length = hbitmap_bytes(bits);
    int64_t reach = reach_of(q, bitmap->granularity_bits);
    int64_t entries = bitmap->table_entries;
    g_autofree uint8_t *buffer = NULL;
    g_autofree be64 *table = NULL;
    int ret = check_table(q, bitmap->table_offset, entries);

    if (ret < 0 || entries != qcow2_bitmap_table_entries(
                                  bs, length, bitmap->granularity_bits)) {
        return -EUCLEAN;
    }
    table = g_try_malloc(entries * 8);
    buffer = g_try_malloc(q->cluster_bytes);
    if (!table || !buffer) {
        return -ENOMEM;
    }
    hbitmap_reset_all(bits);
    ret = bdrv_co_pread(bs->file, bitmap->table_offset, entries * 8, table, 0);
    for (int64_t i = 0; i < entries && ret >= 0 && length > 0; i++) {
        ret = read_part(bs, be64_get(&table[i]), bits, i * reach,
                        MIN(reach, length - i * reach), buffer);
    }
    hbitmap_deserialise_finish(bits);
    return ret < 0 ? ret : 0;
}

/* -- writing -------------------------------------------------------------- */

int coroutine_fn qcow2_bitmap_co_take(BlockDriverState *bs, int64_t bytes,
                                      GArray *taken,
                                      int64_t *ret_host_offset)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t clusters = div_round_up(bytes, q->cluster_bytes);
    int64_t got;
    int ret;

    co_mutex_lock(&q->lock);
    ret = qcow2_alloc_clusters(bs, clusters, clusters, ret_host_offset, &got);
    co_mutex_unlock(&q->lock);
    if (ret >= 0) {
        Qcow2Freed range = { *ret_host_offset, clusters << q->cluster_bits,
                             QCOW2_FREE_OTHER };

        g_array_append_val(taken, range);
    }
    return ret;
}

/* Bits that are neither all clear nor all set get a cluster. */
static int coroutine_fn write_part(BlockDriverState *bs, const HBitmap *bits,
                                   int64_t offset, int64_t bytes,
                                   GArray *taken, uint8_t *buffer,
                                   uint64_t *ret_entry)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t reach = reach_of(q, hbitmap_granularity_bits(bits));
    int64_t host_offset;
    int ret;

    if (hbitmap_next_dirty(bits, offset, bytes) < 0) {
        *ret_entry = 0;
        return 0;
    }
    /* In the last part there are bits that mean nothing: they stay clear. */
    if (bytes == reach && hbitmap_next_clean(bits, offset, bytes) < 0) {
        *ret_entry = ENTRY_ALL_ONES;
        return 0;
    }
    ret = qcow2_bitmap_co_take(bs, q->cluster_bytes, taken, &host_offset);
    if (ret < 0) {
        return ret;
    }
    memset(buffer, 0, q->cluster_bytes);
    hbitmap_serialise(bits, buffer, offset, bytes);
    *ret_entry = (uint64_t)host_offset;
    return bdrv_co_pwrite(bs->file, host_offset, q->cluster_bytes, buffer, 0);
}

int coroutine_fn qcow2_bitmap_co_write(BlockDriverState *bs,
                                       const HBitmap *bits, GArray *taken,
                                       int64_t *ret_table_offset,
                                       uint32_t *ret_table_entries)
{
    Qcow2State *q = qcow2_state(bs);
    unsigned granularity_bits = hbitmap_granularity_bits(bits);
    int64_t length = hbitmap_bytes(bits);
    int64_t reach = reach_of(q, granularity_bits);
    int64_t entries = qcow2_bitmap_table_entries(bs, length,
                                                 granularity_bits);
    int64_t table_bytes = align_up(entries * 8, q->cluster_bytes);
    g_autofree uint8_t *buffer = g_try_malloc(q->cluster_bytes);
    g_autofree be64 *table = g_try_malloc0(MAX(table_bytes, 8));
    int64_t table_offset = 0;
    int ret = 0;

    if (entries == 0) {
        return -EFBIG;
    }
    if (!buffer || !table) {
        return -ENOMEM;
    }
    for (int64_t i = 0; i < entries && length > 0 && ret >= 0; i++) {
        uint64_t entry = 0;

        ret = write_part(bs, bits, i * reach, MIN(reach, length - i * reach),
                         taken, buffer, &entry);
        be64_set(&table[i], entry);
    }
    if (ret >= 0) {
        ret = qcow2_bitmap_co_take(bs, table_bytes, taken, &table_offset);
    }
    if (ret >= 0) {
        ret = bdrv_co_pwrite(bs->file, table_offset, table_bytes, table, 0);
    }
    if (ret >= 0) {
        *ret_table_offset = table_offset;
        *ret_table_entries = entries;
    }
    return ret;
}

/* -- what is given up ----------------------------------------------------- */

void coroutine_fn qcow2_bitmap_co_collect(BlockDriverState *bs,
                                          int64_t table_offset,
                                          uint32_t table_entries,
                                          GArray *freed)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t bytes = (int64_t)table_entries * 8;
    g_autofree be64 *table = NULL;
    Qcow2Freed range = { table_offset, align_up(bytes, q->cluster_bytes),
                         QCOW2_FREE_OTHER };

    if (bytes > QCOW2_L1_MAX_BYTES || bytes == 0 ||
        check_table(q, table_offset, table_entries) < 0) {
        return; /* damaged: better a leak */
    }
    g_array_append_val(freed, range);
    table = g_try_malloc(bytes);
    if (!table ||
        bdrv_co_pread(bs->file, table_offset, bytes, table, 0) < 0) {
        return;
    }
    for (uint32_t i = 0; i < table_entries; i++) {
        uint64_t entry = be64_get(&table[i]);

        range.host_offset = entry & QCOW2_OFFSET_MASK;
        range.bytes = q->cluster_bytes;
        if (range.host_offset && !(entry & (ENTRY_RESERVED | ENTRY_ALL_ONES)) &&
            qcow2_in_cluster(q, range.host_offset) == 0 &&
            range.host_offset < qcow2_file_length(q)) {
            g_array_append_val(freed, range);
        }
    }
}
