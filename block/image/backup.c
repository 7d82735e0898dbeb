/* SPDX-License-Identifier: MIT */
/*
 * backup: a node's data as it is now is copied elsewhere, while it is used
 *
 *   users ─▶ filter ─▶ source       filter: copy-before-write
 *               └────▶ target       snapshot: its old view as a node
 *   copier: "keep" ─▶ filter
 *
 * The filter stands between the source and its users from the job's making to
 * its end, and copies old data to the target before it is overwritten; we ask
 * it to copy the rest. It alone writes to the target, each cluster once. The
 * snapshot node never changes: a place for the bitmap of what is to be copied.
 *
 * Always true: putting the filter in, and letting the bitmap's successor take
 * over, happen in one drained section: both mean the same point in time.
 *
 * Locking: see job.c; the state is constant while the coroutine runs.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "block/image/backup.h"

#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/graph/edge.h"
#include "block/graph/open.h"
#include "block/graph/perm.h"
#include "block/image/chain.h"
#include "block/image/copier.h"

typedef struct BackupState {
    BlockDriverState *source; /* counted */
    BlockDriverState *target; /* counted */
    BackupSync sync;
    BdrvDirtyBitmap *bitmap;  /* frozen by us, or NULL */
    BlockDriverState *filter; /* counted */
    bool inserted;            /* the users are above the filter */
    BlockBackend *layers;     /* on source: what its own layer has */
    BlockBackend *from;       /* on the snapshot node */
    BlockBackend *keeper;     /* on the filter */
    BlockBackend *to;         /* to flush it */
    BdrvDirtyBitmap *dirty;   /* on the snapshot node: what to copy */
    GPtrArray *frozen;
    bool succeeded;
    Copier copier;
} BackupState;

static int coroutine_fn backup_run(Job *job)
{
    BackupState *s = job_state(job);
    BdrvChild *below = bdrv_filter_or_cow_child(s->source);
    int ret = 0;

    /* What the layer gets meanwhile is copied as it was before: no harm. */
    if (s->sync == BACKUP_SYNC_TOP) {
        ret = copier_co_mark_allocated(&s->copier, s->layers,
                                       below != NULL ? below->bs : NULL);
    }
    return ret < 0 ? ret : copier_co_run(&s->copier);
}

static bool backup_prepare(Job *job, GError **error)
{
    BackupState *s = job_state(job);
    int ret = blk_flush(s->to);

    if (ret < 0) {
        error_set_errno(error, -ret, "flushing %s", bdrv_name(s->target));
    }
    return ret == 0;
}

static void backup_commit(Job *job)
{
    BackupState *s = job_state(job);

    s->succeeded = true;
}

/* The users go back to the source. */
static void remove_filter(BackupState *s)
{
    g_autoptr(GError) error = NULL;

    if (s->filter == NULL) {
        return;
    }
    if (s->inserted &&
        !chain_move_parents(s->filter, s->source, &error)) {
        g_warning("backup job: the filter above %s stays: %s",
                  bdrv_name(s->source), error->message);
    }
    g_clear_pointer(&s->filter, bdrv_unref);
}

static void end_bitmap(BackupState *s)
{
    BdrvDirtyBitmap *bitmap = g_steal_pointer(&s->bitmap);

    if (bitmap == NULL) {
        return;
    }
    if (s->succeeded) {
        (void) bdrv_dirty_bitmap_abdicate(bitmap);
    } else {
        bdrv_dirty_bitmap_reclaim(bitmap);
    }
}

static void backup_clean(Job *job)
{
    BackupState *s = job_state(job);

    bdrv_drained_begin(s->source);
    if (s->dirty != NULL) {
        bdrv_dirty_bitmap_remove(g_steal_pointer(&s->dirty));
    }
    chain_unfreeze(s->frozen);
    g_clear_pointer(&s->frozen, g_ptr_array_unref);
    g_clear_pointer(&s->from, blk_free); /* and the snapshot node */
    g_clear_pointer(&s->keeper, blk_free);
    g_clear_pointer(&s->to, blk_free);
    g_clear_pointer(&s->layers, blk_free);
    remove_filter(s);
    end_bitmap(s);
    bdrv_drained_end(s->source);
    chain_release(s->source, s);
    chain_release(s->target, s);
    g_clear_pointer(&s->target, bdrv_unref);
    g_clear_pointer(&s->source, bdrv_unref);
}

static void backup_let_go(Job *job)
{
    BackupState *s = job_state(job);

    bdrv_cancel_in_flight(s->target);
}

static const JobDriver backup_driver = {
    .name = "backup",
    .instance_size = sizeof(BackupState),
    .run = backup_run,
    .prepare = backup_prepare,
    .commit = backup_commit,
    .clean = backup_clean,
    .let_go = backup_let_go,
};

/* -- starting ------------------------------------------------------------ */

static bool take_bitmap(BackupState *s, const char *name, GError **error)
{
    BdrvDirtyBitmap *bitmap;

    if (s->sync != BACKUP_SYNC_INCREMENTAL) {
        return true;
    }
    bitmap = name != NULL ? bdrv_dirty_bitmap_find(s->source, name) : NULL;
    if (bitmap == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_NOT_FOUND,
                    "bitmap '%s' not found on %s",
                    name != NULL ? name : "", bdrv_name(s->source));
        return false;
    }
    if (!bdrv_dirty_bitmap_create_successor(bitmap, error)) {
        return false;
    }
    s->bitmap = bitmap;
    return true;
}

static bool insert_filter(BackupState *s, GError **error)
{
    BlockOptions *options = block_options_new();

    block_options_set_string(options, "driver", "copy-before-write");
    block_options_set_string(options, "file", s->source->node_name);
    block_options_set_string(options, "target", s->target->node_name);
    block_options_set_string(options, "on-cbw-error", "break-snapshot");
    if (s->bitmap != NULL) {
        block_options_set_string(options, "bitmap.node",
                                 s->source->node_name);
        block_options_set_string(options, "bitmap.name",
                                 bdrv_dirty_bitmap_name(s->bitmap));
    }
    s->filter = bdrv_open(/* filename= */ NULL, options, BDRV_O_RDWR,
                          /* policy= */ NULL, error);
    if (s->filter == NULL) {
        return false;
    }
    s->inserted = chain_move_parents(s->source, s->filter, error);
    return s->inserted;
}

static bool open_snapshot(BackupState *s, GError **error)
{
    g_autoptr(BlockDriverState) snapshot = NULL;
    BlockOptions *options = block_options_new();

    block_options_set_string(options, "driver", "snapshot-access");
    block_options_set_string(options, "file", s->filter->node_name);
    snapshot = bdrv_open(/* filename= */ NULL, options, BDRV_O_RDONLY,
                         /* policy= */ NULL, error);
    s->from = blk_new(BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, "backup job");
    return snapshot != NULL && blk_insert_node(s->from, snapshot, error);
}

static bool open_backends(BackupState *s, GError **error)
{
    s->to = blk_new(/* perm= */ 0, BLK_PERM_ALL & ~BLK_PERM_RESIZE,
                    "backup job");
    s->layers = blk_new(BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, "backup job");
    s->keeper = blk_new(BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, "backup job");
    return blk_insert_node(s->to, s->target, error) &&
           blk_insert_node(s->layers, s->source, error) &&
           blk_insert_node(s->keeper, s->filter, error) &&
           open_snapshot(s, error);
}

/* The copier's own bitmap, with the bits of what the job is about. */
static bool make_dirty(BackupState *s, GError **error)
{
    int64_t length = bdrv_node_length(blk_bs(s->from));
    int64_t offset = 0;
    int64_t bytes = 0;

    s->dirty = bdrv_dirty_bitmap_new(blk_bs(s->from), /* name= */ NULL,
                                     copier_granularity(s->to, 0), error);
    if (s->dirty == NULL) {
        return false;
    }
    if (s->sync == BACKUP_SYNC_FULL) {
        bdrv_dirty_bitmap_set(s->dirty, 0, length);
    }
    while (s->bitmap != NULL &&
           bdrv_dirty_bitmap_next_area(s->bitmap, offset + bytes, length,
                                       length, &offset, &bytes)) {
        bdrv_dirty_bitmap_set(s->dirty, offset, bytes);
    }
    return true;
}

static bool set_up(Job *job, const BackupConfig *config, GError **error)
{
    BackupState *s = job_state(job);
    bool ok;

    s->frozen = g_ptr_array_new();
    bdrv_drained_begin(s->source);
    ok = chain_claim(s->source, BDRV_OP_BACKUP_SOURCE, s, error) &&
         chain_claim(s->target, BDRV_OP_BACKUP_TARGET, s, error) &&
         chain_freeze(s->frozen, s->source, /* base= */ NULL, error) &&
         take_bitmap(s, config->bitmap, error) && insert_filter(s, error) &&
         open_backends(s, error) && make_dirty(s, error);
    bdrv_drained_end(s->source);
    if (!ok) {
        return false;
    }
    s->copier = (Copier) {
        .job = job, .source = s->from, .target = s->to,
        .keeper = s->keeper, .dirty = s->dirty,
        .length = bdrv_node_length(blk_bs(s->from)),
    };
    return true;
}

Job *backup_job_new(const char *id, const BackupConfig *config,
                    GError **error)
{
    Job *job = job_new(&backup_driver, id, error);
    BackupState *s;

    if (job == NULL) {
        return NULL;
    }
    s = job_state(job);
    s->source = bdrv_ref(config->source);
    s->target = bdrv_ref(config->target);
    s->sync = config->sync;
    if (!set_up(job, config, error)) {
        job_free(job);
        return NULL;
    }
    return job;
}
