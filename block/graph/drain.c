/* SPDX-License-Identifier: MIT */
/*
 * drain: hold back new requests from above, wait for those in flight
 *
 *   backend ─▶ A ─▶ B ─▶ C        bdrv_drained_begin(B):
 *   backend ─▶ D ─┘                 up:   B, A, D quiesced, backends told
 *                                   down: C's driver stops its own sources
 *
 * Going up, each node's count is raised once per reason: a drain of itself, or
 * a quiesced edge to a child. Going down only the drivers are told; users that
 * reach C on other ways are not disturbed. What was stopped below is noted
 * per drain, because the graph may look different at its end.
 *
 * Always true outside a function of this file:
 *  D1  bs->quiesce_count is the number of drains of bs itself (alone, in a
 *      subtree, with all) plus the number of quiesced edges from bs to
 *      children;
 *  D2  an edge is quiesced exactly while its node's count is above 0;
 *  D3  source_stops counts 1 for quiesce_count > 0, and 1 for each drain of a
 *      node above; the driver is stopped exactly while it is above 0.
 *
 * Locking: control plane only, but for bdrv_drain_kick() and its atomics.
 */
#include "block/graph/drain.h"

#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"
#include "block/rt/aio_context.h"

/* One bdrv_drained_begin() that has not ended. */
typedef struct DrainSection {
    BlockDriverState *bs;
    GPtrArray *stopped; /* nodes below, one count of each */
} DrainSection;

/* The same for a subtree, or for all nodes. */
typedef struct ManySection {
    BlockDriverState *root; /* NULL: all */
    GPtrArray *nodes;       /* one count of each */
} ManySection;

static GPtrArray *sections;     /* of DrainSection *, innermost last */
static GPtrArray *many_sections; /* of ManySection *, innermost last */

/* Who waits for requests to end, and the kicks on their way to it. Atomic. */
static AioContext *waiting_context;
static int n_kickers;     /* threads inside bdrv_drain_kick() */
static bool kick_pending; /* its callback is scheduled and has not run */

/* ---- drivers' own sources ----------------------------------------------- */

static void stop_source(BlockDriverState *bs)
{
    if (bs->source_stops++ == 0 && bs->drv != NULL) {
        bs->drv->drain_begin(bs);
    }
}

static void start_source(BlockDriverState *bs)
{
    g_assert(bs->source_stops > 0);
    if (--bs->source_stops == 0 && bs->drv != NULL) {
        bs->drv->drain_end(bs);
    }
}

/* ---- up ----------------------------------------------------------------- */

static void quiesce(BlockDriverState *bs)
{
    if (bs->quiesce_count++ > 0) {
        return;
    }
    stop_source(bs);
    for (guint i = 0; i < bs->parents->len; i++) {
        BdrvChild *edge = bs->parents->pdata[i];

        edge->quiesced = true; /* D2 */
        if (edge->klass->drained_begin != NULL) {
            edge->klass->drained_begin(edge);
        }
    }
}

static void unquiesce(BlockDriverState *bs)
{
    g_assert(bs->quiesce_count > 0);
    if (--bs->quiesce_count > 0) {
        return;
    }
    for (guint i = 0; i < bs->parents->len; i++) {
        BdrvChild *edge = bs->parents->pdata[i];

        edge->quiesced = false;
        if (edge->klass->drained_end != NULL) {
            edge->klass->drained_end(edge);
        }
    }
    start_source(bs);
}

static bool is_source_busy(BlockDriverState *bs)
{
    return bs->drv != NULL && bs->drv->drain_poll(bs);
}

static bool is_busy(BlockDriverState *bs)
{
    for (guint i = 0; i < bs->parents->len; i++) {
        BdrvChild *edge = bs->parents->pdata[i];

        if (edge->klass->drained_poll != NULL &&
            edge->klass->drained_poll(edge)) {
            return true;
        }
    }
    return is_source_busy(bs); /* last: requests may start a source */
}

void bdrv_child_of_bs_drained_begin(BdrvChild *child)
{
    quiesce(child->parent);
}

bool bdrv_child_of_bs_drained_poll(BdrvChild *child)
{
    return is_busy(child->parent);
}

void bdrv_child_of_bs_drained_end(BdrvChild *child)
{
    unquiesce(child->parent);
}

/* ---- waiting ------------------------------------------------------------ */

static AioContext *this_context(void)
{
    AioContext *ctx = aio_context_current();

    g_assert(ctx != NULL && !co_in_coroutine());
    return ctx;
}

static void wake_up(void *opaque)
{
    __atomic_store_n(&kick_pending, false, __ATOMIC_SEQ_CST);
}

void bdrv_drain_kick(void)
{
    AioContext *ctx;

    __atomic_fetch_add(&n_kickers, 1, __ATOMIC_SEQ_CST);
    ctx = __atomic_load_n(&waiting_context, __ATOMIC_SEQ_CST);
    /*
     * A callback, not a bare notify: a notify that comes between looking at
     * the counters and going to sleep would be lost, a callback is found.
     */
    if (ctx != NULL &&
        !__atomic_exchange_n(&kick_pending, true, __ATOMIC_SEQ_CST)) {
        aio_schedule(ctx, wake_up, NULL);
    }
    __atomic_fetch_sub(&n_kickers, 1, __ATOMIC_SEQ_CST);
}

/* Afterwards no kick is on its way: the context may even be freed. */
static void stop_waiting(AioContext *ctx, AioContext *outer)
{
    __atomic_store_n(&waiting_context, outer, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&n_kickers, __ATOMIC_SEQ_CST) > 0) {
        g_thread_yield();
    }
    while (__atomic_load_n(&kick_pending, __ATOMIC_SEQ_CST)) {
        aio_poll(ctx, /* may_sleep= */ false);
    }
}

static bool is_any_source_busy(const GPtrArray *nodes)
{
    for (guint i = 0; nodes != NULL && i < nodes->len; i++) {
        if (is_source_busy(nodes->pdata[i])) {
            return true;
        }
    }
    return false;
}

/*
 * @below: nodes whose sources have been stopped, too; may be NULL.
 *
 * Announce, then look: a request that ends either is seen gone by is_busy(),
 * or sees that somebody waits. Callbacks that the loop runs may drain, too.
 */
static void wait_until_quiet(AioContext *ctx, BlockDriverState *bs,
                             const GPtrArray *below)
{
    AioContext *outer = __atomic_exchange_n(&waiting_context, ctx,
                                            __ATOMIC_SEQ_CST);

    while (is_busy(bs) || is_any_source_busy(below)) {
        aio_poll(ctx, /* may_sleep= */ true);
    }
    stop_waiting(ctx, outer);
}

/* ---- down, and the two together ----------------------------------------- */

static void stop_below(BlockDriverState *bs, GPtrArray *stopped)
{
    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = bs->children->pdata[i];

        if (!g_ptr_array_find(stopped, child->bs, NULL)) {
            g_ptr_array_add(stopped, bdrv_ref(child->bs));
            stop_source(child->bs);
            stop_below(child->bs, stopped);
        }
    }
}

void bdrv_drained_begin(BlockDriverState *bs)
{
    AioContext *ctx = this_context();
    DrainSection *section = g_new0(DrainSection, 1);

    section->bs = bs;
    section->stopped = g_ptr_array_new();
    if (sections == NULL) {
        sections = g_ptr_array_new();
    }
    g_ptr_array_add(sections, section);

    quiesce(bs);
    stop_below(bs, section->stopped);
    wait_until_quiet(ctx, bs, section->stopped);
}

/* The latest section of @bs, out of the list. */
static DrainSection *take_section(const BlockDriverState *bs)
{
    DrainSection *section = NULL;

    for (guint i = sections->len; i-- > 0 && section == NULL;) {
        DrainSection *candidate = sections->pdata[i];

        if (candidate->bs == bs) {
            section = g_ptr_array_remove_index(sections, i);
        }
    }
    g_assert(section != NULL);
    if (sections->len == 0) {
        g_clear_pointer(&sections, g_ptr_array_unref);
    }
    return section;
}

void bdrv_drained_end(BlockDriverState *bs)
{
    DrainSection *section = take_section(bs);

    for (guint i = 0; i < section->stopped->len; i++) {
        start_source(section->stopped->pdata[i]);
    }
    unquiesce(bs);
    for (guint i = 0; i < section->stopped->len; i++) {
        bdrv_unref(section->stopped->pdata[i]);
    }
    g_ptr_array_free(section->stopped, /* free_segment= */ TRUE);
    g_free(section);
}

/* ---- many nodes at once -------------------------------------------------- */

/* Takes over @nodes, each with one count. */
static void begin_many(BlockDriverState *root, GPtrArray *nodes)
{
    AioContext *ctx = this_context();
    ManySection *section = g_new0(ManySection, 1);

    section->root = root;
    section->nodes = nodes;
    if (many_sections == NULL) {
        many_sections = g_ptr_array_new();
    }
    g_ptr_array_add(many_sections, section);
    for (guint i = 0; i < nodes->len; i++) {
        quiesce(nodes->pdata[i]);
    }
    for (guint i = 0; i < nodes->len; i++) {
        wait_until_quiet(ctx, nodes->pdata[i], /* below= */ NULL);
    }
}

static ManySection *take_many(const BlockDriverState *root)
{
    ManySection *section = NULL;

    for (guint i = many_sections->len; i-- > 0 && section == NULL;) {
        ManySection *candidate = many_sections->pdata[i];

        if (candidate->root == root) {
            section = g_ptr_array_remove_index(many_sections, i);
        }
    }
    g_assert(section != NULL);
    if (many_sections->len == 0) {
        g_clear_pointer(&many_sections, g_ptr_array_unref);
    }
    return section;
}

static void end_many(const BlockDriverState *root)
{
    ManySection *section = take_many(root);
    GPtrArray *nodes = section->nodes;

    for (guint i = 0; i < nodes->len; i++) {
        unquiesce(nodes->pdata[i]);
    }
    for (guint i = 0; i < nodes->len; i++) {
        bdrv_unref(nodes->pdata[i]);
    }
    g_ptr_array_free(nodes, /* free_segment= */ TRUE);
    g_free(section);
}

static void collect_below(BlockDriverState *bs, GPtrArray *nodes)
{
    if (g_ptr_array_find(nodes, bs, NULL)) {
        return;
    }
    g_ptr_array_add(nodes, bdrv_ref(bs));
    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = bs->children->pdata[i];

        collect_below(child->bs, nodes);
    }
}

void bdrv_subtree_drained_begin(BlockDriverState *bs)
{
    GPtrArray *nodes = g_ptr_array_new();

    collect_below(bs, nodes);
    begin_many(bs, nodes);
}

void bdrv_subtree_drained_end(BlockDriverState *bs)
{
    end_many(bs);
}

static void collect_node(BlockDriverState *bs, void *opaque)
{
    g_ptr_array_add(opaque, bdrv_ref(bs));
}

void bdrv_drain_all_begin(void)
{
    GPtrArray *nodes = g_ptr_array_new();

    bdrv_foreach_node(collect_node, nodes);
    begin_many(/* root= */ NULL, nodes);
}

void bdrv_drain_all_end(void)
{
    end_many(/* root= */ NULL);
}

/* ---- letting go --------------------------------------------------------- */

static void cancel_node(BlockDriverState *bs, void *opaque)
{
    if (bs->drv != NULL) {
        bs->drv->cancel_in_flight(bs);
    }
}

static void cancel_subtree(BlockDriverState *bs, GHashTable *told)
{
    if (!g_hash_table_add(told, bs)) {
        return;
    }
    cancel_node(bs, /* opaque= */ NULL);
    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = bs->children->pdata[i];

        cancel_subtree(child->bs, told);
    }
}

void bdrv_cancel_in_flight(BlockDriverState *bs)
{
    g_autoptr(GHashTable) told = g_hash_table_new(NULL, NULL);

    cancel_subtree(bs, told);
}

void bdrv_cancel_all_in_flight(void)
{
    bdrv_foreach_node(cancel_node, /* opaque= */ NULL);
}
