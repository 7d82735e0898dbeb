/* SPDX-License-Identifier: MIT */
/*
 * copy-before-write and snapshot-access: the old content stays visible
 */
#include "tests/unit/filter_test.h"

#include "block/io/bitmap.h"

#define CLUSTER 65536

typedef struct Cbw {
    BdrvChild *file;
    BdrvChild *target;
    BdrvChild *guest;
    BdrvChild *snapshot;
} Cbw;

/* A file of 'o' (old), a guest above the filter, and the snapshot. */
static Cbw cbw_open(const char *options)
{
    Cbw c = {
        .file = below_open_length(MIB),
        .target = below_open_length(MIB),
    };

    memset(memory_data(c.file), 'o', MIB);
    c.guest = node_open(FILTER_FLAGS,
                        "{\"driver\":\"copy-before-write\",\"node-name\":"
                        "\"cbw\",\"file\":\"%s\",\"target\":\"%s\"%s}",
                        below_name(c.file), below_name(c.target), options);
    c.snapshot = node_open(BDRV_O_RDWR | BDRV_O_UNMAP,
                           "{\"driver\":\"snapshot-access\",\"file\":"
                           "\"cbw\"}");
    return c;
}

static void cbw_close(Cbw *c)
{
    bdrv_detach_child(c->snapshot);
    bdrv_detach_child(c->guest);
    memory_close(c->file);
    memory_close(c->target);
}

static void test_the_snapshot_keeps_its_content(void **state)
{
    Cbw c = cbw_open("");

    node_fill(c.guest, 1000, 100, 'n');
    assert_int_equal(bdrv_pwrite_zeroes(c.guest, 3 * CLUSTER, CLUSTER, 0), 0);
    assert_int_equal(node_discard(c.guest, 5 * CLUSTER, CLUSTER), 0);
    assert_int_equal(bdrv_truncate(c.guest, MIB - 10, true, PREALLOC_OFF,
                                   NULL), 0);

    assert_node_reads(c.guest, 1000, 100, 'n');
    assert_node_reads(c.guest, 3 * CLUSTER, CLUSTER, 0);
    assert_int_equal(bdrv_getlength(c.snapshot->bs), MIB);
    assert_node_reads(c.snapshot, 0, MIB, 'o');
    cbw_close(&c);
}

static void test_each_cluster_is_copied_once(void **state)
{
    Cbw c = cbw_open("");

    node_fill(c.guest, CLUSTER - 1, 2, 'n'); /* two clusters */
    assert_int_equal(memory_data(c.target)[0], 'o');
    assert_int_equal(memory_data(c.target)[2 * CLUSTER - 1], 'o');
    assert_int_equal(memory_data(c.target)[2 * CLUSTER], 0);
    memory_reset_counts(c.target);
    node_fill(c.guest, 0, 2 * CLUSTER, 'm');
    assert_int_equal(memory_count(c.target, MEMORY_WRITE), 0);
    cbw_close(&c);
}

static void test_concurrent_writers_of_a_cluster_copy_it_once(void **state)
{
    Cbw c = cbw_open("");
    Background first, second;

    memory_hold_next(c.target, MEMORY_WRITE);
    background_start(&first, c.guest, true, 0, 512, 'a');
    background_start(&second, c.guest, true, 1024, 512, 'b');
    memory_settle();
    assert_false(first.done);
    assert_false(second.done);
    assert_int_equal(memory_data(c.file)[1024], 'o');
    memory_release(c.target);
    assert_int_equal(background_end(&first), 0);
    assert_int_equal(background_end(&second), 0);

    assert_int_equal(memory_count(c.target, MEMORY_WRITE), 1);
    assert_int_equal(memory_data(c.file)[1024], 'b');
    assert_node_reads(c.snapshot, 0, CLUSTER, 'o');
    cbw_close(&c);
}

/* The reader is in the file when the writer comes. */
static void test_a_snapshot_read_holds_the_writer_back(void **state)
{
    Cbw c = cbw_open("");
    Background read, write, other;

    memory_hold_next(c.file, MEMORY_READ);
    background_start(&read, c.snapshot, false, 0, 4096, 0);
    background_start(&write, c.guest, true, 0, 4096, 'n');
    background_start(&other, c.guest, true, 8 * CLUSTER, 4096, 'n');
    memory_settle();
    assert_false(write.done);
    assert_true(other.done);
    assert_int_equal(memory_data(c.file)[0], 'o');
    memory_release(c.file);
    memory_wait(&read.done);
    assert_int_equal(read.buffer[0], 'o');
    assert_int_equal(read.buffer[4095], 'o');

    assert_int_equal(background_end(&read), 0);
    assert_int_equal(background_end(&write), 0);
    assert_int_equal(background_end(&other), 0);
    assert_int_equal(memory_data(c.file)[0], 'n');
    cbw_close(&c);
}

static void test_an_error_breaks_the_guests_write_by_default(void **state)
{
    Cbw c = cbw_open("");
    uint8_t byte = 'n';

    memory_fail_next(c.target, MEMORY_WRITE, -ENOSPC);
    assert_int_equal(bdrv_pwrite(c.guest, 0, 1, &byte), -ENOSPC);
    assert_node_reads(c.snapshot, 0, MIB, 'o');
    assert_node_reads(c.guest, 0, MIB, 'o');
    assert_int_equal(bdrv_pwrite(c.guest, 0, 1, &byte), 0);
    assert_node_reads(c.snapshot, 0, MIB, 'o');
    cbw_close(&c);
}

static void test_an_error_breaks_the_snapshot_if_wished(void **state)
{
    Cbw c = cbw_open(",\"on-cbw-error\":\"break-snapshot\"");
    uint8_t byte = 'n';

    memory_fail_next(c.target, MEMORY_WRITE, -ENOSPC);
    assert_int_equal(bdrv_pwrite(c.guest, 0, 1, &byte), 0);
    assert_node_reads(c.guest, 0, 1, 'n');
    assert_int_equal(bdrv_pread(c.snapshot, 0, 1, &byte), -ENOSPC);
    assert_int_equal(bdrv_pread(c.snapshot, MIB - 1, 1, &byte), -ENOSPC);
    cbw_close(&c);
}

static void test_a_discarded_part_is_no_longer_kept(void **state)
{
    Cbw c = cbw_open("");
    uint8_t byte;

    assert_int_equal(node_discard(c.snapshot, 100, 2 * CLUSTER), 0);
    assert_int_equal(bdrv_pread(c.snapshot, CLUSTER, 1, &byte), -EACCES);
    assert_int_equal(bdrv_pread(c.snapshot, 2 * CLUSTER, 1, &byte), 0);
    node_fill(c.guest, CLUSTER, CLUSTER, 'n');
    assert_int_equal(memory_count(c.target, MEMORY_WRITE), 0);
    cbw_close(&c);
}

static void test_a_bitmap_says_what_to_keep(void **state)
{
    Cbw c = { .file = below_open_length(MIB),
              .target = below_open_length(MIB) };
    BdrvDirtyBitmap *bitmap = bdrv_dirty_bitmap_new(c.file->bs, "b", 65536,
                                                    NULL);
    g_autofree char *options = g_strdup_printf(
        ",\"bitmap\":{\"node\":\"%s\",\"name\":\"b\"}", below_name(c.file));
    uint8_t byte;

    assert_non_null(bitmap);
    bdrv_dirty_bitmap_set(bitmap, CLUSTER, CLUSTER);
    c.guest = node_open(FILTER_FLAGS,
                        "{\"driver\":\"copy-before-write\",\"node-name\":"
                        "\"cbw\",\"file\":\"%s\",\"target\":\"%s\"%s}",
                        below_name(c.file), below_name(c.target), options);
    c.snapshot = node_open(0, "{\"driver\":\"snapshot-access\",\"file\":"
                              "\"cbw\"}");

    node_fill(c.guest, 0, 3 * CLUSTER, 'n');
    assert_int_equal(bdrv_pread(c.snapshot, 0, 1, &byte), -EACCES);
    assert_node_reads(c.snapshot, CLUSTER, CLUSTER, 0);
    assert_int_equal(bdrv_pread(c.snapshot, 2 * CLUSTER, 1, &byte), -EACCES);
    cbw_close(&c);
}

static void test_the_snapshot_is_not_written_to(void **state)
{
    Cbw c = cbw_open("");
    uint8_t byte = 'x';

    assert_int_equal(bdrv_pwrite(c.snapshot, 0, 1, &byte), -ENOTSUP);
    assert_true(node_status(c.snapshot, 0, MIB).flags & BDRV_BLOCK_DATA);
    assert_open_fails(IMGFUSE_ERROR_UNSUPPORTED, "snapshot", 0,
                      "{\"driver\":\"snapshot-access\",\"file\":\"%s\"}",
                      below_name(c.target));
    cbw_close(&c);
}

static void test_short_targets_are_refused(void **state)
{
    BdrvChild *file = below_open_length(MIB);
    BdrvChild *target = below_open_length(MIB - 1);

    assert_open_fails(IMGFUSE_ERROR_OPTION, "target", FILTER_FLAGS,
                      "{\"driver\":\"copy-before-write\",\"file\":\"%s\","
                      "\"target\":\"%s\"}", below_name(file),
                      below_name(target));
    memory_close(file);
    memory_close(target);
}

/* ---- keeping on demand (a backup's way) ---- */

typedef struct KeepCall {
    BdrvChild *guest;
    int64_t offset;
    int64_t bytes;
    int ret;
    bool done;
} KeepCall;

static void coroutine_fn keep_entry(void *opaque)
{
    KeepCall *call = opaque;

    call->ret = bdrv_co_keep_snapshot(call->guest, call->offset, call->bytes);
    call->done = true;
}

static int keep(Cbw *c, int64_t offset, int64_t bytes)
{
    KeepCall call = { c->guest, offset, bytes, 0, false };

    aio_run_sync(keep_entry, &call);
    return call.ret;
}

static void test_what_is_kept_is_not_copied_before_a_write(void **state)
{
    Cbw c = cbw_open("");

    assert_int_equal(keep(&c, 100, 1), 0);
    assert_int_equal(memory_count(c.target, MEMORY_WRITE), 1);
    assert_int_equal(memory_data(c.target)[CLUSTER - 1], 'o');
    node_fill(c.guest, 0, CLUSTER, 'n');
    assert_int_equal(memory_count(c.target, MEMORY_WRITE), 1);
    assert_node_reads(c.snapshot, 0, MIB, 'o');
    cbw_close(&c);
}

static void test_what_a_write_copied_is_not_kept_again(void **state)
{
    Cbw c = cbw_open("");

    node_fill(c.guest, 4 * CLUSTER, CLUSTER, 'n');
    memory_reset_counts(c.target);
    assert_int_equal(keep(&c, 4 * CLUSTER, CLUSTER), 0);
    assert_int_equal(memory_count(c.target, MEMORY_WRITE), 0);

    /* All: in two runs, around that cluster; then there is nothing left. */
    assert_int_equal(keep(&c, 0, MIB), 0);
    assert_int_equal(memory_count(c.target, MEMORY_WRITE), 2);
    assert_int_equal(keep(&c, 0, MIB), 0);
    assert_int_equal(memory_count(c.target, MEMORY_WRITE), 2);
    for (int64_t i = 0; i < MIB; i++) {
        assert_int_equal(memory_data(c.target)[i], 'o');
    }
    cbw_close(&c);
}

static void test_keeping_holds_writers_of_the_cluster_back(void **state)
{
    Cbw c = cbw_open("");
    KeepCall call = { c.guest, 0, CLUSTER, 0, false };
    Background write;

    memory_hold_next(c.target, MEMORY_WRITE);
    memory_start(keep_entry, &call);
    background_start(&write, c.guest, true, 0, 512, 'n');
    memory_settle();
    assert_false(write.done);
    memory_release(c.target);
    memory_wait(&call.done);
    assert_int_equal(background_end(&write), 0);
    assert_int_equal(memory_count(c.target, MEMORY_WRITE), 1);
    assert_node_reads(c.snapshot, 0, CLUSTER, 'o');
    cbw_close(&c);
}

static void test_zeros_are_kept_without_being_read(void **state)
{
    Cbw c = cbw_open("");

    memset(memory_data(c.target), 'x', MIB);
    memset(memory_data(c.file) + 2 * CLUSTER + 512, 0, 4 * CLUSTER);
    assert_int_equal(keep(&c, 0, MIB), 0);

    assert_int_equal(memory_count(c.target, MEMORY_ZEROES), 1);
    assert_int_equal(memory_last(c.target, MEMORY_ZEROES).offset,
                     3 * CLUSTER);
    assert_int_equal(memory_last(c.target, MEMORY_ZEROES).bytes,
                     3 * CLUSTER);
    assert_memory_equal(memory_data(c.target), memory_data(c.file), MIB);
    cbw_close(&c);
}

static void test_keeping_that_fails_breaks_nothing(void **state)
{
    Cbw c = cbw_open(",\"on-cbw-error\":\"break-snapshot\"");

    memory_fail_next(c.target, MEMORY_WRITE, -ENOSPC);
    assert_int_equal(keep(&c, 0, CLUSTER), -ENOSPC);
    assert_node_reads(c.snapshot, 0, MIB, 'o');
    assert_int_equal(keep(&c, 0, CLUSTER), 0);

    /* A guest's write breaks it; then there is nothing to keep. */
    memory_fail_next(c.target, MEMORY_WRITE, -ENOSPC);
    node_fill(c.guest, CLUSTER, 1, 'n');
    assert_int_equal(keep(&c, 2 * CLUSTER, 1), -ENOSPC);
    assert_int_equal(keep(&c, MIB, 1), -EINVAL);
    cbw_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_snapshot_keeps_its_content),
        cmocka_unit_test(test_each_cluster_is_copied_once),
        cmocka_unit_test(test_concurrent_writers_of_a_cluster_copy_it_once),
        cmocka_unit_test(test_a_snapshot_read_holds_the_writer_back),
        cmocka_unit_test(test_an_error_breaks_the_guests_write_by_default),
        cmocka_unit_test(test_an_error_breaks_the_snapshot_if_wished),
        cmocka_unit_test(test_a_discarded_part_is_no_longer_kept),
        cmocka_unit_test(test_a_bitmap_says_what_to_keep),
        cmocka_unit_test(test_the_snapshot_is_not_written_to),
        cmocka_unit_test(test_short_targets_are_refused),
        cmocka_unit_test(test_what_is_kept_is_not_copied_before_a_write),
        cmocka_unit_test(test_what_a_write_copied_is_not_kept_again),
        cmocka_unit_test(test_keeping_holds_writers_of_the_cluster_back),
        cmocka_unit_test(test_zeros_are_kept_without_being_read),
        cmocka_unit_test(test_keeping_that_fails_breaks_nothing),
    };

    return cmocka_run_group_tests(tests, node_test_setup, node_test_teardown);
}
