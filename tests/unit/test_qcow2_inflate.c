/* SPDX-License-Identifier: MIT */
/*
 * decoding compressed clusters: whole, their start alone, and damaged ones
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "drivers/qcow2/deflate.h"
#include "drivers/qcow2/format.h"
#include "drivers/qcow2/inflate.h"

#include <errno.h>
#include <string.h>

#define BYTES 65536

/*
 * A cluster whose thirds compress well, not at all, and somewhat: the stream
 * has blocks of all kinds.
 */
static uint8_t *make_plain(void)
{
    uint8_t *plain = g_malloc(BYTES);
    GRand *rand = g_rand_new_with_seed(7);

    for (int i = 0; i < BYTES; i++) {
        plain[i] = i < BYTES / 3 ? i / 300
                   : i < BYTES / 3 * 2 ? (int)g_rand_int(rand)
                                       : g_rand_int_range(rand, 0, 12);
    }
    g_rand_free(rand);
    return plain;
}

/* With the garbage of a sector's rest behind. */
static size_t pack(unsigned type, const uint8_t *plain, uint8_t *out)
{
    Qcow2Deflater *deflater = qcow2_deflater_new(type);
    int64_t packed = qcow2_deflate(deflater, plain, BYTES, out, BYTES);

    qcow2_deflater_free(deflater);
    assert_in_range(packed, 1, BYTES - 512);
    memset(out + packed, 0x5a, 511);
    return packed;
}

static void test_a_cluster_that_was_encoded_here_is_decoded(void **state)
{
    static const unsigned types[] = { QCOW2_COMPRESSION_ZLIB,
                                      QCOW2_COMPRESSION_ZSTD };
    g_autofree uint8_t *plain = make_plain();
    g_autofree uint8_t *in = g_malloc(BYTES);
    g_autofree uint8_t *out = g_malloc(BYTES);

    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++) {
        Qcow2Decoders *decoders = qcow2_decoders_new(types[i]);
        size_t packed = pack(types[i], plain, in);

        assert_int_equal(qcow2_decode(decoders, in, packed + 511, out, BYTES),
                         0);
        assert_memory_equal(out, plain, BYTES);
        assert_int_equal(qcow2_decode(decoders, in, packed / 2, out, BYTES),
                         -EIO);
        qcow2_decoders_free(decoders);
    }
}

static void test_the_start_of_a_cluster_is_decoded_alone(void **state)
{
    Qcow2Decoders *decoders = qcow2_decoders_new(QCOW2_COMPRESSION_ZLIB);
    g_autofree uint8_t *plain = make_plain();
    g_autofree uint8_t *in = g_malloc(BYTES);
    g_autofree uint8_t *out = g_malloc(BYTES + 1);
    size_t packed = pack(QCOW2_COMPRESSION_ZLIB, plain, in);

    if (!qcow2_can_decode_prefix(decoders)) {
        assert_int_equal(qcow2_decode_prefix(decoders, in, packed, out, 1),
                         -ENOTSUP);
        qcow2_decoders_free(decoders);
        print_message("built without ISA-L\n");
        skip();
        return;
    }
    for (int bytes = 1; bytes <= BYTES; bytes += bytes < 600 ? 1 : 509) {
        memset(out, 0xee, BYTES + 1);
        assert_int_equal(qcow2_decode_prefix(decoders, in, packed + 511, out,
                                             bytes), 0);
        assert_memory_equal(out, plain, bytes);
        assert_int_equal(out[bytes], 0xee);
    }
    qcow2_decoders_free(decoders);
}

static void test_a_start_that_is_damaged_or_missing_is_an_error(void **state)
{
    Qcow2Decoders *decoders = qcow2_decoders_new(QCOW2_COMPRESSION_ZLIB);
    g_autofree uint8_t *plain = make_plain();
    g_autofree uint8_t *in = g_malloc0(BYTES);
    g_autofree uint8_t *out = g_malloc(BYTES);
    size_t packed = pack(QCOW2_COMPRESSION_ZLIB, plain, in);

    if (!qcow2_can_decode_prefix(decoders)) {
        qcow2_decoders_free(decoders);
        print_message("built without ISA-L\n");
        skip();
        return;
    }
    assert_int_equal(qcow2_decode_prefix(decoders, in, packed / 4, out,
                                         BYTES - 512), -EIO);
    memset(in, 0xff, 16); /* block type 3 does not exist */
    assert_int_equal(qcow2_decode_prefix(decoders, in, packed, out, 512),
                     -EIO);
    qcow2_decoders_free(decoders);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_cluster_that_was_encoded_here_is_decoded),
        cmocka_unit_test(test_the_start_of_a_cluster_is_decoded_alone),
        cmocka_unit_test(test_a_start_that_is_damaged_or_missing_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
