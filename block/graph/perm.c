/* SPDX-License-Identifier: MIT */
/*
 * permissions: sums over parents, wishes to children, two-phase changes
 *
 *   parents' edges ──sum──▶ node.perm, node.shared ──child_perm──▶ own edges
 *
 * A change runs over all nodes below its start, parents before children, so a
 * node reached over several paths is handled once, when all its parents'
 * wishes are known. Then the drivers of all nodes whose sums changed are
 * asked; only when all agree are they told. What the drivers do with it
 * (locks on files) is theirs.
 *
 * Always true outside a function of this file:
 *  P1  bs->perm is the union of its parent edges' perm, bs->shared the
 *      intersection of their shared and granted together;
 *  P2  of two edges to a node, neither holds what the other does not share;
 *  P3  an inactive node's sums, and what it holds on its children, are
 *      nothing needed and all shared; its users' wishes wait in their edges;
 *  P4  while a user is at work its bits are in the perm of each edge on its
 *      way down, also in the middle of a change that is taken back.
 *
 * Locking: none, control plane. Nothing is drained for a change: whose own
 * wishes change drains (backend.c), whoever works elsewhere above the same
 * nodes keeps its bits (P4), and the drivers' hooks touch nothing that
 * requests use.
 */
#include "block/graph/perm.h"

#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"

/* What a change has touched, to take it back. */
typedef struct SavedEdge {
    BdrvChild *child;
    uint32_t perm, shared;
} SavedEdge;

typedef struct SavedNode {
    BlockDriverState *bs;
    uint32_t perm, shared;
    bool changed; /* the sums differ: its driver takes part */
} SavedNode;

typedef struct PermChange {
    GPtrArray *order; /* of BlockDriverState *, children before parents */
    GHashTable *seen;
    GArray *edges; /* of SavedEdge */
    GArray *nodes; /* of SavedNode */
} PermChange;

/* The bits that only a node opened for writing can give. */
#define PERMS_THAT_WRITE \
    ((uint32_t)(BLK_PERM_WRITE | BLK_PERM_WRITE_UNCHANGED | BLK_PERM_RESIZE))

char *bdrv_perm_names(uint32_t perm)
{
    static const char *const names[] = {
        "consistent read", "write", "write unchanged", "resize",
    };
    GString *all = g_string_new(NULL);

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        if (perm & (1u << i)) {
            g_string_append_printf(all, "%s%s", all->len > 0 ? ", " : "",
                                   names[i]);
        }
    }
    return g_string_free(all, /* free_segment= */ FALSE);
}

void bdrv_default_perms(BlockDriverState *bs, BdrvChild *child,
                        BdrvChildRole role, uint32_t perm, uint32_t shared,
                        uint32_t *ret_perm, uint32_t *ret_shared)
{
    uint32_t child_perm;
    uint32_t child_shared = BLK_PERM_CONSISTENT_READ |
                            BLK_PERM_WRITE_UNCHANGED;

    if (role & BDRV_CHILD_FILTERED) {
        child_perm = perm;
        child_shared = shared;
    } else if (role & BDRV_CHILD_COW) {
        child_perm = BLK_PERM_CONSISTENT_READ;
    } else {
        /* Metadata is read to make sense of anything, and written (also
         * when the guest writes nothing) as soon as the node is writable. */
        child_perm = BLK_PERM_CONSISTENT_READ;
        if (!bs->read_only) {
            child_perm |= BLK_PERM_WRITE | BLK_PERM_RESIZE;
        }
    }
    *ret_perm = child_perm;
    *ret_shared = bs->force_share ? BLK_PERM_ALL : child_shared;
}

/* ---- computing ---------------------------------------------------------- */

static void sort_below(PermChange *change, BlockDriverState *bs)
{
    if (!g_hash_table_add(change->seen, bs)) {
        return;
    }
    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = bs->children->pdata[i];

        sort_below(change, child->bs);
    }
    g_ptr_array_add(change->order, bs);
}

static bool conflict_error(BdrvChild *holder, BdrvChild *other, uint32_t perm,
                           GError **error)
{
    g_autofree char *holder_desc = bdrv_child_parent_desc(holder);
    g_autofree char *other_desc = bdrv_child_parent_desc(other);
    g_autofree char *names = bdrv_perm_names(perm);

    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CONFLICT,
                "%s: %s needs '%s', which %s does not share",
                bdrv_name(holder->bs), holder_desc, names, other_desc);
    return false;
}

/* What the user of @edge lets others do, willingly or for a job's sake. */
static uint32_t shared_by(const BdrvChild *edge)
{
    return edge->shared | edge->granted;
}

/* P1 and P2 for @bs; its parents' edges are final. */
static bool sum_parents(BlockDriverState *bs, uint32_t *ret_perm,
                        uint32_t *ret_shared, GError **error)
{
    uint32_t perm = 0, shared = BLK_PERM_ALL;

    for (guint i = 0; i < bs->parents->len; i++) {
        BdrvChild *a = bs->parents->pdata[i];

        for (guint j = 0; j < bs->parents->len; j++) {
            BdrvChild *b = bs->parents->pdata[j];

            if (a != b && (a->perm & ~shared_by(b)) != 0) {
                return conflict_error(a, b, a->perm & ~shared_by(b), error);
            }
        }
        perm |= a->perm;
        shared &= shared_by(a);
    }
    if (bs->read_only && !bs->inactive && (perm & PERMS_THAT_WRITE) != 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_DENIED,
                    "%s is open read-only", bdrv_name(bs));
        return false;
    }
    *ret_perm = bs->inactive ? 0 : perm; /* P3 */
    *ret_shared = bs->inactive ? BLK_PERM_ALL : shared;
    return true;
}

/* Requests may be under way on the edge, and look at perm (P4). */
static void set_wishes(BdrvChild *child, uint32_t perm, uint32_t shared)
{
    __atomic_store_n(&child->perm, perm, __ATOMIC_RELAXED);
    child->shared = shared;
}

static void set_edge(PermChange *change, BdrvChild *child, uint32_t perm,
                     uint32_t shared)
{
    SavedEdge saved = {child, child->perm, child->shared};

    g_array_append_val(change->edges, saved);
    set_wishes(child, perm, shared);
}

/* Sums of @bs, then its wishes to its children. */
static bool compute_node(PermChange *change, BlockDriverState *bs,
                         GError **error)
{
    SavedNode saved = {bs, bs->perm, bs->shared, false};
    uint32_t perm, shared;

    if (!sum_parents(bs, &perm, &shared, error)) {
        return false;
    }
    saved.changed = perm != bs->perm || shared != bs->shared;
    g_array_append_val(change->nodes, saved);
    bs->perm = perm;
    bs->shared = shared;
    if (bs->drv == NULL) {
        return true;
    }
    for (guint i = 0; i < bs->children->len; i++) {
        BdrvChild *child = bs->children->pdata[i];
        uint32_t child_perm, child_shared;

        bs->drv->perm->child_perm(bs, child, child->role, perm, shared,
                                  &child_perm, &child_shared);
        if (bs->inactive) { /* P3 */
            child_perm = 0;
            child_shared = BLK_PERM_ALL;
        }
        set_edge(change, child, child_perm, child_shared);
    }
    return true;
}

static bool compute_all(PermChange *change, GError **error)
{
    for (guint i = change->order->len; i-- > 0;) {
        if (!compute_node(change, change->order->pdata[i], error)) {
            return false;
        }
    }
    return true;
}

/* ---- asking and telling the drivers ------------------------------------- */

static const BlockPermOps *perm_ops_of(const SavedNode *node)
{
    return node->changed && node->bs->drv != NULL ? node->bs->drv->perm : NULL;
}

static bool check_all(PermChange *change, GError **error)
{
    for (guint i = 0; i < change->nodes->len; i++) {
        SavedNode *node = &g_array_index(change->nodes, SavedNode, i);
        const BlockPermOps *ops = perm_ops_of(node);

        if (ops == NULL || ops->check_perm(node->bs, node->bs->perm,
                                           node->bs->shared, error)) {
            continue;
        }
        /* The one that refused may have got half-way: it aborts, too. */
        for (guint j = 0; j <= i; j++) {
            node = &g_array_index(change->nodes, SavedNode, j);
            ops = perm_ops_of(node);
            if (ops != NULL) {
                ops->abort_perm_update(node->bs);
            }
        }
        return false;
    }
    return true;
}

static void set_all(PermChange *change)
{
    for (guint i = 0; i < change->nodes->len; i++) {
        SavedNode *node = &g_array_index(change->nodes, SavedNode, i);
        const BlockPermOps *ops = perm_ops_of(node);

        if (ops != NULL) {
            ops->set_perm(node->bs, node->bs->perm, node->bs->shared);
        }
    }
}

static void take_back(PermChange *change)
{
    for (guint i = change->edges->len; i-- > 0;) {
        SavedEdge *saved = &g_array_index(change->edges, SavedEdge, i);

        set_wishes(saved->child, saved->perm, saved->shared);
    }
    for (guint i = change->nodes->len; i-- > 0;) {
        SavedNode *saved = &g_array_index(change->nodes, SavedNode, i);

        saved->bs->perm = saved->perm;
        saved->bs->shared = saved->shared;
    }
}

static bool run_change(PermChange *change, GPtrArray *nodes, GError **error)
{
    for (guint i = 0; i < nodes->len; i++) {
        sort_below(change, nodes->pdata[i]);
    }
    if (!compute_all(change, error) || !check_all(change, error)) {
        take_back(change);
        return false;
    }
    set_all(change);
    return true;
}

bool bdrv_refresh_perms_of(GPtrArray *nodes, GError **error)
{
    PermChange change = {
        .order = g_ptr_array_new(),
        .seen = g_hash_table_new(NULL, NULL),
        .edges = g_array_new(FALSE, FALSE, sizeof(SavedEdge)),
        .nodes = g_array_new(FALSE, FALSE, sizeof(SavedNode)),
    };
    bool ok = run_change(&change, nodes, error);

    g_ptr_array_free(change.order, /* free_segment= */ TRUE);
    g_hash_table_destroy(change.seen);
    g_array_free(change.edges, /* free_segment= */ TRUE);
    g_array_free(change.nodes, /* free_segment= */ TRUE);
    return ok;
}

bool bdrv_refresh_perms(BlockDriverState *bs, GError **error)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();

    g_ptr_array_add(nodes, bs);
    return bdrv_refresh_perms_of(nodes, error);
}

bool bdrv_child_set_perm(BdrvChild *child, uint32_t perm, uint32_t shared,
                         GError **error)
{
    uint32_t old_perm = child->perm;
    uint32_t old_shared = child->shared;

    set_wishes(child, perm, shared);
    if (bdrv_refresh_perms(child->bs, error)) {
        return true;
    }
    set_wishes(child, old_perm, old_shared);
    return false;
}
