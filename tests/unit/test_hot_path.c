/* SPDX-License-Identifier: MIT */
/*
 * what a small aligned read costs above its driver: no system call, no
 * allocation
 *
 * The reads run in a child process in strict seccomp mode, where the kernel
 * kills whoever makes a system call other than read, write and exit. Calls of
 * malloc() and its family are counted by functions that stand before libc's.
 */
#include "tests/unit/node_test.h"

#include "block/backend.h"
#include "block/rt/sanitize.h"
#include "block/rt/timer.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define WARM_UP 1000
#define READS 200000
#define READ_BYTES 4096
#define EXIT_NO_SECCOMP 77

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define CAN_COUNT 1

static unsigned allocations; /* of the measured thread, the only one */

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);

void *malloc(size_t bytes)
{
    allocations++;
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    allocations++;
    return __libc_calloc(count, bytes);
}

void *realloc(void *memory, size_t bytes)
{
    allocations++;
    return __libc_realloc(memory, bytes);
}
#else
#define CAN_COUNT 0

static unsigned allocations;
#endif

typedef struct Reader {
    BlockBackend *blk;
    int count;
    int failures;
} Reader;

static char buffer[READ_BYTES] __attribute__((aligned(4096)));

static void coroutine_fn read_entry(void *opaque)
{
    Reader *reader = opaque;
    IoVec iov;

    for (int i = 0; i < reader->count; i++) {
        iovec_init_buffer(&iov, buffer, READ_BYTES);
        reader->failures += blk_co_preadv(reader->blk,
                                          (int64_t)(i % 1000) * READ_BYTES,
                                          READ_BYTES, &iov, 0) < 0;
    }
}

/* A figure only: the machine may be busy. Reading the clock may be a call. */
static void tell_speed(Reader *reader)
{
    int64_t start = clock_now_ns(), ns;

    reader->count = READS;
    aio_run_sync(read_entry, reader);
    ns = MAX(clock_now_ns() - start, 1);
    print_message("%" G_GINT64_FORMAT " reads a second\n",
                  READS * G_GINT64_CONSTANT(1000000000) / ns);
}

/* Never returns; strict mode knows no exit_group. */
static void measure(void)
{
    g_autoptr(GError) error = NULL;
    Reader reader = { .count = WARM_UP };
    unsigned before;

    if (aio_context_new(&error) == NULL) {
        _exit(2);
    }
    reader.blk = blk_open(NULL, block_options_from_json(
        "{\"driver\":\"raw\",\"file\":{\"driver\":\"null\","
        "\"read-zeroes\":false}}", NULL), BDRV_O_RDONLY, NULL, "test", &error);
    if (reader.blk == NULL) {
        _exit(2);
    }
    aio_run_sync(read_entry, &reader);
    tell_speed(&reader);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) < 0) {
        _exit(EXIT_NO_SECCOMP);
    }

    before = allocations;
    co_enter(co_create(read_entry, &reader));

    syscall(SYS_exit, allocations != before || reader.failures != 0);
}

static void test_a_read_neither_allocates_nor_enters_the_kernel(void **state)
{
    int status = 0;
    pid_t child;

    if (!CAN_COUNT || g_getenv("LD_PRELOAD") != NULL) {
        print_message("skipped: a checker makes calls of its own\n");
        skip();
    }
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        measure();
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_NO_SECCOMP) {
        print_message("skipped: no seccomp here\n");
        skip();
    }
    if (WIFSIGNALED(status)) {
        fail_msg("signal %d: it made a system call", WTERMSIG(status));
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_read_neither_allocates_nor_enters_the_kernel),
    };

    drivers_register_all();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
