/* SPDX-License-Identifier: MIT */
/*
 * bench_block: what the block layer itself costs, without any medium
 *
 * Small requests through a backend and a few nodes down to null, which does
 * nothing, on one thread: what is left is coroutines, gates, tracking, padding
 * and accounting. One line a case: millions of requests a second on this core,
 * nanoseconds each, and the system calls and allocations each makes (they are
 * counted in a run of their own, so that counting slows nothing down).
 *
 * usage: bench_block [--seconds N] [--only WORD]
 */
#include "block/backend.h"
#include "block/graph/options.h"
#include "block/rt/aio_context.h"
#include "block/rt/timer.h"
#include "drivers/registry.h"
#include "tests/tools/call_count.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 1000 /* requests between two looks at the clock */
#define SPAN GIB   /* offsets go round in it: null's length */
#define BUFFER_BYTES ((size_t)64 * KIB)

#define NULL_NODE "{\"driver\":\"null\",\"read-zeroes\":false}"
#define RAW_NODE "{\"driver\":\"raw\",\"file\":" NULL_NODE "}"

typedef struct Case {
    const char *name;
    const char *json;
    int64_t bytes;
    int64_t shift; /* of every offset */
    bool is_write;
} Case;

static const Case cases[] = {
    { "read-4k", RAW_NODE, 4096, 0, false },
    { "write-4k", RAW_NODE, 4096, 0, true },
    { "read-4k-unaligned",
      "{\"driver\":\"raw\",\"file\":{\"driver\":\"blkdebug\",\"align\":4096,"
      "\"file\":" NULL_NODE "}}", 4096, 1000, false },
    { "read-4k-throttle",
      "{\"driver\":\"throttle\",\"throttle-group\":\"g\",\"file\":"
      RAW_NODE "}", 4096, 0, false },
    { "write-4k-zeros",
      "{\"driver\":\"raw\",\"detect-zeroes\":\"on\",\"file\":" NULL_NODE "}",
      4096, 0, true },
    { "read-64k", RAW_NODE, 65536, 0, false },
    { "write-64k-zeros",
      "{\"driver\":\"raw\",\"detect-zeroes\":\"on\",\"file\":" NULL_NODE "}",
      65536, 0, true },
};

/* One case at work, in memory that parent and child share. */
typedef struct Run {
    const Case *kind;
    double seconds;       /* how long to measure */
    BlockBackend *blk;    /* the child's */
    int64_t position;
    unsigned failures;
    int64_t requests, ns; /* the result */
} Run;

static uint8_t buffer[BUFFER_BYTES] __attribute__((aligned(4096)));

static void coroutine_fn batch_entry(void *opaque)
{
    Run *run = opaque;
    const Case *kind = run->kind;

    for (int i = 0; i < BATCH; i++) {
        int64_t offset = run->position + kind->shift;
        IoVec iov;
        int ret;

        iovec_init_buffer(&iov, buffer, kind->bytes);
        ret = kind->is_write
            ? blk_co_pwritev(run->blk, offset, kind->bytes, &iov, 0)
            : blk_co_preadv(run->blk, offset, kind->bytes, &iov, 0);
        run->failures += ret < 0;
        run->position += kind->bytes;
        if (run->position + 2 * kind->bytes > SPAN) {
            run->position = 0;
        }
    }
}

/* Nothing waits, so a batch needs no turn of the loop. */
static bool run_batch(void *opaque)
{
    Run *run = opaque;

    co_enter(co_create(batch_entry, run));
    return run->failures == 0;
}

static void measure_speed(Run *run)
{
    int64_t start = clock_now_ns();
    int64_t limit = (int64_t)(run->seconds * 1e9);

    do {
        (void) run_batch(run);
        run->requests += BATCH;
        run->ns = clock_now_ns() - start;
    } while (run->ns < limit);
}

/* In the child: a context does not survive a fork. */
static bool prepare(void *opaque)
{
    Run *run = opaque;
    g_autoptr(GError) error = NULL;

    if (aio_context_new(&error) != NULL) {
        run->blk = blk_open(NULL, block_options_from_json(run->kind->json,
                                                          NULL),
                            run->kind->is_write ? BDRV_O_RDWR : BDRV_O_RDONLY,
                            NULL, "bench", &error);
    }
    if (run->blk == NULL) {
        fprintf(stderr, "bench_block: %s: %s\n", run->kind->name,
                error->message);
        return false;
    }
    (void) run_batch(run); /* pools and caches fill */
    measure_speed(run);
    return run->failures == 0;
}

static bool run_case(const Case *kind, double seconds)
{
    Run *run = call_count_shared(sizeof(Run));
    CountedWork work = { prepare, run_batch, run };
    CallCount count = { 0 };
    int ret;

    run->kind = kind;
    run->seconds = seconds;
    ret = call_count_run(&work, &count);
    if (run->requests == 0) {
        fprintf(stderr, "bench_block: %s: %s\n", kind->name,
                g_strerror(-ret));
        return false;
    }
    printf("%-20s %8.2f %8.0f", kind->name, run->requests * 1e3 / run->ns,
           (double)run->ns / run->requests);
    if (ret == 0) {
        printf(" %10.3f %10.3f\n", (double)count.system_calls / BATCH,
               (double)count.allocations / BATCH);
    } else {
        printf(" %10s %10s\n", "-", "-"); /* no ptrace here */
    }
    return ret == 0 || ret == -ENOTSUP;
}

int main(int argc, char **argv)
{
    double seconds = 1;
    const char *only = NULL;
    bool ok = true;

    for (int i = 1; i < argc; i += 2) {
        if (i + 1 < argc && strcmp(argv[i], "--seconds") == 0) {
            seconds = atof(argv[i + 1]);
        } else if (i + 1 < argc && strcmp(argv[i], "--only") == 0) {
            only = argv[i + 1];
        } else {
            fprintf(stderr, "usage: bench_block [--seconds N] "
                            "[--only WORD]\n");
            return 2;
        }
    }
    drivers_register_all();
    printf("%-20s %8s %8s %10s %10s\n", "case", "M/s", "ns", "syscalls",
           "allocs");
    fflush(stdout); /* children must not print it again */
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        if (only == NULL || strstr(cases[i].name, only) != NULL) {
            ok = run_case(&cases[i], seconds) && ok;
            fflush(stdout);
        }
    }
    return ok ? 0 : 1;
}
