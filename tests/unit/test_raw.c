/* SPDX-License-Identifier: MIT */
/*
 * the raw driver: a file as it is, or a window into it
 */
#include "tests/unit/node_test.h"

#include <errno.h>

#define RAW_JSON "{\"driver\":\"raw\",\"file\":{\"driver\":\"file\"," \
                 "\"filename\":\"%s\"}%s}"

static void test_without_options_it_shows_the_whole_file(void **state)
{
    TestFile file = test_file_new(1000, 'f');
    BdrvChild *node = node_open(0, RAW_JSON, file.path, "");

    assert_int_equal(bdrv_getlength(node->bs), 1000);
    assert_node_reads(node, 0, 1000, 'f');

    bdrv_detach_child(node);
    test_file_free(&file);
}

static void test_a_window_reads_and_writes_inside_only(void **state)
{
    TestFile file = test_file_new(10000, 'f');
    BdrvChild *node = node_open(BDRV_O_RDWR, RAW_JSON, file.path,
                                ",\"offset\":1001,\"size\":3000");
    g_autofree char *content = NULL;

    assert_int_equal(bdrv_getlength(node->bs), 3000);
    node_fill(node, 0, 3000, 'w');
    assert_node_reads(node, 0, 3000, 'w');
    bdrv_detach_child(node);

    assert_true(g_file_get_contents(file.path, &content, NULL, NULL));
    assert_int_equal(content[1000], 'f');
    assert_int_equal(content[1001], 'w');
    assert_int_equal(content[4000], 'w');
    assert_int_equal(content[4001], 'f');
    test_file_free(&file);
}

static void test_past_the_end_of_a_window_nothing_is_reachable(void **state)
{
    TestFile file = test_file_new(10000, 'f');
    BdrvChild *node = node_open(0, RAW_JSON, file.path,
                                ",\"offset\":1024,\"size\":512");
    uint8_t byte;

    assert_int_equal(bdrv_pread(node, 511, 1, &byte), 0);
    assert_int_equal(bdrv_pread(node, 512, 1, &byte), -EINVAL);

    bdrv_detach_child(node);
    test_file_free(&file);
}

static void test_windows_past_the_end_of_the_file_are_refused(void **state)
{
    static const char *const windows[] = {
        ",\"offset\":1001",
        ",\"offset\":512,\"size\":489",
        ",\"size\":1001",
        ",\"offset\":\"8E\",\"size\":\"7E\"",
        ",\"offset\":1,\"size\":9223372036854775807",
    };
    TestFile file = test_file_new(1000, 'f');

    for (size_t i = 0; i < G_N_ELEMENTS(windows); i++) {
        g_autoptr(GError) error = NULL;

        if (node_try_open(0, &error, RAW_JSON, file.path, windows[i])) {
            fail_msg("%s was taken", windows[i]);
        }
        assert_true(g_error_matches(error, IMGFUSE_ERROR,
                                    IMGFUSE_ERROR_OPTION));
    }
    test_file_free(&file);
}

static void test_an_offset_alone_shows_the_rest(void **state)
{
    TestFile file = test_file_new(1000, 'f');
    BdrvChild *node = node_open(0, RAW_JSON, file.path, ",\"offset\":400");

    assert_int_equal(bdrv_getlength(node->bs), 600);

    bdrv_detach_child(node);
    test_file_free(&file);
}

static void test_only_an_open_end_can_be_moved(void **state)
{
    TestFile file = test_file_new(1000, 'f');
    BdrvChild *node = node_open(BDRV_O_RDWR | BDRV_O_RESIZE, RAW_JSON,
                                file.path, ",\"offset\":400");
    g_autoptr(GError) error = NULL;

    assert_int_equal(bdrv_truncate(node, 2000, /* exact= */ true,
                                   PREALLOC_OFF, &error), 0);
    assert_int_equal(bdrv_getlength(node->bs), 2000);
    assert_node_reads(node, 600, 1400, 0);
    bdrv_detach_child(node);
    assert_int_equal(test_file_stat(&file).st_size, 2400);

    node = node_open(BDRV_O_RDWR | BDRV_O_RESIZE, RAW_JSON, file.path,
                     ",\"size\":400");
    assert_true(bdrv_truncate(node, 500, true, PREALLOC_OFF, &error) < 0);
    assert_non_null(error);
    bdrv_detach_child(node);
    test_file_free(&file);
}

static void test_status_points_into_the_file(void **state)
{
    TestFile file = test_file_new(1 << 20, 0);
    BdrvChild *node = node_open(BDRV_O_RDWR, RAW_JSON, file.path,
                                ",\"offset\":65536");
    BlockStatus status;

    node_fill(node, 0, 65536, 'x');
    assert_int_equal(bdrv_flush(node->bs), 0);

    status = node_status(node, 0, 1 << 19);
    assert_true(status.flags & BDRV_BLOCK_DATA);
    assert_true(status.flags & BDRV_BLOCK_OFFSET_VALID);
    assert_int_equal(status.host_offset, 65536);
    assert_int_equal(status.bytes, 65536);
    status = node_status(node, 65536, 1 << 19);
    assert_true(status.flags & BDRV_BLOCK_ZERO);

    bdrv_detach_child(node);
    test_file_free(&file);
}

static void test_copies_go_through_windows(void **state)
{
    TestFile from = test_file_new(1 << 17, 'a');
    TestFile to = test_file_new(1 << 17, 'b');
    BdrvChild *source = node_open(0, RAW_JSON, from.path, ",\"offset\":4096");
    BdrvChild *target = node_open(BDRV_O_RDWR, RAW_JSON, to.path,
                                  ",\"offset\":8192");
    int ret = node_copy(source, 0, target, 4096, 65536);

    if (ret != -ENOTSUP) {
        assert_int_equal(ret, 0);
        assert_node_reads(target, 0, 4096, 'b');
        assert_node_reads(target, 4096, 65536, 'a');
        assert_node_reads(target, 4096 + 65536, 4096, 'b');
    } else {
        print_message("skipped: no copy_file_range on /tmp\n");
    }
    bdrv_detach_child(source);
    bdrv_detach_child(target);
    test_file_free(&from);
    test_file_free(&to);
}

static void test_any_bytes_are_probed_as_raw_with_the_least_score(void **state)
{
    const BlockDriver *raw = bdrv_find_format("raw");
    uint8_t bytes[512] = "QFI\xfb";

    assert_non_null(raw);
    assert_int_equal(raw->probe(bytes, sizeof(bytes), "a"), 1);
    assert_int_equal(raw->probe(bytes, 0, "a"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_options_it_shows_the_whole_file),
        cmocka_unit_test(test_a_window_reads_and_writes_inside_only),
        cmocka_unit_test(test_past_the_end_of_a_window_nothing_is_reachable),
        cmocka_unit_test(test_windows_past_the_end_of_the_file_are_refused),
        cmocka_unit_test(test_an_offset_alone_shows_the_rest),
        cmocka_unit_test(test_only_an_open_end_can_be_moved),
        cmocka_unit_test(test_status_points_into_the_file),
        cmocka_unit_test(test_copies_go_through_windows),
        cmocka_unit_test(
            test_any_bytes_are_probed_as_raw_with_the_least_score),
    };

    return cmocka_run_group_tests(tests, node_test_setup, node_test_teardown);
}
