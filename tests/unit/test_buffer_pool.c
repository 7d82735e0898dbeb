/* SPDX-License-Identifier: MIT */
/* tests of block/rt/buffer_pool.c */
#include "block/rt/buffer_pool.h"

#include <glib.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define KIB 1024

static void test_buffers_are_aligned_and_as_large_as_asked(void **state)
{
    static const size_t sizes[] = {
        0, 1, 4095, 4096, 4097, 8192, 65536, 65537, 2048 * KIB,
        2048 * KIB + 1, 5000 * KIB,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++) {
        char *buffer = buffer_pool_get(sizes[i]);

        assert_non_null(buffer);
        assert_int_equal((uintptr_t)buffer % 4096, 0);
        memset(buffer, 0xaa, sizes[i]); /* checkers see an overrun */
        buffer_pool_put(buffer, sizes[i]);
    }
    buffer_pool_drain();
}

static void test_the_last_buffer_put_is_the_first_got(void **state)
{
    void *first = buffer_pool_get(64 * KIB);
    void *second = buffer_pool_get(64 * KIB);

    buffer_pool_put(first, 64 * KIB);
    buffer_pool_put(second, 64 * KIB);

    /* 40 KiB has the same class. */
    assert_ptr_equal(buffer_pool_get(40 * KIB), second);
    assert_ptr_equal(buffer_pool_get(64 * KIB), first);
    buffer_pool_put(second, 40 * KIB);
    buffer_pool_put(first, 64 * KIB);
    buffer_pool_drain();
}

static void test_a_buffer_is_not_reused_for_a_larger_class(void **state)
{
    void *small = buffer_pool_get(4 * KIB);
    void *large;

    buffer_pool_put(small, 4 * KIB);
    large = buffer_pool_get(8 * KIB);

    assert_ptr_not_equal(large, small);
    buffer_pool_put(large, 8 * KIB);
    buffer_pool_drain();
}

/* 64 buffers of 1 MiB go back; later no more than 8 of them are still there. */
static void test_idle_memory_is_bounded(void **state)
{
    enum { COUNT = 64, SIZE = 1024 * KIB };
    void *buffers[COUNT];
    void *again[COUNT];
    int reused = 0;

    for (int i = 0; i < COUNT; i++) {
        buffers[i] = buffer_pool_get(SIZE);
    }
    for (int i = 0; i < COUNT; i++) {
        buffer_pool_put(buffers[i], SIZE);
    }
    for (int i = 0; i < COUNT; i++) {
        again[i] = buffer_pool_get(SIZE);
        reused += i < 8 && again[i] == buffers[7 - i];
    }

    assert_int_equal(reused, 8);
    for (int i = 0; i < COUNT; i++) {
        buffer_pool_put(again[i], SIZE);
    }
    buffer_pool_drain();
}

static void test_putting_null_is_harmless(void **state)
{
    buffer_pool_put(NULL, 4096);
    buffer_pool_drain();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buffers_are_aligned_and_as_large_as_asked),
        cmocka_unit_test(test_the_last_buffer_put_is_the_first_got),
        cmocka_unit_test(test_a_buffer_is_not_reused_for_a_larger_class),
        cmocka_unit_test(test_idle_memory_is_bounded),
        cmocka_unit_test(test_putting_null_is_harmless),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
