/* SPDX-License-Identifier: MIT */
/*
 * tracked requests
 *
 * Knows who is in flight and makes serialising requests exclusive. It knows
 * nothing of what the requests do.
 *
 *   begin ──▶ running ──────────────────────────────▶ end: waiters woken
 *                │  conflict seen, or serialise           ▲
 *                ▼                                        │
 *             checking: number drawn, ──▶ nothing in ──▶ running
 *             waiters woken               the way
 *
 * Always true outside a function of this file:
 *  T1  two requests of which one is serialising, whose ranges overlap, do not
 *      both run (after their wait has returned);
 *  T2  a number is drawn under the lock of the drawer's list, together with
 *      everything that others judge it by. So who draws a larger one and then
 *      looks, finds the smaller one there; that is why a request need not
 *      wait for a checking one with a larger number;
 *  T3  only a running request, or a checking one with a smaller number, has
 *      another in its waiters. Whoever stops running to check wakes them.
 *
 * Locking: see request.h. The lock also orders begin (insert, then look at the
 * count) with a serialising request (raise the count, then look at the list).
 */
#include "block/io/request.h"

#include "block/graph/node.h"
#include "block/io/spin_lock.h"
#include "block/rt/aio_context.h"

typedef struct RequestList {
    SpinLock lock;
    BdrvRequest *first;
} __attribute__((aligned(64))) RequestList;

struct BdrvTracker {
    RequestList lists[AIO_CONTEXTS_MAX];
    int serialising;        /* requests; atomic */
    uint64_t next_sequence; /* atomic */
};

BdrvTracker *bdrv_tracker_new(void)
{
    BdrvTracker *tracker = g_aligned_alloc0(1, sizeof(*tracker), 64);

    return tracker;
}

void bdrv_tracker_free(BdrvTracker *tracker)
{
    if (!tracker) {
        return;
    }
    for (unsigned i = 0; i < AIO_CONTEXTS_MAX; i++) {
        g_assert(!tracker->lists[i].first);
    }
    g_aligned_free(tracker);
}

static inline RequestList *list_of(const BdrvRequest *request)
{
    return &request->bs->tracker->lists[request->context_index];
}

void coroutine_fn bdrv_request_begin(BdrvRequest *request,
                                     BlockDriverState *bs, int64_t offset,
                                     int64_t bytes, BdrvRequestType type)
{
    Coroutine *co = co_self();
    RequestList *list;

    request->bs = bs;
    request->offset = offset;
    request->bytes = bytes;
    request->type = type;
    request->context_index = aio_context_index(co_context(co));
    request->co = co;
    request->serialising = false;
    request->checking = false;
    request->overlap_offset = offset;
    request->overlap_bytes = bytes;
    request->first_waiter = NULL;

    list = list_of(request);
    request->link = &list->first;
    spin_lock(&list->lock);
    request->next = list->first;
    if (request->next) {
        request->next->link = &request->next;
    }
    list->first = request;
    spin_unlock(&list->lock);
}

/* Wakes a chain that was taken out of its request's first_waiter. */
static void wake_chain(BdrvRequest *waiter)
{
    while (waiter) {
        BdrvRequest *next = waiter->next_waiter;

        co_wake(waiter->co); /* *waiter may be gone after this */
        waiter = next;
    }
}

void coroutine_fn bdrv_request_end(BdrvRequest *request)
{
    RequestList *list = list_of(request);
    BdrvRequest *waiters;

    spin_lock(&list->lock);
    *request->link = request->next;
    if (request->next) {
        request->next->link = request->link;
    }
    waiters = request->first_waiter;
    spin_unlock(&list->lock);

    if (G_UNLIKELY(request->serialising)) {
        __atomic_fetch_sub(&request->bs->tracker->serialising, 1,
                           __ATOMIC_RELEASE);
    }
    if (G_UNLIKELY(waiters)) {
        wake_chain(waiters);
    }
}

/* Must @request keep out of @other's way? Under the lock of @other's list. */
static bool must_wait_for(const BdrvRequest *request,
                          const BdrvRequest *other)
{
    if (other == request || (!request->serialising && !other->serialising) ||
        !ranges_overlap(request->overlap_offset, request->overlap_bytes,
                        other->overlap_offset, other->overlap_bytes)) {
        return false;
    }
    return !other->checking || !request->checking ||
           other->sequence < request->sequence; /* T2 */
}

/*
 * Looks for somebody to wait for; with @queue the request joins its waiters
 * and the caller must yield.
 */
static bool find_conflict(BdrvRequest *request, bool queue)
{
    BdrvTracker *tracker = request->bs->tracker;
    unsigned limit = aio_context_index_limit();

    for (unsigned i = 0; i < limit; i++) {
        RequestList *list = &tracker->lists[i];
        BdrvRequest *other;

        spin_lock(&list->lock);
        other = list->first;
        while (other && !must_wait_for(request, other)) {
            other = other->next;
        }
        if (other && queue) {
            request->next_waiter = other->first_waiter;
            other->first_waiter = request; /* T3 */
        }
        spin_unlock(&list->lock);
        if (other) {
            return true;
        }
    }
    return false;
}

/* Turns a running request into a checking one. Its list is locked. */
static BdrvRequest *start_checking(BdrvRequest *request)
{
    BdrvRequest *waiters = request->first_waiter;

    request->checking = true;
    request->sequence = __atomic_fetch_add(&request->bs->tracker->next_sequence,
                                           1, __ATOMIC_SEQ_CST); /* T2 */
    request->first_waiter = NULL;
    return waiters; /* T3 */
}

static void coroutine_fn wait_until_clear(BdrvRequest *request)
{
    RequestList *list = list_of(request);

    while (find_conflict(request, /* queue= */ true)) {
        co_yield();
    }
    spin_lock(&list->lock);
    request->checking = false;
    spin_unlock(&list->lock);
}

void coroutine_fn bdrv_request_wait_serialising(BdrvRequest *request)
{
    RequestList *list = list_of(request);
    BdrvRequest *waiters;

    if (G_LIKELY(!__atomic_load_n(&request->bs->tracker->serialising,
                                  __ATOMIC_ACQUIRE))) {
        return;
    }
    /* In the list already: who turns serialising from here on sees us. */
    if (!find_conflict(request, /* queue= */ false)) {
        return;
    }
    spin_lock(&list->lock);
    waiters = start_checking(request);
    spin_unlock(&list->lock);
    wake_chain(waiters);
    wait_until_clear(request);
}

/* Widens the range that others must keep out of. Its list is locked. */
static void widen(BdrvRequest *request, int64_t alignment)
{
    int64_t start = request->offset - request->offset % alignment;
    int64_t end = div_round_up(request->offset + request->bytes, alignment);

    request->overlap_offset = start;
    if (end > BDRV_MAX_LENGTH / alignment) {
        request->overlap_bytes = BDRV_MAX_LENGTH - start;
    } else {
        request->overlap_bytes = end * alignment - start;
    }
}

void coroutine_fn bdrv_request_serialise(BdrvRequest *request,
                                         int64_t alignment)
{
    RequestList *list = list_of(request);
    BdrvRequest *waiters;

    g_assert(!request->serialising && alignment > 0);
    __atomic_fetch_add(&request->bs->tracker->serialising, 1,
                       __ATOMIC_SEQ_CST);
    spin_lock(&list->lock);
    request->serialising = true;
    widen(request, alignment);
    waiters = start_checking(request);
    spin_unlock(&list->lock);
    wake_chain(waiters);
    wait_until_clear(request);
}
