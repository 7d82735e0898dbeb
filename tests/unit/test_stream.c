/* SPDX-License-Identifier: MIT */
/*
 * tests of the stream job
 */
#include "tests/unit/job_test.h"

#include "block/image/stream.h"

static Job *stream_start(Disk *disk, BlockDriverState *base, int64_t speed,
                         IoThread *thread)
{
    g_autoptr(GError) error = NULL;
    Job *job = stream_job_new("stream", disk_top(disk), base, &error);

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

    assert_non_null(below(below(top)));
    assert_false(top->backing->frozen);
    assert_false(below(top)->backing->frozen);
    assert_string_equal(top->backing_name, "mid.qcow2");
    assert_blk_reads(disk->blk, disk->model);
}

static void test_all_data_moves_up_while_a_guest_works(void **state)
{
    Disk *disk = disk_new();
    IoThread *thread = io_thread_new("job", NULL);
    Guest *guest;

    disk_open(disk, NULL);
    guest = guest_start(disk);
    assert_job_succeeds(stream_start(disk, NULL, 20 * MIB, thread));
    guest_let_work(guest, 100);
    guest_stop(guest);

    assert_null(disk_top(disk)->backing);
    assert_blk_reads(disk->blk, disk->model);
    g_clear_pointer(&disk->blk, blk_free);
    unlink(disk->mid);
    unlink(disk->base);
    assert_file_reads(disk->top, disk->model);
    io_thread_free(thread);
    disk_free(disk);
}

static void test_base_stays_and_the_header_names_it(void **state)
{
    Disk *disk = disk_new();
    IoThread *thread = io_thread_new("job", NULL);
    BlockDriverState *base;
    Guest *guest;

    disk_open(disk, NULL);
    base = below(below(disk_top(disk)));
    guest = guest_start(disk);
    assert_job_succeeds(stream_start(disk, base, 20 * MIB, thread));
    guest_stop(guest);

    assert_ptr_equal(below(disk_top(disk)), base);
    assert_false(disk_top(disk)->backing->frozen);
    assert_string_equal(disk_top(disk)->backing_name, "base.qcow2");
    assert_string_equal(disk_top(disk)->backing_format, "qcow2");
    g_clear_pointer(&disk->blk, blk_free);
    unlink(disk->mid);
    assert_file_reads(disk->top, disk->model);
    io_thread_free(thread);
    disk_free(disk);
}

static void test_a_layer_below_the_top_can_be_filled(void **state)
{
    Disk *disk = disk_new();
    BlockDriverState *mid;
    Job *job;

    disk_open(disk, NULL);
    mid = below(disk_top(disk));
    job = stream_job_new("stream", mid, NULL, NULL);
    assert_non_null(job);
    assert_false(mid->read_only);
    job_start(job, NULL);
    assert_job_succeeds(job);

    assert_null(mid->backing);
    assert_true(mid->read_only);
    assert_null(mid->backing_name);
    assert_blk_reads(disk->blk, disk->model);
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
    job = stream_start(disk, NULL, 4 * MIB, thread);
    guest_let_work(guest, 50);
    assert_true(disk_top(disk)->backing->frozen);
    job_cancel(job);
    assert_int_not_equal(job_end(job), 0);
    guest_stop(guest);

    assert_chain_is_whole(disk);
    io_thread_free(thread);
    disk_free(disk);
}

static void test_failing_write_leaves_the_chain(void **state)
{
    Disk *disk = disk_new();

    disk_open(disk, disk->top);
    writes_until_failure = 3;
    assert_int_equal(job_end(stream_start(disk, NULL, 0, NULL)),
                     IMGFUSE_ERROR_IO + 1);

    assert_int_equal(writes_until_failure, -1);
    assert_chain_is_whole(disk);
    disk_free(disk);
}

static void test_two_jobs_cannot_work_on_one_edge(void **state)
{
    Disk *disk = disk_new();
    g_autoptr(GError) error = NULL;
    Job *job;

    disk_open(disk, NULL);
    job = stream_job_new("stream", disk_top(disk), NULL, NULL);

    assert_null(stream_job_new("other", below(disk_top(disk)), NULL, &error));
    assert_int_equal(error->code, IMGFUSE_ERROR_CONFLICT);

    job_free(job);
    assert_chain_is_whole(disk);
    disk_free(disk);
}

static void test_base_must_be_in_the_chain(void **state)
{
    Disk *disk = disk_new();
    g_autoptr(GError) error = NULL;

    disk_open(disk, NULL);

    assert_null(stream_job_new("stream", below(disk_top(disk)),
                               disk_top(disk), &error));
    assert_int_equal(error->code, IMGFUSE_ERROR_OPTION);
    disk_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_data_moves_up_while_a_guest_works),
        cmocka_unit_test(test_base_stays_and_the_header_names_it),
        cmocka_unit_test(test_a_layer_below_the_top_can_be_filled),
        cmocka_unit_test(test_cancel_leaves_the_chain),
        cmocka_unit_test(test_failing_write_leaves_the_chain),
        cmocka_unit_test(test_two_jobs_cannot_work_on_one_edge),
        cmocka_unit_test(test_base_must_be_in_the_chain),
    };

    return cmocka_run_group_tests(tests, job_test_setup, job_test_teardown);
}
