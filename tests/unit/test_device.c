/* SPDX-License-Identifier: MIT */
/*
 * devices below an image: facts, requests and media pass filters and raw;
 * requests that wait long are let go
 */
#include "tests/unit/job_test.h"

#include "block/graph/device.h"
#include "block/graph/drain.h"

typedef struct Drive {
    bool is_empty;
    bool is_locked;
    unsigned ejects;
    unsigned cancels;
} Drive;
static Drive drive;

static bool drive_open(BlockDriverState *bs, BlockOptions *options,
                       BdrvOpenFlags flags, GError **error)
{
    bs->length = MIB;
    return true;
}

static int coroutine_fn drive_ioctl(BlockDriverState *bs,
                                    unsigned long request, void *argument)
{
    *(unsigned long *)argument = request + 1;
    return 7;
}

static int drive_blocksizes(BlockDriverState *bs, BlockSizes *ret_sizes)
{
    *ret_sizes = (BlockSizes) { 2048, 4096 };
    return 0;
}

static int drive_geometry(BlockDriverState *bs, BlockGeometry *ret_geometry)
{
    *ret_geometry = (BlockGeometry) { 10, 4, 63 };
    return 0;
}

static bool drive_is_inserted(BlockDriverState *bs)
{
    return !drive.is_empty;
}

static int drive_eject(BlockDriverState *bs, bool out)
{
    drive.ejects++;
    drive.is_empty = out;
    return 0;
}

static int drive_lock(BlockDriverState *bs, bool locked)
{
    drive.is_locked = locked;
    return 0;
}

static void drive_cancel(BlockDriverState *bs)
{
    drive.cancels++;
}

static const BlockMediaOps drive_media = {
    .is_inserted = drive_is_inserted,
    .eject = drive_eject,
    .lock_medium = drive_lock,
};

static const BlockDriver drive_driver = {
    .format_name = "test-drive",
    .protocol_name = "test-drive",
    .open = drive_open,
    .cancel_in_flight = drive_cancel,
    .media = &drive_media,
    .co_ioctl = drive_ioctl,
    .probe_blocksizes = drive_blocksizes,
    .probe_geometry = drive_geometry,
};

static int set_up_all(void **state)
{
    int ret = job_test_setup(state);

    bdrv_register(&drive_driver);
    return ret;
}

static int set_up(void **state)
{
    drive = (Drive) { 0 };
    return 0;
}

static BlockDriverState *open_json(const char *name)
{
    g_autoptr(GError) error = NULL;
    BlockDriverState *bs = bdrv_open(name, NULL, BDRV_O_RDONLY, NULL, &error);

    if (bs == NULL) {
        fail_msg("%s", error->message);
    }
    return bs;
}

#define DRIVE "{\"driver\":\"test-drive\",\"node-name\":\"drive\"}"
#define FILTERED "json:{\"driver\":\"test-fail\",\"file\":{" \
                 "\"driver\":\"raw\",\"file\":" DRIVE "}}"

static void test_facts_pass_filters_and_raw(void **state)
{
    BlockDriverState *bs = open_json(FILTERED);
    BlockGeometry geometry;
    BlockSizes sizes;

    assert_int_equal(bdrv_probe_blocksizes(bs, &sizes), 0);
    assert_int_equal(sizes.logical, 2048);
    assert_int_equal(sizes.physical, 4096);
    assert_int_equal(bdrv_probe_geometry(bs, &geometry), 0);
    assert_int_equal(geometry.heads, 4);
    bdrv_unref(bs);
}

typedef struct Call {
    BlockDriverState *bs;
    unsigned long answer;
    int ret;
} Call;

static void coroutine_fn call_entry(void *opaque)
{
    Call *call = opaque;

    call->ret = bdrv_co_ioctl(call->bs, 41, &call->answer);
}

static void test_an_ioctl_passes_filters_and_raw(void **state)
{
    Call call = { open_json(FILTERED), 0, 0 };

    aio_run_sync(call_entry, &call);
    assert_int_equal(call.ret, 7);
    assert_int_equal(call.answer, 42);
    bdrv_unref(call.bs);
}

static void test_a_medium_is_given_out_and_locked(void **state)
{
    BlockDriverState *bs = open_json(FILTERED);

    assert_true(bdrv_is_inserted(bs));
    assert_int_equal(bdrv_lock_medium(bs, true), 0);
    assert_true(drive.is_locked);
    assert_int_equal(bdrv_eject(bs, /* out= */ true), 0);
    assert_false(bdrv_is_inserted(bs));
    assert_int_equal(drive.ejects, 1);
    bdrv_unref(bs);
}

static void test_a_file_is_no_device(void **state)
{
    BlockDriverState *bs = open_json("json:{\"driver\":\"raw\",\"file\":{"
                                     "\"driver\":\"file\",\"filename\":"
                                     "\"/proc/self/exe\"}}");
    Call call = { bs, 0, 0 };
    BlockGeometry geometry;
    BlockSizes sizes;

    assert_int_equal(bdrv_probe_blocksizes(bs, &sizes), -ENOTSUP);
    assert_int_equal(bdrv_probe_geometry(bs, &geometry), -ENOTSUP);
    aio_run_sync(call_entry, &call);
    assert_int_equal(call.ret, -ENOTSUP);
    assert_true(bdrv_is_inserted(bs));
    assert_int_equal(bdrv_eject(bs, true), -ENOTSUP);
    assert_int_equal(bdrv_lock_medium(bs, true), -ENOTSUP);
    bdrv_unref(bs);
}

static void test_a_node_on_two_ways_lets_go_once(void **state)
{
    BlockDriverState *below = open_json("json:" DRIVE);
    BlockDriverState *bs =
        open_json("json:{\"driver\":\"quorum\",\"vote-threshold\":2,"
                  "\"children\":["
                  "{\"driver\":\"test-fail\",\"file\":\"drive\"},"
                  "{\"driver\":\"test-fail\",\"file\":\"drive\"}]}");

    bdrv_cancel_in_flight(bs);
    assert_int_equal(drive.cancels, 1);
    bdrv_cancel_all_in_flight();
    assert_int_equal(drive.cancels, 2);
    bdrv_unref(bs);
    bdrv_unref(below);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_facts_pass_filters_and_raw, set_up),
        cmocka_unit_test_setup(test_an_ioctl_passes_filters_and_raw, set_up),
        cmocka_unit_test_setup(test_a_medium_is_given_out_and_locked, set_up),
        cmocka_unit_test_setup(test_a_file_is_no_device, set_up),
        cmocka_unit_test_setup(test_a_node_on_two_ways_lets_go_once, set_up),
    };

    return cmocka_run_group_tests(tests, set_up_all, job_test_teardown);
}
