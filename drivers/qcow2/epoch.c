/* SPDX-License-Identifier: MIT */
/*
 * grace periods for requests that read mappings without a lock
 *
 * Two counters of requests, chosen by the low bit of the generation. The
 * generation g may become g + 1 only when the counter that newcomers do not
 * use is zero; it is the one they will use then.
 *
 *   generation   g            g + 1          g + 2
 *   newcomers    side A       side B         side A
 *   moves on     when B == 0  when A == 0
 *
 * Always true:
 *  E1  what entered before a ticket was drawn at generation g sits on side A or
 *      B; side B was seen empty before g + 1, side A before g + 2;
 *  E2  what a request loads after entering is either unretired, or the request
 *      is counted where the poller sees it (enter's store and the ticket's
 *      fence are both sequentially consistent).
 * So a ticket of generation g has passed at g + 2.
 *
 * Locking: retire, poll and passed are called under one lock of the owner;
 * enter and leave need none.
 */
#include "drivers/qcow2/epoch.h"

uint64_t qcow2_epoch_retire(Qcow2Epoch *epoch)
{
    /* A read-modify-write rather than a bare fence: checkers know it (E2). */
    return __atomic_fetch_add(&epoch->generation, 0, __ATOMIC_SEQ_CST) + 2;
}

/* One step; false when a request of the other side is still there (E1). */
static bool epoch_advance(Qcow2Epoch *epoch)
{
    uint64_t generation =
        __atomic_fetch_add(&epoch->generation, 0, __ATOMIC_SEQ_CST);

    if (context_counter_sum(&epoch->readers[(generation + 1) & 1]) != 0) {
        return false;
    }
    __atomic_fetch_add(&epoch->generation, 1, __ATOMIC_SEQ_CST);
    return true;
}

void qcow2_epoch_poll(Qcow2Epoch *epoch)
{
    /* Two steps let everything pass that is idle now. */
    if (epoch_advance(epoch)) {
        (void) epoch_advance(epoch);
    }
}

bool qcow2_epoch_passed(const Qcow2Epoch *epoch, uint64_t ticket)
{
    return __atomic_load_n(&epoch->generation, __ATOMIC_ACQUIRE) >= ticket;
}
