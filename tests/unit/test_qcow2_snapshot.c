/* SPDX-License-Identifier: MIT */
/*
 * internal snapshots of qcow2: what they keep, and what is left when the
 * medium fails or loses power at any moment of a change
 */
#include "block/driver.h"
#include "block/image/check.h"
#include "block/image/snapshot.h"
#include "tests/unit/qcow2_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

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

static void put(BlockBackend *blk, int cluster, int byte)
{
    uint8_t data[CLUSTER];

    memset(data, byte, sizeof(data));
    assert_int_equal(
        blk_pwrite(blk, (int64_t)cluster * CLUSTER, CLUSTER, data), 0);
}

static int get(BlockBackend *blk, int cluster)
{
    uint8_t data[CLUSTER];

    if (blk_pread(blk, (int64_t)cluster * CLUSTER, CLUSTER, data) < 0 ||
        data[0] != data[CLUSTER - 1]) {
        return -1;
    }
    return data[0];
}

static guint count(BlockBackend *blk)
{
    return bdrv_snapshot_list(blk_bs(blk))->len;
}

static void assert_sound(BlockBackend *blk)
{
    BlockCheckResult result = { 0 };

    assert_true(bdrv_check(blk_bs(blk), BLOCK_CHECK_FIX_NONE, &result, NULL));
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
}

/* Clusters 0 and 1 hold 'a' and 'b'; then snapshot "one"; then 'x' in 0. */
static void load_with_snapshot(void)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, 12, SIZE);
    BlockBackend *blk;

    test_disk_load(image->data, image->bytes);
    blk = open_disk(RDWR);
    put(blk, 0, 'a');
    put(blk, 1, 'b');
    assert_true(bdrv_snapshot_create(blk_bs(blk), "one", NULL));
    put(blk, 0, 'x');
    blk_free(blk);
}

static void test_a_snapshot_keeps_what_is_written_over(void **state)
{
    BlockBackend *blk;

    load_with_snapshot();
    blk = open_disk(RDWR);
    assert_int_equal(get(blk, 0), 'x');
    assert_int_equal(get(blk, 1), 'b');
    assert_sound(blk);

    assert_true(bdrv_snapshot_goto(blk_bs(blk), "one", NULL));

    assert_int_equal(get(blk, 0), 'a');
    assert_int_equal(get(blk, 1), 'b');
    assert_sound(blk);
    put(blk, 1, 'y');
    assert_true(bdrv_snapshot_goto(blk_bs(blk), "1", NULL));
    assert_int_equal(get(blk, 1), 'b');
    blk_free(blk);
}

static void test_removing_gives_everything_back(void **state)
{
    BlockBackend *blk;

    load_with_snapshot();
    blk = open_disk(RDWR);

    assert_true(bdrv_snapshot_remove(blk_bs(blk), "one", NULL));

    assert_int_equal(count(blk), 0);
    assert_int_equal(get(blk, 0), 'x');
    assert_sound(blk);
    blk_free(blk);
}

static void test_a_read_only_node_can_show_a_snapshot(void **state)
{
    BlockBackend *blk;
    g_autoptr(GError) error = NULL;

    load_with_snapshot();
    blk = open_disk(BDRV_O_RDONLY);
    assert_false(bdrv_snapshot_create(blk_bs(blk), "two", &error));

    assert_true(bdrv_snapshot_load_tmp(blk_bs(blk), "one", NULL));

    assert_int_equal(get(blk, 0), 'a');
    blk_free(blk);
}

static void test_names_are_checked(void **state)
{
    g_autoptr(GError) twice = NULL;
    g_autoptr(GError) missing = NULL;
    BlockBackend *blk;

    load_with_snapshot();
    blk = open_disk(RDWR);

    assert_false(bdrv_snapshot_create(blk_bs(blk), "one", &twice));
    assert_false(bdrv_snapshot_remove(blk_bs(blk), "two", &missing));

    assert_non_null(strstr(twice->message, "exists already"));
    assert_non_null(strstr(missing->message, "no snapshot 'two'"));
    blk_free(blk);
}

typedef bool Action(BlockDriverState *bs, const char *name, GError **error);

static const struct {
    Action *action;
    const char *name;
    guint snapshots; /* afterwards */
    int first;       /* content of cluster 0 afterwards */
} changes[] = {
    { bdrv_snapshot_create, "two", 2, 'x' },
    { bdrv_snapshot_goto, "one", 1, 'a' },
    { bdrv_snapshot_remove, "one", 0, 'x' },
};

/* Either all of change @i is there, or nothing. */
static void assert_before_or_after(size_t i, bool must_be_after,
                                   bool must_be_before)
{
    BlockBackend *blk = open_disk(BDRV_O_RDONLY);
    bool is_after = count(blk) == changes[i].snapshots &&
                    get(blk, 0) == changes[i].first;
    bool is_before = count(blk) == 1 && get(blk, 0) == 'x';

    assert_true(is_after || is_before);
    assert_true(is_after || !must_be_after);
    assert_true(is_before || !must_be_before);
    assert_int_equal(get(blk, 1), 'b');
    if (count(blk) > 0) {
        assert_true(bdrv_snapshot_load_tmp(blk_bs(blk), "one", NULL));
        assert_int_equal(get(blk, 0), 'a');
        assert_int_equal(get(blk, 1), 'b');
    }
    blk_free(blk);
}

/* S3, S4: the medium stops taking writes after any number of them. */
static void test_a_failing_medium_leaves_old_or_new(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(changes); i++) {
        bool ok = false;

        for (int writes = 0; !ok; writes++) {
            BlockBackend *blk;

            assert_true(writes < 100);
            load_with_snapshot();
            blk = open_disk(RDWR);
            test_disk.writes_to_fail = writes;
            ok = changes[i].action(blk_bs(blk), changes[i].name, NULL);
            blk_free(blk);
            test_disk.writes_to_fail = -1;
            assert_before_or_after(i, ok, !ok);
        }
    }
}

/* S3: no room for the new tables; the open image goes on as it was. */
static void test_a_full_medium_leaves_the_image_as_it_was(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(changes); i++) {
        BlockBackend *blk;

        for (int free = 0; free < 3; free++) {
            load_with_snapshot();
            test_disk.full_at = test_disk.length + free * CLUSTER;
            blk = open_disk(RDWR);
            if (!changes[i].action(blk_bs(blk), changes[i].name, NULL)) {
                assert_int_equal(count(blk), 1);
                assert_int_equal(get(blk, 0), 'x');
                assert_sound(blk);
            }
            test_disk.full_at = 0;
            put(blk, 2, 'z');
            assert_sound(blk);
            blk_free(blk);
        }
    }
}

/* S1, S2: power is lost after any write. */
static void test_power_loss_leaves_old_or_new(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(changes); i++) {
        g_autofree uint8_t *before = NULL;
        g_autoptr(GArray) events = NULL;
        BlockBackend *blk;
        int64_t length;

        load_with_snapshot();
        length = test_disk.length;
        before = g_memdup2(test_disk.data, test_disk.capacity);
        blk = open_disk(RDWR);
        test_disk.record = true;
        assert_true(changes[i].action(blk_bs(blk), changes[i].name, NULL));
        test_disk.record = false;
        events = test_disk.events;
        test_disk.events = g_array_new(FALSE, FALSE, sizeof(DiskEvent));
        blk_free(blk);
        for (guint last = 0; last < events->len; last++) {
            disk_event_apply(&g_array_index(events, DiskEvent, last), before,
                             &length, test_disk.capacity);
            test_disk_load(before, length);
            assert_before_or_after(i, last + 1 == events->len, false);
        }
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
        cmocka_unit_test(test_a_snapshot_keeps_what_is_written_over),
        cmocka_unit_test(test_removing_gives_everything_back),
        cmocka_unit_test(test_a_read_only_node_can_show_a_snapshot),
        cmocka_unit_test(test_names_are_checked),
        cmocka_unit_test(test_a_failing_medium_leaves_old_or_new),
        cmocka_unit_test(test_a_full_medium_leaves_the_image_as_it_was),
        cmocka_unit_test(test_power_loss_leaves_old_or_new),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
