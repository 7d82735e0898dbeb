/* SPDX-License-Identifier: MIT */
/*
 * names and inode numbers of a mount; the backends have no images
 */
#include "fuse/tree.h"

#include "fuse/wire.h"

#include "block/rt/aio_context.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static int setup(void **state)
{
    *state = aio_context_new(NULL);
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    aio_context_free(*state);
    return 0;
}

static Export *export_named(const char *name)
{
    return export_new(name, blk_new(0, BLK_PERM_ALL, name), /* flags= */ 0,
                      /* mtime_ns= */ 0);
}

static void add(Tree *tree, const char *name)
{
    assert_true(tree_add(tree, export_named(name), NULL));
}

static void test_default_name_replaces_the_suffix(void **state)
{
    static const char *const rows[][2] = {
        { "/srv/disk.qcow2", "disk.raw" },
        { "disk", "disk.raw" },
        { "disk.raw", "disk.raw" },
        { "a.b.vmdk", "a.b.raw" },
        { "/x/.hidden", ".hidden.raw" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *name = tree_default_name(rows[i][0]);

        assert_string_equal(name, rows[i][1]);
    }
}

static void test_inodes_follow_the_order_of_adding(void **state)
{
    g_autoptr(Tree) tree = tree_new();

    add(tree, "b");
    add(tree, "a");

    assert_int_equal(tree_lookup(tree, "b"), FUSE_ROOT_ID + 1);
    assert_int_equal(tree_lookup(tree, "a"), FUSE_ROOT_ID + 2);
    assert_int_equal(tree_lookup(tree, "c"), 0);
    assert_string_equal(tree_export(tree, FUSE_ROOT_ID + 2)->name, "a");
    assert_true(tree_is_folder(tree, FUSE_ROOT_ID));
}

static void test_only_export_is_the_root_over_a_file(void **state)
{
    g_autoptr(Tree) tree = tree_new();

    tree->root_is_file = true;
    add(tree, "disk.raw");

    assert_false(tree_is_folder(tree, FUSE_ROOT_ID));
    assert_string_equal(tree_export(tree, FUSE_ROOT_ID)->name, "disk.raw");
    assert_null(tree_export(tree, FUSE_ROOT_ID + 1));
}

static void test_inodes_that_are_not_there_have_no_export(void **state)
{
    g_autoptr(Tree) tree = tree_new();

    add(tree, "a");

    assert_null(tree_export(tree, 0));
    assert_null(tree_export(tree, FUSE_ROOT_ID));
    assert_null(tree_export(tree, FUSE_ROOT_ID + 2));
    assert_null(tree_export(tree, UINT64_MAX));
}

static void test_a_name_twice_is_refused(void **state)
{
    g_autoptr(Tree) tree = tree_new();
    g_autoptr(GError) error = NULL;

    add(tree, "a");

    assert_false(tree_add(tree, export_named("a"), &error));
    assert_int_equal(error->code, IMGFUSE_ERROR_OPTION);
    assert_int_equal(tree->exports->len, 1);
}

static void test_names_that_no_folder_can_have_are_refused(void **state)
{
    g_autofree char *long_name = g_strnfill(256, 'x');
    const char *const names[] = { "", ".", "..", "a/b", long_name };

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(GError) error = NULL;

        assert_false(tree_check_name(names[i], &error));
        assert_int_equal(error->code, IMGFUSE_ERROR_OPTION);
    }
    long_name[255] = '\0';
    assert_true(tree_check_name(long_name, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default_name_replaces_the_suffix),
        cmocka_unit_test(test_inodes_follow_the_order_of_adding),
        cmocka_unit_test(test_only_export_is_the_root_over_a_file),
        cmocka_unit_test(test_inodes_that_are_not_there_have_no_export),
        cmocka_unit_test(test_a_name_twice_is_refused),
        cmocka_unit_test(test_names_that_no_folder_can_have_are_refused),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
