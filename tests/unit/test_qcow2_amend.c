/* SPDX-License-Identifier: MIT */
/*
 * tests of drivers/qcow2/amend.c and rewrite.c: what is refused leaves every
 * byte alone, and power may fail at any point
 *
 * The disk records what an amendment writes. A crash after event n has all
 * events before the last flush, and any of those since: here none, all, and
 * each alone. Every such disk must check clean but for leaks and read the same.
 */
#include "block/image/amend.h"
#include "drivers/qcow2/check.h"
#include "drivers/qcow2/qcow2.h"
#include "tests/unit/qcow2_disk.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CLUSTER_BITS 10
#define CLUSTER (1 << CLUSTER_BITS)
#define SIZE (256 * KIB)

static BlockBackend *open_disk(BdrvOpenFlags flags)
{
    GError *error = NULL;
    BlockBackend *blk = test_disk_open(flags, "", &error);

    if (!blk) {
        fail_msg("%s", error->message);
    }
    return blk;
}

/* Data, zeros with and without a cluster behind, holes. */
static void make_disk(unsigned version)
{
    g_autoptr(Qcow2Image) image =
        qcow2_image_new(version, CLUSTER_BITS, SIZE);
    uint8_t data[8 * CLUSTER];
    BlockBackend *blk;

    test_disk_load(image->data, image->bytes);
    blk = open_disk(BDRV_O_RDWR | BDRV_O_RESIZE);
    for (int i = 0; i < 20; i++) {
        memset(data, 'a' + i, sizeof(data));
        assert_int_equal(blk_pwrite(blk, i * 12 * CLUSTER, sizeof(data),
                                    data), 0);
    }
    if (version >= 3) {
        assert_int_equal(blk_pwrite_zeroes(blk, 0, 3 * CLUSTER, 0), 0);
        assert_int_equal(blk_pwrite_zeroes(blk, 40 * CLUSTER, 30 * CLUSTER,
                                           BDRV_REQ_MAY_UNMAP), 0);
    }
    blk_free(blk);
}

static uint8_t *content(void)
{
    uint8_t *all = g_malloc(SIZE);
    BlockBackend *blk = open_disk(BDRV_O_RDONLY);

    assert_int_equal(blk_length(blk), SIZE);
    assert_int_equal(blk_pread(blk, 0, SIZE, all), 0);
    blk_free(blk);
    return all;
}

static void assert_sound(const uint8_t *expected, bool may_leak)
{
    g_autofree uint8_t *all = content();
    BlockBackend *blk = open_disk(BDRV_O_RDONLY);
    Qcow2CheckResult result = { 0 };

    assert_true(qcow2_check(blk_bs(blk), 0, &result, NULL));
    assert_int_equal(result.corruptions, 0);
    if (!may_leak) {
        assert_int_equal(result.leaks, 0);
    }
    blk_free(blk);
    assert_memory_equal(all, expected, SIZE);
}

static bool amend(const char *text, GError **error)
{
    g_autoptr(BlockOptions) options = block_options_from_string(text, NULL);
    BlockBackend *blk = open_disk(BDRV_O_RDWR | BDRV_O_RESIZE);
    BlockAmendHow how = { .force = false };
    bool ok = image_amend(blk, options, &how, error);

    blk_free(blk);
    return ok;
}

/* The disk as it was, with events [0, flushed) and those of @mask behind. */
static void crash(const uint8_t *before, int64_t bytes, GArray *events,
                  guint flushed, guint from, guint to, int64_t capacity)
{
    g_autofree uint8_t *data = g_malloc0(capacity);
    int64_t length = bytes;

    memcpy(data, before, bytes);
    for (guint i = 0; i < to; i++) {
        if (i < flushed || i >= from) {
            disk_event_apply(&g_array_index(events, DiskEvent, i), data,
                             &length, capacity);
        }
    }
    test_disk_load(data, length);
}

/* All that may be on the medium when power fails at some point. */
static void try_crashes(const uint8_t *before, int64_t bytes, GArray *events,
                        int64_t capacity, const uint8_t *expected)
{
    guint flushed = 0;

    for (guint i = 0; i < events->len; i++) {
        const DiskEvent *event = &g_array_index(events, DiskEvent, i);

        crash(before, bytes, events, flushed, flushed, i + 1, capacity);
        assert_sound(expected, /* may_leak= */ true);
        crash(before, bytes, events, flushed, i, i + 1, capacity);
        assert_sound(expected, /* may_leak= */ true);
        if (event->kind == DISK_FLUSH) {
            flushed = i;
        }
    }
}

static void amend_with_crashes(unsigned version, const char *options)
{
    g_autofree uint8_t *expected = NULL;
    g_autofree uint8_t *before = NULL;
    GError *error = NULL;
    GArray *events;
    int64_t bytes, capacity;

    make_disk(version);
    expected = content();
    bytes = test_disk.length;
    before = g_memdup2(test_disk.data, bytes);
    test_disk_load(before, bytes);
    test_disk.record = true;
    if (!amend(options, &error)) {
        fail_msg("%s: %s", options, error->message);
    }
    test_disk.record = false;
    assert_sound(expected, /* may_leak= */ false);

    /* The disk frees its own when it is loaded: keep them. */
    events = g_steal_pointer(&test_disk.events);
    test_disk.events = g_array_new(FALSE, FALSE, sizeof(DiskEvent));
    capacity = test_disk.capacity;
    assert_true(events->len > 2);
    try_crashes(before, bytes, events, capacity, expected);
    g_array_unref(events);
}

static void test_a_crash_while_refcounts_change_width_hurts_nothing(
    void **state)
{
    amend_with_crashes(3, "refcount_bits=64");
    amend_with_crashes(3, "refcount_bits=1");
}

static void test_a_crash_during_an_upgrade_hurts_nothing(void **state)
{
    amend_with_crashes(2, "compat=1.1,refcount_bits=8,lazy_refcounts=on");
}

static void test_a_crash_during_a_downgrade_hurts_nothing(void **state)
{
    amend_with_crashes(3, "compat=0.10");
}

static void test_what_is_refused_leaves_every_byte_alone(void **state)
{
    static const char *const rows[] = {
        "compat=0.10,refcount_bits=8", "compat=0.10,lazy_refcounts=on",
        "refcount_bits=5", "data_file=x", "data_file_raw=on",
        "backing_file=x", "backing_fmt=raw", "size=1k", "unknown=1",
        "compat=0.10,backing_file=x,backing_fmt=raw",
    };
    g_autofree uint8_t *before = NULL;
    g_autofree char *long_name = g_strnfill(1000, 'x');
    g_autofree char *no_room =
        g_strdup_printf("backing_file=%s,backing_fmt=raw", long_name);
    int64_t bytes;

    make_disk(3);
    bytes = test_disk.length;
    before = g_memdup2(test_disk.data, bytes);
    for (size_t i = 0; i <= G_N_ELEMENTS(rows); i++) {
        const char *options = i < G_N_ELEMENTS(rows) ? rows[i] : no_room;
        g_autoptr(GError) error = NULL;

        assert_false(amend(options, &error));
        assert_true(g_error_matches(error, IMGFUSE_ERROR,
                                    IMGFUSE_ERROR_OPTION));
        assert_int_equal(test_disk.length, bytes);
        assert_memory_equal(test_disk.data, before, bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            test_a_crash_while_refcounts_change_width_hurts_nothing),
        cmocka_unit_test(test_a_crash_during_an_upgrade_hurts_nothing),
        cmocka_unit_test(test_a_crash_during_a_downgrade_hurts_nothing),
        cmocka_unit_test(test_what_is_refused_leaves_every_byte_alone),
    };
    int failed;

    test_disk_setup();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_disk_teardown();
    return failed;
}
