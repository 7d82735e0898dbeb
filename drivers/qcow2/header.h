/* SPDX-License-Identifier: MIT */
/*
 * the header of a qcow2 image: parsed, checked, and its few mutable bits
 *
 * Parsing looks at bytes only, checking compares them with the format's
 * limits and the file's length; nothing here does I/O but the functions that
 * say so.
 */
#ifndef DRIVERS_QCOW2_HEADER_H
#define DRIVERS_QCOW2_HEADER_H

#include "block/types.h"
#include "drivers/qcow2/format.h"

/* The header as native values. All offsets were checked. */
typedef struct Qcow2Header {
    unsigned version;
    unsigned cluster_bits;
    int64_t size;
    uint32_t crypt_method;   /* a Qcow2Crypt */
    int64_t crypto_offset;   /* of the LUKS header; 0: none */
    int64_t crypto_bytes;
    int64_t l1_entries;
    int64_t l1_offset;
    int64_t reftable_offset;
    int64_t reftable_clusters;
    uint32_t snapshots;
    int64_t snapshots_offset;
    uint64_t incompatible;
    uint64_t compatible;
    uint64_t autoclear;
    unsigned refcount_order;
    int64_t header_length;
    unsigned compression_type;
    char *backing_name;   /* NULL: none */
    char *backing_format; /* NULL: not said */
    char *data_file;      /* NULL: not said */
    bool has_bitmaps;     /* the extension is there */
    uint32_t bitmaps;
    int64_t bitmap_directory_offset;
    int64_t bitmap_directory_bytes;
} Qcow2Header;

/* Words of 8 bytes of an L2 entry. */
static inline unsigned qcow2_header_l2_words(const Qcow2Header *header)
{
    return header->incompatible & QCOW2_INCOMPAT_EXTENDED_L2 ? 2 : 1;
}

/* log2 of the entries of an L2 table. */
static inline unsigned qcow2_header_l2_bits(const Qcow2Header *header)
{
    return header->cluster_bits - 2 - qcow2_header_l2_words(header);
}

/*
 * qcow2_header_parse:
 * @buffer holds the file's first @bytes, at most a cluster of them; @file_bytes
 * is the length of the file. Every structure that the header names is aligned,
 * within limits, and starts and ends inside the file.
 * False with CORRUPT, or UNSUPPORTED for what is valid but not ours. @for_check
 * tolerates what a check can report or repair (tables beyond the end).
 */
bool qcow2_header_parse(Qcow2Header *ret_header, const uint8_t *buffer,
                        size_t bytes, int64_t file_bytes, bool for_check,
                        GError **error);

/* Frees what hangs off it. A zeroed header is fine. */
void qcow2_header_clear(Qcow2Header *header);

/*
 * Reads as much of the file as the header can need and parses it. Control
 * plane.
 */
bool qcow2_header_load(BlockDriverState *bs, Qcow2Header *ret_header,
                       bool for_check, GError **error);

/*
 * Writes the three feature words and flushes. Version 2 has none: 0 at once.
 * Coroutine. The caller excludes other writers of the header.
 */
int coroutine_fn qcow2_header_co_write_features(BlockDriverState *bs,
                                                uint64_t incompatible,
                                                uint64_t compatible,
                                                uint64_t autoclear);

/* Where the refcount table is now; one sector write, no flush. Coroutine. */
int coroutine_fn qcow2_header_co_write_reftable(BlockDriverState *bs,
                                                int64_t offset,
                                                int64_t clusters);

/* Size and L1 table; one sector write, no flush. Coroutine. */
int coroutine_fn qcow2_header_co_write_l1(BlockDriverState *bs, int64_t size,
                                          int64_t l1_offset,
                                          int64_t l1_entries);

#endif
