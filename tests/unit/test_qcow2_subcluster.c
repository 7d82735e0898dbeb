/* SPDX-License-Identifier: MIT */
/*
 * tests of drivers/qcow2/subcluster.c and of what follows from it: entries of
 * two words, runs of subclusters, writes that cost a subcluster
 */
#include "drivers/qcow2/subcluster.h"
#include "tests/unit/qcow2_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CLUSTER 16384
#define SUB (CLUSTER / 32)
#define SIZE (4 * MIB)
#define REFBLOCK (2 * CLUSTER)
#define L1_AT (3 * CLUSTER)
#define L2_AT (4 * CLUSTER)
#define DATA_AT (5 * CLUSTER)

/* L2 table at cluster 4, @clusters of data ('a', 'b', ...) from 5 on. */
static Qcow2Image *image_with_data(int clusters)
{
    Qcow2Image *image = qcow2_image_new(3, 14, SIZE);

    qcow2_image_set64(image, 72, QCOW2_INCOMPAT_EXTENDED_L2);
    assert_int_equal(qcow2_image_append(image, 1), L2_AT);
    qcow2_image_set64(image, L1_AT, L2_AT | QCOW2_ENTRY_COPIED);
    (void) qcow2_image_append(image, clusters);
    for (int i = 0; i < clusters; i++) {
        memset(image->data + DATA_AT + i * CLUSTER, 'a' + i, CLUSTER);
    }
    return image;
}

static void set_entry(Qcow2Image *image, int index, uint64_t word,
                      uint64_t bitmap)
{
    qcow2_image_set64(image, L2_AT + index * 16, word);
    qcow2_image_set64(image, L2_AT + index * 16 + 8, bitmap);
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

static uint64_t disk64(int64_t offset)
{
    return be64_get((const be64 *)(test_disk.data + offset));
}

static Qcow2State extended_state(void)
{
    return (Qcow2State) {
        .cluster_bits = 14, .cluster_bytes = CLUSTER, .l2_words = 2,
        .subclusters = 32, .subcluster_bits = 9, .subcluster_bytes = SUB,
        .header = { .version = 3, .cluster_bits = 14,
                    .incompatible = QCOW2_INCOMPAT_EXTENDED_L2 },
    };
}

static void test_entries_say_what_each_subcluster_is(void **state)
{
    static const struct {
        uint64_t word, bitmap;
        unsigned index;
        Qcow2ClusterType type;
    } rows[] = {
        { 0, 0, 0, QCOW2_CLUSTER_UNALLOCATED },
        { 0, 1ull << 32, 0, QCOW2_CLUSTER_ZERO_PLAIN },
        { 0, 1ull << 32, 1, QCOW2_CLUSTER_UNALLOCATED },
        { 0, 1ull << 63, 31, QCOW2_CLUSTER_ZERO_PLAIN },
        { 0x8000, 1, 0, QCOW2_CLUSTER_NORMAL },
        { 0x8000, 1, 1, QCOW2_CLUSTER_UNALLOCATED_ALLOC },
        { 0x8000, 1ull << 31, 31, QCOW2_CLUSTER_NORMAL },
        { 0x8000, 1ull << 63, 31, QCOW2_CLUSTER_ZERO_ALLOC },
        { QCOW2_ENTRY_COPIED | 0x8000, 1, 0, QCOW2_CLUSTER_NORMAL },
        { QCOW2_L2_COMPRESSED | 0x8000, 0, 5, QCOW2_CLUSTER_COMPRESSED },
        /* Damage of one subcluster is damage of all. */
        { 0x8000, 1ull << 32 | 1, 0, QCOW2_CLUSTER_INVALID },
        { 0x8000, 1ull << 32 | 1, 7, QCOW2_CLUSTER_INVALID },
        { 0, 1, 0, QCOW2_CLUSTER_INVALID },
        { 0, 1, 9, QCOW2_CLUSTER_INVALID },
        { 0x8001, 1, 0, QCOW2_CLUSTER_INVALID },
        { 0x8200, 1, 0, QCOW2_CLUSTER_INVALID },
        { 1ull << 57 | 0x8000, 1, 0, QCOW2_CLUSTER_INVALID },
    };
    Qcow2State q = extended_state();

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        Qcow2L2Entry entry = { rows[i].word, rows[i].bitmap };

        if (qcow2_subcluster_type(&q, entry, rows[i].index) != rows[i].type) {
            fail_msg("row %zu", i);
        }
    }
}

static void test_runs_end_where_a_bit_differs(void **state)
{
    uint64_t bitmap = 0xf0ull | 0xff00ull << 32;

    assert_int_equal(qcow2_bitmap_run(bitmap, 0, 0), 4);
    assert_int_equal(qcow2_bitmap_run(bitmap, 3, 0), 1);
    assert_int_equal(qcow2_bitmap_run(bitmap, 4, 1), 4);
    assert_int_equal(qcow2_bitmap_run(bitmap, 8, 2), 8);
    assert_int_equal(qcow2_bitmap_run(bitmap, 16, 0), 16);
    assert_int_equal(qcow2_bitmap_run(bitmap, 4, 0), 0);
    assert_int_equal(qcow2_bitmap_run(QCOW2_BITMAP_ALL_ALLOC, 0, 1), 32);
    assert_int_equal(qcow2_bitmap_run(QCOW2_BITMAP_ALL_ZERO, 31, 2), 1);
    assert_int_equal(qcow2_bitmap_range(0, 32), QCOW2_BITMAP_ALL_ALLOC);
    assert_int_equal(qcow2_bitmap_kind(bitmap, 8), 2);
}

static void test_subclusters_of_neighbours_are_read_at_once(void **state)
{
    g_autoptr(Qcow2Image) image = image_with_data(3);
    uint8_t data[3 * CLUSTER];
    BlockBackend *blk;
    unsigned reads;

    set_entry(image, 0, DATA_AT | QCOW2_ENTRY_COPIED, 0xfffffff0);
    set_entry(image, 1, (DATA_AT + CLUSTER) | QCOW2_ENTRY_COPIED, 0xffffffff);
    set_entry(image, 2, (DATA_AT + 2 * CLUSTER) | QCOW2_ENTRY_COPIED, 0xf);
    blk = open_image(image, BDRV_O_RDONLY);

    assert_int_equal(blk_pread(blk, 0, 1, data), 0);
    reads = test_disk.reads;
    assert_int_equal(blk_pread(blk, 0, sizeof(data), data), 0);

    assert_int_equal(test_disk.reads, reads + 1);
    assert_int_equal(data[4 * SUB - 1], 0);
    assert_int_equal(data[4 * SUB], 'a');
    assert_int_equal(data[CLUSTER], 'b');
    assert_int_equal(data[2 * CLUSTER + 4 * SUB - 1], 'c');
    assert_int_equal(data[2 * CLUSTER + 4 * SUB], 0);
    blk_free(blk);
}

static void test_damaged_bitmaps_are_errors_not_zeros(void **state)
{
    g_autoptr(Qcow2Image) image = image_with_data(2);
    uint8_t data[512];
    BlockBackend *blk;

    set_entry(image, 0, DATA_AT | QCOW2_ENTRY_COPIED, 1ull << 32 | 1);
    set_entry(image, 1, 0, 1);
    set_entry(image, 2, DATA_AT | QCOW2_L2_ZERO, 0);
    blk = open_image(image, BDRV_O_RDWR);

    for (int i = 0; i < 3; i++) {
        int64_t at = i * CLUSTER + 8 * SUB;

        assert_int_equal(blk_pread(blk, at, sizeof(data), data), -EIO);
        assert_int_equal(blk_pwrite(blk, at, sizeof(data), data), -EIO);
    }
    assert_int_equal(blk_pread(blk, 3 * CLUSTER, sizeof(data), data), 0);
    blk_free(blk);
}

/* The rest of the touched subcluster is written, no more. */
static void test_a_small_write_into_a_hole_allocates_a_subcluster(void **s)
{
    g_autoptr(Qcow2Image) image = image_with_data(0);
    BlockBackend *blk = open_image(image, BDRV_O_RDWR);
    uint8_t data[SUB];

    assert_int_equal(blk_pwrite(blk, 5 * SUB + 10, 3, "new"), 0);
    assert_int_equal(blk_flush(blk), 0);

    assert_int_equal(disk64(L2_AT), DATA_AT | QCOW2_ENTRY_COPIED);
    assert_int_equal(disk64(L2_AT + 8), 1 << 5);
    assert_int_equal(blk_pread(blk, 5 * SUB, SUB, data), 0);
    assert_int_equal(data[9], 0);
    assert_memory_equal(data + 10, "new", 3);
    assert_int_equal(data[SUB - 1], 0);
    blk_free(blk);
}

static void test_a_later_write_fills_the_same_host_cluster(void **state)
{
    g_autoptr(Qcow2Image) image = image_with_data(1);
    uint8_t data[CLUSTER];
    BlockBackend *blk;

    /* What is not allocated reads zeros, whatever the host cluster holds. */
    set_entry(image, 0, DATA_AT | QCOW2_ENTRY_COPIED, 1 | 4ull << 32);
    blk = open_image(image, BDRV_O_RDWR);
    assert_int_equal(blk_pwrite(blk, 2 * SUB + 1, 2 * SUB, data), 0);
    assert_int_equal(blk_flush(blk), 0);

    assert_int_equal(disk64(L2_AT), DATA_AT | QCOW2_ENTRY_COPIED);
    assert_int_equal(disk64(L2_AT + 8), 1 | 7 << 2);
    assert_int_equal(blk_pread(blk, 0, CLUSTER, data), 0);
    assert_int_equal(data[0], 'a');
    assert_int_equal(data[SUB], 0);
    assert_int_equal(data[2 * SUB], 0);
    assert_int_equal(data[5 * SUB - 1], 0);
    assert_int_equal(data[5 * SUB], 0);
    blk_free(blk);
}

/* A snapshot's cluster: all that is allocated moves, the rest stays unset. */
static void test_a_shared_cluster_is_copied_with_its_bitmap(void **state)
{
    g_autoptr(Qcow2Image) image = image_with_data(1);
    uint8_t data[CLUSTER];
    uint64_t word;
    BlockBackend *blk;

    set_entry(image, 0, DATA_AT, 0x30 | 1ull << 33);
    qcow2_image_set16(image, REFBLOCK + 5 * 2, 2);
    blk = open_image(image, BDRV_O_RDWR);
    assert_int_equal(blk_pwrite(blk, 8 * SUB, 1, "x"), 0);
    assert_int_equal(blk_flush(blk), 0);

    word = disk64(L2_AT);
    assert_true((word & QCOW2_ENTRY_COPIED) &&
                (word & QCOW2_OFFSET_MASK) != DATA_AT);
    assert_int_equal(disk64(L2_AT + 8), 0x130 | 1ull << 33);
    assert_int_equal(blk_pread(blk, 0, CLUSTER, data), 0);
    assert_int_equal(data[SUB], 0);
    assert_int_equal(data[4 * SUB], 'a');
    assert_int_equal(data[6 * SUB], 0);
    assert_int_equal(data[8 * SUB], 'x');
    assert_int_equal(data[8 * SUB + 1], 0);
    blk_free(blk);
}

static void test_zeroing_subclusters_writes_no_data(void **state)
{
    g_autoptr(Qcow2Image) image = image_with_data(1);
    uint8_t data[CLUSTER];
    BlockBackend *blk;
    unsigned writes;

    set_entry(image, 0, DATA_AT | QCOW2_ENTRY_COPIED, 0xffff);
    blk = open_image(image, BDRV_O_RDWR);
    writes = test_disk.writes;
    assert_int_equal(blk_pwrite_zeroes(blk, 4 * SUB, 16 * SUB, 0), 0);
    assert_int_equal(test_disk.writes, writes);
    assert_int_equal(blk_flush(blk), 0);

    /* What was not allocated reads zeros as it is. */
    assert_int_equal(disk64(L2_AT + 8), 0xf | 0xfff0ull << 32);
    assert_int_equal(blk_pread(blk, 0, CLUSTER, data), 0);
    assert_int_equal(data[4 * SUB - 1], 'a');
    assert_int_equal(data[4 * SUB], 0);
    blk_free(blk);
}

static void test_a_whole_cluster_that_is_unmapped_gives_up_its_place(void **s)
{
    g_autoptr(Qcow2Image) image = image_with_data(1);
    BlockBackend *blk;

    set_entry(image, 0, DATA_AT | QCOW2_ENTRY_COPIED, 0xffff);
    blk = open_image(image, BDRV_O_RDWR | BDRV_O_UNMAP);

    assert_int_equal(blk_pwrite_zeroes(blk, 0, CLUSTER, BDRV_REQ_MAY_UNMAP),
                     0);
    assert_int_equal(blk_flush(blk), 0);

    assert_int_equal(disk64(L2_AT), 0);
    assert_true(disk64(L2_AT + 8) == QCOW2_BITMAP_ALL_ZERO);
    blk_free(blk);
}

static void test_too_small_clusters_are_refused(void **state)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, 13, SIZE);
    GError *error = NULL;

    qcow2_image_set64(image, 72, QCOW2_INCOMPAT_EXTENDED_L2);
    test_disk_load(image->data, image->bytes);

    assert_null(test_disk_open(BDRV_O_RDONLY, "", &error));
    assert_non_null(strstr(error->message, "too small for extended"));
    g_error_free(error);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries_say_what_each_subcluster_is),
        cmocka_unit_test(test_runs_end_where_a_bit_differs),
        cmocka_unit_test(test_subclusters_of_neighbours_are_read_at_once),
        cmocka_unit_test(test_damaged_bitmaps_are_errors_not_zeros),
        cmocka_unit_test(
            test_a_small_write_into_a_hole_allocates_a_subcluster),
        cmocka_unit_test(test_a_later_write_fills_the_same_host_cluster),
        cmocka_unit_test(test_a_shared_cluster_is_copied_with_its_bitmap),
        cmocka_unit_test(test_zeroing_subclusters_writes_no_data),
        cmocka_unit_test(
            test_a_whole_cluster_that_is_unmapped_gives_up_its_place),
        cmocka_unit_test(test_too_small_clusters_are_refused),
    };
    int ret;

    test_disk_setup();
    ret = cmocka_run_group_tests(tests, NULL, NULL);
    test_disk_teardown();
    return ret;
}
