/* SPDX-License-Identifier: MIT */
/*
 * a qcow2 image changes while in use: its options, and whether it may be
 * written to; and what has to be right before the first write
 *
 *   prepare: settle what memory has ─ repair a dirty image ─ check options
 *   commit:  take the options ─ begin the caches anew if they changed
 *
 * Prepare does all that can fail. What it writes back was due anyway, so that
 * an abort has nothing to undo.
 *
 * Locking: control plane with the node drained: nobody is inside an epoch, and
 * after settling nothing is dirty until commit.
 */
#include "drivers/qcow2/bitmaps.h"
#include "drivers/qcow2/check.h"
#include "drivers/qcow2/overlap.h"
#include "drivers/qcow2/qcow2.h"
#include "drivers/qcow2/snapshot.h"

#include "block/graph/options.h"

#include <inttypes.h>

/* -- opening for writes --------------------------------------------------- */

/* A dirty image's refcounts are not to be trusted: make them anew. */
static bool repair_dirty(BlockDriverState *bs, GError **error)
{
    Qcow2CheckResult result = { 0 };

    if (!qcow2_check(bs, QCOW2_FIX_LEAKS | QCOW2_FIX_ERRORS, &result,
                     error)) {
        g_prefix_error(error, "the image was not closed properly, and "
                       "repairing it failed: ");
        return false;
    }
    if (result.corruptions > 0 || result.check_errors > 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                    "the image was not closed properly and cannot be "
                    "repaired: %" PRId64 " errors are left; open it "
                    "read-only", result.corruptions + result.check_errors);
        return false;
    }
    return qcow2_reload(bs, error);
}

bool qcow2_check_writable(BlockDriverState *bs, BdrvOpenFlags flags,
                          GError **error)
{
    const Qcow2Header *header = &qcow2_state(bs)->header;

    if (!(flags & BDRV_O_RDWR) || (flags & BDRV_O_CHECK)) {
        return true;
    }
    if (header->incompatible & QCOW2_INCOMPAT_CORRUPT) {
        g_set_error_literal(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                            "the image is marked corrupt: open it read-only, "
                            "or repair it first");
        return false;
    }
    return !(header->incompatible & QCOW2_INCOMPAT_DIRTY) ||
           repair_dirty(bs, error);
}

/* -- reopening ------------------------------------------------------------ */

/* Those that the node has and those that change; our own leave the state. */
static bool take_options(BlockReopenState *state, Qcow2Options *ret_opts,
                         GError **error)
{
    g_autoptr(BlockOptions) all = block_options_copy(state->options);
    Qcow2Options unused;

    block_options_join(all, state->bs->options);
    return qcow2_options_take(all, state->flags,
                              &qcow2_state(state->bs)->header, ret_opts,
                              error) &&
           qcow2_options_take(state->options, state->flags,
                              &qcow2_state(state->bs)->header, &unused,
                              error);
}

/* What was loaded for reading only is loaded anew, guarded. */
static bool prepare_for_writes(BlockReopenState *state, GError **error)
{
    Qcow2State *q = qcow2_state(state->bs);
    bool had_guards = q->guards;

    q->guards = true;
    if (!qcow2_check_writable(state->bs, state->flags, error) ||
        !qcow2_snapshots_guard(state->bs, error)) {
        q->guards = had_guards;
        return false;
    }
    if (!had_guards) {
        qcow2_l2_drop_slices(state->bs);
    }
    return true;
}

static bool qcow2_reopen_prepare(BlockReopenState *state, GError **error)
{
    g_autofree Qcow2Options *opts = g_new0(Qcow2Options, 1);
    int ret;

    if (!take_options(state, opts, error)) {
        return false;
    }
    /* Caches that begin anew hold nothing that the file lacks. */
    ret = state->flags & BDRV_O_RDWR ? qcow2_commit_all(state->bs)
                                     : qcow2_settle(state->bs);
    if (ret < 0) {
        error_set_errno(error, -ret, "writing back metadata");
        return false;
    }
    if ((state->flags & BDRV_O_RDWR) && !prepare_for_writes(state, error)) {
        return false;
    }
    state->opaque = g_steal_pointer(&opts);
    return true;
}

static bool caches_differ(const Qcow2Options *a, const Qcow2Options *b)
{
    return a->l2_cache_bytes != b->l2_cache_bytes ||
           a->l2_entry_bytes != b->l2_entry_bytes ||
           a->refcount_cache_bytes != b->refcount_cache_bytes ||
           a->overlap_classes != b->overlap_classes;
}

/* Entries in memory were guarded as the old options said. */
static void restart_caches(BlockDriverState *bs)
{
    g_autoptr(GError) error = NULL;

    qcow2_l2_restart(bs);
    qcow2_refcount_set_limit(bs, qcow2_state(bs)->options.refcount_cache_bytes);
    qcow2_refcount_trim(bs);
    if (qcow2_state(bs)->guards && !qcow2_snapshots_guard(bs, &error)) {
        /* Not fatal: the guard knows less. */
        g_warning("%s: %s", bdrv_name(bs), error->message);
    }
}

static void qcow2_reopen_commit(BlockReopenState *state)
{
    BlockDriverState *bs = state->bs;
    Qcow2State *q = qcow2_state(bs);
    g_autofree Qcow2Options *opts = g_steal_pointer(&state->opaque);
    bool restart = q->l2.slices && caches_differ(&q->options, opts);

    qcow2_set_options(bs, opts);
    if (restart) {
        restart_caches(bs);
    }
    q->write_state = 0;
    if (state->flags & BDRV_O_RDWR) {
        qcow2_bitmaps_track(bs);
    } else {
        (void) qcow2_bitmaps_untrack(bs); /* prepare has stored them */
    }
}

static void qcow2_reopen_abort(BlockReopenState *state)
{
    g_clear_pointer(&state->opaque, g_free);
}

const BlockReopenOps qcow2_reopen_ops = {
    .prepare = qcow2_reopen_prepare,
    .commit = qcow2_reopen_commit,
    .abort = qcow2_reopen_abort,
};
