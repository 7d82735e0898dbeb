/* SPDX-License-Identifier: MIT */
/*
 * edges: attaching, moving, detaching; reopening of what they connect
 */
#include "graph_test_driver.h"

#include "block/graph/reopen.h"

static const BdrvChildClass user_class = {0};
static const BdrvChildClass staying_class = { .stay_at_node = true };

static BlockDriverState *filter_on(const char *node)
{
    g_autofree char *json = g_strdup_printf(
        "{\"driver\":\"tfilter\",\"file\":\"%s\"}", node);

    return test_open(json, BDRV_O_RDWR);
}

static BdrvChild *reader(BlockDriverState *bs, const BdrvChildClass *klass)
{
    return bdrv_root_attach_child(bdrv_ref(bs), "user", klass, NULL,
                                  BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL,
                                  NULL);
}

static void test_an_edge_holds_its_node(void **state)
{
    BlockDriverState *m = test_node("m", BDRV_O_RDWR);
    BdrvChild *u = reader(m, &user_class);

    bdrv_unref(m);
    assert_ptr_equal(bdrv_find_node("m"), m);
    assert_ptr_equal(m->parents->pdata[0], u);
    bdrv_detach_child(u);
    assert_null(bdrv_find_node("m"));
    bdrv_detach_child(NULL);
}

static void test_circles_are_refused(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", BDRV_O_RDWR);
    g_autoptr(BlockDriverState) a = filter_on("m");
    g_autoptr(BlockDriverState) b = filter_on(a->node_name);
    g_autoptr(GError) error = NULL;

    assert_null(bdrv_attach_child(a, bdrv_ref(b), "x", BDRV_CHILD_DATA,
                                  &error));
    assert_int_equal(error->code, IMGFUSE_ERROR_FAILED);
    assert_false(bdrv_replace_child(a->file, b, NULL));
    assert_ptr_equal(a->file->bs, m);
    assert_int_equal(b->ref_count, 1);
    assert_int_equal(b->chain_depth, 2);
    assert_true(bdrv_reaches(b, m));
    assert_false(bdrv_reaches(m, b));
}

static void test_depth_is_limited(void **state)
{
    g_autoptr(BlockDriverState) bs = test_node("m", BDRV_O_RDWR);
    GError *error = NULL;
    int depth = 0;

    while (error == NULL) {
        g_autofree char *json = g_strdup_printf(
            "{\"driver\":\"tfilter\",\"file\":\"%s\"}", bs->node_name);
        BlockDriverState *above = bdrv_open(
            NULL, block_options_from_json(json, NULL), BDRV_O_RDWR, NULL,
            &error);

        if (above != NULL) {
            bdrv_unref(bs);
            bs = above;
            assert_int_equal(bs->chain_depth, ++depth);
        }
    }
    assert_int_equal(depth, BDRV_MAX_DEPTH);
    g_error_free(error);
}

static void test_replacing_moves_permissions_along(void **state)
{
    g_autoptr(BlockDriverState) a = test_node("a", BDRV_O_RDWR);
    g_autoptr(BlockDriverState) b = test_node("b", BDRV_O_RDWR);
    BdrvChild *u = reader(a, &user_class);

    assert_true(bdrv_replace_child(u, b, NULL));

    assert_ptr_equal(u->bs, b);
    assert_int_equal(a->perm, 0);
    assert_int_equal(a->ref_count, 1);
    assert_int_equal(b->perm, BLK_PERM_CONSISTENT_READ);
    assert_int_equal(test_mem(a)->drain_begins, test_mem(a)->drain_ends);
    bdrv_detach_child(u);
}

static void test_a_refused_replacement_leaves_all_as_it_was(void **state)
{
    g_autoptr(BlockDriverState) a = test_node("a", BDRV_O_RDWR);
    g_autoptr(BlockDriverState) b = test_node("b", BDRV_O_RDWR);
    BdrvChild *u = reader(a, &user_class);

    test_mem(b)->refuse_perms = true;
    assert_false(bdrv_replace_child(u, b, NULL));
    assert_ptr_equal(u->bs, a);
    assert_int_equal(a->perm, BLK_PERM_CONSISTENT_READ);
    assert_int_equal(b->ref_count, 1);
    test_mem(b)->refuse_perms = false;
    u->frozen = true;
    assert_false(bdrv_replace_child(u, b, NULL));
    u->frozen = false;
    bdrv_detach_child(u);
}

/* A filter is put in: users move to it, its own edge and stayers do not. */
static void test_replacing_a_node_moves_its_users_only(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", BDRV_O_RDWR);
    g_autoptr(BlockDriverState) f = filter_on("m");
    BdrvChild *u = reader(m, &user_class);
    BdrvChild *stay = reader(m, &staying_class);

    assert_true(bdrv_replace_node(m, f, NULL));

    assert_ptr_equal(u->bs, f);
    assert_ptr_equal(stay->bs, m);
    assert_ptr_equal(f->file->bs, m);
    bdrv_detach_child(u);
    bdrv_detach_child(stay);
}

static void test_an_edge_to_a_drained_node_is_drained(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", BDRV_O_RDWR);
    g_autoptr(BlockDriverState) f = NULL;

    bdrv_drained_begin(m);
    f = filter_on("m");
    assert_true(f->file->quiesced);
    assert_int_equal(f->quiesce_count, 1);
    bdrv_drained_end(m);
    assert_false(f->file->quiesced);
    assert_int_equal(f->quiesce_count, 0);
}

static void test_reopening_changes_the_node_and_its_file(void **state)
{
    g_autoptr(BlockDriverState) bs = test_open(
        "{\"driver\":\"raw\",\"file.driver\":\"tmem\"}", 0);
    BlockDriverState *file = bs->file->bs;

    assert_true(bdrv_reopen_set_read_only(bs, false, NULL));
    assert_false(bs->read_only || file->read_only);
    assert_true(bs->file->perm & BLK_PERM_WRITE);
    assert_int_equal(test_mem(file)->reopen_commits, 1);
    assert_true(bdrv_reopen_set_read_only(bs, true, NULL));
    assert_true(bs->read_only && file->read_only);
    assert_false(bs->file->perm & BLK_PERM_WRITE);
}

static void test_a_refused_reopen_changes_nothing(void **state)
{
    g_autoptr(BlockDriverState) bs = test_open(
        "{\"driver\":\"raw\",\"file.driver\":\"tmem\"}", 0);
    BlockDriverState *file = bs->file->bs;
    BdrvChild *writer;

    test_mem(file)->refuse_reopen = true;
    assert_false(bdrv_reopen_set_read_only(bs, false, NULL));
    assert_true(bs->read_only && file->read_only);
    test_mem(file)->refuse_reopen = false;
    test_mem(file)->refuse_perms = true;
    assert_false(bdrv_reopen_set_read_only(bs, false, NULL));
    assert_true(bs->read_only && file->read_only);
    assert_int_equal(test_mem(file)->reopen_aborts, 1);
    test_mem(file)->refuse_perms = false;

    assert_true(bdrv_reopen_set_read_only(bs, false, NULL));
    writer = bdrv_root_attach_child(bdrv_ref(bs), "w", &user_class, NULL,
                                    BLK_PERM_WRITE, BLK_PERM_ALL, NULL);
    assert_non_null(writer);
    assert_false(bdrv_reopen_set_read_only(bs, true, NULL));
    assert_false(bs->read_only || file->read_only);
    bdrv_detach_child(writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_edge_holds_its_node),
        cmocka_unit_test(test_circles_are_refused),
        cmocka_unit_test(test_depth_is_limited),
        cmocka_unit_test(test_replacing_moves_permissions_along),
        cmocka_unit_test(test_a_refused_replacement_leaves_all_as_it_was),
        cmocka_unit_test(test_replacing_a_node_moves_its_users_only),
        cmocka_unit_test(test_an_edge_to_a_drained_node_is_drained),
        cmocka_unit_test(test_reopening_changes_the_node_and_its_file),
        cmocka_unit_test(test_a_refused_reopen_changes_nothing),
    };

    return cmocka_run_group_tests(tests, graph_test_setup,
                                  graph_test_teardown);
}
