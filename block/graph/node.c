/* SPDX-License-Identifier: MIT */
/*
 * nodes: making, counting, finding, letting go
 *
 * What a node is connected to is edge.c, how it comes to be open is open.c.
 *
 * Always true outside a function of this file:
 *  N1  every node is in the list of nodes, under its node_name, and no two
 *      have the same;
 *  N2  a node with ref_count 0 has no parents: every edge holds a count.
 *
 * Locking: none, control plane.
 */
#include "block/graph/node.h"

#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/io/accounting.h"
#include "block/io/flush.h"
#include "block/io/bitmap.h"
#include "block/io/io.h"
#include "block/io/request.h"
#include "block/io/status.h"
#include "block/io/write_threshold.h"

#include <string.h>

#define G_LOG_DOMAIN_GRAPH "imgfuse-graph"

#define NODE_NAME_MAX_BYTES 31

/* Every node, in order of making; node names are unique in a process. */
static GPtrArray *all_nodes;

static bool node_name_is_well_formed(const char *name)
{
    if (!g_ascii_isalpha(name[0]) || strlen(name) > NODE_NAME_MAX_BYTES) {
        return false;
    }
    for (const char *c = name; *c != '\0'; c++) {
        if (!g_ascii_isalnum(*c) && strchr("-._", *c) == NULL) {
            return false;
        }
    }
    return true;
}

BlockDriverState *bdrv_find_node(const char *node_name)
{
    for (guint i = 0; all_nodes != NULL && i < all_nodes->len; i++) {
        BlockDriverState *bs = all_nodes->pdata[i];

        if (strcmp(bs->node_name, node_name) == 0) {
            return bs;
        }
    }
    return NULL;
}

static char *check_node_name(const char *node_name, GError **error)
{
    static unsigned n_generated;

    /* '#' is not well-formed in a given name, so these never clash. */
    if (node_name == NULL) {
        return g_strdup_printf("#block%u", ++n_generated);
    }
    if (!node_name_is_well_formed(node_name)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "node name '%s' is not a letter followed by up to %d "
                    "letters, digits, '-', '.' or '_'", node_name,
                    NODE_NAME_MAX_BYTES - 1);
        return NULL;
    }
    if (bdrv_find_node(node_name) != NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "node name '%s' is in use", node_name);
        return NULL;
    }
    return g_strdup(node_name);
}

BlockDriverState *bdrv_new(const BlockDriver *drv, const char *node_name,
                           GError **error)
{
    char *name = check_node_name(node_name, error);
    BlockDriverState *bs;

    if (name == NULL) {
        return NULL;
    }
    bs = g_new0(BlockDriverState, 1);
    bs->drv = drv;
    bs->opaque = drv->instance_size > 0 ? g_malloc0(drv->instance_size) : NULL;
    bs->ref_count = 1;
    bs->node_name = name;
    bs->children = g_ptr_array_new();
    bs->parents = g_ptr_array_new();
    bs->options = block_options_new();
    bs->explicit_options = block_options_new();
    bs->shared = BLK_PERM_ALL;
    bs->tracker = bdrv_tracker_new();
    bs->flush = bdrv_flush_state_new();
    bs->status_cache = bdrv_status_cache_new();

    if (all_nodes == NULL) {
        all_nodes = g_ptr_array_new();
    }
    g_ptr_array_add(all_nodes, bs);
    return bs;
}

BlockDriverState *bdrv_ref(BlockDriverState *bs)
{
    bs->ref_count++;
    return bs;
}

/* A failure has been told to those who flushed before; here nobody listens. */
static void flush_and_close(BlockDriverState *bs)
{
    if (bs->drv == NULL) {
        return;
    }
    if (!bs->read_only) {
        int ret = bdrv_flush(bs);

        if (ret < 0) {
            g_log(G_LOG_DOMAIN_GRAPH, G_LOG_LEVEL_WARNING,
                  "%s: flush at close failed: %s", bdrv_name(bs),
                  g_strerror(-ret));
        }
    }
    bs->drv->close(bs);
    bs->drv = NULL;
}

static void node_free(BlockDriverState *bs)
{
    g_assert(bs->parents->len == 0); /* N2 */

    while (bs->children->len > 0) {
        bdrv_detach_child(bs->children->pdata[bs->children->len - 1]);
    }
    g_ptr_array_remove(all_nodes, bs);
    if (all_nodes->len == 0) {
        g_ptr_array_free(all_nodes, /* free_segment= */ TRUE);
        all_nodes = NULL;
    }
    g_assert(bs->op_blockers == NULL); /* who blocks holds a count */
    bdrv_write_threshold_forget(bs);
    bdrv_dirty_bitmaps_free(bs);
    bdrv_tracker_free(bs->tracker);
    accounting_free(bs->accounting);
    bdrv_flush_state_free(bs->flush);
    bdrv_status_cache_free(bs->status_cache);
    block_options_free(bs->options);
    block_options_free(bs->explicit_options);
    g_ptr_array_free(bs->children, /* free_segment= */ TRUE);
    g_ptr_array_free(bs->parents, /* free_segment= */ TRUE);
    g_free(bs->opaque);
    g_free(bs->node_name);
    g_free(bs->filename);
    g_free(bs->exact_filename);
    g_free(bs->directory);
    g_free(bs->backing_name);
    g_free(bs->backing_format);
    g_free(bs);
}

void bdrv_unref(BlockDriverState *bs)
{
    if (bs == NULL) {
        return;
    }
    g_assert(bs->ref_count > 0);
    if (bs->ref_count > 1) {
        bs->ref_count--;
        return;
    }
    /* The count is kept while closing: drivers may take and give counts. */
    flush_and_close(bs);
    bs->ref_count = 0;
    node_free(bs);
}

void bdrv_foreach_node(void (*visit)(BlockDriverState *bs, void *opaque),
                       void *opaque)
{
    for (guint i = 0; all_nodes != NULL && i < all_nodes->len; i++) {
        visit(all_nodes->pdata[i], opaque);
    }
}

/* The base name of the file at the bottom: what the user calls the image. */
const char *bdrv_name(const BlockDriverState *bs)
{
    const BlockDriverState *leaf = bs;

    if (bs->temporary && bs->backing != NULL) {
        return bdrv_name(bs->backing->bs);
    }
    while (leaf->exact_filename == NULL && leaf->file != NULL) {
        leaf = leaf->file->bs;
    }
    if (leaf->exact_filename != NULL) {
        const char *slash = strrchr(leaf->exact_filename, '/');

        return slash != NULL && slash[1] != '\0'
            ? slash + 1 : leaf->exact_filename;
    }
    return bs->filename != NULL ? bs->filename : bs->node_name;
}

BdrvChild *bdrv_filter_child(const BlockDriverState *bs)
{
    if (bs->drv == NULL || !bs->drv->is_filter) {
        return NULL;
    }
    return bs->drv->filtered_child_is_backing ? bs->backing : bs->file;
}

BdrvChild *bdrv_cow_child(const BlockDriverState *bs)
{
    if (bs->drv == NULL || bs->drv->is_filter) {
        return NULL;
    }
    return bs->backing;
}

BdrvChild *bdrv_filter_or_cow_child(const BlockDriverState *bs)
{
    BdrvChild *filtered = bdrv_filter_child(bs);

    return filtered != NULL ? filtered : bdrv_cow_child(bs);
}

BlockDriverState *bdrv_skip_filters(BlockDriverState *bs)
{
    BdrvChild *child;

    while ((child = bdrv_filter_child(bs)) != NULL) {
        bs = child->bs;
    }
    return bs;
}
