/* SPDX-License-Identifier: MIT */
/*
 * tests of drivers/qcow2/resize.c: content on both sides of the old end, and
 * a sound image afterwards
 */
#include "drivers/qcow2/check.h"
#include "drivers/qcow2/qcow2.h"
#include "tests/unit/qcow2_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CLUSTER_BITS 10
#define CLUSTER (1 << CLUSTER_BITS)
#define SIZE (MIB + 512)

typedef struct Resize {
    BlockBackend *blk;
    int64_t length;
    int ret;
} Resize;

static void coroutine_fn resize_entry(void *opaque)
{
    Resize *r = opaque;

    r->ret = blk_co_truncate(r->blk, r->length, /* exact= */ true,
                             PREALLOC_OFF, NULL);
}

static int resize(BlockBackend *blk, int64_t length)
{
    Resize r = { blk, length, 0 };

    aio_run_sync(resize_entry, &r);
    return r.ret;
}

static BlockBackend *open_image(void)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, CLUSTER_BITS, SIZE);
    BlockBackend *blk;

    test_disk_load(image->data, image->bytes);
    blk = test_disk_open(BDRV_O_RDWR | BDRV_O_RESIZE, "", NULL);
    assert_non_null(blk);
    return blk;
}

static void assert_sound(int64_t length)
{
    BlockBackend *blk = test_disk_open(BDRV_O_RDONLY, "", NULL);
    Qcow2CheckResult result = { 0 };

    assert_non_null(blk);
    assert_int_equal(blk_length(blk), length);
    assert_true(qcow2_check(blk_bs(blk), 0, &result, NULL));
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    blk_free(blk);
}

/* Past what the L1 table maps: it moves, and all stays readable. */
static void test_growing_keeps_content_and_reads_zeros_behind(void **state)
{
    BlockBackend *blk = open_image();
    int64_t l1_entries = qcow2_state(blk_bs(blk))->header.l1_entries;
    uint8_t data[CLUSTER], back[CLUSTER];

    memset(data, 'a', sizeof(data));
    assert_int_equal(blk_pwrite(blk, SIZE - 512, 512, data), 0);
    assert_int_equal(blk_pwrite(blk, 0, CLUSTER, data), 0);

    assert_int_equal(resize(blk, 100 * MIB), 0);
    assert_true(qcow2_state(blk_bs(blk))->header.l1_entries > l1_entries);
    assert_int_equal(blk_pread(blk, SIZE - 512, CLUSTER, back), 0);
    assert_int_equal(back[511], 'a');
    assert_int_equal(back[512], 0);
    assert_int_equal(blk_pwrite(blk, 99 * MIB, CLUSTER, data), 0);
    blk_free(blk);

    assert_sound(100 * MIB);
    blk = test_disk_open(BDRV_O_RDONLY, "", NULL);
    assert_int_equal(blk_pread(blk, 99 * MIB, CLUSTER, back), 0);
    assert_memory_equal(back, data, CLUSTER);
    assert_int_equal(blk_pread(blk, 0, CLUSTER, back), 0);
    assert_memory_equal(back, data, CLUSTER);
    blk_free(blk);
}

static void test_what_was_cut_off_does_not_come_back(void **state)
{
    BlockBackend *blk = open_image();
    uint8_t data[4 * CLUSTER], zeros[4 * CLUSTER] = { 0 };

    memset(data, 'a', sizeof(data));
    assert_int_equal(blk_pwrite(blk, 0, sizeof(data), data), 0);
    assert_int_equal(resize(blk, CLUSTER + 512), 0);
    assert_int_equal(resize(blk, SIZE), 0);
    assert_int_equal(blk_pread(blk, CLUSTER + 512, 2 * CLUSTER, data), 0);
    assert_memory_equal(data, zeros, 2 * CLUSTER);
    blk_free(blk);
    assert_sound(SIZE);
}

/* An L2 table that maps nothing but what was cut off is free again. */
static void test_tables_behind_the_end_are_given_up(void **state)
{
    const int64_t reach = (int64_t)CLUSTER / 8 * CLUSTER;
    BlockBackend *blk = open_image();
    Qcow2CheckResult result = { 0 };
    uint8_t back[4] = { 0 };
    const be64 *l1;

    assert_int_equal(resize(blk, 8 * reach), 0);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(blk_pwrite(blk, i * reach + 100, 4, "data"), 0);
    }
    assert_int_equal(resize(blk, 2 * reach + CLUSTER), 0);
    assert_int_equal(qcow2_commit_all(blk_bs(blk)), 0);

    l1 = (be64 *)(test_disk.data +
                  qcow2_state(blk_bs(blk))->header.l1_offset);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(be64_get(&l1[i]) != 0, i < 3);
    }
    assert_true(qcow2_check(blk_bs(blk), 0, &result, NULL));
    assert_int_equal(result.corruptions + result.leaks, 0);

    assert_int_equal(resize(blk, 8 * reach), 0);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(blk_pread(blk, i * reach + 100, 4, back), 0);
        assert_memory_equal(back, i < 3 ? "data" : "\0\0\0", 4);
    }
    assert_int_equal(blk_pwrite(blk, 7 * reach + 100, 4, "more"), 0);
    blk_free(blk);
    blk = test_disk_open(0, "", NULL);
    assert_non_null(blk);
    assert_int_equal(blk_pread(blk, 7 * reach + 100, 4, back), 0);
    assert_memory_equal(back, "more", 4);
    blk_free(blk);
}

static void test_an_l1_beyond_its_limit_is_refused(void **state)
{
    BlockBackend *blk = open_image();

    assert_int_equal(resize(blk, TIB), -EFBIG);
    blk_free(blk);
    assert_sound(SIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_growing_keeps_content_and_reads_zeros_behind),
        cmocka_unit_test(test_what_was_cut_off_does_not_come_back),
        cmocka_unit_test(test_tables_behind_the_end_are_given_up),
        cmocka_unit_test(test_an_l1_beyond_its_limit_is_refused),
    };
    int failures;

    test_disk_setup();
    failures = cmocka_run_group_tests(tests, NULL, NULL);
    test_disk_teardown();
    return failures;
}
