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

/* -- many at once ----------------------------------------------------------- */

#define MANY 9

typedef struct ManyCall {
    BlockBackend *blk;
    uint64_t entry[MANY];
    int64_t file_bytes;
    IoVec iov;
    int ret;
} ManyCall;

static void coroutine_fn many_entry(void *opaque)
{
    ManyCall *call = opaque;
    BlockDriverState *bs = blk_bs(call->blk);
    Qcow2Inflater *inflater = qcow2_inflater_new(QCOW2_COMPRESSION_ZLIB, 16);

    call->ret = qcow2_inflater_co_read_many(inflater, bs->file,
                                            call->file_bytes, call->entry,
                                            MANY, &call->iov, 0);
    qcow2_inflater_free(inflater);
}

/*
 * Puts clusters with different content behind the image, @gap bytes apart and
 * the first one last.
 */
static void many_write(TestImage *image, ManyCall *call, int64_t gap)
{
    g_autofree uint8_t *file = g_malloc0(SEED_BYTES + MANY * (BYTES + gap));
    g_autofree uint8_t *plain = g_malloc(BYTES);
    g_autofree uint8_t *packed = g_malloc(2 * BYTES);
    uint8_t *seed = seed_make();
    int64_t end = SEED_BYTES + 3; /* no alignment at all */

    memcpy(file, seed, SEED_BYTES);
    g_free(seed);
    for (int i = MANY - 1; i >= 0; i--) {
        size_t bytes;
        uint64_t sectors;

        for (int j = 0; j < BYTES; j++) {
            plain[j] = (uint8_t)(i * 31 + j / 1000);
        }
        bytes = pack(QCOW2_COMPRESSION_ZLIB, plain, BYTES, packed);
        memcpy(file + end, packed, bytes);
        sectors = (end + bytes - 1) / 512 - end / 512;
        call->entry[i] = 1ull << 62 | sectors << 54 | (uint64_t)end;
        end += bytes + gap;
    }
    call->file_bytes = align_up(end, 512);
    image_write_file(image, g_steal_pointer(&file), call->file_bytes);
}

static void many_check(const uint8_t *data)
{
    for (int i = 0; i < MANY * BYTES; i++) {
        if (data[i] != (uint8_t)(i / BYTES * 31 + i % BYTES / 1000)) {
            fail_msg("byte %d is 0x%02x", i, data[i]);
        }
    }
}

static void test_many_clusters_come_in_the_order_asked_for(void **state)
{
    g_autofree uint8_t *data = g_malloc(MANY * BYTES);
    struct iovec pieces[2] = { { data, 100 },
                               { data + 100, MANY * BYTES - 100 } };

    /* Close together, and too far apart for one read. */
    for (int far = 0; far < 2; far++) {
        ManyCall call = { 0 };

        many_write(*state, &call, far ? 300 * KIB : 0);
        call.blk = image_open(*state, BDRV_O_RDONLY);
        iovec_init_buffer(&call.iov, data, MANY * BYTES);
        aio_run_sync(many_entry, &call);
        assert_int_equal(call.ret, 0);
        many_check(data);

        /* Memory in pieces. */
        memset(data, 0, MANY * BYTES);
        iovec_init_external(&call.iov, pieces, 2);
        aio_run_sync(many_entry, &call);
        assert_int_equal(call.ret, 0);
        many_check(data);
        blk_free(call.blk);
    }
}

static void test_one_damaged_cluster_among_many_is_an_error(void **state)
{
    g_autofree uint8_t *data = g_malloc(MANY * BYTES);
    ManyCall call = { 0 };

    many_write(*state, &call, /* gap= */ 0);
    call.blk = image_open(*state, BDRV_O_RDONLY);
    iovec_init_buffer(&call.iov, data, MANY * BYTES);

    /* A stream that begins somewhere else. */
    call.entry[4] += 5;
    aio_run_sync(many_entry, &call);
    assert_int_equal(call.ret, -EIO);
    /* One that lies past the end of the file. */
    call.entry[4] = 1ull << 62 | (uint64_t)align_up(call.file_bytes, BYTES);
    aio_run_sync(many_entry, &call);
    assert_int_equal(call.ret, -EIO);
    blk_free(call.blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_descriptor_is_split_for_every_cluster_size),
        cmocka_unit_test(test_garbage_behind_the_stream_is_ignored),
        cmocka_unit_test(test_broken_streams_are_io_errors),
        image_test(test_small_and_whole_reads_see_the_same),
        image_test(test_many_clusters_come_in_the_order_asked_for),
        image_test(test_one_damaged_cluster_among_many_is_an_error),
    };

    drivers_register_all();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
