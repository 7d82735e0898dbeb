/* SPDX-License-Identifier: MIT */
/*
 * the quorum driver: votes, rewrites, children that come and go
 */
#include "tests/unit/filter_test.h"

typedef struct Quorum {
    BdrvChild *below[3];
    BdrvChild *node;
} Quorum;

#define QUORUM_JSON "{\"driver\":\"quorum\",\"children\":[\"%s\",\"%s\"," \
                    "\"%s\"],\"vote-threshold\":%d%s}"

static Quorum quorum_open(int threshold, const char *options)
{
    Quorum q;

    for (int i = 0; i < 3; i++) {
        q.below[i] = below_open_length(MIB);
    }
    q.node = node_open(FILTER_FLAGS, QUORUM_JSON, below_name(q.below[0]),
                       below_name(q.below[1]), below_name(q.below[2]),
                       threshold, options);
    return q;
}

static void quorum_close(Quorum *q)
{
    bdrv_detach_child(q->node);
    for (int i = 0; i < 3; i++) {
        memory_close(q->below[i]);
    }
}

static void test_writes_go_to_all_children(void **state)
{
    Quorum q = quorum_open(2, "");

    node_fill(q.node, 100, 1000, 'a');
    assert_int_equal(bdrv_pwrite_zeroes(q.node, 200, 100, 0), 0);
    assert_int_equal(bdrv_flush(q.node->bs), 0);

    for (int i = 0; i < 3; i++) {
        assert_int_equal(memory_data(q.below[i])[1099], 'a');
        assert_int_equal(memory_data(q.below[i])[250], 0);
        assert_int_equal(memory_count(q.below[i], MEMORY_TO_DISK), 1);
    }
    quorum_close(&q);
}

static void test_the_majority_is_read(void **state)
{
    Quorum q = quorum_open(2, "");

    node_fill(q.node, 0, 1000, 'a');
    memory_data(q.below[0])[10] = 'x';

    assert_node_reads(q.node, 0, 1000, 'a');
    assert_int_equal(memory_data(q.below[0])[10], 'x'); /* left as it is */
    quorum_close(&q);
}

static void test_without_a_majority_reading_fails(void **state)
{
    Quorum q = quorum_open(2, "");
    uint8_t byte;

    memory_data(q.below[0])[10] = 'x';
    memory_data(q.below[1])[10] = 'y';

    assert_int_equal(bdrv_pread(q.node, 10, 1, &byte), -EIO);
    assert_int_equal(bdrv_pread(q.node, 11, 1, &byte), 0);
    quorum_close(&q);
}

static void test_a_failing_child_is_outvoted(void **state)
{
    Quorum q = quorum_open(2, "");
    uint8_t byte = 'a';

    memory_fail_next(q.below[1], MEMORY_WRITE, -ENOSPC);
    assert_int_equal(bdrv_pwrite(q.node, 0, 1, &byte), 0);
    memory_fail_next(q.below[0], MEMORY_READ, -EIO);
    memory_fail_next(q.below[1], MEMORY_READ, -EIO);
    assert_int_equal(bdrv_pread(q.node, 0, 1, &byte), -EIO);
    memory_fail_next(q.below[1], MEMORY_READ, -EIO);
    assert_int_equal(bdrv_pread(q.node, 0, 1, &byte), 0);
    assert_int_equal(byte, 'a');
    memory_fail_next(q.below[1], MEMORY_TO_DISK, -EIO);
    assert_int_equal(bdrv_flush(q.node->bs), 0);
    quorum_close(&q);
}

static void test_corrupted_children_are_rewritten(void **state)
{
    Quorum q = quorum_open(2, ",\"rewrite-corrupted\":true");

    node_fill(q.node, 0, 4096, 'a');
    memory_data(q.below[2])[10] = 'x';
    assert_node_reads(q.node, 0, 4096, 'a');

    assert_int_equal(memory_data(q.below[2])[10], 'a');
    quorum_close(&q);
}

/* A write that comes while a read is about to rewrite must win. */
static void test_a_rewrite_brings_back_no_old_data(void **state)
{
    Quorum q = quorum_open(2, ",\"rewrite-corrupted\":true");
    Background read, write;

    node_fill(q.node, 0, 512, 'a');
    memory_data(q.below[2])[10] = 'x';
    memory_hold_next(q.below[0], MEMORY_READ);
    background_start(&read, q.node, /* is_write= */ false, 0, 512, 0);
    background_start(&write, q.node, /* is_write= */ true, 0, 512, 'b');
    memory_release(q.below[0]);
    (void) background_end(&read);
    assert_int_equal(background_end(&write), 0);

    assert_node_reads(q.node, 0, 512, 'b');
    for (int i = 0; i < 3; i++) {
        assert_int_equal(memory_data(q.below[i])[10], 'b');
    }
    quorum_close(&q);
}

static void test_fifo_takes_the_first_that_succeeds(void **state)
{
    Quorum q = quorum_open(2, ",\"read-pattern\":\"fifo\"");
    uint8_t byte;

    memory_data(q.below[0])[0] = 'x';
    memory_data(q.below[1])[0] = 'y';
    assert_int_equal(bdrv_pread(q.node, 0, 1, &byte), 0);
    assert_int_equal(byte, 'x');
    assert_int_equal(memory_count(q.below[1], MEMORY_READ), 0);
    memory_fail_next(q.below[0], MEMORY_READ, -EIO);
    assert_int_equal(bdrv_pread(q.node, 0, 1, &byte), 0);
    assert_int_equal(byte, 'y');
    quorum_close(&q);
}

static void test_blkverify_fails_on_any_difference(void **state)
{
    BdrvChild *a = below_open_length(MIB), *b = below_open_length(MIB);
    BdrvChild *node = node_open(
        FILTER_FLAGS, "{\"driver\":\"quorum\",\"children\":[\"%s\",\"%s\"],"
        "\"vote-threshold\":2,\"blkverify\":true}", below_name(a),
        below_name(b));
    uint8_t byte;

    assert_node_reads(node, 0, 4096, 0);
    memory_data(a)[7] = 'x';
    assert_int_equal(bdrv_pread(node, 7, 1, &byte), -EIO);

    bdrv_detach_child(node);
    memory_close(a);
    memory_close(b);
}

static void test_children_come_and_go(void **state)
{
    Quorum q = quorum_open(3, "");
    BdrvChild *fourth = below_open_length(MIB);
    BdrvChild *wrong = below_open_length(MIB / 2);
    BdrvChild *first = q.node->bs->children->pdata[0];

    assert_false(bdrv_del_child(q.node->bs, first, NULL));
    assert_false(bdrv_add_child(q.node->bs, wrong->bs, NULL));
    assert_true(bdrv_add_child(q.node->bs, fourth->bs, NULL));
    assert_true(bdrv_del_child(q.node->bs, first, NULL));
    node_fill(q.node, 0, 100, 'a');

    assert_int_equal(memory_data(fourth)[0], 'a');
    assert_int_equal(memory_data(q.below[0])[0], 0);
    assert_false(bdrv_add_child(fourth->bs, wrong->bs, NULL));
    quorum_close(&q);
    memory_close(fourth);
    memory_close(wrong);
}

static void test_zeros_need_all_children(void **state)
{
    Quorum q = quorum_open(2, "");

    memory_data(q.below[1])[65536] = 'x';
    assert_true(node_status(q.node, 0, MIB).flags & BDRV_BLOCK_ZERO);
    assert_int_equal(node_status(q.node, 0, MIB).bytes, 65536);
    assert_true(node_status(q.node, 65536, 4096).flags & BDRV_BLOCK_DATA);
    quorum_close(&q);
}

static void test_impossible_options_are_refused(void **state)
{
    static const struct {
        int threshold;
        const char *options;
    } rows[] = {
        { 0, "" },
        { 4, "" },
        { 2, ",\"blkverify\":true" },
        { 2, ",\"rewrite-corrupted\":true,\"read-pattern\":\"fifo\"" },
    };
    Quorum q;

    for (int i = 0; i < 3; i++) {
        q.below[i] = below_open_length(MIB);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;

        assert_null(node_try_open(0, &error, QUORUM_JSON,
                                  below_name(q.below[0]),
                                  below_name(q.below[1]),
                                  below_name(q.below[2]), rows[i].threshold,
                                  rows[i].options));
        assert_int_equal(error->code, IMGFUSE_ERROR_OPTION);
    }
    for (int i = 0; i < 3; i++) {
        memory_close(q.below[i]);
    }
}

static void test_resizing_resizes_all(void **state)
{
    Quorum q = quorum_open(2, "");

    assert_int_equal(bdrv_truncate(q.node, 2 * MIB, true, PREALLOC_OFF, NULL),
                     0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(bdrv_getlength(q.below[i]->bs), 2 * MIB);
    }
    quorum_close(&q);
}

/* One child has the new data, the others not yet: no three agree. */
static void test_a_vote_lost_to_a_write_is_held_again_after_it(void **state)
{
    Quorum q = quorum_open(3, "");
    Background write, read;

    memory_hold_next(q.below[1], MEMORY_WRITE);
    background_start(&write, q.node, true, 0, 512, 'n');
    background_start(&read, q.node, false, 0, 512, 0);
    memory_settle();
    assert_false(write.done);
    assert_false(read.done);
    memory_release(q.below[1]);
    assert_int_equal(background_end(&write), 0);
    memory_wait(&read.done);
    assert_int_equal(read.ret, 0);
    assert_int_equal(read.buffer[0], 'n');
    assert_int_equal(background_end(&read), 0);
    quorum_close(&q);
}

static void test_overlapping_writes_come_in_one_order_to_all(void **state)
{
    Quorum q = quorum_open(2, "");
    Background first, second, elsewhere;

    memory_hold_next(q.below[0], MEMORY_WRITE);
    background_start(&first, q.node, true, 0, 512, 'a');
    background_start(&second, q.node, true, 256, 512, 'b');
    background_start(&elsewhere, q.node, true, 4096, 512, 'c');
    memory_settle();
    assert_true(elsewhere.done);
    assert_int_equal(memory_data(q.below[2])[256], 'a'); /* no 'b' anywhere */
    memory_release(q.below[0]);
    assert_int_equal(background_end(&first), 0);
    assert_int_equal(background_end(&second), 0);
    assert_int_equal(background_end(&elsewhere), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(memory_data(q.below[i])[255], 'a');
        assert_int_equal(memory_data(q.below[i])[256], 'b');
    }
    quorum_close(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writes_go_to_all_children),
        cmocka_unit_test(test_the_majority_is_read),
        cmocka_unit_test(test_without_a_majority_reading_fails),
        cmocka_unit_test(test_a_failing_child_is_outvoted),
        cmocka_unit_test(test_corrupted_children_are_rewritten),
        cmocka_unit_test(test_a_rewrite_brings_back_no_old_data),
        cmocka_unit_test(test_fifo_takes_the_first_that_succeeds),
        cmocka_unit_test(test_blkverify_fails_on_any_difference),
        cmocka_unit_test(test_children_come_and_go),
        cmocka_unit_test(test_zeros_need_all_children),
        cmocka_unit_test(test_impossible_options_are_refused),
        cmocka_unit_test(test_resizing_resizes_all),
        cmocka_unit_test(test_a_vote_lost_to_a_write_is_held_again_after_it),
        cmocka_unit_test(test_overlapping_writes_come_in_one_order_to_all),
    };

    return cmocka_run_group_tests(tests, node_test_setup, node_test_teardown);
}
