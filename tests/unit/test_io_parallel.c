/* SPDX-License-Identifier: MIT */
/*
 * requests of several threads on one node
 *
 * Coroutines of four I/O threads write and read bytes of their own, which
 * share blocks of request_alignment with their neighbours' on other threads.
 * Each knows what its bytes must be; a lost update of a read-modify-write
 * shows as wrong content, a missing exclusion as a race to ThreadSanitizer.
 */
#include "tests/unit/memory_driver.h"

#include "block/rt/io_thread.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define THREADS 4
#define COROUTINES 16
#define WORKERS (THREADS * COROUTINES)
#define SLICE 5000 /* bytes a worker owns; no multiple of a block */
#define ROUNDS 400

typedef struct Worker {
    BdrvChild *child;
    IoThread *thread;
    unsigned number;
    unsigned failures;
    int *left; /* workers still running; atomic */
    uint8_t model[SLICE];
    uint8_t buffer[SLICE];
} Worker;

static int coroutine_fn one_request(Worker *w, GRand *rand)
{
    int64_t start = (int64_t)w->number * SLICE;
    int64_t at = g_rand_int_range(rand, 0, SLICE);
    int64_t bytes = g_rand_int_range(rand, 1, SLICE - at + 1);

    switch (g_rand_int_range(rand, 0, 8)) {
    case 0: case 1: case 2:
        memset(w->buffer, g_rand_int_range(rand, 1, 256), bytes);
        memcpy(w->model + at, w->buffer, bytes);
        return bdrv_co_pwrite(w->child, start + at, bytes, w->buffer, 0);
    case 3:
        memset(w->model + at, 0, bytes);
        return bdrv_co_pwrite_zeroes(w->child, start + at, bytes, 0);
    case 4:
        return bdrv_co_flush(w->child->bs);
    default:
        if (bdrv_co_pread(w->child, start + at, bytes, w->buffer, 0) < 0) {
            return -1;
        }
        return memcmp(w->buffer, w->model + at, bytes) ? -1 : 0;
    }
}

static void coroutine_fn worker_entry(void *opaque)
{
    Worker *w = opaque;
    g_autoptr(GRand) rand = g_rand_new_with_seed(w->number);

    for (int i = 0; i < ROUNDS; i++) {
        w->failures += one_request(w, rand) != 0;
    }
    __atomic_fetch_sub(w->left, 1, __ATOMIC_RELEASE);
}

static void start_worker(void *opaque)
{
    co_enter(co_create(worker_entry, opaque));
}

/* Neighbouring slices belong to different threads. */
static void run_workers(BdrvChild *child, Worker *workers)
{
    IoThread *threads[THREADS];
    int left = WORKERS;

    for (int i = 0; i < THREADS; i++) {
        threads[i] = io_thread_new("test", /* error= */ NULL);
        assert_non_null(threads[i]);
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i].child = child;
        workers[i].number = i;
        workers[i].left = &left;
        aio_schedule(io_thread_context(threads[i % THREADS]), start_worker,
                     &workers[i]);
    }
    for (int i = 0;
         __atomic_load_n(&left, __ATOMIC_ACQUIRE) > 0 && i < 240000; i++) {
        g_usleep(1000);
    }
    assert_int_equal(__atomic_load_n(&left, __ATOMIC_ACQUIRE), 0);
    for (int i = 0; i < THREADS; i++) {
        io_thread_free(threads[i]);
    }
}

static void check_against_model(const MemoryConfig *config)
{
    g_autofree Worker *workers = g_new0(Worker, WORKERS);
    BdrvChild *child;

    aio_context_new(/* error= */ NULL);
    child = memory_open(config);
    run_workers(child, workers);
    for (unsigned i = 0; i < WORKERS; i++) {
        assert_int_equal(workers[i].failures, 0);
        assert_memory_equal(memory_data(child) + (int64_t)i * SLICE,
                            workers[i].model, SLICE);
    }
    memory_close(child);
    aio_context_free(aio_context_current());
}

static void test_threads_share_blocks_without_losing_updates(void **state)
{
    check_against_model(&(MemoryConfig) {
        .length = WORKERS * SLICE, .yields = true,
        .limits = { .request_alignment = 4096, .max_transfer = 8192 } });
}

static void test_large_blocks_make_everybody_wait_for_everybody(void **state)
{
    check_against_model(&(MemoryConfig) {
        .length = WORKERS * SLICE, .yields = true,
        .limits = { .request_alignment = 65536 } });
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_share_blocks_without_losing_updates),
        cmocka_unit_test(
            test_large_blocks_make_everybody_wait_for_everybody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
