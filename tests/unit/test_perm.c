/* SPDX-License-Identifier: MIT */
/*
 * permissions: sums, conflicts, two phases
 */
#include "graph_test_driver.h"

static const BdrvChildClass user_class = {0};

static BdrvChild *user(BlockDriverState *bs, uint32_t perm, uint32_t shared,
                       GError **error)
{
    return bdrv_root_attach_child(bdrv_ref(bs), "user", &user_class, NULL,
                                  perm, shared, error);
}

static void test_sums_are_union_and_intersection(void **state)
{
    g_autoptr(BlockDriverState) bs = test_node("m", BDRV_O_RDWR);
    BdrvChild *a = user(bs, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, NULL);
    BdrvChild *b = user(bs, BLK_PERM_WRITE, BLK_PERM_CONSISTENT_READ, NULL);

    assert_int_equal(bs->perm, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE);
    assert_int_equal(bs->shared, BLK_PERM_CONSISTENT_READ);
    bdrv_detach_child(b);
    assert_int_equal(bs->perm, BLK_PERM_CONSISTENT_READ);
    assert_int_equal(bs->shared, BLK_PERM_ALL);
    bdrv_detach_child(a);
    assert_int_equal(bs->perm, 0);
}

static void test_two_writers_conflict_and_nothing_changes(void **state)
{
    g_autoptr(BlockDriverState) bs = test_node("m", BDRV_O_RDWR);
    g_autoptr(GError) error = NULL;
    BdrvChild *a = user(bs, BLK_PERM_WRITE, BLK_PERM_CONSISTENT_READ, NULL);
    int sets = test_mem(bs)->sets;

    assert_null(user(bs, BLK_PERM_WRITE, BLK_PERM_ALL, &error));

    assert_int_equal(error->code, IMGFUSE_ERROR_CONFLICT);
    assert_non_null(strstr(error->message, "'write'"));
    assert_int_equal(bs->parents->len, 1);
    assert_int_equal(bs->shared, BLK_PERM_CONSISTENT_READ);
    assert_int_equal(test_mem(bs)->sets, sets);
    bdrv_detach_child(a);
}

static void test_a_read_only_node_gives_no_writing(void **state)
{
    g_autoptr(BlockDriverState) bs = test_node("m", 0);
    g_autoptr(GError) error = NULL;

    assert_null(user(bs, BLK_PERM_WRITE, BLK_PERM_ALL, &error));
    assert_int_equal(error->code, IMGFUSE_ERROR_DENIED);
}

static void test_a_filter_passes_permissions_on(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", BDRV_O_RDWR);
    g_autoptr(BlockDriverState) f =
        test_open("{\"driver\":\"tfilter\",\"file\":\"m\"}", BDRV_O_RDWR);
    BdrvChild *u = user(f, BLK_PERM_WRITE, BLK_PERM_RESIZE, NULL);

    assert_int_equal(m->perm, BLK_PERM_WRITE);
    assert_int_equal(m->shared, BLK_PERM_RESIZE);
    bdrv_detach_child(u);
    assert_int_equal(m->perm, 0);
    assert_int_equal(m->shared, BLK_PERM_ALL);
}

static void test_a_format_takes_its_file_by_how_it_is_open(void **state)
{
    static const uint32_t shared = BLK_PERM_CONSISTENT_READ |
                                   BLK_PERM_WRITE_UNCHANGED;
    static const struct {
        BdrvOpenFlags flags;
        uint32_t perm, shared;
    } cases[] = {
        {0, BLK_PERM_CONSISTENT_READ, shared},
        {BDRV_O_RDWR, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE |
         BLK_PERM_RESIZE, shared},
        {BDRV_O_FORCE_SHARE, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(BlockDriverState) bs = test_open(
            "{\"driver\":\"raw\",\"file.driver\":\"tmem\"}", cases[i].flags);

        assert_int_equal(bs->file->perm, cases[i].perm);
        assert_int_equal(bs->file->shared, cases[i].shared);
    }
}

/* The node at the bottom of a diamond is asked once, with both sums. */
static void test_a_diamond_is_handled_once(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", BDRV_O_RDWR);
    g_autoptr(BlockDriverState) a =
        test_open("{\"driver\":\"tfilter\",\"file\":\"m\"}", BDRV_O_RDWR);
    g_autoptr(BlockDriverState) top = test_open(
        "{\"driver\":\"tfilter\",\"file\":\"m\"}", BDRV_O_RDWR);
    BdrvChild *u;
    int checks;

    assert_non_null(bdrv_attach_child(top, bdrv_ref(a), "second",
                                      BDRV_CHILD_FILTERED, NULL));
    checks = test_mem(m)->checks;
    u = user(top, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, NULL);

    assert_int_equal(test_mem(m)->checks, checks + 1);
    assert_int_equal(m->perm, BLK_PERM_CONSISTENT_READ);
    bdrv_detach_child(u);
}

static void test_a_refusing_driver_aborts_all(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", BDRV_O_RDWR);
    g_autoptr(BlockDriverState) f =
        test_open("{\"driver\":\"tfilter\",\"file\":\"m\"}", BDRV_O_RDWR);
    g_autoptr(GError) error = NULL;
    BdrvChild *u = user(f, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, NULL);
    int sets = test_mem(m)->sets;

    test_mem(m)->refuse_perms = true;
    assert_false(bdrv_child_set_perm(u, BLK_PERM_WRITE, 0, &error));

    assert_int_equal(error->code, IMGFUSE_ERROR_LOCKED);
    assert_int_equal(test_mem(m)->aborts, 1);
    assert_int_equal(test_mem(m)->sets, sets);
    assert_int_equal(u->perm, BLK_PERM_CONSISTENT_READ);
    assert_int_equal(f->perm, BLK_PERM_CONSISTENT_READ);
    assert_int_equal(m->perm, BLK_PERM_CONSISTENT_READ);
    assert_int_equal(f->file->shared, BLK_PERM_ALL);
    test_mem(m)->refuse_perms = false;
    bdrv_detach_child(u);
}

static void test_names_of_permissions_are_words(void **state)
{
    g_autofree char *names = bdrv_perm_names(BLK_PERM_CONSISTENT_READ |
                                             BLK_PERM_RESIZE);

    assert_string_equal(names, "consistent read, resize");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums_are_union_and_intersection),
        cmocka_unit_test(test_two_writers_conflict_and_nothing_changes),
        cmocka_unit_test(test_a_read_only_node_gives_no_writing),
        cmocka_unit_test(test_a_filter_passes_permissions_on),
        cmocka_unit_test(test_a_format_takes_its_file_by_how_it_is_open),
        cmocka_unit_test(test_a_diamond_is_handled_once),
        cmocka_unit_test(test_a_refusing_driver_aborts_all),
        cmocka_unit_test(test_names_of_permissions_are_words),
    };

    return cmocka_run_group_tests(tests, graph_test_setup,
                                  graph_test_teardown);
}
