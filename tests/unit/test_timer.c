/* SPDX-License-Identifier: MIT */
/* tests of block/rt/timer.c */
#include "block/rt/timer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define MS 1000000

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

typedef struct Alarm {
    AioTimer timer;
    int number;
    GArray *order;
} Alarm;

static void ring(void *opaque)
{
    Alarm *alarm = opaque;

    assert_true(clock_now_ns() >= alarm->timer.deadline_ns);
    assert_false(aio_timer_is_armed(&alarm->timer));
    g_array_append_val(alarm->order, alarm->number);
}

static void poll_until(AioContext *ctx, const GArray *order, unsigned count)
{
    while (order->len < count) {
        aio_poll(ctx, /* may_sleep= */ true);
    }
}

static void test_timers_fire_in_the_order_of_their_deadlines(void **state)
{
    enum { COUNT = 200 };
    AioContext *ctx = *state;
    GArray *order = g_array_new(FALSE, FALSE, sizeof(int));
    g_autofree Alarm *alarms = g_new0(Alarm, COUNT);
    int64_t now_ns = clock_now_ns();

    for (int i = 0; i < COUNT; i++) {
        /* 7 has no divisor in common with 200: all ranks, in disorder. */
        int rank = i * 7 % COUNT;

        alarms[i].number = rank;
        alarms[i].order = order;
        aio_timer_init(&alarms[i].timer, ctx, ring, &alarms[i]);
        aio_timer_arm(&alarms[i].timer, now_ns + rank * (MS / 20));
    }
    poll_until(ctx, order, COUNT);

    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(g_array_index(order, int, i), i);
    }
    g_array_unref(order);
}

static void test_a_cancelled_timer_does_not_fire(void **state)
{
    enum { COUNT = 50 };
    AioContext *ctx = *state;
    GArray *order = g_array_new(FALSE, FALSE, sizeof(int));
    Alarm alarms[COUNT];
    int64_t now_ns = clock_now_ns();

    for (int i = 0; i < COUNT; i++) {
        alarms[i].number = i;
        alarms[i].order = order;
        aio_timer_init(&alarms[i].timer, ctx, ring, &alarms[i]);
        aio_timer_arm(&alarms[i].timer, now_ns + (COUNT - i) * (MS / 50));
    }
    for (int i = 0; i < COUNT; i += 2) {
        aio_timer_cancel(&alarms[i].timer);
        aio_timer_cancel(&alarms[i].timer); /* harmless */
    }
    poll_until(ctx, order, COUNT / 2);

    for (int i = 0; i < COUNT / 2; i++) {
        assert_int_equal(g_array_index(order, int, i), COUNT - 1 - 2 * i);
    }
    assert_false(aio_poll(ctx, /* may_sleep= */ false));
    g_array_unref(order);
}

static void test_arming_again_moves_the_deadline(void **state)
{
    AioContext *ctx = *state;
    GArray *order = g_array_new(FALSE, FALSE, sizeof(int));
    Alarm early = { .number = 1, .order = order };
    Alarm late = { .number = 2, .order = order };
    int64_t now_ns = clock_now_ns();

    aio_timer_init(&early.timer, ctx, ring, &early);
    aio_timer_init(&late.timer, ctx, ring, &late);
    aio_timer_arm(&early.timer, now_ns + 3600 * (int64_t)1000 * MS);
    aio_timer_arm(&late.timer, now_ns + 2 * MS);
    aio_timer_arm(&early.timer, now_ns + 1 * MS);
    poll_until(ctx, order, 2);

    assert_int_equal(g_array_index(order, int, 0), 1);
    assert_int_equal(g_array_index(order, int, 1), 2);
    g_array_unref(order);
}

static void rearm(void *opaque)
{
    Alarm *alarm = opaque;

    g_array_append_val(alarm->order, alarm->number);
    if (alarm->order->len < 5) {
        aio_timer_arm(&alarm->timer, clock_now_ns());
    }
}

static void test_a_callback_may_arm_its_own_timer(void **state)
{
    AioContext *ctx = *state;
    GArray *order = g_array_new(FALSE, FALSE, sizeof(int));
    Alarm alarm = { .order = order };

    aio_timer_init(&alarm.timer, ctx, rearm, &alarm);
    aio_timer_arm(&alarm.timer, 0);
    poll_until(ctx, order, 5);

    assert_int_equal(order->len, 5);
    g_array_unref(order);
}

static void sleeps(void *opaque)
{
    int64_t *slept_ns = opaque;
    int64_t start_ns = clock_now_ns();

    co_sleep_ns(2 * MS + MS / 2);
    *slept_ns = clock_now_ns() - start_ns;
}

static void test_a_coroutine_sleeps_at_least_as_long_as_asked(void **state)
{
    int64_t slept_ns = 0;

    aio_run_sync(sleeps, &slept_ns);

    assert_true(slept_ns >= 2 * MS + MS / 2);
    assert_true(slept_ns < 2000 * (int64_t)MS);
}

#define WITH_CONTEXT(test) \
    cmocka_unit_test_setup_teardown(test, make_context, free_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_CONTEXT(test_timers_fire_in_the_order_of_their_deadlines),
        WITH_CONTEXT(test_a_cancelled_timer_does_not_fire),
        WITH_CONTEXT(test_arming_again_moves_the_deadline),
        WITH_CONTEXT(test_a_callback_may_arm_its_own_timer),
        WITH_CONTEXT(test_a_coroutine_sleeps_at_least_as_long_as_asked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
