/* SPDX-License-Identifier: MIT */
/*
 * tests of block/io/truncate.c: lengths, exclusion, backing files
 */
#include "tests/unit/memory_driver.h"

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

typedef struct Call {
    BdrvChild *child;
    int64_t offset;
    int ret;
    bool done;
} Call;

static void coroutine_fn write_entry(void *opaque)
{
    Call *call = opaque;

    call->ret = bdrv_co_pwrite(call->child, call->offset, 3, "abc",
                               /* flags= */ 0);
    call->done = true;
}

static void coroutine_fn truncate_entry(void *opaque)
{
    Call *call = opaque;

    call->ret = bdrv_co_truncate(call->child, call->offset, /* exact= */ true,
                                 PREALLOC_OFF, /* flags= */ 0,
                                 /* error= */ NULL);
    call->done = true;
}

static int truncate_to(BdrvChild *child, int64_t length)
{
    return bdrv_truncate(child, length, /* exact= */ true, PREALLOC_OFF,
                         /* error= */ NULL);
}

static void test_length_follows_a_truncate(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });
    uint8_t byte;

    assert_int_equal(truncate_to(child, 1000), 0);
    assert_int_equal(bdrv_getlength(child->bs), 1000);
    assert_int_equal(bdrv_pread(child, 1000, 1, &byte), -EINVAL);
    assert_int_equal(truncate_to(child, 5000), 0);
    assert_int_equal(bdrv_pread(child, 4999, 1, &byte), 0);
    assert_int_equal(byte, 0);
    memory_close(child);
}

static void test_failed_truncate_keeps_the_length(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });
    GError *error = NULL;

    memory_fail_next(child, MEMORY_TRUNCATE, -ENOSPC);
    assert_int_equal(bdrv_truncate(child, 2 * MIB, /* exact= */ true,
                                   PREALLOC_OFF, &error), -ENOSPC);
    assert_non_null(error);
    g_clear_error(&error);
    assert_int_equal(bdrv_getlength(child->bs), MIB);
    assert_int_equal(truncate_to(child, -1), -EINVAL);
    assert_int_equal(truncate_to(child, INT64_MAX), -EFBIG);
    memory_close(child);
}

static void test_truncate_waits_for_writes_behind_the_new_end(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });
    Call write = { .child = child, .offset = 600000 };
    Call truncate = { .child = child, .offset = 500000 };

    memory_hold_next(child, MEMORY_WRITE);
    memory_start(write_entry, &write);
    memory_start(truncate_entry, &truncate);
    memory_settle();
    assert_int_equal(memory_count(child, MEMORY_TRUNCATE), 0);
    memory_release(child);
    memory_wait(&truncate.done);

    assert_true(write.done);
    assert_int_equal(truncate.ret, 0);
    memory_close(child);
}

static void test_truncate_lets_writes_before_the_new_end_pass(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });
    Call write = { .child = child, .offset = 400000 };
    Call truncate = { .child = child, .offset = 500000 };

    memory_hold_next(child, MEMORY_TRUNCATE);
    memory_start(truncate_entry, &truncate);
    memory_start(write_entry, &write);
    assert_true(write.done);
    memory_release(child);
    memory_wait(&truncate.done);
    memory_close(child);
}

static void test_grown_overlay_hides_a_longer_backing_file(void **state)
{
    BdrvChild *base = memory_open(&(MemoryConfig) { .length = MIB });
    BdrvChild *top = memory_open(&(MemoryConfig) {
        .length = 70000, .cluster_bytes = 65536, .backing = base });
    g_autofree uint8_t *buffer = g_malloc(2 * MIB);

    memset(memory_data(base), 0x42, MIB);
    assert_int_equal(truncate_to(top, 2 * MIB), 0);

    assert_int_equal(bdrv_pread(top, 0, 2 * MIB, buffer), 0);
    assert_int_equal(buffer[69999], 0x42);
    assert_true(buffer_is_zero(buffer + 70000, 2 * MIB - 70000));
    memory_close(top);
    memory_close(base);
}

static void test_failed_hiding_restores_the_length(void **state)
{
    BdrvChild *base = memory_open(&(MemoryConfig) { .length = MIB });
    BdrvChild *top = memory_open(&(MemoryConfig) {
        .length = 65536, .cluster_bytes = 65536, .backing = base });

    memory_fail_next(top, MEMORY_ZEROES, -ENOSPC);
    assert_int_equal(truncate_to(top, MIB), -ENOSPC);
    assert_int_equal(bdrv_getlength(top->bs), 65536);
    assert_int_equal(memory_last(top, MEMORY_TRUNCATE).offset, 65536);
    memory_close(top);
    memory_close(base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_length_follows_a_truncate),
        cmocka_unit_test(test_failed_truncate_keeps_the_length),
        cmocka_unit_test(test_truncate_waits_for_writes_behind_the_new_end),
        cmocka_unit_test(test_truncate_lets_writes_before_the_new_end_pass),
        cmocka_unit_test(test_grown_overlay_hides_a_longer_backing_file),
        cmocka_unit_test(test_failed_hiding_restores_the_length),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
