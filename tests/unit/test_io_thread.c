/* SPDX-License-Identifier: MIT */
/* tests of block/rt/io_thread.c */
#include "block/rt/io_thread.h"
#include "block/rt/timer.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

typedef struct Look {
    char name[16];
    bool blocks_signals;
    AioContext *ctx;
    bool in_coroutine;
} Look;

static void look(void *opaque)
{
    Look *seen = opaque;
    sigset_t mask;

    pthread_getname_np(pthread_self(), seen->name, sizeof(seen->name));
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    seen->blocks_signals = sigismember(&mask, SIGTERM) &&
                           sigismember(&mask, SIGHUP);
    seen->ctx = aio_context_current();
    seen->in_coroutine = co_in_coroutine();
}

static void test_a_call_runs_on_the_threads_loop(void **state)
{
    IoThread *thread = io_thread_new("imgfuse-io-7", NULL);
    Look seen;

    assert_non_null(thread);
    io_thread_run(thread, look, &seen);

    assert_string_equal(seen.name, "imgfuse-io-7");
    assert_true(seen.blocks_signals);
    assert_ptr_equal(seen.ctx, io_thread_context(thread));
    assert_false(seen.in_coroutine);
    io_thread_free(thread);
}

static void test_a_name_too_long_for_the_kernel_is_cut(void **state)
{
    IoThread *thread = io_thread_new("a-name-that-is-far-too-long", NULL);
    Look seen;

    io_thread_run(thread, look, &seen);

    assert_string_equal(seen.name, "a-name-that-is-");
    io_thread_free(thread);
}

static void sleeps(void *opaque)
{
    co_sleep_ns(20000000);
    *(bool *)opaque = true;
}

static void start_sleeper(void *opaque)
{
    co_enter(co_create(sleeps, opaque));
}

static void test_free_waits_for_the_last_coroutine(void **state)
{
    IoThread *thread = io_thread_new("sleeper", NULL);
    bool ended = false;

    io_thread_run(thread, start_sleeper, &ended);
    assert_false(ended);
    io_thread_free(thread);

    assert_true(ended);
}

static void test_free_runs_callbacks_that_are_on_their_way(void **state)
{
    for (int i = 0; i < 60; i++) {
        IoThread *thread = io_thread_new("short", NULL);
        bool ended = false;

        aio_schedule(io_thread_context(thread), start_sleeper, &ended);
        if (i % 20) {
            /* Most rounds only race the start against the end. */
            Look seen;

            aio_schedule(io_thread_context(thread), look, &seen);
            io_thread_free(thread);
            assert_non_null(seen.ctx);
        } else {
            io_thread_free(thread);
        }
        assert_true(ended);
    }
}

static void test_too_many_threads_are_an_error(void **state)
{
    IoThread *threads[AIO_CONTEXTS_MAX];
    g_autoptr(GError) error = NULL;
    IoThread *one_more;

    for (int i = 0; i < AIO_CONTEXTS_MAX; i++) {
        threads[i] = io_thread_new("many", NULL);
        assert_non_null(threads[i]);
    }
    one_more = io_thread_new("many", &error);

    assert_null(one_more);
    assert_non_null(error);
    for (int i = 0; i < AIO_CONTEXTS_MAX; i++) {
        io_thread_free(threads[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_call_runs_on_the_threads_loop),
        cmocka_unit_test(test_a_name_too_long_for_the_kernel_is_cut),
        cmocka_unit_test(test_free_waits_for_the_last_coroutine),
        cmocka_unit_test(test_free_runs_callbacks_that_are_on_their_way),
        cmocka_unit_test(test_too_many_threads_are_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
