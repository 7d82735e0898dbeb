/* SPDX-License-Identifier: MIT */
/*
 * what nobody has used for long leaves the caches of a qcow2 image; what the
 * file lacks stays
 */
#include "block/graph/drain.h"
#include "drivers/qcow2/qcow2.h"
#include "tests/unit/qcow2_disk.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CLUSTER_BITS 10
#define CLUSTER (1 << CLUSTER_BITS)
#define TABLE_REACH (128 * CLUSTER)
#define TABLES 20

static BlockBackend *open_written(const char *extra)
{
    g_autoptr(Qcow2Image) image =
        qcow2_image_new(3, CLUSTER_BITS, TABLES * TABLE_REACH);
    GError *error = NULL;
    BlockBackend *blk;

    test_disk_load(image->data, image->bytes);
    blk = test_disk_open(BDRV_O_RDWR | BDRV_O_RESIZE, extra, &error);
    if (!blk) {
        fail_msg("%s", error->message);
    }
    for (int64_t i = 0; i < TABLES; i++) {
        assert_int_equal(blk_pwrite(blk, i * TABLE_REACH, 4, "data"), 0);
    }
    return blk;
}

/* As at the end of an interval. */
static void coroutine_fn clean(void *opaque)
{
    BlockBackend *blk = opaque;
    Qcow2State *q = qcow2_state(blk_bs(blk));

    co_mutex_lock(&q->lock);
    qcow2_l2_clean(blk_bs(blk));
    qcow2_refcount_clean(blk_bs(blk));
    co_mutex_unlock(&q->lock);
}

static void assert_data(BlockBackend *blk, int64_t table)
{
    char back[4];

    assert_int_equal(blk_pread(blk, table * TABLE_REACH, 4, back), 0);
    assert_memory_equal(back, "data", 4);
}

static void test_unused_entries_go_and_used_ones_stay(void **state)
{
    BlockBackend *blk = open_written("");
    const Qcow2State *q = qcow2_state(blk_bs(blk));

    assert_int_equal(qcow2_commit_all(blk_bs(blk)), 0);
    aio_run_sync(clean, blk);
    assert_int_equal(q->l2.slices->len, TABLES);
    assert_data(blk, 3);
    assert_data(blk, 5);
    aio_run_sync(clean, blk);

    assert_int_equal(q->l2.slices->len, 2);
    assert_int_equal(q->refcounts.blocks->len, 0);
    assert_null(q->l2.retired);
    for (int i = 0; i < TABLES; i++) {
        assert_data(blk, i);
    }
    blk_free(blk);
}

static void test_what_the_file_lacks_stays(void **state)
{
    BlockBackend *blk = open_written("");
    const Qcow2State *q = qcow2_state(blk_bs(blk));

    for (int i = 0; i < 3; i++) {
        aio_run_sync(clean, blk);
    }
    assert_int_equal(q->l2.slices->len, TABLES);
    assert_int_equal(q->refcounts.blocks->len, 1);
    blk_free(blk);
}

static void test_the_timer_cleans_but_not_a_drained_node(void **state)
{
    BlockBackend *blk = open_written("\"cache-clean-interval\":1,");
    const Qcow2State *q = qcow2_state(blk_bs(blk));
    int64_t deadline_ns = clock_now_ns() + INT64_C(120000000000);

    assert_int_equal(qcow2_commit_all(blk_bs(blk)), 0);
    bdrv_drained_begin(blk_bs(blk));
    assert_false(aio_timer_is_armed(&q->clean_timer));
    bdrv_drained_end(blk_bs(blk));
    assert_true(aio_timer_is_armed(&q->clean_timer));

    while (q->l2.slices->len > 0 && clock_now_ns() < deadline_ns) {
        aio_poll(aio_context_current(), /* may_sleep= */ true);
    }
    assert_int_equal(q->l2.slices->len, 0);
    assert_data(blk, 1);
    blk_free(blk);
}

static void test_an_interval_of_0_never_cleans(void **state)
{
    BlockBackend *blk = open_written("\"cache-clean-interval\":0,");

    assert_false(
        aio_timer_is_armed(&qcow2_state(blk_bs(blk))->clean_timer));
    blk_free(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unused_entries_go_and_used_ones_stay),
        cmocka_unit_test(test_what_the_file_lacks_stays),
        cmocka_unit_test(test_the_timer_cleans_but_not_a_drained_node),
        cmocka_unit_test(test_an_interval_of_0_never_cleans),
    };
    int failures;

    test_disk_setup();
    failures = cmocka_run_group_tests(tests, NULL, NULL);
    test_disk_teardown();
    return failures;
}
