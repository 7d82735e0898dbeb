/* SPDX-License-Identifier: MIT */
/*
 * edges: attaching, detaching and moving them
 *
 * Each change is made, then permissions are computed; when they refuse, the
 * change is taken back. Draining around it is done here for what moves, and is
 * otherwise the caller's.
 *
 * Always true outside a function of this file:
 *  E1  an edge is in bs->parents of its node, and, when its parent is a node,
 *      in that one's children; it holds one count of its node;
 *  E2  there is no circle, and chain_depth of every node is one more than the
 *      largest of its children's (0 without);
 *  E3  child->quiesced exactly while its node has quiesce_count > 0, and then
 *      the parent has been told (drain.c).
 *
 * Locking: none, control plane.
 */
#include "block/graph/edge.h"

#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/graph/node.h"
#include "block/graph/op_blocker.h"
#include "block/graph/perm.h"
#include "block/io/limits.h"

#include <string.h>

/* ---- what an edge between two nodes means for its parent ----------------- */

static char *bs_parent_desc(BdrvChild *child)
{
    BlockDriverState *parent = child->parent;

    return g_strdup_printf("%s (as its %s)", bdrv_name(parent), child->name);
}

static void bs_inherit_options(BdrvChildRole role, bool parent_is_format,
                               BdrvOpenFlags parent_flags,
                               const BlockOptions *parent_options,
                               BdrvOpenFlags *ret_flags,
                               BlockOptions *child_options)
{
    BdrvOpenFlags flags = parent_flags;

    flags &= ~(BdrvOpenFlags)(BDRV_O_PROBED | BDRV_O_CHECK);
    if (role & BDRV_CHILD_COW) {
        /* A layer below is only looked at, and shown with its own chain. */
        flags &= ~(BdrvOpenFlags)(BDRV_O_RDWR | BDRV_O_RESIZE |
                                  BDRV_O_PROTOCOL | BDRV_O_UNMAP);
    } else if (!(role & BDRV_CHILD_FILTERED)) {
        if (parent_is_format) {
            flags |= BDRV_O_PROTOCOL;
        }
        /* Metadata may need room even when the guest's disk may not grow. */
        if (flags & BDRV_O_RDWR) {
            flags |= BDRV_O_RESIZE;
        }
    }
    *ret_flags = flags;
}

static void bs_change_media(BdrvChild *child)
{
    bdrv_refresh_filename(child->parent);
}

static void bs_resize(BdrvChild *child)
{
    BlockDriverState *parent = child->parent;

    /* Above a filter its length changed, too. */
    if (bdrv_filter_child(parent) != child) {
        return;
    }
    __atomic_store_n(&parent->length, bdrv_node_length(child->bs),
                     __ATOMIC_RELEASE);
    for (guint i = 0; i < parent->parents->len; i++) {
        BdrvChild *above = parent->parents->pdata[i];

        if (above->klass->resize != NULL) {
            above->klass->resize(above);
        }
    }
}

const BdrvChildClass bdrv_child_of_bs = {
    .parent_is_bs = true,
    .get_parent_desc = bs_parent_desc,
    .inherit_options = bs_inherit_options,
    .change_media = bs_change_media,
    .resize = bs_resize,
    .drained_begin = bdrv_child_of_bs_drained_begin,
    .drained_poll = bdrv_child_of_bs_drained_poll,
    .drained_end = bdrv_child_of_bs_drained_end,
};

char *bdrv_child_parent_desc(BdrvChild *child)
{
    if (child->klass->get_parent_desc != NULL) {
        return child->klass->get_parent_desc(child);
    }
    return g_strdup_printf("user '%s'", child->name);
}

/* ---- shape of the graph ------------------------------------------------- */

bool bdrv_recurse_can_replace(BlockDriverState *bs,
                              BlockDriverState *to_replace)
{
    return bs == to_replace ||
           (bs->drv != NULL && bs->drv->recurse_can_replace(bs, to_replace));
}

bool bdrv_reaches(const BlockDriverState *from, const BlockDriverState *to)
{
    if (from == to) {
        return true;
    }
    for (guint i = 0; i < from->children->len; i++) {
        const BdrvChild *child = from->children->pdata[i];

        if (bdrv_reaches(child->bs, to)) {
            return true;
        }
    }
    return false;
}

/* E2 for @bs and everything above. */
static void update_depth(BlockDriverState *bs)
{
    int depth = 0;

    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = bs->children->pdata[i];

        depth = MAX(depth, child->bs->chain_depth + 1);
    }
    if (depth == bs->chain_depth) {
        return;
    }
    bs->chain_depth = depth;
    for (guint i = 0; i < bs->parents->len; i++) {
        const BdrvChild *edge = bs->parents->pdata[i];

        if (edge->klass->parent_is_bs) {
            update_depth(edge->parent);
        }
    }
}

/* Edges from the highest root down to @bs. */
static int height_above(const BlockDriverState *bs)
{
    int height = 0;

    for (guint i = 0; i < bs->parents->len; i++) {
        const BdrvChild *edge = bs->parents->pdata[i];

        if (edge->klass->parent_is_bs) {
            height = MAX(height, height_above(edge->parent) + 1);
        }
    }
    return height;
}

static bool check_shape(BlockDriverState *parent, BlockDriverState *child_bs,
                        const char *name, GError **error)
{
    if (bdrv_reaches(child_bs, parent)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "making node '%s' the %s of '%s' would close a circle",
                    child_bs->node_name, name, parent->node_name);
        return false;
    }
    if (height_above(parent) + 1 + child_bs->chain_depth > BDRV_MAX_DEPTH) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "more than %d layers above each other", BDRV_MAX_DEPTH);
        return false;
    }
    return true;
}

/* ---- the two ends ------------------------------------------------------- */

/* Links @child to @bs (E1, E3); takes over the caller's count of @bs. */
static void link_node(BdrvChild *child, BlockDriverState *bs)
{
    child->bs = bs;
    g_ptr_array_add(bs->parents, child);
    if (bs->quiesce_count > 0) {
        child->quiesced = true;
        if (child->klass->drained_begin != NULL) {
            child->klass->drained_begin(child);
        }
    }
}

/* The count goes back to the caller. */
static BlockDriverState *unlink_node(BdrvChild *child)
{
    BlockDriverState *bs = child->bs;

    g_ptr_array_remove(bs->parents, child);
    if (child->quiesced) {
        child->quiesced = false;
        if (child->klass->drained_end != NULL) {
            child->klass->drained_end(child);
        }
    }
    child->bs = NULL;
    return bs;
}

static void link_parent(BdrvChild *child)
{
    BlockDriverState *parent = child->parent;

    g_ptr_array_add(parent->children, child);
    if ((child->role & BDRV_CHILD_COW) || strcmp(child->name, "backing") == 0) {
        g_assert(parent->backing == NULL);
        parent->backing = child;
    } else if (parent->file == NULL &&
               (child->role & (BDRV_CHILD_PRIMARY | BDRV_CHILD_FILTERED))) {
        parent->file = child;
    }
    update_depth(parent);
}

static void unlink_parent(BdrvChild *child)
{
    BlockDriverState *parent = child->parent;

    g_ptr_array_remove(parent->children, child);
    if (parent->file == child) {
        parent->file = NULL;
    }
    if (parent->backing == child) {
        parent->backing = NULL;
    }
    update_depth(parent);
}

static BdrvChild *edge_new(const char *name, const BdrvChildClass *klass,
                           BdrvChildRole role, void *parent)
{
    BdrvChild *child = g_new0(BdrvChild, 1);

    child->name = g_strdup(name);
    child->klass = klass;
    child->role = role;
    child->parent = parent;
    child->shared = BLK_PERM_ALL;
    return child;
}

static void edge_free(BdrvChild *child)
{
    g_free(child->frozen_reason);
    g_free(child->name);
    g_free(child);
}

/* Limits exist once a node is open; before that its opening computes them. */
static bool refresh_parent_limits(BdrvChild *child, GError **error)
{
    BlockDriverState *parent = child->parent;

    if (!child->klass->parent_is_bs || parent->limits.request_alignment == 0) {
        return true;
    }
    return bdrv_refresh_limits(parent, error);
}

/* ---- frozen edges -------------------------------------------------------- */

bool bdrv_child_check_not_frozen(const BdrvChild *child, GError **error)
{
    if (child->frozen) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CONFLICT,
                    "the %s of node '%s' may not change now: %s", child->name,
                    child->klass->parent_is_bs
                    ? ((BlockDriverState *)child->parent)->node_name
                    : child->bs->node_name,
                    child->frozen_reason != NULL
                    ? child->frozen_reason : "a job works on it");
        return false;
    }
    return true;
}

bool bdrv_child_freeze(BdrvChild *child, const char *reason, GError **error)
{
    if (!bdrv_child_check_not_frozen(child, error)) {
        return false;
    }
    child->frozen = true;
    child->frozen_reason = g_strdup(reason);
    return true;
}

void bdrv_child_unfreeze(BdrvChild *child)
{
    child->frozen = false;
    g_clear_pointer(&child->frozen_reason, g_free);
}

/* ---- attaching and detaching --------------------------------------------- */

BdrvChild *bdrv_attach_child(BlockDriverState *parent,
                             BlockDriverState *child_bs, const char *name,
                             BdrvChildRole role, GError **error)
{
    BdrvChild *child;

    if (bdrv_op_is_blocked(child_bs, BDRV_OP_NEW_USER, error) ||
        !check_shape(parent, child_bs, name, error)) {
        bdrv_unref(child_bs);
        return NULL;
    }
    child = edge_new(name, &bdrv_child_of_bs, role, parent);
    link_node(child, child_bs);
    link_parent(child);
    if (!bdrv_refresh_perms(parent, error) ||
        !refresh_parent_limits(child, error)) {
        bdrv_detach_child(child);
        return NULL;
    }
    return child;
}

BdrvChild *bdrv_root_attach_child(BlockDriverState *child_bs, const char *name,
                                  const BdrvChildClass *klass, void *parent,
                                  uint32_t perm, uint32_t shared,
                                  GError **error)
{
    BdrvChild *child;

    g_assert(!klass->parent_is_bs);
    if (bdrv_op_is_blocked(child_bs, BDRV_OP_NEW_USER, error)) {
        bdrv_unref(child_bs);
        return NULL;
    }
    child = edge_new(name, klass, BDRV_CHILD_FILTERED | BDRV_CHILD_PRIMARY,
                     parent);
    link_node(child, child_bs);
    if (!bdrv_child_set_perm(child, perm, shared, error)) {
        bdrv_unref(unlink_node(child));
        edge_free(child);
        return NULL;
    }
    if (klass->attach != NULL) {
        klass->attach(child);
    }
    return child;
}

void bdrv_detach_child(BdrvChild *child)
{
    BlockDriverState *bs;

    if (child == NULL) {
        return;
    }
    g_assert(!child->frozen);
    if (child->klass->detach != NULL) {
        child->klass->detach(child);
    }
    if (child->klass->parent_is_bs) {
        unlink_parent(child);
    }
    bs = unlink_node(child);
    edge_free(child);

    /* Fewer users only loosen permissions: the drivers have no reason to
     * refuse, and there would be nobody to tell. */
    if (bs->ref_count > 1) {
        (void) bdrv_refresh_perms(bs, NULL);
    }
    bdrv_unref(bs);
}

/* ---- moving ------------------------------------------------------------- */

/* Moves @child without asking permissions; both nodes stay counted. */
static void move_edge(BdrvChild *child, BlockDriverState *to)
{
    bool was_quiesced = child->quiesced;

    /*
     * The new node's drain begins for the parent before the old one's ends:
     * in between it would send requests.
     */
    g_ptr_array_remove(child->bs->parents, child);
    child->quiesced = false;
    link_node(child, to);
    if (was_quiesced && child->klass->drained_end != NULL) {
        child->klass->drained_end(child);
    }
    if (child->klass->parent_is_bs) {
        update_depth(child->parent);
    }
}

static void tell_moved(BdrvChild *child)
{
    if (child->klass->change_media != NULL) {
        child->klass->change_media(child);
    }
}

/* Moves it, or leaves all as it was. Drained by the caller. */
static bool try_move_edge(BdrvChild *child, BlockDriverState *to,
                          GError **error)
{
    BlockDriverState *from = child->bs;

    if (bdrv_op_is_blocked(to, BDRV_OP_NEW_USER, error) ||
        (child->klass->parent_is_bs &&
         !check_shape(child->parent, to, child->name, error))) {
        return false;
    }
    move_edge(child, bdrv_ref(to));
    /* Above @to, @from still holds what it needed for @child: both at once. */
    if (!bdrv_refresh_perms(bdrv_reaches(from, to) ? from : to, error) ||
        !refresh_parent_limits(child, error)) {
        move_edge(child, from);
        bdrv_unref(to);
        (void) bdrv_refresh_perms(from, NULL); /* as before: it cannot fail */
        (void) bdrv_refresh_perms(to, NULL);
        (void) refresh_parent_limits(child, NULL);
        return false;
    }
    (void) bdrv_refresh_perms(from, NULL); /* one user less */
    bdrv_unref(from);
    return true;
}

bool bdrv_replace_child(BdrvChild *child, BlockDriverState *new_bs,
                        GError **error)
{
    BlockDriverState *old_bs = child->bs;
    bool moved;

    if (!bdrv_child_check_not_frozen(child, error)) {
        return false;
    }
    bdrv_ref(old_bs);
    bdrv_ref(new_bs);
    bdrv_drained_begin(old_bs);
    bdrv_drained_begin(new_bs);
    moved = try_move_edge(child, new_bs, error);
    if (moved) {
        tell_moved(child);
    }
    bdrv_drained_end(new_bs);
    bdrv_drained_end(old_bs);
    bdrv_unref(new_bs);
    bdrv_unref(old_bs);
    return moved;
}

/* The edges to move; NULL when one of them is frozen. */
static GPtrArray *edges_to_move(BlockDriverState *from, BlockDriverState *to,
                                GError **error)
{
    g_autoptr(GPtrArray) edges = g_ptr_array_new();

    for (guint i = 0; i < from->parents->len; i++) {
        BdrvChild *edge = from->parents->pdata[i];

        /* An edge that starts at or below @to would close a circle: that is
         * the new node's own way down to the old one. */
        if (edge->klass->stay_at_node ||
            (edge->klass->parent_is_bs && bdrv_reaches(to, edge->parent))) {
            continue;
        }
        if (!bdrv_child_check_not_frozen(edge, error)) {
            return NULL;
        }
        g_ptr_array_add(edges, edge);
    }
    return g_steal_pointer(&edges);
}

bool bdrv_replace_node(BlockDriverState *from, BlockDriverState *to,
                       GError **error)
{
    g_autoptr(GPtrArray) edges = edges_to_move(from, to, error);
    guint n_moved = 0;

    if (edges == NULL) {
        return false;
    }
    bdrv_ref(from);
    bdrv_ref(to);
    bdrv_drained_begin(from);
    bdrv_drained_begin(to);
    while (n_moved < edges->len &&
           try_move_edge(edges->pdata[n_moved], to, error)) {
        n_moved++;
    }
    if (n_moved == edges->len) {
        for (guint i = 0; i < n_moved; i++) {
            tell_moved(edges->pdata[i]);
        }
    } else {
        for (guint i = n_moved; i-- > 0;) {
            (void) try_move_edge(edges->pdata[i], from, NULL);
        }
    }
    bdrv_drained_end(to);
    bdrv_drained_end(from);
    bdrv_unref(to);
    bdrv_unref(from);
    return n_moved == edges->len;
}

/* ---- the backing file ---------------------------------------------------- */

static bool may_have_backing(const BlockDriverState *bs, GError **error)
{
    const BlockDriver *drv = bs->drv;

    if (drv != NULL &&
        (drv->supports_backing || drv->filtered_child_is_backing)) {
        return true;
    }
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                "node '%s' has no backing files", bs->node_name);
    return false;
}

static bool attach_backing(BlockDriverState *bs, BlockDriverState *backing,
                           GError **error)
{
    BdrvChildRole role = bs->drv->is_filter
        ? BDRV_CHILD_FILTERED | BDRV_CHILD_PRIMARY : BDRV_CHILD_COW;

    return bdrv_attach_child(bs, bdrv_ref(backing), "backing", role,
                             error) != NULL;
}

bool bdrv_set_backing(BlockDriverState *bs, BlockDriverState *backing,
                      GError **error)
{
    BdrvChild *edge = bs->backing;
    bool ok = true;

    if (!may_have_backing(bs, error) ||
        (edge != NULL && !bdrv_child_check_not_frozen(edge, error))) {
        return false;
    }
    if (edge != NULL && backing != NULL) {
        return edge->bs == backing || bdrv_replace_child(edge, backing, error);
    }
    bdrv_drained_begin(bs);
    if (backing != NULL) {
        ok = attach_backing(bs, backing, error);
    } else {
        bdrv_detach_child(edge);
    }
    if (ok) {
        bdrv_refresh_filename(bs);
    }
    bdrv_drained_end(bs);
    return ok;
}

/* ---- children that come and go ------------------------------------------ */

static bool check_children_change(const BlockDriverState *parent,
                                  GError **error)
{
    if (parent->drv != NULL && parent->drv->children != NULL) {
        return true;
    }
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                "the children of node '%s' cannot change while it is in use",
                parent->node_name);
    return false;
}

bool bdrv_add_child(BlockDriverState *parent, BlockDriverState *child_bs,
                    GError **error)
{
    bool ok;

    if (!check_children_change(parent, error)) {
        return false;
    }
    bdrv_drained_begin(parent);
    ok = parent->drv->children->add_child(parent, bdrv_ref(child_bs), error);
    bdrv_refresh_filename(parent);
    bdrv_drained_end(parent);
    return ok;
}

bool bdrv_del_child(BlockDriverState *parent, BdrvChild *child,
                    GError **error)
{
    bool ok;

    if (!check_children_change(parent, error) ||
        !bdrv_child_check_not_frozen(child, error)) {
        return false;
    }
    bdrv_drained_begin(parent);
    ok = parent->drv->children->del_child(parent, child, error);
    bdrv_refresh_filename(parent);
    bdrv_drained_end(parent);
    return ok;
}
