/* SPDX-License-Identifier: MIT */
/*
 * reference policy: what names of an image are resolved to, and refused
 */
#include "graph_test_driver.h"

#include "block/graph/reference_policy.h"

#include <sys/stat.h>

/* /a/img, /a/sub/x, /b/y in a fresh folder. */
typedef struct Tree {
    char *top, *a, *b;
} Tree;

static void tree_make(Tree *tree)
{
    g_autofree char *sub = NULL;

    tree->top = test_folder();
    tree->a = g_build_filename(tree->top, "a", NULL);
    tree->b = g_build_filename(tree->top, "b", NULL);
    sub = g_build_filename(tree->a, "sub", NULL);
    g_mkdir_with_parents(sub, 0700);
    g_mkdir_with_parents(tree->b, 0700);
    test_write_file(tree->a, "img", "");
    test_write_file(sub, "x", "");
    test_write_file(tree->b, "y", "");
}

static void tree_remove(Tree *tree)
{
    test_remove_folder(tree->top);
    g_free(tree->a);
    g_free(tree->b);
}

static void assert_refused(const ReferencePolicy *policy, const char *folder,
                           const char *name, int code, const char *part)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = reference_policy_resolve(policy, folder, name,
                                                     &error);

    if (path != NULL) {
        fail_msg("'%s' gave %s", name, path);
    }
    if (error->code != code || strstr(error->message, part) == NULL) {
        fail_msg("'%s': %d %s", name, error->code, error->message);
    }
}

static void test_own_folder_and_below_is_allowed(void **state)
{
    Tree t;
    g_autofree char *path = NULL;

    tree_make(&t);
    path = reference_policy_resolve(NULL, t.a, "./sub/../sub/x", NULL);
    assert_non_null(path);
    assert_true(g_str_has_prefix(path, t.a));
    assert_true(g_str_has_suffix(path, "/a/sub/x"));
    assert_refused(NULL, t.a, "../b/y", IMGFUSE_ERROR_FORBIDDEN,
                   "lies outside of");
    assert_refused(NULL, t.a, "../b/y", IMGFUSE_ERROR_FORBIDDEN,
                   "--allow-path=");
    assert_refused(NULL, t.a, "z", IMGFUSE_ERROR_NOT_FOUND, "not found in ");
    tree_remove(&t);
}

static void test_links_out_of_the_folder_are_seen_through(void **state)
{
    Tree t;
    g_autofree char *link_path = NULL;
    g_autofree char *dir_link = NULL;

    tree_make(&t);
    link_path = g_build_filename(t.a, "link", NULL);
    dir_link = g_build_filename(t.a, "dir", NULL);
    assert_int_equal(symlink("../b/y", link_path), 0);
    assert_int_equal(symlink("../b", dir_link), 0);
    assert_refused(NULL, t.a, "link", IMGFUSE_ERROR_FORBIDDEN, "outside");
    assert_refused(NULL, t.a, "dir/y", IMGFUSE_ERROR_FORBIDDEN, "outside");
    tree_remove(&t);
}

/* "/x/ab" is not below "/x/a". */
static void test_a_common_beginning_is_not_below(void **state)
{
    Tree t;
    g_autofree char *ab = NULL;

    tree_make(&t);
    ab = g_strconcat(t.a, "b", NULL);
    g_mkdir_with_parents(ab, 0700);
    test_write_file(ab, "f", "");
    assert_refused(NULL, t.a, "../ab/f", IMGFUSE_ERROR_FORBIDDEN, "outside");
    tree_remove(&t);
}

static void test_allowed_paths_widen_and_are_searched(void **state)
{
    g_autoptr(ReferencePolicy) policy = reference_policy_new();
    g_autofree char *relative = NULL;
    g_autofree char *moved = NULL;
    Tree t;

    tree_make(&t);
    assert_true(reference_policy_allow_path(policy, t.b, NULL));
    relative = reference_policy_resolve(policy, t.a, "../b/y", NULL);
    moved = reference_policy_resolve(policy, t.a, "y", NULL);
    assert_non_null(relative);
    assert_non_null(moved);
    assert_string_equal(relative, moved);
    assert_false(reference_policy_allow_path(policy, "/no/such", NULL));
    tree_remove(&t);
}

static void test_only_regular_files_are_allowed(void **state)
{
    g_autofree char *fifo = NULL;
    g_autoptr(ReferencePolicy) policy = reference_policy_new();
    Tree t;

    tree_make(&t);
    fifo = g_build_filename(t.a, "fifo", NULL);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_true(reference_policy_allow_path(policy, "/dev", NULL));
    assert_refused(policy, t.a, "fifo", IMGFUSE_ERROR_FORBIDDEN,
                   "no regular file");
    assert_refused(policy, t.a, "sub", IMGFUSE_ERROR_FORBIDDEN,
                   "no regular file");
    assert_refused(policy, t.a, "/dev/zero", IMGFUSE_ERROR_FORBIDDEN,
                   "no regular file");
    tree_remove(&t);
}

static void test_prefixes_need_allow_remote_and_an_address(void **state)
{
    g_autoptr(ReferencePolicy) policy = reference_policy_new();
    g_autofree char *address = NULL;

    assert_refused(policy, "/tmp", "json:{}", IMGFUSE_ERROR_UNSUPPORTED,
                   "json:");
    assert_refused(policy, "/tmp", "tmem://h/x", IMGFUSE_ERROR_FORBIDDEN,
                   "--allow-remote");
    assert_refused(policy, "/tmp", "gopher://h/x", IMGFUSE_ERROR_UNSUPPORTED,
                   "protocol");
    reference_policy_allow_remote(policy);
    address = reference_policy_resolve(policy, "/tmp", "tmem://h/x", NULL);
    assert_string_equal(address, "tmem://h/x");
    assert_refused(policy, "/tmp", "tmem:/etc/passwd",
                   IMGFUSE_ERROR_UNSUPPORTED, "'tmem:'");
    assert_refused(policy, "/tmp", "json:{}", IMGFUSE_ERROR_UNSUPPORTED,
                   "json:");
}

static void test_very_long_names_are_just_not_found(void **state)
{
    g_autofree char *name = g_strnfill(1000000, 'x');

    assert_refused(NULL, "/tmp", name, IMGFUSE_ERROR_NOT_FOUND, "not found");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_folder_and_below_is_allowed),
        cmocka_unit_test(test_links_out_of_the_folder_are_seen_through),
        cmocka_unit_test(test_a_common_beginning_is_not_below),
        cmocka_unit_test(test_allowed_paths_widen_and_are_searched),
        cmocka_unit_test(test_only_regular_files_are_allowed),
        cmocka_unit_test(test_prefixes_need_allow_remote_and_an_address),
        cmocka_unit_test(test_very_long_names_are_just_not_found),
    };

    return cmocka_run_group_tests(tests, graph_test_setup,
                                  graph_test_teardown);
}
