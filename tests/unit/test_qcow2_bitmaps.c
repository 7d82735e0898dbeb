/* SPDX-License-Identifier: MIT */
/*
 * persistent dirty bitmaps of qcow2: what they track and keep, what a directory
 * may not say, and what is left when the medium fails or loses power at any
 * moment
 */
#include "block/driver.h"
#include "block/graph/inactivate.h"
#include "block/graph/reopen.h"
#include "block/image/check.h"
#include "block/image/stored_bitmap.h"
#include "block/io/bitmap.h"
#include "drivers/qcow2/bitmap_directory.h"
#include "tests/unit/qcow2_disk.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define CLUSTER 4096
#define SIZE (256 * 1024)
#define RDWR (BDRV_O_RDWR | BDRV_O_RESIZE)

static BlockBackend *open_disk(BdrvOpenFlags flags)
{
    GError *error = NULL;
    BlockBackend *blk = test_disk_open(flags, "", &error);

    if (!blk) {
        fail_msg("%s", error->message);
    }
    return blk;
}

static int put(BlockBackend *blk, int cluster)
{
    uint8_t data[CLUSTER];

    memset(data, 'x', sizeof(data));
    return blk_pwrite(blk, (int64_t)cluster * CLUSTER, CLUSTER, data);
}

static const BlockStoredBitmap *find(BlockBackend *blk, const char *name)
{
    const GPtrArray *list = bdrv_bitmap_list(blk_bs(blk));

    for (guint i = 0; i < list->len; i++) {
        const BlockStoredBitmap *bitmap = g_ptr_array_index(list, i);

        if (strcmp(bitmap->name, name) == 0) {
            return bitmap;
        }
    }
    return NULL;
}

static const HBitmap *bits_of(BlockBackend *blk, const char *name)
{
    BlockDriverState *bs = blk_bs(blk);
    const HBitmap *bits = bs->drv->bitmaps->bits(bs, name, NULL);

    assert_non_null(bits);
    return bits;
}

/* The dirty clusters, as "1 5 ". */
static char *dirty(BlockBackend *blk, const char *name)
{
    const HBitmap *bits = bits_of(blk, name);
    GString *text = g_string_new("");

    for (int64_t i = 0; i < hbitmap_bytes(bits) / CLUSTER; i++) {
        if (hbitmap_get(bits, i * CLUSTER)) {
            g_string_append_printf(text, "%d ", (int)i);
        }
    }
    return g_string_free(text, FALSE);
}

static void assert_dirty(BlockBackend *blk, const char *name,
                         const char *clusters)
{
    g_autofree char *found = dirty(blk, name);

    assert_string_equal(found, clusters);
}

static void assert_sound(BlockBackend *blk, bool leaks_are_fine)
{
    BlockCheckResult result = { 0 };

    assert_true(bdrv_check(blk_bs(blk), BLOCK_CHECK_FIX_NONE, &result, NULL));
    assert_int_equal(result.corruptions, 0);
    assert_true(leaks_are_fine || result.leaks == 0);
}

/* An image with "on", enabled, and "off"; nothing was written. */
static void load_with_bitmaps(void)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, 12, SIZE);
    BlockBackend *blk;

    test_disk_load(image->data, image->bytes);
    blk = open_disk(RDWR);
    assert_true(bdrv_bitmap_add(blk_bs(blk), "on", CLUSTER, true, NULL));
    assert_true(bdrv_bitmap_add(blk_bs(blk), "off", CLUSTER, false, NULL));
    blk_free(blk);
}

static void test_writes_are_in_enabled_bitmaps_after_closing(void **state)
{
    BlockBackend *blk;

    load_with_bitmaps();
    blk = open_disk(RDWR);
    assert_int_equal(put(blk, 1), 0);
    assert_int_equal(put(blk, 5), 0);
    blk_free(blk);

    blk = open_disk(BDRV_O_RDONLY);
    assert_dirty(blk, "on", "1 5 ");
    assert_dirty(blk, "off", "");
    assert_sound(blk, /* leaks_are_fine= */ false);
    blk_free(blk);
}

static void test_opening_writes_nothing(void **state)
{
    load_with_bitmaps();
    test_disk.writes = 0;

    blk_free(open_disk(BDRV_O_RDONLY));
    blk_free(open_disk(RDWR));

    assert_int_equal(test_disk.writes, 0);
}

static void test_a_write_marks_before_data_and_storing_unmarks(void **state)
{
    BlockBackend *blk, *other;

    load_with_bitmaps();
    blk = open_disk(RDWR);
    test_disk.writes_to_fail = 1; /* the mark arrives, the data does not */
    assert_int_not_equal(put(blk, 1), 0);
    test_disk.writes_to_fail = -1;

    other = open_disk(BDRV_O_RDONLY | BDRV_O_FORCE_SHARE);
    assert_int_equal(find(other, "on")->state, BLOCK_BITMAP_INCONSISTENT);
    assert_int_equal(find(other, "off")->state, BLOCK_BITMAP_USABLE);
    blk_free(other);
    assert_true(bdrv_bitmaps_store(blk_bs(blk), NULL));
    other = open_disk(BDRV_O_RDONLY | BDRV_O_FORCE_SHARE);
    assert_int_equal(find(other, "on")->state, BLOCK_BITMAP_USABLE);
    blk_free(other);
    /* And the next write marks again. */
    assert_int_equal(put(blk, 2), 0);
    other = open_disk(BDRV_O_RDONLY | BDRV_O_FORCE_SHARE);
    assert_int_equal(find(other, "on")->state, BLOCK_BITMAP_INCONSISTENT);
    blk_free(other);
    blk_free(blk);
}

static void test_handing_over_and_back_keeps_the_bits(void **state)
{
    BlockBackend *blk;

    load_with_bitmaps();
    blk = open_disk(RDWR);
    assert_int_equal(put(blk, 3), 0);

    assert_true(bdrv_inactivate_all(NULL));
    assert_true(bdrv_activate_all(NULL));

    assert_int_equal(put(blk, 4), 0);
    blk_free(blk);
    blk = open_disk(BDRV_O_RDONLY);
    assert_dirty(blk, "on", "3 4 ");
    blk_free(blk);
}

/* The disk as a real file: only that can be reopened. */
static BlockBackend *open_file(const char *path, BdrvOpenFlags flags)
{
    BlockOptions *options = block_options_new();
    GError *error = NULL;
    BlockBackend *blk;

    block_options_set_string(options, "driver", "qcow2");
    blk = blk_open(path, options, flags, /* policy= */ NULL, "test", &error);
    if (!blk) {
        fail_msg("%s", error->message);
    }
    return blk;
}

static void set_read_only(BlockBackend *blk, bool read_only)
{
    GError *error = NULL;
    uint32_t perm = BLK_PERM_CONSISTENT_READ |
                    (read_only ? 0 : BLK_PERM_WRITE);

    if (read_only) {
        assert_true(blk_set_perm(blk, perm, BLK_PERM_ALL, NULL));
    }
    if (!bdrv_reopen_set_read_only(blk_bs(blk), read_only, &error)) {
        fail_msg("%s", error->message);
    }
    if (!read_only) {
        assert_true(blk_set_perm(blk, perm, BLK_PERM_ALL, NULL));
    }
}

static void test_reopening_read_only_stores(void **state)
{
    g_autofree char *folder = g_dir_make_tmp("bitmaps-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "a.qcow2", NULL);
    BlockBackend *blk, *other;

    load_with_bitmaps();
    assert_true(g_file_set_contents(path, (char *)test_disk.data,
                                    test_disk.length, NULL));
    blk = open_file(path, BDRV_O_RDWR);
    assert_int_equal(put(blk, 3), 0);

    set_read_only(blk, true);

    other = open_file(path, BDRV_O_RDONLY | BDRV_O_FORCE_SHARE);
    assert_dirty(other, "on", "3 ");
    blk_free(other);
    set_read_only(blk, false);
    assert_int_equal(put(blk, 4), 0);
    blk_free(blk);
    blk = open_file(path, BDRV_O_RDONLY);
    assert_dirty(blk, "on", "3 4 ");
    blk_free(blk);
    (void) g_unlink(path);
    (void) g_rmdir(folder);
}

typedef struct Resize {
    BlockBackend *blk;
    int64_t length;
    int ret;
} Resize;

static void coroutine_fn resize_entry(void *opaque)
{
    Resize *resize = opaque;

    resize->ret = blk_co_truncate(resize->blk, resize->length,
                                  /* exact= */ true, PREALLOC_OFF, NULL);
}

static void resize_to(BlockBackend *blk, int64_t length)
{
    Resize resize = { blk, length, -1 };

    aio_run_sync(resize_entry, &resize);
    assert_int_equal(resize.ret, 0);
}

static void test_resizing_takes_them_along(void **state)
{
    BlockBackend *blk;

    load_with_bitmaps();
    blk = open_disk(RDWR);
    assert_int_equal(put(blk, 1), 0);
    assert_int_equal(put(blk, 60), 0);
    assert_true(bdrv_bitmap_merge_from(blk_bs(blk), "off", blk_bs(blk), "on",
                                       NULL));

    resize_to(blk, SIZE / 2);
    resize_to(blk, 40 * MIB);

    blk_free(blk);
    blk = open_disk(BDRV_O_RDONLY);
    assert_dirty(blk, "on", "1 ");
    assert_dirty(blk, "off", "1 ");
    assert_int_equal(hbitmap_bytes(bits_of(blk, "off")), 40 * MIB);
    assert_sound(blk, /* leaks_are_fine= */ false);
    blk_free(blk);
}

static void test_removing_gives_everything_back(void **state)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, 12, SIZE);
    int64_t before = image->bytes;
    BlockBackend *blk;

    load_with_bitmaps();
    blk = open_disk(RDWR);
    assert_true(bdrv_bitmap_remove(blk_bs(blk), "on", NULL));
    assert_true(bdrv_bitmap_remove(blk_bs(blk), "off", NULL));
    assert_true(bdrv_bitmaps_store(blk_bs(blk), NULL));

    assert_sound(blk, /* leaks_are_fine= */ false);
    blk_free(blk);
    /* Fields as they were, and the extensions end where they did. */
    assert_memory_equal(test_disk.data, image->data, 112);
    assert_true(test_disk.length >= before);
}

/* -- crashes -------------------------------------------------------------- */

/*
 * What the medium holds must be openable and sound, and a usable bitmap has
 * every cluster that was written. @may_lack: "on" may not be there (yet).
 */
static void judge(const uint8_t *data, int64_t length, bool may_lack)
{
    BlockBackend *blk;
    const BlockStoredBitmap *on;

    test_disk_load(data, length);
    blk = open_disk(BDRV_O_RDONLY);
    assert_sound(blk, /* leaks_are_fine= */ true);
    on = find(blk, "on");
    assert_true(on || may_lack);
    for (int i = 0; on && on->state == BLOCK_BITMAP_USABLE &&
                    i < SIZE / CLUSTER; i++) {
        uint8_t byte = 0;

        assert_int_equal(blk_pread(blk, (int64_t)i * CLUSTER, 1, &byte), 0);
        if (byte != 0) {
            assert_true(hbitmap_get(bits_of(blk, "on"),
                                    (int64_t)i * CLUSTER));
        }
    }
    assert_true(!on || on->state == BLOCK_BITMAP_USABLE ||
                on->state == BLOCK_BITMAP_INCONSISTENT);
    blk_free(blk);
}

typedef void Work(BlockBackend *blk);

/*
 * Records @work on the loaded disk, then judges what each crash leaves: every
 * prefix of what happened, and each prefix without one of the writes that no
 * flush had covered.
 */
static void crash_everywhere(Work *work, bool may_lack)
{
    int64_t start_length = test_disk.length;
    g_autofree uint8_t *start = g_memdup2(test_disk.data, start_length);
    int64_t capacity = test_disk.capacity;
    g_autofree uint8_t *medium = g_malloc0(capacity);
    g_autoptr(GArray) events = NULL;
    BlockBackend *blk;
    guint flushed = 0;

    test_disk.record = true;
    blk = open_disk(RDWR);
    work(blk);
    blk_free(blk);
    events = g_steal_pointer(&test_disk.events);
    test_disk.events = g_array_new(FALSE, FALSE, sizeof(DiskEvent));
    test_disk.record = false;
    assert_true(events->len > 10);

    for (guint n = 0; n <= events->len; n++) {
        for (guint left_out = flushed; left_out <= n; left_out++) {
            int64_t length = start_length;

            memset(medium, 0, capacity);
            memcpy(medium, start, start_length);
            for (guint i = 0; i < n; i++) {
                if (i != left_out) {
                    disk_event_apply(&g_array_index(events, DiskEvent, i),
                                     medium, &length, capacity);
                }
            }
            judge(medium, length, may_lack);
        }
        if (n < events->len &&
            g_array_index(events, DiskEvent, n).kind == DISK_FLUSH) {
            flushed = n + 1;
        }
    }
}

static void write_some(BlockBackend *blk)
{
    assert_int_equal(put(blk, 1), 0);
    assert_int_equal(put(blk, 9), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_true(bdrv_bitmaps_store(blk_bs(blk), NULL));
    assert_int_equal(put(blk, 1), 0);
    assert_int_equal(put(blk, 20), 0);
}

static void test_a_crash_leaves_right_or_inconsistent_bitmaps(void **state)
{
    load_with_bitmaps();
    crash_everywhere(write_some, /* may_lack= */ false);
}

static void add_one(BlockBackend *blk)
{
    assert_true(bdrv_bitmap_add(blk_bs(blk), "on", CLUSTER, true, NULL));
    assert_int_equal(put(blk, 2), 0);
}

static void test_a_crash_while_adding_the_first_is_sound(void **state)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, 12, SIZE);

    test_disk_load(image->data, image->bytes);
    crash_everywhere(add_one, /* may_lack= */ true);
}

static void remove_all(BlockBackend *blk)
{
    assert_int_equal(put(blk, 2), 0);
    assert_true(bdrv_bitmap_remove(blk_bs(blk), "off", NULL));
    assert_true(bdrv_bitmaps_store(blk_bs(blk), NULL));
    assert_true(bdrv_bitmap_remove(blk_bs(blk), "on", NULL));
}

static void test_a_crash_while_removing_is_sound(void **state)
{
    load_with_bitmaps();
    crash_everywhere(remove_all, /* may_lack= */ true);
}

static void test_a_failing_medium_never_makes_them_wrong(void **state)
{
    bool stored = false;

    for (int writes = 0; !stored; writes++) {
        g_autofree uint8_t *copy = NULL;
        int64_t length;
        BlockBackend *blk;

        assert_true(writes < 100);
        load_with_bitmaps();
        blk = open_disk(RDWR);
        assert_int_equal(put(blk, 7), 0);
        test_disk.writes_to_fail = writes;
        stored = bdrv_bitmaps_store(blk_bs(blk), NULL);
        length = test_disk.length;
        copy = g_memdup2(test_disk.data, length);
        test_disk.writes_to_fail = -1;
        blk_free(blk);
        judge(copy, length, /* may_lack= */ false);
    }
}

/* -- what a directory may not say ------------------------------------------ */

typedef struct Refusal {
    const char *name;
    int at;
    int width;
    uint64_t value;
    const char *message;
} Refusal;

static const Refusal refusals[] = {
    { "no name", 18, 2, 0, "with a name of 0" },
    { "long name", 18, 2, 1024, "ends inside an entry" },
    { "extra data", 20, 4, UINT32_MAX, "ends inside an entry" },
    { "granularity small", 17, 1, 8, "granularity_bits of a bitmap is 8" },
    { "granularity large", 17, 1, 32, "granularity_bits of a bitmap is 32" },
    { "zero in a name", 24, 1, 0, "with a name of 2" },
    { "same name", 25, 1, '2', "two bitmaps 'b2'" },
};

/* Two bitmaps, "b1" and "b2". */
static GByteArray *two_entries(void)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(
        (GDestroyNotify)qcow2_bitmap_free);

    g_ptr_array_add(list, qcow2_bitmap_new("b1", 16, QCOW2_BITMAP_AUTO));
    g_ptr_array_add(list, qcow2_bitmap_new("b2", 16, 0));
    return qcow2_bitmaps_encode(list);
}

static void test_damaged_directories_are_refused_by_name(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(refusals); i++) {
        const Refusal *refusal = &refusals[i];
        g_autoptr(GByteArray) directory = two_entries();
        g_autoptr(GError) error = NULL;

        for (int k = 0; k < refusal->width; k++) {
            directory->data[refusal->at + k] =
                refusal->value >> 8 * (refusal->width - 1 - k);
        }
        assert_null(qcow2_bitmaps_parse(directory->data, directory->len, 2,
                                        &error));
        if (!strstr(error->message, refusal->message)) {
            fail_msg("%s: %s", refusal->name, error->message);
        }
    }
}

static void test_what_is_not_understood_survives_encoding(void **state)
{
    g_autoptr(GByteArray) directory = two_entries();
    g_autoptr(GByteArray) again = NULL;
    g_autoptr(GPtrArray) list = NULL;
    const BlockStoredBitmap *first;

    directory->data[12] = 0x80; /* an unknown flag of b1 */
    directory->data[16] = 7;    /* an unknown type */
    list = qcow2_bitmaps_parse(directory->data, directory->len, 2, NULL);
    assert_non_null(list);
    first = g_ptr_array_index(list, 0);
    assert_int_equal(first->state, BLOCK_BITMAP_FOREIGN);

    again = qcow2_bitmaps_encode(list);

    assert_int_equal(again->len, directory->len);
    assert_memory_equal(again->data, directory->data, directory->len);
}

static void drop_message(const char *domain, GLogLevelFlags level,
                         const char *message, gpointer opaque)
{
}

/* The first directory entry's table, by way of the header's extension. */
static uint8_t *first_table(void)
{
    const uint8_t *extension =
        memmem(test_disk.data, CLUSTER, "\x23\x85\x28\x75", 4);
    const uint8_t *entry;

    assert_non_null(extension);
    entry = test_disk.data + be64_get((const be64 *)(extension + 24));
    return test_disk.data + be64_get((const be64 *)entry);
}

static void test_a_damaged_table_costs_the_bitmap_only(void **state)
{
    static const uint64_t entries[] = { 2, 0x1001, 1ull << 56, 0x10000200,
                                        0x10000000 };

    for (size_t i = 0; i < G_N_ELEMENTS(entries); i++) {
        GLogFunc usual;
        BlockBackend *blk;

        load_with_bitmaps();
        be64_set((be64 *)first_table(), entries[i]);
        usual = g_log_set_default_handler(drop_message, NULL);
        blk = open_disk(RDWR);
        (void) g_log_set_default_handler(usual, NULL);
        assert_int_equal(find(blk, "on")->state, BLOCK_BITMAP_DAMAGED);
        assert_int_equal(put(blk, 1), 0);
        blk_free(blk);

        blk = open_disk(RDWR);
        assert_int_equal(find(blk, "on")->state, BLOCK_BITMAP_INCONSISTENT);
        assert_int_equal(find(blk, "off")->state, BLOCK_BITMAP_USABLE);
        assert_true(bdrv_bitmap_remove(blk_bs(blk), "on", NULL));
        assert_true(bdrv_bitmaps_store(blk_bs(blk), NULL));
        assert_sound(blk, /* leaks_are_fine= */ true);
        blk_free(blk);
    }
}

static int setup(void **state)
{
    test_disk_setup();
    return 0;
}

static int teardown(void **state)
{
    test_disk_unload();
    test_disk_teardown();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_writes_are_in_enabled_bitmaps_after_closing),
        cmocka_unit_test(test_opening_writes_nothing),
        cmocka_unit_test(test_a_write_marks_before_data_and_storing_unmarks),
        cmocka_unit_test(test_handing_over_and_back_keeps_the_bits),
        cmocka_unit_test(test_reopening_read_only_stores),
        cmocka_unit_test(test_resizing_takes_them_along),
        cmocka_unit_test(test_removing_gives_everything_back),
        cmocka_unit_test(test_a_crash_leaves_right_or_inconsistent_bitmaps),
        cmocka_unit_test(test_a_crash_while_adding_the_first_is_sound),
        cmocka_unit_test(test_a_crash_while_removing_is_sound),
        cmocka_unit_test(test_a_failing_medium_never_makes_them_wrong),
        cmocka_unit_test(test_damaged_directories_are_refused_by_name),
        cmocka_unit_test(test_what_is_not_understood_survives_encoding),
        cmocka_unit_test(test_a_damaged_table_costs_the_bitmap_only),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
