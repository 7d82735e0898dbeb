/* SPDX-License-Identifier: MIT */
/*
 * write threshold: tell somebody once when a node is written past an offset
 *
 *   set ──▶ armed ──▶ fired, on its way to the control plane ──▶ callback
 *             │                     │
 *             └── set, forget: freed└── set, forget: cancelled, freed there
 *
 * Always true outside a function of this file:
 *  W1  while bs->write_threshold is not 0, bs->write_threshold_event is armed
 *      and belongs to the node;
 *  W2  an event that was fired belongs to the callback on its way, which
 *      frees it; the node's pointer serves to cancel it only.
 *
 * Locking: none. The offset is taken to 0 by one thread; the pointer changes
 * on the control plane while the node is drained, so nobody is firing then.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "block/io/write_threshold.h"

#include "block/graph/drain.h"
#include "block/rt/aio_context.h"

struct BdrvWriteThreshold {
    BlockDriverState *bs; /* NULL: cancelled */
    AioContext *ctx;      /* the control plane's */
    int64_t offset;
    int64_t end; /* of the request that fired */
    WriteThresholdCallback *callback;
    void *opaque;
};

void bdrv_write_threshold_forget(BlockDriverState *bs)
{
    BdrvWriteThreshold *event = g_steal_pointer(&bs->write_threshold_event);

    if (__atomic_exchange_n(&bs->write_threshold, 0, __ATOMIC_ACQ_REL) != 0) {
        g_free(event); /* W1 */
    } else if (event != NULL) {
        event->bs = NULL; /* W2 */
    }
}

void bdrv_write_threshold_set(BlockDriverState *bs, int64_t offset,
                              WriteThresholdCallback *callback, void *opaque)
{
    g_assert(offset >= 0 && (offset == 0 || callback != NULL));
    bdrv_drained_begin(bs);
    bdrv_write_threshold_forget(bs);
    if (offset > 0) {
        BdrvWriteThreshold *event = g_new0(BdrvWriteThreshold, 1);

        event->bs = bs;
        event->ctx = aio_context_current();
        event->offset = offset;
        event->callback = callback;
        event->opaque = opaque;
        bs->write_threshold_event = event;
        __atomic_store_n(&bs->write_threshold, offset, __ATOMIC_RELEASE);
    }
    bdrv_drained_end(bs);
}

/* On the control plane: nobody cancels meanwhile. */
static void call_back(void *opaque)
{
    g_autofree BdrvWriteThreshold *event = opaque;

    if (event->bs != NULL) {
        event->bs->write_threshold_event = NULL;
        event->callback(event->bs, event->offset, event->end, event->opaque);
    }
}

void bdrv_write_threshold_fire(BlockDriverState *bs, int64_t end)
{
    BdrvWriteThreshold *event;

    if (__atomic_exchange_n(&bs->write_threshold, 0, __ATOMIC_ACQ_REL) == 0) {
        return;
    }
    event = bs->write_threshold_event;
    event->end = end;
    aio_schedule(event->ctx, call_back, event);
}
