/* SPDX-License-Identifier: MIT */
/*
 * throttle: lets requests through no faster than its group allows
 *
 * Nodes with the same `throttle-group` share one set of limits and take turns
 * (block/io/throttle_group.h). A node that names no group has one of its own.
 * Limits given to any member are the whole group's from then on; they may be
 * changed by reopening.
 *
 * Locking: the group's. The node's state is constant after open.
 */
#include "drivers/registry.h"

#include "block/graph/open.h"
#include "block/io/io.h"
#include "block/io/throttle_group.h"

typedef struct ThrottleState {
    ThrottleGroup *group;
    ThrottleMember *member;
} ThrottleState;

#define LIMIT_OPTIONS(prefix, what)                                         \
    { .name = prefix, .type = BLOCK_OPTION_SIZE, .is_mutable = true,        \
      .help = what " per second, on average" },                             \
    { .name = prefix "-max", .type = BLOCK_OPTION_SIZE, .is_mutable = true, \
      .help = what " per second in bursts" },                               \
    { .name = prefix "-max-length", .type = BLOCK_OPTION_NUMBER,            \
      .is_mutable = true, .default_value = "1",                             \
      .help = "seconds that a burst of " what " may last" }

static const BlockOptionDesc throttle_options[] = {
    { .name = "throttle-group", .type = BLOCK_OPTION_STRING,
      .help = "name of the group whose limits this node shares; "
              "default: a group of its own" },
    LIMIT_OPTIONS("bps-total", "bytes"),
    LIMIT_OPTIONS("bps-read", "bytes read"),
    LIMIT_OPTIONS("bps-write", "bytes written"),
    LIMIT_OPTIONS("iops-total", "operations"),
    LIMIT_OPTIONS("iops-read", "read operations"),
    LIMIT_OPTIONS("iops-write", "write operations"),
    { .name = "iops-size", .type = BLOCK_OPTION_SIZE, .is_mutable = true,
      .help = "bytes that count as one operation; default: any size" },
    { .name = NULL },
};

static const char *const limit_names[THROTTLE_BUCKETS] = {
    "bps-total", "bps-read", "bps-write", "iops-total", "iops-read",
    "iops-write",
};

/* Takes option @prefix@suffix into *ret; notes in *found that it was there. */
static bool take_limit(BlockOptions *options, const char *prefix,
                       const char *suffix, uint64_t *ret, bool *found,
                       GError **error)
{
    g_autofree char *key = g_strconcat(prefix, suffix, NULL);
    int64_t value = *ret;

    if (!block_options_has(options, key)) {
        return true;
    }
    *found = true;
    if (!block_options_take_size(options, key, &value, error)) {
        return false;
    }
    *ret = value;
    return true;
}

/*
 * Options name limits as "iops-total", "bps-read-max" and so on. What is not
 * given stays as the group has it: several nodes may share one group, and each
 * that joins may add to its limits but does not reset them.
 *
 * Changes @config by what @options say; *ret_found: they say anything.
 */
static bool take_config(BlockOptions *options, ThrottleConfig *config,
                        bool *ret_found, GError **error)
{
    bool found = false;

    for (int i = 0; i < THROTTLE_BUCKETS; i++) {
        ThrottleLimit *limit = &config->limit[i];
        const char *name = limit_names[i];

        if (!take_limit(options, name, "", &limit->average, &found, error) ||
            !take_limit(options, name, "-max", &limit->max, &found, error) ||
            !take_limit(options, name, "-max-length", &limit->burst_length,
                        &found, error)) {
            return false;
        }
    }
    if (!take_limit(options, "iops-size", "", &config->op_size, &found,
                    error)) {
        return false;
    }
    *ret_found = found;
    return throttle_config_check(config, error);
}

/* Without a name the group is the node's own, named after it. */
static bool join_group(BlockDriverState *bs, BlockOptions *options,
                       GError **error)
{
    ThrottleState *s = bs->opaque;
    g_autofree char *name = NULL;
    ThrottleConfig config;
    bool found;

    if (!block_options_take_string(options, "throttle-group", &name, error)) {
        return false;
    }
    s->group = throttle_group_get(name != NULL ? name : bs->node_name);
    throttle_group_get_config(s->group, &config);
    if (!take_config(options, &config, &found, error) ||
        (found && !throttle_group_set_config(s->group, &config, error))) {
        g_clear_pointer(&s->group, throttle_group_unref);
        return false;
    }
    s->member = throttle_group_join(s->group);
    return true;
}

static bool throttle_open(BlockDriverState *bs, BlockOptions *options,
                          BdrvOpenFlags flags, GError **error)
{
    if (!bdrv_open_file_child(bs, options, error)) {
        return false;
    }
    bs->length = bdrv_node_length(bs->file->bs);
    bs->supported_read_flags = bs->file->bs->supported_read_flags;
    bs->supported_write_flags =
        bs->file->bs->supported_write_flags | BDRV_REQ_WRITE_UNCHANGED;
    bs->supported_zero_flags =
        bs->file->bs->supported_zero_flags | BDRV_REQ_WRITE_UNCHANGED;
    return join_group(bs, options, error);
}

static void throttle_close(BlockDriverState *bs)
{
    ThrottleState *s = bs->opaque;

    throttle_group_leave(s->member);
    throttle_group_unref(s->group);
}

/*
 * Each request waits its turn, then goes on as if we were not there. What a
 * write costs is its length before any layer below pads, splits or compresses
 * it: the limit is what the guest was promised. Flushes are free: holding one
 * up would hold up what the guest needs to be safe.
 */
static int coroutine_fn throttle_co_preadv(BlockDriverState *bs,
                                           int64_t offset, int64_t bytes,
                                           IoVec *iov, size_t iov_offset,
                                           BdrvRequestFlags flags)
{
    ThrottleState *s = bs->opaque;

    throttle_member_wait(s->member, /* is_write= */ false, bytes);
    return bdrv_co_preadv(bs->file, offset, bytes, iov, iov_offset, flags);
}

static int coroutine_fn throttle_co_pwritev(BlockDriverState *bs,
                                            int64_t offset, int64_t bytes,
                                            IoVec *iov, size_t iov_offset,
                                            BdrvRequestFlags flags)
{
    ThrottleState *s = bs->opaque;

    throttle_member_wait(s->member, /* is_write= */ true, bytes);
    return bdrv_co_pwritev(bs->file, offset, bytes, iov, iov_offset, flags);
}

/* A limit is for what the guest asks, not for what compressing leaves of it. */
static int coroutine_fn throttle_co_pwritev_compressed(BlockDriverState *bs,
                                                       int64_t offset,
                                                       int64_t bytes,
                                                       IoVec *iov,
                                                       size_t iov_offset)
{
    return throttle_co_pwritev(bs, offset, bytes, iov, iov_offset,
                               BDRV_REQ_WRITE_COMPRESSED);
}

static int coroutine_fn throttle_co_pwrite_zeroes(BlockDriverState *bs,
                                                  int64_t offset,
                                                  int64_t bytes,
                                                  BdrvRequestFlags flags)
{
    ThrottleState *s = bs->opaque;

    throttle_member_wait(s->member, /* is_write= */ true, bytes);
    return bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);
}

/* Zero-writes and discards count with all their bytes, cheap or not. */
static int coroutine_fn throttle_co_pdiscard(BlockDriverState *bs,
                                             int64_t offset, int64_t bytes)
{
    ThrottleState *s = bs->opaque;

    throttle_member_wait(s->member, /* is_write= */ true, bytes);
    return bdrv_co_pdiscard(bs->file, offset, bytes);
}

/*
 * A drain must not last as long as the queue: our waiting requests go through
 * at once, limits or not. Those of other nodes of the group go on waiting.
 */
static void throttle_drain_begin(BlockDriverState *bs)
{
    ThrottleState *s = bs->opaque;

    throttle_member_drain_begin(s->member);
}

static void throttle_drain_end(BlockDriverState *bs)
{
    ThrottleState *s = bs->opaque;

    throttle_member_drain_end(s->member);
}

/*
 * The limits change for the whole group, at commit: an aborted transaction
 * has left it alone.
 *
 * Reopening: the new limits, or what is wrong with them.
 */
static bool throttle_reopen_prepare(BlockReopenState *state, GError **error)
{
    ThrottleState *s = state->bs->opaque;
    g_autofree ThrottleConfig *config = g_new(ThrottleConfig, 1);
    bool found;

    throttle_group_get_config(s->group, config);
    if (!take_config(state->options, config, &found, error)) {
        return false;
    }
    state->opaque = g_steal_pointer(&config);
    return true;
}

static void throttle_reopen_commit(BlockReopenState *state)
{
    ThrottleState *s = state->bs->opaque;
    g_autofree ThrottleConfig *config = g_steal_pointer(&state->opaque);

    /* Checked in prepare: cannot fail. */
    (void) throttle_group_set_config(s->group, config, NULL);
}

static void throttle_reopen_abort(BlockReopenState *state)
{
    g_clear_pointer(&state->opaque, g_free);
}

static const BlockReopenOps throttle_reopen = {
    .prepare = throttle_reopen_prepare,
    .commit = throttle_reopen_commit,
    .abort = throttle_reopen_abort,
};

const BlockDriver bdrv_throttle = {
    .format_name = "throttle",
    .instance_size = sizeof(ThrottleState),
    .is_filter = true,
    .options = throttle_options,
    .open = throttle_open,
    .close = throttle_close,
    .drain_begin = throttle_drain_begin,
    .drain_end = throttle_drain_end,
    .reopen = &throttle_reopen,
    .co_preadv = throttle_co_preadv,
    .co_pwritev = throttle_co_pwritev,
    .co_pwritev_compressed = throttle_co_pwritev_compressed,
    .co_pwrite_zeroes = throttle_co_pwrite_zeroes,
    .co_pdiscard = throttle_co_pdiscard,
    .co_copy_range_from = bdrv_refuse_copy_range,
    .co_copy_range_to = bdrv_refuse_copy_range,
};
