/* SPDX-License-Identifier: MIT */
/*
 * tests of block/io/limits.c: merging, completing, refusing
 */
#include "tests/unit/filter_test.h"

#include "block/io/limits.h"

static void test_gaps_are_completed(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) {
        .length = MIB, .limits = { .min_mem_alignment = 512,
                                   .request_alignment = 4096,
                                   .max_transfer = 10000 } });
    BdrvChild *plain = memory_open(&(MemoryConfig) { .length = MIB });

    assert_int_equal(child->bs->limits.max_transfer, 8192);
    assert_int_equal(bdrv_mem_alignment(child->bs), 512);
    assert_int_equal(plain->bs->limits.request_alignment, 1);
    assert_int_equal(plain->bs->limits.max_transfer, 0);
    assert_int_equal(bdrv_mem_alignment(plain->bs), 1);
    memory_close(child);
    memory_close(plain);
}

static void test_illegal_limits_are_refused(void **state)
{
    static const struct {
        const char *name;
        BlockLimits limits;
    } rows[] = {
        { "request_alignment", { .request_alignment = 3 } },
        { "request_alignment", { .request_alignment = -1 } },
        { "max_transfer", { .request_alignment = 4096, .max_transfer = 512 } },
        { "max_pdiscard", { .request_alignment = 4096, .max_pdiscard = 1 } },
        { "max_pwrite_zeroes", { .max_pwrite_zeroes = -1 } },
        { "max_iov", { .max_iov = -1 } },
        { "min_mem_alignment", { .request_alignment = 512,
                                 .min_mem_alignment = 1000 } },
        { "min_mem_alignment", { .request_alignment = 512,
                                 .min_mem_alignment = 1024 } },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });
        GError *error = NULL;

        memory_set_limits(child, &rows[i].limits);
        assert_false(bdrv_refresh_limits(child->bs, &error));
        assert_non_null(strstr(error->message, rows[i].name));
        assert_int_equal(child->bs->limits.request_alignment, 1);
        g_clear_error(&error);
        memory_close(child);
    }
}

/* -- limits of children ---------------------------------------------------- */

static void set_limits(BdrvChild *child, BlockLimits limits)
{
    memory_set_limits(child, &limits);
    assert_true(bdrv_refresh_limits(child->bs, NULL));
}

/* A quorum has two children of one kind; 0 in a limit means there is none. */
static void test_children_are_merged_the_tighter_way(void **state)
{
    BdrvChild *a = below_open_length(MIB), *b = below_open_length(MIB);
    BdrvChild *top;
    const BlockLimits *limits;

    set_limits(a, (BlockLimits) {
        .request_alignment = 512, .max_transfer = 65536, .opt_transfer = 4096,
        .max_hw_transfer = 131072, .max_iov = 16, .opt_mem_alignment = 4096,
        .min_mem_alignment = 512 });
    set_limits(b, (BlockLimits) {
        .max_transfer = 32768, .opt_transfer = 8192, .max_hw_iov = 7,
        .opt_mem_alignment = 512 });
    top = node_open(FILTER_FLAGS, "{\"driver\":\"quorum\",\"children\":"
                    "[\"%s\",\"%s\"],\"vote-threshold\":1}",
                    below_name(a), below_name(b));
    limits = &top->bs->limits;

    assert_int_equal(limits->max_transfer, 32768);
    assert_int_equal(limits->opt_transfer, 8192);
    assert_int_equal(limits->max_hw_transfer, 131072);
    assert_int_equal(limits->max_hw_iov, 7);
    assert_int_equal(limits->max_iov, 16);
    assert_int_equal(limits->opt_mem_alignment, 4096);
    assert_int_equal(bdrv_mem_alignment(top->bs), 4096);
    /* What each node enforces for itself is not the parent's. */
    assert_int_equal(limits->request_alignment, 1);
    assert_int_equal(limits->min_mem_alignment, 1);
    bdrv_detach_child(top);
    memory_close(a);
    memory_close(b);
}

static void test_a_change_below_is_seen_above(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *top = node_open(FILTER_FLAGS, "{\"driver\":\"raw\",\"file\":"
                               "{\"driver\":\"raw\",\"file\":\"%s\"}}",
                               below_name(below));

    assert_int_equal(top->bs->limits.max_transfer, 0);
    set_limits(below, (BlockLimits) { .max_transfer = 65536 });
    assert_int_equal(top->bs->limits.max_transfer, 65536);
    set_limits(below, (BlockLimits) { 0 });
    assert_int_equal(top->bs->limits.max_transfer, 0);
    bdrv_detach_child(top);
    memory_close(below);
}

static void test_a_filter_has_its_childs_limits_for_zeros_and_discards(
    void **state)
{
    static const BlockLimits below_limits = {
        .max_pdiscard = 100003, .pdiscard_alignment = 65536,
        .max_pwrite_zeroes = 50001, .pwrite_zeroes_alignment = 4096,
    };
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *filter, *format;

    set_limits(below, below_limits);
    filter = node_open(BDRV_O_RDONLY, "{\"driver\":\"throttle\","
                       "\"file\":\"%s\"}", below_name(below));
    format = node_open(BDRV_O_RDONLY, "{\"driver\":\"raw\","
                       "\"file\":\"%s\"}", below_name(below));

    assert_int_equal(filter->bs->limits.max_pdiscard, 100003);
    assert_int_equal(filter->bs->limits.pdiscard_alignment, 65536);
    assert_int_equal(filter->bs->limits.max_pwrite_zeroes, 50001);
    assert_int_equal(filter->bs->limits.pwrite_zeroes_alignment, 4096);
    assert_int_equal(format->bs->limits.max_pdiscard, 0);
    assert_int_equal(format->bs->limits.max_pwrite_zeroes, 0);
    bdrv_detach_child(filter);
    bdrv_detach_child(format);
    memory_close(below);
}

/* blkdebug's own blocks are larger than what its child takes at once. */
static void test_a_childs_limit_is_fitted_to_the_parents_blocks(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *top;

    set_limits(below, (BlockLimits) { .max_transfer = 1000,
                                      .max_pdiscard = 1000,
                                      .max_pwrite_zeroes = 1000 });
    top = node_open(FILTER_FLAGS, "{\"driver\":\"blkdebug\",\"align\":4096,"
                    "\"file\":\"%s\"}", below_name(below));

    assert_int_equal(top->bs->limits.max_transfer, 4096);
    assert_int_equal(top->bs->limits.max_pdiscard, 4096);
    assert_int_equal(top->bs->limits.max_pwrite_zeroes, 4096);
    node_fill(top, 0, 8192, 5); /* the child gets what it can take */
    assert_node_reads(top, 0, 8192, 5);
    bdrv_detach_child(top);
    memory_close(below);
}

static void test_a_backing_file_counts_its_metadata_does_not(void **state)
{
    BdrvChild *base = below_open_length(MIB), *meta = below_open_length(MIB);
    BdrvChild *top;

    set_limits(base, (BlockLimits) { .max_transfer = 65536 });
    set_limits(meta, (BlockLimits) { .max_transfer = 4096 });
    top = memory_open(&(MemoryConfig) { .length = MIB, .metadata = meta,
                                        .cluster_bytes = 65536,
                                        .backing = base, .merges = true });
    assert_int_equal(top->bs->limits.max_transfer, 65536);
    memory_close(top);
    memory_close(base);
    memory_close(meta);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gaps_are_completed),
        cmocka_unit_test(test_illegal_limits_are_refused),
        cmocka_unit_test(test_children_are_merged_the_tighter_way),
        cmocka_unit_test(test_a_change_below_is_seen_above),
        cmocka_unit_test(
            test_a_filter_has_its_childs_limits_for_zeros_and_discards),
        cmocka_unit_test(test_a_childs_limit_is_fitted_to_the_parents_blocks),
        cmocka_unit_test(test_a_backing_file_counts_its_metadata_does_not),
    };

    return cmocka_run_group_tests(tests, node_test_setup, node_test_teardown);
}
