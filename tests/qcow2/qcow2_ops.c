/* SPDX-License-Identifier: MIT */
/*
 * runs random operations on an image from several threads and compares with a
 * model
 *
 * The model is a raw file of the same length, which holds what the image
 * should read; it is made empty when it is missing, and is right at the end,
 * for other tools to compare with the image. Jobs are coroutines on the
 * threads; each takes a range that no other job uses, but shares clusters and
 * tables with its neighbours: that is what goes wrong in allocators.
 *
 * Everything follows from --seed, but for the order among threads. Exit
 * status: 0 all equal, 1 a difference or an error, 2 usage.
 */
#include "block/backend.h"
#include "block/crypto/secret.h"
#include "block/rt/io_thread.h"
#include "block/rt/thread_pool.h"
#include "drivers/registry.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define JOBS_MAX 256
#define COMPARE_STEP (1 * MIB)

static char *arg_image, *arg_model, *arg_ops_kinds, *arg_secret;
static int arg_seed = 1, arg_ops = 1000, arg_threads = 1, arg_jobs = 4;
static int arg_max_kib = 512, arg_direct, arg_seconds;

static const GOptionEntry entries[] = {
    { "image", 0, 0, G_OPTION_ARG_STRING, &arg_image, "image, or json:{}",
      "NAME" },
    { "model", 0, 0, G_OPTION_ARG_FILENAME, &arg_model, "model file", "FILE" },
    { "seed", 0, 0, G_OPTION_ARG_INT, &arg_seed, "of all randomness", "N" },
    { "ops", 0, 0, G_OPTION_ARG_INT, &arg_ops, "operations in all", "N" },
    { "seconds", 0, 0, G_OPTION_ARG_INT, &arg_seconds,
      "stop after so long, whatever --ops says", "N" },
    { "threads", 0, 0, G_OPTION_ARG_INT, &arg_threads, "I/O threads", "N" },
    { "jobs", 0, 0, G_OPTION_ARG_INT, &arg_jobs, "jobs per thread", "N" },
    { "max-kib", 0, 0, G_OPTION_ARG_INT, &arg_max_kib, "longest operation",
      "N" },
    { "secret", 0, 0, G_OPTION_ARG_STRING, &arg_secret,
      "as imgfuse's --object: secret,id=ID,data=TEXT", "TEXT" },
    { "direct", 0, 0, G_OPTION_ARG_NONE, &arg_direct, "O_DIRECT", NULL },
    { "kinds", 0, 0, G_OPTION_ARG_STRING, &arg_ops_kinds,
      "letters to choose from: r w c z u d f", "LETTERS" },
    { NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL },
};

static BlockBackend *blk;
static uint8_t *model;
static int64_t length;
static int ops_left; /* atomic */
static int failed;   /* atomic */
static gint64 deadline_us = G_MAXINT64;

/* Ranges in use, by job; empty ones have no bytes. */
static struct {
    GMutex lock;
    int64_t offset[JOBS_MAX], bytes[JOBS_MAX];
} busy;

typedef struct Job {
    int index;
    uint64_t random; /* state */
    uint8_t *buffer;
} Job;

static uint64_t next_random(Job *job)
{
    /* splitmix64 */
    uint64_t z = (job->random += 0x9e3779b97f4a7c15ull);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static void fail(const Job *job, const char *what, int64_t offset,
                 int64_t bytes, int ret)
{
    if (!__atomic_exchange_n(&failed, 1, __ATOMIC_SEQ_CST)) {
        fprintf(stderr,
                "job %d: %s of %" PRId64 " bytes at %" PRId64 ": %s\n"
                "repeat with --seed %d\n", job->index, what, bytes, offset,
                ret ? g_strerror(-ret) : "wrong content", arg_seed);
    }
}

/* Any length up to the maximum, short ones as likely as long ones. */
static void choose_range(Job *job, int64_t *offset, int64_t *bytes)
{
    static const int64_t alignments[] = { 1, 512, 4096, 65536 };
    int64_t alignment = alignments[next_random(job) % 4];
    int64_t longest = MIN((int64_t)arg_max_kib * 1024, length);
    int64_t limit = (int64_t)1 << (next_random(job) % 30);

    *bytes = 1 + next_random(job) % MIN(limit, longest);
    *offset = next_random(job) % (length - *bytes + 1);
    if (next_random(job) % 4) {
        *offset = align_down(*offset, alignment);
        *bytes = MIN(align_up(*bytes, alignment), length - *offset);
        *bytes = MIN(*bytes, longest);
    }
}

static bool take_range(Job *job, int64_t offset, int64_t bytes)
{
    bool free = true;

    g_mutex_lock(&busy.lock);
    for (int i = 0; i < JOBS_MAX && free; i++) {
        free = !ranges_overlap(busy.offset[i], busy.bytes[i], offset, bytes) ||
               busy.bytes[i] == 0;
    }
    if (free) {
        busy.offset[job->index] = offset;
        busy.bytes[job->index] = bytes;
    }
    g_mutex_unlock(&busy.lock);
    return free;
}

static void give_range(Job *job)
{
    g_mutex_lock(&busy.lock);
    busy.bytes[job->index] = 0;
    g_mutex_unlock(&busy.lock);
}

/* A vector of one to three parts over the job's buffer. */
static void make_iov(Job *job, IoVec *iov, int64_t bytes)
{
    int64_t first = next_random(job) % bytes;

    iovec_init(iov);
    if (first > 0) {
        iovec_add(iov, job->buffer, first);
    }
    iovec_add(iov, job->buffer + first, bytes - first);
}

static int coroutine_fn read_range(Job *job, int64_t offset, int64_t bytes)
{
    IoVec iov;
    int ret;

    make_iov(job, &iov, bytes);
    ret = blk_co_preadv(blk, offset, bytes, &iov, 0);
    iovec_destroy(&iov);
    return ret;
}

static void coroutine_fn op_read(Job *job, int64_t offset, int64_t bytes)
{
    int ret = read_range(job, offset, bytes);

    if (ret < 0 || memcmp(job->buffer, model + offset, bytes) != 0) {
        fail(job, "read", offset, bytes, ret);
    }
}

static void coroutine_fn op_write(Job *job, int64_t offset, int64_t bytes)
{
    uint64_t pattern = next_random(job);
    IoVec iov;
    int ret;

    for (int64_t i = 0; i < bytes; i++) {
        job->buffer[i] = (pattern >> (i % 8 * 8)) + i / 512;
    }
    make_iov(job, &iov, bytes);
    ret = blk_co_pwritev(blk, offset, bytes, &iov, 0);
    iovec_destroy(&iov);
    if (ret < 0) {
        fail(job, "write", offset, bytes, ret);
    }
    memcpy(model + offset, job->buffer, bytes);
}

/* Whole clusters of the range, each with content that compresses or not. */
static void coroutine_fn op_compressed(Job *job, int64_t offset,
                                       int64_t bytes)
{
    int64_t cluster = blk_cluster_bytes(blk);
    int64_t start = align_up(offset, cluster);
    int64_t end = align_down(offset + bytes, cluster);

    if (offset + bytes == length) {
        end = length;
    }
    for (int64_t at = start; at < end; at += cluster) {
        int64_t part = MIN(cluster, end - at);
        bool dense = next_random(job) % 2;
        uint64_t pattern = next_random(job);
        IoVec iov;
        int ret;

        for (int64_t i = 0; i < part; i++) {
            job->buffer[i] = dense ? next_random(job) >> 40
                                   : (pattern >> (i % 8 * 8)) +
                                         (uint64_t)i / 512;
        }
        make_iov(job, &iov, part);
        ret = blk_co_pwritev(blk, at, part, &iov, BDRV_REQ_WRITE_COMPRESSED);
        iovec_destroy(&iov);
        if (ret < 0) {
            fail(job, "compressed write", at, part, ret);
            return;
        }
        memcpy(model + at, job->buffer, part);
    }
}

static void coroutine_fn op_zeroes(Job *job, int64_t offset, int64_t bytes,
                                   BdrvRequestFlags flags)
{
    int ret = blk_co_pwrite_zeroes(blk, offset, bytes, flags);

    if (ret < 0) {
        fail(job, "zeroes", offset, bytes, ret);
    }
    memset(model + offset, 0, bytes);
}

/* A discarded byte is old or zero; what it is then, it stays. */
static void coroutine_fn op_discard(Job *job, int64_t offset, int64_t bytes)
{
    int ret = blk_co_pdiscard(blk, offset, bytes);

    if (ret >= 0) {
        ret = read_range(job, offset, bytes);
    }
    if (ret < 0) {
        fail(job, "discard", offset, bytes, ret);
        return;
    }
    for (int64_t i = 0; i < bytes; i++) {
        if (job->buffer[i] != 0 && job->buffer[i] != model[offset + i]) {
            fail(job, "discard", offset, bytes, 0);
            return;
        }
    }
    memcpy(model + offset, job->buffer, bytes);
}

static void coroutine_fn run_one(Job *job, int64_t offset, int64_t bytes)
{
    const char *kinds = arg_ops_kinds ? arg_ops_kinds : "rrrwwwwwzudf";
    int ret;

    switch (kinds[next_random(job) % strlen(kinds)]) {
    case 'r':
        op_read(job, offset, bytes);
        break;
    case 'w':
        op_write(job, offset, bytes);
        break;
    case 'c':
        op_compressed(job, offset, bytes);
        break;
    case 'z':
        op_zeroes(job, offset, bytes, 0);
        break;
    case 'u':
        op_zeroes(job, offset, bytes, BDRV_REQ_MAY_UNMAP);
        break;
    case 'd':
        op_discard(job, offset, bytes);
        break;
    default:
        ret = blk_co_flush(blk);
        if (ret < 0) {
            fail(job, "flush", 0, 0, ret);
        }
    }
}

static void coroutine_fn job_entry(void *opaque)
{
    Job *job = opaque;

    while (__atomic_sub_fetch(&ops_left, 1, __ATOMIC_SEQ_CST) >= 0 &&
           !__atomic_load_n(&failed, __ATOMIC_SEQ_CST) &&
           g_get_monotonic_time() < deadline_us) {
        int64_t offset, bytes;

        do {
            choose_range(job, &offset, &bytes);
        } while (!take_range(job, offset, bytes));
        run_one(job, offset, bytes);
        give_range(job);
    }
}

static void start_jobs(void *opaque)
{
    Job *jobs = opaque;

    for (int i = 0; i < arg_jobs; i++) {
        co_enter(co_create(job_entry, &jobs[i]));
    }
}

static bool open_model(void)
{
    int fd = open(arg_model, O_RDWR | O_CREAT, 0666);

    if (fd < 0 || ftruncate(fd, length) < 0) {
        perror(arg_model);
        return false;
    }
    model = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return model != MAP_FAILED;
}

static bool compare_all(void)
{
    g_autofree uint8_t *buffer = g_malloc(COMPARE_STEP);

    for (int64_t at = 0; at < length; at += COMPARE_STEP) {
        int64_t bytes = MIN(COMPARE_STEP, length - at);
        int ret = blk_pread(blk, at, bytes, buffer);

        if (ret < 0) {
            fprintf(stderr, "reading at %" PRId64 ": %s\n", at,
                    g_strerror(-ret));
            return false;
        }
        for (int64_t i = 0; i < bytes; i++) {
            if (buffer[i] != model[at + i]) {
                fprintf(stderr, "byte %" PRId64 " is 0x%02x, must be 0x%02x; "
                        "repeat with --seed %d\n", at + i, buffer[i],
                        model[at + i], arg_seed);
                return false;
            }
        }
    }
    return true;
}

static void do_nothing(void *opaque)
{
}

static void run_threads(void)
{
    int count = arg_threads * arg_jobs;
    g_autofree Job *jobs = g_new0(Job, count);
    g_autofree IoThread **threads = g_new0(IoThread *, arg_threads);

    ops_left = arg_ops;
    if (arg_seconds > 0) {
        deadline_us = g_get_monotonic_time() +
                      (gint64)arg_seconds * G_USEC_PER_SEC;
    }
    for (int i = 0; i < count; i++) {
        jobs[i].index = i;
        jobs[i].random = (uint64_t)arg_seed * 1000003 + (uint64_t)i;
        jobs[i].buffer = g_malloc((size_t)arg_max_kib * 1024);
    }
    for (int i = 0; i < arg_threads; i++) {
        threads[i] = io_thread_new("ops", NULL);
        g_assert(threads[i]);
        aio_schedule(io_thread_context(threads[i]), start_jobs,
                     &jobs[i * arg_jobs]);
    }
    for (int i = 0; i < arg_threads; i++) {
        /* start_jobs has run when this has */
        io_thread_run(threads[i], do_nothing, NULL);
        io_thread_free(threads[i]); /* when its jobs have ended */
    }
    for (int i = 0; i < count; i++) {
        g_free(jobs[i].buffer);
    }
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;
    BdrvOpenFlags flags = BDRV_O_RDWR | BDRV_O_UNMAP;
    AioContext *ctx;
    bool good;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) ||
        !arg_image || !arg_model || arg_threads < 1 || arg_jobs < 1 ||
        arg_threads * arg_jobs > JOBS_MAX || arg_max_kib < 1) {
        fprintf(stderr, "usage: %s --image NAME --model FILE ...: %s\n",
                argv[0], error ? error->message : "see --help");
        return 2;
    }
    if (arg_secret && !secret_add_object(arg_secret, &error)) {
        fprintf(stderr, "%s\n", error->message);
        return 2;
    }
    ctx = aio_context_new(&error);
    drivers_register_all();
    flags |= arg_direct ? BDRV_O_NOCACHE : 0;
    blk = ctx ? blk_open(arg_image, NULL, flags, NULL, "qcow2_ops", &error)
              : NULL;
    if (!blk) {
        fprintf(stderr, "%s\n", error->message);
        return 1;
    }
    length = blk_length(blk);
    if (length == 0 || !open_model()) {
        return 1;
    }
    run_threads();
    good = blk_flush(blk) >= 0 && compare_all() && !failed;
    blk_free(blk);
    munmap(model, length);
    thread_pool_shutdown();
    aio_context_free(ctx);
    return good ? 0 : 1;
}
