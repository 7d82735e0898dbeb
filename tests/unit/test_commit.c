/* SPDX-License-Identifier: MIT */
/*
 * tests of the commit job
 */
#include "tests/unit/job_test.h"

#include "block/image/commit.h"

static Job *commit_start(BlockDriverState *top, BlockDriverState *base,
                         int64_t speed, IoThread *thread)
{
    g_autoptr(GError) error = NULL;
    Job *job = commit_job_new("commit", top, base, &error);

    if (job == NULL) {
        fail_msg("%s", error->message);
    }
    job_set_speed(job, speed);
    job_start(job, thread);
    return job;
}

static void assert_chain_is_whole(Disk *disk)
{
    BlockDriverState *top = disk_top(disk);
    BlockDriverState *mid = below(top);

    assert_non_null(below(mid));
    assert_false(top->backing->frozen);
    assert_false(mid->backing->frozen);
    assert_int_equal(mid->backing->granted, 0);
    assert_true(below(mid)->read_only);
    assert_true(mid->read_only);
    assert_string_equal(top->backing_name, "mid.qcow2");
    assert_null(top->dirty_bitmaps);
    assert_blk_reads(disk->blk, disk->model);
}

static void complete(Job *job)
{
    assert_true(job_wait(job, /* until_ready= */ true, WAIT_NS));
    assert_ok(job_complete(job, &error));
    assert_job_succeeds(job);
}

static void test_active_layer_goes_into_base_while_a_guest_works(void **state)
{
    Disk *disk = disk_new();
    IoThread *thread = io_thread_new("job", NULL);
    BlockDriverState *base;
    Guest *guest;
    Job *job;

    disk_open(disk, NULL);
    base = below(below(disk_top(disk)));
    guest = guest_start(disk);
    job = commit_start(disk_top(disk), base, 40 * MIB, thread);
    assert_false(base->read_only);
    assert_true(job_wait(job, /* until_ready= */ true, WAIT_NS));
    guest_let_work(guest, 200);
    complete(job);
    guest_let_work(guest, 200);
    guest_stop(guest);

    assert_ptr_equal(disk_top(disk), base);
    assert_int_equal(bdrv_node_length(base), IMAGE_BYTES);
    assert_false(base->read_only);
    assert_int_equal(base->parents->len, 1);
    assert_blk_reads(disk->blk, disk->model);
    g_clear_pointer(&disk->blk, blk_free);
    assert_file_reads(disk->base, disk->model);
    io_thread_free(thread);
    disk_free(disk);
}

static void test_active_layer_goes_into_the_next_one(void **state)
{
    Disk *disk = disk_new();
    BlockDriverState *mid;

    disk_open(disk, NULL);
    mid = below(disk_top(disk));
    complete(commit_start(disk_top(disk), mid, 0, NULL));

    assert_ptr_equal(disk_top(disk), mid);
    assert_non_null(mid->backing);
    assert_int_equal(mid->backing->granted, 0);
    assert_blk_reads(disk->blk, disk->model);
    g_clear_pointer(&disk->blk, blk_free);
    assert_file_reads(disk->mid, disk->model);
    disk_free(disk);
}

static void test_lower_layer_goes_into_base_while_a_guest_works(void **state)
{
    Disk *disk = disk_new();
    IoThread *thread = io_thread_new("job", NULL);
    BlockDriverState *base;
    Guest *guest;

    disk_open(disk, NULL);
    base = below(below(disk_top(disk)));
    guest = guest_start(disk);
    assert_job_succeeds(commit_start(below(disk_top(disk)), base, 20 * MIB,
                                     thread));
    guest_let_work(guest, 100);
    guest_stop(guest);

    assert_ptr_equal(below(disk_top(disk)), base);
    assert_true(base->read_only);
    assert_string_equal(disk_top(disk)->backing_name, "base.qcow2");
    assert_blk_reads(disk->blk, disk->model);
    g_clear_pointer(&disk->blk, blk_free);
    unlink(disk->mid);
    assert_file_reads(disk->top, disk->model);
    io_thread_free(thread);
    disk_free(disk);
}

static void test_cancel_leaves_the_chain(void **state)
{
    Disk *disk = disk_new();
    IoThread *thread = io_thread_new("job", NULL);
    Guest *guest;
    Job *job;

    disk_open(disk, NULL);
    guest = guest_start(disk);
    for (int until_ready = 0; until_ready < 2; until_ready++) {
        job = commit_start(disk_top(disk), below(below(disk_top(disk))),
                           until_ready ? 0 : 2 * MIB, thread);
        if (until_ready) {
            assert_true(job_wait(job, true, WAIT_NS));
        }
        guest_let_work(guest, 50);
        assert_true(below(disk_top(disk))->backing->frozen);
        job_cancel(job);
        assert_int_not_equal(job_end(job), 0);
    }
    guest_stop(guest);

    assert_chain_is_whole(disk);
    io_thread_free(thread);
    disk_free(disk);
}

static void test_failing_write_leaves_the_chain(void **state)
{
    Disk *disk = disk_new();

    disk_open(disk, disk->base);
    writes_until_failure = 4;
    assert_int_equal(job_end(commit_start(disk_top(disk),
                                          below(below(disk_top(disk))), 0,
                                          NULL)),
                     IMGFUSE_ERROR_IO + 1);

    assert_chain_is_whole(disk);
    disk_free(disk);
}

static void test_header_that_cannot_be_written_leaves_the_chain(void **state)
{
    Disk *disk = disk_new();
    Job *job;

    /* Only the overlay's file fails, and the guest writes nothing. */
    disk_open(disk, disk->top);
    writes_until_failure = 0;
    job = commit_start(below(disk_top(disk)), below(below(disk_top(disk))),
                       0, NULL);
    assert_int_equal(job_end(job), IMGFUSE_ERROR_IO + 1);

    assert_int_equal(writes_until_failure, -1);
    assert_chain_is_whole(disk);
    disk_free(disk);
}

static void test_layer_between_with_a_user_is_refused(void **state)
{
    Disk *disk = disk_new();
    BlockBackend *user = blk_new(BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL,
                                 "user");
    g_autoptr(GError) error = NULL;
    BlockDriverState *mid;

    disk_open(disk, NULL);
    mid = below(disk_top(disk));
    assert_true(blk_insert_node(user, mid, NULL));

    assert_null(commit_job_new("commit", disk_top(disk), below(mid), &error));
    assert_int_equal(error->code, IMGFUSE_ERROR_CONFLICT);
    assert_chain_is_whole(disk);
    blk_free(user);
    disk_free(disk);
}

static void test_base_with_a_user_is_refused(void **state)
{
    Disk *disk = disk_new();
    BlockBackend *user = blk_new(BLK_PERM_CONSISTENT_READ,
                                 BLK_PERM_CONSISTENT_READ, "user");
    g_autoptr(GError) error = NULL;
    BlockDriverState *base;

    disk_open(disk, NULL);
    base = below(below(disk_top(disk)));
    assert_true(blk_insert_node(user, base, NULL));

    assert_null(commit_job_new("commit", disk_top(disk), base, &error));
    assert_int_equal(error->code, IMGFUSE_ERROR_CONFLICT);
    assert_chain_is_whole(disk);
    blk_free(user);
    disk_free(disk);
}

/* What the layer in between shows changes from now on. */
static void test_layer_between_gets_no_users_during_commit(void **state)
{
    Disk *disk = disk_new();
    BlockBackend *user = blk_new(BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL,
                                 "user");
    g_autoptr(GError) error = NULL;
    g_autofree char *json = NULL;
    BlockDriverState *mid;
    Job *job;

    disk_open(disk, NULL);
    mid = below(disk_top(disk));
    job = commit_start(disk_top(disk), below(mid), KIB, NULL);

    assert_false(blk_insert_node(user, mid, &error));
    assert_int_equal(error->code, IMGFUSE_ERROR_CONFLICT);
    assert_non_null(strstr(error->message, "committed"));
    g_clear_error(&error);
    json = g_strdup_printf("{\"driver\":\"throttle\",\"file\":\"%s\"}",
                           mid->node_name);
    assert_null(bdrv_open(NULL, block_options_from_json(json, NULL),
                          BDRV_O_RDONLY, NULL, &error));
    assert_int_equal(error->code, IMGFUSE_ERROR_CONFLICT);

    job_cancel(job);
    assert_int_not_equal(job_end(job), 0);
    assert_true(blk_insert_node(user, mid, NULL)); /* nothing is left of it */
    blk_free(user);
    assert_chain_is_whole(disk);
    disk_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            test_active_layer_goes_into_base_while_a_guest_works),
        cmocka_unit_test(test_active_layer_goes_into_the_next_one),
        cmocka_unit_test(test_lower_layer_goes_into_base_while_a_guest_works),
        cmocka_unit_test(test_cancel_leaves_the_chain),
        cmocka_unit_test(test_failing_write_leaves_the_chain),
        cmocka_unit_test(test_header_that_cannot_be_written_leaves_the_chain),
        cmocka_unit_test(test_layer_between_with_a_user_is_refused),
        cmocka_unit_test(test_base_with_a_user_is_refused),
        cmocka_unit_test(test_layer_between_gets_no_users_during_commit),
    };

    return cmocka_run_group_tests(tests, job_test_setup, job_test_teardown);
}
