/* SPDX-License-Identifier: MIT */
/*
 * tests of block/io/limits.c: merging, completing, refusing
 */
#include "tests/unit/memory_driver.h"
#include "block/io/limits.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static int set_up(void **state)
{
    aio_context_new(NULL);
    return 0;
}

static int tear_down(void **state)
{
    aio_context_free(aio_context_current());
    return 0;
}

static void test_gaps_are_completed(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) {
        .length = MIB, .limits = { .min_mem_alignment = 512,
                                   .request_alignment = 4096,
                                   .max_transfer = 10000 } });
    BdrvChild *plain = memory_open(&(MemoryConfig) { .length = MIB });

    assert_int_equal(child->bs->limits.max_transfer, 8192);
    assert_int_equal(bdrv_mem_alignment(child->bs), 512);
    assert_int_equal(plain->bs->limits.request_alignment, 1);
    assert_int_equal(plain->bs->limits.max_transfer, 0);
    assert_int_equal(bdrv_mem_alignment(plain->bs), 1);
    memory_close(child);
    memory_close(plain);
}

static void test_illegal_limits_are_refused(void **state)
{
    static const struct {
        const char *name;
        BlockLimits limits;
    } rows[] = {
        { "request_alignment", { .request_alignment = 3 } },
        { "request_alignment", { .request_alignment = -1 } },
        { "max_transfer", { .request_alignment = 4096, .max_transfer = 512 } },
        { "max_pdiscard", { .request_alignment = 4096, .max_pdiscard = 1 } },
        { "max_pwrite_zeroes", { .max_pwrite_zeroes = -1 } },
        { "max_iov", { .max_iov = -1 } },
        { "min_mem_alignment", { .request_alignment = 512,
                                 .min_mem_alignment = 1000 } },
        { "min_mem_alignment", { .request_alignment = 512,
                                 .min_mem_alignment = 1024 } },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });
        GError *error = NULL;

        memory_set_limits(child, &rows[i].limits);
        assert_false(bdrv_refresh_limits(child->bs, &error));
        assert_non_null(strstr(error->message, rows[i].name));
        assert_int_equal(child->bs->limits.request_alignment, 1);
        g_clear_error(&error);
        memory_close(child);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gaps_are_completed),
        cmocka_unit_test(test_illegal_limits_are_refused),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
