/* SPDX-License-Identifier: MIT */
/*
 * views of qcow2 snapshots: the past stays what it was while the present is
 * written, goes back and is discarded
 */
#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/graph/open.h"
#include "block/image/snapshot.h"
#include "block/io/io.h"
#include "tests/unit/qcow2_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CLUSTER 4096
#define SIZE (256 * 1024)
#define RDWR (BDRV_O_RDWR | BDRV_O_RESIZE | BDRV_O_UNMAP)

static void put(BlockBackend *blk, int cluster, int byte)
{
    uint8_t data[CLUSTER];

    memset(data, byte, sizeof(data));
    assert_int_equal(
        blk_pwrite(blk, (int64_t)cluster * CLUSTER, CLUSTER, data), 0);
}

static int get(BlockBackend *blk, int cluster)
{
    uint8_t data[CLUSTER];

    if (blk_pread(blk, (int64_t)cluster * CLUSTER, CLUSTER, data) < 0 ||
        data[0] != data[CLUSTER - 1]) {
        return -1;
    }
    return data[0];
}

/* A new image, open; cluster 0 holds 'a', 1 holds 'b'; snapshot "one". */
static BlockBackend *image_with_snapshot(void)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, 12, SIZE);
    g_autoptr(GError) error = NULL;
    BlockBackend *blk;

    test_disk_load(image->data, image->bytes);
    blk = test_disk_open(RDWR, "", &error);
    assert_non_null(blk);
    put(blk, 0, 'a');
    put(blk, 1, 'b');
    assert_true(bdrv_snapshot_create(blk_bs(blk), "one", &error));
    return blk;
}

static BlockBackend *try_view(BlockBackend *blk, const char *name,
                              GError **error)
{
    BlockOptions *options = block_options_new();

    block_options_set_string(options, "driver", "snapshot-view");
    block_options_set_string(options, "snapshot-name", name);
    block_options_set_string(options, "file", blk_bs(blk)->node_name);
    return blk_open(/* filename= */ NULL, options, BDRV_O_RDONLY,
                    /* policy= */ NULL, "test", error);
}

static BlockBackend *view_of(BlockBackend *blk, const char *name)
{
    g_autoptr(GError) error = NULL;
    BlockBackend *view = try_view(blk, name, &error);

    if (!view) {
        fail_msg("%s", error->message);
    }
    return view;
}

static void test_a_view_shows_the_past_while_the_present_is_written(void **s)
{
    BlockBackend *blk = image_with_snapshot();
    BlockBackend *view = view_of(blk, "one");

    assert_int_equal(get(view, 0), 'a');
    put(blk, 0, 'x');
    put(blk, 1, 'y');
    put(blk, 2, 'z');

    assert_int_equal(get(view, 0), 'a');
    assert_int_equal(get(view, 1), 'b');
    assert_int_equal(get(view, 2), 0);
    assert_int_equal(get(blk, 0), 'x');
    blk_free(view);
    blk_free(blk);
}

static void test_a_view_survives_snapshots_and_going_back(void **s)
{
    BlockBackend *blk = image_with_snapshot();
    BlockBackend *view = view_of(blk, "one");
    BlockBackend *second;

    put(blk, 0, 'x');
    assert_true(bdrv_snapshot_create(blk_bs(blk), "two", NULL));
    second = view_of(blk, "two");
    assert_true(bdrv_snapshot_goto(blk_bs(blk), "one", NULL));
    put(blk, 0, 'n');
    put(blk, 1, 'n');

    assert_int_equal(get(view, 0), 'a');
    assert_int_equal(get(view, 1), 'b');
    assert_int_equal(get(second, 0), 'x');
    blk_free(second);
    assert_true(bdrv_snapshot_remove(blk_bs(blk), "two", NULL));
    put(blk, 5, 'q');
    assert_int_equal(get(view, 0), 'a');
    blk_free(view);
    blk_free(blk);
}

static void test_a_snapshot_that_is_viewed_is_not_removed(void **s)
{
    BlockBackend *blk = image_with_snapshot();
    BlockBackend *view = view_of(blk, "one");
    g_autoptr(GError) error = NULL;

    assert_false(bdrv_snapshot_remove(blk_bs(blk), "one", &error));
    assert_true(g_error_matches(error, IMGFUSE_ERROR,
                                IMGFUSE_ERROR_CONFLICT));
    assert_int_equal(get(view, 1), 'b');

    blk_free(view);
    assert_true(bdrv_snapshot_remove(blk_bs(blk), "one", NULL));
    blk_free(blk);
}

static void test_a_view_has_the_snapshots_length(void **s)
{
    BlockBackend *blk = image_with_snapshot();
    BlockBackend *view = view_of(blk, "1"); /* ids work, too */
    uint8_t byte;

    assert_int_equal(blk_length(view), SIZE);
    assert_int_equal(blk_pread(view, SIZE, 1, &byte), -EINVAL);
    assert_true(blk_is_read_only(view));
    blk_free(view);
    blk_free(blk);
}

static void test_an_unknown_snapshot_is_told(void **s)
{
    BlockBackend *blk = image_with_snapshot();
    g_autoptr(GError) error = NULL;

    assert_null(try_view(blk, "nine", &error));

    assert_non_null(strstr(error->message, "nine"));
    blk_free(blk);
}

/* Going back to another size: whoever is above the filter hears of it. */
static void count_call(void *opaque)
{
    ++*(int *)opaque;
}

static void test_a_new_length_is_told_to_users_above_filters(void **s)
{
    BlockBackend *blk = image_with_snapshot();
    BlockOptions *options = block_options_new();
    BlockDriverState *filter;
    BlockBackend *above;
    int calls = 0;

    assert_int_equal(bdrv_truncate(blk_bs(blk)->parents->pdata[0], SIZE * 2,
                                   true, PREALLOC_OFF, NULL), 0);
    block_options_set_string(options, "driver", "throttle");
    block_options_set_string(options, "file", blk_bs(blk)->node_name);
    filter = bdrv_open(NULL, options, BDRV_O_RDONLY, NULL, NULL);
    assert_non_null(filter);
    above = blk_new(BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, "above");
    assert_true(blk_insert_node(above, filter, NULL));
    bdrv_unref(filter);
    assert_int_equal(blk_length(above), SIZE * 2);
    blk_set_resize_handler(above, count_call, &calls);

    assert_true(bdrv_snapshot_goto(blk_bs(blk), "one", NULL));

    assert_int_equal(calls, 1);
    assert_int_equal(blk_length(above), SIZE);
    blk_free(above);
    blk_free(blk);
}

static int setup(void **state)
{
    test_disk_setup();
    return 0;
}

static int teardown(void **state)
{
    test_disk_teardown();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            test_a_view_shows_the_past_while_the_present_is_written),
        cmocka_unit_test(test_a_view_survives_snapshots_and_going_back),
        cmocka_unit_test(test_a_snapshot_that_is_viewed_is_not_removed),
        cmocka_unit_test(test_a_view_has_the_snapshots_length),
        cmocka_unit_test(test_an_unknown_snapshot_is_told),
        cmocka_unit_test(test_a_new_length_is_told_to_users_above_filters),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
