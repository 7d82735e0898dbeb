/* SPDX-License-Identifier: MIT */
/*
 * tests of block/io/status.c: one layer, chains, short backing files
 */
#include "tests/unit/memory_driver.h"
#include "block/io/status.h"

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

#define CLUSTER 65536

typedef struct Query {
    BlockDriverState *bs;
    BlockDriverState *base;
    int64_t offset;
    int64_t bytes;
    BlockStatus status;
    int depth;
    int64_t above_bytes;
    int one; /* results of the four questions */
    int above;
    int allocated;
    int zero;
} Query;

static void coroutine_fn ask_entry(void *opaque)
{
    Query *q = opaque;
    BlockStatus one;

    q->one = bdrv_co_block_status(q->bs, true, q->offset, q->bytes, &one);
    q->above = bdrv_co_block_status_above(q->bs, q->base, true, q->offset,
                                          q->bytes, &q->status, &q->depth);
    q->allocated = bdrv_co_is_allocated_above(q->bs, q->base, false, q->offset,
                                              q->bytes, &q->above_bytes);
    q->zero = bdrv_co_is_zero(q->bs, q->offset, q->bytes);
    if (q->one == 0) {
        q->one = one.flags;
    }
}

static Query ask(BdrvChild *top, BdrvChild *base, int64_t offset,
                 int64_t bytes)
{
    Query q = { .bs = top->bs, .base = base ? base->bs : NULL,
                .offset = offset, .bytes = bytes };

    aio_run_sync(ask_entry, &q);
    return q;
}

static BdrvChild *open_overlay(int64_t length, BdrvChild *base)
{
    return memory_open(&(MemoryConfig) { .length = length,
                                         .cluster_bytes = CLUSTER,
                                         .backing = base });
}

static void test_chain_is_followed_to_the_layer_that_has_it(void **state)
{
    BdrvChild *base = memory_open(&(MemoryConfig) { .length = MIB });
    BdrvChild *top = open_overlay(MIB, base);
    uint8_t byte = 1;
    Query q;

    memset(memory_data(base), 1, MIB);
    assert_int_equal(bdrv_pwrite(top, CLUSTER, 1, &byte), 0);

    q = ask(top, NULL, CLUSTER, MIB - CLUSTER);
    assert_int_equal(q.status.bytes, CLUSTER);
    assert_int_equal(q.depth, 0);
    assert_ptr_equal(q.status.file, top->bs);
    q = ask(top, NULL, 0, MIB);
    assert_int_equal(q.status.bytes, CLUSTER);
    assert_int_equal(q.depth, 1);
    assert_ptr_equal(q.status.file, base->bs);
    assert_true(q.status.flags & BDRV_BLOCK_ALLOCATED);
    memory_close(top);
    memory_close(base);
}

static void test_base_is_left_out(void **state)
{
    BdrvChild *base = memory_open(&(MemoryConfig) { .length = MIB });
    BdrvChild *top = open_overlay(MIB, base);
    uint8_t byte = 1;

    memset(memory_data(base), 1, MIB);
    assert_int_equal(bdrv_pwrite(top, CLUSTER, 1, &byte), 0);

    assert_int_equal(ask(top, base, 0, MIB).allocated, 0);
    assert_int_equal(ask(top, base, 0, MIB).above_bytes, CLUSTER);
    assert_int_equal(ask(top, base, CLUSTER, 1).allocated, 1);
    assert_int_equal(ask(top, NULL, 0, MIB).allocated, 1);
    memory_close(top);
    memory_close(base);
}

static void test_past_a_short_backing_file_is_zero(void **state)
{
    BdrvChild *base = memory_open(&(MemoryConfig) { .length = 100000 });
    BdrvChild *top = open_overlay(MIB, base);
    Query q;

    memset(memory_data(base), 1, 100000);
    q = ask(top, NULL, 0, MIB);
    assert_int_equal(q.status.bytes, 100000);
    assert_int_equal(q.zero, 0);
    q = ask(top, NULL, 100000, MIB - 100000);
    assert_true(q.status.flags & BDRV_BLOCK_ZERO);
    assert_int_equal(q.status.bytes, MIB - 100000);
    assert_true(q.status.flags & BDRV_BLOCK_EOF);
    assert_int_equal(q.zero, 1);
    memory_close(top);
    memory_close(base);
}

static void test_short_middle_layer_hides_the_base(void **state)
{
    BdrvChild *base = memory_open(&(MemoryConfig) { .length = MIB });
    BdrvChild *middle = open_overlay(4 * CLUSTER, base);
    BdrvChild *top = open_overlay(MIB, middle);

    memset(memory_data(base), 1, MIB);
    assert_int_equal(ask(top, base, 0, CLUSTER).allocated, 0);
    assert_int_equal(ask(top, base, 5 * CLUSTER, CLUSTER).allocated, 1);
    assert_int_equal(ask(top, NULL, 5 * CLUSTER, CLUSTER).zero, 1);
    memory_close(top);
    memory_close(middle);
    memory_close(base);
}

static void test_overlay_without_backing_file_reads_zeros(void **state)
{
    BdrvChild *top = open_overlay(MIB, NULL);
    Query q = ask(top, NULL, 0, MIB);

    assert_int_equal(q.zero, 1);
    assert_true(q.one & BDRV_BLOCK_ZERO);
    assert_false(q.one & BDRV_BLOCK_ALLOCATED);
    memory_close(top);
}

static void test_known_data_is_not_asked_for_again(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });

    memset(memory_data(child), 1, MIB);
    ask(child, NULL, 0, 4096);
    memory_reset_counts(child);
    assert_int_equal(ask(child, NULL, 500000, 4096).zero, 0);
    assert_int_equal(memory_count(child, MEMORY_STATUS), 0);
    assert_int_equal(bdrv_pwrite_zeroes(child, 500000 & -4096, 8192, 0), 0);
    assert_int_equal(ask(child, NULL, 500000, 4096).zero, 1);
    memory_close(child);
}

static void test_ranges_outside_of_the_node_are_refused(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });

    assert_int_equal(ask(child, NULL, MIB, 1).one, -EINVAL);
    assert_int_equal(ask(child, NULL, 0, 0).one, -EINVAL);
    assert_int_equal(ask(child, NULL, -1, 1).one, -EINVAL);
    memory_close(child);
}

static void test_answer_is_cut_to_the_question(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) {
        .length = MIB, .limits = { .request_alignment = 4096 } });
    Query q = ask(child, NULL, 5000, 100);

    assert_int_equal(q.status.bytes, 100);
    assert_int_equal(q.status.host_offset, 5000);
    memory_close(child);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chain_is_followed_to_the_layer_that_has_it),
        cmocka_unit_test(test_base_is_left_out),
        cmocka_unit_test(test_past_a_short_backing_file_is_zero),
        cmocka_unit_test(test_short_middle_layer_hides_the_base),
        cmocka_unit_test(test_overlay_without_backing_file_reads_zeros),
        cmocka_unit_test(test_known_data_is_not_asked_for_again),
        cmocka_unit_test(test_ranges_outside_of_the_node_are_refused),
        cmocka_unit_test(test_answer_is_cut_to_the_question),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
