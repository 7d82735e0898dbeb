/* SPDX-License-Identifier: MIT */
/*
 * tests of block/rt/aio_file.c and of the engines
 *
 * Every behaviour runs over the table of places: a memory file system, a real
 * one cached and direct, with each engine forced in turn. What this machine
 * does not have is skipped with a message.
 */
#include "block/rt/aio_context.h"
#include "block/rt/aio_file.h"
#include "block/rt/engine.h"
#include "block/rt/io_thread.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define BLOCK 4096
#define BLOCKS 256

typedef struct Place {
    const char *name;
    bool memory;
    bool direct;
    AioEngineKind engine;
} Place;

static const Place places[] = {
    { "memory", true, false, AIO_ENGINE_AUTO },
    { "cached, auto", false, false, AIO_ENGINE_AUTO },
    { "cached, io_uring", false, false, AIO_ENGINE_IO_URING },
    { "cached, threads", false, false, AIO_ENGINE_THREADS },
    { "direct, auto", false, true, AIO_ENGINE_AUTO },
    { "direct, io_uring", false, true, AIO_ENGINE_IO_URING },
    { "direct, native", false, true, AIO_ENGINE_NATIVE },
    { "direct, threads", false, true, AIO_ENGINE_THREADS },
};

/* The file of one test, and what its coroutines find. */
typedef struct Fixture {
    const Place *place;
    int fd;
    AioFile file;
    char *buffer; /* BLOCKS blocks, aligned */
    int left;
} Fixture;

static const char *disk_folder(void)
{
    const char *folder = getenv("TMPDIR");

    return folder ? folder : "/var/tmp";
}

/* False: not to be had here, said why. */
static bool fixture_open(Fixture *fixture, const Place *place)
{
    g_autofree char *path = g_strdup_printf(
        "%s/test_aio_file.XXXXXX",
        place->memory ? "/dev/shm" : disk_folder());
    g_autoptr(GError) error = NULL;

    memset(fixture, 0, sizeof(*fixture));
    fixture->place = place;
    fixture->fd = mkostemp(path, place->direct ? O_DIRECT : 0);
    if (fixture->fd < 0) {
        print_message("skip '%s': %s: %s\n", place->name, path,
                      strerror(errno));
        return false;
    }
    unlink(path);
    if (!aio_file_init(&fixture->file, fixture->fd, place->engine, &error)) {
        print_message("skip '%s': %s\n", place->name, error->message);
        close(fixture->fd);
        return false;
    }
    assert_int_equal(posix_memalign((void **)&fixture->buffer, BLOCK,
                                    BLOCK * BLOCKS), 0);
    memset(fixture->buffer, 0, BLOCK * BLOCKS);
    return true;
}

static void fixture_close(Fixture *fixture)
{
    free(fixture->buffer);
    close(fixture->fd);
}

/* Runs @entry in a coroutine for every place; skips when none is there. */
static void in_every_place(CoEntry *entry)
{
    int count = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
        Fixture fixture;

        if (fixture_open(&fixture, &places[i])) {
            aio_run_sync(entry, &fixture);
            fixture_close(&fixture);
            count++;
        }
    }
    if (!count) {
        skip();
    }
}

static void fill(char *block, unsigned number)
{
    for (unsigned i = 0; i < BLOCK / sizeof(unsigned); i++) {
        ((unsigned *)block)[i] = number * 7919 + i;
    }
}

static bool is_filled(const char *block, unsigned number)
{
    for (unsigned i = 0; i < BLOCK / sizeof(unsigned); i++) {
        if (((const unsigned *)block)[i] != number * 7919 + i) {
            return false;
        }
    }
    return true;
}

static int make_context(void **state)
{
    *state = aio_context_new(NULL);
    return *state ? 0 : -1;
}

static int free_context(void **state)
{
    aio_context_free(*state);
    thread_pool_shutdown();
    return 0;
}

/* ---- behaviours ---- */

static void writes_then_reads(void *opaque)
{
    Fixture *fixture = opaque;
    struct iovec iov = { fixture->buffer, 4 * BLOCK };

    for (unsigned i = 0; i < 4; i++) {
        fill(fixture->buffer + i * BLOCK, i);
    }
    assert_int_equal(aio_file_pwritev(&fixture->file, &iov, 1, 8 * BLOCK,
                                      4 * BLOCK), 4 * BLOCK);
    assert_int_equal(aio_file_fdatasync(&fixture->file), 0);
    memset(fixture->buffer, 0, 4 * BLOCK);
    assert_int_equal(aio_file_preadv(&fixture->file, &iov, 1, 8 * BLOCK,
                                     4 * BLOCK), 4 * BLOCK);

    for (unsigned i = 0; i < 4; i++) {
        assert_true(is_filled(fixture->buffer + i * BLOCK, i));
    }
}

static void test_what_was_written_is_read(void **state)
{
    in_every_place(writes_then_reads);
}

static void reads_scattered(void *opaque)
{
    Fixture *fixture = opaque;
    struct iovec iov[BLOCKS / 2];

    /* Every second block of the buffer, from the back to the front. */
    for (int i = 0; i < BLOCKS / 2; i++) {
        iov[i].iov_base = fixture->buffer + (BLOCKS - 2 - 2 * i) * BLOCK;
        iov[i].iov_len = BLOCK;
        fill(iov[i].iov_base, (unsigned)i);
    }
    assert_int_equal(aio_file_pwritev(&fixture->file, iov, BLOCKS / 2, 0,
                                      BLOCKS / 2 * BLOCK),
                     BLOCKS / 2 * BLOCK);
    memset(fixture->buffer, 0, BLOCKS * BLOCK);
    assert_int_equal(aio_file_preadv(&fixture->file, iov, BLOCKS / 2, 0,
                                     BLOCKS / 2 * BLOCK),
                     BLOCKS / 2 * BLOCK);

    for (int i = 0; i < BLOCKS / 2; i++) {
        assert_true(is_filled(iov[i].iov_base, (unsigned)i));
    }
}

static void test_scattered_buffers_are_filled_in_order(void **state)
{
    in_every_place(reads_scattered);
}

/* The page cache has lost what RWF_NOWAIT would find. */
static void reads_cold(void *opaque)
{
    Fixture *fixture = opaque;
    struct iovec iov = { fixture->buffer, BLOCKS * BLOCK };

    for (unsigned i = 0; i < BLOCKS; i++) {
        fill(fixture->buffer + i * BLOCK, i);
    }
    assert_int_equal(aio_file_pwritev(&fixture->file, &iov, 1, 0,
                                      BLOCKS * BLOCK), BLOCKS * BLOCK);
    assert_int_equal(aio_file_fdatasync(&fixture->file), 0);
    /* Only the second half: the read is half warm, half cold. */
    (void) posix_fadvise(fixture->fd, BLOCKS / 2 * BLOCK, 0,
                         POSIX_FADV_DONTNEED);
    memset(fixture->buffer, 0, BLOCKS * BLOCK);
    assert_int_equal(aio_file_preadv(&fixture->file, &iov, 1, 0,
                                     BLOCKS * BLOCK), BLOCKS * BLOCK);

    for (unsigned i = 0; i < BLOCKS; i++) {
        assert_true(is_filled(fixture->buffer + i * BLOCK, i));
    }
}

static void test_a_half_cached_read_is_completed(void **state)
{
    in_every_place(reads_cold);
}

static void reads_past_end(void *opaque)
{
    Fixture *fixture = opaque;
    struct iovec iov = { fixture->buffer, 4 * BLOCK };

    assert_int_equal(ftruncate(fixture->fd, BLOCK + 100), 0);
    assert_int_equal(aio_file_preadv(&fixture->file, &iov, 1, 0, 4 * BLOCK),
                     BLOCK + 100);
    assert_int_equal(aio_file_preadv(&fixture->file, &iov, 1, 8 * BLOCK,
                                     4 * BLOCK), 0);
    assert_int_equal(aio_file_preadv(&fixture->file, &iov, 1, 0, 0), 0);
}

static void test_a_read_is_short_at_the_end_of_the_file_only(void **state)
{
    in_every_place(reads_past_end);
}

static void writes_to_read_only(void *opaque)
{
    Fixture *fixture = opaque;
    struct iovec iov = { fixture->buffer, BLOCK };
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fixture->fd);
    int fd = open(path, O_RDONLY | (fixture->place->direct ? O_DIRECT : 0));
    AioFile file;

    assert_true(fd >= 0);
    assert_true(aio_file_init(&file, fd, fixture->place->engine, NULL));
    assert_int_equal(aio_file_pwritev(&file, &iov, 1, 0, BLOCK), -EBADF);
    close(fd);
}

static void test_an_error_of_the_system_comes_back(void **state)
{
    in_every_place(writes_to_read_only);
}

typedef struct OneBlock {
    Fixture *fixture;
    unsigned number;
} OneBlock;

/* Writes its block, syncs now and then, reads it back, 8 times. */
static void works_on_one_block(void *opaque)
{
    OneBlock *one = opaque;
    Fixture *fixture = one->fixture;
    struct iovec iov = { fixture->buffer + one->number * BLOCK, BLOCK };

    for (unsigned round = 0; round < 8; round++) {
        unsigned mark = one->number + round * 1000;

        fill(iov.iov_base, mark);
        assert_int_equal(aio_file_pwritev(&fixture->file, &iov, 1,
                                          one->number * BLOCK, BLOCK), BLOCK);
        if (one->number % 64 == round) {
            assert_int_equal(aio_file_fdatasync(&fixture->file), 0);
        }
        memset(iov.iov_base, 0, BLOCK);
        assert_int_equal(aio_file_preadv(&fixture->file, &iov, 1,
                                         one->number * BLOCK, BLOCK), BLOCK);
        assert_true(is_filled(iov.iov_base, mark));
    }
    fixture->left--;
}

/* More than an engine's ring holds (128). */
static void test_many_requests_at_a_time_all_complete(void **state)
{
    AioContext *ctx = *state;
    OneBlock ones[BLOCKS];

    for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
        Fixture fixture;

        if (!fixture_open(&fixture, &places[i])) {
            continue;
        }
        fixture.left = BLOCKS;
        for (unsigned k = 0; k < BLOCKS; k++) {
            ones[k] = (OneBlock){ &fixture, k };
            co_enter(co_create(works_on_one_block, &ones[k]));
        }
        while (fixture.left) {
            aio_poll(ctx, /* may_sleep= */ true);
        }
        fixture_close(&fixture);
    }
}

/* One at a time: the loop sleeps in epoll for every single completion. */
static void reads_one_by_one(void *opaque)
{
    Fixture *fixture = opaque;
    struct iovec iov = { fixture->buffer, BLOCK };

    assert_int_equal(ftruncate(fixture->fd, BLOCKS * BLOCK), 0);
    for (int i = 0; i < 2000; i++) {
        assert_int_equal(aio_file_preadv(&fixture->file, &iov, 1,
                                         i % BLOCKS * BLOCK, BLOCK), BLOCK);
    }
}

static void test_every_single_completion_ends_the_sleep(void **state)
{
    in_every_place(reads_one_by_one);
}

static void start_on_thread(void *opaque)
{
    OneBlock *ones = opaque;

    for (unsigned k = 0; k < BLOCKS / 4; k++) {
        co_enter(co_create(works_on_one_block, &ones[k]));
    }
}

static void test_four_threads_use_one_file(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(places); i++) {
        OneBlock ones[BLOCKS];
        Fixture fixtures[4];
        IoThread *threads[4];

        if (!fixture_open(&fixtures[0], &places[i])) {
            continue;
        }
        for (unsigned t = 0; t < 4; t++) {
            fixtures[t] = fixtures[0]; /* `left` is each thread's own */
            fixtures[t].left = BLOCKS / 4;
            for (unsigned k = 0; k < BLOCKS / 4; k++) {
                unsigned number = t * BLOCKS / 4 + k;

                ones[number] = (OneBlock){ &fixtures[t], number };
            }
        }
        for (unsigned t = 0; t < 4; t++) {
            threads[t] = io_thread_new("file", NULL);
            io_thread_run(threads[t], start_on_thread,
                          &ones[t * BLOCKS / 4]);
        }
        for (unsigned t = 0; t < 4; t++) {
            io_thread_free(threads[t]);
            assert_int_equal(fixtures[t].left, 0);
        }
        fixture_close(&fixtures[0]);
    }
}

static void test_memory_files_are_known_and_cached_ones_read_at_once(
    void **state)
{
    Fixture fixture;

    if (!fixture_open(&fixture, &places[0])) {
        skip();
    }
    assert_true(fixture.file.memory);
    fixture_close(&fixture);
    if (!fixture_open(&fixture, &places[1])) {
        skip();
    }
    if (!fixture.file.memory) {
        assert_true(fixture.file.nowait);
    }
    assert_int_not_equal(fixture.file.engine, AIO_ENGINE_AUTO);
    fixture_close(&fixture);
}

static void test_native_is_refused_without_o_direct(void **state)
{
    Place place = { "cached", false, false, AIO_ENGINE_AUTO };
    g_autoptr(GError) error = NULL;
    Fixture fixture;
    AioFile file;

    if (!fixture_open(&fixture, &place)) {
        skip();
    }
    assert_false(aio_file_init(&file, fixture.fd, AIO_ENGINE_NATIVE, &error));
    assert_non_null(error);
    fixture_close(&fixture);
}

/* A caller's bug must not pass unnoticed. */
static void test_a_call_outside_of_a_coroutine_aborts(void **state)
{
    Fixture fixture;
    pid_t child;
    int status;

    if (!fixture_open(&fixture, &places[0])) {
        skip();
    }
    child = fork();
    if (child == 0) {
        struct iovec iov = { fixture.buffer, BLOCK };

        signal(SIGABRT, SIG_DFL);
        (void) !freopen("/dev/null", "w", stderr);
        (void) !freopen("/dev/null", "w", stdout);
        (void) aio_file_preadv(&fixture.file, &iov, 1, 0, BLOCK);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);

    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    fixture_close(&fixture);
}

#define WITH_CONTEXT(test) \
    cmocka_unit_test_setup_teardown(test, make_context, free_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_CONTEXT(test_what_was_written_is_read),
        WITH_CONTEXT(test_scattered_buffers_are_filled_in_order),
        WITH_CONTEXT(test_a_half_cached_read_is_completed),
        WITH_CONTEXT(test_a_read_is_short_at_the_end_of_the_file_only),
        WITH_CONTEXT(test_an_error_of_the_system_comes_back),
        WITH_CONTEXT(test_many_requests_at_a_time_all_complete),
        WITH_CONTEXT(test_every_single_completion_ends_the_sleep),
        WITH_CONTEXT(test_four_threads_use_one_file),
        WITH_CONTEXT(
            test_memory_files_are_known_and_cached_ones_read_at_once),
        WITH_CONTEXT(test_native_is_refused_without_o_direct),
        WITH_CONTEXT(test_a_call_outside_of_a_coroutine_aborts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
