/* SPDX-License-Identifier: MIT */
/*
 * telling the checkers about stacks that we switch ourselves
 *
 * AddressSanitizer wants to know the bounds of the stack that is switched to,
 * ThreadSanitizer has a "fiber" per stack, Valgrind has registered stacks.
 * Without a checker all of this compiles to nothing (for Valgrind: to a few
 * no-ops when a stack is made or freed, never at a switch).
 * Only coroutine.c and buffer_pool.c know this header.
 */
#ifndef BLOCK_RT_SANITIZE_H
#define BLOCK_RT_SANITIZE_H

#include <stddef.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#if __has_feature(thread_sanitizer) && !defined(__SANITIZE_THREAD__)
#define __SANITIZE_THREAD__ 1
#endif
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SAN_NO_ADDRESS __attribute__((no_sanitize_address))
#else
#define SAN_NO_ADDRESS
#endif

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif

#if defined(__has_include)
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#endif
#endif

/* What a checker wants to remember of one stack. */
typedef struct SanStack {
    const void *low; /* of the usable part */
    size_t bytes;
    void *fake;        /* ASan's copies of frames, while switched away */
    void *tsan_fiber;
    unsigned valgrind_id;
} SanStack;

/* Announces a new stack. */
static inline void san_stack_create(SanStack *stack, const void *low,
                                    size_t bytes)
{
    stack->low = low;
    stack->bytes = bytes;
    stack->fake = NULL;
#ifdef __SANITIZE_THREAD__
    stack->tsan_fiber = __tsan_create_fiber(/* flags= */ 0);
#endif
#ifdef VALGRIND_STACK_REGISTER
    stack->valgrind_id = VALGRIND_STACK_REGISTER(low,
                                                 (const char *)low + bytes);
#endif
}

/* Forgets a stack that nobody runs on; before its memory is unmapped. */
static inline void san_stack_destroy(SanStack *stack)
{
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(stack->low, stack->bytes);
#endif
#ifdef __SANITIZE_THREAD__
    __tsan_destroy_fiber(stack->tsan_fiber);
#endif
#ifdef VALGRIND_STACK_DEREGISTER
    VALGRIND_STACK_DEREGISTER(stack->valgrind_id);
#endif
}

/*
 * san_switch_begin:
 * Right before the switch to @to. @from keeps what the checker needs when it
 * is switched to again; @from_ends says that its frames are all gone.
 */
static inline void san_switch_begin(SanStack *from, SanStack *to,
                                    int from_ends)
{
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(from_ends ? NULL : &from->fake, to->low,
                                   to->bytes);
    if (from_ends) {
        from->fake = NULL;
    }
#endif
#ifdef __SANITIZE_THREAD__
    from->tsan_fiber = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->tsan_fiber, /* flags= */ 0);
#endif
}

/*
 * san_switch_end:
 * First thing on the stack @here, when it was switched to from @from, whose
 * bounds are learnt here (a thread's own stack is not announced otherwise).
 */
static inline void san_switch_end(SanStack *here, SanStack *from)
{
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(here->fake, &from->low, &from->bytes);
#endif
}

/* Makes a use of idle memory an ASan error. */
static inline void san_poison(void *memory, size_t bytes)
{
#ifdef __SANITIZE_ADDRESS__
    __asan_poison_memory_region(memory, bytes);
#endif
}

static inline void san_unpoison(void *memory, size_t bytes)
{
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(memory, bytes);
#endif
}

#endif
