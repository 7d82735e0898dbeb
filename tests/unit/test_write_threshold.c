/* SPDX-License-Identifier: MIT */
/*
 * tests of block/io/write_threshold.c: when it fires, and that it does once
 */
#include "tests/unit/memory_driver.h"
#include "block/io/write_threshold.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define THRESHOLD 65536

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

typedef struct Seen {
    BlockDriverState *bs;
    int64_t threshold;
    int64_t end;
    int calls;
} Seen;

static void note(BlockDriverState *bs, int64_t threshold, int64_t end,
                 void *opaque)
{
    Seen *seen = opaque;

    *seen = (Seen) { bs, threshold, end, seen->calls + 1 };
}

static BdrvChild *open_armed(Seen *seen)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });

    bdrv_write_threshold_set(child->bs, THRESHOLD, note, seen);
    return child;
}

static void write_byte(BdrvChild *child, int64_t offset)
{
    uint8_t byte = 1;

    assert_int_equal(bdrv_pwrite(child, offset, 1, &byte), 0);
    memory_settle();
}

static void test_a_write_up_to_the_threshold_is_not_told(void **state)
{
    Seen seen = { 0 };
    BdrvChild *child = open_armed(&seen);

    write_byte(child, THRESHOLD - 1);

    assert_int_equal(seen.calls, 0);
    assert_int_equal(bdrv_write_threshold(child->bs), THRESHOLD);
    memory_close(child);
}

static void test_the_first_write_past_it_is_told_once(void **state)
{
    Seen seen = { 0 };
    BdrvChild *child = open_armed(&seen);

    write_byte(child, THRESHOLD);
    write_byte(child, THRESHOLD + 1);

    assert_int_equal(seen.calls, 1);
    assert_ptr_equal(seen.bs, child->bs);
    assert_int_equal(seen.threshold, THRESHOLD);
    assert_int_equal(seen.end, THRESHOLD + 1);
    assert_int_equal(bdrv_write_threshold(child->bs), 0);
    memory_close(child);
}

static void test_zeroes_past_it_are_told(void **state)
{
    Seen seen = { 0 };
    BdrvChild *child = open_armed(&seen);

    assert_int_equal(bdrv_pwrite_zeroes(child, 0, 2 * THRESHOLD, 0), 0);
    memory_settle();

    assert_int_equal(seen.calls, 1);
    assert_int_equal(seen.end, 2 * THRESHOLD);
    memory_close(child);
}

static void test_a_failed_write_is_told(void **state)
{
    Seen seen = { 0 };
    BdrvChild *child = open_armed(&seen);
    uint8_t byte = 1;

    memory_fail_next(child, MEMORY_WRITE, -ENOSPC);
    assert_int_equal(bdrv_pwrite(child, THRESHOLD, 1, &byte), -ENOSPC);
    memory_settle();

    assert_int_equal(seen.calls, 1);
    memory_close(child);
}

static void test_a_threshold_set_to_0_is_off(void **state)
{
    Seen seen = { 0 };
    BdrvChild *child = open_armed(&seen);

    bdrv_write_threshold_set(child->bs, 0, NULL, NULL);
    write_byte(child, THRESHOLD);

    assert_int_equal(seen.calls, 0);
    memory_close(child);
}

/* The event is on its way already when the threshold is set anew. */
static void test_setting_anew_cancels_what_has_not_been_told(void **state)
{
    Seen old = { 0 }, new = { 0 };
    BdrvChild *child = open_armed(&old);

    bdrv_write_threshold_fire(child->bs, MIB);
    bdrv_write_threshold_set(child->bs, 2 * THRESHOLD, note, &new);
    write_byte(child, THRESHOLD);
    assert_int_equal(new.calls, 0);
    write_byte(child, 2 * THRESHOLD);

    assert_int_equal(old.calls, 0);
    assert_int_equal(new.calls, 1);
    memory_close(child);
}

static void test_the_end_of_the_node_cancels(void **state)
{
    Seen seen = { 0 };
    BdrvChild *child = open_armed(&seen);

    memory_close(child); /* armed: a leak checker sees what is left */
    child = open_armed(&seen);
    bdrv_write_threshold_fire(child->bs, MIB);
    memory_close(child);
    memory_settle();

    assert_int_equal(seen.calls, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_write_up_to_the_threshold_is_not_told),
        cmocka_unit_test(test_the_first_write_past_it_is_told_once),
        cmocka_unit_test(test_zeroes_past_it_are_told),
        cmocka_unit_test(test_a_failed_write_is_told),
        cmocka_unit_test(test_a_threshold_set_to_0_is_off),
        cmocka_unit_test(test_setting_anew_cancels_what_has_not_been_told),
        cmocka_unit_test(test_the_end_of_the_node_cancels),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
