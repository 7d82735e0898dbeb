/* SPDX-License-Identifier: MIT */
/*
 * compressed clusters: descriptors, both decoders, and reading through an
 * image
 */
#include "tests/unit/qcow2_image.h"

#include "drivers/qcow2/compress.h"

#include <errno.h>
#include <zstd.h>

#define BYTES 65536

static uint8_t *make_plain(void)
{
    uint8_t *plain = g_malloc(BYTES);

    for (int i = 0; i < BYTES; i++) {
        plain[i] = i * 7 + i / 300;
    }
    return plain;
}

/* Compresses and puts garbage behind, as in the rest of a sector. */
static size_t pack(unsigned type, const void *plain, size_t bytes,
                   uint8_t *out)
{
    size_t packed;

    if (type == QCOW2_COMPRESSION_ZSTD) {
        packed = ZSTD_compress(out, 2 * BYTES, plain, bytes, 3);
    } else {
        struct libdeflate_compressor *deflate =
            libdeflate_alloc_compressor(6);

        packed = libdeflate_deflate_compress(deflate, plain, bytes, out,
                                             2 * BYTES);
        libdeflate_free_compressor(deflate);
    }
    memset(out + packed, 0xa5, 511);
    return packed;
}

static const unsigned types[] = { QCOW2_COMPRESSION_ZLIB,
                                  QCOW2_COMPRESSION_ZSTD };

static void test_descriptor_is_split_for_every_cluster_size(void **state)
{
    for (unsigned bits = 9; bits <= 21; bits++) {
        int64_t sectors = (1 << (bits - 8)) - 1;
        uint64_t entry = 3ull << 62 | 0x12345ull |
                         (uint64_t)sectors << (62 - (bits - 8));
        Qcow2CompressedExtent extent = qcow2_compressed_extent(entry, bits);

        assert_int_equal(extent.host_offset, 0x12345);
        assert_int_equal(extent.bytes, (sectors + 1) * 512 - 0x145);
    }
}

static void test_garbage_behind_the_stream_is_ignored(void **state)
{
    g_autofree uint8_t *plain = make_plain();
    g_autofree uint8_t *in = g_malloc(3 * BYTES);
    g_autofree uint8_t *out = g_malloc(BYTES);

    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++) {
        Qcow2Inflater *inflater = qcow2_inflater_new(types[i], 16);
        size_t packed = pack(types[i], plain, BYTES, in);

        memset(out, 0, BYTES);
        assert_int_equal(qcow2_inflate(inflater, in, packed + 511, out,
                                       BYTES), 0);
        assert_memory_equal(out, plain, BYTES);
        qcow2_inflater_free(inflater);
    }
}

static void test_broken_streams_are_io_errors(void **state)
{
    g_autofree uint8_t *plain = make_plain();
    g_autofree uint8_t *in = g_malloc(3 * BYTES);
    g_autofree uint8_t *out = g_malloc(BYTES);

    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++) {
        Qcow2Inflater *inflater = qcow2_inflater_new(types[i], 16);
        size_t packed = pack(types[i], plain, BYTES, in);

        /* cut off */
        assert_int_equal(qcow2_inflate(inflater, in, packed / 2, out, BYTES),
                         -EIO);
        /* more than a cluster: a bomb */
        assert_int_equal(qcow2_inflate(inflater, in, packed, out, BYTES / 2),
                         -EIO);
        /* less than a cluster */
        packed = pack(types[i], plain, BYTES - 1, in);
        assert_int_equal(qcow2_inflate(inflater, in, packed, out, BYTES),
                         -EIO);
        /* garbage */
        memset(in, 0xff, BYTES);
        assert_int_equal(qcow2_inflate(inflater, in, BYTES, out, BYTES),
                         -EIO);
        qcow2_inflater_free(inflater);
    }
}

static void test_small_and_whole_reads_see_the_same(void **state)
{
    TestImage *image = *state;
    g_autofree uint8_t *whole = g_malloc(SEED_CLUSTER);
    uint8_t part[512];
    BlockBackend *blk;

    image_write_file(image, seed_make(), SEED_BYTES);
    blk = image_open(image, BDRV_O_RDONLY);

    for (int i = 0; i < SEED_CLUSTER; i += 4096) {
        assert_int_equal(blk_pread(blk, 2 * SEED_CLUSTER + i, 512, part), 0);
        assert_int_equal(part[0], 0x33);
        assert_int_equal(part[511], 0x33);
    }
    assert_int_equal(blk_pread(blk, 2 * SEED_CLUSTER, SEED_CLUSTER, whole), 0);
    assert_int_equal(whole[0], 0x33);
    assert_int_equal(whole[SEED_CLUSTER - 1], 0x33);
    blk_free(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_descriptor_is_split_for_every_cluster_size),
        cmocka_unit_test(test_garbage_behind_the_stream_is_ignored),
        cmocka_unit_test(test_broken_streams_are_io_errors),
        image_test(test_small_and_whole_reads_see_the_same),
    };

    drivers_register_all();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
