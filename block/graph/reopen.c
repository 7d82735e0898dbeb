/* SPDX-License-Identifier: MIT */
/*
 * reopening: transactions of new flags and options
 *
 *   settle: options to children, common options, flags to children, order
 *     ─▶ flush ─▶ prepare all ─▶ flags and permissions ─▶ commit all
 *                    │ refused          │ refused
 *                    ▼                  ▼
 *                abort what was prepared, flags as before
 *
 * Children come before their parents: a format that becomes writable may
 * write its header in commit, and its file must take that by then. In the
 * other direction everything is flushed before anything changes.
 *
 * Always true outside a function of this file:
 *  R1  a driver sees only options that its table calls mutable, and after a
 *      successful prepare it has taken all of them;
 *  R2  until all have prepared and permissions are taken, no node differs
 *      from before in anything that bdrv_reopen_multiple() cannot undo.
 *
 * Locking: none, control plane; the whole graph is drained meanwhile.
 */
#include "block/graph/reopen.h"

#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"
#include "block/graph/op_blocker.h"
#include "block/graph/open.h"
#include "block/graph/open_internal.h"
#include "block/graph/perm.h"
#include "block/io/flush.h"
#include "block/io/io.h"
#include "block/io/limits.h"

#include <string.h>

/* What one node is to become. */
typedef struct Entry {
    BlockReopenState state;   /* bs (one count), flags, options */
    BdrvOpenFlags said;       /* flags that were asked for of this very node */
    BdrvOpenFlags old_flags;
    BdrvDetectZeroes detect_zeroes;
    BlockOptions *changed;    /* what becomes part of the node's options */
    bool prepared;
} Entry;

struct BdrvReopenQueue {
    GPtrArray *entries; /* of Entry *; children first once settled */
};

/* Flags that decide how a protocol has its file open. */
#define FLAGS_OF_FILE ((BdrvOpenFlags)(BDRV_O_RDWR | BDRV_O_NOCACHE))

/* ---- the queue ---------------------------------------------------------- */

static void entry_free(void *opaque)
{
    Entry *entry = opaque;

    block_options_free(entry->state.options);
    block_options_free(entry->changed);
    bdrv_unref(entry->state.bs);
    g_free(entry);
}

BdrvReopenQueue *bdrv_reopen_queue_new(void)
{
    BdrvReopenQueue *queue = g_new0(BdrvReopenQueue, 1);

    queue->entries = g_ptr_array_new_with_free_func(entry_free);
    return queue;
}

void bdrv_reopen_queue_free(BdrvReopenQueue *queue)
{
    if (queue != NULL) {
        g_ptr_array_unref(queue->entries);
        g_free(queue);
    }
}

static Entry *find_entry(const BdrvReopenQueue *queue,
                         const BlockDriverState *bs)
{
    for (guint i = 0; i < queue->entries->len; i++) {
        Entry *entry = queue->entries->pdata[i];

        if (entry->state.bs == bs) {
            return entry;
        }
    }
    return NULL;
}

/* The entry of @bs; a new one changes nothing yet. */
static Entry *get_entry(BdrvReopenQueue *queue, BlockDriverState *bs)
{
    Entry *entry = find_entry(queue, bs);

    if (entry == NULL) {
        entry = g_new0(Entry, 1);
        entry->state.bs = bdrv_ref(bs);
        entry->state.flags = bs->open_flags;
        entry->state.options = block_options_new();
        entry->old_flags = bs->open_flags;
        entry->detect_zeroes = bs->detect_zeroes;
        g_ptr_array_add(queue->entries, entry);
    }
    return entry;
}

void bdrv_reopen_queue_add(BdrvReopenQueue *queue, BlockDriverState *bs,
                           BdrvOpenFlags flags, BlockOptions *options)
{
    Entry *entry = get_entry(queue, bs);
    BdrvOpenFlags changed = flags ^ bs->open_flags;

    g_assert((changed & ~(BdrvOpenFlags)BDRV_REOPEN_FLAGS) == 0);
    entry->state.flags = (entry->state.flags & ~changed) | (flags & changed);
    entry->said |= changed;
    if (options != NULL) {
        block_options_join(options, entry->state.options);
        block_options_free(entry->state.options);
        entry->state.options = options;
    }
}

/* ---- settling: what each node is to become ------------------------------ */

/* "file.aio" of a node is "aio" of its file; "file" may only say what is. */
static bool split_child_options(BdrvReopenQueue *queue, Entry *entry,
                                GError **error)
{
    BlockDriverState *bs = entry->state.bs;
    BlockOptions *options = entry->state.options;

    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = bs->children->pdata[i];
        g_autofree char *node_name = NULL;
        g_autoptr(BlockOptions) below = NULL;

        (void) block_options_take_string(options, child->name, &node_name,
                                         NULL);
        if (node_name != NULL && strcmp(node_name, child->bs->node_name)) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                        "%s: option '%s' cannot change while the node is in "
                        "use", bdrv_name(bs), child->name);
            return false;
        }
        below = block_options_take_subtree(options, child->name);
        if (block_options_first_key(below) != NULL) {
            bdrv_reopen_queue_add(queue, child->bs, child->bs->open_flags,
                                  g_steal_pointer(&below));
        }
    }
    return true;
}

/* A given key stands in @to as it stood in @from. */
static void keep_option(BlockOptions *to, const BlockOptions *from,
                        const char *key)
{
    if (block_options_has(from, key)) {
        block_options_set_string(to, key, block_options_peek(from, key));
    }
}

static bool settle_common(Entry *entry, GError **error)
{
    static const char *const names[] = {
        "read-only", "cache.direct", "cache.no-flush", "discard",
        "detect-zeroes",
    };
    static const BdrvOpenFlags flags[] = {
        BDRV_O_RDWR, BDRV_O_NOCACHE, BDRV_O_NO_FLUSH, BDRV_O_UNMAP, 0,
    };
    BlockOptions *options = entry->state.options;

    entry->changed = block_options_new();
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (block_options_has(options, names[i])) {
            keep_option(entry->changed, options, names[i]);
            entry->said |= flags[i];
        }
    }
    if (!open_take_mutable(options, &entry->state.flags,
                           &entry->detect_zeroes, error)) {
        g_prefix_error(error, "%s: ", bdrv_name(entry->state.bs));
        return false;
    }
    return true;
}

/* The option that @key (perhaps an element of a list) belongs to. */
static const BlockOptionDesc *find_desc(const BlockOptionDesc *desc,
                                        const char *key)
{
    for (; desc != NULL && desc->name != NULL; desc++) {
        size_t bytes = strlen(desc->name);

        if (strncmp(desc->name, key, bytes) == 0 &&
            (key[bytes] == '\0' || key[bytes] == '.')) {
            return desc;
        }
    }
    return NULL;
}

/* Do @a and @b say the same to an option of @type? */
static bool is_same_value(BlockOptionType type, const char *a, const char *b)
{
    g_autoptr(BlockOptions) options = block_options_new();
    bool bool_a = false, bool_b = false;
    int64_t size_a = 0, size_b = 0;

    if (a == NULL || b == NULL || strcmp(a, b) == 0) {
        return a != NULL && b != NULL;
    }
    block_options_set_string(options, "a", a);
    block_options_set_string(options, "b", b);
    switch (type) {
    case BLOCK_OPTION_BOOL:
        return block_options_take_bool(options, "a", &bool_a, NULL) &&
               block_options_take_bool(options, "b", &bool_b, NULL) &&
               bool_a == bool_b;
    case BLOCK_OPTION_NUMBER:
    case BLOCK_OPTION_SIZE:
        return block_options_take_size(options, "a", &size_a, NULL) &&
               block_options_take_size(options, "b", &size_b, NULL) &&
               size_a == size_b;
    default:
        return false;
    }
}

/* Takes @key out unless the driver is to see it (R1). */
static bool settle_option(Entry *entry, const char *key, GError **error)
{
    const BlockDriverState *bs = entry->state.bs;
    const BlockOptionDesc *desc = find_desc(bs->drv->options, key);
    const char *old = block_options_peek(bs->options, key);
    g_autofree char *value = NULL;

    if (desc == NULL) {
        desc = find_desc(bdrv_common_options, key);
    }
    if (desc != NULL && desc->is_mutable) {
        keep_option(entry->changed, entry->state.options, key);
        return true;
    }
    (void) block_options_take_string(entry->state.options, key, &value, NULL);
    if (desc == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: unknown option '%s' of driver '%s'", bdrv_name(bs),
                    key, bs->drv->format_name);
        return false;
    }
    if (strcmp(key, "node-name") == 0) {
        old = bs->node_name;
    } else if (strcmp(key, "driver") == 0) {
        old = bs->drv->format_name;
    } else if (old == NULL) {
        old = block_options_peek(bs->explicit_options, key);
    }
    if (is_same_value(desc->type, value,
                      old != NULL ? old : desc->default_value)) {
        return true;
    }
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                "%s: option '%s' of driver '%s' cannot change while the node "
                "is in use", bdrv_name(bs), key, bs->drv->format_name);
    return false;
}

/* What is left in the entry's options is mutable; *changed has all of it. */
static bool settle_options(Entry *entry, GError **error)
{
    g_autoptr(BlockOptions) all = block_options_copy(entry->state.options);
    const char *key;

    while ((key = block_options_first_key(all)) != NULL) {
        g_autofree char *name = g_strdup(key);
        g_autofree char *value = NULL;

        (void) block_options_take_string(all, name, &value, NULL);
        if (!settle_option(entry, name, error)) {
            return false;
        }
    }
    return true;
}

/* Did the options at open say @flag of @bs itself? */
static bool said_at_open(const BlockDriverState *bs, BdrvOpenFlags flag)
{
    const char *name = flag == BDRV_O_NOCACHE ? "cache.direct"
        : flag == BDRV_O_NO_FLUSH ? "cache.no-flush"
        : flag == BDRV_O_UNMAP ? "discard" : NULL;

    return name != NULL && block_options_has(bs->explicit_options, name);
}

/* The bits @changed of @bs's new @flags go for its children, too. */
static void pass_down(BdrvReopenQueue *queue, BlockDriverState *bs,
                      BdrvOpenFlags flags, BdrvOpenFlags changed)
{
    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = bs->children->pdata[i];
        BdrvOpenFlags mask = changed;
        Entry *entry;

        if (child->role & BDRV_CHILD_COW) {
            continue;
        }
        entry = get_entry(queue, child->bs);
        mask &= ~entry->said;
        for (unsigned bit = 0; bit < 32; bit++) {
            if (said_at_open(child->bs, (BdrvOpenFlags)(1u << bit))) {
                mask &= ~(BdrvOpenFlags)(1u << bit);
            }
        }
        entry->state.flags = (entry->state.flags & ~mask) | (flags & mask);
        if (mask != 0) {
            pass_down(queue, child->bs, flags, mask);
        }
    }
}

static bool check_entry(const Entry *entry, GError **error)
{
    const BlockDriverState *bs = entry->state.bs;
    bool writes = entry->state.flags & BDRV_O_RDWR;

    if (bs->drv == NULL || bs->inactive) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CONFLICT,
                    "%s: is not active", bdrv_name(bs));
        return false;
    }
    if (writes && bs->force_share) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: force-share needs a read-only open", bdrv_name(bs));
        return false;
    }
    return ((entry->state.flags ^ bs->open_flags) & BDRV_O_RDWR) == 0 ||
           !bdrv_op_is_blocked(bs, BDRV_OP_REOPEN, error);
}

static bool is_change(const Entry *entry)
{
    return entry->state.flags != entry->old_flags ||
           entry->detect_zeroes != entry->state.bs->detect_zeroes ||
           block_options_first_key(entry->changed) != NULL;
}

/* Moves the entries at and below @bs from @queue to @sorted. */
static void sort_from(BdrvReopenQueue *queue, BlockDriverState *bs,
                      GPtrArray *sorted, GHashTable *seen)
{
    Entry *entry;

    if (!g_hash_table_add(seen, bs)) {
        return;
    }
    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = bs->children->pdata[i];

        sort_from(queue, child->bs, sorted, seen);
    }
    entry = find_entry(queue, bs);
    if (entry != NULL && is_change(entry)) {
        g_ptr_array_add(sorted, entry);
    }
}

/* Children first, and only what changes. */
static void sort_entries(BdrvReopenQueue *queue)
{
    GPtrArray *sorted = g_ptr_array_new_with_free_func(entry_free);
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);

    for (guint i = 0; i < queue->entries->len; i++) {
        const Entry *entry = queue->entries->pdata[i];

        sort_from(queue, entry->state.bs, sorted, seen);
    }
    for (guint i = 0; i < queue->entries->len; i++) {
        if (!g_ptr_array_find(sorted, queue->entries->pdata[i], NULL)) {
            entry_free(queue->entries->pdata[i]);
        }
    }
    g_ptr_array_set_free_func(queue->entries, NULL);
    g_ptr_array_unref(queue->entries);
    queue->entries = sorted;
}

static bool settle(BdrvReopenQueue *queue, GError **error)
{
    guint n_asked;

    /* Entries for children are added behind, and come to their turn. */
    for (guint i = 0; i < queue->entries->len; i++) {
        if (!split_child_options(queue, queue->entries->pdata[i], error)) {
            return false;
        }
    }
    n_asked = queue->entries->len;
    for (guint i = 0; i < n_asked; i++) {
        if (!settle_common(queue->entries->pdata[i], error) ||
            !settle_options(queue->entries->pdata[i], error)) {
            return false;
        }
    }
    for (guint i = 0; i < n_asked; i++) {
        const Entry *entry = queue->entries->pdata[i];

        pass_down(queue, entry->state.bs, entry->state.flags,
                  entry->state.flags ^ entry->old_flags);
    }
    for (guint i = 0; i < queue->entries->len; i++) {
        Entry *entry = queue->entries->pdata[i];

        if (entry->changed == NULL) {
            entry->changed = block_options_new();
        }
        if (!check_entry(entry, error)) {
            return false;
        }
    }
    sort_entries(queue);
    return true;
}

/* ---- the transaction ---------------------------------------------------- */

static bool flush_losers(BdrvReopenQueue *queue, GError **error)
{
    for (guint i = queue->entries->len; i-- > 0;) {
        const Entry *entry = queue->entries->pdata[i];
        BlockDriverState *bs = entry->state.bs;
        int ret = 0;

        if (!bs->read_only && !(entry->state.flags & BDRV_O_RDWR)) {
            ret = bdrv_flush(bs);
        }
        if (ret < 0) {
            error_set_errno(error, -ret, "%s: flush", bdrv_name(bs));
            return false;
        }
    }
    return true;
}

static void abort_all(BdrvReopenQueue *queue)
{
    for (guint i = queue->entries->len; i-- > 0;) {
        Entry *entry = queue->entries->pdata[i];

        if (entry->prepared) {
            entry->state.bs->drv->reopen->abort(&entry->state);
        }
    }
}

static bool prepare(Entry *entry, GError **error)
{
    BlockDriverState *bs = entry->state.bs;
    const char *left;

    if (!bs->drv->reopen->prepare(&entry->state, error)) {
        g_prefix_error(error, "%s: ", bdrv_name(bs));
        return false;
    }
    entry->prepared = true;
    left = block_options_first_key(entry->state.options);
    if (left != NULL) { /* R1: its table promises more than it does */
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: driver '%s' does not change option '%s'",
                    bdrv_name(bs), bs->drv->format_name, left);
        return false;
    }
    return true;
}

/* Each node gets its entry's flags, or those it had. */
static void set_flags(BdrvReopenQueue *queue, bool new_ones)
{
    for (guint i = 0; i < queue->entries->len; i++) {
        const Entry *entry = queue->entries->pdata[i];
        BlockDriverState *bs = entry->state.bs;

        bs->open_flags = new_ones ? entry->state.flags : entry->old_flags;
        bs->read_only = !(bs->open_flags & BDRV_O_RDWR);
    }
}

static bool refresh_perms(BdrvReopenQueue *queue, GError **error)
{
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();

    for (guint i = 0; i < queue->entries->len; i++) {
        const Entry *entry = queue->entries->pdata[i];

        g_ptr_array_add(nodes, entry->state.bs);
    }
    return bdrv_refresh_perms_of(nodes, error);
}

/* @options replace what @*old says, which keeps the rest. */
static void update_options(BlockOptions **old, const BlockOptions *options)
{
    BlockOptions *merged = block_options_copy(options);

    block_options_join(merged, *old);
    block_options_free(*old);
    *old = merged;
}

static void commit(Entry *entry)
{
    BlockDriverState *bs = entry->state.bs;

    bs->drv->reopen->commit(&entry->state);
    bs->detect_zeroes = entry->detect_zeroes;
    update_options(&bs->explicit_options, entry->changed);
    update_options(&bs->options, entry->changed);
    if ((entry->state.flags ^ entry->old_flags) & FLAGS_OF_FILE) {
        bdrv_flush_state_reset(bs);
        /* Alignment may differ with O_DIRECT; a sane driver is sane again. */
        (void) bdrv_refresh_limits(bs, NULL);
    }
    bdrv_refresh_filename(bs);
}

static bool run(BdrvReopenQueue *queue, GError **error)
{
    bool ok = flush_losers(queue, error);

    for (guint i = 0; ok && i < queue->entries->len; i++) {
        ok = prepare(queue->entries->pdata[i], error);
    }
    if (ok) {
        set_flags(queue, /* new_ones= */ true);
        ok = refresh_perms(queue, error);
        if (!ok) {
            set_flags(queue, /* new_ones= */ false); /* R2 */
        }
    }
    if (!ok) {
        abort_all(queue);
        return false;
    }
    for (guint i = 0; i < queue->entries->len; i++) {
        commit(queue->entries->pdata[i]);
    }
    for (guint i = 0; i < queue->entries->len; i++) {
        Entry *entry = queue->entries->pdata[i];

        entry->state.bs->drv->reopen->commit_post(&entry->state);
    }
    return true;
}

bool bdrv_reopen_multiple(BdrvReopenQueue *queue, GError **error)
{
    g_autoptr(GError) local_error = NULL; /* prefixes need a place */
    bool ok;

    bdrv_drain_all_begin();
    ok = settle(queue, &local_error) && run(queue, &local_error);
    bdrv_reopen_queue_free(queue);
    bdrv_drain_all_end();
    if (!ok) {
        g_propagate_error(error, g_steal_pointer(&local_error));
    }
    return ok;
}

bool bdrv_reopen_options(BlockDriverState *bs, BlockOptions *options,
                         GError **error)
{
    BdrvReopenQueue *queue = bdrv_reopen_queue_new();

    bdrv_reopen_queue_add(queue, bs, bs->open_flags, options);
    return bdrv_reopen_multiple(queue, error);
}

bool bdrv_reopen_set_read_only(BlockDriverState *bs, bool read_only,
                               GError **error)
{
    BdrvReopenQueue *queue = bdrv_reopen_queue_new();
    BdrvOpenFlags flags = bs->open_flags & ~(BdrvOpenFlags)BDRV_O_RDWR;

    bdrv_reopen_queue_add(queue, bs, read_only ? flags : flags | BDRV_O_RDWR,
                          /* options= */ NULL);
    return bdrv_reopen_multiple(queue, error);
}
