/* SPDX-License-Identifier: MIT */
/*
 * drain: holding back, waiting, nesting, and graph changes meanwhile
 */
#include "graph_test_driver.h"

typedef struct Root {
    int begins, ends, busy_polls;
} Root;

static void root_begin(BdrvChild *child)
{
    ((Root *)child->parent)->begins++;
}

static void root_end(BdrvChild *child)
{
    ((Root *)child->parent)->ends++;
}

static void kick(void *opaque)
{
}

/* Busy for some polls; each leaves work, so that the loop turns. */
static bool root_poll(BdrvChild *child)
{
    Root *root = child->parent;

    if (root->busy_polls == 0) {
        return false;
    }
    root->busy_polls--;
    aio_schedule(aio_context_current(), kick, NULL);
    return true;
}

static const BdrvChildClass root_class = {
    .drained_begin = root_begin,
    .drained_poll = root_poll,
    .drained_end = root_end,
};

static BdrvChild *root_on(BlockDriverState *bs, Root *root)
{
    return bdrv_root_attach_child(bdrv_ref(bs), "root", &root_class, root, 0,
                                  BLK_PERM_ALL, NULL);
}

static BlockDriverState *filter_on_m(void)
{
    return test_open("{\"driver\":\"tfilter\",\"file\":\"m\"}", 0);
}

static void test_a_drain_reaches_all_roots_above_and_drivers(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", 0);
    g_autoptr(BlockDriverState) a = filter_on_m();
    g_autoptr(BlockDriverState) b = filter_on_m();
    Root root_a = {.busy_polls = 3}, root_b = {0};
    BdrvChild *child_a = root_on(a, &root_a);
    BdrvChild *child_b = root_on(b, &root_b);

    bdrv_drained_begin(m);
    assert_int_equal(root_a.begins, 1);
    assert_int_equal(root_b.begins, 1);
    assert_int_equal(root_a.busy_polls, 0);
    assert_int_equal(test_mem(m)->drain_begins, 1);
    bdrv_drained_end(m);
    assert_int_equal(root_a.ends, 1);
    assert_int_equal(test_mem(m)->drain_ends, 1);
    bdrv_detach_child(child_a);
    bdrv_detach_child(child_b);
}

static void test_below_only_the_drivers_are_stopped(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", 0);
    g_autoptr(BlockDriverState) a = filter_on_m();
    Root root_m = {0};
    BdrvChild *child = root_on(m, &root_m);

    bdrv_drained_begin(a);
    assert_int_equal(test_mem(m)->drain_begins, 1);
    assert_int_equal(root_m.begins, 0);
    assert_int_equal(m->quiesce_count, 0);
    bdrv_drained_end(a);
    assert_int_equal(test_mem(m)->drain_ends, 1);
    bdrv_detach_child(child);
}

static void test_drains_nest(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", 0);
    g_autoptr(BlockDriverState) a = filter_on_m();
    Root root = {0};
    BdrvChild *child = root_on(a, &root);

    bdrv_drained_begin(a);
    bdrv_drained_begin(m);
    bdrv_drain_all_begin();
    bdrv_drained_end(a);
    bdrv_drained_end(m);
    assert_int_equal(root.begins - root.ends, 1);
    assert_int_equal(test_mem(m)->drain_ends, 0);
    bdrv_drain_all_end();
    assert_int_equal(root.begins, root.ends);
    assert_int_equal(test_mem(m)->drain_begins, 1);
    assert_int_equal(test_mem(m)->drain_ends, 1);
    assert_int_equal(a->quiesce_count + m->quiesce_count, 0);
    assert_int_equal(a->source_stops + m->source_stops, 0);
    bdrv_detach_child(child);
}

/* A user of the child on another way is held back, unlike by a plain drain. */
static void test_a_drained_subtree_holds_back_users_below(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", 0);
    g_autoptr(BlockDriverState) a = filter_on_m();
    Root root_a = {0}, root_m = {.busy_polls = 2};
    BdrvChild *child_a = root_on(a, &root_a);
    BdrvChild *child_m = root_on(m, &root_m);

    bdrv_subtree_drained_begin(a);
    assert_int_equal(root_a.begins, 1);
    assert_int_equal(root_m.begins, 1);
    assert_int_equal(root_m.busy_polls, 0);

    bdrv_drained_begin(m);
    bdrv_drain_all_begin();
    bdrv_subtree_drained_begin(m);
    bdrv_subtree_drained_end(a);
    assert_int_equal(root_m.ends, 0);
    assert_int_equal(test_mem(m)->drain_ends, 0);
    bdrv_drained_end(m);
    bdrv_subtree_drained_end(m);
    assert_int_equal(root_m.ends, 0);
    bdrv_drain_all_end();
    assert_int_equal(root_a.begins, root_a.ends);
    assert_int_equal(root_m.begins, root_m.ends);
    assert_int_equal(test_mem(m)->drain_begins, 1);
    assert_int_equal(test_mem(m)->drain_ends, 1);
    assert_int_equal(a->quiesce_count + m->quiesce_count, 0);
    bdrv_detach_child(child_a);
    bdrv_detach_child(child_m);
}

static void test_detaching_while_drained_tells_the_parent(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", 0);
    g_autoptr(BlockDriverState) a = filter_on_m();
    Root root = {0};
    BdrvChild *child = root_on(a, &root);

    bdrv_drained_begin(m);
    bdrv_detach_child(a->file);
    assert_int_equal(a->quiesce_count, 0);
    assert_int_equal(root.ends, 1);
    bdrv_drained_end(m);
    assert_int_equal(root.ends, 1);
    bdrv_detach_child(child);
}

/* The child goes away between begin and end: its driver is started again. */
static void test_a_child_lost_while_drained_is_released(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", 0);
    g_autoptr(BlockDriverState) a = filter_on_m();

    bdrv_drained_begin(a);
    bdrv_detach_child(a->file);
    bdrv_drained_end(a);
    assert_int_equal(test_mem(m)->drain_begins, 1);
    assert_int_equal(test_mem(m)->drain_ends, 1);
    assert_int_equal(m->ref_count, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_drain_reaches_all_roots_above_and_drivers),
        cmocka_unit_test(test_below_only_the_drivers_are_stopped),
        cmocka_unit_test(test_drains_nest),
        cmocka_unit_test(test_a_drained_subtree_holds_back_users_below),
        cmocka_unit_test(test_detaching_while_drained_tells_the_parent),
        cmocka_unit_test(test_a_child_lost_while_drained_is_released),
    };

    return cmocka_run_group_tests(tests, graph_test_setup,
                                  graph_test_teardown);
}
