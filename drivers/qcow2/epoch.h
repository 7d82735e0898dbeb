/* SPDX-License-Identifier: MIT */
/*
 * grace periods: when has everybody who could see a thing gone?
 *
 * Requests read mappings without a lock. What they may still be looking at or
 * transferring to - a slice of an L2 table in memory, a host cluster - is
 * retired: made unreachable, given a ticket, and reused only when the ticket
 * has passed, that is, when every request that began before has ended.
 *
 * Nobody ever waits for a grace period: it is polled where something is
 * retired or needed. Requests are counted per context in two counters that
 * take turns, so that newcomers cannot keep an old period from ending.
 */
#ifndef DRIVERS_QCOW2_EPOCH_H
#define DRIVERS_QCOW2_EPOCH_H

#include "block/rt/context_counter.h"

typedef struct Qcow2Epoch {
    ContextCounter readers[2];
    uint64_t generation; /* atomic; its low bit chooses newcomers' counter */
} Qcow2Epoch;

/* enter and leave: same thread; @side is what enter returned. */
static inline unsigned qcow2_epoch_enter(Qcow2Epoch *epoch)
{
    unsigned index = aio_context_index(aio_context_current());
    unsigned side =
        __atomic_load_n(&epoch->generation, __ATOMIC_ACQUIRE) & 1;

    context_counter_enter(&epoch->readers[side], index);
    return side;
}

static inline void qcow2_epoch_leave(Qcow2Epoch *epoch, unsigned side)
{
    unsigned index = aio_context_index(aio_context_current());

    context_counter_leave(&epoch->readers[side], index);
}

/*
 * qcow2_epoch_retire:
 * A ticket for something that has just been made unreachable. Includes the
 * fence between the two. Under the owner's lock.
 */
uint64_t qcow2_epoch_retire(Qcow2Epoch *epoch);

/* Moves on as far as readers allow. Under the owner's lock. */
void qcow2_epoch_poll(Qcow2Epoch *epoch);

/* Has everything that began before the ticket ended? Poll first. */
bool qcow2_epoch_passed(const Qcow2Epoch *epoch, uint64_t ticket);

#endif
