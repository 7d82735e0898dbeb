/* SPDX-License-Identifier: MIT */
/*
 * registration: lists and the defaults that complete a table
 */
#include "graph_test_driver.h"

#include <errno.h>

static void test_drivers_are_found_by_both_names(void **state)
{
    assert_non_null(bdrv_find_format("tfmt"));
    assert_ptr_equal(bdrv_find_format("tmem"), bdrv_find_protocol("tmem"));
    assert_null(bdrv_find_protocol("tfmt"));
    assert_null(bdrv_find_format("nosuch"));
}

static void count(const BlockDriver *driver, void *opaque)
{
    (*(int *)opaque)++;
}

static void test_every_driver_is_visited(void **state)
{
    int n = 0;

    bdrv_foreach_driver(count, &n);
    assert_int_equal(n, 5);
}

static void test_no_function_is_left_out(void **state)
{
    static const char *const names[] = {"tmem", "tfilter", "tfmt", "raw"};

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        const BlockDriver *d = bdrv_find_format(names[i]);

        assert_true(d->probe && d->open && d->close && d->refresh_limits &&
                    d->parse_filename && d->drain_begin && d->drain_end &&
                    d->inactivate && d->invalidate_cache);
        assert_true(d->co_preadv && d->co_pwritev && d->co_pwrite_zeroes &&
                    d->co_pdiscard && d->co_pwritev_compressed &&
                    d->co_block_status && d->co_flush_to_os &&
                    d->co_flush_to_disk && d->co_truncate && d->co_getlength &&
                    d->co_copy_range_from && d->co_copy_range_to &&
                    d->co_get_allocated_file_size &&
                    d->get_info && d->get_specific_info &&
                    d->has_zero_init);
        assert_true(d->perm->check_perm && d->perm->set_perm &&
                    d->perm->abort_perm_update && d->perm->child_perm);
        assert_true(d->reopen->prepare && d->reopen->commit &&
                    d->reopen->commit_post && d->reopen->abort);
    }
}

static void test_a_filter_forwards_what_it_lacks(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", BDRV_O_RDWR);
    g_autoptr(BlockDriverState) f =
        test_open("{\"driver\":\"tfilter\",\"file\":\"m\"}", BDRV_O_RDWR);
    static const BdrvChildClass user_class = {0};
    BdrvChild *u = bdrv_root_attach_child(
        bdrv_ref(f), "u", &user_class, NULL,
        BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE, BLK_PERM_ALL, NULL);
    char buffer[5] = "";

    assert_int_equal(bdrv_pwrite(u, 1000, 5, "hello"), 0);
    assert_memory_equal(test_mem(m)->bytes + 1000, "hello", 5);
    assert_int_equal(bdrv_pread(u, 1000, 5, buffer), 0);
    assert_memory_equal(buffer, "hello", 5);
    assert_int_equal(bdrv_getlength(f), TMEM_BYTES);
    bdrv_detach_child(u);
}

static void test_others_say_they_cannot(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", BDRV_O_RDWR);
    g_autoptr(GError) error = NULL;

    assert_int_equal(m->drv->co_pdiscard(m, 0, 512), -ENOTSUP);
    assert_int_equal(m->drv->co_truncate(m, 0, true, PREALLOC_OFF, 0, &error),
                     -ENOTSUP);
    assert_non_null(strstr(error->message, "tmem"));
    assert_int_equal(m->drv->co_get_allocated_file_size(m), -ENOTSUP);
    assert_false(m->drv->has_zero_init(m));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drivers_are_found_by_both_names),
        cmocka_unit_test(test_every_driver_is_visited),
        cmocka_unit_test(test_no_function_is_left_out),
        cmocka_unit_test(test_a_filter_forwards_what_it_lacks),
        cmocka_unit_test(test_others_say_they_cannot),
    };

    return cmocka_run_group_tests(tests, graph_test_setup,
                                  graph_test_teardown);
}
