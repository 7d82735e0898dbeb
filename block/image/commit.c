/* SPDX-License-Identifier: MIT */
/*
 * commit: data of upper layers moves down into a lower one
 *
 *   user ─▶ top ─▶ mid ─▶ base        becomes        user ─▶ base
 *            └── copy ──────▲
 *
 * What is copied is hidden from top by the layers that have it, so top reads
 * the same all the time. A layer in between does not: it must have no other
 * users. Its edge to base shares writing for our sake (BdrvChild.granted).
 *
 * Always true: the chain is frozen from the start until the users move, and
 * they move only when base has all data on the medium.
 *
 * Locking: see job.c; the state is constant while the coroutine runs.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "block/image/commit.h"

#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/graph/edge.h"
#include "block/graph/op_blocker.h"
#include "block/graph/perm.h"
#include "block/graph/reopen.h"
#include "block/image/chain.h"
#include "block/image/copier.h"
#include "block/image/create.h"

#define GRANTED ((uint32_t)(BLK_PERM_WRITE | BLK_PERM_RESIZE))

typedef struct CommitState {
    BlockDriverState *top;  /* counted */
    BlockDriverState *base; /* counted */
    BdrvChild *base_edge;   /* of the layer above base; NULL once moved */
    BlockBackend *source;
    BlockBackend *target;
    BdrvDirtyBitmap *dirty; /* on top */
    GPtrArray *frozen;
    GPtrArray *between; /* counted; nodes that get no new users */
    bool reopened; /* base was read-only */
    Copier copier;
} CommitState;

static int coroutine_fn commit_run(Job *job)
{
    CommitState *s = job_state(job);
    int ret = copier_co_mark_allocated(&s->copier, s->source, s->base);

    return ret < 0 ? ret : copier_co_run(&s->copier);
}

static void remove_bitmap(CommitState *s)
{
    if (s->dirty != NULL) {
        bdrv_drained_begin(s->top);
        bdrv_dirty_bitmap_remove(g_steal_pointer(&s->dirty));
        bdrv_drained_end(s->top);
    }
}

/* The rest, and everything on the medium; then the users move. */
static bool commit_prepare(Job *job, GError **error)
{
    CommitState *s = job_state(job);
    bool ok = false;
    int ret;

    bdrv_drained_begin(s->top);
    ret = copier_finish(&s->copier);
    if (ret < 0) {
        error_set_errno(error, -ret, "copying the rest to %s",
                        bdrv_name(s->base));
    } else {
        remove_bitmap(s);
        g_clear_pointer(&s->source, blk_free);
        g_clear_pointer(&s->target, blk_free);
        chain_unfreeze(s->frozen);
        ok = chain_move_parents(s->top, s->base, error);
    }
    bdrv_drained_end(s->top);
    return ok;
}

static void release_between(CommitState *s)
{
    for (guint i = 0; s->between != NULL && i < s->between->len; i++) {
        bdrv_op_unblock_all(s->between->pdata[i], s);
    }
    g_clear_pointer(&s->between, g_ptr_array_unref);
}

/*
 * The layers above base have lost their users and go with our count. One that
 * somebody still holds keeps what it granted: it has become invalid anyway.
 */
static void commit_commit(Job *job)
{
    CommitState *s = job_state(job);

    s->base_edge = NULL;
    chain_release(s->top, s);
    bdrv_drained_begin(s->base);
    release_between(s);
    g_clear_pointer(&s->top, bdrv_unref);
    bdrv_drained_end(s->base);
}

static void commit_clean(Job *job)
{
    CommitState *s = job_state(job);

    remove_bitmap(s);
    release_between(s);
    g_clear_pointer(&s->source, blk_free);
    g_clear_pointer(&s->target, blk_free);
    chain_unfreeze(s->frozen);
    g_clear_pointer(&s->frozen, g_ptr_array_unref);
    if (s->base_edge != NULL) {
        bdrv_drained_begin(s->base);
        s->base_edge->granted &= ~GRANTED;
        /* We were the only writer: it cannot fail. */
        (void) bdrv_refresh_perms(s->base, NULL);
        bdrv_drained_end(s->base);
    }
    if (s->reopened && !(s->base->perm & BLK_PERM_WRITE)) {
        (void) bdrv_reopen_set_read_only(s->base, true, NULL);
    }
    chain_release(s->top, s);
    chain_release(s->base, s);
    g_clear_pointer(&s->top, bdrv_unref);
    g_clear_pointer(&s->base, bdrv_unref);
}

static const JobDriver commit_driver = {
    .name = "commit",
    .instance_size = sizeof(CommitState),
    .run = commit_run,
    .prepare = commit_prepare,
    .commit = commit_commit,
    .clean = commit_clean,
};

/* -- starting ------------------------------------------------------------ */

/*
 * Layers between top and base will not make sense: nobody may look, neither
 * now nor later.
 */
static bool claim_between(CommitState *s, GError **error)
{
    s->between = g_ptr_array_new_with_free_func(
        (GDestroyNotify) bdrv_unref);
    for (guint i = 0; i + 1 < s->frozen->len; i++) {
        const BdrvChild *edge = s->frozen->pdata[i];

        if (edge->bs->parents->len > 1) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CONFLICT,
                        "%s, between %s and %s, has other users",
                        bdrv_name(edge->bs), bdrv_name(s->top),
                        bdrv_name(s->base));
            return false;
        }
        bdrv_op_block(edge->bs, BDRV_OP_NEW_USER, s, "its data is committed "
                      "to the layers below");
        g_ptr_array_add(s->between, bdrv_ref(edge->bs));
    }
    return true;
}

static bool open_base(CommitState *s, GError **error)
{
    int64_t length = bdrv_node_length(s->top);

    if (s->base->read_only) {
        if (!bdrv_reopen_set_read_only(s->base, false, error)) {
            return false;
        }
        s->reopened = true;
    }
    s->base_edge = s->frozen->pdata[s->frozen->len - 1];
    s->base_edge->granted |= GRANTED;
    s->target = blk_new(BLK_PERM_WRITE | BLK_PERM_RESIZE,
                        BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE_UNCHANGED,
                        "commit job");
    if (!blk_insert_node(s->target, s->base, error)) {
        return false;
    }
    return bdrv_node_length(s->base) >= length ||
           image_create_resize(s->target, length, PREALLOC_OFF, error);
}

static bool open_top(CommitState *s, bool is_live, GError **error)
{
    uint32_t shared = BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE_UNCHANGED;

    /* Whoever may write now must be followed; nobody may begin to later. */
    s->source = blk_new(BLK_PERM_CONSISTENT_READ,
                        shared | (is_live ? GRANTED : 0),
                        "commit job");
    if (!blk_insert_node(s->source, s->top, error)) {
        return false;
    }
    bdrv_drained_begin(s->top);
    s->dirty = bdrv_dirty_bitmap_new(s->top, /* name= */ NULL,
                                     copier_granularity(s->target, 0), error);
    bdrv_drained_end(s->top);
    return s->dirty != NULL;
}

static bool set_up(Job *job, GError **error)
{
    CommitState *s = job_state(job);
    bool is_live = s->top->perm & BLK_PERM_WRITE;

    s->frozen = g_ptr_array_new();
    if (!chain_can_rename_overlays(s->top, error) ||
        !chain_claim(s->top, BDRV_OP_COMMIT_SOURCE, s, error) ||
        !chain_claim(s->base, BDRV_OP_COMMIT_TARGET, s, error) ||
        !chain_freeze(s->frozen, s->top, s->base, error) ||
        !claim_between(s, error) || !open_base(s, error) ||
        !open_top(s, is_live, error)) {
        return false;
    }
    s->copier = (Copier) {
        .job = job, .source = s->source, .target = s->target,
        .dirty = s->dirty, .length = bdrv_node_length(s->top),
        .is_live = is_live,
    };
    return true;
}

Job *commit_job_new(const char *id, BlockDriverState *top,
                    BlockDriverState *base, GError **error)
{
    CommitState *s;
    Job *job;

    if (chain_edge_to(top, base, error) == NULL) {
        return NULL;
    }
    job = job_new(&commit_driver, id, error);
    if (job == NULL) {
        return NULL;
    }
    s = job_state(job);
    s->top = bdrv_ref(top);
    s->base = bdrv_ref(base);
    if (!set_up(job, error)) {
        job_free(job);
        return NULL;
    }
    return job;
}
