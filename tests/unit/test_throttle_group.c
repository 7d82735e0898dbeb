/* SPDX-License-Identifier: MIT */
/*
 * throttle groups: rates, bursts, turns, live changes, drain
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "block/io/throttle_group.h"
#include "block/rt/aio_context.h"
#include "block/rt/timer.h"

#include <stdlib.h>

#define MS INT64_C(1000000)

static int make_context(void **state)
{
    *state = aio_context_new(NULL);
    return *state == NULL;
}

static int free_context(void **state)
{
    aio_context_free(*state);
    return 0;
}

/* One client: @requests requests of @bytes, one after the other. */
typedef struct Client {
    ThrottleMember *member;
    bool is_write;
    int requests;
    int64_t bytes;
    int done;
    int64_t end_ns;
} Client;

static void run_client(void *opaque)
{
    Client *client = opaque;

    for (int i = 0; i < client->requests; i++) {
        throttle_member_wait(client->member, client->is_write, client->bytes);
        client->done++;
    }
    client->end_ns = clock_now_ns();
}

static ThrottleGroup *group_with(ThrottleBucket bucket, uint64_t average,
                                 uint64_t max, uint64_t burst_length)
{
    ThrottleGroup *group = throttle_group_get("test");
    ThrottleConfig config;

    throttle_config_init(&config);
    config.limit[bucket] =
        (ThrottleLimit){ average, max, burst_length };
    assert_true(throttle_group_set_config(group, &config, NULL));
    return group;
}

static int64_t run_alone_ms(ThrottleGroup *group, Client *client)
{
    int64_t start_ns = clock_now_ns();

    client->member = throttle_group_join(group);
    aio_run_sync(run_client, client);
    throttle_group_leave(client->member);
    return (client->end_ns - start_ns) / MS;
}

static void test_operations_per_second_are_kept(void **state)
{
    ThrottleGroup *group = group_with(THROTTLE_OPS_TOTAL, 1000, 0, 1);
    Client client = { .requests = 400, .bytes = 1 };
    int64_t ms = run_alone_ms(group, &client);

    /* A tenth of a second's worth goes at once: 300 are left, 1 ms each. */
    assert_in_range(ms, 290, 600);
    throttle_group_unref(group);
}

static void test_bytes_per_second_are_kept_for_writes_only(void **state)
{
    ThrottleGroup *group = group_with(THROTTLE_BPS_WRITE, 1000000, 0, 1);
    Client reader = { .requests = 1000, .bytes = 100000 };
    Client writer = { .is_write = true, .requests = 40, .bytes = 10000 };

    assert_in_range(run_alone_ms(group, &reader), 0, 100);
    assert_in_range(run_alone_ms(group, &writer), 280, 600);
    throttle_group_unref(group);
}

static void test_a_burst_goes_at_its_own_rate(void **state)
{
    ThrottleGroup *group = group_with(THROTTLE_OPS_TOTAL, 100, 1000, 1);
    Client burst = { .requests = 1000, .bytes = 1 };
    Client after = { .requests = 30, .bytes = 1 };

    /* One second of the burst rate may pass; then the average holds. */
    assert_in_range(run_alone_ms(group, &burst), 0, 200);
    assert_in_range(run_alone_ms(group, &after), 150, 600);
    throttle_group_unref(group);
}

static void test_members_get_equal_shares(void **state)
{
    ThrottleGroup *group = group_with(THROTTLE_OPS_TOTAL, 1000, 0, 1);
    ThrottleMember *greedy = throttle_group_join(group);
    ThrottleMember *modest = throttle_group_join(group);
    Client clients[9];

    /* Eight clients of one member against one client of the other. */
    for (int i = 0; i < 9; i++) {
        clients[i] = (Client){ .member = i < 8 ? greedy : modest,
                               .requests = i < 8 ? 100 : 200, .bytes = 1 };
        co_enter(co_create(run_client, &clients[i]));
    }
    while (clients[8].done < 200) {
        aio_poll(*state, /* may_sleep= */ true);
    }
    int greedy_done = 0;
    for (int i = 0; i < 8; i++) {
        greedy_done += clients[i].done;
    }

    /* Up to the initial burst of 100 the two have gone side by side. */
    assert_in_range(greedy_done, 150, 330);
    for (int i = 0; i < 8; i++) {
        while (clients[i].end_ns == 0) {
            aio_poll(*state, /* may_sleep= */ true);
        }
    }
    throttle_group_leave(greedy);
    throttle_group_leave(modest);
    throttle_group_unref(group);
}

static void test_a_raised_limit_frees_those_who_wait(void **state)
{
    ThrottleGroup *group = group_with(THROTTLE_OPS_TOTAL, 1, 0, 1);
    ThrottleMember *member = throttle_group_join(group);
    Client client = { .member = member, .requests = 5, .bytes = 1 };
    ThrottleConfig config;
    int64_t start_ns = clock_now_ns();

    co_enter(co_create(run_client, &client));
    assert_in_range(client.done, 1, 2);
    throttle_config_init(&config);
    assert_true(throttle_group_set_config(group, &config, NULL));
    while (client.end_ns == 0) {
        aio_poll(*state, /* may_sleep= */ true);
    }

    assert_in_range((client.end_ns - start_ns) / MS, 0, 500);
    throttle_group_leave(member);
    throttle_group_unref(group);
}

static void test_a_drain_lets_waiters_go_at_once(void **state)
{
    ThrottleGroup *group = group_with(THROTTLE_OPS_TOTAL, 1, 0, 1);
    ThrottleMember *member = throttle_group_join(group);
    Client client[3];

    for (int i = 0; i < 3; i++) {
        client[i] =
            (Client){ .member = member, .requests = 3, .bytes = 1 };
        co_enter(co_create(run_client, &client[i]));
    }
    throttle_member_drain_begin(member);
    for (int turn = 0; turn < 100; turn++) {
        aio_poll(*state, /* may_sleep= */ false);
    }

    for (int i = 0; i < 3; i++) {
        assert_int_equal(client[i].done, 3);
    }
    throttle_member_drain_end(member);
    throttle_group_leave(member);
    throttle_group_unref(group);
}

static void test_contradicting_limits_are_refused(void **state)
{
    const struct {
        ThrottleLimit total, read;
        const char *message;
    } cases[] = {
        { { 10, 0, 1 }, { 10, 0, 1 },
          "limit bps-total cannot stand beside bps-read or bps-write" },
        { { 0, 10, 1 }, { 0, 0, 1 },
          "limit bps-total has a burst rate but no average rate" },
        { { 10, 5, 1 }, { 0, 0, 1 },
          "limit bps-total has a burst rate below its average rate" },
        { { 10, 0, 5 }, { 0, 0, 1 },
          "limit bps-total has a burst length but no burst rate" },
        { { 10, 20, 0 }, { 0, 0, 1 },
          "limit bps-total needs a burst length of 1 to 3600 seconds" },
        { { UINT64_MAX, 0, 1 }, { 0, 0, 1 },
          "limit bps-total is above 10^15 per second" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        ThrottleConfig config;

        throttle_config_init(&config);
        config.limit[THROTTLE_BPS_TOTAL] = cases[i].total;
        config.limit[THROTTLE_BPS_READ] = cases[i].read;
        assert_false(throttle_config_check(&config, &error));
        assert_string_equal(error->message, cases[i].message);
    }
}

static void test_one_name_is_one_group(void **state)
{
    ThrottleGroup *a = throttle_group_get("a");
    ThrottleGroup *again = throttle_group_get("a");
    ThrottleGroup *b = throttle_group_get("b");

    assert_ptr_equal(a, again);
    assert_ptr_not_equal(a, b);
    throttle_group_unref(a);
    throttle_group_unref(again);
    throttle_group_unref(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operations_per_second_are_kept),
        cmocka_unit_test(test_bytes_per_second_are_kept_for_writes_only),
        cmocka_unit_test(test_a_burst_goes_at_its_own_rate),
        cmocka_unit_test(test_members_get_equal_shares),
        cmocka_unit_test(test_a_raised_limit_frees_those_who_wait),
        cmocka_unit_test(test_a_drain_lets_waiters_go_at_once),
        cmocka_unit_test(test_contradicting_limits_are_refused),
        cmocka_unit_test(test_one_name_is_one_group),
    };

    return cmocka_run_group_tests(tests, make_context, free_context);
}
