/* SPDX-License-Identifier: MIT */
/*
 * the blkverify filter: differences do not pass
 */
#include "tests/unit/filter_test.h"

typedef struct Pair {
    BdrvChild *test, *raw, *node;
} Pair;

#define BLKVERIFY_JSON \
    "{\"driver\":\"blkverify\",\"test\":\"%s\",\"raw\":\"%s\"}"

static Pair pair_open(void)
{
    Pair p = { below_open_length(MIB), below_open_length(MIB), NULL };

    p.node = node_open(FILTER_FLAGS, BLKVERIFY_JSON, below_name(p.test),
                       below_name(p.raw));
    return p;
}

static void pair_close(Pair *p)
{
    bdrv_detach_child(p->node);
    memory_close(p->test);
    memory_close(p->raw);
}

static void test_writes_go_to_both(void **state)
{
    Pair p = pair_open();

    node_fill(p.node, 10, 5000, 'a');
    assert_int_equal(bdrv_pwrite_zeroes(p.node, 100, 200, 0), 0);
    assert_memory_equal(memory_data(p.test), memory_data(p.raw), MIB);
    assert_int_equal(memory_data(p.raw)[5009], 'a');
    assert_node_reads(p.node, 100, 200, 0);
    pair_close(&p);
}

static void test_a_difference_fails_the_read(void **state)
{
    Pair p = pair_open();
    uint8_t byte;

    memory_data(p.test)[5] = 'x';
    assert_int_equal(bdrv_pread(p.node, 5, 1, &byte), -EIO);
    assert_int_equal(bdrv_pread(p.node, 6, 1, &byte), 0);
    pair_close(&p);
}

static void test_different_results_fail_the_request(void **state)
{
    Pair p = pair_open();
    uint8_t byte = 'a';

    memory_fail_next(p.test, MEMORY_READ, -ENOSPC);
    assert_int_equal(bdrv_pread(p.node, 5, 1, &byte), -EIO);
    memory_fail_next(p.raw, MEMORY_WRITE, -ENOSPC);
    assert_int_equal(bdrv_pwrite(p.node, 5, 1, &byte), -EIO);
    pair_close(&p);
}

static void test_resizing_and_copies_reach_both(void **state)
{
    Pair p = pair_open();

    assert_int_equal(bdrv_truncate(p.node, 2 * MIB, true, PREALLOC_OFF, NULL),
                     0);
    assert_int_equal(bdrv_getlength(p.raw->bs), 2 * MIB);
    assert_int_equal(bdrv_getlength(p.node->bs), 2 * MIB);
    assert_int_equal(node_copy(p.node, 0, p.node, MIB, 4096), -ENOTSUP);
    assert_int_equal(node_discard(p.node, 0, 4096), 0);
    assert_int_equal(memory_count(p.test, MEMORY_DISCARD), 0);
    pair_close(&p);
}

static void test_a_shorter_raw_image_is_refused(void **state)
{
    BdrvChild *test = below_open_length(MIB);
    BdrvChild *raw = below_open_length(MIB - 1);

    assert_open_fails(IMGFUSE_ERROR_OPTION, "raw image", FILTER_FLAGS,
                      BLKVERIFY_JSON, below_name(test), below_name(raw));
    memory_close(test);
    memory_close(raw);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writes_go_to_both),
        cmocka_unit_test(test_a_difference_fails_the_read),
        cmocka_unit_test(test_different_results_fail_the_request),
        cmocka_unit_test(test_resizing_and_copies_reach_both),
        cmocka_unit_test(test_a_shorter_raw_image_is_refused),
    };

    return cmocka_run_group_tests(tests, node_test_setup, node_test_teardown);
}
