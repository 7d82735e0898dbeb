/* SPDX-License-Identifier: MIT */
/*
 * tests of drivers/qcow2/header.c: what is refused, and how it is said
 *
 * Each refusal is one changed field of a valid image. The message must name
 * the fact, so a part of it is compared.
 */
#include "drivers/qcow2/header.h"
#include "tests/unit/qcow2_disk.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CLUSTER_BITS 16
#define SIZE (10 * MIB)

typedef struct Refusal {
    const char *name;
    unsigned version;
    int64_t at;
    int width; /* bytes of the field */
    uint64_t value;
    ImgfuseError code;
    const char *message;
} Refusal;

static const Refusal refusals[] = {
    { "magic", 3, 0, 4, 0x12345678, IMGFUSE_ERROR_CORRUPT, "no qcow2" },
    { "version", 3, 4, 4, 4, IMGFUSE_ERROR_UNSUPPORTED, "version is 4" },
    { "cluster_bits small", 3, 20, 4, 8, IMGFUSE_ERROR_CORRUPT,
      "cluster_bits is 8" },
    { "cluster_bits large", 3, 20, 4, 63, IMGFUSE_ERROR_CORRUPT,
      "cluster_bits is 63" },
    { "size too large", 3, 24, 8, UINT64_MAX, IMGFUSE_ERROR_CORRUPT,
      "size is" },
    { "size beyond the L1", 3, 24, 8, TIB, IMGFUSE_ERROR_CORRUPT,
      "too small" },
    { "encrypted", 3, 32, 4, 99, IMGFUSE_ERROR_UNSUPPORTED, "encrypted" },
    { "no L1", 3, 36, 4, 0, IMGFUSE_ERROR_CORRUPT, "too small" },
    { "L1 too large", 3, 36, 4, 0x7fffffff, IMGFUSE_ERROR_CORRUPT,
      "larger than 32 MiB" },
    { "L1 unaligned", 3, 40, 8, 0x30001, IMGFUSE_ERROR_CORRUPT,
      "not aligned" },
    { "L1 past the end", 3, 40, 8, 0x100000, IMGFUSE_ERROR_CORRUPT,
      "past the end of the file at 0x40000" },
    { "L1 far out", 3, 40, 8, 0x7fffffffffff0000, IMGFUSE_ERROR_CORRUPT,
      "out of reach" },
    { "refcount table nowhere", 3, 48, 8, 0x4000000000000000,
      IMGFUSE_ERROR_CORRUPT, "out of reach" },
    { "no refcount table", 3, 56, 4, 0, IMGFUSE_ERROR_CORRUPT,
      "no refcount table" },
    { "refcount table too large", 3, 56, 4, 0x7fffffff,
      IMGFUSE_ERROR_CORRUPT, "larger than 8 MiB" },
    { "snapshots", 3, 60, 4, 65537, IMGFUSE_ERROR_CORRUPT, "snapshots" },
    { "unknown feature", 3, 72, 8, 1ull << 63, IMGFUSE_ERROR_UNSUPPORTED,
      "bit 63" },
    { "compression bit alone", 3, 72, 8, 8, IMGFUSE_ERROR_CORRUPT,
      "compression_type is 0" },
    { "refcount_order", 3, 96, 4, 7, IMGFUSE_ERROR_CORRUPT,
      "refcount_order is 7" },
    { "header_length short", 3, 100, 4, 71, IMGFUSE_ERROR_CORRUPT,
      "header_length is 71" },
    { "header_length long", 3, 100, 4, 0x10001, IMGFUSE_ERROR_CORRUPT,
      "header_length is 65537" },
    { "backing name in the header", 2, 8, 8, 8, IMGFUSE_ERROR_CORRUPT,
      "backing file name" },
    { "backing name too long", 3, 8, 8, 0x0000020000000000,
      IMGFUSE_ERROR_CORRUPT, "first cluster" },
};

static bool parse(const Qcow2Image *image, Qcow2Header *header,
                  GError **error)
{
    return qcow2_header_parse(header, image->data,
                              MIN(image->bytes, 1 << image->cluster_bits),
                              image->bytes, /* for_check= */ false, error);
}

static void test_a_wrong_field_is_refused_by_name(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(refusals); i++) {
        const Refusal *r = &refusals[i];
        g_autoptr(Qcow2Image) image =
            qcow2_image_new(r->version, CLUSTER_BITS, SIZE);
        g_autoptr(GError) error = NULL;
        Qcow2Header header;

        if (r->width == 4) {
            qcow2_image_set32(image, r->at, r->value);
        } else {
            qcow2_image_set64(image, r->at, r->value);
        }

        if (parse(image, &header, &error)) {
            fail_msg("%s was accepted", r->name);
        }
        if ((int)r->code != error->code ||
            !strstr(error->message, r->message)) {
            fail_msg("%s: \"%s\" (code %d) lacks \"%s\"", r->name,
                     error->message, error->code, r->message);
        }
    }
}

static void test_valid_images_of_all_cluster_sizes_are_accepted(void **state)
{
    for (unsigned version = 2; version <= 3; version++) {
        for (unsigned bits = 9; bits <= 21; bits++) {
            g_autoptr(Qcow2Image) image =
                qcow2_image_new(version, bits, MIB);
            g_autoptr(GError) error = NULL;
            Qcow2Header header;

            assert_true(parse(image, &header, &error));
            assert_int_equal(header.cluster_bits, bits);
            assert_int_equal(header.size, MIB);
            qcow2_header_clear(&header);
        }
    }
}

static void test_a_file_cut_inside_header_or_tables_is_refused(void **state)
{
    static const int64_t cuts[] = { 0, 3, 71, 72, 103, 511, 65535, 0x30000 };

    for (size_t i = 0; i < G_N_ELEMENTS(cuts); i++) {
        g_autoptr(Qcow2Image) image = qcow2_image_new(3, CLUSTER_BITS, SIZE);
        g_autoptr(GError) error = NULL;
        Qcow2Header header;

        image->bytes = cuts[i];

        assert_false(parse(image, &header, &error));
        assert_non_null(error);
    }
}

static void test_an_extension_past_the_end_is_refused(void **state)
{
    static const uint32_t lengths[] = { 0x7fffffff, 0xffffffff, 65536 };

    for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
        g_autoptr(Qcow2Image) image = qcow2_image_new(3, CLUSTER_BITS, SIZE);
        g_autoptr(GError) error = NULL;
        Qcow2Header header;

        qcow2_image_set32(image, 104, 0x11111111);
        qcow2_image_set32(image, 108, lengths[i]);

        assert_false(parse(image, &header, &error));
        assert_non_null(strstr(error->message, "header extension"));
    }
}

/* The directory is read as a whole: a file may be as long as it likes. */
static void test_a_directory_of_bitmaps_has_64_mib_at_most(void **state)
{
    for (int more = 0; more <= 8; more += 8) {
        g_autoptr(Qcow2Image) image = qcow2_image_new(3, CLUSTER_BITS, SIZE);
        g_autoptr(GError) error = NULL;
        Qcow2Header header;
        bool is_fine;

        qcow2_image_set64(image, 88, QCOW2_AUTOCLEAR_BITMAPS);
        qcow2_image_set32(image, 104, QCOW2_EXTENSION_BITMAPS);
        qcow2_image_set32(image, 108, 24);
        qcow2_image_set32(image, 112, 1);
        qcow2_image_set64(image, 120, 64 * MIB + more);
        qcow2_image_set64(image, 128, MIB);
        is_fine = qcow2_header_parse(&header, image->data,
                                     1 << CLUSTER_BITS, GIB,
                                     /* for_check= */ false, &error);

        assert_int_equal(is_fine, more == 0);
        assert_true(is_fine || strstr(error->message, "bitmaps has 67108872"));
        qcow2_header_clear(&header);
    }
}

static void test_an_unknown_feature_is_named_by_the_image(void **state)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, CLUSTER_BITS, SIZE);
    g_autoptr(GError) error = NULL;
    Qcow2Header header;

    qcow2_image_set64(image, 72, 1ull << 40);
    qcow2_image_set32(image, 104, QCOW2_EXTENSION_FEATURE_NAMES);
    qcow2_image_set32(image, 108, 48);
    image->data[113] = 40;
    strcpy((char *)image->data + 114, "time travel");

    assert_false(parse(image, &header, &error));
    assert_non_null(strstr(error->message, "time travel"));
}

static void test_names_come_from_extension_and_first_cluster(void **state)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, CLUSTER_BITS, SIZE);
    Qcow2Header header;

    qcow2_image_set32(image, 104, QCOW2_EXTENSION_BACKING_FORMAT);
    qcow2_image_set32(image, 108, 3);
    memcpy(image->data + 112, "raw", 3);
    qcow2_image_set64(image, 8, 200);
    qcow2_image_set32(image, 16, 8);
    memcpy(image->data + 200, "base.img", 8);

    assert_true(parse(image, &header, NULL));
    assert_string_equal(header.backing_name, "base.img");
    assert_string_equal(header.backing_format, "raw");
    qcow2_header_clear(&header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_wrong_field_is_refused_by_name),
        cmocka_unit_test(test_valid_images_of_all_cluster_sizes_are_accepted),
        cmocka_unit_test(test_a_file_cut_inside_header_or_tables_is_refused),
        cmocka_unit_test(test_an_extension_past_the_end_is_refused),
        cmocka_unit_test(test_a_directory_of_bitmaps_has_64_mib_at_most),
        cmocka_unit_test(test_an_unknown_feature_is_named_by_the_image),
        cmocka_unit_test(test_names_come_from_extension_and_first_cluster),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
