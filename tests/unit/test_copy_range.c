/* SPDX-License-Identifier: MIT */
/*
 * tests of block/io/copy_range.c: a copy goes down to the drivers of both
 * ends, within the limits of both, or is refused so that the caller copies
 * through memory
 *
 * Memory nodes stand for files: they copy between each other (config.copies)
 * and abort when a call breaks their limits.
 */
#include "tests/unit/filter_test.h"

#include "block/backend.h"

#include <errno.h>

#define FROM 8192
#define TO 65536
#define BYTES 16384

/* A node that copies, with @limits (NULL: none), free for others to use. */
static BdrvChild *copying(const BlockLimits *limits)
{
    return below_open(&(MemoryConfig) {
        .length = MIB, .copies = true,
        .limits = limits ? *limits : (BlockLimits) { 0 },
    });
}

/* The same for the test's own use, filled with @byte. */
static BdrvChild *filled(const BlockLimits *limits, int byte)
{
    BdrvChild *child = copying(limits);

    assert_true(bdrv_child_set_perm(child, BLK_PERM_ALL, BLK_PERM_ALL, NULL));
    memset(memory_data(child), byte, MIB);
    return child;
}

static void assert_data_is(BdrvChild *child, int64_t offset, int64_t bytes,
                           int byte)
{
    const uint8_t *data = memory_data(child) + offset;

    for (int64_t i = 0; i < bytes; i++) {
        assert_int_equal(data[i], byte);
    }
}

static void test_a_copy_is_one_call_of_each_driver(void **state)
{
    BdrvChild *src = filled(NULL, 1), *dst = filled(NULL, 2);

    assert_int_equal(node_copy(src, FROM, dst, TO, BYTES), 0);

    assert_data_is(dst, TO, BYTES, 1);
    assert_data_is(dst, TO - 1, 1, 2);
    assert_data_is(dst, TO + BYTES, 1, 2);
    assert_int_equal(memory_count(src, MEMORY_COPY_FROM), 1);
    assert_int_equal(memory_last(src, MEMORY_COPY_FROM).offset, FROM);
    assert_int_equal(memory_last(dst, MEMORY_COPY_TO).offset, TO);
    assert_int_equal(memory_last(dst, MEMORY_COPY_TO).bytes, BYTES);
    assert_int_equal(memory_count(src, MEMORY_READ), 0);
    assert_int_equal(memory_count(dst, MEMORY_WRITE), 0);
    memory_close(src);
    memory_close(dst);
}

/* The drivers assert the limits: a piece too long aborts. */
static void test_pieces_fit_the_limits_of_both_ends(void **state)
{
    const BlockLimits wide = { .request_alignment = 512,
                               .max_transfer = 3 * 4096 };
    const BlockLimits narrow = { .request_alignment = 4096,
                                 .max_transfer = 8192 };
    BdrvChild *a = filled(&wide, 1), *b = filled(&narrow, 2);

    assert_int_equal(node_copy(a, FROM, b, TO, 5 * 4096), 0);
    assert_int_equal(memory_count(b, MEMORY_COPY_TO), 3);
    assert_data_is(b, TO, 5 * 4096, 1);

    memset(memory_data(b), 3, MIB);
    assert_int_equal(node_copy(b, FROM, a, TO, 5 * 4096), 0);
    assert_int_equal(memory_count(b, MEMORY_COPY_FROM), 3);
    assert_data_is(a, TO, 5 * 4096, 3);
    memory_close(a);
    memory_close(b);
}

static void test_a_limit_below_the_others_block_goes_through_memory(
    void **state)
{
    const BlockLimits small = { .max_transfer = 1000 };
    const BlockLimits blocks = { .request_alignment = 4096 };
    BdrvChild *a = filled(&small, 1), *b = filled(&blocks, 2);

    assert_int_equal(node_copy(a, 0, b, 0, 4096), -ENOTSUP);
    assert_int_equal(memory_count(a, MEMORY_COPY_FROM), 0);
    memory_close(a);
    memory_close(b);
}

static void test_parts_of_blocks_go_through_memory(void **state)
{
    const BlockLimits blocks = { .request_alignment = 4096 };
    BdrvChild *a = filled(NULL, 1), *b = filled(&blocks, 2);

    assert_int_equal(node_copy(a, 0, b, 100, 4096), -ENOTSUP);
    assert_int_equal(node_copy(b, 0, a, 0, 100), -ENOTSUP);
    assert_int_equal(node_copy(a, 100, a, 4096, 100), 0);
    assert_data_is(b, 0, MIB, 2);
    memory_close(a);
    memory_close(b);
}

static void test_ends_that_cannot_are_refused_without_a_change(void **state)
{
    BdrvChild *src = filled(NULL, 1), *dst = filled(NULL, 2);
    BdrvChild *plain = memory_open(&(MemoryConfig) { .length = MIB });

    assert_int_equal(node_copy(src, FROM, plain, TO, BYTES), -ENOTSUP);
    assert_int_equal(node_copy(plain, FROM, dst, TO, BYTES), -ENOTSUP);
    assert_data_is(plain, 0, MIB, 0);
    assert_data_is(dst, 0, MIB, 2);

    /* A file system that cannot says so late. */
    memory_fail_next(dst, MEMORY_COPY_TO, -ENOTSUP);
    assert_int_equal(node_copy(src, FROM, dst, TO, BYTES), -ENOTSUP);
    memory_close(src);
    memory_close(dst);
    memory_close(plain);
}

static void test_ranges_outside_of_the_nodes_are_refused(void **state)
{
    BdrvChild *src = filled(NULL, 1), *dst = filled(NULL, 2);

    assert_int_equal(node_copy(src, MIB - 1, dst, 0, 2), -EINVAL);
    assert_int_equal(node_copy(src, -1, dst, 0, 2), -EINVAL);
    assert_int_equal(node_copy(src, 0, dst, -1, 2), -EINVAL);
    assert_int_equal(node_copy(src, 0, dst, 0, -1), -EINVAL);
    assert_int_equal(node_copy(src, INT64_MAX, dst, 0, 2), -EINVAL);
    assert_int_equal(node_copy(src, 0, dst, 0, 0), 0);
    assert_true(bdrv_child_set_perm(dst, BLK_PERM_WRITE, BLK_PERM_ALL, NULL));
    assert_int_equal(node_copy(src, 0, dst, MIB - 1, 2), -EINVAL);
    assert_data_is(dst, 0, MIB, 2);
    assert_int_equal(memory_count(dst, MEMORY_COPY_TO), 0);
    memory_close(src);
    memory_close(dst);
}

static void test_with_resize_permission_a_copy_extends_the_node(void **state)
{
    BdrvChild *src = filled(NULL, 1), *dst = filled(NULL, 2);

    assert_int_equal(node_copy(src, 0, dst, MIB - 4096, 8192), 0);
    assert_int_equal(bdrv_node_length(dst->bs), MIB + 4096);
    assert_data_is(dst, MIB - 4096, 8192, 1);
    memory_fail_next(dst, MEMORY_COPY_TO, -EIO);
    assert_int_equal(node_copy(src, 0, dst, MIB, 8192), -EIO);
    assert_int_equal(bdrv_node_length(dst->bs), MIB + 4096);
    memory_close(src);
    memory_close(dst);
}

static void test_a_read_only_node_takes_no_copy(void **state)
{
    BdrvChild *src = filled(NULL, 1), *dst = filled(NULL, 2);

    dst->bs->read_only = true;
    assert_int_equal(node_copy(src, 0, dst, 0, 4096), -EROFS);
    dst->bs->read_only = false;
    assert_data_is(dst, 0, 4096, 2);
    memory_close(src);
    memory_close(dst);
}

static void test_overlap_in_one_node_goes_through_memory(void **state)
{
    BdrvChild *node = filled(NULL, 1);

    assert_int_equal(node_copy(node, 0, node, 4096, 8192), -ENOTSUP);
    assert_int_equal(node_copy(node, 0, node, 8192, 8192), 0);
    memory_close(node);
}

static void test_a_node_that_keeps_what_it_reads_must_see_it(void **state)
{
    BdrvChild *src = filled(NULL, 1), *dst = filled(NULL, 2);

    src->bs->copy_on_read = 1;
    assert_int_equal(node_copy(src, 0, dst, 0, 4096), -ENOTSUP);
    src->bs->copy_on_read = 0;
    memory_close(src);
    memory_close(dst);
}

/* ---- tracked like reads and writes --------------------------------------- */

typedef struct CopyCall {
    BdrvChild *src, *dst;
    BdrvRequestFlags flags;
    int ret;
    bool done;
} CopyCall;

static void coroutine_fn copy_entry(void *opaque)
{
    CopyCall *call = opaque;

    call->ret = bdrv_co_copy_range(call->src, FROM, call->dst, TO, BYTES,
                                   call->flags);
    call->done = true;
}

typedef struct SerialWrite {
    BdrvChild *child;
    int64_t offset;
    bool done;
} SerialWrite;

static void coroutine_fn serial_write_entry(void *opaque)
{
    SerialWrite *write = opaque;
    uint8_t byte = 9;

    assert_int_equal(bdrv_co_pwrite(write->child, write->offset, 1, &byte,
                                    BDRV_REQ_SERIALISING), 0);
    write->done = true;
}

/* A serialising write to @child at @offset must wait for a held copy. */
static void assert_write_waits(BdrvChild *src, BdrvChild *dst,
                               BdrvChild *holder, MemoryOp op,
                               BdrvChild *child, int64_t offset, bool waits)
{
    CopyCall call = { .src = src, .dst = dst };
    SerialWrite write = { .child = child, .offset = offset };

    memory_hold_next(holder, op);
    memory_start(copy_entry, &call);
    assert_true(memory_is_held(holder));
    memory_start(serial_write_entry, &write);
    memory_settle();
    assert_int_equal(write.done, !waits);
    memory_release(holder);
    memory_wait(&call.done);
    memory_wait(&write.done);
    assert_int_equal(call.ret, 0);
}

static void test_both_ranges_are_tracked(void **state)
{
    BdrvChild *src = filled(NULL, 1), *dst = filled(NULL, 2);

    assert_write_waits(src, dst, dst, MEMORY_COPY_TO, src, FROM, true);
    assert_write_waits(src, dst, dst, MEMORY_COPY_TO, dst, TO, true);
    assert_write_waits(src, dst, dst, MEMORY_COPY_TO, src, FROM - 1, false);
    assert_write_waits(src, dst, dst, MEMORY_COPY_TO, dst, TO + BYTES, false);
    memory_close(src);
    memory_close(dst);
}

static void test_a_copy_waits_for_a_serialising_write(void **state)
{
    BdrvChild *src = filled(NULL, 1), *dst = filled(NULL, 2);
    CopyCall call = { .src = src, .dst = dst };
    SerialWrite write = { .child = src, .offset = FROM };

    memory_hold_next(src, MEMORY_WRITE);
    memory_start(serial_write_entry, &write);
    memory_start(copy_entry, &call);
    memory_settle();
    assert_int_equal(memory_count(src, MEMORY_COPY_FROM), 0);
    memory_release(src);
    memory_wait(&call.done);
    memory_wait(&write.done);
    assert_data_is(dst, TO, 1, 9); /* it came after the write */
    memory_close(src);
    memory_close(dst);
}

static void test_fua_flushes_the_destination(void **state)
{
    BdrvChild *src = filled(NULL, 1), *dst = filled(NULL, 2);
    CopyCall call = { .src = src, .dst = dst, .flags = BDRV_REQ_FUA };

    aio_run_sync(copy_entry, &call);
    assert_int_equal(call.ret, 0);
    assert_int_equal(memory_count(dst, MEMORY_TO_DISK), 1);
    assert_int_equal(memory_last(dst, MEMORY_COPY_TO).flags, 0);
    assert_int_equal(memory_count(src, MEMORY_TO_DISK), 0);
    memory_close(src);
    memory_close(dst);
}

/* ---- through other nodes ------------------------------------------------- */

static void test_windows_and_filters_pass_it_on(void **state)
{
    BdrvChild *src = copying(NULL), *dst = copying(NULL);
    BdrvChild *from, *to;

    memset(memory_data(src), 1, MIB);
    from = node_open(BDRV_O_RDWR, "{\"driver\":\"raw\",\"offset\":4096,"
                     "\"file\":\"%s\"}", below_name(src));
    to = node_open(BDRV_O_RDWR, "{\"driver\":\"preallocate\",\"file\":"
                   "{\"driver\":\"raw\",\"offset\":8192,\"file\":\"%s\"}}",
                   below_name(dst));
    memory_data(src)[4096 + FROM] = 7;

    assert_int_equal(node_copy(from, FROM, to, TO, BYTES), 0);

    assert_data_is(dst, 8192 + TO, 1, 7);
    assert_data_is(dst, 8192 + TO + 1, BYTES - 1, 1);
    assert_int_equal(memory_last(src, MEMORY_COPY_FROM).offset, 4096 + FROM);
    bdrv_detach_child(from);
    bdrv_detach_child(to);
    memory_close(src);
    memory_close(dst);
}

static void test_filters_that_must_see_the_data_refuse(void **state)
{
    static const char *const filters[] = {
        "{\"driver\":\"throttle\",\"file\":\"%s\"}",
        "{\"driver\":\"blkdebug\",\"file\":\"%s\"}",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(filters); i++) {
        BdrvChild *src = copying(NULL), *other = filled(NULL, 2);
        g_autofree char *json = g_strdup_printf(filters[i], below_name(src));
        BdrvChild *filter = node_open(BDRV_O_RDWR, "%s", json);

        assert_int_equal(node_copy(filter, 0, other, 0, 4096), -ENOTSUP);
        assert_int_equal(node_copy(other, 0, filter, 0, 4096), -ENOTSUP);
        bdrv_detach_child(filter);
        memory_close(src);
        memory_close(other);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_copy_is_one_call_of_each_driver),
        cmocka_unit_test(test_pieces_fit_the_limits_of_both_ends),
        cmocka_unit_test(
            test_a_limit_below_the_others_block_goes_through_memory),
        cmocka_unit_test(test_parts_of_blocks_go_through_memory),
        cmocka_unit_test(test_ends_that_cannot_are_refused_without_a_change),
        cmocka_unit_test(test_ranges_outside_of_the_nodes_are_refused),
        cmocka_unit_test(test_with_resize_permission_a_copy_extends_the_node),
        cmocka_unit_test(test_a_read_only_node_takes_no_copy),
        cmocka_unit_test(test_overlap_in_one_node_goes_through_memory),
        cmocka_unit_test(test_a_node_that_keeps_what_it_reads_must_see_it),
        cmocka_unit_test(test_both_ranges_are_tracked),
        cmocka_unit_test(test_a_copy_waits_for_a_serialising_write),
        cmocka_unit_test(test_fua_flushes_the_destination),
        cmocka_unit_test(test_windows_and_filters_pass_it_on),
        cmocka_unit_test(test_filters_that_must_see_the_data_refuse),
    };

    return cmocka_run_group_tests(tests, node_test_setup, node_test_teardown);
}
