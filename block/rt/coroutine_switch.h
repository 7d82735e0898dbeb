/* SPDX-License-Identifier: MIT */
/*
 * leaving one stack for another
 *
 * A CoSwitchPoint is where a stack was left. The assembly variants push the
 * frame pointer and the address to go on at, keep the stack pointer and let
 * the compiler save the rest: every other register is declared clobbered, so
 * only what is live is saved.
 *
 * They jump instead of calling and returning: that leaves the processor's
 * prediction of return addresses balanced, worth some ten nanoseconds a
 * request. Floating-point control words and the signal mask are not switched:
 * nothing in this program changes them inside a coroutine. A processor's
 * shadow stack (x86 SHSTK) is not switched either; glibc leaves it off unless
 * a tunable asks for it.
 *
 * Elsewhere ucontext does the same at the price of two system calls.
 *
 * A new stack starts at an entry function without arguments that must never
 * return. Both functions must be inlined into a function marked
 * CO_SWITCH_FUNCTION. Only coroutine.c and aio_context.c know this header.
 */
#ifndef BLOCK_RT_COROUTINE_SWITCH_H
#define BLOCK_RT_COROUTINE_SWITCH_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) && !defined(__clang__)
#define CO_SWITCH_FUNCTION __attribute__((noipa))
#else
#define CO_SWITCH_FUNCTION __attribute__((noinline))
#endif

#if defined(__x86_64__) && defined(__LP64__) && !defined(CO_USE_UCONTEXT)

typedef struct CoSwitchPoint {
    void *sp;
} CoSwitchPoint;

/* Stack of a point: [address to go on at] [rbp] [128 bytes red zone]. */
static inline __attribute__((always_inline)) void
co_switch(CoSwitchPoint *from, CoSwitchPoint *to)
{
    void **save = &from->sp;
    void *load = to->sp;

    __asm__ volatile("leaq -128(%%rsp), %%rsp\n\t"
                     "pushq %%rbp\n\t"
                     "leaq 1f(%%rip), %%rax\n\t"
                     "pushq %%rax\n\t"
                     "movq %%rsp, (%%rdi)\n\t"
                     "movq %%rsi, %%rsp\n\t"
                     "popq %%rax\n\t"
                     "jmp *%%rax\n"
                     "1:\n\t"
                     "endbr64\n\t"
                     "popq %%rbp\n\t"
                     "leaq 128(%%rsp), %%rsp\n\t"
                     : "+D"(save), "+S"(load)
                     :
                     : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11",
                       "r12", "r13", "r14", "r15", "xmm0", "xmm1", "xmm2",
                       "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                       "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
                       "memory", "cc");
}

/* The entry finds the stack as after a call: 16n + 8, return address 0. */
static inline void co_switch_prepare(CoSwitchPoint *point, void *stack_low,
                                     size_t stack_bytes, void (*entry)(void))
{
    uintptr_t top = ((uintptr_t)stack_low + stack_bytes) & ~(uintptr_t)15;
    void **frame = (void **)(top - 4 * sizeof(void *));

    frame[0] = (void *)entry;
    frame[1] = NULL;
    point->sp = frame;
}

#elif defined(__aarch64__) && !defined(CO_USE_UCONTEXT)

typedef struct CoSwitchPoint {
    void *sp;
} CoSwitchPoint;

/* Stack of a point: [x29] [x30] [address to go on at] [unused]. */
static inline __attribute__((always_inline)) void
co_switch(CoSwitchPoint *from, CoSwitchPoint *to)
{
    register void **save __asm__("x0") = &from->sp;
    register void *load __asm__("x1") = to->sp;

    /* Through x16 a jump may land on "bti c" and on the "bti jc" below. */
    __asm__ volatile("stp x29, x30, [sp, #-32]!\n\t"
                     "adr x16, 1f\n\t"
                     "str x16, [sp, #16]\n\t"
                     "mov x17, sp\n\t"
                     "str x17, [x0]\n\t"
                     "mov sp, x1\n\t"
                     "ldr x16, [sp, #16]\n\t"
                     "ldp x29, x30, [sp], #32\n\t"
                     "br x16\n"
                     "1:\n\t"
                     "hint #38\n\t"
                     : "+r"(save), "+r"(load)
                     :
                     : "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10",
                       "x11", "x12", "x13", "x14", "x15", "x16", "x17", "x19",
                       "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27",
                       "x28", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7",
                       "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15",
                       "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23",
                       "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31",
                       "memory", "cc");
}

static inline void co_switch_prepare(CoSwitchPoint *point, void *stack_low,
                                     size_t stack_bytes, void (*entry)(void))
{
    uintptr_t top = ((uintptr_t)stack_low + stack_bytes) & ~(uintptr_t)15;
    void **frame = (void **)(top - 4 * sizeof(void *));

    frame[0] = NULL;
    frame[1] = NULL;
    frame[2] = (void *)entry;
    point->sp = frame;
}

#else

#include <ucontext.h>

typedef struct CoSwitchPoint {
    ucontext_t ucontext;
} CoSwitchPoint;

static inline __attribute__((always_inline)) void
co_switch(CoSwitchPoint *from, CoSwitchPoint *to)
{
    (void) swapcontext(&from->ucontext, &to->ucontext);
}

static inline void co_switch_prepare(CoSwitchPoint *point, void *stack_low,
                                     size_t stack_bytes, void (*entry)(void))
{
    (void) getcontext(&point->ucontext);
    point->ucontext.uc_stack.ss_sp = stack_low;
    point->ucontext.uc_stack.ss_size = stack_bytes;
    point->ucontext.uc_link = NULL;
    makecontext(&point->ucontext, entry, 0);
}

#endif

#endif
