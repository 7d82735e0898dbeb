/* SPDX-License-Identifier: MIT */
/*
 * dirty bitmaps of a node: writes, successors, merging, truncation
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "block/backend.h"
#include "block/graph/node.h"
#include "block/graph/options.h"
#include "block/io/bitmap.h"
#include "block/rt/aio_context.h"
#include "drivers/registry.h"

#define LENGTH (1 << 20)

static BlockBackend *blk;
static AioContext *ctx;

static int open_null(void **state)
{
    BlockOptions *options = block_options_new();

    block_options_set_string(options, "driver", "null");
    block_options_set_int(options, "size", LENGTH);
    blk = blk_open(NULL, options, BDRV_O_RDWR | BDRV_O_RESIZE, NULL, "test",
                   NULL);
    *state = blk == NULL ? NULL : blk_bs(blk);
    return *state == NULL;
}

static int close_null(void **state)
{
    blk_free(blk);
    return 0;
}

static void write_at(int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *data = g_malloc0(bytes);

    assert_int_equal(blk_pwrite(blk, offset, bytes, data), 0);
}

static void test_a_write_marks_the_units_it_touches(void **state)
{
    BdrvDirtyBitmap *bitmap = bdrv_dirty_bitmap_new(*state, "b", 4096, NULL);
    int64_t offset, bytes;

    write_at(5000, 4096);

    assert_int_equal(bdrv_dirty_bitmap_count(bitmap), 8192);
    assert_true(bdrv_dirty_bitmap_next_area(bitmap, 0, LENGTH, LENGTH,
                                            &offset, &bytes));
    assert_int_equal(offset, 4096);
    assert_int_equal(bytes, 8192);
    bdrv_dirty_bitmap_remove(bitmap);
}

static void test_a_disabled_bitmap_marks_nothing(void **state)
{
    BdrvDirtyBitmap *bitmap = bdrv_dirty_bitmap_new(*state, "b", 4096, NULL);

    bdrv_dirty_bitmap_disable(bitmap);
    write_at(0, 4096);
    assert_int_equal(bdrv_dirty_bitmap_count(bitmap), 0);
    bdrv_dirty_bitmap_enable(bitmap);
    write_at(0, 4096);

    assert_int_equal(bdrv_dirty_bitmap_count(bitmap), 4096);
    bdrv_dirty_bitmap_remove(bitmap);
}

static void test_a_frozen_bitmap_keeps_still_and_reclaims(void **state)
{
    BdrvDirtyBitmap *bitmap = bdrv_dirty_bitmap_new(*state, "b", 4096, NULL);

    write_at(0, 1);
    assert_true(bdrv_dirty_bitmap_create_successor(bitmap, NULL));
    assert_true(bdrv_dirty_bitmap_is_frozen(bitmap));
    write_at(8192, 1);
    assert_int_equal(bdrv_dirty_bitmap_count(bitmap), 4096);
    bdrv_dirty_bitmap_reclaim(bitmap);

    assert_false(bdrv_dirty_bitmap_is_frozen(bitmap));
    assert_int_equal(bdrv_dirty_bitmap_count(bitmap), 8192);
    bdrv_dirty_bitmap_remove(bitmap);
}

static void test_an_abdicated_bitmap_leaves_only_the_new_writes(void **state)
{
    BdrvDirtyBitmap *bitmap = bdrv_dirty_bitmap_new(*state, "b", 4096, NULL);

    write_at(0, 1);
    assert_true(bdrv_dirty_bitmap_create_successor(bitmap, NULL));
    write_at(8192, 1);
    bitmap = bdrv_dirty_bitmap_abdicate(bitmap);

    assert_ptr_equal(bdrv_dirty_bitmap_find(*state, "b"), bitmap);
    assert_int_equal(bdrv_dirty_bitmap_count(bitmap), 4096);
    bdrv_dirty_bitmap_remove(bitmap);
}

static void test_taking_an_area_clears_whole_units(void **state)
{
    BdrvDirtyBitmap *bitmap = bdrv_dirty_bitmap_new(*state, "b", 4096, NULL);
    int64_t offset, bytes;

    write_at(0, 65536);
    assert_true(bdrv_dirty_bitmap_take_area(bitmap, 0, LENGTH, 10000, &offset,
                                            &bytes));

    assert_int_equal(offset, 0);
    assert_int_equal(bytes, 8192);
    assert_int_equal(bdrv_dirty_bitmap_count(bitmap), 65536 - 8192);
    bdrv_dirty_bitmap_remove(bitmap);
}

static void test_names_and_granularities_are_checked(void **state)
{
    BdrvDirtyBitmap *bitmap = bdrv_dirty_bitmap_new(*state, "b", 512, NULL);
    g_autoptr(GError) twice = NULL;
    g_autoptr(GError) odd = NULL;

    assert_null(bdrv_dirty_bitmap_new(*state, "b", 512, &twice));
    assert_non_null(strstr(twice->message, "bitmap 'b' exists already"));
    assert_null(bdrv_dirty_bitmap_new(*state, "c", 1000, &odd));
    assert_non_null(strstr(odd->message, "1000"));
    bdrv_dirty_bitmap_remove(bitmap);
}

static void test_merging_needs_a_bitmap_that_no_job_uses(void **state)
{
    BdrvDirtyBitmap *a = bdrv_dirty_bitmap_new(*state, "a", 512, NULL);
    BdrvDirtyBitmap *b = bdrv_dirty_bitmap_new(*state, "b", 4096, NULL);
    g_autoptr(GError) error = NULL;

    bdrv_dirty_bitmap_set(a, 0, 1);
    assert_true(bdrv_dirty_bitmap_merge(b, a, NULL));
    assert_int_equal(bdrv_dirty_bitmap_count(b), 4096);
    assert_true(bdrv_dirty_bitmap_create_successor(b, NULL));
    assert_false(bdrv_dirty_bitmap_merge(b, a, &error));

    assert_true(g_error_matches(error, IMGFUSE_ERROR,
                                IMGFUSE_ERROR_CONFLICT));
    bdrv_dirty_bitmap_remove(a);
    bdrv_dirty_bitmap_remove(b);
}

static void test_bits_past_a_smaller_length_are_forgotten(void **state)
{
    BdrvDirtyBitmap *bitmap = bdrv_dirty_bitmap_new(*state, "b", 4096, NULL);

    bdrv_dirty_bitmap_set(bitmap, 0, LENGTH);
    bdrv_dirty_bitmaps_truncate(*state, 8192);

    assert_int_equal(bdrv_dirty_bitmap_count(bitmap), 8192);
    bdrv_dirty_bitmap_remove(bitmap);
}

static int setup(void **state)
{
    drivers_register_all();
    ctx = aio_context_new(NULL);
    return ctx == NULL;
}

static int teardown(void **state)
{
    aio_context_free(ctx);
    return 0;
}

#define WITH_NODE(test) \
    cmocka_unit_test_setup_teardown(test, open_null, close_null)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_NODE(test_a_write_marks_the_units_it_touches),
        WITH_NODE(test_a_disabled_bitmap_marks_nothing),
        WITH_NODE(test_a_frozen_bitmap_keeps_still_and_reclaims),
        WITH_NODE(test_an_abdicated_bitmap_leaves_only_the_new_writes),
        WITH_NODE(test_taking_an_area_clears_whole_units),
        WITH_NODE(test_names_and_granularities_are_checked),
        WITH_NODE(test_merging_needs_a_bitmap_that_no_job_uses),
        WITH_NODE(test_bits_past_a_smaller_length_are_forgotten),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
