/* SPDX-License-Identifier: MIT */
/*
 * flush: what was written gets to the medium, in the right order
 *
 *   bdrv_co_flush(node)
 *     1  driver's co_flush_to_os: the format's caches into its children
 *     2  the children it may write: bdrv_co_flush each, unless the driver
 *        says that its step 3 does (flushes_children)
 *     3  driver's co_flush_to_disk, unless nothing was written since the last
 *
 * Steps 1 and 2 cost little when there is nothing to do: each child elides
 * its own step 3.
 *
 * Always true outside a function of this file:
 *  F1  at most one flush of a node runs; one that came while it ran waits,
 *      then shares the result of the next one, which started after it came;
 *  F2  flushed_generation is the write_generation that was current when the
 *      last successful flush started: later writes are not covered by it;
 *  F3  a failed step 3, or a failed step 1 but for lack of space, sticks: the
 *      kernel may have dropped the dirty pages it failed to write and would
 *      report success next time. For lack of space the format keeps its
 *      caches dirty and may try again. A child's failure is the child's.
 *
 * Locking: state->lock (a CoMutex) protects the state; not held during a
 * flush. write_generation is atomic.
 */
#include "block/io/flush.h"

#include "block/driver.h"
#include "block/io/internal.h"
#include "block/io/io.h"
#include "block/rt/comutex.h"

#include <errno.h>

struct BdrvFlushState {
    CoMutex lock;
    CoQueue done; /* the running flush has ended */
    bool running;
    uint64_t started;       /* flushes so far */
    uint64_t last_success;  /* the number of the last good one */
    uint64_t last_failure;
    int last_error;         /* of last_failure */
    int sticky_error;       /* F3; 0 or -errno */
    uint64_t flushed_generation; /* F2; the running flush's own */
};

BdrvFlushState *bdrv_flush_state_new(void)
{
    BdrvFlushState *state = g_new0(BdrvFlushState, 1);

    co_mutex_init(&state->lock);
    co_queue_init(&state->done);
    return state;
}

void bdrv_flush_state_free(BdrvFlushState *state)
{
    if (!state) {
        return;
    }
    g_assert(!state->running);
    co_queue_destroy(&state->done);
    co_mutex_destroy(&state->lock);
    g_free(state);
}

void bdrv_flush_state_reset(BlockDriverState *bs)
{
    bs->flush->sticky_error = 0;
}

void bdrv_mark_written(BlockDriverState *bs)
{
    __atomic_fetch_add(&bs->write_generation, 1, __ATOMIC_RELEASE);
}

/* Children that this node may have written to. */
static int coroutine_fn flush_children(BlockDriverState *bs,
                                       int coroutine_fn (*flush)(
                                           BlockDriverState *child))
{
    int result = 0;

    for (guint i = 0; bs->children && i < bs->children->len; i++) {
        const BdrvChild *child = g_ptr_array_index(bs->children, i);

        if (bdrv_child_perm(child) &
            (BLK_PERM_WRITE | BLK_PERM_WRITE_UNCHANGED)) {
            int ret = flush(child->bs);

            result = result ? result : ret;
        }
    }
    return result;
}

static bool sticks(int ret)
{
    return ret < 0 && ret != -ENOSPC && ret != -EDQUOT;
}

/* The three steps. *ret_sticky: shall a failure be remembered? (F3) */
static int coroutine_fn run_flush(BlockDriverState *bs, bool *ret_sticky)
{
    BdrvFlushState *state = bs->flush;
    uint64_t generation = __atomic_load_n(&bs->write_generation,
                                          __ATOMIC_ACQUIRE); /* F2 */
    int ret;

    bdrv_node_debug_event(bs, BLOCK_DEBUG_FLUSH_TO_OS);
    ret = bs->drv->co_flush_to_os(bs);
    *ret_sticky = sticks(ret);
    if (ret < 0) {
        return ret;
    }
    if (!bs->drv->flushes_children) {
        ret = flush_children(bs, bdrv_co_flush);
    }
    if (ret < 0 || (bs->open_flags & BDRV_O_NO_FLUSH) ||
        state->flushed_generation == generation) {
        return ret;
    }
    bdrv_node_debug_event(bs, BLOCK_DEBUG_FLUSH_TO_DISK);
    ret = bs->drv->co_flush_to_disk(bs);
    *ret_sticky = ret < 0;
    if (ret == 0) {
        state->flushed_generation = generation;
    }
    return ret;
}

/* Waits for our turn. True: somebody else has flushed for us, see *ret. */
static bool coroutine_fn wait_for_turn(BdrvFlushState *state, int *ret)
{
    uint64_t arrival = state->started;

    while (state->running) {
        co_queue_wait(&state->done, &state->lock);
    }
    if (state->sticky_error) {
        *ret = state->sticky_error;
        return true;
    }
    if (state->last_success > arrival) { /* F1 */
        *ret = 0;
        return true;
    }
    if (state->last_failure > arrival) {
        *ret = state->last_error;
        return true;
    }
    return false;
}

static int coroutine_fn flush_request(BlockDriverState *bs)
{
    BdrvFlushState *state = bs->flush;
    bool sticky;
    int ret = 0;

    if (!bs->drv) {
        return -ENOMEDIUM;
    }
    co_mutex_lock(&state->lock);
    if (wait_for_turn(state, &ret)) {
        co_mutex_unlock(&state->lock);
        return ret;
    }
    state->running = true;
    state->started++;
    co_mutex_unlock(&state->lock);

    ret = run_flush(bs, &sticky);

    co_mutex_lock(&state->lock);
    state->running = false;
    if (ret == 0) {
        state->last_success = state->started;
    } else {
        state->last_failure = state->started;
        state->last_error = ret;
        state->sticky_error = sticky ? ret : 0;
    }
    co_queue_wake_all(&state->done);
    co_mutex_unlock(&state->lock);
    return ret;
}

int coroutine_fn bdrv_co_flush(BlockDriverState *bs)
{
    return BDRV_COUNTED(bs, ACCOUNTING_FLUSH, 0, flush_request(bs));
}

int coroutine_fn bdrv_co_flush_to_os(BlockDriverState *bs)
{
    int ret;

    if (!bs->drv) {
        return -ENOMEDIUM;
    }
    ret = bs->drv->co_flush_to_os(bs);
    return ret < 0 ? ret : flush_children(bs, bdrv_co_flush_to_os);
}
