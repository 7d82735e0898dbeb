/* SPDX-License-Identifier: MIT */
/*
 * reopening between read-only and read-write
 *
 *   collect ─▶ prepare all ─▶ flags and permissions ─▶ commit all
 *                  │ refused          │ refused
 *                  ▼                  ▼
 *              abort what was prepared, flags as before
 *
 * Children come before their parents: a format that becomes writable may
 * write its header in commit, and its file must take that by then. In the
 * other direction everything is flushed before anything changes.
 *
 * Locking: none, control plane; the whole graph is drained meanwhile.
 */
#include "block/graph/reopen.h"

#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"
#include "block/graph/perm.h"
#include "block/io/flush.h"
#include "block/io/io.h"

/* Nodes that change together with @bs, children first, each once. */
static void collect(BlockDriverState *bs, bool read_only, GArray *states)
{
    BlockReopenState state = {.bs = bs};

    for (guint i = 0; i < states->len; i++) {
        if (g_array_index(states, BlockReopenState, i).bs == bs) {
            return;
        }
    }
    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = bs->children->pdata[i];

        if (!(child->role & BDRV_CHILD_COW)) {
            collect(child->bs, read_only, states);
        }
    }
    if (bs->read_only == read_only) {
        return;
    }
    state.flags = read_only ? bs->open_flags & ~(BdrvOpenFlags)BDRV_O_RDWR
                            : bs->open_flags | BDRV_O_RDWR;
    state.options = block_options_new();
    g_array_append_val(states, state);
}

static BlockReopenState *state_at(GArray *states, guint i)
{
    return &g_array_index(states, BlockReopenState, i);
}

static void abort_first(GArray *states, guint n_prepared)
{
    for (guint i = n_prepared; i-- > 0;) {
        BlockReopenState *state = state_at(states, i);

        state->bs->drv->reopen->abort(state);
    }
}

static bool prepare_all(GArray *states, GError **error)
{
    for (guint i = 0; i < states->len; i++) {
        BlockReopenState *state = state_at(states, i);

        if (!state->bs->drv->reopen->prepare(state, error)) {
            g_prefix_error(error, "%s: ", bdrv_name(state->bs));
            abort_first(states, i);
            return false;
        }
    }
    return true;
}

/* Swaps each node's flags with those in its state. */
static void swap_flags(GArray *states)
{
    for (guint i = 0; i < states->len; i++) {
        BlockReopenState *state = state_at(states, i);
        BdrvOpenFlags old = state->bs->open_flags;

        state->bs->open_flags = state->flags;
        state->bs->read_only = !(state->flags & BDRV_O_RDWR);
        state->flags = old;
    }
}

static void commit_all(GArray *states)
{
    for (guint i = 0; i < states->len; i++) {
        BlockReopenState *state = state_at(states, i);

        /* The driver sees the new flags, in the node and in the state. */
        state->flags = state->bs->open_flags;
        state->bs->drv->reopen->commit(state);
        bdrv_flush_state_reset(state->bs);
    }
    for (guint i = 0; i < states->len; i++) {
        BlockReopenState *state = state_at(states, i);

        state->bs->drv->reopen->commit_post(state);
    }
}

static bool run(BlockDriverState *bs, GArray *states, GError **error)
{
    if (!prepare_all(states, error)) {
        return false;
    }
    swap_flags(states);
    if (!bdrv_refresh_perms(bs, error)) {
        swap_flags(states);
        abort_first(states, states->len);
        return false;
    }
    commit_all(states);
    return true;
}

bool bdrv_reopen_set_read_only(BlockDriverState *bs, bool read_only,
                               GError **error)
{
    GArray *states = g_array_new(FALSE, FALSE, sizeof(BlockReopenState));
    bool ok = true;
    int ret = 0;

    bdrv_drain_all_begin();
    collect(bs, read_only, states);
    if (read_only && states->len > 0) {
        ret = bdrv_flush(bs);
    }
    if (!read_only && bs->force_share) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: force-share needs a read-only open", bdrv_name(bs));
        ok = false;
    } else if (ret < 0) {
        error_set_errno(error, -ret, "%s: flush", bdrv_name(bs));
        ok = false;
    } else {
        ok = run(bs, states, error);
    }
    for (guint i = 0; i < states->len; i++) {
        block_options_free(state_at(states, i)->options);
    }
    bdrv_drain_all_end();
    g_array_free(states, /* free_segment= */ TRUE);
    return ok;
}
