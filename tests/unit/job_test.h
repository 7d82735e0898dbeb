/* SPDX-License-Identifier: MIT */
/*
 * for tests of jobs: a chain of qcow2 images with a guest at work on top
 *
 *   guest (coroutines on two I/O threads) ─▶ top ─▶ mid ─▶ base
 *
 * The model is what the guest must read. Each guest coroutine has blocks of
 * its own, so it knows what they hold while all of them run. A filter named
 * "test-fail" over any file fails a write on demand.
 */
#ifndef TESTS_UNIT_JOB_TEST_H
#define TESTS_UNIT_JOB_TEST_H

#include "block/backend.h"
#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/graph/open.h"
#include "block/image/create.h"
#include "block/image/job.h"
#include "block/io/io.h"
#include "block/rt/aio_context.h"
#include "block/rt/buffer_pool.h"
#include "block/rt/io_thread.h"
#include "block/rt/thread_pool.h"
#include "block/rt/timer.h"
#include "drivers/registry.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define IMAGE_BYTES (6 * MIB)
#define GUEST_BLOCK 4096
#define GUEST_WORKERS 4
#define WAIT_NS (60 * INT64_C(1000000000))

/* Writes that pass "test-fail" before one fails; -1: none fails. Atomic. */
static int writes_until_failure = -1;
/* What "test-fail" has been asked to write, zeros apart. Atomic. */
static int64_t bytes_written;

static inline int coroutine_fn test_fail_pwritev(BlockDriverState *bs,
                                                 int64_t offset, int64_t bytes,
                                                 IoVec *iov, size_t iov_offset,
                                                 BdrvRequestFlags flags)
{
    __atomic_fetch_add(&bytes_written, bytes, __ATOMIC_RELAXED);
    if (__atomic_load_n(&writes_until_failure, __ATOMIC_SEQ_CST) >= 0 &&
        __atomic_fetch_sub(&writes_until_failure, 1, __ATOMIC_SEQ_CST) == 0) {
        return -EIO;
    }
    return bdrv_co_pwritev(bs->file, offset, bytes, iov, iov_offset, flags);
}

static inline bool test_fail_open(BlockDriverState *bs, BlockOptions *options,
                                  BdrvOpenFlags flags, GError **error)
{
    if (!bdrv_open_file_child(bs, options, error)) {
        return false;
    }
    bs->length = bdrv_node_length(bs->file->bs);
    return true;
}

static const BlockDriver test_fail_driver = {
    .format_name = "test-fail",
    .is_filter = true,
    .open = test_fail_open,
    .co_pwritev = test_fail_pwritev,
};

/* The folder of the test under way: one that fails does not remove it. */
static char *job_test_folder;

/* A folder with plain files in it. */
static inline void remove_folder(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *file = g_build_filename(path, name, NULL);

        (void) unlink(file);
    }
    g_clear_pointer(&dir, g_dir_close);
    (void) rmdir(path);
}

/* At the end of each test, or of the program. */
static inline void forget_folder(void)
{
    if (job_test_folder != NULL) {
        remove_folder(job_test_folder);
    }
    g_clear_pointer(&job_test_folder, g_free);
}

static inline int job_test_setup(void **state)
{
    g_autoptr(GError) error = NULL;

    drivers_register_all();
    bdrv_register(&test_fail_driver);
    *state = aio_context_new(&error);
    assert_non_null(*state);
    return 0;
}

static inline int job_test_teardown(void **state)
{
    forget_folder();
    thread_pool_shutdown();
    buffer_pool_drain();
    aio_context_free(*state);
    return 0;
}

#define assert_ok(call)                                   \
    do {                                                  \
        g_autoptr(GError) error = NULL;                   \
        if (!(call)) {                                    \
            fail_msg("%s", error ? error->message : "?"); \
        }                                                 \
    } while (0)

/* ---- images and a model of them ---- */

typedef struct Disk {
    char *dir;
    char *base, *mid, *top; /* paths */
    uint8_t *model;
    BlockBackend *blk; /* the guest's */
} Disk;

static inline char *disk_path(const Disk *disk, const char *name)
{
    return g_build_filename(disk->dir, name, NULL);
}

static inline void image_make(const char *path, const char *backing,
                              int64_t length)
{
    ImageCreateRequest request = {
        .filename = path, .format = "qcow2", .length = length,
        .backing_name = backing, .backing_format = backing ? "qcow2" : NULL,
    };

    assert_ok(image_create(&request, NULL, &error));
}

static inline BlockBackend *image_open(const char *path, BdrvOpenFlags flags)
{
    g_autoptr(GError) error = NULL;
    BlockBackend *blk = blk_open(path, NULL, flags, NULL, "test", &error);

    if (blk == NULL) {
        fail_msg("%s: %s", path, error->message);
    }
    return blk;
}

/* Runs of @byte, every other one of @step bytes, into image and model. */
static inline void image_fill(const char *path, uint8_t *model, int64_t first,
                              int64_t step, uint8_t byte)
{
    BlockBackend *blk = image_open(path, BDRV_O_RDWR);
    g_autofree uint8_t *data = g_malloc(step);
    int64_t length = MIN(blk_length(blk), IMAGE_BYTES);

    memset(data, byte, step);
    for (int64_t at = first; at + step <= length; at += 2 * step) {
        assert_int_equal(blk_pwrite(blk, at, step, data), 0);
        memset(model + at, byte, step);
    }
    blk_free(blk);
}

/* base <- mid <- top, each with something of its own. */
static inline Disk *disk_new(void)
{
    Disk *disk = g_new0(Disk, 1);

    disk->dir = g_dir_make_tmp("job-test-XXXXXX", NULL);
    assert_non_null(disk->dir);
    forget_folder(); /* of a test that failed */
    job_test_folder = g_strdup(disk->dir);
    disk->base = disk_path(disk, "base.qcow2");
    disk->mid = disk_path(disk, "mid.qcow2");
    disk->top = disk_path(disk, "top.qcow2");
    disk->model = g_malloc0(IMAGE_BYTES);
    image_make(disk->base, NULL, IMAGE_BYTES / 2); /* shorter */
    image_fill(disk->base, disk->model, 0, 256 * KIB, 1);
    image_make(disk->mid, "base.qcow2", IMAGE_BYTES);
    image_fill(disk->mid, disk->model, 192 * KIB, 128 * KIB, 2);
    image_make(disk->top, "mid.qcow2", IMAGE_BYTES);
    image_fill(disk->top, disk->model, 96 * KIB, 320 * KIB, 3);
    return disk;
}

/* Opens the guest's backend on top; @fail: which file may fail, or NULL. */
static inline void disk_open(Disk *disk, const char *fail)
{
    const char *const paths[] = { disk->top, disk->mid, disk->base };
    BlockOptions *options = block_options_new();
    g_autoptr(GError) error = NULL;
    GString *prefix = g_string_new(NULL);

    for (unsigned i = 0; i < 3; i++) {
        bool fails = fail != NULL && strcmp(fail, paths[i]) == 0;
        g_autofree char *driver = g_strdup_printf("%sdriver", prefix->str);
        g_autofree char *file = g_strdup_printf(
            "%sfile.%sdriver", prefix->str, fails ? "file." : "");
        g_autofree char *name = g_strdup_printf(
            "%sfile.%sfilename", prefix->str, fails ? "file." : "");

        block_options_set_string(options, driver, "qcow2");
        if (fails) {
            g_autofree char *filter =
                g_strdup_printf("%sfile.driver", prefix->str);

            block_options_set_string(options, filter, "test-fail");
        }
        block_options_set_string(options, file, "file");
        block_options_set_string(options, name, paths[i]);
        g_string_append(prefix, "backing.");
    }
    g_string_free(prefix, TRUE);
    disk->blk = blk_open(NULL, options, BDRV_O_RDWR, NULL, "guest", &error);
    if (disk->blk == NULL) {
        fail_msg("%s", error->message);
    }
}

static inline BlockDriverState *disk_top(Disk *disk)
{
    return bdrv_skip_filters(blk_bs(disk->blk));
}

static inline BlockDriverState *below(BlockDriverState *bs)
{
    assert_non_null(bs->backing);
    return bs->backing->bs;
}

static inline void assert_blk_reads(BlockBackend *blk, const uint8_t *model)
{
    g_autofree uint8_t *data = g_malloc(IMAGE_BYTES);

    assert_int_equal(blk_pread(blk, 0, IMAGE_BYTES, data), 0);
    for (int64_t at = 0; at < IMAGE_BYTES; at++) {
        if (data[at] != model[at]) {
            fail_msg("byte 0x%" PRIx64 " is %u, not %u", at, data[at],
                     model[at]);
        }
    }
}

static inline void assert_file_reads(const char *path, const uint8_t *model)
{
    BlockBackend *blk = image_open(path, BDRV_O_RDONLY);

    assert_blk_reads(blk, model);
    blk_free(blk);
}

static inline void count_node(BlockDriverState *bs, void *opaque)
{
    unsigned *count = opaque;

    (*count)++;
}

static inline void disk_free(Disk *disk)
{
    unsigned nodes = 0;

    writes_until_failure = -1;
    blk_free(disk->blk);
    bdrv_foreach_node(count_node, &nodes);
    assert_int_equal(nodes, 0);
    forget_folder();
    g_free(disk->base);
    g_free(disk->mid);
    g_free(disk->top);
    g_free(disk->dir);
    g_free(disk->model);
    g_free(disk);
}

/* ---- a guest at work ---- */

typedef struct Guest Guest;

typedef struct GuestWorker {
    Guest *guest;
    unsigned index;
    uint32_t seed;
    int failures;
    bool done; /* atomic */
} GuestWorker;

struct Guest {
    Disk *disk;
    IoThread *threads[2];
    GuestWorker workers[GUEST_WORKERS];
    bool stop;    /* atomic */
    unsigned ops; /* atomic */
};

static inline int coroutine_fn guest_step(GuestWorker *w, uint8_t *buffer)
{
    uint8_t *model = w->guest->disk->model;
    BlockBackend *blk = w->guest->disk->blk;
    int64_t blocks = IMAGE_BYTES / GUEST_BLOCK / GUEST_WORKERS;
    int64_t offset;
    IoVec iov;
    int ret;

    w->seed = w->seed * 1103515245u + 12345u;
    offset = ((w->seed >> 8) % blocks * GUEST_WORKERS + w->index)
             * GUEST_BLOCK;
    iovec_init_buffer(&iov, buffer, GUEST_BLOCK);
    if (w->seed >> 30 == 0) {
        ret = blk_co_preadv(blk, offset, GUEST_BLOCK, &iov, 0);
        return ret < 0 ? ret
            : memcmp(buffer, model + offset, GUEST_BLOCK) ? -EILSEQ : 0;
    }
    if (w->seed >> 28 == 15) {
        memset(model + offset, 0, GUEST_BLOCK);
        return blk_co_pwrite_zeroes(blk, offset, GUEST_BLOCK, 0);
    }
    memset(buffer, w->seed >> 16 | 0x80, GUEST_BLOCK);
    memcpy(model + offset, buffer, GUEST_BLOCK);
    return blk_co_pwritev(blk, offset, GUEST_BLOCK, &iov, 0);
}

static inline void coroutine_fn guest_main(void *opaque)
{
    GuestWorker *w = opaque;
    g_autofree uint8_t *buffer = g_malloc(GUEST_BLOCK);

    while (!__atomic_load_n(&w->guest->stop, __ATOMIC_ACQUIRE)) {
        w->failures += guest_step(w, buffer) < 0;
        __atomic_fetch_add(&w->guest->ops, 1, __ATOMIC_RELAXED);
        co_sleep_ns(200000); /* leave some processor to the job */
    }
    __atomic_store_n(&w->done, true, __ATOMIC_RELEASE);
}

static inline void guest_enter(void *opaque)
{
    co_enter(co_create(guest_main, opaque));
}

static inline Guest *guest_start(Disk *disk)
{
    Guest *guest = g_new0(Guest, 1);

    guest->disk = disk;
    for (unsigned i = 0; i < 2; i++) {
        guest->threads[i] = io_thread_new("guest", NULL);
        assert_non_null(guest->threads[i]);
    }
    for (unsigned i = 0; i < GUEST_WORKERS; i++) {
        guest->workers[i] = (GuestWorker) { guest, i, i * 77 + 1, 0, false };
        aio_schedule(io_thread_context(guest->threads[i % 2]), guest_enter,
                     &guest->workers[i]);
    }
    return guest;
}

/* Polls for a moment: jobs and drains need the control plane's loop. */
static inline void control_poll(void)
{
    while (aio_poll(aio_context_current(), /* may_sleep= */ false)) {
    }
    g_usleep(500);
}

/* Until the guest has made @ops more requests. */
static inline void guest_let_work(Guest *guest, unsigned ops)
{
    unsigned goal = __atomic_load_n(&guest->ops, __ATOMIC_RELAXED) + ops;

    while ((int)(__atomic_load_n(&guest->ops, __ATOMIC_RELAXED) - goal) < 0) {
        control_poll();
    }
}

/* Ends it; none of its requests may have failed or read wrong data. */
static inline void guest_stop(Guest *guest)
{
    int failures = 0;

    __atomic_store_n(&guest->stop, true, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < GUEST_WORKERS; i++) {
        while (!__atomic_load_n(&guest->workers[i].done, __ATOMIC_ACQUIRE)) {
            control_poll();
        }
        failures += guest->workers[i].failures;
    }
    for (unsigned i = 0; i < 2; i++) {
        io_thread_free(guest->threads[i]);
    }
    g_free(guest);
    assert_int_equal(failures, 0);
}

/* ---- jobs ---- */

/* Waits for the end and takes the result: 0, or the code of the error + 1. */
static inline int job_end(Job *job)
{
    g_autoptr(GError) error = NULL;
    int code = 0;

    assert_true(job_wait(job, /* until_ready= */ false, WAIT_NS));
    if (!job_result(job, &error)) {
        code = error->code + 1;
        if (g_getenv("JOB_TEST_VERBOSE")) {
            print_message("job: %s\n", error->message);
        }
    }
    job_free(job);
    return code;
}

static inline void assert_job_succeeds(Job *job)
{
    g_autoptr(GError) error = NULL;

    assert_true(job_wait(job, /* until_ready= */ false, WAIT_NS));
    if (!job_result(job, &error)) {
        fail_msg("%s", error->message);
    }
    job_free(job);
}

#endif
