/* SPDX-License-Identifier: MIT */
/*
 * handing images over and taking them back
 *
 *   inactivate: flush ─▶ drivers, parents first ─▶ flags ─▶ permissions go
 *   activate:   flags ─▶ permissions ─▶ drivers read anew, children first
 *
 * A driver that is told to inactivate may still write to its children, one
 * that reads anew reads from them: hence the two orders. The block layer
 * refuses requests to inactive nodes (block/io), permissions are perm.c.
 *
 * Always true outside a function of this file:
 *  I1  a node with an inactive child is inactive.
 *
 * Locking: none, control plane; the whole graph is drained meanwhile.
 */
#include "block/graph/inactivate.h"

#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/graph/edge.h"
#include "block/graph/perm.h"
#include "block/io/io.h"
#include "block/io/status.h"
#include "block/rt/aio_context.h"

#include <errno.h>

/* ---- which nodes? ------------------------------------------------------- */

/* An active node above @bs that is not in @nodes; NULL without. */
static BlockDriverState *active_parent(const BlockDriverState *bs,
                                       GPtrArray *nodes)
{
    for (guint i = 0; i < bs->parents->len; i++) {
        const BdrvChild *edge = bs->parents->pdata[i];
        BlockDriverState *parent = edge->parent;

        if (edge->klass->parent_is_bs && !parent->inactive &&
            !g_ptr_array_find(nodes, parent, NULL)) {
            return parent;
        }
    }
    return NULL;
}

/* Adds @bs and then what is below it, as long as nobody else needs it (I1). */
static void collect_to_inactivate(BlockDriverState *bs, GPtrArray *nodes)
{
    if (bs->inactive || g_ptr_array_find(nodes, bs, NULL) ||
        active_parent(bs, nodes) != NULL) {
        return; /* a later parent brings us here again */
    }
    g_ptr_array_add(nodes, bs);
    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = bs->children->pdata[i];

        collect_to_inactivate(child->bs, nodes);
    }
}

/* Adds the inactive nodes at and below @bs, children first (I1). */
static void collect_to_activate(BlockDriverState *bs, GPtrArray *nodes)
{
    if (!bs->inactive || g_ptr_array_find(nodes, bs, NULL)) {
        return;
    }
    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = bs->children->pdata[i];

        collect_to_activate(child->bs, nodes);
    }
    g_ptr_array_add(nodes, bs);
}

static void mark(GPtrArray *nodes, bool inactive)
{
    for (guint i = 0; i < nodes->len; i++) {
        BlockDriverState *bs = nodes->pdata[i];

        bs->inactive = inactive;
    }
}

/* ---- taking back -------------------------------------------------------- */

typedef struct LengthCall {
    BlockDriverState *bs;
    int64_t length;
} LengthCall;

/* The driver's own answer: what the block layer remembers may be old. */
static void coroutine_fn length_entry(void *opaque)
{
    LengthCall *call = opaque;

    call->length = call->bs->drv->co_getlength(call->bs);
}

/* Another process may have made the file longer or shorter. */
static bool read_length(BlockDriverState *bs, GError **error)
{
    LengthCall call = {.bs = bs};

    aio_run_sync(length_entry, &call);
    if (call.length < 0 || call.length > BDRV_MAX_LENGTH) {
        error_set_errno(error, call.length < 0 ? (int)-call.length : EFBIG,
                        "%s: finding out the length", bdrv_name(bs));
        return false;
    }
    __atomic_store_n(&bs->length, call.length, __ATOMIC_RELEASE);
    return true;
}

static bool read_anew(BlockDriverState *bs, GError **error)
{
    if (bs->drv == NULL) {
        return true;
    }
    bdrv_status_cache_invalidate(bs, 0, BDRV_MAX_LENGTH);
    if (!bs->drv->invalidate_cache(bs, error)) {
        return false;
    }
    return read_length(bs, error);
}

/* @nodes in the order of collect_to_activate(). */
static bool activate_nodes(GPtrArray *nodes, GError **error)
{
    bool ok;

    mark(nodes, false);
    ok = bdrv_refresh_perms_of(nodes, error);
    for (guint i = 0; ok && i < nodes->len; i++) {
        ok = read_anew(nodes->pdata[i], error);
    }
    if (!ok) {
        mark(nodes, true);
        (void) bdrv_refresh_perms_of(nodes, NULL); /* less: cannot fail */
    }
    return ok;
}

/* ---- handing over ------------------------------------------------------- */

static bool flush_node(BlockDriverState *bs, GError **error)
{
    int ret = bs->drv != NULL && !bs->read_only ? bdrv_flush(bs) : 0;

    if (ret < 0) {
        error_set_errno(error, -ret, "%s: flush", bdrv_name(bs));
    }
    return ret == 0;
}

/* The first @n of @nodes were told to go; they come back as they were. */
static void call_back(GPtrArray *nodes, guint n)
{
    for (guint i = n; i-- > 0;) {
        BlockDriverState *bs = nodes->pdata[i];

        if (bs->drv != NULL) {
            (void) bs->drv->invalidate_cache(bs, NULL); /* first error counts */
        }
    }
}

/* @nodes in the order of collect_to_inactivate(). */
static bool inactivate_nodes(GPtrArray *nodes, GError **error)
{
    for (guint i = 0; i < nodes->len; i++) {
        BlockDriverState *bs = nodes->pdata[i];
        int ret;

        if (bs->drv == NULL) {
            continue;
        }
        if (!flush_node(bs, error)) {
            call_back(nodes, i);
            return false;
        }
        ret = bs->drv->inactivate(bs);
        if (ret < 0) {
            error_set_errno(error, -ret, "%s: handing it over",
                            bdrv_name(bs));
            call_back(nodes, i);
            return false;
        }
    }
    /* What the drivers still wrote is on the medium before locks go. */
    for (guint i = 0; i < nodes->len; i++) {
        if (!flush_node(nodes->pdata[i], error)) {
            call_back(nodes, nodes->len);
            return false;
        }
    }
    mark(nodes, true);
    (void) bdrv_refresh_perms_of(nodes, NULL); /* less: cannot fail */
    return true;
}

/* ---- the calls ---------------------------------------------------------- */

bool bdrv_inactivate(BlockDriverState *bs, GError **error)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    BlockDriverState *parent = active_parent(bs, nodes);
    bool ok;

    if (parent != NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CONFLICT,
                    "%s: node '%s', which needs it, is active", bdrv_name(bs),
                    parent->node_name);
        return false;
    }
    bdrv_drain_all_begin();
    collect_to_inactivate(bs, nodes);
    ok = inactivate_nodes(nodes, error);
    bdrv_drain_all_end();
    return ok;
}

bool bdrv_activate(BlockDriverState *bs, GError **error)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    bool ok;

    bdrv_drain_all_begin();
    collect_to_activate(bs, nodes);
    ok = activate_nodes(nodes, error);
    bdrv_drain_all_end();
    return ok;
}

static void add_to_inactivate(BlockDriverState *bs, void *opaque)
{
    collect_to_inactivate(bs, opaque);
}

static void add_to_activate(BlockDriverState *bs, void *opaque)
{
    collect_to_activate(bs, opaque);
}

/* Roots are reached some time, and lead to everything below. */
bool bdrv_inactivate_all(GError **error)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    bool ok;

    bdrv_drain_all_begin();
    bdrv_foreach_node(add_to_inactivate, nodes);
    ok = inactivate_nodes(nodes, error);
    bdrv_drain_all_end();
    return ok;
}

bool bdrv_activate_all(GError **error)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();
    bool ok;

    bdrv_drain_all_begin();
    bdrv_foreach_node(add_to_activate, nodes);
    ok = activate_nodes(nodes, error);
    bdrv_drain_all_end();
    return ok;
}
