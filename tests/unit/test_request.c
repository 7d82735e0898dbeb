/* SPDX-License-Identifier: MIT */
/*
 * tests of block/io/request.c: who waits for whom
 */
#include "tests/unit/memory_driver.h"
#include "block/io/request.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static int set_up(void **state)
{
    aio_context_new(NULL);
    return 0;
}

static int tear_down(void **state)
{
    aio_context_free(aio_context_current());
    return 0;
}

/* A tracked request that stays until it is let go. */
typedef struct Actor {
    BdrvChild *child;
    int64_t offset;
    int64_t bytes;
    int64_t serialise; /* 0: ordinary */
    bool running;
    bool ended;
    Coroutine *co;
} Actor;

static void coroutine_fn act(void *opaque)
{
    Actor *actor = opaque;
    BdrvRequest request;

    bdrv_request_begin(&request, actor->child->bs, actor->offset,
                       actor->bytes, BDRV_TRACKED_WRITE);
    if (actor->serialise) {
        bdrv_request_serialise(&request, actor->serialise);
    } else {
        bdrv_request_wait_serialising(&request);
    }
    actor->running = true;
    actor->co = co_self();
    co_yield();
    bdrv_request_end(&request);
    actor->ended = true;
}

static void let_go(Actor *actor)
{
    assert_true(actor->running);
    co_enter(actor->co);
    assert_true(actor->ended);
    memory_settle();
}

static Actor actor(BdrvChild *child, int64_t offset, int64_t bytes,
                   int64_t serialise)
{
    return (Actor) { .child = child, .offset = offset, .bytes = bytes,
                     .serialise = serialise };
}

static BdrvChild *open_plain(void)
{
    return memory_open(&(MemoryConfig) { .length = MIB });
}

static void test_ordinary_requests_overlap_freely(void **state)
{
    BdrvChild *child = open_plain();
    Actor a = actor(child, 0, 100, 0), b = actor(child, 50, 100, 0);

    memory_start(act, &a);
    memory_start(act, &b);
    assert_true(a.running && b.running);
    let_go(&b);
    let_go(&a);
    memory_close(child);
}

static void test_serialising_waits_for_what_overlaps_its_blocks(void **state)
{
    BdrvChild *child = open_plain();
    Actor a = actor(child, 4000, 10, 0), far = actor(child, 4096, 10, 0);
    Actor s = actor(child, 100, 1, 4096);

    memory_start(act, &a);
    memory_start(act, &far);
    memory_start(act, &s);
    memory_settle();
    assert_false(s.running);
    let_go(&a);
    assert_true(s.running);
    let_go(&s);
    let_go(&far);
    memory_close(child);
}

static void test_ordinary_waits_for_a_serialising_one(void **state)
{
    BdrvChild *child = open_plain();
    Actor s = actor(child, 100, 1, 4096), a = actor(child, 0, 10, 0);
    Actor far = actor(child, 4096, 10, 0);

    memory_start(act, &s);
    memory_start(act, &a);
    memory_start(act, &far);
    memory_settle();
    assert_true(s.running && far.running && !a.running);
    let_go(&s);
    assert_true(a.running);
    let_go(&a);
    let_go(&far);
    memory_close(child);
}

/* Each of these waits for the one before; none is overtaken, none stuck. */
static void test_serialising_requests_go_in_order(void **state)
{
    BdrvChild *child = open_plain();
    Actor actors[8] = { 0 };

    for (int i = 0; i < 8; i++) {
        actors[i] = actor(child, 10 * i, 10, 4096);
        memory_start(act, &actors[i]);
    }
    for (int i = 0; i < 8; i++) {
        memory_settle();
        for (int j = i + 1; j < 8; j++) {
            assert_false(actors[j].running);
        }
        let_go(&actors[i]);
    }
    memory_close(child);
}

/* The waiting one is not waited for by one it would have to wait for. */
static void test_crossed_requests_do_not_block_each_other(void **state)
{
    BdrvChild *child = open_plain();
    Actor first = actor(child, 0, 10, 4096);
    Actor wide = actor(child, 0, 3 * 4096, 4096);
    Actor other = actor(child, 2 * 4096, 10, 0);

    memory_start(act, &first);
    memory_start(act, &wide);  /* waits for first */
    memory_start(act, &other); /* waits for wide: it was first to ask */
    memory_settle();
    assert_false(wide.running || other.running);
    let_go(&first);
    assert_true(wide.running && !other.running);
    let_go(&wide);
    let_go(&other);
    memory_close(child);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ordinary_requests_overlap_freely),
        cmocka_unit_test(test_serialising_waits_for_what_overlaps_its_blocks),
        cmocka_unit_test(test_ordinary_waits_for_a_serialising_one),
        cmocka_unit_test(test_serialising_requests_go_in_order),
        cmocka_unit_test(test_crossed_requests_do_not_block_each_other),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
