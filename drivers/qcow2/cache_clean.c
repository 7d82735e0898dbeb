/* SPDX-License-Identifier: MIT */
/*
 * what nobody has used for long leaves the caches of a qcow2 image
 *
 * Caches grow up to their bounds and would stay there, though the mount lies
 * idle for the rest of its life. So every cache-clean-interval the slices of
 * L2 tables and the refcount blocks that were not looked at since the last
 * time are dropped, unless the file lacks what they hold.
 *
 * Locking: a timer of the control plane's thread, in a coroutine that never
 * sleeps: when the lock is taken the image is busy, and may be cleaned later.
 */
#include "drivers/qcow2/cache_clean.h"

#include "block/rt/timer.h"
#include "drivers/qcow2/qcow2.h"

#define NS_PER_S INT64_C(1000000000)

static void coroutine_fn clean_entry(void *opaque)
{
    BlockDriverState *bs = opaque;
    Qcow2State *q = qcow2_state(bs);

    if (co_mutex_trylock(&q->lock)) {
        qcow2_l2_clean(bs);
        qcow2_refcount_clean(bs);
        co_mutex_unlock(&q->lock);
    }
}

static void on_timer(void *opaque)
{
    BlockDriverState *bs = opaque;

    co_enter(co_create(clean_entry, bs));
    qcow2_cache_clean_start(bs);
}

void qcow2_cache_clean_init(BlockDriverState *bs)
{
    aio_timer_init(&qcow2_state(bs)->clean_timer, aio_context_current(),
                   on_timer, bs);
    qcow2_cache_clean_start(bs);
}

void qcow2_cache_clean_stop(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);

    if (q->clean_timer.ctx) {
        aio_timer_cancel(&q->clean_timer);
    }
}

void qcow2_cache_clean_start(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t interval_s = q->options.clean_interval_s;

    if (q->clean_timer.ctx && interval_s > 0 && q->l2.slices) {
        aio_timer_arm(&q->clean_timer,
                      clock_now_ns() + interval_s * NS_PER_S);
    }
}
