/* SPDX-License-Identifier: MIT */
/*
 * HBitmap against a plain array of bytes
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "block/io/hbitmap.h"

#include <stdlib.h>
#include <string.h>

#define MODEL_BYTES 10007
#define MODEL_UNIT_BITS 3

/* What @bitmap says, byte by byte, equals the model's unit flags. */
static void assert_equals_model(const HBitmap *bitmap, const char *model)
{
    int64_t dirty = 0;

    for (int64_t i = 0; i < MODEL_BYTES; i++) {
        assert_int_equal(hbitmap_get(bitmap, i),
                         model[i >> MODEL_UNIT_BITS]);
        dirty += model[i >> MODEL_UNIT_BITS];
    }
    assert_int_equal(hbitmap_count(bitmap), dirty);
}

static int64_t model_next(const char *model, int64_t from, int64_t bytes,
                          char wanted)
{
    for (int64_t i = from; i < from + bytes; i++) {
        if (model[i >> MODEL_UNIT_BITS] == wanted) {
            return i;
        }
    }
    return -1;
}

static void change_model(char *model, int64_t offset, int64_t bytes, bool set)
{
    for (int64_t unit = 0; unit <= (MODEL_BYTES - 1) >> MODEL_UNIT_BITS;
         unit++) {
        int64_t start = unit << MODEL_UNIT_BITS;
        int64_t end = MIN(start + (1 << MODEL_UNIT_BITS), MODEL_BYTES);
        bool touched = bytes > 0 && start < offset + bytes && end > offset;
        bool covered = start >= offset && end <= offset + bytes;

        if (set ? touched : covered) {
            model[unit] = set;
        }
    }
}

static void test_random_changes_and_searches_agree_with_a_model(void **state)
{
    g_autoptr(HBitmap) bitmap = hbitmap_new(MODEL_BYTES, MODEL_UNIT_BITS);
    char model[(MODEL_BYTES >> MODEL_UNIT_BITS) + 1] = { 0 };

    srand(1);
    for (int round = 0; round < 3000; round++) {
        int64_t offset = rand() % MODEL_BYTES;
        int64_t bytes = rand() % (MODEL_BYTES - offset + 1);
        bool set = rand() % 3 == 0;

        bytes = rand() % 4 ? bytes % 100 : bytes;
        if (set) {
            hbitmap_set(bitmap, offset, bytes);
        } else {
            hbitmap_reset(bitmap, offset, bytes);
        }
        change_model(model, offset, bytes, set);

        offset = rand() % MODEL_BYTES;
        bytes = rand() % (MODEL_BYTES - offset + 1);
        assert_int_equal(hbitmap_next_dirty(bitmap, offset, bytes),
                         model_next(model, offset, bytes, 1));
        assert_int_equal(hbitmap_next_clean(bitmap, offset, bytes),
                         model_next(model, offset, bytes, 0));
        if (round % 100 == 0) {
            assert_equals_model(bitmap, model);
        }
    }
    assert_equals_model(bitmap, model);
}

static void test_search_in_a_huge_empty_bitmap_finds_the_only_bit(void **state)
{
    g_autoptr(HBitmap) bitmap = hbitmap_new(8 * TIB, 16);

    hbitmap_set(bitmap, 8 * TIB - 1, 1);

    assert_int_equal(hbitmap_next_dirty(bitmap, 0, 8 * TIB),
                     8 * TIB - 65536);
    assert_int_equal(hbitmap_count(bitmap), 65536);
}

static void test_count_of_a_short_last_unit_is_its_real_size(void **state)
{
    g_autoptr(HBitmap) bitmap = hbitmap_new(1000, 9);

    hbitmap_set(bitmap, 999, 1);

    assert_int_equal(hbitmap_count(bitmap), 1000 - 512);
}

static void test_dirty_areas_are_cut_to_the_limit(void **state)
{
    g_autoptr(HBitmap) bitmap = hbitmap_new(1 << 20, 12);
    int64_t offset, bytes;

    hbitmap_set(bitmap, 8192, 65536);

    assert_true(hbitmap_next_dirty_area(bitmap, 0, 1 << 20, 10000, &offset,
                                        &bytes));
    assert_int_equal(offset, 8192);
    assert_int_equal(bytes, 10000);
    assert_true(hbitmap_next_dirty_area(bitmap, 20000, 1 << 20, INT64_MAX,
                                        &offset, &bytes));
    assert_int_equal(offset, 20000);
    assert_int_equal(offset + bytes, 8192 + 65536);
    assert_false(hbitmap_next_dirty_area(bitmap, 8192 + 65536, 1 << 20,
                                         INT64_MAX, &offset, &bytes));
}

static void test_merge_joins_bitmaps_of_different_granularity(void **state)
{
    g_autoptr(HBitmap) fine = hbitmap_new(1 << 20, 9);
    g_autoptr(HBitmap) coarse = hbitmap_new(1 << 20, 16);

    hbitmap_set(fine, 70000, 1);
    hbitmap_set(coarse, 0, 1);
    hbitmap_merge(coarse, fine);

    assert_int_equal(hbitmap_count(coarse), 2 * 65536);
    hbitmap_merge(fine, coarse);
    assert_int_equal(hbitmap_count(fine), 2 * 65536);
}

static void test_truncate_forgets_the_tail_and_grows_clean(void **state)
{
    g_autoptr(HBitmap) bitmap = hbitmap_new(1 << 20, 12);

    hbitmap_set(bitmap, 0, 1 << 20);
    hbitmap_truncate(bitmap, 100000);
    assert_int_equal(hbitmap_count(bitmap), 100000);
    hbitmap_truncate(bitmap, 64 << 20);

    assert_int_equal(hbitmap_count(bitmap), align_up(100000, 4096));
    assert_int_equal(hbitmap_next_clean(bitmap, 0, 64 << 20),
                     align_up(100000, 4096));
    assert_int_equal(hbitmap_next_dirty(bitmap, 1 << 20, 1 << 20), -1);
}

static void test_serialised_parts_make_the_same_bitmap(void **state)
{
    g_autoptr(HBitmap) source = hbitmap_new(3000000, 10);
    g_autoptr(HBitmap) copy = hbitmap_new(3000000, 10);
    int64_t part = hbitmap_serial_alignment(source) * 5;

    srand(2);
    for (int i = 0; i < 500; i++) {
        hbitmap_set(source, rand() % 2990000, rand() % 10000);
    }
    for (int64_t offset = 0; offset < 3000000; offset += part) {
        int64_t bytes = MIN(part, 3000000 - offset);
        g_autofree uint8_t *buffer =
            g_malloc(hbitmap_serial_size(source, offset, bytes));

        hbitmap_serialise(source, buffer, offset, bytes);
        hbitmap_deserialise(copy, buffer, offset, bytes);
    }
    hbitmap_deserialise_finish(copy);

    assert_int_equal(hbitmap_count(copy), hbitmap_count(source));
    for (int64_t i = 0; i < 3000000; i += 1024) {
        assert_int_equal(hbitmap_get(copy, i), hbitmap_get(source, i));
    }
}

static void test_serialised_form_has_unit_0_in_bit_0(void **state)
{
    g_autoptr(HBitmap) bitmap = hbitmap_new(64 * 512, 9);
    uint8_t buffer[8];

    hbitmap_set(bitmap, 0, 1);
    hbitmap_set(bitmap, 9 * 512, 1);
    hbitmap_serialise(bitmap, buffer, 0, 64 * 512);

    assert_int_equal(buffer[0], 1);
    assert_int_equal(buffer[1], 2);
}

static void test_deserialised_ones_stop_at_the_end(void **state)
{
    g_autoptr(HBitmap) bitmap = hbitmap_new(1000, 9);

    hbitmap_deserialise_ones(bitmap, 0, 1000);
    hbitmap_deserialise_finish(bitmap);

    assert_int_equal(hbitmap_count(bitmap), 1000);
    hbitmap_deserialise_zeroes(bitmap, 0, 1000);
    hbitmap_deserialise_finish(bitmap);
    assert_int_equal(hbitmap_count(bitmap), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            test_random_changes_and_searches_agree_with_a_model),
        cmocka_unit_test(
            test_search_in_a_huge_empty_bitmap_finds_the_only_bit),
        cmocka_unit_test(test_count_of_a_short_last_unit_is_its_real_size),
        cmocka_unit_test(test_dirty_areas_are_cut_to_the_limit),
        cmocka_unit_test(test_merge_joins_bitmaps_of_different_granularity),
        cmocka_unit_test(test_truncate_forgets_the_tail_and_grows_clean),
        cmocka_unit_test(test_serialised_parts_make_the_same_bitmap),
        cmocka_unit_test(test_serialised_form_has_unit_0_in_bit_0),
        cmocka_unit_test(test_deserialised_ones_stop_at_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
