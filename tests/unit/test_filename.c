/* SPDX-License-Identifier: MIT */
/*
 * names of open nodes: when a plain one is enough, and what json: names say
 */
#include "graph_test_driver.h"

#include "block/graph/filename.h"
#include "block/graph/reference_policy.h"

#include <sys/stat.h>

typedef struct Folder {
    char *path;
} Folder;

/* base, other: without backing file; top names base. */
static int make_images(void **state)
{
    Folder *folder = g_new0(Folder, 1);

    folder->path = test_folder();
    test_write_file(folder->path, "base", "TFMT\n");
    test_write_file(folder->path, "other", "TFMT\n");
    test_write_file(folder->path, "top", "TFMT\nbacking=base\nformat=tfmt\n");
    *state = folder;
    return 0;
}

static int remove_images(void **state)
{
    Folder *folder = *state;

    test_remove_folder(folder->path);
    g_free(folder);
    assert_int_equal(test_count_nodes(), 0);
    return 0;
}

static char *path_in(const Folder *folder, const char *name)
{
    return g_build_filename(folder->path, name, NULL);
}

/* @name, opened with @backing (NULL: what its header says). */
static BlockDriverState *open_with(const Folder *folder, const char *name,
                                   const char *backing)
{
    g_autofree char *path = path_in(folder, name);
    g_autoptr(GError) error = NULL;
    BlockOptions *options = block_options_new();
    BlockDriverState *bs;

    if (backing != NULL) {
        g_autofree char *below = path_in(folder, backing);

        block_options_set_string(options, "backing.driver", "tfmt");
        block_options_set_string(options, "backing.file.driver", "file");
        block_options_set_string(options, "backing.file.filename", below);
    }
    bs = bdrv_open(path, options, 0, /* policy= */ NULL, &error);
    if (bs == NULL) {
        fail_msg("%s", error->message);
    }
    return bs;
}

static void assert_plain(const BlockDriverState *bs, const Folder *folder,
                         const char *name)
{
    g_autofree char *path = path_in(folder, name);

    assert_non_null(bs->exact_filename);
    assert_string_equal(bs->exact_filename, path);
    assert_string_equal(bs->filename, path);
}

static void test_the_backing_file_of_the_header_keeps_the_plain_name(
    void **state)
{
    g_autoptr(BlockDriverState) top = open_with(*state, "top", NULL);

    assert_non_null(top->backing);
    assert_plain(top, *state, "top");
}

static void test_the_same_backing_file_given_by_hand_keeps_the_plain_name(
    void **state)
{
    g_autoptr(BlockDriverState) top = open_with(*state, "top", "base");

    assert_plain(top, *state, "top");
}

/* The json: name must open the same graph again. */
static void test_another_backing_file_is_part_of_the_name(void **state)
{
    g_autoptr(BlockDriverState) top = open_with(*state, "top", "other");
    g_autoptr(BlockDriverState) again = NULL;
    g_autoptr(GError) error = NULL;

    assert_null(top->exact_filename);
    assert_true(g_str_has_prefix(top->filename, "json:"));
    assert_non_null(strstr(top->filename, "/other"));
    again = bdrv_open(top->filename, NULL, 0, NULL, &error);
    assert_non_null(again);
    assert_plain(again->backing->bs, *state, "other");
    assert_string_equal(again->filename, top->filename);
}

static void test_no_backing_file_at_all_is_part_of_the_name(void **state)
{
    g_autoptr(BlockDriverState) top = open_with(*state, "top", NULL);
    g_autoptr(BlockDriverState) again = NULL;

    assert_true(bdrv_set_backing(top, NULL, NULL));
    assert_null(top->exact_filename);
    again = bdrv_open(top->filename, NULL, 0, NULL, NULL);
    assert_non_null(again);
    assert_null(again->backing);
}

static void test_a_changed_graph_changes_the_names_above(void **state)
{
    g_autoptr(BlockDriverState) top = open_with(*state, "top", NULL);
    g_autoptr(BlockDriverState) other = open_with(*state, "other", NULL);
    g_autofree char *json = g_strdup_printf(
        "{\"driver\":\"tfilter\",\"file\":\"%s\"}", top->node_name);
    g_autoptr(BlockDriverState) filter = test_open(json, 0);
    BlockDriverState *base = bdrv_ref(top->backing->bs);

    assert_plain(filter, *state, "top");
    assert_true(bdrv_set_backing(top, other, NULL));
    assert_null(top->exact_filename);
    assert_null(filter->exact_filename);
    assert_non_null(strstr(filter->filename, "/other"));

    assert_true(bdrv_set_backing(top, base, NULL));
    assert_plain(top, *state, "top");
    assert_plain(filter, *state, "top");
    bdrv_unref(base);
}

static void test_another_format_for_the_backing_file_is_an_override(
    void **state)
{
    const Folder *folder = *state;
    g_autofree char *path = path_in(folder, "top");
    BlockOptions *options = block_options_new();
    g_autoptr(BlockDriverState) top = NULL;

    block_options_set_string(options, "backing.driver", "raw");
    top = bdrv_open(path, options, 0, NULL, NULL);
    assert_non_null(top);
    assert_null(top->exact_filename);
    assert_non_null(strstr(top->filename, "\"raw\""));
}

/*
 * sub/link -> ../top: the header's "base" is beside the real top, not beside
 * the link, where another file of that name lies.
 */
static void test_a_relative_name_starts_from_the_real_folder(void **state)
{
    const Folder *folder = *state;
    g_autofree char *sub = path_in(folder, "sub");
    g_autofree char *link = path_in(folder, "sub/link");
    g_autoptr(BlockDriverState) top = NULL;

    assert_int_equal(mkdir(sub, 0755), 0);
    assert_int_equal(symlink("../top", link), 0);
    test_write_file(sub, "base", "not an image");

    top = open_with(folder, "sub/link", NULL);
    assert_plain(top, folder, "sub/link");
    assert_string_equal(top->directory, folder->path);
    assert_plain(top->backing->bs, folder, "base");
}

int main(void)
{
#define NAME_TEST(test) \
    cmocka_unit_test_setup_teardown(test, make_images, remove_images)
    const struct CMUnitTest tests[] = {
        NAME_TEST(
            test_the_backing_file_of_the_header_keeps_the_plain_name),
        NAME_TEST(
            test_the_same_backing_file_given_by_hand_keeps_the_plain_name),
        NAME_TEST(test_another_backing_file_is_part_of_the_name),
        NAME_TEST(test_no_backing_file_at_all_is_part_of_the_name),
        NAME_TEST(test_a_changed_graph_changes_the_names_above),
        NAME_TEST(test_another_format_for_the_backing_file_is_an_override),
        NAME_TEST(test_a_relative_name_starts_from_the_real_folder),
    };

    return cmocka_run_group_tests(tests, graph_test_setup,
                                  graph_test_teardown);
}
