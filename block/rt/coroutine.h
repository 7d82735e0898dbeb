/* SPDX-License-Identifier: MIT */
/*
 * stackful coroutines: a request's own thread of control
 *
 * A coroutine belongs to the thread (the AioContext) that created it: it is
 * entered, yields and ends there and never migrates. So a waker needs no
 * hand-shake with the sleeper: co_wake() puts the coroutine on its home loop's
 * ready list, and that loop cannot run before the coroutine has yielded.
 *
 * Stacks are pooled per thread, have a guard page below, and are known to
 * AddressSanitizer, ThreadSanitizer and Valgrind. Creating, running and ending
 * a coroutine that never yields costs tens of nanoseconds and no allocation
 * once the pool is warm.
 */
#ifndef BLOCK_RT_COROUTINE_H
#define BLOCK_RT_COROUTINE_H

#include <stdbool.h>
#include <stddef.h>

/* Marks a function that may yield: call it from a coroutine only. */
#define coroutine_fn

/* Bytes of stack that a coroutine has. Keep large buffers off it. */
#define CO_STACK_BYTES (256 * 1024)

typedef struct AioContext AioContext;
typedef struct Coroutine Coroutine;
typedef void CoEntry(void *opaque);

/*
 * co_create:
 * A coroutine that will run @entry(@opaque) when first entered. It belongs to
 * the calling thread, which must have an AioContext (aio_context_current()).
 * It frees itself when @entry returns. Aborts when no stack can be had.
 */
Coroutine *co_create(CoEntry *entry, void *opaque);

/*
 * co_enter:
 * Runs @co until it yields or ends. Home thread only; the caller may be a
 * coroutine itself (it goes on when @co yields or ends). @co must not be
 * running, nor be on a ready list because of co_wake().
 */
void co_enter(Coroutine *co);

/* Goes back to whoever entered us. Returns when entered again. */
void coroutine_fn co_yield(void);

/*
 * co_wake:
 * Has the home loop of @co enter it on its next turn. Any thread. Exactly one
 * wake for one yield; the waker must not touch @co afterwards.
 */
void co_wake(Coroutine *co);

/* The running coroutine, NULL outside of any. */
Coroutine *co_self(void);

static inline bool co_in_coroutine(void)
{
    return co_self() != NULL;
}

/* The context that @co belongs to. */
AioContext *co_context(const Coroutine *co);

/* Frees the calling thread's idle stacks; before a thread ends. */
void co_pool_drain(void);

#endif
