/* SPDX-License-Identifier: MIT */
/* tests of block/rt/comutex.c, on one thread and on four */
#include "block/rt/comutex.h"
#include "block/rt/io_thread.h"
#include "block/rt/timer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define THREADS 4

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

/* ---- one thread ---- */

typedef struct Order {
    CoMutex mutex;
    GString *text;
    int next;
} Order;

/* Takes the mutex, writes its number, yields holding it, lets go. */
static void locks_and_writes(void *opaque)
{
    Order *order = opaque;
    int number = order->next++;

    co_mutex_lock(&order->mutex);
    co_mutex_assert_held(&order->mutex);
    g_string_append_printf(order->text, "%d", number);
    co_wake(co_self());
    co_yield();
    g_string_append_printf(order->text, "%d", number);
    co_mutex_unlock(&order->mutex);
}

static void test_waiters_get_the_mutex_in_the_order_they_came(void **state)
{
    AioContext *ctx = *state;
    Order order = { .text = g_string_new(NULL) };

    co_mutex_init(&order.mutex);
    for (int i = 0; i < 5; i++) {
        co_enter(co_create(locks_and_writes, &order));
    }
    while (aio_poll(ctx, /* may_sleep= */ false)) {
    }

    assert_string_equal(order.text->str, "0011223344");
    co_mutex_destroy(&order.mutex);
    g_string_free(order.text, TRUE);
}

static void tries(void *opaque)
{
    Order *order = opaque;

    g_string_append(order->text,
                    co_mutex_trylock(&order->mutex) ? "got" : "no,");
}

static void tries_and_unlocks(void *opaque)
{
    Order *order = opaque;

    tries(order);
    co_mutex_unlock(&order->mutex);
}

static void test_trylock_takes_a_free_mutex_only(void **state)
{
    AioContext *ctx = *state;
    Order order = { .text = g_string_new(NULL) };

    co_mutex_init(&order.mutex);
    co_enter(co_create(locks_and_writes, &order));
    co_enter(co_create(tries, &order));
    while (aio_poll(ctx, /* may_sleep= */ false)) {
    }
    co_enter(co_create(tries_and_unlocks, &order));

    assert_string_equal(order.text->str, "0no,0got");
    co_mutex_destroy(&order.mutex);
    g_string_free(order.text, TRUE);
}

typedef struct Waiting {
    CoQueue queue;
    CoMutex mutex;
    CoMutex *with;
    int woken;
} Waiting;

static void waits_once(void *opaque)
{
    Waiting *waiting = opaque;

    if (waiting->with) {
        co_mutex_lock(waiting->with);
    }
    co_queue_wait(&waiting->queue, waiting->with);
    if (waiting->with) {
        co_mutex_assert_held(waiting->with);
    }
    waiting->woken++;
    if (waiting->with) {
        co_mutex_unlock(waiting->with);
    }
}

static void check_queue(AioContext *ctx, bool with_mutex)
{
    Waiting waiting = { .woken = 0 };

    co_queue_init(&waiting.queue);
    co_mutex_init(&waiting.mutex);
    waiting.with = with_mutex ? &waiting.mutex : NULL;
    assert_true(co_queue_is_empty(&waiting.queue));
    assert_false(co_queue_wake_one(&waiting.queue));
    for (int i = 0; i < 4; i++) {
        co_enter(co_create(waits_once, &waiting));
    }
    assert_false(co_queue_is_empty(&waiting.queue));

    assert_true(co_queue_wake_one(&waiting.queue));
    while (aio_poll(ctx, /* may_sleep= */ false)) {
    }
    assert_int_equal(waiting.woken, 1);

    co_queue_wake_all(&waiting.queue);
    while (aio_poll(ctx, /* may_sleep= */ false)) {
    }
    assert_int_equal(waiting.woken, 4);
    assert_true(co_queue_is_empty(&waiting.queue));
    co_queue_destroy(&waiting.queue);
    co_mutex_destroy(&waiting.mutex);
}

static void test_a_queue_wakes_one_or_all(void **state)
{
    check_queue(*state, /* with_mutex= */ false);
}

static void test_a_queue_gives_the_mutex_back_on_waking(void **state)
{
    check_queue(*state, /* with_mutex= */ true);
}

/* ---- four threads ---- */

typedef struct Stress {
    CoMutex mutex;
    CoQueue queue;
    int64_t counter; /* protected by mutex */
    int token;       /* protected by mutex: whose turn it is */
    int rounds;
    int players;     /* atomic */
    IoThread *threads[THREADS];
} Stress;

/* Increments a plain counter; every 16th time yields in the middle. */
static void increments(void *opaque)
{
    Stress *stress = opaque;

    for (int i = 0; i < stress->rounds; i++) {
        int64_t seen;

        co_mutex_lock(&stress->mutex);
        seen = stress->counter;
        if (i % 16 == 0) {
            co_wake(co_self());
            co_yield();
        }
        stress->counter = seen + 1;
        co_mutex_unlock(&stress->mutex);
    }
}

static void start_incrementing(void *opaque)
{
    for (int i = 0; i < 4; i++) {
        co_enter(co_create(increments, opaque));
    }
}

static void start_threads(Stress *stress, AioCallback *start)
{
    co_mutex_init(&stress->mutex);
    co_queue_init(&stress->queue);
    for (int i = 0; i < THREADS; i++) {
        stress->threads[i] = io_thread_new("stress", NULL);
        assert_non_null(stress->threads[i]);
    }
    for (int i = 0; i < THREADS; i++) {
        aio_schedule(io_thread_context(stress->threads[i]), start, stress);
    }
}

/* Returns when all their coroutines have ended. */
static void end_threads(Stress *stress)
{
    for (int i = 0; i < THREADS; i++) {
        io_thread_free(stress->threads[i]);
    }
    co_queue_destroy(&stress->queue);
    co_mutex_destroy(&stress->mutex);
}

static void test_the_mutex_excludes_across_threads(void **state)
{
    Stress stress = { .rounds = 5000 };

    start_threads(&stress, start_incrementing);
    end_threads(&stress);

    assert_int_equal(stress.counter, (int64_t)THREADS * 4 * stress.rounds);
}

/* Waits for its turn, then passes the token to the next. */
static void passes_token(void *opaque)
{
    Stress *stress = opaque;
    int self = __atomic_fetch_add(&stress->players, 1, __ATOMIC_SEQ_CST);

    for (int i = 0; i < stress->rounds; i++) {
        co_mutex_lock(&stress->mutex);
        while (stress->token != self) {
            co_queue_wait(&stress->queue, &stress->mutex);
        }
        stress->token = (self + 1) % THREADS;
        stress->counter++;
        co_queue_wake_all(&stress->queue);
        co_mutex_unlock(&stress->mutex);
    }
}

static void start_passing(void *opaque)
{
    co_enter(co_create(passes_token, opaque));
}

static void test_a_token_goes_round_four_threads_through_a_queue(void **state)
{
    Stress stress = { .rounds = 3000 };

    start_threads(&stress, start_passing);
    end_threads(&stress);

    assert_int_equal(stress.counter, (int64_t)THREADS * stress.rounds);
}

static void locks_much(void *opaque)
{
    CoMutex *mutex = opaque;
    enum { ROUNDS = 20000000 };
    int64_t start_ns = clock_now_ns();

    for (int i = 0; i < ROUNDS; i++) {
        co_mutex_lock(mutex);
        co_mutex_unlock(mutex);
    }
    print_message("lock, unlock: %.1f ns\n",
                  (double)(clock_now_ns() - start_ns) / ROUNDS);
}

static void bench_uncontended_mutex(void **state)
{
    CoMutex mutex;

    if (!getenv("IMGFUSE_BENCH")) {
        print_message("set IMGFUSE_BENCH to measure\n");
        skip();
    }
    co_mutex_init(&mutex);
    co_enter(co_create(locks_much, &mutex));
    co_mutex_destroy(&mutex);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_waiters_get_the_mutex_in_the_order_they_came, make_context,
            free_context),
        cmocka_unit_test_setup_teardown(test_trylock_takes_a_free_mutex_only,
                                        make_context, free_context),
        cmocka_unit_test_setup_teardown(test_a_queue_wakes_one_or_all,
                                        make_context, free_context),
        cmocka_unit_test_setup_teardown(
            test_a_queue_gives_the_mutex_back_on_waking, make_context,
            free_context),
        cmocka_unit_test(test_the_mutex_excludes_across_threads),
        cmocka_unit_test(test_a_token_goes_round_four_threads_through_a_queue),
        cmocka_unit_test_setup_teardown(bench_uncontended_mutex, make_context,
                                        free_context),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
