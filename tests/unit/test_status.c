/* SPDX-License-Identifier: MIT */
/*
 * tests of block/io/status.c: one layer, chains, short backing files
 */
#include "tests/unit/filter_test.h"

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

/* -- RAW and RECURSE -------------------------------------------------------- */

/* What `bs` itself says, with @want_zero; flags and the rest. */
typedef struct OneLayer {
    BdrvChild *child;
    bool want_zero;
    int64_t offset;
    int64_t bytes;
    BlockStatus status;
    int ret;
} OneLayer;

static void coroutine_fn one_layer_entry(void *opaque)
{
    OneLayer *one = opaque;

    one->ret = bdrv_co_block_status(one->child->bs, one->want_zero,
                                    one->offset, one->bytes, &one->status);
}

static BlockStatus status_of(BdrvChild *child, bool want_zero, int64_t offset,
                             int64_t bytes)
{
    OneLayer one = { child, want_zero, offset, bytes, { 0 }, 0 };

    aio_run_sync(one_layer_entry, &one);
    assert_int_equal(one.ret, 0);
    return one.status;
}

/* Memory of which only the first 64 KiB are no zeros. */
static BdrvChild *open_half_zero(void)
{
    BdrvChild *child = below_open_length(MIB);

    memset(memory_data(child), 1, CLUSTER);
    return child;
}

static void test_raw_is_followed_into_the_file(void **state)
{
    BdrvChild *file = open_half_zero();
    BdrvChild *raw = node_open(BDRV_O_RDWR, "{\"driver\":\"raw\","
                               "\"offset\":4096,\"file\":\"%s\"}",
                               below_name(file));
    BlockStatus status = status_of(raw, true, 4096, MIB);

    assert_int_equal(status.flags, BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED |
                                       BDRV_BLOCK_OFFSET_VALID);
    assert_ptr_equal(status.file, file->bs);
    assert_int_equal(status.host_offset, 8192);
    assert_int_equal(status.bytes, CLUSTER - 8192);
    status = status_of(raw, true, CLUSTER, MIB);
    assert_true(status.flags & BDRV_BLOCK_ZERO);
    assert_true(status.flags & BDRV_BLOCK_ALLOCATED);
    assert_true(status.flags & BDRV_BLOCK_EOF);
    assert_int_equal(status.host_offset, CLUSTER + 4096);
    assert_int_equal(status.bytes, MIB - 4096 - CLUSTER);
    bdrv_detach_child(raw);
    memory_close(file);
}

static void test_raw_is_followed_over_several_nodes(void **state)
{
    BdrvChild *file = open_half_zero();
    BdrvChild *top = node_open(
        BDRV_O_RDWR, "{\"driver\":\"throttle\",\"file\":{\"driver\":"
        "\"raw\",\"offset\":512,\"file\":{\"driver\":\"raw\","
        "\"offset\":512,\"file\":\"%s\"}}}", below_name(file));
    BlockStatus status = status_of(top, true, 100, 1000);

    assert_ptr_equal(status.file, file->bs);
    assert_int_equal(status.host_offset, 1124);
    assert_int_equal(status.bytes, 1000);
    assert_false(status.flags & (BDRV_BLOCK_RAW | BDRV_BLOCK_RECURSE));
    bdrv_detach_child(top);
    memory_close(file);
}

static BdrvChild *open_recursing(BdrvChild *file)
{
    BdrvChild *top = memory_open(&(MemoryConfig) {
        .length = MIB, .metadata = file, .recurses = true });

    memset(memory_data(top), 1, MIB); /* all data as far as it knows */
    return top;
}

static void test_recurse_learns_zeros_from_the_file(void **state)
{
    BdrvChild *file = open_half_zero();
    BdrvChild *top = open_recursing(file);
    BlockStatus status = status_of(top, true, 0, MIB);

    assert_true(status.flags & BDRV_BLOCK_DATA);
    assert_false(status.flags & BDRV_BLOCK_ZERO);
    assert_int_equal(status.bytes, CLUSTER); /* up to where the zeros begin */
    status = status_of(top, true, CLUSTER, MIB - CLUSTER);
    assert_true(status.flags & BDRV_BLOCK_ZERO);
    assert_true(status.flags & BDRV_BLOCK_DATA); /* it is this layer's */
    assert_ptr_equal(status.file, file->bs);
    assert_int_equal(status.host_offset, CLUSTER);
    assert_int_equal(status.bytes, MIB - CLUSTER);
    memory_close(top);
    memory_close(file);
}

static void test_recurse_past_the_files_end_is_zero(void **state)
{
    BdrvChild *file = below_open_length(CLUSTER);
    BdrvChild *top = open_recursing(file);

    memset(memory_data(file), 1, CLUSTER);
    assert_true(status_of(top, true, CLUSTER, CLUSTER).flags &
                BDRV_BLOCK_ZERO);
    assert_false(status_of(top, true, 0, CLUSTER).flags & BDRV_BLOCK_ZERO);
    memory_close(top);
    memory_close(file);
}

static void test_a_file_that_fails_costs_only_the_improvement(void **state)
{
    BdrvChild *file = open_half_zero();
    BdrvChild *top = open_recursing(file);
    BlockStatus status;

    memory_fail_next(file, MEMORY_STATUS, -EIO);
    status = status_of(top, true, CLUSTER, CLUSTER);
    assert_int_equal(status.bytes, CLUSTER);
    assert_true(status.flags & BDRV_BLOCK_DATA);
    assert_false(status.flags & BDRV_BLOCK_ZERO);
    memory_close(top);
    memory_close(file);
}

static void test_who_does_not_want_zeros_does_not_ask_for_them(void **state)
{
    BdrvChild *file = open_half_zero();
    BdrvChild *top = open_recursing(file);
    BlockStatus status = status_of(top, false, 0, MIB);

    assert_int_equal(status.bytes, MIB); /* one run */
    assert_false(status.flags & BDRV_BLOCK_ZERO);
    assert_int_equal(memory_count(file, MEMORY_STATUS), 0);
    status = status_of(file, false, 0, MIB);
    assert_int_equal(status.bytes, MIB);
    memory_close(top);
    memory_close(file);
}

/* -- longer chains ---------------------------------------------------------- */

static void test_a_filter_in_the_chain_is_looked_through(void **state)
{
    BdrvChild *base = below_open_length(MIB);
    BdrvChild *filter = node_open(BDRV_O_RDONLY, "{\"driver\":\"throttle\","
                                  "\"file\":\"%s\"}", below_name(base));
    BdrvChild *middle = open_overlay(MIB, filter);
    BdrvChild *top = open_overlay(MIB, middle);
    uint8_t byte = 1;
    Query q;

    memset(memory_data(base), 1, MIB);
    assert_int_equal(bdrv_pwrite(top, CLUSTER, 1, &byte), 0);

    q = ask(top, NULL, 0, MIB);
    assert_int_equal(q.status.bytes, CLUSTER);
    assert_ptr_equal(q.status.file, base->bs);
    assert_int_equal(q.depth, 2); /* the filter shows its child's as its own */
    assert_int_equal(ask(top, filter, 0, MIB).allocated, 0);
    assert_int_equal(ask(top, base, 0, MIB).allocated, 1); /* filter above */
    q = ask(top, middle, 2 * CLUSTER, CLUSTER);
    assert_int_equal(q.allocated, 0);
    assert_int_equal(q.above, 0);
    assert_false(q.status.flags & (BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED));
    memory_close(top);
    memory_close(middle);
    bdrv_detach_child(filter);
    memory_close(base);
}

static void test_a_run_ends_where_the_deciding_layer_changes(void **state)
{
    BdrvChild *base = memory_open(&(MemoryConfig) { .length = MIB });
    BdrvChild *middle = open_overlay(MIB, base);
    BdrvChild *top;
    uint8_t byte = 1;

    memset(memory_data(base), 1, MIB);
    assert_int_equal(bdrv_pwrite(middle, 2 * CLUSTER, 1, &byte), 0);
    top = open_overlay(MIB, middle);
    assert_int_equal(bdrv_pwrite(top, 4 * CLUSTER, 1, &byte), 0);

    assert_int_equal(ask(top, NULL, 0, MIB).status.bytes, 2 * CLUSTER);
    assert_int_equal(ask(top, NULL, 2 * CLUSTER, MIB / 2).depth, 1);
    assert_int_equal(ask(top, NULL, 2 * CLUSTER, MIB / 2).status.bytes,
                     CLUSTER);
    assert_int_equal(ask(top, NULL, 3 * CLUSTER, MIB / 2).depth, 2);
    assert_int_equal(ask(top, NULL, 4 * CLUSTER, MIB / 2).depth, 0);
    memory_close(top);
    memory_close(middle);
    memory_close(base);
}

/* -- the cache --------------------------------------------------------------- */

static void assert_asks_again(BdrvChild *child, int64_t offset, bool again)
{
    memory_reset_counts(child);
    (void) status_of(child, true, offset, 4096);
    assert_int_equal(memory_count(child, MEMORY_STATUS), again);
}

static void test_what_makes_holes_empties_the_cache(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });
    uint8_t byte = 1;

    memset(memory_data(child), 1, MIB);
    assert_asks_again(child, 0, true);
    assert_asks_again(child, MIB / 2, false);
    assert_int_equal(bdrv_pwrite(child, MIB / 2, 1, &byte), 0);
    assert_asks_again(child, MIB / 2, false); /* data is data */

    assert_int_equal(memory_pdiscard(child, 4096, 4096), 0);
    assert_asks_again(child, MIB / 2, true);
    assert_int_equal(bdrv_pwrite_zeroes(child, MIB / 2, 4096, 0), 0);
    assert_asks_again(child, MIB / 2 + 4096, true);
    assert_int_equal(bdrv_truncate(child, MIB - 4096, true, PREALLOC_OFF,
                                   NULL), 0);
    assert_asks_again(child, MIB / 2 + 4096, true);
    memory_close(child);
}

static void test_zeros_elsewhere_leave_the_cache(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });

    memset(memory_data(child) + MIB / 2, 1, MIB / 2);
    assert_asks_again(child, MIB / 2, true);
    assert_int_equal(bdrv_pwrite_zeroes(child, 0, MIB / 2, 0), 0);
    assert_asks_again(child, MIB / 2, false);
    memory_close(child);
}

/* An answer to a coarse question says nothing about zeros. */
static void test_coarse_answers_are_not_kept(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });

    (void) status_of(child, false, 0, 4096); /* zeros, called data */
    assert_true(status_of(child, true, 0, 4096).flags & BDRV_BLOCK_ZERO);
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
        cmocka_unit_test(test_raw_is_followed_into_the_file),
        cmocka_unit_test(test_raw_is_followed_over_several_nodes),
        cmocka_unit_test(test_recurse_learns_zeros_from_the_file),
        cmocka_unit_test(test_recurse_past_the_files_end_is_zero),
        cmocka_unit_test(test_a_file_that_fails_costs_only_the_improvement),
        cmocka_unit_test(test_who_does_not_want_zeros_does_not_ask_for_them),
        cmocka_unit_test(test_a_filter_in_the_chain_is_looked_through),
        cmocka_unit_test(test_a_run_ends_where_the_deciding_layer_changes),
        cmocka_unit_test(test_what_makes_holes_empties_the_cache),
        cmocka_unit_test(test_zeros_elsewhere_leave_the_cache),
        cmocka_unit_test(test_coarse_answers_are_not_kept),
    };

    return cmocka_run_group_tests(tests, node_test_setup, node_test_teardown);
}
