/* SPDX-License-Identifier: MIT */
/* tests of block/rt/thread_pool.c */
#include "block/rt/aio_context.h"
#include "block/rt/thread_pool.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

static int make_context(void **state)
{
    *state = aio_context_new(NULL);
    return *state ? 0 : -1;
}

static int free_context(void **state)
{
    thread_pool_shutdown();
    aio_context_free(*state);
    return 0;
}

typedef struct Call {
    pthread_t thread;
    bool blocks_signals;
    int result;
    int *left;
} Call;

static int look_at_thread(void *opaque)
{
    Call *call = opaque;
    sigset_t mask;

    call->thread = pthread_self();
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    call->blocks_signals = sigismember(&mask, SIGTERM) &&
                           sigismember(&mask, SIGUSR1);
    return -5;
}

static void calls_worker(void *opaque)
{
    Call *call = opaque;

    call->result = thread_pool_co_run(look_at_thread, call);
}

static void test_a_function_runs_in_a_worker_and_returns_its_result(
    void **state)
{
    Call call = { .result = 0 };

    aio_run_sync(calls_worker, &call);

    assert_int_equal(call.result, -5);
    assert_false(pthread_equal(call.thread, pthread_self()));
    assert_true(call.blocks_signals);
}

static int naps(void *opaque)
{
    usleep(1000);
    return 1;
}

static void counts_a_nap(void *opaque)
{
    Call *call = opaque;

    call->result = thread_pool_co_run(naps, NULL);
    --*call->left;
}

static void test_more_calls_than_workers_all_end(void **state)
{
    enum { CALLS = 20 * THREAD_POOL_MAX };
    AioContext *ctx = *state;
    g_autofree Call *calls = g_new0(Call, CALLS);
    int left = CALLS;

    for (int i = 0; i < CALLS; i++) {
        calls[i].left = &left;
        co_enter(co_create(counts_a_nap, &calls[i]));
    }
    while (left) {
        aio_poll(ctx, /* may_sleep= */ true);
    }

    for (int i = 0; i < CALLS; i++) {
        assert_int_equal(calls[i].result, 1);
    }
}

typedef struct Meeting {
    int here; /* atomic */
    int left;
} Meeting;

/* Returns only when another worker runs at the same time. */
static int meets(void *opaque)
{
    Meeting *meeting = opaque;

    __atomic_fetch_add(&meeting->here, 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 5000; i++) {
        if (__atomic_load_n(&meeting->here, __ATOMIC_SEQ_CST) >= 4) {
            return 0;
        }
        usleep(1000);
    }
    return -1;
}

static void goes_to_meeting(void *opaque)
{
    Meeting *meeting = opaque;

    assert_int_equal(thread_pool_co_run(meets, meeting), 0);
    meeting->left--;
}

static void test_four_calls_run_at_the_same_time(void **state)
{
    AioContext *ctx = *state;
    Meeting meeting = { .left = 4 };

    for (int i = 0; i < 4; i++) {
        co_enter(co_create(goes_to_meeting, &meeting));
    }
    while (meeting.left) {
        aio_poll(ctx, /* may_sleep= */ true);
    }

    assert_int_equal(meeting.here, 4);
}

static void test_the_pool_works_again_after_a_shutdown(void **state)
{
    Call call = { .result = 0 };

    thread_pool_shutdown();
    aio_run_sync(calls_worker, &call);
    thread_pool_shutdown();
    call.result = 0;
    aio_run_sync(calls_worker, &call);

    assert_int_equal(call.result, -5);
}

#define WITH_CONTEXT(test) \
    cmocka_unit_test_setup_teardown(test, make_context, free_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_CONTEXT(
            test_a_function_runs_in_a_worker_and_returns_its_result),
        WITH_CONTEXT(test_more_calls_than_workers_all_end),
        WITH_CONTEXT(test_four_calls_run_at_the_same_time),
        WITH_CONTEXT(test_the_pool_works_again_after_a_shutdown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
