/* SPDX-License-Identifier: MIT */
/*
 * how many system calls and allocations a piece of work makes
 *
 * The work runs in a child process, so that counting costs the caller nothing
 * and changes nothing in it. The child prepares (opens, warms up, measures its
 * speed), then runs the part that counts, with the parent looking on by
 * ptrace(2). Allocations are calls of malloc() and its family, which a program
 * that links this file has counting ones of.
 *
 * One thread only: system calls of other threads are not seen, allocations of
 * theirs are counted without a lock.
 */
#ifndef TESTS_TOOLS_CALL_COUNT_H
#define TESTS_TOOLS_CALL_COUNT_H

#include <glib.h>
#include <stdbool.h>

typedef struct CallCount {
    unsigned system_calls;
    unsigned allocations;
} CallCount;

/* Both run in the child; what they leave behind dies with it. */
typedef struct CountedWork {
    bool (*prepare)(void *opaque); /* not counted; false: give up */
    bool (*run)(void *opaque);     /* counted; false: it failed */
    void *opaque;
} CountedWork;

/*
 * Can calls be counted here at all? Not with a sanitizer or under Valgrind:
 * they make calls of their own.
 */
bool call_count_possible(void);

/*
 * call_count_run:
 * 0 with *@ret_count, -ENOTSUP when this kernel or sandbox allows no ptrace,
 * -EIO when the work failed or the child died.
 */
int call_count_run(const CountedWork *work, CallCount *ret_count);

/* Memory that the child of call_count_run() shares with us, zeroed. */
void *call_count_shared(size_t bytes);

#endif
