/* SPDX-License-Identifier: MIT */
/*
 * the throttle filter: requests take their time, and only theirs
 */
#include "tests/unit/filter_test.h"

#include "block/graph/drain.h"

#define THROTTLE_JSON "{\"driver\":\"throttle\",\"file\":\"%s\"%s}"

static int64_t time_of_writes(BdrvChild *node, int count)
{
    int64_t start = g_get_monotonic_time();

    for (int i = 0; i < count; i++) {
        node_fill(node, i * 512, 512, 'a');
    }
    return g_get_monotonic_time() - start;
}

static void test_without_limits_nothing_waits(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(FILTER_FLAGS, THROTTLE_JSON,
                                below_name(below), "");

    assert_true(time_of_writes(node, 100) < 1000000);
    assert_node_reads(node, 0, 51200, 'a');
    bdrv_detach_child(node);
    memory_close(below);
}

static void test_operations_are_spread_over_time(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(FILTER_FLAGS, THROTTLE_JSON,
                                below_name(below), ",\"iops-write\":100");
    int64_t elapsed_us = time_of_writes(node, 40);

    /* 40 operations at 100 a second, but for what a tenth may run ahead. */
    assert_in_range(elapsed_us, 200000, 5000000);
    bdrv_detach_child(node);
    memory_close(below);
}

static void test_reads_do_not_pay_for_writes(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(FILTER_FLAGS, THROTTLE_JSON,
                                below_name(below), ",\"iops-write\":1");
    int64_t start = g_get_monotonic_time();

    for (int i = 0; i < 100; i++) {
        assert_node_reads(node, 0, 512, 0);
    }
    assert_true(g_get_monotonic_time() - start < 1000000);
    bdrv_detach_child(node);
    memory_close(below);
}

static void test_a_drain_lets_waiters_go(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(FILTER_FLAGS, THROTTLE_JSON,
                                below_name(below), ",\"bps-write\":512");
    int64_t start = g_get_monotonic_time();
    Background first, second;

    background_start(&first, node, true, 0, 51200, 'a');
    background_start(&second, node, true, 0, 51200, 'b');
    memory_settle();
    assert_false(second.done); /* it would wait for 100 seconds */
    bdrv_drained_begin(node->bs);
    assert_int_equal(background_end(&first), 0);
    assert_int_equal(background_end(&second), 0);
    bdrv_drained_end(node->bs);

    assert_true(g_get_monotonic_time() - start < 10000000);
    bdrv_detach_child(node);
    memory_close(below);
}

static void test_contradicting_limits_are_refused(void **state)
{
    BdrvChild *below = below_open_length(MIB);

    assert_open_fails(IMGFUSE_ERROR_OPTION, "", FILTER_FLAGS, THROTTLE_JSON,
                      below_name(below), ",\"bps-total\":1,\"bps-read\":1");
    assert_open_fails(IMGFUSE_ERROR_OPTION, "bps-speed", FILTER_FLAGS,
                      THROTTLE_JSON, below_name(below), ",\"bps-speed\":1");
    memory_close(below);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_limits_nothing_waits),
        cmocka_unit_test(test_operations_are_spread_over_time),
        cmocka_unit_test(test_reads_do_not_pay_for_writes),
        cmocka_unit_test(test_a_drain_lets_waiters_go),
        cmocka_unit_test(test_contradicting_limits_are_refused),
    };

    return cmocka_run_group_tests(tests, node_test_setup, node_test_teardown);
}
