/* SPDX-License-Identifier: MIT */
/*
 * tests of drivers/qcow2/cluster.c and qcow2.c's loops: what maps where, what
 * a write keeps of the old content, what damage does
 */
#include "drivers/qcow2/cluster.h"
#include "tests/unit/qcow2_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CLUSTER 4096
#define SIZE (4 * MIB)
#define L1_AT (3 * CLUSTER)

/* An image with an L2 table at cluster 4 and data clusters from 5 on. */
static Qcow2Image *image_with_data(int clusters)
{
    Qcow2Image *image = qcow2_image_new(3, 12, SIZE);
    int64_t l2 = qcow2_image_append(image, 1);
    int64_t data = qcow2_image_append(image, clusters);

    qcow2_image_set64(image, L1_AT, l2 | QCOW2_ENTRY_COPIED);
    for (int i = 0; i < clusters; i++) {
        qcow2_image_set64(image, l2 + i * 8,
                          (data + i * CLUSTER) | QCOW2_ENTRY_COPIED);
        memset(image->data + data + i * CLUSTER, 'a' + i, CLUSTER);
    }
    return image;
}

static int64_t l2_at(int index)
{
    return 4 * CLUSTER + index * 8;
}

static BlockBackend *open_image(const Qcow2Image *image, BdrvOpenFlags flags)
{
    GError *error = NULL;
    BlockBackend *blk;

    test_disk_load(image->data, image->bytes);
    blk = test_disk_open(flags, "", &error);
    if (!blk) {
        fail_msg("%s", error->message);
    }
    return blk;
}

static void test_entries_have_the_type_the_format_says(void **state)
{
    static const struct {
        uint64_t entry;
        unsigned version;
        Qcow2ClusterType type;
    } cases[] = {
        { 0, 3, QCOW2_CLUSTER_UNALLOCATED },
        { 1, 3, QCOW2_CLUSTER_ZERO_PLAIN },
        { 0x10001, 3, QCOW2_CLUSTER_ZERO_ALLOC },
        { 0x10000, 3, QCOW2_CLUSTER_NORMAL },
        { 1ull << 63 | 0x10000, 2, QCOW2_CLUSTER_NORMAL },
        { 1ull << 62 | 0x10003, 3, QCOW2_CLUSTER_COMPRESSED },
        { 1, 2, QCOW2_CLUSTER_INVALID },
        { 0x10002, 3, QCOW2_CLUSTER_INVALID },
        { 1ull << 61 | 0x10000, 3, QCOW2_CLUSTER_INVALID },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        assert_int_equal(qcow2_entry_type(cases[i].entry, cases[i].version),
                         cases[i].type);
    }
}

static void test_contiguous_clusters_are_read_at_once(void **state)
{
    g_autoptr(Qcow2Image) image = image_with_data(8);
    BlockBackend *blk = open_image(image, BDRV_O_RDONLY);
    uint8_t data[8 * CLUSTER];
    unsigned reads;

    assert_int_equal(blk_pread(blk, 0, 1, data), 0);
    reads = test_disk.reads;
    assert_int_equal(blk_pread(blk, 0, sizeof(data), data), 0);

    assert_int_equal(test_disk.reads, reads + 1);
    assert_int_equal(data[0], 'a');
    assert_int_equal(data[sizeof(data) - 1], 'h');
    blk_free(blk);
}

static void test_a_partial_write_keeps_the_rest_of_a_shared_cluster(void **s)
{
    g_autoptr(Qcow2Image) image = image_with_data(2);
    BlockBackend *blk;
    uint8_t data[2 * CLUSTER];

    /* A second reference, as of a snapshot: no COPIED, count 2. */
    qcow2_image_set64(image, l2_at(0), 5 * CLUSTER);
    qcow2_image_set16(image, 2 * CLUSTER + 5 * 2, 2);
    blk = open_image(image, BDRV_O_RDWR);

    assert_int_equal(blk_pwrite(blk, 100, 3, "new"), 0);
    assert_int_equal(blk_pread(blk, 0, sizeof(data), data), 0);

    assert_int_equal(data[99], 'a');
    assert_memory_equal(data + 100, "new", 3);
    assert_int_equal(data[103], 'a');
    assert_int_equal(data[CLUSTER], 'b');
    assert_int_equal(test_disk.data[5 * CLUSTER + 100], 'a');
    blk_free(blk);
}

static void test_a_write_in_place_touches_nothing_else(void **state)
{
    g_autoptr(Qcow2Image) image = image_with_data(2);
    BlockBackend *blk = open_image(image, BDRV_O_RDWR);
    uint8_t *before;

    before = g_memdup2(test_disk.data, test_disk.length);
    assert_int_equal(blk_pwrite(blk, 100, 3, "new"), 0);
    assert_int_equal(blk_flush(blk), 0);

    memcpy(before + 5 * CLUSTER + 100, "new", 3);
    assert_memory_equal(test_disk.data, before, test_disk.length);
    assert_int_equal(test_disk.writes, 1);
    g_free(before);
    blk_free(blk);
}

static void test_damaged_entries_fail_and_others_do_not(void **state)
{
    static const uint64_t damages[] = {
        5 * CLUSTER + 512,        /* unaligned */
        1ull << 55,               /* past the end of the file */
        1ull << 58 | 5 * CLUSTER, /* reserved bits */
    };

    for (size_t i = 0; i < G_N_ELEMENTS(damages); i++) {
        g_autoptr(Qcow2Image) image = image_with_data(2);
        BlockBackend *blk;
        uint8_t data[CLUSTER];

        qcow2_image_set64(image, l2_at(0), damages[i]);
        blk = open_image(image, BDRV_O_RDONLY);

        assert_int_equal(blk_pread(blk, 0, CLUSTER, data), -EIO);
        assert_int_equal(blk_pread(blk, CLUSTER, CLUSTER, data), 0);
        assert_int_equal(data[0], 'b');
        assert_int_equal(test_disk.writes, 0);
        blk_free(blk);
    }
}

static void test_a_damaged_l1_entry_fails(void **state)
{
    static const uint64_t damages[] = {
        0x200, 1ull << 55, CLUSTER * 3, 1ull << 60 | 4 * CLUSTER, 1,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(damages); i++) {
        g_autoptr(Qcow2Image) image = image_with_data(1);
        BlockBackend *blk;
        uint8_t data[CLUSTER];

        qcow2_image_set64(image, L1_AT, damages[i]);
        blk = open_image(image, BDRV_O_RDONLY);
        assert_int_equal(blk_pread(blk, 0, CLUSTER, data), -EIO);
        blk_free(blk);
    }
}

/* The guest must not get to the image's own structures. */
static void test_a_write_through_metadata_marks_the_image_corrupt(void **s)
{
    for (int64_t target = 0; target < 4 * CLUSTER; target += CLUSTER) {
        g_autoptr(Qcow2Image) image = image_with_data(2);
        BlockBackend *blk;
        uint8_t data[CLUSTER] = "evil";

        if (target == 2 * CLUSTER) {
            continue; /* a refcount block: found by check, not by compares */
        }
        /* Offset 0 cannot be told: that entry is a hole. */
        qcow2_image_set64(image, l2_at(0),
                          target ? target | QCOW2_ENTRY_COPIED
                                 : QCOW2_L2_ZERO | QCOW2_ENTRY_COPIED);
        blk = open_image(image, BDRV_O_RDWR);
        if (target) {
            assert_int_equal(blk_pwrite(blk, 0, CLUSTER, data), -EIO);
            assert_true(test_disk.data[79] & QCOW2_INCOMPAT_CORRUPT);
            assert_int_equal(blk_pwrite(blk, CLUSTER, CLUSTER, data), -EIO);
        } else {
            assert_int_equal(blk_pwrite(blk, 0, CLUSTER, data), 0);
        }
        assert_memory_equal(test_disk.data, image->data, 72);
        blk_free(blk);
    }
}

static void test_a_corrupt_image_opens_read_only_only(void **state)
{
    g_autoptr(Qcow2Image) image = image_with_data(1);
    g_autoptr(GError) error = NULL;
    BlockBackend *blk;

    qcow2_image_set64(image, 72, QCOW2_INCOMPAT_CORRUPT);
    blk = open_image(image, BDRV_O_RDONLY);
    blk_free(blk);

    assert_null(test_disk_open(BDRV_O_RDWR, "", &error));
    assert_non_null(strstr(error->message, "corrupt"));
    assert_int_equal(test_disk.writes, 0);
}

static void test_the_first_write_clears_unknown_autoclear_bits(void **state)
{
    g_autoptr(Qcow2Image) image = image_with_data(1);
    BlockBackend *blk;

    qcow2_image_set64(image, 88, 0xff00);
    blk = open_image(image, BDRV_O_RDWR);
    assert_int_equal(test_disk.data[94], 0xff);

    assert_int_equal(blk_pwrite(blk, 0, 3, "new"), 0);
    assert_int_equal(test_disk.data[94], 0);
    blk_free(blk);
}

static void test_a_cut_off_last_cluster_reads_zeros_behind(void **state)
{
    g_autoptr(Qcow2Image) image = image_with_data(2);
    BlockBackend *blk;
    uint8_t data[CLUSTER];

    image->bytes -= CLUSTER - 512;
    blk = open_image(image, BDRV_O_RDONLY);

    assert_int_equal(blk_pread(blk, CLUSTER, CLUSTER, data), 0);
    assert_int_equal(data[511], 'b');
    assert_int_equal(data[512], 0);
    blk_free(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries_have_the_type_the_format_says),
        cmocka_unit_test(test_contiguous_clusters_are_read_at_once),
        cmocka_unit_test(
            test_a_partial_write_keeps_the_rest_of_a_shared_cluster),
        cmocka_unit_test(test_a_write_in_place_touches_nothing_else),
        cmocka_unit_test(test_damaged_entries_fail_and_others_do_not),
        cmocka_unit_test(test_a_damaged_l1_entry_fails),
        cmocka_unit_test(
            test_a_write_through_metadata_marks_the_image_corrupt),
        cmocka_unit_test(test_a_corrupt_image_opens_read_only_only),
        cmocka_unit_test(test_the_first_write_clears_unknown_autoclear_bits),
        cmocka_unit_test(test_a_cut_off_last_cluster_reads_zeros_behind),
    };
    int failures;

    test_disk_setup();
    failures = cmocka_run_group_tests(tests, NULL, NULL);
    test_disk_teardown();
    return failures;
}
