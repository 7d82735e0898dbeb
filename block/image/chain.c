/* SPDX-License-Identifier: MIT */
/*
 * backing chains: walking, freezing, and letting users change layers
 *
 * What is in memory can be taken back, what is in a header only by writing
 * again. So the graph changes first, headers last, and a header that cannot
 * be written makes us take back the graph. Only a backing file that goes away
 * without another in its place is detached after the header said so, since
 * detaching cannot fail.
 *
 * Locking: none, control plane; drains by itself.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "block/image/chain.h"

#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/graph/edge.h"
#include "block/graph/reopen.h"

/* -- walking and freezing ------------------------------------------------ */

BdrvChild *chain_edge_to(BlockDriverState *top, BlockDriverState *base,
                         GError **error)
{
    BdrvChild *edge = bdrv_filter_or_cow_child(top);

    while (edge != NULL && edge->bs != base) {
        edge = bdrv_filter_or_cow_child(edge->bs);
    }
    if (edge == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "node '%s' is not in the backing chain of '%s'",
                    base->node_name, top->node_name);
    }
    return edge;
}

bool chain_freeze(GPtrArray *frozen, BlockDriverState *top,
                  BlockDriverState *base, GError **error)
{
    BdrvChild *edge;

    for (BlockDriverState *bs = top; bs != base; bs = edge->bs) {
        edge = bdrv_filter_or_cow_child(bs);
        if (edge == NULL) {
            break;
        }
        if (!bdrv_child_freeze(edge, "a job works on it", error)) {
            chain_unfreeze(frozen);
            return false;
        }
        g_ptr_array_add(frozen, edge);
    }
    return true;
}

void chain_unfreeze(GPtrArray *frozen)
{
    if (frozen == NULL) {
        return;
    }
    for (guint i = 0; i < frozen->len; i++) {
        bdrv_child_unfreeze(frozen->pdata[i]);
    }
    g_ptr_array_set_size(frozen, 0);
}

/* What nobody else may begin on a node that a job works on. */
static const BdrvOp claimed_ops[] = {
    BDRV_OP_COMMIT_SOURCE, BDRV_OP_COMMIT_TARGET, BDRV_OP_STREAM,
    BDRV_OP_MIRROR_SOURCE, BDRV_OP_MIRROR_TARGET, BDRV_OP_BACKUP_SOURCE,
    BDRV_OP_BACKUP_TARGET, BDRV_OP_SNAPSHOT,      BDRV_OP_CHANGE_BACKING,
};

/* A target may have to become longer, by the job itself. */
static bool is_target(BdrvOp op)
{
    return op == BDRV_OP_COMMIT_TARGET || op == BDRV_OP_MIRROR_TARGET ||
           op == BDRV_OP_BACKUP_TARGET;
}

bool chain_claim(BlockDriverState *bs, BdrvOp op, const void *owner,
                 GError **error)
{
    g_autofree char *reason = NULL;

    if (bdrv_op_is_blocked(bs, op, error)) {
        return false;
    }
    reason = g_strdup_printf("a job works on it (%s)", bdrv_op_name(op));
    for (size_t i = 0; i < G_N_ELEMENTS(claimed_ops); i++) {
        bdrv_op_block(bs, claimed_ops[i], owner, reason);
    }
    if (!is_target(op)) {
        /*
         * A guest may keep its permission to resize, but not use it. One
         * that has begun shall be over before the caller asks the length.
         */
        bdrv_op_block(bs, BDRV_OP_RESIZE, owner, reason);
        bdrv_drained_begin(bs);
        bdrv_drained_end(bs);
    }
    return true;
}

void chain_release(BlockDriverState *bs, const void *owner)
{
    if (bs != NULL) {
        bdrv_op_unblock_all(bs, owner);
    }
}

/* -- headers ------------------------------------------------------------- */

bool chain_can_rename(BlockDriverState *bs, GError **error)
{
    if (bs->backing_name == NULL || bs->drv->change_backing_file != NULL) {
        return true;
    }
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                "%s names its backing file, and driver '%s' cannot change "
                "that", bdrv_name(bs), bs->drv->format_name);
    return false;
}

/* Adds the nodes whose backing file is @bs, straight or over filters. */
static void find_overlays(BlockDriverState *bs, GPtrArray *overlays)
{
    for (guint i = 0; i < bs->parents->len; i++) {
        const BdrvChild *edge = bs->parents->pdata[i];
        BlockDriverState *parent;

        if (!edge->klass->parent_is_bs) {
            continue;
        }
        parent = edge->parent;
        if (bdrv_cow_child(parent) == edge) {
            g_ptr_array_add(overlays, parent);
        } else if (bdrv_filter_child(parent) == edge) {
            find_overlays(parent, overlays);
        }
    }
}

bool chain_can_rename_overlays(BlockDriverState *bs, GError **error)
{
    g_autoptr(GPtrArray) overlays = g_ptr_array_new();

    find_overlays(bs, overlays);
    for (guint i = 0; i < overlays->len; i++) {
        if (!chain_can_rename(overlays->pdata[i], error)) {
            return false;
        }
    }
    return true;
}

/*
 * How the header of @bs should name @backing: relative when the two files are
 * neighbours, so that they can be moved together. NULL with UNSUPPORTED.
 */
static char *name_for_header(const BlockDriverState *bs,
                             BlockDriverState *backing, GError **error)
{
    const BlockDriverState *named = bdrv_skip_filters(backing);
    g_autofree char *base_name = NULL;

    if (named->exact_filename == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s has no plain file name that %s could give as its "
                    "backing file", bdrv_name(backing), bdrv_name(bs));
        return NULL;
    }
    if (named->directory == NULL) {
        return g_strdup(named->exact_filename);
    }
    base_name = g_path_get_basename(named->exact_filename);
    if (g_strcmp0(named->directory, bs->directory) == 0) {
        return g_steal_pointer(&base_name);
    }
    return g_build_filename(named->directory, base_name, NULL);
}

/* @name and @format into the header, which is writable meanwhile. */
static bool write_header(BlockDriverState *bs, const char *name,
                         const char *format, GError **error)
{
    bool reopened = bs->read_only;
    bool ok;

    if (reopened && !bdrv_reopen_set_read_only(bs, false, error)) {
        return false;
    }
    bdrv_drained_begin(bs);
    ok = bs->drv->change_backing_file(bs, name, format, error);
    bdrv_drained_end(bs);
    if (reopened) {
        /* Writable for longer than needed is no reason to fail. */
        (void) bdrv_reopen_set_read_only(bs, true, NULL);
    }
    return ok;
}

bool chain_rename_backing(BlockDriverState *bs, BlockDriverState *backing,
                          GError **error)
{
    g_autofree char *name = NULL;
    const char *format = NULL;

    if (bs->backing_name == NULL) {
        return true; /* it did not name the old one either */
    }
    if (!chain_can_rename(bs, error)) {
        return false;
    }
    if (backing != NULL) {
        name = name_for_header(bs, backing, error);
        if (name == NULL) {
            return false;
        }
        format = bdrv_skip_filters(backing)->drv->format_name;
    }
    return write_header(bs, name, format, error);
}

/* -- changing the graph -------------------------------------------------- */

bool chain_set_backing(BlockDriverState *bs, BlockDriverState *backing,
                       GError **error)
{
    BdrvChild *edge = bs->backing;
    BlockDriverState *old;
    bool ok;

    if (edge->bs == backing) {
        return true;
    }
    old = bdrv_ref(edge->bs);
    bdrv_drained_begin(bs);
    if (backing == NULL) {
        ok = chain_rename_backing(bs, NULL, error);
        if (ok) {
            bdrv_detach_child(edge);
            bdrv_refresh_filename(bs);
        }
    } else {
        ok = bdrv_replace_child(edge, backing, error);
        if (ok && !chain_rename_backing(bs, backing, error)) {
            ok = false;
            (void) bdrv_replace_child(edge, old, NULL); /* as it was */
        }
    }
    bdrv_unref(old); /* drained: it may leave layers that we share */
    bdrv_drained_end(bs);
    return ok;
}

/* A header and what it said before. */
typedef struct Renamed {
    BlockDriverState *bs;
    char *name;
    char *format;
} Renamed;

/* All of @overlays name @to, or are as they were. */
static bool rename_overlays(GPtrArray *overlays, BlockDriverState *to,
                            GError **error)
{
    g_autofree Renamed *done = g_new0(Renamed, overlays->len + 1);
    bool ok = true;
    guint n_done = 0;

    while (ok && n_done < overlays->len) {
        Renamed *entry = &done[n_done];

        entry->bs = overlays->pdata[n_done];
        entry->name = g_strdup(entry->bs->backing_name);
        entry->format = g_strdup(entry->bs->backing_format);
        ok = chain_rename_backing(entry->bs, to, error);
        n_done++;
    }
    for (guint i = n_done; i-- > 0;) {
        /* The last one failed by itself. */
        if (!ok && i < n_done - 1 && done[i].name != NULL) {
            (void) write_header(done[i].bs, done[i].name, done[i].format,
                                NULL);
        }
        g_free(done[i].name);
        g_free(done[i].format);
    }
    return ok;
}

/* The edges that chain_move_parents() moved go back to @from. */
static void move_back(GPtrArray *edges, BlockDriverState *from)
{
    for (guint i = edges->len; i-- > 0;) {
        (void) bdrv_replace_child(edges->pdata[i], from, NULL);
    }
}

bool chain_move_parents(BlockDriverState *from, BlockDriverState *to,
                        GError **error)
{
    g_autoptr(GPtrArray) overlays = g_ptr_array_new();
    g_autoptr(GPtrArray) edges = g_ptr_array_new();
    bool ok;

    find_overlays(from, overlays);
    for (guint i = 0; i < from->parents->len; i++) {
        g_ptr_array_add(edges, from->parents->pdata[i]);
    }
    bdrv_ref(from);
    bdrv_ref(to);
    bdrv_drained_begin(from);
    ok = bdrv_replace_node(from, to, error);
    if (ok && !rename_overlays(overlays, to, error)) {
        ok = false;
        move_back(edges, from);
    }
    bdrv_drained_end(from);
    bdrv_unref(to);
    bdrv_unref(from);
    return ok;
}
