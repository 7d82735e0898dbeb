/* SPDX-License-Identifier: MIT */
/*
 * tests of the mirror job
 */
#include "tests/unit/job_test.h"

#include "block/image/mirror.h"

/* A node on an empty image "target.qcow2"; its writes may fail. */
static BlockDriverState *target_new(Disk *disk, const char *backing,
                                    BdrvOpenFlags flags)
{
    g_autofree char *path = disk_path(disk, "target.qcow2");
    BlockOptions *options = block_options_new();
    g_autoptr(GError) error = NULL;
    BlockDriverState *bs;

    image_make(path, backing, IMAGE_BYTES);
    block_options_set_string(options, "driver", "qcow2");
    block_options_set_string(options, "file.driver", "test-fail");
    block_options_set_string(options, "file.file.driver", "file");
    block_options_set_string(options, "file.file.filename", path);
    bs = bdrv_open(NULL, options, BDRV_O_RDWR | flags, NULL, &error);
    if (bs == NULL) {
        fail_msg("%s", error->message);
    }
    return bs;
}

static Job *mirror_start(Disk *disk, BlockDriverState *target,
                         MirrorSync sync, MirrorBacking backing,
                         int64_t speed, IoThread *thread)
{
    MirrorConfig config = {
        .source = disk_top(disk), .target = target, .sync = sync,
        .backing = backing,
    };
    g_autoptr(GError) error = NULL;
    Job *job = mirror_job_new("mirror", &config, &error);

    if (job == NULL) {
        fail_msg("%s", error->message);
    }
    job_set_speed(job, speed);
    job_start(job, thread);
    return job;
}

static void complete(Job *job)
{
    assert_true(job_wait(job, /* until_ready= */ true, WAIT_NS));
    assert_ok(job_complete(job, &error));
    assert_job_succeeds(job);
}

static void assert_source_is_untouched(Disk *disk, BlockDriverState *source)
{
    assert_ptr_equal(disk_top(disk), source);
    assert_null(source->dirty_bitmaps);
    assert_int_equal(source->parents->len, 1);
    assert_false(source->backing->frozen);
    assert_blk_reads(disk->blk, disk->model);
}

static void test_full_mirror_follows_a_guest_and_takes_over(void **state)
{
    Disk *disk = disk_new();
    IoThread *thread = io_thread_new("job", NULL);
    g_autofree char *path = disk_path(disk, "target.qcow2");
    BlockDriverState *target = target_new(disk, NULL, 0);
    Guest *guest;
    Job *job;

    disk_open(disk, NULL);
    guest = guest_start(disk);
    job = mirror_start(disk, target, MIRROR_SYNC_FULL, MIRROR_BACKING_LEAVE,
                       40 * MIB, thread);
    assert_true(job_wait(job, true, WAIT_NS));
    guest_let_work(guest, 300);
    complete(job);
    guest_let_work(guest, 100);
    guest_stop(guest);

    assert_ptr_equal(disk_top(disk), target);
    assert_int_equal(target->parents->len, 1);
    bdrv_unref(target);
    assert_blk_reads(disk->blk, disk->model);
    g_clear_pointer(&disk->blk, blk_free);
    assert_file_reads(path, disk->model);
    io_thread_free(thread);
    disk_free(disk);
}

static void test_top_mirror_shares_the_backing_chain(void **state)
{
    Disk *disk = disk_new();
    IoThread *thread = io_thread_new("job", NULL);
    g_autofree char *path = disk_path(disk, "target.qcow2");
    BlockDriverState *target = target_new(disk, "mid.qcow2",
                                          BDRV_O_NO_BACKING);
    BlockDriverState *mid;
    Guest *guest;

    disk_open(disk, NULL);
    mid = below(disk_top(disk));
    guest = guest_start(disk);
    complete(mirror_start(disk, target, MIRROR_SYNC_TOP,
                          MIRROR_BACKING_SOURCE, 0, thread));
    guest_stop(guest);

    assert_ptr_equal(disk_top(disk), target);
    assert_ptr_equal(below(target), mid);
    assert_int_equal(mid->parents->len, 1);
    bdrv_unref(target);
    assert_blk_reads(disk->blk, disk->model);
    g_clear_pointer(&disk->blk, blk_free);
    assert_file_reads(path, disk->model);
    io_thread_free(thread);
    disk_free(disk);
}

static void test_top_mirror_opens_the_backing_chain_anew(void **state)
{
    Disk *disk = disk_new();
    BlockDriverState *target = target_new(disk, "mid.qcow2",
                                          BDRV_O_NO_BACKING);
    BlockDriverState *mid;

    disk_open(disk, NULL);
    mid = below(disk_top(disk));
    complete(mirror_start(disk, target, MIRROR_SYNC_TOP, MIRROR_BACKING_OPEN,
                          0, NULL));

    assert_ptr_equal(disk_top(disk), target);
    assert_ptr_not_equal(below(target), mid);
    bdrv_unref(target);
    assert_blk_reads(disk->blk, disk->model);
    disk_free(disk);
}

static void test_none_mirror_copies_only_what_is_written(void **state)
{
    Disk *disk = disk_new();
    BlockDriverState *target = target_new(disk, NULL, 0);
    g_autofree uint8_t *data = g_malloc(MIB);
    g_autofree uint8_t *expected = g_malloc0(IMAGE_BYTES);
    Job *job;

    disk_open(disk, NULL);
    job = mirror_start(disk, target, MIRROR_SYNC_NONE, MIRROR_BACKING_LEAVE,
                       0, NULL);
    assert_true(job_wait(job, true, WAIT_NS));
    memset(data, 9, MIB);
    assert_int_equal(blk_pwrite(disk->blk, MIB, MIB, data), 0);
    memset(expected + MIB, 9, MIB);
    complete(job);

    assert_ptr_equal(disk_top(disk), target);
    bdrv_unref(target);
    assert_blk_reads(disk->blk, expected);
    disk_free(disk);
}

static void test_cancel_leaves_the_source_and_the_target(void **state)
{
    Disk *disk = disk_new();
    IoThread *thread = io_thread_new("job", NULL);
    BlockDriverState *target = target_new(disk, "mid.qcow2",
                                          BDRV_O_NO_BACKING);
    BlockDriverState *source;
    Guest *guest;

    disk_open(disk, NULL);
    source = disk_top(disk);
    guest = guest_start(disk);
    for (int until_ready = 0; until_ready < 2; until_ready++) {
        Job *job = mirror_start(disk, target, MIRROR_SYNC_FULL,
                                MIRROR_BACKING_SOURCE,
                                until_ready ? 0 : 2 * MIB, thread);

        if (until_ready) {
            assert_true(job_wait(job, true, WAIT_NS));
        }
        guest_let_work(guest, 50);
        job_cancel(job);
        assert_int_not_equal(job_end(job), 0);
        assert_null(target->backing);
        assert_int_equal(target->parents->len, 0);
    }
    guest_stop(guest);

    assert_source_is_untouched(disk, source);
    bdrv_unref(target);
    io_thread_free(thread);
    disk_free(disk);
}

static void test_failing_write_leaves_the_source(void **state)
{
    Disk *disk = disk_new();
    IoThread *thread = io_thread_new("job", NULL);
    BlockDriverState *target = target_new(disk, NULL, 0);
    BlockDriverState *source;
    Guest *guest;
    Job *job;

    disk_open(disk, NULL);
    source = disk_top(disk);
    guest = guest_start(disk);
    __atomic_store_n(&writes_until_failure, 5, __ATOMIC_SEQ_CST);
    job = mirror_start(disk, target, MIRROR_SYNC_FULL, MIRROR_BACKING_LEAVE,
                       0, thread);
    assert_int_equal(job_end(job), IMGFUSE_ERROR_IO + 1);
    guest_stop(guest);

    assert_source_is_untouched(disk, source);
    bdrv_unref(target);
    io_thread_free(thread);
    disk_free(disk);
}

static void test_node_cannot_be_mirrored_into_its_own_chain(void **state)
{
    Disk *disk = disk_new();
    g_autoptr(GError) error = NULL;
    MirrorConfig config = { 0 };

    disk_open(disk, NULL);
    config.source = disk_top(disk);
    config.target = below(disk_top(disk));

    assert_null(mirror_job_new("mirror", &config, &error));
    assert_int_equal(error->code, IMGFUSE_ERROR_OPTION);
    disk_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_mirror_follows_a_guest_and_takes_over),
        cmocka_unit_test(test_top_mirror_shares_the_backing_chain),
        cmocka_unit_test(test_top_mirror_opens_the_backing_chain_anew),
        cmocka_unit_test(test_none_mirror_copies_only_what_is_written),
        cmocka_unit_test(test_cancel_leaves_the_source_and_the_target),
        cmocka_unit_test(test_failing_write_leaves_the_source),
        cmocka_unit_test(test_node_cannot_be_mirrored_into_its_own_chain),
    };

    return cmocka_run_group_tests(tests, job_test_setup, job_test_teardown);
}
