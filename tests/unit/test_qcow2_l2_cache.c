/* SPDX-License-Identifier: MIT */
/*
 * tests of drivers/qcow2/l2_cache.c: loading once, staying within bounds,
 * keeping what the disk does not have, copying shared tables
 */
#include "drivers/qcow2/qcow2.h"
#include "tests/unit/qcow2_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CLUSTER_BITS 10
#define CLUSTER (1 << CLUSTER_BITS)
/* One L2 table maps 128 clusters, so an L1 cluster 128 of those. */
#define TABLE_REACH (128 * CLUSTER)
#define SIZE (100 * TABLE_REACH)
#define L1_AT (3 * CLUSTER)

static BlockBackend *open_image(const Qcow2Image *image, const char *extra)
{
    GError *error = NULL;
    BlockBackend *blk;

    test_disk_load(image->data, image->bytes);
    blk = test_disk_open(BDRV_O_RDWR, extra, &error);
    if (!blk) {
        fail_msg("%s", error->message);
    }
    return blk;
}

static void test_a_slice_is_loaded_once(void **state)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, CLUSTER_BITS, SIZE);
    int64_t l2 = qcow2_image_append(image, 1);
    BlockBackend *blk;
    uint8_t byte;
    unsigned reads;

    qcow2_image_set64(image, L1_AT, l2 | QCOW2_ENTRY_COPIED);
    blk = open_image(image, "");
    reads = test_disk.reads;

    for (int64_t i = 0; i < TABLE_REACH; i += CLUSTER) {
        assert_int_equal(blk_pread(blk, i, 1, &byte), 0);
    }
    assert_int_equal(test_disk.reads, reads + 1);
    blk_free(blk);
}

static void test_the_cache_stays_within_its_bound(void **state)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, CLUSTER_BITS, SIZE);
    int64_t l2 = qcow2_image_append(image, 100);
    BlockBackend *blk;
    Qcow2L2Cache *cache;
    uint8_t byte;

    for (int i = 0; i < 100; i++) {
        qcow2_image_set64(image, L1_AT + i * 8,
                          (l2 + i * CLUSTER) | QCOW2_ENTRY_COPIED);
    }
    blk = open_image(image, "\"l2-cache-size\":\"20k\",");
    cache = &qcow2_state(blk_bs(blk))->l2;
    assert_int_equal(cache->slice_limit, 20);

    for (int turn = 0; turn < 3; turn++) {
        for (int64_t i = 0; i < SIZE; i += TABLE_REACH) {
            assert_int_equal(blk_pread(blk, i, 1, &byte), 0);
            assert_true(cache->slices->len <= 20);
        }
    }
    blk_free(blk);
}

static void test_dirty_slices_are_not_evicted(void **state)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, CLUSTER_BITS, SIZE);
    BlockBackend *blk = open_image(image, "\"l2-cache-size\":\"16k\",");
    uint8_t data[CLUSTER], back[CLUSTER];

    for (int turn = 0; turn < 2; turn++) {
        for (int64_t i = 0; i < SIZE; i += TABLE_REACH) {
            memset(data, 1 + i / TABLE_REACH + turn, sizeof(data));
            assert_int_equal(blk_pwrite(blk, i, sizeof(data), data), 0);
        }
        for (int64_t i = 0; i < SIZE; i += TABLE_REACH) {
            memset(data, 1 + i / TABLE_REACH + turn, sizeof(data));
            assert_int_equal(blk_pread(blk, i, sizeof(back), back), 0);
            assert_memory_equal(back, data, sizeof(back));
        }
    }
    blk_free(blk);
}

/* The old table is a snapshot's: it must stay as it was (qcow2 spec, L1). */
static void test_a_shared_table_is_copied_before_it_changes(void **state)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, CLUSTER_BITS, SIZE);
    int64_t l2 = qcow2_image_append(image, 1);
    int64_t data = qcow2_image_append(image, 1);
    g_autofree uint8_t *before = NULL;
    BlockBackend *blk;
    uint8_t back[CLUSTER];
    uint64_t entry;

    qcow2_image_set64(image, L1_AT, l2);
    qcow2_image_set64(image, l2, data);
    memset(image->data + data, 'd', CLUSTER);
    qcow2_image_set16(image, 2 * CLUSTER + (l2 / CLUSTER) * 2, 2);
    qcow2_image_set16(image, 2 * CLUSTER + (data / CLUSTER) * 2, 2);
    before = g_memdup2(image->data + l2, 2 * CLUSTER);
    blk = open_image(image, "");

    assert_int_equal(blk_pwrite(blk, CLUSTER, 3, "new"), 0);
    assert_int_equal(blk_pwrite(blk, 0, 3, "new"), 0);
    assert_int_equal(blk_pread(blk, 0, CLUSTER, back), 0);
    assert_int_equal(back[3], 'd');
    blk_free(blk);

    assert_memory_equal(test_disk.data + l2, before, 2 * CLUSTER);
    entry = be64_get((be64 *)(test_disk.data + L1_AT));
    assert_true(entry & QCOW2_ENTRY_COPIED);
    assert_int_not_equal(entry & QCOW2_OFFSET_MASK, l2);
    assert_int_equal(be16_get((be16 *)(test_disk.data + 2 * CLUSTER) +
                              l2 / CLUSTER), 1);
}

static void test_an_l2_table_past_the_end_fails(void **state)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, CLUSTER_BITS, SIZE);
    int64_t l2 = qcow2_image_append(image, 1);
    BlockBackend *blk;
    uint8_t byte;

    qcow2_image_set64(image, L1_AT, l2 | QCOW2_ENTRY_COPIED);
    image->bytes -= CLUSTER - 1;
    blk = open_image(image, "");
    assert_int_equal(blk_pread(blk, 0, 1, &byte), -EIO);
    assert_int_equal(blk_pread(blk, TABLE_REACH, 1, &byte), 0);
    blk_free(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_slice_is_loaded_once),
        cmocka_unit_test(test_the_cache_stays_within_its_bound),
        cmocka_unit_test(test_dirty_slices_are_not_evicted),
        cmocka_unit_test(test_a_shared_table_is_copied_before_it_changes),
        cmocka_unit_test(test_an_l2_table_past_the_end_fails),
    };
    int failures;

    test_disk_setup();
    failures = cmocka_run_group_tests(tests, NULL, NULL);
    test_disk_teardown();
    return failures;
}
