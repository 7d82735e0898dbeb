/* SPDX-License-Identifier: MIT */
/*
 * the copy-on-read filter: what was read once stays in the layer
 */
#include "tests/unit/filter_test.h"

#define CLUSTER 65536

typedef struct Chain {
    BdrvChild *base, *overlay, *node;
} Chain;

static Chain chain_open(BdrvOpenFlags flags, const char *options)
{
    Chain c = { .base = below_open_length(MIB) };

    memset(memory_data(c.base), 'b', MIB);
    c.overlay = below_open(&(MemoryConfig) {
        .length = MIB, .cluster_bytes = CLUSTER, .backing = c.base,
        .write_flags = BDRV_REQ_WRITE_UNCHANGED,
        .zero_flags = BDRV_REQ_WRITE_UNCHANGED,
    });
    c.node = node_open(flags, "{\"driver\":\"copy-on-read\",\"file\":\"%s\""
                       "%s}", below_name(c.overlay), options);
    return c;
}

static void chain_close(Chain *c)
{
    bdrv_detach_child(c->node);
    memory_close(c->overlay);
    memory_close(c->base);
}

static void test_what_is_read_is_copied_up(void **state)
{
    Chain c = chain_open(FILTER_FLAGS, "");

    assert_node_reads(c.node, 100, 10, 'b');
    assert_true(memory_is_allocated(c.overlay, 0));
    assert_false(memory_is_allocated(c.overlay, CLUSTER));
    assert_int_equal(memory_data(c.overlay)[0], 'b');
    memory_reset_counts(c.base);
    assert_node_reads(c.node, 0, CLUSTER, 'b');
    assert_int_equal(memory_count(c.base, MEMORY_READ), 0);
    chain_close(&c);
}

static void test_read_only_nodes_copy_nothing(void **state)
{
    Chain c = chain_open(0, "");

    assert_node_reads(c.node, 100, 10, 'b');
    assert_false(memory_is_allocated(c.overlay, 0));
    chain_close(&c);
}

static void test_a_bottom_must_be_in_the_chain(void **state)
{
    Chain c = chain_open(FILTER_FLAGS, "");
    BdrvChild *other = below_open_length(MIB);

    assert_open_fails(IMGFUSE_ERROR_NOT_FOUND, "nobody", 0,
                      "{\"driver\":\"copy-on-read\",\"file\":\"%s\","
                      "\"bottom\":\"nobody\"}", below_name(c.overlay));
    assert_open_fails(IMGFUSE_ERROR_OPTION, "backing chain", 0,
                      "{\"driver\":\"copy-on-read\",\"file\":\"%s\","
                      "\"bottom\":\"%s\"}", below_name(c.overlay),
                      below_name(other));
    memory_close(other);
    chain_close(&c);
}

static void test_what_lies_below_bottom_is_not_copied(void **state)
{
    Chain c = chain_open(FILTER_FLAGS, "");
    g_autofree char *options = NULL;

    bdrv_detach_child(c.node);
    options = g_strdup_printf(",\"bottom\":\"%s\"", below_name(c.overlay));
    c.node = node_open(FILTER_FLAGS, "{\"driver\":\"copy-on-read\",\"file\":"
                       "\"%s\"%s}", below_name(c.overlay), options);
    assert_node_reads(c.node, 100, 10, 'b');
    assert_false(memory_is_allocated(c.overlay, 0));
    chain_close(&c);
}

static void test_writes_pass(void **state)
{
    Chain c = chain_open(FILTER_FLAGS, "");

    node_fill(c.node, 10, 10, 'w');
    assert_node_reads(c.node, 10, 10, 'w');
    assert_node_reads(c.node, 20, 10, 'b');
    chain_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_read_is_copied_up),
        cmocka_unit_test(test_read_only_nodes_copy_nothing),
        cmocka_unit_test(test_a_bottom_must_be_in_the_chain),
        cmocka_unit_test(test_what_lies_below_bottom_is_not_copied),
        cmocka_unit_test(test_writes_pass),
    };

    return cmocka_run_group_tests(tests, node_test_setup, node_test_teardown);
}
