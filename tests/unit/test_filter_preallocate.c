/* SPDX-License-Identifier: MIT */
/*
 * the preallocate filter: room ahead, and none left behind
 */
#include "tests/unit/filter_test.h"

#include "block/graph/reopen.h"

#define PREALLOCATE_JSON                                              \
    "{\"driver\":\"preallocate\",\"file\":\"%s\",\"prealloc-size\":"  \
    "\"512k\",\"prealloc-align\":\"64k\"}"

static BdrvChild *open_on(BdrvChild *below)
{
    return node_open(FILTER_FLAGS, PREALLOCATE_JSON, below_name(below));
}

static void test_a_write_past_the_end_makes_room(void **state)
{
    BdrvChild *below = below_open_length(4096);
    BdrvChild *node = open_on(below);

    node_fill(node, 4096, 4096, 'a');
    assert_int_equal(bdrv_getlength(node->bs), 8192);
    assert_int_equal(bdrv_getlength(below->bs), 589824); /* 9 * 64 KiB */
    node_fill(node, 8192, 4096, 'b');
    assert_int_equal(memory_count(below, MEMORY_ZEROES), 1);
    assert_int_equal(bdrv_getlength(node->bs), 12288);

    bdrv_detach_child(node);
    memory_close(below);
}

static void test_closing_cuts_off_what_was_not_written(void **state)
{
    BdrvChild *below = below_open_length(0);
    BdrvChild *node = open_on(below);

    node_fill(node, 0, 5000, 'a');
    bdrv_detach_child(node);

    assert_int_equal(bdrv_getlength(below->bs), 5000);
    assert_int_equal(memory_data(below)[4999], 'a');
    memory_close(below);
}

static void test_read_only_and_inactive_nodes_have_no_room(void **state)
{
    BdrvChild *below = below_open_length(0);
    BdrvChild *node = open_on(below);

    node_fill(node, 0, 5000, 'a');
    assert_int_equal(node->bs->drv->inactivate(node->bs), 0);
    assert_int_equal(bdrv_getlength(below->bs), 5000);
    assert_int_equal(bdrv_getlength(node->bs), 5000);
    node_fill(node, 5000, 1, 'a');
    assert_true(bdrv_getlength(below->bs) > 5001);
    assert_true(bdrv_child_set_perm(node, BLK_PERM_CONSISTENT_READ,
                                    BLK_PERM_ALL, NULL));
    assert_true(bdrv_reopen_set_read_only(node->bs, true, NULL));
    assert_int_equal(bdrv_getlength(below->bs), 5001);

    bdrv_detach_child(node);
    memory_close(below);
}

static void test_resizing_starts_at_the_true_end(void **state)
{
    BdrvChild *below = below_open_length(0);
    BdrvChild *node = open_on(below);

    node_fill(node, 0, 5000, 'a');
    assert_int_equal(bdrv_truncate(node, 6000, true, PREALLOC_OFF, NULL), 0);
    assert_int_equal(bdrv_getlength(node->bs), 6000);
    assert_int_equal(bdrv_getlength(below->bs), 6000);
    assert_node_reads(node, 5000, 1000, 0);
    assert_int_equal(bdrv_truncate(node, 10, true, PREALLOC_OFF, NULL), 0);
    assert_int_equal(bdrv_getlength(below->bs), 10);

    bdrv_detach_child(node);
    memory_close(below);
}

static void test_without_cheap_zeros_nothing_is_preallocated(void **state)
{
    BdrvChild *below = below_open(&(MemoryConfig) {
        .length = 0, .no_zeroes = true, .zero_flags = BDRV_REQ_NO_FALLBACK,
    });
    BdrvChild *node = open_on(below);

    node_fill(node, 0, 5000, 'a');
    assert_int_equal(bdrv_getlength(below->bs), 5000);
    assert_node_reads(node, 0, 5000, 'a');

    bdrv_detach_child(node);
    memory_close(below);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_write_past_the_end_makes_room),
        cmocka_unit_test(test_closing_cuts_off_what_was_not_written),
        cmocka_unit_test(test_read_only_and_inactive_nodes_have_no_room),
        cmocka_unit_test(test_resizing_starts_at_the_true_end),
        cmocka_unit_test(test_without_cheap_zeros_nothing_is_preallocated),
    };

    return cmocka_run_group_tests(tests, node_test_setup, node_test_teardown);
}
