/* SPDX-License-Identifier: MIT */
/*
 * writing the documents of a mount, and keeping the open ones
 *
 * Info and map are the commands' own texts (image_info.c). The counters of
 * stats.json come from the backend's accounting: requests of this mount. What
 * drivers make of them below is counted by the nodes whose users want to know
 * (option accounting). Measuring latency costs each request two
 * looks at the clock, so it begins when somebody first asks.
 *
 * Locking: writing is for the control plane. lock protects the table of open
 * documents; a text is constant and counted.
 */
#include "fuse/documents.h"

#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/io/accounting.h"

#include "fuse/graph_dot.h"
#include "fuse/image_info.h"

#include <inttypes.h>
#include <string.h>

struct Documents {
    GMutex lock;
    GHashTable *open; /* handle -> GBytes */
    uint64_t next_handle;
};

const char *document_name(DocumentKind kind)
{
    static const char *const names[DOCUMENT_KINDS] = {
        [DOCUMENT_INFO] = "info.json",
        [DOCUMENT_MAP] = "map.json",
        [DOCUMENT_STATS] = "stats.json",
        [DOCUMENT_GRAPH] = "graph.dot",
    };

    return names[kind];
}

/* ---- info and map ---- */

/*
 * The name is the one that the user mounted, as on a command line. A temporary
 * overlay has none: it is told by the image that it is over.
 */
static char *write_info(const Export *export)
{
    BlockDriverState *bs = bdrv_skip_filters(blk_bs(export->blk));
    const char *filename = export->reference && !bs->temporary
                           ? export->reference : bdrv_name(bs);
    JsonNode *root = json_node_new(JSON_NODE_OBJECT);

    json_node_take_object(root, image_info_of_node(bs, filename));
    return image_info_text(root);
}

/* The bracket is there already: 1 byte means that this is the first extent. */
static bool append_extent(const ImageMapExtent *extent, void *opaque)
{
    GString *text = opaque;

    image_info_append_extent(text, extent, /* is_first= */ text->len == 1);
    return true;
}

/* Whole in memory: a map has a line for each extent, not for each cluster. */
static char *write_map(const Export *export, GError **error)
{
    GString *text = g_string_new("[");

    if (!image_map(export->blk, /* start= */ 0, INT64_MAX, append_extent,
                   text, error)) {
        g_string_free(text, TRUE);
        return NULL;
    }
    g_string_append(text, "]\n");
    return g_string_free(text, FALSE);
}

/* ---- counters ---- */

static const char *const type_names[ACCOUNTING_TYPES] = {
    [ACCOUNTING_READ] = "read",
    [ACCOUNTING_WRITE] = "write",
    [ACCOUNTING_ZEROES] = "zeroes",
    [ACCOUNTING_UNMAP] = "unmap",
    [ACCOUNTING_FLUSH] = "flush",
};

/* 10 us to 5 s in steps of 1, 2 and 5. */
static const uint64_t boundaries_ns[] = {
    10000,     20000,     50000,     100000,     200000,     500000,
    1000000,   2000000,   5000000,   10000000,   20000000,   50000000,
    100000000, 200000000, 500000000, 1000000000, 2000000000, 5000000000,
};
_Static_assert(G_N_ELEMENTS(boundaries_ns) <= ACCOUNTING_HISTOGRAM_MAX,
               "boundaries of a histogram");

/* Drained, so that no request counts into half of a histogram. */
static void begin_to_measure(Export *export)
{
    Accounting *accounting = blk_accounting(export->blk);

    if (accounting->measured[ACCOUNTING_READ]) {
        return;
    }
    blk_drain_begin(export->blk);
    for (int type = 0; type < ACCOUNTING_TYPES; type++) {
        (void) accounting_set_histogram(accounting, (AccountingType)type,
                                        boundaries_ns,
                                        G_N_ELEMENTS(boundaries_ns), NULL);
    }
    blk_drain_end(export->blk);
}

static void add_number(JsonBuilder *builder, const char *name, uint64_t value)
{
    json_builder_set_member_name(builder, name);
    json_builder_add_int_value(builder, (gint64)value);
}

/* Bin i counts what took less than boundary i and not less than i - 1. */
static void add_latency(JsonBuilder *builder, const AccountingTotals *totals)
{
    json_builder_set_member_name(builder, "latency");
    json_builder_begin_object(builder);
    json_builder_set_member_name(builder, "boundaries-ns");
    json_builder_begin_array(builder);
    for (size_t i = 0; i < G_N_ELEMENTS(boundaries_ns); i++) {
        json_builder_add_int_value(builder, (gint64)boundaries_ns[i]);
    }
    json_builder_end_array(builder);
    json_builder_set_member_name(builder, "bins");
    json_builder_begin_array(builder);
    for (size_t i = 0; i <= G_N_ELEMENTS(boundaries_ns); i++) {
        json_builder_add_int_value(builder, (gint64)totals->bins[i]);
    }
    json_builder_end_array(builder);
    json_builder_end_object(builder);
}

static void add_type(JsonBuilder *builder, Accounting *accounting,
                     AccountingType type)
{
    AccountingTotals totals;

    accounting_totals(accounting, type, &totals);
    json_builder_set_member_name(builder, type_names[type]);
    json_builder_begin_object(builder);
    add_number(builder, "operations", totals.operations);
    add_number(builder, "bytes", totals.bytes);
    add_number(builder, "failed", totals.failed);
    add_number(builder, "invalid", totals.invalid);
    add_number(builder, "total-time-ns", totals.total_time_ns);
    add_latency(builder, &totals);
    json_builder_end_object(builder);
}

/* What the format has to say of its caches, if it says anything. */
static void add_cache(JsonBuilder *builder, BlockDriverState *bs)
{
    JsonNode *figures = bs->drv->get_cache_figures
                        ? bs->drv->get_cache_figures(bs) : NULL;

    if (figures) {
        json_builder_set_member_name(builder, "cache");
        json_builder_add_value(builder, figures);
    }
}

static void add_types(JsonBuilder *builder, Accounting *accounting)
{
    for (int type = 0; type < ACCOUNTING_TYPES; type++) {
        add_type(builder, accounting, (AccountingType)type);
    }
}

/* Nodes below @bs with the option accounting=on, each once. */
static void add_nodes(JsonBuilder *builder, BlockDriverState *bs,
                      GHashTable *seen)
{
    if (!g_hash_table_add(seen, bs)) {
        return;
    }
    if (bs->accounting) {
        json_builder_begin_object(builder);
        json_builder_set_member_name(builder, "node-name");
        json_builder_add_string_value(builder, bs->node_name);
        json_builder_set_member_name(builder, "driver");
        json_builder_add_string_value(builder, bs->drv->format_name);
        json_builder_set_member_name(builder, "filename");
        json_builder_add_string_value(builder, bdrv_name(bs));
        add_number(builder, "highest-written",
                   (guint64)accounting_highest_end(bs->accounting));
        add_types(builder, bs->accounting);
        json_builder_end_object(builder);
    }
    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = g_ptr_array_index(bs->children, i);

        add_nodes(builder, child->bs, seen);
    }
}

/* A request that is under way counts when it ends. */
static char *write_stats(Export *export)
{
    g_autoptr(JsonBuilder) builder = json_builder_new();
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);

    begin_to_measure(export);
    json_builder_begin_object(builder);
    json_builder_set_member_name(builder, "name");
    json_builder_add_string_value(builder, export->name);
    add_types(builder, blk_accounting(export->blk));
    add_cache(builder, bdrv_skip_filters(blk_bs(export->blk)));
    json_builder_set_member_name(builder, "nodes");
    json_builder_begin_array(builder);
    add_nodes(builder, blk_bs(export->blk), seen);
    json_builder_end_array(builder);
    json_builder_end_object(builder);
    return image_info_text(json_builder_get_root(builder));
}

/* Only the map can fail: it is the only one that asks the disk. */
GBytes *document_write(Export *export, DocumentKind kind, GError **error)
{
    char *text = kind == DOCUMENT_INFO ? write_info(export)
                 : kind == DOCUMENT_MAP ? write_map(export, error)
                 : kind == DOCUMENT_GRAPH ? graph_dot_write(export)
                 : write_stats(export);

    return text ? g_bytes_new_take(text, strlen(text)) : NULL;
}

/* ---- those that are open ---- */

Documents *documents_new(void)
{
    Documents *documents = g_new0(Documents, 1);

    g_mutex_init(&documents->lock);
    documents->open = g_hash_table_new_full(g_int64_hash, g_int64_equal,
                                            g_free,
                                            (GDestroyNotify)g_bytes_unref);
    documents->next_handle = 1;
    return documents;
}

void documents_free(Documents *documents)
{
    if (documents) {
        g_hash_table_unref(documents->open);
        g_mutex_clear(&documents->lock);
        g_free(documents);
    }
}

/* Handles are never used twice, so a stale one finds nothing. */
uint64_t documents_open(Documents *documents, GBytes *text)
{
    uint64_t *key = g_new(uint64_t, 1);
    uint64_t handle;

    g_mutex_lock(&documents->lock);
    handle = *key = documents->next_handle++;
    g_hash_table_insert(documents->open, key, text);
    g_mutex_unlock(&documents->lock);
    return handle;
}

/* A count goes out with it: a close may come while it is being read. */
GBytes *documents_get(Documents *documents, uint64_t handle)
{
    GBytes *text;

    g_mutex_lock(&documents->lock);
    text = g_hash_table_lookup(documents->open, &handle);
    if (text) {
        g_bytes_ref(text);
    }
    g_mutex_unlock(&documents->lock);
    return text;
}

void documents_close(Documents *documents, uint64_t handle)
{
    g_mutex_lock(&documents->lock);
    g_hash_table_remove(documents->open, &handle);
    g_mutex_unlock(&documents->lock);
}
