/* SPDX-License-Identifier: MIT */
/*
 * mirror: a node's data is copied to another, which then takes its place
 *
 *   guest ─▶ source        becomes        guest ─▶ target
 *              └─ copy ─▶ target
 *
 * The copying is copier.c's. The target's backing node is attached before it
 * starts: a write of less than a cluster must find the rest of it below.
 *
 * Always true: the guest moves in a drained section, when the target has all
 * that the source shows, on the medium.
 *
 * Locking: see job.c; the state is constant while the coroutine runs.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "block/image/mirror.h"

#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/graph/edge.h"
#include "block/graph/filename.h"
#include "block/graph/open.h"
#include "block/image/chain.h"
#include "block/image/copier.h"
#include "block/image/create.h"

typedef struct MirrorState {
    BlockDriverState *source; /* counted */
    BlockDriverState *target; /* counted */
    BlockDriverState *replaced; /* counted; @source or below */
    MirrorSync sync;
    BlockBackend *from;
    BlockBackend *to;
    BdrvDirtyBitmap *dirty; /* on source */
    GPtrArray *frozen;      /* edges below source */
    bool attached;          /* the target's backing node is our doing */
    Copier copier;
} MirrorState;

static int coroutine_fn mirror_run(Job *job)
{
    MirrorState *s = job_state(job);
    BdrvChild *below = bdrv_filter_or_cow_child(s->source);
    int ret = 0;

    switch (s->sync) {
    case MIRROR_SYNC_FULL:
        bdrv_dirty_bitmap_set(s->dirty, 0, s->copier.length);
        break;
    case MIRROR_SYNC_TOP:
        ret = copier_co_mark_allocated(&s->copier, s->from,
                                       below != NULL ? below->bs : NULL);
        break;
    case MIRROR_SYNC_NONE:
        break;
    }
    return ret < 0 ? ret : copier_co_run(&s->copier);
}

static void remove_bitmap(MirrorState *s)
{
    if (s->dirty != NULL) {
        bdrv_drained_begin(s->source);
        bdrv_dirty_bitmap_remove(g_steal_pointer(&s->dirty));
        bdrv_drained_end(s->source);
    }
}

/* The graph may have changed since the start: asked at both ends. */
static bool check_replaced(const MirrorState *s, GError **error)
{
    if (!bdrv_recurse_can_replace(s->source, s->replaced)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "a mirror of %s cannot replace %s unseen",
                    bdrv_name(s->source), bdrv_name(s->replaced));
        return false;
    }
    return true;
}

static bool mirror_prepare(Job *job, GError **error)
{
    MirrorState *s = job_state(job);
    bool ok = false;
    int ret;

    bdrv_drained_begin(s->source);
    ret = copier_finish(&s->copier);
    if (ret < 0) {
        error_set_errno(error, -ret, "copying the rest to %s",
                        bdrv_name(s->target));
    } else if (check_replaced(s, error)) {
        remove_bitmap(s);
        g_clear_pointer(&s->from, blk_free);
        g_clear_pointer(&s->to, blk_free);
        chain_unfreeze(s->frozen);
        ok = chain_move_parents(s->replaced, s->target, error);
    }
    bdrv_drained_end(s->source);
    return ok;
}

/* The target goes back to its owner as it came. */
static void mirror_abort(Job *job)
{
    MirrorState *s = job_state(job);

    g_clear_pointer(&s->to, blk_free);
    if (s->attached) {
        bdrv_drained_begin(s->target);
        bdrv_detach_child(s->target->backing);
        bdrv_drained_end(s->target);
        s->attached = false;
    }
}

static void mirror_commit(Job *job)
{
    MirrorState *s = job_state(job);

    s->attached = false; /* it stays */
}

static void mirror_clean(Job *job)
{
    MirrorState *s = job_state(job);

    mirror_abort(job); /* of a job that never ran; else nothing is left */
    remove_bitmap(s);
    g_clear_pointer(&s->from, blk_free);
    chain_unfreeze(s->frozen);
    g_clear_pointer(&s->frozen, g_ptr_array_unref);
    chain_release(s->source, s);
    chain_release(s->target, s);
    /* The source may go, and leave a chain that the target's users share. */
    bdrv_drained_begin(s->target);
    g_clear_pointer(&s->replaced, bdrv_unref);
    g_clear_pointer(&s->source, bdrv_unref);
    bdrv_drained_end(s->target);
    g_clear_pointer(&s->target, bdrv_unref);
}

static void mirror_let_go(Job *job)
{
    MirrorState *s = job_state(job);

    bdrv_cancel_in_flight(s->target);
}

static const JobDriver mirror_driver = {
    .name = "mirror",
    .instance_size = sizeof(MirrorState),
    .run = mirror_run,
    .prepare = mirror_prepare,
    .commit = mirror_commit,
    .abort = mirror_abort,
    .clean = mirror_clean,
    .let_go = mirror_let_go,
};

/* -- starting ------------------------------------------------------------ */

/* The node to put below the target: a count for the caller, NULL if none. */
static bool find_backing(MirrorState *s, const MirrorConfig *config,
                         BlockDriverState **ret_backing, GError **error)
{
    BdrvChild *cow = bdrv_cow_child(bdrv_skip_filters(s->source));
    g_autofree char *name = NULL;
    BlockOptions *options;

    *ret_backing = NULL;
    if (config->backing == MIRROR_BACKING_SOURCE) {
        *ret_backing = cow != NULL ? bdrv_ref(cow->bs) : NULL;
        return true;
    }
    if (config->backing != MIRROR_BACKING_OPEN ||
        s->target->backing_name == NULL) {
        return true;
    }
    name = filename_combine(s->target->directory, s->target->backing_name);
    options = block_options_new();
    if (s->target->backing_format != NULL) {
        block_options_set_string(options, "driver",
                                 s->target->backing_format);
    }
    *ret_backing = bdrv_open(name, options, BDRV_O_RDONLY, config->policy,
                             error);
    return *ret_backing != NULL;
}

static bool attach_backing(MirrorState *s, const MirrorConfig *config,
                           GError **error)
{
    BlockDriverState *backing;

    if (!find_backing(s, config, &backing, error)) {
        return false;
    }
    if (backing == NULL) {
        return true;
    }
    if (!s->target->drv->supports_backing || s->target->backing != NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "the target %s %s", bdrv_name(s->target),
                    s->target->backing != NULL
                    ? "has a backing node already"
                    : "cannot have a backing node");
        bdrv_unref(backing);
        return false;
    }
    bdrv_drained_begin(s->target);
    s->attached = bdrv_attach_child(s->target, backing, "backing",
                                    BDRV_CHILD_COW, error) != NULL;
    bdrv_drained_end(s->target);
    return s->attached;
}

static bool open_target(MirrorState *s, GError **error)
{
    int64_t length = bdrv_node_length(s->source);

    s->to = blk_new(BLK_PERM_WRITE | BLK_PERM_RESIZE,
                    BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE_UNCHANGED,
                    "mirror job");
    return blk_insert_node(s->to, s->target, error) &&
           (bdrv_node_length(s->target) == length ||
            image_create_resize(s->to, length, PREALLOC_OFF, error));
}

static bool open_source(MirrorState *s, int64_t granularity, GError **error)
{
    s->from = blk_new(BLK_PERM_CONSISTENT_READ,
                      BLK_PERM_ALL, "mirror job");
    if (!blk_insert_node(s->from, s->source, error)) {
        return false;
    }
    bdrv_drained_begin(s->source);
    s->dirty = bdrv_dirty_bitmap_new(s->source, /* name= */ NULL,
                                     copier_granularity(s->to, granularity),
                                     error);
    bdrv_drained_end(s->source);
    return s->dirty != NULL;
}

static bool set_up(Job *job, const MirrorConfig *config, GError **error)
{
    MirrorState *s = job_state(job);

    s->frozen = g_ptr_array_new();
    if (!check_replaced(s, error) ||
        !chain_can_rename_overlays(s->replaced, error) ||
        !chain_claim(s->source, BDRV_OP_MIRROR_SOURCE, s, error) ||
        !chain_claim(s->target, BDRV_OP_MIRROR_TARGET, s, error) ||
        !chain_freeze(s->frozen, s->source, /* base= */ NULL, error) ||
        !attach_backing(s, config, error) || !open_target(s, error) ||
        !open_source(s, config->granularity, error)) {
        return false;
    }
    s->copier = (Copier) {
        .job = job, .source = s->from, .target = s->to, .dirty = s->dirty,
        .length = bdrv_node_length(s->source), .is_live = true,
    };
    return true;
}

Job *mirror_job_new(const char *id, const MirrorConfig *config,
                    GError **error)
{
    MirrorState *s;
    Job *job;

    if (bdrv_reaches(config->source, config->target) ||
        bdrv_reaches(config->target, config->source)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "source and target of a mirror are above each other");
        return NULL;
    }
    job = job_new(&mirror_driver, id, error);
    if (job == NULL) {
        return NULL;
    }
    s = job_state(job);
    s->source = bdrv_ref(config->source);
    s->target = bdrv_ref(config->target);
    s->replaced = bdrv_ref(config->replaces ? config->replaces
                                            : config->source);
    s->sync = config->sync;
    if (!set_up(job, config, error)) {
        job_free(job);
        return NULL;
    }
    return job;
}
