/* SPDX-License-Identifier: MIT */
/*
 * how many system calls and allocations a piece of work makes
 *
 *   parent                          child
 *     wait  ◀──────── SIGSTOP ──────  prepare
 *     trace each system call          run
 *     wait  ◀──────── SIGSTOP ──────
 *     kill
 *
 * Each system call stops the child twice, at its start and its end. The first
 * SIGSTOP's own call is not traced yet when it ends, the second's is.
 */
#include "tests/tools/call_count.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The calls that tell of the end: kill(2), start and end. */
#define STOPS_OF_THE_END 2
#define STOP_OF_CALL (SIGTRAP | 0x80) /* PTRACE_O_TRACESYSGOOD */

enum {
    EXIT_NO_PTRACE = 77,
    EXIT_FAILED = 1,
};

static unsigned allocations; /* of the measured thread, the only one */

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define CAN_COUNT 1

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
#endif

bool call_count_possible(void)
{
    return CAN_COUNT && g_getenv("LD_PRELOAD") == NULL;
}

void *call_count_shared(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    g_assert(memory != MAP_FAILED);
    return memory;
}

/* ---- the child ----------------------------------------------------------- */

/* Never returns: the parent kills us at the second stop. */
static void run_child(const CountedWork *work, unsigned *ret_allocations)
{
    pid_t self = getpid();
    unsigned before;
    bool ok;

    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0) {
        _exit(EXIT_NO_PTRACE);
    }
    if (!work->prepare(work->opaque)) {
        _exit(EXIT_FAILED);
    }
    /* Not raise(): it makes more than one call. */
    syscall(SYS_kill, self, SIGSTOP);
    before = allocations;
    ok = work->run(work->opaque);
    *ret_allocations = allocations - before;
    if (ok) {
        syscall(SYS_kill, self, SIGSTOP);
    }
    _exit(EXIT_FAILED);
}

/* ---- the parent ---------------------------------------------------------- */

/* Waits until @child stops. 0 with the signal, or why it did not. */
static int wait_for_stop(pid_t child, int *ret_signal)
{
    int status;

    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    if (WIFSTOPPED(status)) {
        *ret_signal = WSTOPSIG(status);
        return 0;
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == EXIT_NO_PTRACE
        ? -ENOTSUP : -EIO;
}

/* From the first SIGSTOP to the second. */
static int trace(pid_t child, unsigned *ret_calls)
{
    unsigned stops = 0;
    int signal, ret;

    if (ptrace(PTRACE_SETOPTIONS, child, NULL,
               (void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)) < 0) {
        return -ENOTSUP;
    }
    do {
        if (ptrace(PTRACE_SYSCALL, child, NULL, NULL) < 0) {
            return -EIO;
        }
        ret = wait_for_stop(child, &signal);
        stops += ret == 0 && signal == STOP_OF_CALL;
    } while (ret == 0 && signal != SIGSTOP);
    if (ret == 0) {
        *ret_calls = (stops - STOPS_OF_THE_END) / 2;
    }
    return ret;
}

int call_count_run(const CountedWork *work, CallCount *ret_count)
{
    unsigned *counted = call_count_shared(sizeof(*counted));
    pid_t child = fork();
    int signal = 0;
    int ret;

    g_assert(child >= 0);
    if (child == 0) {
        run_child(work, counted);
    }
    do {
        ret = wait_for_stop(child, &signal);
        /* Preparing may have met a signal: it is the child's. */
    } while (ret == 0 && signal != SIGSTOP &&
             ptrace(PTRACE_CONT, child, NULL, (void *)(long)signal) == 0);
    if (ret == 0) {
        ret = trace(child, &ret_count->system_calls);
        (void) kill(child, SIGKILL);
        (void) waitpid(child, NULL, 0);
    }
    ret_count->allocations = *counted;
    (void) munmap(counted, sizeof(*counted));
    return ret;
}
