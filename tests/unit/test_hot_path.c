/* SPDX-License-Identifier: MIT */
/*
 * what small requests cost above their driver: no system call, no allocation
 *
 * Each row is a graph over null, which does nothing: what is counted is the
 * block layer's own. tests/bench/bench_block.c tells how fast they are.
 */
#include "tests/unit/node_test.h"

#include "block/backend.h"
#include "tests/tools/call_count.h"

#include <errno.h>

#define WARM_UP 1000
#define REQUEST_BYTES 4096

#define RAW_OVER_NULL                                                     \
    "{\"driver\":\"raw\",\"file\":{\"driver\":\"null\","                  \
    "\"read-zeroes\":false}}"
#define ALIGNING_TO_4096                                                  \
    "{\"driver\":\"raw\",\"file\":{\"driver\":\"blkdebug\",\"align\":4096," \
    "\"file\":{\"driver\":\"null\",\"read-zeroes\":false}}}"
#define THROTTLE_WITHOUT_LIMITS                                           \
    "{\"driver\":\"throttle\",\"throttle-group\":\"g\",\"file\":"         \
    RAW_OVER_NULL "}"
#define DETECTING_ZEROES                                                  \
    "{\"driver\":\"raw\",\"detect-zeroes\":\"on\",\"file\":"              \
    "{\"driver\":\"null\"}}"

typedef struct Requests {
    const char *json;
    int64_t first; /* offset of the first request */
    bool is_write;

    /* -- the child's ------------------------------------------------------ */
    BlockBackend *blk;
    int failures;
} Requests;

static char buffer[REQUEST_BYTES] __attribute__((aligned(4096)));

static void coroutine_fn requests_entry(void *opaque)
{
    Requests *r = opaque;

    for (int i = 0; i < WARM_UP; i++) {
        int64_t offset = r->first + (int64_t)i * REQUEST_BYTES;
        IoVec iov;
        int ret;

        iovec_init_buffer(&iov, buffer, REQUEST_BYTES);
        ret = r->is_write
            ? blk_co_pwritev(r->blk, offset, REQUEST_BYTES, &iov, 0)
            : blk_co_preadv(r->blk, offset, REQUEST_BYTES, &iov, 0);
        r->failures += ret < 0;
    }
}

/* Opens in the child: a context does not survive a fork. */
static bool prepare(void *opaque)
{
    Requests *r = opaque;
    g_autoptr(GError) error = NULL;

    if (aio_context_new(&error) == NULL) {
        return false;
    }
    r->blk = blk_open(NULL, block_options_from_json(r->json, NULL),
                      r->is_write ? BDRV_O_RDWR : BDRV_O_RDONLY, NULL, "test",
                      &error);
    if (r->blk == NULL) {
        print_message("%s\n", error->message);
        return false;
    }
    aio_run_sync(requests_entry, r);
    return r->failures == 0;
}

/* Not by aio_run_sync(): nothing waits, so no loop is needed. */
static bool run(void *opaque)
{
    Requests *r = opaque;

    co_enter(co_create(requests_entry, r));
    return r->failures == 0;
}

/* What WARM_UP requests of @json cost in all. */
static void assert_free_of_calls(Requests requests)
{
    CountedWork work = { prepare, run, &requests };
    CallCount count;
    int ret;

    if (!call_count_possible()) {
        print_message("skipped: a checker makes calls of its own\n");
        skip();
    }
    ret = call_count_run(&work, &count);
    if (ret == -ENOTSUP) {
        print_message("skipped: no ptrace here\n");
        skip();
    }
    assert_int_equal(ret, 0);
    assert_int_equal(count.system_calls, 0);
    assert_int_equal(count.allocations, 0);
}

static void test_a_read_neither_allocates_nor_enters_the_kernel(void **state)
{
    assert_free_of_calls((Requests) { .json = RAW_OVER_NULL });
}

static void test_nor_does_a_padded_read(void **state)
{
    assert_free_of_calls((Requests) { .json = ALIGNING_TO_4096,
                                      .first = 1000 });
}

static void test_nor_does_a_throttle_without_limits(void **state)
{
    assert_free_of_calls((Requests) { .json = THROTTLE_WITHOUT_LIMITS });
}

static void test_nor_does_a_write(void **state)
{
    assert_free_of_calls((Requests) { .json = RAW_OVER_NULL,
                                      .is_write = true });
}

static void test_nor_does_a_write_of_zeros_that_is_detected(void **state)
{
    assert_free_of_calls((Requests) { .json = DETECTING_ZEROES,
                                      .is_write = true });
}

/* The counting itself: what it does not see, it could not find. */

static bool prepare_nothing(void *opaque)
{
    return true;
}

static bool three_calls_two_allocations(void *opaque)
{
    void *volatile *memory = opaque; /* the compiler must believe in them */

    for (int i = 0; i < 3; i++) {
        (void) getppid();
    }
    *memory = malloc(1);
    *memory = calloc(1, 1);
    return true;
}

static bool refuse(void *opaque)
{
    return false;
}

static void test_calls_are_seen(void **state)
{
    void *volatile memory = NULL;
    CountedWork work = { prepare_nothing, three_calls_two_allocations,
                         (void *)&memory };
    CallCount count;
    int ret;

    if (!call_count_possible()) {
        skip();
    }
    ret = call_count_run(&work, &count);
    if (ret == -ENOTSUP) {
        skip();
    }
    assert_int_equal(ret, 0);
    assert_int_equal(count.system_calls, 3);
    assert_int_equal(count.allocations, 2);
    work.run = refuse;
    assert_int_equal(call_count_run(&work, &count), -EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_read_neither_allocates_nor_enters_the_kernel),
        cmocka_unit_test(test_nor_does_a_padded_read),
        cmocka_unit_test(test_nor_does_a_throttle_without_limits),
        cmocka_unit_test(test_nor_does_a_write),
        cmocka_unit_test(test_nor_does_a_write_of_zeros_that_is_detected),
        cmocka_unit_test(test_calls_are_seen),
    };

    drivers_register_all();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
