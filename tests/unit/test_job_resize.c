/* SPDX-License-Identifier: MIT */
/*
 * jobs under a guest that may resize its disk: they start, the length stays
 * as it is until they end, and then the guest may resize again
 */
#include "tests/unit/job_test.h"

#include "block/graph/perm.h"
#include "block/image/backup.h"
#include "block/image/commit.h"
#include "block/image/mirror.h"
#include "block/image/stream.h"

#define SLOW (512 * KIB) /* a second */

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

static int resize(Disk *disk, int64_t length)
{
    Resize call = { disk->blk, length, 0 };

    aio_run_sync(resize_entry, &call);
    return call.ret;
}

/* A guest with all that a growable mount asks for. */
static Disk *growable_disk(void)
{
    Disk *disk = disk_new();

    disk_open(disk, NULL);
    assert_true(blk_set_perm(disk->blk, BLK_PERM_CONSISTENT_READ |
                             BLK_PERM_WRITE | BLK_PERM_RESIZE,
                             BLK_PERM_CONSISTENT_READ |
                             BLK_PERM_WRITE_UNCHANGED, NULL));
    return disk;
}

static BlockDriverState *target_open(Disk *disk)
{
    g_autofree char *path = disk_path(disk, "target.qcow2");
    g_autoptr(GError) error = NULL;
    BlockDriverState *bs;

    image_make(path, NULL, IMAGE_BYTES);
    bs = bdrv_open(path, NULL, BDRV_O_RDWR | BDRV_O_RESIZE, NULL, &error);
    if (bs == NULL) {
        fail_msg("%s", error->message);
    }
    return bs;
}

static Job *make_commit(Disk *disk, BlockDriverState *target, GError **error)
{
    return commit_job_new("job", disk_top(disk), below(disk_top(disk)),
                          error);
}

static Job *make_stream(Disk *disk, BlockDriverState *target, GError **error)
{
    return stream_job_new("job", disk_top(disk), /* base= */ NULL, error);
}

static Job *make_mirror(Disk *disk, BlockDriverState *target, GError **error)
{
    MirrorConfig config = { .source = disk_top(disk), .target = target,
                            .sync = MIRROR_SYNC_FULL };

    return mirror_job_new("job", &config, error);
}

static Job *make_backup(Disk *disk, BlockDriverState *target, GError **error)
{
    BackupConfig config = { .source = disk_top(disk), .target = target,
                            .sync = BACKUP_SYNC_FULL };

    return backup_job_new("job", &config, error);
}

/* To its end; commit and mirror get ready first. */
static void finish(Job *job)
{
    JobProgress progress;

    job_set_speed(job, 0);
    assert_true(job_wait(job, /* until_ready= */ true, WAIT_NS));
    job_get_progress(job, &progress);
    if (progress.status == JOB_READY) {
        assert_true(job_complete(job, NULL));
    }
    assert_job_succeeds(job);
}

static void assert_job_keeps_the_length(Job *(*make)(Disk *disk,
                                                     BlockDriverState *target,
                                                     GError **error))
{
    Disk *disk = growable_disk();
    BlockDriverState *target = target_open(disk);
    g_autoptr(GError) error = NULL;
    Job *job = make(disk, target, &error);

    if (job == NULL) {
        fail_msg("%s", error->message);
    }
    job_set_speed(job, SLOW);
    job_start(job, NULL);
    assert_int_equal(resize(disk, 2 * IMAGE_BYTES), -EBUSY);
    assert_int_equal(resize(disk, IMAGE_BYTES / 2), -EBUSY);
    assert_int_equal(blk_length(disk->blk), IMAGE_BYTES);
    finish(job);

    assert_blk_reads(disk->blk, disk->model);
    assert_int_equal(resize(disk, IMAGE_BYTES + MIB), 0);
    assert_int_equal(blk_length(disk->blk), IMAGE_BYTES + MIB);
    g_clear_pointer(&disk->blk, blk_free);
    bdrv_unref(target);
    disk_free(disk);
}

static void test_commit_keeps_the_length(void **state)
{
    assert_job_keeps_the_length(make_commit);
}

static void test_stream_keeps_the_length(void **state)
{
    assert_job_keeps_the_length(make_stream);
}

static void test_mirror_keeps_the_length(void **state)
{
    assert_job_keeps_the_length(make_mirror);
}

static void test_backup_keeps_the_length(void **state)
{
    assert_job_keeps_the_length(make_backup);
}

/* A raw file grows by being written past its end. */
static void test_a_write_past_the_end_is_busy_too(void **state)
{
    Disk *disk = disk_new();
    g_autofree char *path = disk_path(disk, "source.raw");
    MirrorConfig config = { .sync = MIRROR_SYNC_FULL };
    uint8_t byte = 1;
    Job *job;

    assert_true(g_file_set_contents(path, "", 0, NULL));
    assert_int_equal(truncate(path, IMAGE_BYTES), 0);
    disk->blk = blk_open(path, block_options_from_json(
        "{\"driver\":\"raw\"}", NULL), BDRV_O_RDWR | BDRV_O_RESIZE, NULL,
        "guest", NULL);
    assert_non_null(disk->blk);
    config.source = blk_bs(disk->blk);
    config.target = target_open(disk);
    job = mirror_job_new("job", &config, NULL);
    assert_non_null(job);
    job_set_speed(job, SLOW);
    job_start(job, NULL);
    assert_int_equal(blk_pwrite(disk->blk, IMAGE_BYTES, 1, &byte), -EBUSY);
    assert_int_equal(blk_pwrite(disk->blk, IMAGE_BYTES - 1, 1, &byte), 0);
    job_cancel(job);
    assert_int_not_equal(job_end(job), 0);

    assert_int_equal(blk_pwrite(disk->blk, IMAGE_BYTES, 1, &byte), 0);
    assert_int_equal(blk_length(disk->blk), IMAGE_BYTES + 1);
    bdrv_unref(config.target);
    disk_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commit_keeps_the_length),
        cmocka_unit_test(test_stream_keeps_the_length),
        cmocka_unit_test(test_mirror_keeps_the_length),
        cmocka_unit_test(test_backup_keeps_the_length),
        cmocka_unit_test(test_a_write_past_the_end_is_busy_too),
    };

    return cmocka_run_group_tests(tests, job_test_setup, job_test_teardown);
}
