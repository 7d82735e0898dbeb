/* SPDX-License-Identifier: MIT */
/*
 * coroutines: creating, entering, leaving, waking
 *
 * A stack and its coroutine are one mapping:
 *
 *   [guard page, no access] [stack, grows down ...........] [struct Coroutine]
 *
 * A stack that has ended is not taken apart: it waits inside coroutine_main()
 * for the next entry function, so that creating a coroutine is taking it from
 * the list of idle stacks and filling three fields.
 *
 * Always true outside a function of this file:
 *  C1  ctx->current is the coroutine that runs on the context's thread;
 *  C2  a coroutine is in one state at a time: idle (on ctx->idle_stacks),
 *      entered (on the chain current -> caller -> ...), or asleep; asleep, it
 *      is on a ready list at most once;
 *  C3  ctx->n_coroutines counts those that are not idle.
 *
 * Sleeping and waking of the loop is left to aio_context.c.
 *
 * Locking: none. Everything is for the home thread but co_wake().
 */
#include "block/rt/coroutine.h"

#include "block/rt/context_state.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

/* Idle stacks a thread keeps; a stack that has served keeps its pages. */
#define IDLE_STACKS_MAX 128

static inline void set_current(AioContext *ctx, Coroutine *co)
{
    __atomic_store_n(&ctx->current, co, __ATOMIC_RELAXED);
}

Coroutine *co_self(void)
{
    AioContext *ctx = aio_thread_context;

    return ctx ? ctx->current : NULL;
}

AioContext *co_context(const Coroutine *co)
{
    return co->ctx;
}

/* The point and the stack that a coroutine goes back to. */
static inline CoSwitchPoint *caller_point(Coroutine *co)
{
    return co->caller ? &co->caller->point : &co->ctx->leader;
}

static inline SanStack *caller_san(Coroutine *co)
{
    return co->caller ? &co->caller->san : &co->ctx->leader_san;
}

/* Bottom frame of every coroutine. Its frame must not be one of ASan's. */
SAN_NO_ADDRESS CO_SWITCH_FUNCTION static void coroutine_main(void)
{
    for (;;) {
        Coroutine *co = aio_thread_context->current;

        san_switch_end(&co->san, caller_san(co));
        co->entry(co->opaque);

        co->ended = true;
        set_current(co->ctx, co->caller);
        san_switch_begin(&co->san, caller_san(co), /* from_ends= */ true);
        co_switch(&co->point, caller_point(co));
    }
}

static Coroutine *stack_new(AioContext *ctx)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t total = CO_STACK_BYTES + page;
    char *mapping = mmap(NULL, total, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK |
                         MAP_NORESERVE, -1, 0);
    size_t usable;
    Coroutine *co;

    if (mapping == MAP_FAILED) {
        g_error("no memory for a coroutine's stack: %s", g_strerror(errno));
    }
    if (mprotect(mapping, page, PROT_NONE) < 0) {
        g_error("no guard page for a coroutine's stack: %s",
                g_strerror(errno));
    }

    usable = (CO_STACK_BYTES - sizeof(Coroutine)) & ~(size_t)63;
    co = (Coroutine *)(mapping + page + usable);
    co->ctx = ctx;
    co->mapping = mapping;
    san_stack_create(&co->san, mapping + page, usable);
    co_switch_prepare(&co->point, mapping + page, usable, coroutine_main);
    return co;
}

static void stack_free(Coroutine *co)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    san_stack_destroy(&co->san);
    (void) munmap(co->mapping, CO_STACK_BYTES + page);
}

Coroutine *co_create(CoEntry *entry, void *opaque)
{
    AioContext *ctx = aio_thread_context;
    Coroutine *co;

    g_assert(ctx);
    co = ctx->idle_stacks;
    if (G_LIKELY(co)) {
        ctx->idle_stacks = co->next;
        ctx->n_idle_stacks--;
    } else {
        co = stack_new(ctx);
    }
    co->entry = entry;
    co->opaque = opaque;
    co->next = NULL;
    co->caller = NULL;
    co->ended = false;
    ctx->n_coroutines++;
    return co;
}

/* Keeps the stack of a coroutine that has ended, or gives it back. */
static void coroutine_release(AioContext *ctx, Coroutine *co)
{
    ctx->n_coroutines--;
    if (G_UNLIKELY(ctx->n_idle_stacks >= IDLE_STACKS_MAX)) {
        stack_free(co);
        return;
    }
    co->next = ctx->idle_stacks;
    ctx->idle_stacks = co;
    ctx->n_idle_stacks++;
}

CO_SWITCH_FUNCTION void co_enter(Coroutine *co)
{
    AioContext *ctx = aio_thread_context;
    Coroutine *caller;
    SanStack *own;

    g_assert(co->ctx == ctx && !co->ended);
    caller = ctx->current;
    own = caller ? &caller->san : &ctx->leader_san;

    co->caller = caller;
    set_current(ctx, co);
    san_switch_begin(own, &co->san, /* from_ends= */ false);
    co_switch(caller ? &caller->point : &ctx->leader, &co->point);
    san_switch_end(own, &co->san);

    if (co->ended) {
        coroutine_release(ctx, co);
    }
}

CO_SWITCH_FUNCTION void coroutine_fn co_yield(void)
{
    Coroutine *co = co_self();

    g_assert(co);
    set_current(co->ctx, co->caller);
    san_switch_begin(&co->san, caller_san(co), /* from_ends= */ false);
    co_switch(&co->point, caller_point(co));
    san_switch_end(&co->san, caller_san(co));
}

void co_wake(Coroutine *co)
{
    AioContext *ctx = co->ctx;

    if (ctx == aio_thread_context) {
        aio_context_make_ready(ctx, co);
    } else {
        aio_context_make_ready_remote(ctx, co);
    }
}

void coroutine_free_idle(AioContext *ctx)
{
    while (ctx->idle_stacks) {
        Coroutine *co = ctx->idle_stacks;

        ctx->idle_stacks = co->next;
        stack_free(co);
    }
    ctx->n_idle_stacks = 0;
}

void co_pool_drain(void)
{
    if (aio_thread_context) {
        coroutine_free_idle(aio_thread_context);
    }
}
