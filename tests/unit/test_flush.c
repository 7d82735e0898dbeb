/* SPDX-License-Identifier: MIT */
/*
 * tests of block/io/flush.c: what a flush covers, elides, shares, remembers
 */
#include "tests/unit/memory_driver.h"
#include "block/graph/options.h"
#include "block/graph/perm.h"
#include "block/graph/reopen.h"
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

/* -- several layers ------------------------------------------------------- */

/* A node whose `metadata` it may write: both are to be flushed. */
static BdrvChild *open_above(BdrvChild *below, BdrvOpenFlags flags)
{
    BdrvChild *top = memory_open(&(MemoryConfig) {
        .length = MIB, .open_flags = flags, .metadata = below });
    uint8_t byte = 3;

    assert_int_equal(bdrv_pwrite(top, 0, 1, &byte), 0);
    return top;
}

static unsigned order_of(BdrvChild *child, MemoryOp op)
{
    return memory_last(child, op).order;
}

/* Caches that go into the child must be in it before it is flushed. */
static void test_caches_then_children_then_the_medium(void **state)
{
    BdrvChild *below = open_written(0);
    BdrvChild *top = open_above(below, 0);

    assert_int_equal(bdrv_flush(top->bs), 0);

    assert_true(order_of(top, MEMORY_TO_OS) > 0);
    assert_true(order_of(below, MEMORY_TO_OS) > order_of(top, MEMORY_TO_OS));
    assert_true(order_of(below, MEMORY_TO_DISK) >
                order_of(below, MEMORY_TO_OS));
    assert_true(order_of(top, MEMORY_TO_DISK) >
                order_of(below, MEMORY_TO_DISK));
    memory_close(top);
    memory_close(below);
}

static void test_each_layer_elides_its_own_medium(void **state)
{
    BdrvChild *below = open_written(0);
    BdrvChild *top = open_above(below, 0);
    uint8_t byte = 4;

    assert_int_equal(bdrv_flush(top->bs), 0);
    assert_int_equal(bdrv_flush(top->bs), 0);
    assert_int_equal(memory_count(below, MEMORY_TO_OS), 2);
    assert_int_equal(memory_count(below, MEMORY_TO_DISK), 1);

    assert_int_equal(bdrv_pwrite(top, 0, 1, &byte), 0);
    assert_int_equal(bdrv_flush(top->bs), 0);
    assert_int_equal(memory_count(top, MEMORY_TO_DISK), 2);
    assert_int_equal(memory_count(below, MEMORY_TO_DISK), 1);
    memory_close(top);
    memory_close(below);
}

static void coroutine_fn flush_to_os_entry(void *opaque)
{
    FlushCall *call = opaque;

    call->ret = bdrv_co_flush_to_os(call->child->bs);
}

static void test_to_the_os_goes_down_but_not_to_the_medium(void **state)
{
    BdrvChild *below = open_written(0);
    BdrvChild *top = open_above(below, 0);
    FlushCall call = { .child = top };

    aio_run_sync(flush_to_os_entry, &call);

    assert_int_equal(call.ret, 0);
    assert_true(order_of(below, MEMORY_TO_OS) > order_of(top, MEMORY_TO_OS));
    assert_int_equal(memory_count(top, MEMORY_TO_DISK), 0);
    assert_int_equal(memory_count(below, MEMORY_TO_DISK), 0);
    memory_close(top);
    memory_close(below);
}

static void test_unsafe_node_flushes_its_children_as_they_want(void **state)
{
    BdrvChild *below = open_written(0);
    BdrvChild *top = open_above(below, BDRV_O_RDWR | BDRV_O_NO_FLUSH);

    assert_int_equal(bdrv_flush(top->bs), 0);

    assert_int_equal(memory_count(top, MEMORY_TO_DISK), 0);
    assert_int_equal(memory_count(below, MEMORY_TO_DISK), 1);
    memory_close(top);
    memory_close(below);
}

static void test_a_backing_file_is_not_flushed(void **state)
{
    BdrvChild *below = open_written(0);
    BdrvChild *top = memory_open(&(MemoryConfig) {
        .length = MIB, .cluster_bytes = 65536, .backing = below });
    uint8_t byte = 3;

    assert_int_equal(bdrv_pwrite(top, 0, 1, &byte), 0);
    assert_int_equal(bdrv_flush(top->bs), 0);
    assert_int_equal(memory_count(below, MEMORY_TO_OS), 0);
    memory_close(top);
    memory_close(below);
}

/* The failure is the child's: reopening that one is enough. */
static void test_a_childs_failure_keeps_the_parent_from_its_medium(
    void **state)
{
    BdrvChild *below = open_written(0);
    BdrvChild *top = open_above(below, 0);

    memory_fail_next(below, MEMORY_TO_DISK, -EIO);
    assert_int_equal(bdrv_flush(top->bs), -EIO);
    assert_int_equal(bdrv_flush(top->bs), -EIO); /* stuck below */
    assert_int_equal(memory_count(top, MEMORY_TO_DISK), 0);

    bdrv_flush_state_reset(below->bs);
    assert_int_equal(bdrv_flush(top->bs), 0);
    assert_int_equal(memory_count(top, MEMORY_TO_DISK), 1);
    memory_close(top);
    memory_close(below);
}

static void test_a_failed_node_fails_until_it_is_reopened(void **state)
{
    BdrvChild *child = open_written(0);
    uint8_t byte = 5;

    memory_fail_next(child, MEMORY_TO_DISK, -EIO);
    assert_int_equal(bdrv_flush(child->bs), -EIO);
    assert_int_equal(bdrv_pwrite(child, 0, 1, &byte), 0);
    assert_int_equal(bdrv_flush(child->bs), -EIO);
    assert_int_equal(memory_count(child, MEMORY_TO_DISK), 1);

    /* Reading only is no way to forget what was lost; a new file is. */
    assert_true(bdrv_child_set_perm(child, BLK_PERM_CONSISTENT_READ,
                                    BLK_PERM_ALL, NULL));
    assert_false(bdrv_reopen_set_read_only(child->bs, true, NULL));
    assert_true(bdrv_reopen_options(
        child->bs, block_options_from_json("{\"cache.direct\":true}", NULL),
        NULL));
    assert_int_equal(bdrv_flush(child->bs), 0);
    assert_int_equal(memory_count(child, MEMORY_TO_DISK), 2);
    memory_close(child);
}

/* Those that waited share the failure of the flush they would have shared. */
static void test_a_shared_flush_fails_for_all(void **state)
{
    BdrvChild *child = open_written(0);
    FlushCall calls[3] = { 0 };

    memory_hold_next(child, MEMORY_TO_OS);
    for (int i = 0; i < 3; i++) {
        calls[i].child = child;
        memory_start(flush_entry, &calls[i]);
    }
    memory_fail_next(child, MEMORY_TO_DISK, -EIO);
    memory_release(child);
    for (int i = 0; i < 3; i++) {
        memory_wait(&calls[i].done);
        assert_int_equal(calls[i].ret, -EIO);
    }
    assert_int_equal(memory_count(child, MEMORY_TO_DISK), 1);
    bdrv_flush_state_reset(child->bs);
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
        cmocka_unit_test(test_caches_then_children_then_the_medium),
        cmocka_unit_test(test_each_layer_elides_its_own_medium),
        cmocka_unit_test(test_to_the_os_goes_down_but_not_to_the_medium),
        cmocka_unit_test(test_unsafe_node_flushes_its_children_as_they_want),
        cmocka_unit_test(test_a_backing_file_is_not_flushed),
        cmocka_unit_test(
            test_a_childs_failure_keeps_the_parent_from_its_medium),
        cmocka_unit_test(test_a_failed_node_fails_until_it_is_reopened),
        cmocka_unit_test(test_a_shared_flush_fails_for_all),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
