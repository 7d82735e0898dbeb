/* SPDX-License-Identifier: MIT */
/*
 * tests of block/io/flush.c: what a flush covers, elides, shares, remembers
 */
#include "tests/unit/memory_driver.h"
#include "block/io/flush.h"

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

typedef struct FlushCall {
    BdrvChild *child;
    int ret;
    bool done;
} FlushCall;

static void coroutine_fn flush_entry(void *opaque)
{
    FlushCall *call = opaque;

    call->ret = bdrv_co_flush(call->child->bs);
    call->done = true;
}

static BdrvChild *open_written(BdrvOpenFlags flags)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB,
                                                     .open_flags = flags });
    uint8_t byte = 1;

    assert_int_equal(bdrv_pwrite(child, 0, 1, &byte), 0);
    return child;
}

static void test_flush_without_a_write_does_not_reach_the_disk(void **state)
{
    BdrvChild *child = open_written(0);
    uint8_t byte = 2;

    assert_int_equal(bdrv_flush(child->bs), 0);
    assert_int_equal(bdrv_flush(child->bs), 0);
    assert_int_equal(memory_count(child, MEMORY_TO_DISK), 1);
    assert_int_equal(bdrv_pwrite(child, 0, 1, &byte), 0);
    assert_int_equal(bdrv_flush(child->bs), 0);
    assert_int_equal(memory_count(child, MEMORY_TO_DISK), 2);
    memory_close(child);
}

static void test_waiting_flushes_share_the_next_one(void **state)
{
    BdrvChild *child = open_written(0);
    FlushCall calls[4] = { 0 };
    uint8_t byte = 2;

    memory_hold_next(child, MEMORY_TO_DISK);
    for (int i = 0; i < 4; i++) {
        calls[i].child = child;
        memory_start(flush_entry, &calls[i]);
        /* Not covered by the flush that is held. */
        assert_int_equal(bdrv_pwrite(child, 0, 1, &byte), 0);
    }
    memory_settle();
    assert_false(calls[0].done || calls[1].done || calls[3].done);
    memory_release(child);
    for (int i = 0; i < 4; i++) {
        memory_wait(&calls[i].done);
        assert_int_equal(calls[i].ret, 0);
    }

    assert_int_equal(memory_count(child, MEMORY_TO_OS), 2);
    assert_int_equal(memory_count(child, MEMORY_TO_DISK), 2);
    memory_close(child);
}

static void test_write_during_a_flush_is_not_covered(void **state)
{
    BdrvChild *child = open_written(0);
    FlushCall call = { .child = child };
    uint8_t byte = 2;

    memory_hold_next(child, MEMORY_TO_DISK);
    memory_start(flush_entry, &call);
    assert_int_equal(bdrv_pwrite(child, 0, 1, &byte), 0);
    memory_release(child);
    memory_wait(&call.done);

    assert_int_equal(bdrv_flush(child->bs), 0);
    assert_int_equal(memory_count(child, MEMORY_TO_DISK), 2);
    memory_close(child);
}

static void test_failed_flush_sticks_until_reset(void **state)
{
    BdrvChild *child = open_written(0);

    memory_fail_next(child, MEMORY_TO_DISK, -EIO);
    assert_int_equal(bdrv_flush(child->bs), -EIO);
    assert_int_equal(bdrv_flush(child->bs), -EIO);
    assert_int_equal(memory_count(child, MEMORY_TO_DISK), 1);
    bdrv_flush_state_reset(child->bs);
    assert_int_equal(bdrv_flush(child->bs), 0);
    assert_int_equal(memory_count(child, MEMORY_TO_DISK), 2);
    memory_close(child);
}

static void test_lack_of_space_may_be_tried_again(void **state)
{
    BdrvChild *child = open_written(0);

    memory_fail_next(child, MEMORY_TO_OS, -ENOSPC);
    assert_int_equal(bdrv_flush(child->bs), -ENOSPC);
    assert_int_equal(bdrv_flush(child->bs), 0);
    memory_fail_next(child, MEMORY_TO_OS, -EIO);
    assert_int_equal(bdrv_flush(child->bs), -EIO);
    assert_int_equal(bdrv_flush(child->bs), -EIO);
    bdrv_flush_state_reset(child->bs);
    memory_close(child);
}

static void test_lack_of_space_on_the_medium_sticks(void **state)
{
    BdrvChild *child = open_written(0);

    memory_fail_next(child, MEMORY_TO_DISK, -ENOSPC);
    assert_int_equal(bdrv_flush(child->bs), -ENOSPC);
    assert_int_equal(bdrv_flush(child->bs), -ENOSPC);
    bdrv_flush_state_reset(child->bs);
    memory_close(child);
}

static void test_unsafe_node_flushes_to_the_os_only(void **state)
{
    BdrvChild *child = open_written(BDRV_O_RDWR | BDRV_O_NO_FLUSH);

    assert_int_equal(bdrv_flush(child->bs), 0);
    assert_int_equal(memory_count(child, MEMORY_TO_OS), 1);
    assert_int_equal(memory_count(child, MEMORY_TO_DISK), 0);
    memory_close(child);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flush_without_a_write_does_not_reach_the_disk),
        cmocka_unit_test(test_waiting_flushes_share_the_next_one),
        cmocka_unit_test(test_write_during_a_flush_is_not_covered),
        cmocka_unit_test(test_failed_flush_sticks_until_reset),
        cmocka_unit_test(test_lack_of_space_may_be_tried_again),
        cmocka_unit_test(test_lack_of_space_on_the_medium_sticks),
        cmocka_unit_test(test_unsafe_node_flushes_to_the_os_only),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
