/* SPDX-License-Identifier: MIT */
/* tests of block/rt/iovec.c */
#include "block/rt/iovec.h"
#include "block/rt/timer.h"

#include <glib.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Runs of 3, 0, 5, 1, 7, 2 bytes: "abc" "" "defgh" "i" "jklmnop" "qr". */
#define TEXT "abcdefghijklmnopqr"

typedef struct Scattered {
    char runs[6][8];
    IoVec vec;
} Scattered;

static const size_t run_bytes[6] = { 3, 0, 5, 1, 7, 2 };

static void scatter(Scattered *scattered, const char *text)
{
    iovec_init(&scattered->vec);
    for (int i = 0; i < 6; i++) {
        memcpy(scattered->runs[i], text, run_bytes[i]);
        text += run_bytes[i];
        iovec_add(&scattered->vec, scattered->runs[i], run_bytes[i]);
    }
}

static char *gather(const IoVec *vec)
{
    char *text = g_malloc0(vec->size + 1);

    iovec_to_buffer(vec, 0, text, vec->size);
    return text;
}

static void test_a_vector_grows_past_its_local_elements(void **state)
{
    Scattered scattered;

    scatter(&scattered, TEXT);

    assert_int_equal(scattered.vec.niov, 6);
    assert_int_equal(scattered.vec.size, strlen(TEXT));
    assert_ptr_not_equal(scattered.vec.iov, scattered.vec.local);
    iovec_destroy(&scattered.vec);
}

static void test_a_reset_vector_is_empty_and_can_be_filled(void **state)
{
    Scattered scattered;

    scatter(&scattered, TEXT);
    iovec_reset(&scattered.vec);
    assert_int_equal(scattered.vec.size, 0);
    iovec_add(&scattered.vec, scattered.runs[2], 5);

    assert_int_equal(scattered.vec.niov, 1);
    assert_int_equal(scattered.vec.size, 5);
    iovec_destroy(&scattered.vec);
}

static void test_any_part_can_be_copied_out(void **state)
{
    Scattered scattered;

    scatter(&scattered, TEXT);
    for (size_t at = 0; at <= strlen(TEXT); at++) {
        for (size_t bytes = 0; bytes <= strlen(TEXT) - at; bytes++) {
            char out[32] = "";

            iovec_to_buffer(&scattered.vec, at, out, bytes);
            assert_int_equal(strlen(out), bytes);
            assert_memory_equal(out, TEXT + at, bytes);
        }
    }
    iovec_destroy(&scattered.vec);
}

static void test_any_part_can_be_copied_in(void **state)
{
    for (size_t at = 0; at <= strlen(TEXT); at++) {
        for (size_t bytes = 0; bytes <= strlen(TEXT) - at; bytes++) {
            char expected[] = TEXT;
            g_autofree char *text = NULL;
            Scattered scattered;

            scatter(&scattered, TEXT);
            memcpy(expected + at, "ABCDEFGHIJKLMNOPQR", bytes);
            iovec_from_buffer(&scattered.vec, at, "ABCDEFGHIJKLMNOPQR",
                              bytes);
            text = gather(&scattered.vec);
            assert_string_equal(text, expected);
            iovec_destroy(&scattered.vec);
        }
    }
}

static void test_memset_touches_its_part_only(void **state)
{
    g_autofree char *text = NULL;
    Scattered scattered;

    scatter(&scattered, TEXT);
    iovec_memset(&scattered.vec, 2, '.', 9);
    text = gather(&scattered.vec);

    assert_string_equal(text, "ab.........lmnopqr");
    iovec_destroy(&scattered.vec);
}

static void test_a_slice_shows_the_same_bytes(void **state)
{
    Scattered scattered;

    scatter(&scattered, TEXT);
    for (size_t at = 0; at <= strlen(TEXT); at++) {
        for (size_t bytes = 0; bytes <= strlen(TEXT) - at; bytes++) {
            g_autofree char *text = NULL;
            IoVec slice;

            iovec_init(&slice);
            iovec_add_slice(&slice, &scattered.vec, at, bytes);
            text = gather(&slice);
            assert_int_equal(slice.size, bytes);
            assert_memory_equal(text, TEXT + at, bytes);
            assert_int_equal(slice.niov,
                             iovec_slice_count(&scattered.vec, at, bytes));
            iovec_destroy(&slice);
        }
    }
    iovec_destroy(&scattered.vec);
}

static void test_an_external_vector_is_a_view(void **state)
{
    char text[] = TEXT;
    struct iovec iov[2] = { { text, 10 }, { text + 10, 8 } };
    IoVec vec;

    iovec_init_external(&vec, iov, 2);

    assert_int_equal(vec.size, 18);
    assert_ptr_equal(vec.iov, iov);
    iovec_memset(&vec, 9, '.', 2);
    assert_string_equal(text, "abcdefghi..lmnopqr");
}

static void test_contiguous_finds_one_run_even_over_elements(void **state)
{
    char text[] = TEXT;
    struct iovec iov[3] = { { text, 4 }, { text + 4, 6 }, { text + 12, 4 } };
    IoVec vec;

    iovec_init_external(&vec, iov, 3);

    assert_ptr_equal(iovec_contiguous(&vec, 1, 2), text + 1);
    assert_ptr_equal(iovec_contiguous(&vec, 1, 9), text + 1);
    assert_null(iovec_contiguous(&vec, 1, 10));
    assert_ptr_equal(iovec_contiguous(&vec, 10, 4), text + 12);
}

static void test_alignment_means_addresses_and_lengths(void **state)
{
    static char block[4096] __attribute__((aligned(4096)));
    struct iovec iov[2] = { { block, 1024 }, { block + 2048, 512 } };
    IoVec vec;

    iovec_init_external(&vec, iov, 2);

    assert_true(iovec_is_aligned(&vec, 0, 1536, 512));
    assert_false(iovec_is_aligned(&vec, 0, 1536, 1024));
    assert_true(iovec_is_aligned(&vec, 0, 1024, 1024));
    assert_false(iovec_is_aligned(&vec, 1, 512, 512));
    assert_false(iovec_is_aligned(&vec, 0, 100, 512));
}

/* One byte set, at every place, at several alignments and lengths. */
static void test_one_byte_anywhere_is_not_zero(void **state)
{
    static const size_t lengths[] = { 1, 7, 63, 64, 65, 127, 128, 200, 513 };
    static char memory[1024];

    for (size_t start = 0; start < 17; start++) {
        for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
            char *buffer = memory + start;

            assert_true(buffer_is_zero(buffer, lengths[i]));
            for (size_t at = 0; at < lengths[i]; at++) {
                buffer[at] = 1;
                assert_false(buffer_is_zero(buffer, lengths[i]));
                buffer[at] = 0;
            }
            /* What stands after it does not matter. */
            buffer[lengths[i]] = 1;
            assert_true(buffer_is_zero(buffer, lengths[i]));
            buffer[lengths[i]] = 0;
        }
    }
    assert_true(buffer_is_zero(memory, 0));
}

static void test_a_part_is_zero_when_all_its_runs_are(void **state)
{
    char zeros[18] = { 0 };
    Scattered scattered;

    scatter(&scattered, zeros);
    scattered.runs[3][0] = 1; /* position 8 */

    assert_true(iovec_is_zero(&scattered.vec, 0, 8));
    assert_false(iovec_is_zero(&scattered.vec, 0, 9));
    assert_true(iovec_is_zero(&scattered.vec, 9, 9));
    iovec_destroy(&scattered.vec);
}

static void bench_zero_detection(void **state)
{
    enum { SIZE = 64 * 1024, ROUNDS = 20000 };
    g_autofree char *buffer = NULL;
    int64_t start_ns;
    int zeros = 0;

    if (!getenv("IMGFUSE_BENCH")) {
        print_message("set IMGFUSE_BENCH to measure\n");
        skip();
    }
    buffer = g_malloc0(SIZE);
    start_ns = clock_now_ns();
    for (int i = 0; i < ROUNDS; i++) {
        zeros += buffer_is_zero(buffer, SIZE);
    }
    assert_int_equal(zeros, ROUNDS);
    print_message("buffer_is_zero: %.1f GB/s\n",
                  (double)SIZE * ROUNDS /
                  (double)(clock_now_ns() - start_ns));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_vector_grows_past_its_local_elements),
        cmocka_unit_test(test_a_reset_vector_is_empty_and_can_be_filled),
        cmocka_unit_test(test_any_part_can_be_copied_out),
        cmocka_unit_test(test_any_part_can_be_copied_in),
        cmocka_unit_test(test_memset_touches_its_part_only),
        cmocka_unit_test(test_a_slice_shows_the_same_bytes),
        cmocka_unit_test(test_an_external_vector_is_a_view),
        cmocka_unit_test(test_contiguous_finds_one_run_even_over_elements),
        cmocka_unit_test(test_alignment_means_addresses_and_lengths),
        cmocka_unit_test(test_one_byte_anywhere_is_not_zero),
        cmocka_unit_test(test_a_part_is_zero_when_all_its_runs_are),
        cmocka_unit_test(bench_zero_detection),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
