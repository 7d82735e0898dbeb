/* SPDX-License-Identifier: MIT */
/*
 * a small valid qcow2 image, built byte by byte, for tests that damage it
 *
 *   cluster 0 header      3 L1 table     6 data of guest cluster 1
 *           1 reftable    4 L2 table     7 compressed data of guest cluster 2
 *           2 refblock    5 data of guest cluster 0
 *
 * 64 KiB clusters, version 3, 1 MiB long, 16-bit refcounts. Guest clusters 0
 * to 2 hold the bytes 0x11, 0x22, 0x33; the rest is unallocated.
 */
#ifndef TESTS_HOSTILE_QCOW2_SEED_H
#define TESTS_HOSTILE_QCOW2_SEED_H

#include "drivers/qcow2/format.h"

#include <glib.h>
#include <libdeflate.h>
#include <string.h>

#define SEED_CLUSTER (64 * 1024)
#define SEED_CLUSTERS 8
#define SEED_BYTES (SEED_CLUSTERS * SEED_CLUSTER)
#define SEED_GUEST_BYTES (16 * SEED_CLUSTER)
#define SEED_REFTABLE (1 * SEED_CLUSTER)
#define SEED_REFBLOCK (2 * SEED_CLUSTER)
#define SEED_L1 (3 * SEED_CLUSTER)
#define SEED_L2 (4 * SEED_CLUSTER)
#define SEED_DATA (5 * SEED_CLUSTER)
#define SEED_COMPRESSED (7 * SEED_CLUSTER)
/* The first header extension. */
#define SEED_EXTENSIONS 112

static inline void seed_put(uint8_t *image, int64_t offset, int width,
                            uint64_t value)
{
    for (int i = 0; i < width; i++) {
        image[offset + i] = value >> 8 * (width - 1 - i);
    }
}

/* Compresses one guest cluster of @byte; returns its L2 entry. */
static inline uint64_t seed_compress(uint8_t *image, int byte)
{
    struct libdeflate_compressor *deflate = libdeflate_alloc_compressor(6);
    uint8_t *plain = g_malloc(SEED_CLUSTER);
    size_t bytes;

    memset(plain, byte, SEED_CLUSTER);
    bytes = libdeflate_deflate_compress(deflate, plain, SEED_CLUSTER,
                                        image + SEED_COMPRESSED,
                                        SEED_CLUSTER);
    g_free(plain);
    libdeflate_free_compressor(deflate);
    return QCOW2_L2_COMPRESSED | SEED_COMPRESSED |
           (uint64_t)((bytes - 1) / 512) << qcow2_compressed_offset_bits(16);
}

/* The whole image; free with g_free(). */
static inline uint8_t *seed_make(void)
{
    uint8_t *image = g_malloc0(SEED_BYTES);

    seed_put(image, 0, 4, QCOW2_MAGIC);
    seed_put(image, 4, 4, 3);
    seed_put(image, 20, 4, 16);
    seed_put(image, 24, 8, SEED_GUEST_BYTES);
    seed_put(image, 36, 4, 1);
    seed_put(image, 40, 8, SEED_L1);
    seed_put(image, 48, 8, SEED_REFTABLE);
    seed_put(image, 56, 4, 1);
    seed_put(image, 96, 4, 4);
    seed_put(image, 100, 4, 112);
    seed_put(image, SEED_REFTABLE, 8, SEED_REFBLOCK);
    for (int i = 0; i < SEED_CLUSTERS; i++) {
        seed_put(image, SEED_REFBLOCK + 2 * i, 2, 1);
    }
    seed_put(image, SEED_L1, 8, QCOW2_ENTRY_COPIED | SEED_L2);
    seed_put(image, SEED_L2, 8, QCOW2_ENTRY_COPIED | SEED_DATA);
    seed_put(image, SEED_L2 + 8, 8,
             QCOW2_ENTRY_COPIED | (SEED_DATA + SEED_CLUSTER));
    memset(image + SEED_DATA, 0x11, SEED_CLUSTER);
    memset(image + SEED_DATA + SEED_CLUSTER, 0x22, SEED_CLUSTER);
    seed_put(image, SEED_L2 + 16, 8, seed_compress(image, 0x33));
    return image;
}

#endif
