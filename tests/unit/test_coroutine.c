/* SPDX-License-Identifier: MIT */
/*
 * tests of block/rt/coroutine.c
 *
 * With IMGFUSE_BENCH set it also prints what a coroutine costs.
 */
#include "block/rt/aio_context.h"
#include "block/rt/io_thread.h"
#include "block/rt/timer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
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

static void count_up(void *opaque)
{
    ++*(int *)opaque;
}

static void test_a_coroutine_runs_when_it_is_entered_not_before(void **state)
{
    int count = 0;
    Coroutine *co = co_create(count_up, &count);

    assert_int_equal(count, 0);
    co_enter(co);
    assert_int_equal(count, 1);
    assert_false(co_in_coroutine());
}

typedef struct Steps {
    char text[64];
    Coroutine *inner;
    Coroutine *self;
} Steps;

static void two_steps(void *opaque)
{
    Steps *steps = opaque;

    steps->self = co_self();
    strcat(steps->text, "a");
    co_yield();
    strcat(steps->text, "b");
}

static void test_yield_goes_back_to_who_entered(void **state)
{
    Steps steps = { .text = "" };
    Coroutine *co = co_create(two_steps, &steps);

    co_enter(co);
    strcat(steps.text, "-");
    co_enter(co);

    assert_string_equal(steps.text, "a-b");
    assert_ptr_equal(steps.self, co);
}

static void enters_another(void *opaque)
{
    Steps *steps = opaque;
    Coroutine *self = co_self();

    steps->inner = co_create(two_steps, steps);
    strcat(steps->text, "(");
    co_enter(steps->inner);
    assert_ptr_equal(co_self(), self);
    strcat(steps->text, ")");
}

static void test_a_coroutine_may_enter_another_and_go_on(void **state)
{
    Steps steps = { .text = "" };

    co_enter(co_create(enters_another, &steps));
    assert_string_equal(steps.text, "(a)");
    /* The inner one goes on from elsewhere: from the loop itself. */
    co_enter(steps.inner);

    assert_string_equal(steps.text, "(a)b");
}

static void test_wake_enters_on_the_next_turn(void **state)
{
    AioContext *ctx = *state;
    Steps steps = { .text = "" };
    Coroutine *co = co_create(two_steps, &steps);

    co_enter(co);
    assert_ptr_equal(co_context(co), ctx);
    co_wake(co);
    assert_string_equal(steps.text, "a");
    assert_true(aio_poll(ctx, /* may_sleep= */ false));

    assert_string_equal(steps.text, "ab");
}

static void __attribute__((noinline)) use_stack(volatile char *above, int left)
{
    volatile char page[4096];

    page[0] = above[0];
    if (left > 0) {
        use_stack(page, left - 1);
    }
    page[1] = 1;
}

static void uses_much_stack(void *opaque)
{
    char byte = 0;

    use_stack(&byte, *(int *)opaque);
}

static void test_most_of_the_stack_can_be_used(void **state)
{
    int pages = CO_STACK_BYTES / 4096 / 2;

    co_enter(co_create(uses_much_stack, &pages));
}

/* The guard page makes an overrun a crash and not a corruption. */
static void test_overrunning_the_stack_is_a_crash(void **state)
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        int pages = CO_STACK_BYTES / 4096 + 8;

        (void) !freopen("/dev/null", "w", stderr);
        (void) !freopen("/dev/null", "w", stdout);
        co_enter(co_create(uses_much_stack, &pages));
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);

    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

typedef struct Sum {
    double result;
    Coroutine *co;
} Sum;

static void sums_with_yields(void *opaque)
{
    Sum *sum = opaque;
    double a = 1, b = 2, c = 3, d = 4;
    long i = 10, j = 20, k = 30, l = 40;

    for (int round = 0; round < 10; round++) {
        co_yield();
        a += b;
        b += c;
        c += d;
        d += 0.5;
        i += j;
        j += k;
        k += l;
        l += 1;
    }
    sum->result = a + b + c + d + (double)(i + j + k + l);
    sum->co = NULL;
}

static double same_sum_without_yields(void)
{
    double a = 1, b = 2, c = 3, d = 4;
    long i = 10, j = 20, k = 30, l = 40;

    for (int round = 0; round < 10; round++) {
        a += b;
        b += c;
        c += d;
        d += 0.5;
        i += j;
        j += k;
        k += l;
        l += 1;
    }
    return a + b + c + d + (double)(i + j + k + l);
}

static void test_floating_point_and_registers_survive_a_switch(void **state)
{
    Sum sums[3];
    double expected = same_sum_without_yields();

    for (int i = 0; i < 3; i++) {
        sums[i].co = co_create(sums_with_yields, &sums[i]);
    }
    for (int round = 0; round < 11; round++) {
        for (int i = 0; i < 3; i++) {
            co_enter(sums[i].co);
        }
    }

    for (int i = 0; i < 3; i++) {
        assert_null(sums[i].co);
        assert_true(sums[i].result == expected);
    }
}

static void test_many_sleepers_at_a_time_all_end(void **state)
{
    enum { MANY = 1000 };
    AioContext *ctx = *state;
    g_autofree Steps *steps = g_new0(Steps, MANY);

    for (int i = 0; i < MANY; i++) {
        co_enter(co_create(two_steps, &steps[i]));
    }
    for (int i = 0; i < MANY; i++) {
        co_wake(steps[i].self);
    }
    while (aio_poll(ctx, /* may_sleep= */ false)) {
    }

    for (int i = 0; i < MANY; i++) {
        assert_string_equal(steps[i].text, "ab");
    }
    co_pool_drain();
}

/* ---- wakes across threads ---- */

#define WAKES 100000

typedef struct PingPong {
    IoThread *threads[2];
    Coroutine *co[2];
    int turns[2];
    int ready;   /* atomic */
    int ended;   /* atomic */
} PingPong;

typedef struct Player {
    PingPong *game;
    int side;
} Player;

/* Wakes the other side, sleeps until it wakes us. */
static void plays(void *opaque)
{
    Player *player = opaque;
    PingPong *game = player->game;
    int side = player->side;

    game->co[side] = co_self();
    __atomic_fetch_add(&game->ready, 1, __ATOMIC_SEQ_CST);
    co_yield();
    for (int i = 0; i < WAKES / 2; i++) {
        game->turns[side]++;
        co_wake(game->co[!side]);
        if (side == 1 && i == WAKES / 2 - 1) {
            break;
        }
        co_yield();
    }
    __atomic_fetch_add(&game->ended, 1, __ATOMIC_SEQ_CST);
}

static void start_player(void *opaque)
{
    co_enter(co_create(plays, opaque));
}

static void test_no_wake_between_two_threads_is_lost(void **state)
{
    PingPong game = { 0 };
    Player players[2];
    int64_t start_ns;

    for (int i = 0; i < 2; i++) {
        players[i] = (Player){ &game, i };
        game.threads[i] = io_thread_new("player", NULL);
        assert_non_null(game.threads[i]);
        io_thread_run(game.threads[i], start_player, &players[i]);
    }
    start_ns = clock_now_ns();
    co_wake(game.co[0]);
    /* Ends the threads when their coroutines have ended. */
    io_thread_free(game.threads[0]);
    io_thread_free(game.threads[1]);

    assert_int_equal(game.ended, 2);
    assert_int_equal(game.turns[0] + game.turns[1], WAKES);
    if (getenv("IMGFUSE_BENCH")) {
        print_message("wake across threads: %.0f ns\n",
                      (double)(clock_now_ns() - start_ns) / WAKES);
    }
}

static void does_nothing(void *opaque)
{
}

static void yields_for_ever(void *opaque)
{
    while (*(bool *)opaque) {
        co_yield();
    }
}

static void bench_coroutine(void **state)
{
    enum { ROUNDS = 20000000 };
    bool go_on = true;
    Coroutine *co;
    int64_t start_ns;

    if (!getenv("IMGFUSE_BENCH")) {
        print_message("set IMGFUSE_BENCH to measure\n");
        skip();
    }
    start_ns = clock_now_ns();
    for (int i = 0; i < ROUNDS; i++) {
        co_enter(co_create(does_nothing, NULL));
    }
    print_message("create, run, end: %.1f ns\n",
                  (double)(clock_now_ns() - start_ns) / ROUNDS);

    co = co_create(yields_for_ever, &go_on);
    start_ns = clock_now_ns();
    for (int i = 0; i < ROUNDS; i++) {
        co_enter(co);
    }
    print_message("enter, yield: %.1f ns\n",
                  (double)(clock_now_ns() - start_ns) / ROUNDS);
    go_on = false;
    co_enter(co);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_a_coroutine_runs_when_it_is_entered_not_before, make_context,
            free_context),
        cmocka_unit_test_setup_teardown(test_yield_goes_back_to_who_entered,
                                        make_context, free_context),
        cmocka_unit_test_setup_teardown(
            test_a_coroutine_may_enter_another_and_go_on, make_context,
            free_context),
        cmocka_unit_test_setup_teardown(test_wake_enters_on_the_next_turn,
                                        make_context, free_context),
        cmocka_unit_test_setup_teardown(test_most_of_the_stack_can_be_used,
                                        make_context, free_context),
        cmocka_unit_test_setup_teardown(test_overrunning_the_stack_is_a_crash,
                                        make_context, free_context),
        cmocka_unit_test_setup_teardown(
            test_floating_point_and_registers_survive_a_switch, make_context,
            free_context),
        cmocka_unit_test_setup_teardown(test_many_sleepers_at_a_time_all_end,
                                        make_context, free_context),
        cmocka_unit_test(test_no_wake_between_two_threads_is_lost),
        cmocka_unit_test_setup_teardown(bench_coroutine, make_context,
                                        free_context),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
