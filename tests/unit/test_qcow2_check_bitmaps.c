/* SPDX-License-Identifier: MIT */
/*
 * subcluster bitmaps that say what cannot be: found by a check, mended by a
 * repair, and no more than those
 */
#include "block/image/check.h"
#include "drivers/qcow2/subcluster.h"
#include "tests/unit/qcow2_disk.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CLUSTER_BITS 14
#define CLUSTER (1 << CLUSTER_BITS)
#define SUBCLUSTER (CLUSTER / QCOW2_SUBCLUSTERS)
#define L1_AT (3 * CLUSTER)

/* Bit @i of each half. */
#define ALLOC(i) (UINT64_C(1) << (i))
#define ZERO(i) (UINT64_C(1) << (32 + (i)))

typedef enum Kind {
    NO_CLUSTER,
    DATA,
    COMPRESSED,
} Kind;

static const struct {
    Kind kind;
    uint64_t before, after;
} rows[] = {
    { DATA, ALLOC(0) | ZERO(1), ALLOC(0) | ZERO(1) },
    { DATA, ALLOC(0) | ALLOC(1) | ZERO(1) | ZERO(2),
      ALLOC(0) | ALLOC(1) | ZERO(2) },
    { NO_CLUSTER, ALLOC(3) | ZERO(4), ZERO(4) },
    { NO_CLUSTER, ZERO(5), ZERO(5) },
    { COMPRESSED, ALLOC(0) | ZERO(7), 0 },
    { DATA, QCOW2_BITMAP_ALL_ALLOC | QCOW2_BITMAP_ALL_ZERO,
      QCOW2_BITMAP_ALL_ALLOC },
};
#define BAD_ROWS 4

/* The entry of row i maps guest cluster i; cluster by cluster of 'a', 'b'... */
static Qcow2Image *image_with_rows(int64_t *ret_l2)
{
    Qcow2Image *image = qcow2_image_new(3, CLUSTER_BITS, MIB);
    int64_t l2 = qcow2_image_append(image, 1);

    qcow2_image_set64(image, 72, QCOW2_INCOMPAT_EXTENDED_L2);
    qcow2_image_set64(image, L1_AT, QCOW2_ENTRY_COPIED | l2);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        int64_t at = rows[i].kind == NO_CLUSTER ? 0
                                                : qcow2_image_append(image, 1);

        qcow2_image_set64(image, l2 + i * 16,
                          rows[i].kind == DATA ? QCOW2_ENTRY_COPIED | at
                          : rows[i].kind == COMPRESSED
                              ? QCOW2_L2_COMPRESSED | at : 0);
        qcow2_image_set64(image, l2 + i * 16 + 8, rows[i].before);
        if (at) {
            memset(image->data + at, 'a' + (int)i, CLUSTER);
        }
    }
    *ret_l2 = l2;
    return image;
}

static BlockCheckResult check(BlockCheckFix fix)
{
    BlockCheckResult result = { 0 };
    GError *error = NULL;
    BlockBackend *blk = test_disk_open(
        BDRV_O_CHECK | (fix ? BDRV_O_RDWR | BDRV_O_RESIZE : 0), "", &error);

    if (!blk || !bdrv_check(blk_bs(blk), fix, &result, &error)) {
        fail_msg("%s", error->message);
    }
    blk_free(blk);
    return result;
}

static void test_repair_mends_bitmaps_and_nothing_else(void **state)
{
    int64_t l2;
    g_autoptr(Qcow2Image) image = image_with_rows(&l2);
    g_autofree uint8_t *expected = g_memdup2(image->data, image->bytes);
    BlockCheckResult result;

    test_disk_load(image->data, image->bytes);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        be64_set((be64 *)(expected + l2 + i * 16 + 8), rows[i].after);
    }

    assert_int_equal(check(BLOCK_CHECK_FIX_NONE).corruptions, BAD_ROWS);
    assert_int_equal(check(BLOCK_CHECK_FIX_LEAKS).corruptions, BAD_ROWS);
    assert_memory_equal(test_disk.data, image->data, image->bytes);

    result = check(BLOCK_CHECK_FIX_LEAKS | BLOCK_CHECK_FIX_ERRORS);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.corruptions_fixed, BAD_ROWS);
    assert_memory_equal(test_disk.data, expected, image->bytes);
}

static void test_a_mended_cluster_reads_what_the_file_has(void **state)
{
    int64_t l2;
    g_autoptr(Qcow2Image) image = image_with_rows(&l2);
    uint8_t data[SUBCLUSTER], back[SUBCLUSTER];
    BlockBackend *blk;

    test_disk_load(image->data, image->bytes);
    (void) check(BLOCK_CHECK_FIX_LEAKS | BLOCK_CHECK_FIX_ERRORS);
    blk = test_disk_open(0, "", NULL);
    assert_non_null(blk);

    for (int i = 0; i < 4; i++) {
        memset(data, i < 2 ? 'b' : 0, sizeof(data));
        assert_int_equal(blk_pread(blk, CLUSTER + i * SUBCLUSTER, SUBCLUSTER,
                                   back), 0);
        assert_memory_equal(back, data, SUBCLUSTER);
    }
    blk_free(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_repair_mends_bitmaps_and_nothing_else),
        cmocka_unit_test(test_a_mended_cluster_reads_what_the_file_has),
    };
    int failures;

    test_disk_setup();
    failures = cmocka_run_group_tests(tests, NULL, NULL);
    test_disk_teardown();
    return failures;
}
