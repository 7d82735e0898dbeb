/* SPDX-License-Identifier: MIT */
/*
 * quorum: several copies of one image that vote
 *
 * Writes go to all children. A read asks all of them and gives what at least
 * `vote-threshold` agree on (read-pattern=quorum), or takes the first child
 * that succeeds (fifo). Who fails or disagrees is logged; with
 * rewrite-corrupted the winning data is written to it.
 *
 *   request ─┬─▶ children.0 ─┐
 *            ├─▶ children.1 ─┼─▶ vote ─▶ result
 *            └─▶ children.2 ─┘
 *
 * With blkverify=on there are two children, and any difference is an error.
 *
 * Always true outside a function of this file:
 *  Q1  there are at least vote-threshold children;
 *  Q2  a rewrite happens while no write overlaps it, with data that was read
 *      after that: so it cannot bring back old data;
 *  Q3  of two writes to the same bytes all children get the same one last.
 *
 * Locking: the list of children changes only while the node is drained.
 * Writers hold their range in s->ranges exclusively (Q3), and so does who
 * reads again after a lost vote, and may rewrite (Q2).
 */
#include "drivers/registry.h"

#include "block/graph/open.h"
#include "block/io/io.h"
#include "block/io/range_lock.h"
#include "block/io/status.h"
#include "block/rt/buffer_pool.h"
#include "drivers/filters/quorum_vote.h"

#include <errno.h>
#include <inttypes.h>

#define G_LOG_DOMAIN_QUORUM "imgfuse-quorum"

#define MAX_CHILDREN 32

typedef enum ReadPattern {
    READ_QUORUM,
    READ_FIFO,
} ReadPattern;

static const char *const read_pattern_values[] = { "quorum", "fifo", NULL };

typedef struct QuorumState {
    GPtrArray *children; /* of BdrvChild *; the edges are the node's */
    unsigned next_index; /* of a child to come */
    uint64_t threshold;
    bool is_blkverify;
    bool rewrite_corrupted;
    ReadPattern read_pattern;
    RangeLock ranges;
} QuorumState;

static const BlockOptionDesc quorum_options[] = {
    { .name = "children.N", .type = BLOCK_OPTION_CHILD,
      .help = "the copies, numbered from 0" },
    { .name = "vote-threshold", .type = BLOCK_OPTION_NUMBER,
      .help = "how many children have to agree" },
    { .name = "blkverify", .type = BLOCK_OPTION_BOOL, .default_value = "off",
      .help = "two children, and any difference is an error" },
    { .name = "rewrite-corrupted", .type = BLOCK_OPTION_BOOL,
      .default_value = "off",
      .help = "write what won the vote to children that disagree" },
    { .name = "read-pattern", .type = BLOCK_OPTION_ENUM,
      .values = read_pattern_values, .default_value = "quorum",
      .help = "ask all children and vote, or one after the other" },
    { .name = NULL },
};

static BdrvChild *child_at(const QuorumState *s, guint i)
{
    return s->children->pdata[i];
}

/* ---- open and close ----------------------------------------------------- */

/* Q1, and combinations that contradict each other. */
static bool check_options(const QuorumState *s, GError **error)
{
    const char *wrong = NULL;

    if (s->threshold == 0 || s->threshold > s->children->len) {
        wrong = "vote-threshold must be at least 1 and at most the number of "
                "children";
    } else if (s->is_blkverify &&
               (s->children->len != 2 || s->threshold != 2)) {
        wrong = "blkverify needs two children and vote-threshold 2";
    } else if (s->rewrite_corrupted &&
               (s->is_blkverify || s->read_pattern == READ_FIFO)) {
        wrong = "rewrite-corrupted needs a vote: neither blkverify nor "
                "read-pattern=fifo";
    }
    if (wrong != NULL) {
        g_set_error_literal(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION, wrong);
        return false;
    }
    return true;
}

static bool take_options(QuorumState *s, BlockOptions *options,
                         GError **error)
{
    int read_pattern = READ_QUORUM;

    if (!block_options_take_number(options, "vote-threshold", &s->threshold,
                                   error) ||
        !block_options_take_bool(options, "blkverify", &s->is_blkverify,
                                 error) ||
        !block_options_take_bool(options, "rewrite-corrupted",
                                 &s->rewrite_corrupted, error) ||
        !block_options_take_enum(options, "read-pattern",
                                 read_pattern_values, &read_pattern, error)) {
        return false;
    }
    s->read_pattern = read_pattern;
    return true;
}

/* children.0, children.1, ... up to the first that is missing. */
static bool open_children(BlockDriverState *bs, BlockOptions *options,
                          GError **error)
{
    QuorumState *s = bs->opaque;

    for (; s->next_index < MAX_CHILDREN; s->next_index++) {
        g_autofree char *name = g_strdup_printf("children.%u", s->next_index);
        BdrvChild *child;

        if (!bdrv_open_child(bs, options, name, BDRV_CHILD_DATA,
                             /* required= */ false, &child, error)) {
            return false;
        }
        if (child == NULL) {
            break; /* what has a higher number is left over: unknown */
        }
        g_ptr_array_add(s->children, child);
    }
    return true;
}

/* What all children can do. */
static void refresh_flags(BlockDriverState *bs)
{
    const QuorumState *s = bs->opaque;
    BdrvRequestFlags write = BDRV_REQ_FUA;
    BdrvRequestFlags zero = BDRV_REQ_FUA | BDRV_REQ_MAY_UNMAP |
                            BDRV_REQ_NO_FALLBACK;

    for (guint i = 0; i < s->children->len; i++) {
        write &= child_at(s, i)->bs->supported_write_flags;
        zero &= child_at(s, i)->bs->supported_zero_flags;
    }
    bs->supported_write_flags = write | BDRV_REQ_WRITE_UNCHANGED;
    bs->supported_zero_flags = zero | BDRV_REQ_WRITE_UNCHANGED;
}

/*
 * A copy of another length may still take part: it loses votes where it is
 * too short, and what it has beyond is never asked for.
 *
 * The length that enough children have; -EIO when there is none.
 */
static int64_t vote_length(const QuorumState *s)
{
    for (guint i = 0; i < s->children->len; i++) {
        int64_t length = bdrv_node_length(child_at(s, i)->bs);
        uint64_t votes = 0;

        for (guint j = 0; j < s->children->len; j++) {
            votes += bdrv_node_length(child_at(s, j)->bs) == length;
        }
        if (votes >= s->threshold) {
            return length;
        }
    }
    return -EIO;
}

static bool set_length(BlockDriverState *bs, GError **error)
{
    const QuorumState *s = bs->opaque;
    int64_t length = vote_length(s);

    if (length < 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "fewer than %" PRIu64 " children have the same length",
                    s->threshold);
        return false;
    }
    bs->length = length;
    return true;
}

static bool quorum_open(BlockDriverState *bs, BlockOptions *options,
                        BdrvOpenFlags flags, GError **error)
{
    QuorumState *s = bs->opaque;

    s->children = g_ptr_array_new();
    if (!take_options(s, options, error) ||
        !open_children(bs, options, error) || !check_options(s, error) ||
        !set_length(bs, error)) {
        g_ptr_array_unref(s->children);
        return false;
    }
    range_lock_init(&s->ranges);
    refresh_flags(bs);
    return true;
}

static void quorum_close(BlockDriverState *bs)
{
    QuorumState *s = bs->opaque;

    range_lock_destroy(&s->ranges);
    g_ptr_array_unref(s->children);
}

/* ---- asking all children at once ---------------------------------------- */

typedef enum CallKind {
    CALL_READ,
    CALL_WRITE,
    CALL_ZEROES,
    CALL_FLUSH,
    CALL_TRUNCATE,
} CallKind;

static const char *const call_names[] = {
    "read", "write", "zero write", "flush", "resize",
};

/* One request to all; lives on the caller's stack. */
typedef struct Call {
    BlockDriverState *bs;
    CallKind kind;
    int64_t offset; /* of truncate: the length */
    int64_t bytes;
    IoVec *iov;
    size_t iov_offset;
    BdrvRequestFlags flags;
    Coroutine *caller;
    unsigned running;
    bool is_waiting;
    uint8_t *buffers[MAX_CHILDREN]; /* CALL_READ */
    QuorumAnswer answers[MAX_CHILDREN];
} Call;

typedef struct Part {
    Call *call;
    guint index;
} Part;

static int coroutine_fn run_part(Call *call, guint index)
{
    BdrvChild *child = child_at(call->bs->opaque, index);

    switch (call->kind) {
    case CALL_READ:
        return bdrv_co_pread(child, call->offset, call->bytes,
                             call->buffers[index], call->flags);
    case CALL_WRITE:
        return bdrv_co_pwritev(child, call->offset, call->bytes, call->iov,
                               call->iov_offset, call->flags);
    case CALL_ZEROES:
        return bdrv_co_pwrite_zeroes(child, call->offset, call->bytes,
                                     call->flags);
    case CALL_FLUSH:
        return bdrv_co_flush(child->bs);
    case CALL_TRUNCATE:
        return bdrv_co_truncate(child, call->offset, /* exact= */ true,
                                PREALLOC_OFF, call->flags,
                                /* error= */ NULL);
    }
    g_assert_not_reached();
}

/*
 * The last part to end wakes the caller, unless it has not gone to sleep yet:
 * parts that end inline do so before is_waiting is set.
 */
static void coroutine_fn part_entry(void *opaque)
{
    Part *part = opaque;
    Call *call = part->call;

    call->answers[part->index].ret = run_part(call, part->index);
    call->running--;
    if (call->running == 0 && call->is_waiting) {
        co_wake(call->caller);
    }
}

/* Fills call->answers. All coroutines are of the caller's thread. */
static void coroutine_fn ask_all(Call *call)
{
    const QuorumState *s = call->bs->opaque;
    Part parts[MAX_CHILDREN];

    /* All at once: the slowest child decides, not the sum of them. */
    call->caller = co_self();
    call->running = s->children->len;
    call->is_waiting = false;
    for (guint i = 0; i < s->children->len; i++) {
        parts[i] = (Part){ .call = call, .index = i };
        call->answers[i].data = call->buffers[i];
        co_enter(co_create(part_entry, &parts[i]));
    }
    if (call->running > 0) {
        call->is_waiting = true;
        co_yield();
    }
}

/* ---- judging the answers ------------------------------------------------ */

/* A copy that goes bad must be told of before the next one does. */
static void log_losers(const Call *call, size_t winner)
{
    const QuorumState *s = call->bs->opaque;

    for (guint i = 0; i < s->children->len; i++) {
        const QuorumAnswer *answer = &call->answers[i];

        if (quorum_agree(answer, &call->answers[winner], call->bytes)) {
            continue;
        }
        g_log(G_LOG_DOMAIN_QUORUM, G_LOG_LEVEL_WARNING,
              "%s: %s of %" PRId64 " bytes at %" PRId64 ": %s %s",
              call->bs->node_name, call_names[call->kind], call->bytes,
              call->offset, child_at(s, i)->name,
              answer->ret < 0 ? g_strerror(-answer->ret)
                              : "disagrees with the others");
    }
}

/* The index of the winning answer, or -errno when too few agree. */
static int judge(const Call *call)
{
    const QuorumState *s = call->bs->opaque;
    unsigned votes;
    size_t winner = quorum_vote(call->answers, s->children->len, call->bytes,
                                &votes);

    if (votes < s->children->len) {
        log_losers(call, winner);
    }
    if (votes < s->threshold) {
        return call->answers[winner].ret < 0 ? call->answers[winner].ret
                                             : -EIO;
    }
    return call->answers[winner].ret < 0 ? call->answers[winner].ret
                                         : (int)winner;
}

/* One request without data coming back: 0 or -errno. */
static int coroutine_fn ask_and_judge(Call *call)
{
    int ret;

    ask_all(call);
    ret = judge(call);
    return MIN(ret, 0);
}

/* ---- reads -------------------------------------------------------------- */

/*
 * A buffer for each child: answers can only be compared when all are there.
 * The winner's goes to the guest.
 */
static bool get_buffers(Call *call)
{
    const QuorumState *s = call->bs->opaque;
    bool all = true;

    for (guint i = 0; i < s->children->len; i++) {
        call->buffers[i] = buffer_pool_get(call->bytes);
        all = all && call->buffers[i] != NULL;
    }
    return all;
}

static void put_buffers(Call *call)
{
    const QuorumState *s = call->bs->opaque;

    for (guint i = 0; i < s->children->len; i++) {
        buffer_pool_put(call->buffers[i], call->bytes);
    }
}

/* A read-only node changes nothing, not even for the better. */
static bool may_rewrite(const Call *call)
{
    const QuorumState *s = call->bs->opaque;

    return s->rewrite_corrupted && !call->bs->read_only;
}

/* Does a child disagree with @winner? */
static bool has_corrupted(const Call *call, int winner)
{
    const QuorumState *s = call->bs->opaque;

    for (guint i = 0; i < s->children->len; i++) {
        if (!quorum_agree(&call->answers[i], &call->answers[winner],
                          call->bytes)) {
            return true;
        }
    }
    return false;
}

/* Enough children could be read: the vote was lost by what they said. */
static bool has_answers(const Call *call)
{
    const QuorumState *s = call->bs->opaque;
    uint64_t count = 0;

    for (guint i = 0; i < s->children->len; i++) {
        count += call->answers[i].ret == 0;
    }
    return count >= s->threshold;
}

/*
 * Asks again without writers around: a write that had reached some children
 * and not others may be all there is to a lost vote. What is still corrupt
 * then is put right (Q2).
 */
static int coroutine_fn settle(Call *call)
{
    QuorumState *s = call->bs->opaque;
    int64_t inside = MIN(call->bytes,
                         bdrv_node_length(call->bs) - call->offset);
    RangeHold hold;
    int winner;

    range_lock_take(&s->ranges, &hold, call->offset, call->bytes,
                    /* exclusive= */ true);
    ask_all(call);
    winner = judge(call);
    for (guint i = 0;
         winner >= 0 && may_rewrite(call) && i < s->children->len; i++) {
        if (!quorum_agree(&call->answers[i], &call->answers[winner],
                          call->bytes)) {
            /* The read is good without it; the next one will tell. */
            (void) bdrv_co_pwrite(child_at(s, i), call->offset, inside,
                                  call->buffers[winner], /* flags= */ 0);
        }
    }
    range_lock_release(&s->ranges, &hold);
    return winner;
}

static int coroutine_fn read_by_vote(Call *call, IoVec *iov,
                                     size_t iov_offset)
{
    int winner = -ENOMEM;

    if (get_buffers(call)) {
        ask_all(call);
        winner = judge(call);
        if ((winner < 0 && has_answers(call)) ||
            (may_rewrite(call) && has_corrupted(call, winner))) {
            winner = settle(call);
        }
    }
    if (winner >= 0) {
        iovec_from_buffer(iov, iov_offset, call->buffers[winner],
                          call->bytes);
    }
    put_buffers(call);
    return MIN(winner, 0);
}

/* No vote: the next child is asked only when one fails. Cheap, and trusting. */
static int coroutine_fn read_fifo(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes, IoVec *iov,
                                  size_t iov_offset, BdrvRequestFlags flags)
{
    const QuorumState *s = bs->opaque;
    int ret = -EIO;

    for (guint i = 0; ret < 0 && i < s->children->len; i++) {
        ret = bdrv_co_preadv(child_at(s, i), offset, bytes, iov, iov_offset,
                             flags);
        if (ret < 0) {
            g_log(G_LOG_DOMAIN_QUORUM, G_LOG_LEVEL_WARNING,
                  "%s: read of %" PRId64 " bytes at %" PRId64 ": %s %s",
                  bs->node_name, bytes, offset, child_at(s, i)->name,
                  g_strerror(-ret));
        }
    }
    return ret;
}

static int coroutine_fn quorum_co_preadv(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes, IoVec *iov,
                                         size_t iov_offset,
                                         BdrvRequestFlags flags)
{
    const QuorumState *s = bs->opaque;
    Call call = { .bs = bs, .kind = CALL_READ, .offset = offset,
                  .bytes = bytes };

    if (s->read_pattern == READ_FIFO) {
        return read_fifo(bs, offset, bytes, iov, iov_offset, flags);
    }
    return read_by_vote(&call, iov, iov_offset);
}

/* ---- writes and the rest ------------------------------------------------ */

/*
 * A write by all, kept apart from rewrites (Q2) and from other writes to the
 * same bytes: these must come in one order to all children.
 */
static int coroutine_fn write_all(Call *call)
{
    QuorumState *s = call->bs->opaque;
    RangeHold hold;
    int ret;

    range_lock_take(&s->ranges, &hold, call->offset, call->bytes,
                    /* exclusive= */ true);
    ret = ask_and_judge(call);
    range_lock_release(&s->ranges, &hold);
    return ret;
}

static int coroutine_fn quorum_co_pwritev(BlockDriverState *bs,
                                          int64_t offset, int64_t bytes,
                                          IoVec *iov, size_t iov_offset,
                                          BdrvRequestFlags flags)
{
    Call call = { .bs = bs, .kind = CALL_WRITE, .offset = offset,
                  .bytes = bytes, .iov = iov, .iov_offset = iov_offset,
                  .flags = flags };

    return write_all(&call);
}

/* A discard may leave different things behind, so there is none. */
static int coroutine_fn quorum_co_pwrite_zeroes(BlockDriverState *bs,
                                                int64_t offset,
                                                int64_t bytes,
                                                BdrvRequestFlags flags)
{
    Call call = { .bs = bs, .kind = CALL_ZEROES, .offset = offset,
                  .bytes = bytes, .flags = flags };

    return write_all(&call);
}

static int coroutine_fn quorum_co_flush_to_disk(BlockDriverState *bs)
{
    Call call = { .bs = bs, .kind = CALL_FLUSH };

    return ask_and_judge(&call);
}

static int coroutine_fn quorum_co_truncate(BlockDriverState *bs,
                                           int64_t length, bool exact,
                                           BdrvPreallocMode prealloc,
                                           BdrvRequestFlags flags,
                                           GError **error)
{
    Call call = { .bs = bs, .kind = CALL_TRUNCATE, .offset = length,
                  .flags = flags };

    if (prealloc != PREALLOC_OFF) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "a quorum cannot preallocate");
        return -ENOTSUP;
    }
    return ask_and_judge(&call);
}

/* Zeros when all children say so, for as long as they do. */
static int coroutine_fn quorum_co_block_status(BlockDriverState *bs,
                                               bool want_zero, int64_t offset,
                                               int64_t bytes,
                                               BlockStatus *ret_status)
{
    const QuorumState *s = bs->opaque;
    bool all_zero = want_zero;

    for (guint i = 0; all_zero && i < s->children->len; i++) {
        BlockStatus status;
        int ret = bdrv_co_block_status_above(child_at(s, i)->bs,
                                             /* base= */ NULL, want_zero,
                                             offset, bytes, &status,
                                             /* ret_depth= */ NULL);

        /* A child that fails here is outvoted by reading. */
        all_zero = ret == 0 && (status.flags & BDRV_BLOCK_ZERO);
        bytes = ret == 0 ? MIN(bytes, status.bytes) : bytes;
    }
    *ret_status = (BlockStatus){
        .flags = BDRV_BLOCK_ALLOCATED |
                 (all_zero ? BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA),
        .bytes = bytes,
    };
    return 0;
}

/* ---- children that come and go ------------------------------------------ */

/*
 * The newcomer's content is the caller's business: a copy that differs is
 * outvoted, and put right by rewrite-corrupted as it is read.
 */
static bool quorum_add_child(BlockDriverState *bs, BlockDriverState *child_bs,
                             GError **error)
{
    QuorumState *s = bs->opaque;
    g_autofree char *name = g_strdup_printf("children.%u", s->next_index);
    BdrvChild *child;

    if (s->is_blkverify || s->children->len == MAX_CHILDREN ||
        bdrv_node_length(child_bs) != bdrv_node_length(bs)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    s->is_blkverify ? "blkverify has two children, not more"
                    : s->children->len == MAX_CHILDREN ? "too many children"
                    : "the new child's length is another one");
        bdrv_unref(child_bs);
        return false;
    }
    child = bdrv_attach_child(bs, child_bs, name, BDRV_CHILD_DATA, error);
    if (child == NULL) {
        return false;
    }
    s->next_index++;
    g_ptr_array_add(s->children, child);
    refresh_flags(bs);
    return true;
}

static bool quorum_del_child(BlockDriverState *bs, BdrvChild *child,
                             GError **error)
{
    QuorumState *s = bs->opaque;

    if (s->is_blkverify || s->children->len <= s->threshold) { /* Q1 */
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "no fewer than %u children can reach vote-threshold",
                    s->children->len);
        return false;
    }
    if (!g_ptr_array_remove(s->children, child)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_NOT_FOUND,
                    "'%s' is no child of node '%s'", child->name,
                    bs->node_name);
        return false;
    }
    bdrv_detach_child(child);
    refresh_flags(bs);
    return true;
}

static bool quorum_reopen_prepare(BlockReopenState *state, GError **error)
{
    return true; /* nothing here depends on it */
}

static const BlockReopenOps quorum_reopen = {
    .prepare = quorum_reopen_prepare,
};

static const BlockChildOps quorum_children = {
    .add_child = quorum_add_child,
    .del_child = quorum_del_child,
};

/* Is @node reached through @bs only? A user of its own would see the change. */
static bool is_ours_alone(const BlockDriverState *bs,
                          const BlockDriverState *node)
{
    while (node != bs) {
        const BdrvChild *edge = node->parents->len == 1
                                    ? node->parents->pdata[0] : NULL;

        if (edge == NULL || !edge->klass->parent_is_bs) {
            return false;
        }
        node = edge->parent;
    }
    return true;
}

/* A child with what the others agree on already changes no vote. */
static bool quorum_recurse_can_replace(BlockDriverState *bs,
                                       BlockDriverState *to_replace)
{
    QuorumState *s = bs->opaque;

    for (guint i = 0; i < s->children->len; i++) {
        const BdrvChild *child = s->children->pdata[i];

        if (bdrv_recurse_can_replace(child->bs, to_replace)) {
            return is_ours_alone(bs, to_replace);
        }
    }
    return false;
}

const BlockDriver bdrv_quorum = {
    .format_name = "quorum",
    .instance_size = sizeof(QuorumState),
    .flushes_children = true,
    .options = quorum_options,
    .open = quorum_open,
    .close = quorum_close,
    .reopen = &quorum_reopen,
    .recurse_can_replace = quorum_recurse_can_replace,
    .children = &quorum_children,
    .co_preadv = quorum_co_preadv,
    .co_pwritev = quorum_co_pwritev,
    .co_pwrite_zeroes = quorum_co_pwrite_zeroes,
    .co_block_status = quorum_co_block_status,
    .co_flush_to_disk = quorum_co_flush_to_disk,
    .co_truncate = quorum_co_truncate,
};
