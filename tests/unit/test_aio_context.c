/* SPDX-License-Identifier: MIT */
/* tests of block/rt/aio_context.c */
#include "block/rt/aio_context.h"
#include "block/rt/context_counter.h"
#include "block/rt/io_thread.h"
#include "block/rt/timer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cmocka.h>

static int make_context(void **state)
{
    *state = aio_context_new(NULL);
    return *state ? 0 : -1;
}

static int free_context(void **state)
{
    aio_context_free(*state);
    return 0;
}

static void test_a_context_belongs_to_the_thread_that_made_it(void **state)
{
    IoThread *thread = io_thread_new("other", NULL);

    assert_ptr_equal(aio_context_current(), *state);
    assert_ptr_not_equal(io_thread_context(thread), *state);
    assert_int_not_equal(aio_context_index(io_thread_context(thread)),
                         aio_context_index(*state));
    assert_true(aio_context_index(io_thread_context(thread)) <
                aio_context_index_limit());
    io_thread_free(thread);
}

static void test_a_freed_contexts_index_is_used_again(void **state)
{
    IoThread *thread = io_thread_new("first", NULL);
    unsigned index = aio_context_index(io_thread_context(thread));
    unsigned limit = aio_context_index_limit();

    io_thread_free(thread);
    thread = io_thread_new("second", NULL);

    assert_int_equal(aio_context_index(io_thread_context(thread)), index);
    assert_int_equal(aio_context_index_limit(), limit);
    io_thread_free(thread);
}

static void append(void *opaque)
{
    g_string_append_c(opaque, (char)('a' + ((GString *)opaque)->len));
}

static void test_callbacks_run_once_on_a_coming_turn(void **state)
{
    AioContext *ctx = *state;
    GString *text = g_string_new(NULL);

    for (int i = 0; i < 3; i++) {
        aio_schedule(ctx, append, text);
    }
    assert_string_equal(text->str, "");
    assert_true(aio_poll(ctx, /* may_sleep= */ true));
    assert_string_equal(text->str, "abc");

    assert_false(aio_poll(ctx, /* may_sleep= */ false));
    assert_string_equal(text->str, "abc");
    g_string_free(text, TRUE);
}

static void again(void *opaque)
{
    int *left = opaque;

    if (--*left > 0) {
        aio_schedule(aio_context_current(), again, left);
    }
}

static void test_work_that_comes_up_in_a_turn_waits_for_the_next(void **state)
{
    AioContext *ctx = *state;
    int left = 3;

    aio_schedule(ctx, again, &left);
    for (int turn = 1; turn <= 3; turn++) {
        assert_true(aio_poll(ctx, /* may_sleep= */ false));
        assert_int_equal(left, 3 - turn);
    }
}

/* ---- descriptors ---- */

typedef struct Reader {
    int calls;
    char last;
    bool stop_after_one;
} Reader;

static void read_one(int fd, uint32_t epoll_events, void *opaque)
{
    Reader *reader = opaque;

    assert_true(epoll_events & EPOLLIN);
    assert_int_equal(read(fd, &reader->last, 1), 1);
    reader->calls++;
    if (reader->stop_after_one) {
        aio_set_fd_handler(aio_context_current(), fd, 0, NULL, NULL);
    }
}

static void test_a_watched_descriptor_calls_its_handler(void **state)
{
    AioContext *ctx = *state;
    Reader reader = { .calls = 0 };
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    aio_set_fd_handler(ctx, fds[0], EPOLLIN, read_one, &reader);
    assert_false(aio_poll(ctx, /* may_sleep= */ false));
    assert_int_equal(write(fds[1], "xy", 2), 2);
    /* Level-triggered: the second byte makes another call. */
    aio_poll(ctx, /* may_sleep= */ true);
    aio_poll(ctx, /* may_sleep= */ true);

    assert_int_equal(reader.calls, 2);
    assert_int_equal(reader.last, 'y');
    aio_set_fd_handler(ctx, fds[0], 0, NULL, NULL);
    close(fds[0]);
    close(fds[1]);
}

static void test_a_handler_may_stop_its_own_watch(void **state)
{
    AioContext *ctx = *state;
    Reader reader = { .stop_after_one = true };
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    aio_set_fd_handler(ctx, fds[0], EPOLLIN, read_one, &reader);
    assert_int_equal(write(fds[1], "xy", 2), 2);
    aio_poll(ctx, /* may_sleep= */ true);

    assert_false(aio_poll(ctx, /* may_sleep= */ false));
    assert_int_equal(reader.calls, 1);
    close(fds[0]);
    close(fds[1]);
}

static void test_an_exclusive_watch_can_be_changed(void **state)
{
    AioContext *ctx = *state;
    Reader first = { .calls = 0 }, second = { .calls = 0 };
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    aio_set_fd_handler(ctx, fds[0], EPOLLIN | EPOLLEXCLUSIVE, read_one,
                       &first);
    aio_set_fd_handler(ctx, fds[0], EPOLLIN | EPOLLEXCLUSIVE, read_one,
                       &second);
    assert_int_equal(write(fds[1], "x", 1), 1);
    aio_poll(ctx, /* may_sleep= */ true);

    assert_int_equal(first.calls, 0);
    assert_int_equal(second.calls, 1);
    aio_set_fd_handler(ctx, fds[0], 0, NULL, NULL);
    close(fds[0]);
    close(fds[1]);
}

/* ---- running to the end ---- */

static void sleeps_twice(void *opaque)
{
    co_sleep_ns(1000000);
    co_sleep_ns(1000000);
    *(bool *)opaque = true;
}

static void test_run_sync_returns_when_the_coroutine_has_ended(void **state)
{
    bool ended = false;

    aio_run_sync(sleeps_twice, &ended);

    assert_true(ended);
}

static void runs_sync_itself(void *opaque)
{
    aio_run_sync(sleeps_twice, opaque);
}

static void test_run_sync_works_inside_a_callback(void **state)
{
    IoThread *thread = io_thread_new("nested", NULL);
    bool ended = false;

    io_thread_run(thread, runs_sync_itself, &ended);

    assert_true(ended);
    io_thread_free(thread);
}

/* ---- the idle source ---- */

typedef struct PipeSource {
    AioIdleSource source;
    int fds[2];
    int waits;
    int interrupts; /* atomic */
} PipeSource;

static void source_wait(void *opaque)
{
    PipeSource *pipe_source = opaque;
    char byte;

    __atomic_fetch_add(&pipe_source->waits, 1, __ATOMIC_SEQ_CST);
    assert_int_equal(read(pipe_source->fds[0], &byte, 1), 1);
}

static void source_interrupt(void *opaque)
{
    PipeSource *pipe_source = opaque;

    __atomic_fetch_add(&pipe_source->interrupts, 1, __ATOMIC_SEQ_CST);
    assert_int_equal(write(pipe_source->fds[1], "i", 1), 1);
}

static void source_open(PipeSource *pipe_source)
{
    memset(pipe_source, 0, sizeof(*pipe_source));
    pipe_source->source.wait = source_wait;
    pipe_source->source.interrupt = source_interrupt;
    pipe_source->source.opaque = pipe_source;
    assert_int_equal(pipe(pipe_source->fds), 0);
}

static void source_close(PipeSource *pipe_source)
{
    close(pipe_source->fds[0]);
    close(pipe_source->fds[1]);
}

static void test_an_idle_loop_sleeps_in_its_source(void **state)
{
    AioContext *ctx = *state;
    PipeSource source;

    source_open(&source);
    aio_set_idle_source(ctx, &source.source);
    assert_int_equal(write(source.fds[1], "r", 1), 1);
    assert_true(aio_poll(ctx, /* may_sleep= */ true));
    assert_int_equal(source.waits, 1);

    aio_set_idle_source(ctx, NULL);
    source_close(&source);
}

static void test_the_source_is_not_used_while_a_coroutine_lives(void **state)
{
    AioContext *ctx = *state;
    PipeSource source;
    bool ended = false;

    source_open(&source);
    aio_set_idle_source(ctx, &source.source);
    aio_run_sync(sleeps_twice, &ended);

    assert_int_equal(source.waits, 0);
    aio_set_idle_source(ctx, NULL);
    source_close(&source);
}

static void install_source(void *opaque)
{
    aio_set_idle_source(aio_context_current(), opaque);
}

static void remove_source(void *opaque)
{
    aio_set_idle_source(aio_context_current(), NULL);
}

static void count_up(void *opaque)
{
    ++*(int *)opaque;
}

/* Every call must get through although the thread sleeps in the source. */
static void test_a_notify_interrupts_the_source(void **state)
{
    IoThread *thread = io_thread_new("idle", NULL);
    PipeSource source;
    int count = 0;

    source_open(&source);
    io_thread_run(thread, install_source, &source.source);
    for (int i = 0; i < 10000; i++) {
        io_thread_run(thread, count_up, &count);
    }
    io_thread_run(thread, remove_source, NULL);

    assert_int_equal(count, 10000);
    assert_true(source.interrupts > 0);
    io_thread_free(thread);
    source_close(&source);
}

/* ---- several wakers ---- */

#define WAKERS 4
#define CALLS_EACH 25000

static int calls_seen; /* home thread of the target only */

static void see_call(void *opaque)
{
    calls_seen++;
}

static void *schedules_many(void *opaque)
{
    for (int i = 0; i < CALLS_EACH; i++) {
        aio_schedule(opaque, see_call, NULL);
    }
    return NULL;
}

static void test_calls_from_four_threads_all_arrive(void **state)
{
    AioContext *ctx = *state;
    GThread *wakers[WAKERS];

    calls_seen = 0;
    for (int i = 0; i < WAKERS; i++) {
        wakers[i] = g_thread_new("waker", schedules_many, ctx);
    }
    while (calls_seen < WAKERS * CALLS_EACH) {
        aio_poll(ctx, /* may_sleep= */ true);
    }
    for (int i = 0; i < WAKERS; i++) {
        g_thread_join(wakers[i]);
    }

    assert_int_equal(calls_seen, WAKERS * CALLS_EACH);
}

static void test_a_notify_before_the_turn_is_answered_by_it(void **state)
{
    AioContext *ctx = *state;

    aio_notify(ctx);
    alarm(10); /* a lost notify would sleep for ever */
    assert_true(aio_poll(ctx, /* may_sleep= */ true));
    alarm(0);
    assert_false(aio_poll(ctx, /* may_sleep= */ false));
}

static void test_a_counter_sums_over_contexts(void **state)
{
    static ContextCounter counter;
    unsigned index = aio_context_index(*state);

    context_counter_enter(&counter, index);
    context_counter_enter(&counter, index);
    assert_int_equal(context_counter_sum(&counter), 2);
    context_counter_leave(&counter, index);
    context_counter_leave(&counter, index);
    assert_int_equal(context_counter_sum(&counter), 0);
}

#define WITH_CONTEXT(test) \
    cmocka_unit_test_setup_teardown(test, make_context, free_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_CONTEXT(test_a_context_belongs_to_the_thread_that_made_it),
        WITH_CONTEXT(test_a_freed_contexts_index_is_used_again),
        WITH_CONTEXT(test_callbacks_run_once_on_a_coming_turn),
        WITH_CONTEXT(test_work_that_comes_up_in_a_turn_waits_for_the_next),
        WITH_CONTEXT(test_a_watched_descriptor_calls_its_handler),
        WITH_CONTEXT(test_a_handler_may_stop_its_own_watch),
        WITH_CONTEXT(test_an_exclusive_watch_can_be_changed),
        WITH_CONTEXT(test_run_sync_returns_when_the_coroutine_has_ended),
        WITH_CONTEXT(test_run_sync_works_inside_a_callback),
        WITH_CONTEXT(test_an_idle_loop_sleeps_in_its_source),
        WITH_CONTEXT(test_the_source_is_not_used_while_a_coroutine_lives),
        WITH_CONTEXT(test_a_notify_interrupts_the_source),
        WITH_CONTEXT(test_a_notify_before_the_turn_is_answered_by_it),
        WITH_CONTEXT(test_calls_from_four_threads_all_arrive),
        WITH_CONTEXT(test_a_counter_sums_over_contexts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
