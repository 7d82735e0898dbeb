/* SPDX-License-Identifier: MIT */
/*
 * blkdebug: faults on demand
 *
 * Requests pass through unchanged until a rule says otherwise. Rules hang on
 * events that drivers announce (block/io/debug_event.h):
 *
 *   inject-error  arms an error: the next requests that match fail with it,
 *                 until an event arms other ones, or only once
 *   set-state     changes the state number (1 at first) that rules may ask for
 *   suspend       holds the coroutine up until it is resumed by the tag, once
 *
 * What rules are made of is blkdebug_rules.c.
 *
 * An event runs all its rules against the state that it found. Rules of the
 * event "none" are armed from the start. Beside rules there is a counter of
 * requests of all kinds: `inject-at` fails the one with that index, so that a
 * test can walk through every single request that an operation makes.
 *
 * A drain resumes all that is suspended, and until its end breakpoints hold
 * nobody up: it would wait for them for ever.
 *
 * Locking: s->lock protects rules, state and sleepers; innermost. The limits
 * and inject_ members are constant after open, the counter is atomic.
 */
#include "drivers/registry.h"

#include "block/graph/open.h"
#include "block/io/io.h"
#include "drivers/filters/blkdebug_rules.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* A suspended coroutine; lives on its stack. */
typedef struct Sleeper Sleeper;
struct Sleeper {
    char *tag;
    Coroutine *co;
    Sleeper *next;
};

typedef struct BlkdebugState {
    GMutex lock;
    GPtrArray *rules; /* of BlkdebugRule * */
    uint64_t state;
    Sleeper *sleepers;
    unsigned drains; /* > 0: nobody is to be suspended */

    uint64_t requests; /* so far; atomic */
    bool has_inject_at;
    bool is_inject_sticky;
    uint64_t inject_at;
    uint64_t inject_errno;
    BlockLimits forced; /* 0: as the child has it */
} BlkdebugState;

#define RULE_OPTION(name_, help_)                                        \
    { .name = name_, .type = BLOCK_OPTION_STRING, .help = help_ }
#define LIMIT_OPTION(name_, help_)                                       \
    { .name = name_, .type = BLOCK_OPTION_SIZE, .help = help_ }

static const BlockOptionDesc blkdebug_options[] = {
    RULE_OPTION("config", "file with rules: [inject-error], [set-state] and "
                          "[suspend] sections of key = value"),
    RULE_OPTION("inject-error.N.event", "event that arms the error"),
    { .name = "inject-error.N.iotype", .type = BLOCK_OPTION_ENUM,
      .values = blkdebug_io_names,
      .help = "requests that fail; default: all but block-status" },
    RULE_OPTION("inject-error.N.state", "state it needs; default 0: any"),
    RULE_OPTION("inject-error.N.errno", "error number; default: 5 (EIO)"),
    RULE_OPTION("inject-error.N.sector", "requests with this sector of 512 "
                                         "bytes; default -1: any"),
    RULE_OPTION("inject-error.N.once", "only the first request; default: off"),
    RULE_OPTION("inject-error.N.immediately",
                "fail without letting others run before; default: off"),
    RULE_OPTION("set-state.N.event", "event that changes the state"),
    RULE_OPTION("set-state.N.state", "state it needs; default 0: any"),
    RULE_OPTION("set-state.N.new_state", "state to change to"),
    RULE_OPTION("suspend.N.event", "event to hold up"),
    RULE_OPTION("suspend.N.tag", "name to resume it by"),
    { .name = "inject-at", .type = BLOCK_OPTION_NUMBER,
      .help = "index, from 0, of the request that fails, of any kind" },
    { .name = "inject-errno", .type = BLOCK_OPTION_NUMBER,
      .default_value = "5", .help = "error number of inject-at" },
    { .name = "inject-sticky", .type = BLOCK_OPTION_BOOL,
      .default_value = "off", .help = "all requests after it fail, too" },
    LIMIT_OPTION("align", "request alignment to force"),
    LIMIT_OPTION("max-transfer", "longest request to force"),
    LIMIT_OPTION("opt-write-zero", "alignment of zero-writes to force"),
    LIMIT_OPTION("max-write-zero", "longest zero-write to force"),
    LIMIT_OPTION("opt-discard", "alignment of discards to force"),
    LIMIT_OPTION("max-discard", "longest discard to force"),
    { .name = NULL },
};

/* ---- open and close ----------------------------------------------------- */

/* A size to force on requests: 0 or a multiple of @unit. */
static bool take_limit(BlockOptions *options, const char *key, int64_t unit,
                       int64_t *ret, GError **error)
{
    if (!block_options_take_size(options, key, ret, error)) {
        return false;
    }
    if (*ret < 0 || *ret > BDRV_REQUEST_MAX_BYTES || *ret % unit != 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s must be a multiple of %" PRId64 " up to 2 GiB", key,
                    unit);
        return false;
    }
    return true;
}

/*
 * Each limit has to fit the ones before it, or limits.c would refuse the node
 * with an error that does not name our options.
 */
static bool take_limits(BlkdebugState *s, BlockOptions *options,
                        GError **error)
{
    BlockLimits *forced = &s->forced;
    int64_t align = 0;
    int64_t unit;

    if (!block_options_take_size(options, "align", &align, error)) {
        return false;
    }
    if (align < 0 || align > 64 * MIB || (align & (align - 1)) != 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "align must be a power of two up to 64 MiB");
        return false;
    }
    forced->request_alignment = align;
    unit = MAX(align, 1);
    return take_limit(options, "max-transfer", unit, &forced->max_transfer,
                      error) &&
           take_limit(options, "opt-write-zero", unit,
                      &forced->pwrite_zeroes_alignment, error) &&
           take_limit(options, "max-write-zero",
                      MAX(unit, forced->pwrite_zeroes_alignment),
                      &forced->max_pwrite_zeroes, error) &&
           take_limit(options, "opt-discard", unit,
                      &forced->pdiscard_alignment, error) &&
           take_limit(options, "max-discard",
                      MAX(unit, forced->pdiscard_alignment),
                      &forced->max_pdiscard, error);
}

/* inject-at=0 is the first request, so "none" needs a flag of its own. */
static bool take_counter(BlkdebugState *s, BlockOptions *options,
                         GError **error)
{
    s->has_inject_at = block_options_has(options, "inject-at");
    s->inject_errno = EIO;
    return block_options_take_number(options, "inject-at", &s->inject_at,
                                     error) &&
           block_options_take_number(options, "inject-errno",
                                     &s->inject_errno, error) &&
           blkdebug_check_errno(s->inject_errno, error) &&
           block_options_take_bool(options, "inject-sticky",
                                   &s->is_inject_sticky, error);
}

static bool take_options(BlkdebugState *s, BlockOptions *options,
                         GError **error)
{
    return blkdebug_take_rules(s->rules, options, error) &&
           take_counter(s, options, error) && take_limits(s, options, error);
}

/* Nobody is suspended: the node was drained before it is closed. */
static void free_state(BlkdebugState *s)
{
    g_assert(s->sleepers == NULL);
    g_ptr_array_free(s->rules, /* free_segment= */ TRUE);
    g_mutex_clear(&s->lock);
}

/* Arms what the event's inject-error rules say; under s->lock. */
static void arm_rules(BlkdebugState *s, BlockDebugEvent event)
{
    bool armed_any = false;

    for (guint i = 0; i < s->rules->len; i++) {
        const BlkdebugRule *rule = s->rules->pdata[i];

        armed_any |= rule->kind == BLKDEBUG_INJECT_ERROR &&
                     rule->event == event &&
                     (rule->state == 0 || rule->state == s->state);
    }
    for (guint i = 0; armed_any && i < s->rules->len; i++) {
        BlkdebugRule *rule = s->rules->pdata[i];

        rule->armed = rule->kind == BLKDEBUG_INJECT_ERROR &&
                      rule->event == event &&
                      (rule->state == 0 || rule->state == s->state);
    }
}

/*
 * Passing on is all that happens to data, so the child's flags are ours;
 * WRITE_UNCHANGED needs no help from it. On an error nothing is left but the
 * child, which the caller detaches.
 */
static bool blkdebug_open(BlockDriverState *bs, BlockOptions *options,
                          BdrvOpenFlags flags, GError **error)
{
    BlkdebugState *s = bs->opaque;

    g_mutex_init(&s->lock);
    s->rules = blkdebug_rules_new();
    s->state = 1;
    if (!take_options(s, options, error) ||
        !bdrv_open_file_child(bs, options, error)) {
        free_state(s);
        return false;
    }
    bs->length = bdrv_node_length(bs->file->bs);
    bs->supported_read_flags = bs->file->bs->supported_read_flags;
    bs->supported_write_flags =
        bs->file->bs->supported_write_flags | BDRV_REQ_WRITE_UNCHANGED;
    bs->supported_zero_flags =
        bs->file->bs->supported_zero_flags | BDRV_REQ_WRITE_UNCHANGED;
    arm_rules(s, BLOCK_DEBUG_NONE);
    __atomic_fetch_add(&bdrv_debug_nodes, 1, __ATOMIC_RELAXED);
    return true;
}

static void blkdebug_close(BlockDriverState *bs)
{
    __atomic_fetch_sub(&bdrv_debug_nodes, 1, __ATOMIC_RELAXED);
    free_state(bs->opaque);
}

/* Replaces rather than tightens: tests want limits that no child has. */
static void force(int64_t *limit, int64_t forced)
{
    *limit = forced != 0 ? forced : *limit;
}

static void blkdebug_refresh_limits(BlockDriverState *bs)
{
    const BlkdebugState *s = bs->opaque;
    const BlockLimits *forced = &s->forced;

    force(&bs->limits.request_alignment, forced->request_alignment);
    force(&bs->limits.max_transfer, forced->max_transfer);
    force(&bs->limits.pwrite_zeroes_alignment,
          forced->pwrite_zeroes_alignment);
    force(&bs->limits.max_pwrite_zeroes, forced->max_pwrite_zeroes);
    force(&bs->limits.pdiscard_alignment, forced->pdiscard_alignment);
    force(&bs->limits.max_pdiscard, forced->max_pdiscard);
}

/* ---- events ------------------------------------------------------------- */

/* The first suspend rule of @event, taken out; NULL when there is none. */
static char *take_breakpoint(BlkdebugState *s, BlockDebugEvent event)
{
    for (guint i = 0; i < s->rules->len; i++) {
        BlkdebugRule *rule = s->rules->pdata[i];

        if (rule->kind == BLKDEBUG_SUSPEND && rule->event == event &&
            (rule->state == 0 || rule->state == s->state)) {
            char *tag = g_steal_pointer(&rule->tag);

            g_ptr_array_remove_index(s->rules, i);
            return tag;
        }
    }
    return NULL;
}

/*
 * All rules of the event see the state that it found, so that one event does
 * not run through several states. Under s->lock.
 */
static void change_state(BlkdebugState *s, BlockDebugEvent event)
{
    uint64_t old_state = s->state;

    for (guint i = 0; i < s->rules->len; i++) {
        const BlkdebugRule *rule = s->rules->pdata[i];

        if (rule->kind == BLKDEBUG_SET_STATE && rule->event == event &&
            (rule->state == 0 || rule->state == old_state)) {
            s->state = rule->new_state;
        }
    }
}

/*
 * Order: errors are armed before the coroutine sleeps, for a test that looks
 * at another request meanwhile. The sleeper is in the list before the lock is
 * let go, so no resume is lost: co_wake() before co_yield() is remembered.
 */
static void coroutine_fn blkdebug_co_debug_event(BlockDriverState *bs,
                                                 BlockDebugEvent event)
{
    BlkdebugState *s = bs->opaque;
    Sleeper sleeper = { .co = co_self() };

    g_mutex_lock(&s->lock);
    arm_rules(s, event);
    sleeper.tag = s->drains > 0 ? NULL : take_breakpoint(s, event);
    if (sleeper.tag != NULL) {
        sleeper.next = s->sleepers;
        s->sleepers = &sleeper;
    }
    change_state(s, event);
    g_mutex_unlock(&s->lock);

    if (sleeper.tag != NULL) {
        /* Who takes us out of the list wakes us, once. */
        co_yield();
        g_free(sleeper.tag);
    }
}

/* Wakes who sleeps under @tag (NULL: everybody); was there anybody? */
static bool wake_sleepers(BlkdebugState *s, const char *tag)
{
    Sleeper **link = &s->sleepers;
    bool found = false;

    g_mutex_lock(&s->lock);
    while (*link != NULL) {
        Sleeper *sleeper = *link;

        if (tag != NULL && strcmp(sleeper->tag, tag) != 0) {
            link = &sleeper->next;
            continue;
        }
        *link = sleeper->next;
        found = true;
        co_wake(sleeper->co); /* *sleeper may be gone after this */
    }
    g_mutex_unlock(&s->lock);
    return found;
}

/* add_rule leaves a half-filled rule behind when it fails: it is the last. */
static bool blkdebug_set_breakpoint(BlockDriverState *bs, const char *event,
                                    const char *tag, GError **error)
{
    BlkdebugState *s = bs->opaque;
    g_autoptr(BlockOptions) options = block_options_new();
    bool ok;

    block_options_set_string(options, "event", event);
    block_options_set_string(options, "tag", tag);
    g_mutex_lock(&s->lock);
    ok = blkdebug_add_rule(s->rules, BLKDEBUG_SUSPEND, options, error);
    if (!ok) {
        g_ptr_array_remove_index(s->rules, s->rules->len - 1);
    }
    g_mutex_unlock(&s->lock);
    return ok;
}

static bool no_such_tag(const char *tag, GError **error)
{
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_NOT_FOUND,
                "nothing is suspended as '%s'", tag);
    return false;
}

/*
 * Rules first, sleepers then: in between, somebody may go to sleep only by a
 * rule that is gone already.
 */
static bool blkdebug_remove_breakpoint(BlockDriverState *bs, const char *tag,
                                       GError **error)
{
    BlkdebugState *s = bs->opaque;
    bool found = false;

    g_mutex_lock(&s->lock);
    for (guint i = s->rules->len; i-- > 0;) {
        const BlkdebugRule *rule = s->rules->pdata[i];

        if (rule->kind == BLKDEBUG_SUSPEND && strcmp(rule->tag, tag) == 0) {
            g_ptr_array_remove_index(s->rules, i);
            found = true;
        }
    }
    g_mutex_unlock(&s->lock);
    found |= wake_sleepers(s, tag);
    return found || no_such_tag(tag, error);
}

static bool blkdebug_resume(BlockDriverState *bs, const char *tag,
                            GError **error)
{
    return wake_sleepers(bs->opaque, tag) || no_such_tag(tag, error);
}

static bool blkdebug_is_suspended(BlockDriverState *bs, const char *tag)
{
    BlkdebugState *s = bs->opaque;
    bool found = false;

    g_mutex_lock(&s->lock);
    for (const Sleeper *at = s->sleepers; at != NULL; at = at->next) {
        found |= strcmp(at->tag, tag) == 0;
    }
    g_mutex_unlock(&s->lock);
    return found;
}

static void blkdebug_drain_begin(BlockDriverState *bs)
{
    BlkdebugState *s = bs->opaque;

    /* First: who is resumed must not meet the next breakpoint. */
    g_mutex_lock(&s->lock);
    s->drains++;
    g_mutex_unlock(&s->lock);
    (void) wake_sleepers(s, /* tag= */ NULL);
}

static void blkdebug_drain_end(BlockDriverState *bs)
{
    BlkdebugState *s = bs->opaque;

    g_mutex_lock(&s->lock);
    s->drains--;
    g_mutex_unlock(&s->lock);
}

static void blkdebug_cancel_in_flight(BlockDriverState *bs)
{
    (void) wake_sleepers(bs->opaque, /* tag= */ NULL);
}

static const BlockDebugOps blkdebug_debug = {
    .co_debug_event = blkdebug_co_debug_event,
    .set_breakpoint = blkdebug_set_breakpoint,
    .remove_breakpoint = blkdebug_remove_breakpoint,
    .resume = blkdebug_resume,
    .is_suspended = blkdebug_is_suspended,
};

/* ---- requests ----------------------------------------------------------- */

/* Does the request with the next index have to fail? */
static bool count_request(BlkdebugState *s)
{
    uint64_t index = __atomic_fetch_add(&s->requests, 1, __ATOMIC_RELAXED);

    return s->has_inject_at &&
           (index == s->inject_at ||
            (s->is_inject_sticky && index > s->inject_at));
}

/*
 * A sector names its first byte only; a request matches when it touches it.
 * Flushes have no range, so a rule with a sector never hits one.
 */
static bool rule_matches(const BlkdebugRule *rule, BlkdebugIo type,
                         int64_t offset, int64_t bytes)
{
    return rule->armed && (rule->io_types & (1u << type)) &&
           (rule->offset < 0 ||
            (rule->offset >= offset && rule->offset - offset < bytes));
}

/* What a rule has in store for the request: -errno or 0. */
static int find_error(BlkdebugState *s, BlkdebugIo type, int64_t offset,
                      int64_t bytes, bool *ret_immediately)
{
    int ret = 0;

    g_mutex_lock(&s->lock);
    for (guint i = 0; ret == 0 && i < s->rules->len; i++) {
        const BlkdebugRule *rule = s->rules->pdata[i];

        if (rule_matches(rule, type, offset, bytes)) {
            ret = -rule->errnum;
            *ret_immediately = rule->immediately;
            if (rule->once) {
                g_ptr_array_remove_index(s->rules, i);
            }
        }
    }
    g_mutex_unlock(&s->lock);
    return ret;
}

/* How the request is to fail, or 0: to be passed on. */
static int coroutine_fn begin(BlockDriverState *bs, BlkdebugIo type,
                              int64_t offset, int64_t bytes)
{
    BlkdebugState *s = bs->opaque;
    bool immediately = false;
    int ret = find_error(s, type, offset, bytes, &immediately);

    if (type != BLKDEBUG_BLOCK_STATUS && count_request(s) && ret == 0) {
        ret = -(int)s->inject_errno;
    }
    if (ret < 0 && !immediately) {
        co_wake(co_self()); /* a failure comes later in life, too */
        co_yield();
    }
    return ret;
}

/* A request that is to fail never reaches the child: nothing has changed. */
static int coroutine_fn blkdebug_co_preadv(BlockDriverState *bs,
                                           int64_t offset, int64_t bytes,
                                           IoVec *iov, size_t iov_offset,
                                           BdrvRequestFlags flags)
{
    int ret = begin(bs, BLKDEBUG_READ, offset, bytes);

    return ret < 0 ? ret : bdrv_co_preadv(bs->file, offset, bytes, iov,
                                          iov_offset, flags);
}

static int coroutine_fn blkdebug_co_pwritev(BlockDriverState *bs,
                                            int64_t offset, int64_t bytes,
                                            IoVec *iov, size_t iov_offset,
                                            BdrvRequestFlags flags)
{
    int ret = begin(bs, BLKDEBUG_WRITE, offset, bytes);

    return ret < 0 ? ret : bdrv_co_pwritev(bs->file, offset, bytes, iov,
                                           iov_offset, flags);
}

/* One more write as far as rules go; the child learns that it is packed. */
static int coroutine_fn blkdebug_co_pwritev_compressed(BlockDriverState *bs,
                                                       int64_t offset,
                                                       int64_t bytes,
                                                       IoVec *iov,
                                                       size_t iov_offset)
{
    return blkdebug_co_pwritev(bs, offset, bytes, iov, iov_offset,
                               BDRV_REQ_WRITE_COMPRESSED);
}

/* A forced alignment is a driver's that can do no parts. */
static bool is_fragment(int64_t offset, int64_t bytes, int64_t alignment)
{
    return alignment > 1 &&
           (offset % alignment != 0 || bytes % alignment != 0);
}

static int coroutine_fn blkdebug_co_pwrite_zeroes(BlockDriverState *bs,
                                                  int64_t offset,
                                                  int64_t bytes,
                                                  BdrvRequestFlags flags)
{
    const BlkdebugState *s = bs->opaque;
    int ret;

    if (is_fragment(offset, bytes, s->forced.pwrite_zeroes_alignment)) {
        return -ENOTSUP;
    }
    ret = begin(bs, BLKDEBUG_WRITE_ZEROES, offset, bytes);
    return ret < 0 ? ret : bdrv_co_pwrite_zeroes(bs->file, offset, bytes,
                                                 flags);
}

static int coroutine_fn blkdebug_co_pdiscard(BlockDriverState *bs,
                                             int64_t offset, int64_t bytes)
{
    const BlkdebugState *s = bs->opaque;
    int ret;

    if (is_fragment(offset, bytes, s->forced.pdiscard_alignment)) {
        return -ENOTSUP;
    }
    ret = begin(bs, BLKDEBUG_DISCARD, offset, bytes);
    return ret < 0 ? ret : bdrv_co_pdiscard(bs->file, offset, bytes);
}

/* Not counted by inject-at: how often it is asked depends on caches. */
static int coroutine_fn blkdebug_co_block_status(BlockDriverState *bs,
                                                 bool want_zero,
                                                 int64_t offset,
                                                 int64_t bytes,
                                                 BlockStatus *ret_status)
{
    int ret = begin(bs, BLKDEBUG_BLOCK_STATUS, offset, bytes);

    *ret_status = (BlockStatus){
        .flags = BDRV_BLOCK_RAW | BDRV_BLOCK_OFFSET_VALID,
        .bytes = bytes,
        .host_offset = offset,
        .file = bs->file->bs,
    };
    return ret;
}

/* Before the child is flushed: an error keeps it from being so. */
static int coroutine_fn blkdebug_co_flush_to_os(BlockDriverState *bs)
{
    return begin(bs, BLKDEBUG_FLUSH, 0, 0);
}

/*
 * For tests: "requests" tells how far an inject-at walk has to go, "state"
 * which set-state rules have run.
 */
static JsonNode *blkdebug_get_specific_info(BlockDriverState *bs)
{
    BlkdebugState *s = bs->opaque;
    JsonNode *node = json_node_new(JSON_NODE_OBJECT);
    JsonObject *object = json_object_new();

    json_object_set_int_member(object, "requests",
                               __atomic_load_n(&s->requests,
                                               __ATOMIC_RELAXED));
    g_mutex_lock(&s->lock);
    json_object_set_int_member(object, "state", s->state);
    g_mutex_unlock(&s->lock);
    json_node_take_object(node, object);
    return node;
}

const BlockDriver bdrv_blkdebug = {
    .format_name = "blkdebug",
    .instance_size = sizeof(BlkdebugState),
    .is_filter = true,
    .options = blkdebug_options,
    .open = blkdebug_open,
    .close = blkdebug_close,
    .refresh_limits = blkdebug_refresh_limits,
    .cancel_in_flight = blkdebug_cancel_in_flight,
    .drain_begin = blkdebug_drain_begin,
    .drain_end = blkdebug_drain_end,
    .debug = &blkdebug_debug,
    .co_preadv = blkdebug_co_preadv,
    .co_pwritev = blkdebug_co_pwritev,
    .co_pwrite_zeroes = blkdebug_co_pwrite_zeroes,
    .co_pdiscard = blkdebug_co_pdiscard,
    .co_pwritev_compressed = blkdebug_co_pwritev_compressed,
    .co_block_status = blkdebug_co_block_status,
    .co_flush_to_os = blkdebug_co_flush_to_os,
    .co_copy_range_from = bdrv_refuse_copy_range,
    .co_copy_range_to = bdrv_refuse_copy_range,
    .get_specific_info = blkdebug_get_specific_info,
};
