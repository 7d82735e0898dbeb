/* SPDX-License-Identifier: MIT */
/*
 * qcow2 images that somebody else has had in hand: read anew, or, when they
 * cannot be, left such that nobody trips over what is missing
 */
#include "block/driver.h"
#include "block/graph/inactivate.h"
#include "block/image/snapshot.h"
#include "block/image/stored_bitmap.h"
#include "drivers/qcow2/qcow2.h"
#include "tests/unit/qcow2_disk.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CLUSTER 4096
#define SIZE MIB

static BlockBackend *open_written(void)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, 12, SIZE);
    GError *error = NULL;
    BlockBackend *blk;

    test_disk_load(image->data, image->bytes);
    blk = test_disk_open(BDRV_O_RDWR | BDRV_O_RESIZE, "", &error);
    if (!blk) {
        fail_msg("%s", error->message);
    }
    assert_int_equal(blk_pwrite(blk, CLUSTER, 4, "data"), 0);
    assert_true(bdrv_inactivate(blk_bs(blk), NULL));
    return blk;
}

/* What a user may ask of any node. */
static void ask_everything(BlockBackend *blk)
{
    BlockDriverState *bs = blk_bs(blk);
    JsonNode *specific = bs->drv->get_specific_info(bs);
    JsonNode *figures = bs->drv->get_cache_figures(bs);
    BlockDriverInfo info;

    (void) bs->drv->get_info(bs, &info);
    (void) bs->drv->has_zero_init(bs);
    (void) bdrv_snapshot_list(bs);
    (void) bdrv_bitmap_list(bs);
    json_node_unref(specific);
    json_node_unref(figures);
}

/* The header, what it names first, and the table that is read last. */
static void test_a_failed_taking_back_can_be_tried_again(void **state)
{
    static const struct {
        int64_t at;
        uint64_t value;
    } damages[] = {
        { 0, 0 },          /* magic */
        { 40, 1ull << 40 }, /* L1 table */
        { 56, UINT64_C(1) << 32 | 1 }, /* a snapshot, its entry ... */
    };

    for (size_t i = 0; i < G_N_ELEMENTS(damages); i++) {
        BlockBackend *blk = open_written();
        be64 *field = (be64 *)(test_disk.data + damages[i].at);
        uint64_t before = be64_get(field);
        char back[4];

        be64_set(field, damages[i].value);
        be64_set((be64 *)(test_disk.data + 64), i == 2 ? 2 * CLUSTER : 0);
        for (int turn = 0; turn < 2; turn++) {
            assert_false(bdrv_activate(blk_bs(blk), NULL));
            ask_everything(blk);
        }
        be64_set(field, before);
        be64_set((be64 *)(test_disk.data + 64), 0);

        assert_true(bdrv_activate(blk_bs(blk), NULL));
        assert_int_equal(blk_pread(blk, CLUSTER, 4, back), 0);
        assert_memory_equal(back, "data", 4);
        assert_int_equal(blk_pwrite(blk, 9 * CLUSTER, 4, "more"), 0);
        blk_free(blk);
    }
}

static void test_a_failed_taking_back_can_be_closed(void **state)
{
    BlockBackend *blk = open_written();
    g_autofree uint8_t *before = NULL;

    be64_set((be64 *)test_disk.data, 0);
    before = g_memdup2(test_disk.data, test_disk.length);
    assert_false(bdrv_activate(blk_bs(blk), NULL));
    blk_free(blk);
    assert_memory_equal(test_disk.data, before, test_disk.length);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_failed_taking_back_can_be_tried_again),
        cmocka_unit_test(test_a_failed_taking_back_can_be_closed),
    };
    int failures;

    test_disk_setup();
    failures = cmocka_run_group_tests(tests, NULL, NULL);
    test_disk_teardown();
    return failures;
}
