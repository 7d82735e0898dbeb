/* SPDX-License-Identifier: MIT */
/*
 * tests of the backup job
 */
#include "tests/unit/job_test.h"

#include "block/graph/drain.h"
#include "block/image/backup.h"
#include "block/io/bitmap.h"

static BlockDriverState *target_new(Disk *disk, const char *name)
{
    g_autofree char *path = disk_path(disk, name);
    BlockOptions *options = block_options_new();
    g_autoptr(GError) error = NULL;
    BlockDriverState *bs;

    if (!g_file_test(path, G_FILE_TEST_EXISTS)) {
        image_make(path, NULL, IMAGE_BYTES);
    }
    block_options_set_string(options, "driver", "qcow2");
    block_options_set_string(options, "file.driver", "test-fail");
    block_options_set_string(options, "file.file.driver", "file");
    block_options_set_string(options, "file.file.filename", path);
    bs = bdrv_open(NULL, options, BDRV_O_RDWR, NULL, &error);
    if (bs == NULL) {
        fail_msg("%s", error->message);
    }
    return bs;
}

/* A raw file at @path that counts what is written to it. */
static BlockDriverState *raw_target_new(Disk *disk, const char *path)
{
    BlockOptions *options = block_options_new();
    g_autoptr(GError) error = NULL;
    BlockDriverState *bs;

    assert_true(g_file_set_contents(path, "", 0, NULL));
    assert_int_equal(truncate(path, IMAGE_BYTES), 0);
    block_options_set_string(options, "driver", "raw");
    block_options_set_string(options, "file.driver", "test-fail");
    block_options_set_string(options, "file.file.driver", "file");
    block_options_set_string(options, "file.file.filename", path);
    bs = bdrv_open(NULL, options, BDRV_O_RDWR, NULL, &error);
    if (bs == NULL) {
        fail_msg("%s", error->message);
    }
    return bs;
}

/* The model at the job's making is what the target must hold. */
static Job *backup_start(Disk *disk, BlockDriverState *target,
                         BackupSync sync, const char *bitmap,
                         uint8_t *ret_expected, int64_t speed,
                         IoThread *thread)
{
    BackupConfig config = { disk_top(disk), target, sync, bitmap };
    g_autoptr(GError) error = NULL;
    Job *job;

    blk_drain_begin(disk->blk);
    job = backup_job_new("backup", &config, &error);
    if (job == NULL) {
        fail_msg("%s", error->message);
    }
    if (ret_expected != NULL) {
        assert_int_equal(blk_pread(disk->blk, 0, IMAGE_BYTES, ret_expected),
                         0);
    }
    blk_drain_end(disk->blk);
    job_set_speed(job, speed);
    job_start(job, thread);
    return job;
}

static void assert_filter_is_gone(Disk *disk, BlockDriverState *source,
                                  BlockDriverState *target)
{
    assert_ptr_equal(blk_bs(disk->blk), source);
    assert_int_equal(source->parents->len, 1);
    assert_int_equal(target->parents->len, 0);
    assert_false(source->backing->frozen);
    assert_blk_reads(disk->blk, disk->model);
}

static void test_full_backup_is_the_moment_of_its_start(void **state)
{
    Disk *disk = disk_new();
    IoThread *thread = io_thread_new("job", NULL);
    BlockDriverState *target = target_new(disk, "target.qcow2");
    g_autofree char *path = disk_path(disk, "target.qcow2");
    g_autofree uint8_t *expected = g_malloc(IMAGE_BYTES);
    BlockDriverState *source;
    Guest *guest;

    disk_open(disk, NULL);
    source = disk_top(disk);
    guest = guest_start(disk);
    guest_let_work(guest, 100);
    assert_job_succeeds(backup_start(disk, target, BACKUP_SYNC_FULL, NULL,
                                     expected, 12 * MIB, thread));
    guest_let_work(guest, 100);
    guest_stop(guest);

    assert_filter_is_gone(disk, source, target);
    bdrv_unref(target);
    assert_file_reads(path, expected);
    io_thread_free(thread);
    disk_free(disk);
}

/* What the top layer has, over zeros. */
static void test_top_backup_copies_the_top_layer(void **state)
{
    Disk *disk = disk_new();
    BlockDriverState *target = target_new(disk, "target.qcow2");
    g_autofree char *path = disk_path(disk, "target.qcow2");
    g_autofree uint8_t *data = g_malloc(64 * KIB);
    BlockBackend *blk;

    disk_open(disk, NULL);
    assert_job_succeeds(backup_start(disk, target, BACKUP_SYNC_TOP, NULL,
                                     NULL, 0, NULL));
    bdrv_unref(target);

    blk = image_open(path, BDRV_O_RDONLY);
    assert_int_equal(blk_pread(blk, 128 * KIB, 64 * KIB, data), 0);
    assert_int_equal(data[0], 3); /* top's own */
    assert_int_equal(blk_pread(blk, 0, 64 * KIB, data), 0);
    assert_int_equal(data[0], 0); /* base's */
    blk_free(blk);
    disk_free(disk);
}

static void test_incremental_backups_add_up(void **state)
{
    Disk *disk = disk_new();
    IoThread *thread = io_thread_new("job", NULL);
    BlockDriverState *target = target_new(disk, "target.qcow2");
    g_autofree char *path = disk_path(disk, "target.qcow2");
    g_autofree uint8_t *expected = g_malloc(IMAGE_BYTES);
    Guest *guest;

    disk_open(disk, NULL);
    bdrv_drained_begin(disk_top(disk));
    assert_non_null(bdrv_dirty_bitmap_new(disk_top(disk), "bits", 64 * KIB,
                                          NULL));
    bdrv_drained_end(disk_top(disk));
    assert_job_succeeds(backup_start(disk, target, BACKUP_SYNC_FULL, NULL,
                                     NULL, 0, thread));
    guest = guest_start(disk);
    for (int round = 0; round < 3; round++) {
        guest_let_work(guest, 40);
        assert_job_succeeds(backup_start(disk, target,
                                         BACKUP_SYNC_INCREMENTAL, "bits",
                                         expected, 0, thread));
    }
    guest_stop(guest);

    bdrv_unref(target);
    assert_file_reads(path, expected);
    io_thread_free(thread);
    disk_free(disk);
}

static void test_bitmap_keeps_its_bits_when_cancelled(void **state)
{
    Disk *disk = disk_new();
    BlockDriverState *target = target_new(disk, "target.qcow2");
    g_autofree uint8_t *data = g_malloc0(64 * KIB);
    BlockDriverState *source;
    BdrvDirtyBitmap *bitmap;
    Job *job;

    disk_open(disk, NULL);
    source = disk_top(disk);
    bitmap = bdrv_dirty_bitmap_new(source, "bits", 64 * KIB, NULL);
    bdrv_dirty_bitmap_set(bitmap, 0, 2 * MIB);
    job = backup_start(disk, target, BACKUP_SYNC_INCREMENTAL, "bits", NULL,
                       KIB, NULL);
    assert_true(bdrv_dirty_bitmap_is_frozen(bitmap));
    assert_int_equal(blk_pwrite(disk->blk, 4 * MIB, 64 * KIB, data), 0);
    memset(disk->model + 4 * MIB, 0, 64 * KIB);
    job_cancel(job);
    assert_int_not_equal(job_end(job), 0);

    assert_false(bdrv_dirty_bitmap_is_frozen(bitmap));
    assert_int_equal(bdrv_dirty_bitmap_count(bitmap), 2 * MIB + 64 * KIB);
    assert_filter_is_gone(disk, source, target);
    bdrv_unref(target);
    disk_free(disk);
}

static void test_bitmap_begins_anew_after_success(void **state)
{
    Disk *disk = disk_new();
    BlockDriverState *target = target_new(disk, "target.qcow2");
    g_autofree uint8_t *data = g_malloc0(64 * KIB);
    BdrvDirtyBitmap *bitmap;
    Job *job;

    disk_open(disk, NULL);
    bitmap = bdrv_dirty_bitmap_new(disk_top(disk), "bits", 64 * KIB, NULL);
    bdrv_dirty_bitmap_set(bitmap, 0, 2 * MIB);
    job = backup_start(disk, target, BACKUP_SYNC_INCREMENTAL, "bits", NULL,
                       0, NULL);
    assert_int_equal(blk_pwrite(disk->blk, 4 * MIB, 64 * KIB, data), 0);
    assert_job_succeeds(job);

    bitmap = bdrv_dirty_bitmap_find(disk_top(disk), "bits");
    assert_int_equal(bdrv_dirty_bitmap_count(bitmap), 64 * KIB);
    bdrv_unref(target);
    disk_free(disk);
}

static void test_failing_target_breaks_the_job_and_not_the_guest(void **state)
{
    Disk *disk = disk_new();
    IoThread *thread = io_thread_new("job", NULL);
    BlockDriverState *target = target_new(disk, "target.qcow2");
    BlockDriverState *source;
    Guest *guest;
    Job *job;

    disk_open(disk, NULL);
    source = disk_top(disk);
    guest = guest_start(disk);
    __atomic_store_n(&writes_until_failure, 4, __ATOMIC_SEQ_CST);
    job = backup_start(disk, target, BACKUP_SYNC_FULL, NULL, NULL, 0, thread);
    assert_int_not_equal(job_end(job), 0);
    guest_stop(guest);

    assert_filter_is_gone(disk, source, target);
    bdrv_unref(target);
    io_thread_free(thread);
    disk_free(disk);
}

static void test_missing_bitmap_is_named(void **state)
{
    Disk *disk = disk_new();
    BlockDriverState *target = target_new(disk, "target.qcow2");
    g_autoptr(GError) error = NULL;
    BackupConfig config = { NULL, target, BACKUP_SYNC_INCREMENTAL, "none" };

    disk_open(disk, NULL);
    config.source = disk_top(disk);

    assert_null(backup_job_new("backup", &config, &error));
    assert_int_equal(error->code, IMGFUSE_ERROR_NOT_FOUND);
    assert_non_null(strstr(error->message, "'none'"));
    assert_filter_is_gone(disk, config.source, target);
    bdrv_unref(target);
    disk_free(disk);
}

/*
 * The guest overwrites everything while the job is slow: part of it is copied
 * by the guest's writes, part by the job, and nothing by both.
 */
static void test_nothing_is_copied_twice(void **state)
{
    Disk *disk = disk_new();
    IoThread *thread = io_thread_new("job", NULL);
    g_autofree char *path = disk_path(disk, "target.raw");
    g_autofree uint8_t *expected = g_malloc(IMAGE_BYTES);
    g_autofree uint8_t *data = g_malloc(64 * KIB);
    g_autofree uint8_t *copy = NULL;
    BlockDriverState *target = raw_target_new(disk, path);
    gsize length;
    Job *job;

    image_fill(disk->top, disk->model, 0, 64 * KIB, 4); /* no holes */
    image_fill(disk->top, disk->model, 64 * KIB, 64 * KIB, 5);
    disk_open(disk, NULL);
    bytes_written = 0;
    job = backup_start(disk, target, BACKUP_SYNC_FULL, NULL, expected,
                       8 * MIB, thread);
    memset(data, 9, 64 * KIB);
    for (int64_t at = IMAGE_BYTES - 64 * KIB; at >= 0; at -= 64 * KIB) {
        assert_int_equal(blk_pwrite(disk->blk, at, 64 * KIB, data), 0);
        control_poll();
    }
    assert_job_succeeds(job);

    assert_int_equal(bytes_written, IMAGE_BYTES);
    bdrv_unref(target);
    assert_true(g_file_get_contents(path, (char **)&copy, &length, NULL));
    assert_int_equal(length, IMAGE_BYTES);
    assert_memory_equal(copy, expected, IMAGE_BYTES);
    io_thread_free(thread);
    disk_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_full_backup_is_the_moment_of_its_start),
        cmocka_unit_test(test_top_backup_copies_the_top_layer),
        cmocka_unit_test(test_incremental_backups_add_up),
        cmocka_unit_test(test_bitmap_keeps_its_bits_when_cancelled),
        cmocka_unit_test(test_bitmap_begins_anew_after_success),
        cmocka_unit_test(test_failing_target_breaks_the_job_and_not_the_guest),
        cmocka_unit_test(test_missing_bitmap_is_named),
        cmocka_unit_test(test_nothing_is_copied_twice),
    };

    return cmocka_run_group_tests(tests, job_test_setup, job_test_teardown);
}
