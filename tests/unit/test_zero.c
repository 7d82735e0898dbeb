/* SPDX-License-Identifier: MIT */
/*
 * tests of block/io/zero.c: zero-writes, discards, zero detection
 */
#include "tests/unit/memory_driver.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static int set_up(void **state)
{
    aio_context_new(NULL);
    return 0;
}

static int tear_down(void **state)
{
    aio_context_free(aio_context_current());
    return 0;
}

#define LENGTH MIB

static BdrvChild *open_filled(const MemoryConfig *config)
{
    BdrvChild *child = memory_open(config);

    memset(memory_data(child), 0x77, LENGTH);
    return child;
}

/* Zero from @offset for @bytes, 0x77 around it? */
static void assert_zeroed(BdrvChild *child, int64_t offset, int64_t bytes)
{
    const uint8_t *data = memory_data(child);

    assert_true(buffer_is_zero(data + offset, bytes));
    assert_int_equal(data[offset - 1], 0x77);
    assert_int_equal(data[offset + bytes], 0x77);
}

static void test_zeroes_come_as_head_units_and_tail(void **state)
{
    BdrvChild *child = open_filled(&(MemoryConfig) {
        .length = LENGTH,
        .limits = { .request_alignment = 512, .max_pwrite_zeroes = 140000,
                    .pwrite_zeroes_alignment = 65536 } });

    assert_int_equal(bdrv_pwrite_zeroes(child, 512, 65536 * 4, 0), 0);

    /* 65024 head; 131072 and 65536 whole units; 512 tail. */
    assert_int_equal(memory_count(child, MEMORY_ZEROES), 4);
    assert_int_equal(memory_last(child, MEMORY_ZEROES).bytes, 512);
    assert_zeroed(child, 512, 65536 * 4);
    memory_close(child);
}

static void test_parts_of_blocks_are_read_and_written(void **state)
{
    BdrvChild *child = open_filled(&(MemoryConfig) {
        .length = LENGTH, .limits = { .request_alignment = 4096 } });

    assert_int_equal(bdrv_pwrite_zeroes(child, 100, 10000, 0), 0);
    assert_int_equal(memory_count(child, MEMORY_READ), 2);
    assert_int_equal(memory_count(child, MEMORY_ZEROES), 1);
    assert_zeroed(child, 100, 10000);

    assert_int_equal(bdrv_pwrite_zeroes(child, 20500, 10, 0), 0);
    assert_int_equal(memory_count(child, MEMORY_ZEROES), 1);
    assert_zeroed(child, 20500, 10);
    memory_close(child);
}

static void test_zeros_are_written_where_the_driver_cannot(void **state)
{
    BdrvChild *child = open_filled(&(MemoryConfig) {
        .length = LENGTH, .no_zeroes = true,
        .limits = { .request_alignment = 512, .max_transfer = 65536 } });

    assert_int_equal(bdrv_pwrite_zeroes(child, 512, 200000, 0), 0);

    assert_zeroed(child, 512, 200000);
    assert_true(memory_count(child, MEMORY_WRITE) >= 4);
    memory_close(child);
}

static void test_no_fallback_writes_nothing(void **state)
{
    BdrvChild *child = open_filled(&(MemoryConfig) {
        .length = LENGTH, .no_zeroes = true,
        .zero_flags = BDRV_REQ_NO_FALLBACK });
    BdrvChild *unsure = open_filled(&(MemoryConfig) { .length = LENGTH });

    assert_int_equal(bdrv_pwrite_zeroes(child, 0, 4096, BDRV_REQ_NO_FALLBACK),
                     -ENOTSUP);
    assert_int_equal(bdrv_pwrite_zeroes(unsure, 0, 4096,
                                        BDRV_REQ_NO_FALLBACK), -ENOTSUP);

    assert_int_equal(memory_count(child, MEMORY_WRITE), 0);
    assert_int_equal(memory_count(unsure, MEMORY_ZEROES), 0);
    memory_close(child);
    memory_close(unsure);
}

static void test_unmap_flag_needs_an_unmapping_node(void **state)
{
    MemoryConfig config = { .length = LENGTH,
                            .zero_flags = BDRV_REQ_MAY_UNMAP };
    BdrvChild *child = open_filled(&config), *keeping;

    config.open_flags = BDRV_O_RDWR;
    keeping = open_filled(&config);

    bdrv_pwrite_zeroes(child, 0, 4096, BDRV_REQ_MAY_UNMAP);
    bdrv_pwrite_zeroes(keeping, 0, 4096, BDRV_REQ_MAY_UNMAP);

    assert_int_equal(memory_last(child, MEMORY_ZEROES).flags,
                     BDRV_REQ_MAY_UNMAP);
    assert_int_equal(memory_last(keeping, MEMORY_ZEROES).flags, 0);
    memory_close(child);
    memory_close(keeping);
}

static void test_written_zeros_are_detected(void **state)
{
    BdrvChild *child = open_filled(&(MemoryConfig) {
        .length = LENGTH, .zero_flags = BDRV_REQ_MAY_UNMAP });
    uint8_t buffer[4096] = { 0 };

    child->bs->detect_zeroes = BDRV_DETECT_ZEROES_ON;
    assert_int_equal(bdrv_pwrite(child, 4096, 4096, buffer), 0);
    assert_int_equal(memory_last(child, MEMORY_ZEROES).flags, 0);
    child->bs->detect_zeroes = BDRV_DETECT_ZEROES_UNMAP;
    assert_int_equal(bdrv_pwrite(child, 8192, 4096, buffer), 0);
    assert_int_equal(memory_last(child, MEMORY_ZEROES).flags,
                     BDRV_REQ_MAY_UNMAP);
    buffer[4095] = 1;
    assert_int_equal(bdrv_pwrite(child, 16384, 4096, buffer), 0);

    assert_int_equal(memory_count(child, MEMORY_ZEROES), 2);
    assert_int_equal(memory_count(child, MEMORY_WRITE), 1);
    assert_zeroed(child, 4096, 8192);
    memory_close(child);
}

static void test_discard_leaves_out_parts_of_blocks(void **state)
{
    BdrvChild *child = open_filled(&(MemoryConfig) {
        .length = LENGTH,
        .limits = { .request_alignment = 4096, .max_pdiscard = 10001 } });

    assert_int_equal(memory_pdiscard(child, 100, 8192 + 8192), 0);
    assert_zeroed(child, 4096, 12288);
    assert_int_equal(memory_count(child, MEMORY_DISCARD), 2);
    assert_int_equal(memory_pdiscard(child, 4097, 4096), 0);
    assert_int_equal(memory_count(child, MEMORY_DISCARD), 2);
    memory_close(child);
}

static void test_discard_is_only_a_hint(void **state)
{
    BdrvChild *child = open_filled(&(MemoryConfig) { .length = LENGTH });
    BdrvChild *keeping = open_filled(&(MemoryConfig) {
        .length = LENGTH, .open_flags = BDRV_O_RDWR });

    memory_fail_next(child, MEMORY_DISCARD, -ENOTSUP);
    assert_int_equal(memory_pdiscard(child, 0, 4096), 0);
    memory_fail_next(child, MEMORY_DISCARD, -EIO);
    assert_int_equal(memory_pdiscard(child, 0, 4096), -EIO);
    assert_int_equal(memory_pdiscard(keeping, 0, 4096), 0);
    assert_int_equal(memory_count(keeping, MEMORY_DISCARD), 0);
    assert_int_equal(memory_pdiscard(child, LENGTH, 1), -EINVAL);
    memory_close(child);
    memory_close(keeping);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zeroes_come_as_head_units_and_tail),
        cmocka_unit_test(test_parts_of_blocks_are_read_and_written),
        cmocka_unit_test(test_zeros_are_written_where_the_driver_cannot),
        cmocka_unit_test(test_no_fallback_writes_nothing),
        cmocka_unit_test(test_unmap_flag_needs_an_unmapping_node),
        cmocka_unit_test(test_written_zeros_are_detected),
        cmocka_unit_test(test_discard_leaves_out_parts_of_blocks),
        cmocka_unit_test(test_discard_is_only_a_hint),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
