/* SPDX-License-Identifier: MIT */
/*
 * snapshot=on: what is written is seen, and gone at the end
 */
#include "node_test.h"

#include "block/graph/edge.h"

#include <glib/gstdio.h>

#define FILE_BYTES 262144

static int count_files(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    int n = 0;

    assert_non_null(dir);
    while (g_dir_read_name(dir) != NULL) {
        n++;
    }
    return n;
}

/* Descriptors of this process. */
static int count_descriptors(void)
{
    return count_files("/proc/self/fd");
}

/* All temporary files go to a folder of their own. */
static int make_folder(void **state)
{
    char *folder = g_strdup("/tmp/overlay-XXXXXX");

    /* Not by g_dir_make_tmp(): GLib would remember the old TMPDIR. */
    assert_non_null(mkdtemp(folder));
    g_setenv("TMPDIR", folder, TRUE);
    *state = folder;
    return 0;
}

static int remove_folder(void **state)
{
    g_rmdir(*state);
    g_free(*state);
    return 0;
}

static void test_the_image_stays_untouched(void **state)
{
    TestFile file = test_file_new(FILE_BYTES, 1);
    struct stat before = test_file_stat(&file), after;
    BdrvChild *root = node_open(
        BDRV_O_RDWR, "{\"snapshot\":true,\"driver\":\"raw\","
        "\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}", file.path);
    BdrvChild *again;

    node_fill(root, 4096, 65536, 2);
    assert_node_reads(root, 4096, 65536, 2);
    assert_node_reads(root, 0, 4096, 1);
    assert_node_reads(root, 69632, 4096, 1);
    assert_int_equal(bdrv_flush(root->bs), 0);
    bdrv_detach_child(root);

    after = test_file_stat(&file);
    assert_int_equal(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    again = node_open(0, "{\"driver\":\"file\",\"filename\":\"%s\"}",
                      file.path);
    assert_node_reads(again, 0, FILE_BYTES, 1);
    bdrv_detach_child(again);
    test_file_free(&file);
}

static void test_nothing_is_left_behind(void **state)
{
    TestFile file = test_file_new(FILE_BYTES, 1);
    int descriptors = count_descriptors();
    BdrvChild *root = node_open(
        BDRV_O_RDWR, "{\"snapshot\":\"on\",\"driver\":\"raw\","
        "\"file\":{\"driver\":\"file\",\"filename\":\"%s\"}}", file.path);
    g_autofree char *name = g_path_get_basename(file.path);

    node_fill(root, 0, 65536, 2);
    assert_int_equal(count_files(g_get_tmp_dir()), 0);
    assert_true(root->bs->backing->bs->read_only);
    assert_true(root->bs->backing->bs->file->bs->read_only);
    assert_null(root->bs->exact_filename);
    assert_string_equal(bdrv_name(root->bs), name);

    bdrv_detach_child(root);
    assert_int_equal(count_files(g_get_tmp_dir()), 0);
    assert_int_equal(count_descriptors(), descriptors);
    test_file_free(&file);
}

static void test_a_read_only_user_needs_no_overlay(void **state)
{
    TestFile file = test_file_new(FILE_BYTES, 1);
    BdrvChild *root = node_open(
        0, "{\"snapshot\":true,\"driver\":\"raw\",\"file\":"
        "{\"driver\":\"file\",\"filename\":\"%s\"}}", file.path);

    assert_null(root->bs->backing);
    assert_string_equal(root->bs->drv->format_name, "raw");
    bdrv_detach_child(root);
    test_file_free(&file);
}

static void test_it_is_an_option_of_the_root_only(void **state)
{
    TestFile file = test_file_new(FILE_BYTES, 1);

    assert_open_fails(IMGFUSE_ERROR_OPTION, "snapshot", BDRV_O_RDWR,
                      "{\"driver\":\"raw\",\"file\":{\"driver\":\"file\","
                      "\"snapshot\":true,\"filename\":\"%s\"}}", file.path);
    assert_open_fails(IMGFUSE_ERROR_OPTION, "snapshot", BDRV_O_RDWR,
                      "{\"driver\":\"raw\",\"snapshot\":\"perhaps\",\"file\":"
                      "{\"driver\":\"file\",\"filename\":\"%s\"}}",
                      file.path);
    test_file_free(&file);
}

static void test_a_missing_folder_is_named(void **state)
{
    TestFile file = test_file_new(FILE_BYTES, 1);
    int descriptors = count_descriptors();

    /* GLib remembers TMPDIR: take the folder itself away. */
    assert_int_equal(g_rmdir(g_get_tmp_dir()), 0);
    assert_open_fails(IMGFUSE_ERROR_NOT_FOUND, g_get_tmp_dir(), BDRV_O_RDWR,
                      "{\"snapshot\":true,\"driver\":\"raw\",\"file\":"
                      "{\"driver\":\"file\",\"filename\":\"%s\"}}",
                      file.path);
    assert_int_equal(count_descriptors(), descriptors);
    test_file_free(&file);
}

static void *folder_state;

static int setup(void **state)
{
    make_folder(&folder_state);
    return node_test_setup(state);
}

static int teardown(void **state)
{
    remove_folder(&folder_state);
    return node_test_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_image_stays_untouched),
        cmocka_unit_test(test_nothing_is_left_behind),
        cmocka_unit_test(test_a_read_only_user_needs_no_overlay),
        cmocka_unit_test(test_it_is_an_option_of_the_root_only),
        cmocka_unit_test(test_a_missing_folder_is_named),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
