/* SPDX-License-Identifier: MIT */
/*
 * the test's node in memory: see memory_driver.h
 *
 * Always true for a call that the driver accepts (else it aborts): aligned to
 * request_alignment, within the limits, no flag that is not supported, within
 * the node's length rounded up or, for a write, the room there is.
 *
 * Locking: counters are atomic, everything else is one thread's or the
 * test's business.
 */
#include "tests/unit/memory_driver.h"

#include "block/driver.h"
#include "block/graph/perm.h"
#include "block/io/limits.h"

#include <errno.h>

/* How far writes may extend a node. */
#define ROOM (2 * MIB)

static unsigned calls_so_far; /* of all nodes */

typedef struct MemoryState {
    MemoryConfig config;
    uint8_t *data;
    int64_t data_bytes;
    uint8_t *allocated; /* by cluster */
    unsigned counts[MEMORY_OPS]; /* atomic */
    MemoryCall last[MEMORY_OPS]; /* without config.yields only */
    int fail[MEMORY_OPS];
    bool hold[MEMORY_OPS];
    Coroutine *held;
    BdrvChild *metadata; /* our edge to config.metadata's node, or NULL */
} MemoryState;

static MemoryState *state_of(BdrvChild *child)
{
    return child->bs->opaque;
}

/* Counts a call, holds it up, and says how it ends. */
static int coroutine_fn begin_call(BlockDriverState *bs, MemoryOp op,
                                   int64_t offset, int64_t bytes,
                                   BdrvRequestFlags flags)
{
    MemoryState *s = bs->opaque;
    int ret;

    __atomic_fetch_add(&s->counts[op], 1, __ATOMIC_RELAXED);
    if (s->config.yields) {
        co_wake(co_self());
        co_yield();
        return 0;
    }
    s->last[op] = (MemoryCall) { op, offset, bytes, flags, ++calls_so_far };
    if (s->hold[op]) {
        s->hold[op] = false;
        s->held = co_self();
        co_yield();
    }
    ret = s->fail[op];
    s->fail[op] = 0;
    return ret;
}

static void check_range(BlockDriverState *bs, int64_t offset, int64_t bytes,
                        int64_t max)
{
    MemoryState *s = bs->opaque;

    g_assert(offset >= 0 && bytes > 0);
    g_assert(is_aligned(offset | bytes, bs->limits.request_alignment));
    g_assert(bytes <= (max ? max : BDRV_REQUEST_MAX_BYTES));
    g_assert(offset + bytes <= s->data_bytes);
}

static void check_vector(BlockDriverState *bs, int64_t bytes, const IoVec *iov,
                         size_t at)
{
    const BlockLimits *limits = &bs->limits;

    g_assert(at + bytes <= iov->size);
    g_assert(!limits->max_iov ||
             iovec_slice_count(iov, at, bytes) <= limits->max_iov);
    g_assert(iovec_is_aligned(iov, at, bytes, limits->min_mem_alignment));
}

static bool is_overlay(const MemoryState *s)
{
    return s->config.cluster_bytes > 0;
}

/* A status query may look while a write elsewhere allocates. */
static bool has_cluster(const MemoryState *s, int64_t index)
{
    return __atomic_load_n(&s->allocated[index], __ATOMIC_ACQUIRE);
}

/* Bytes from @offset to the end of its cluster, at most @bytes. */
static int64_t in_cluster(const MemoryState *s, int64_t offset, int64_t bytes)
{
    int64_t cluster = s->config.cluster_bytes;

    return MIN(bytes, cluster - offset % cluster);
}

static int coroutine_fn read_backing(BlockDriverState *bs, int64_t offset,
                                     int64_t bytes, IoVec *iov, size_t at)
{
    int64_t there = 0;
    int ret = 0;

    if (bs->backing) {
        there = CLAMP(bdrv_node_length(bs->backing->bs) - offset, 0, bytes);
    }
    if (there > 0) {
        ret = bdrv_co_preadv(bs->backing, offset, there, iov, at,
                             /* flags= */ 0);
    }
    iovec_memset(iov, at + there, 0, bytes - there);
    return ret;
}

static int coroutine_fn memory_co_preadv(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes, IoVec *iov, size_t at,
                                         BdrvRequestFlags flags)
{
    MemoryState *s = bs->opaque;
    int ret = begin_call(bs, MEMORY_READ, offset, bytes, flags);

    check_range(bs, offset, bytes, bs->limits.max_transfer);
    check_vector(bs, bytes, iov, at);
    g_assert(offset + bytes <= align_up(bdrv_node_length(bs),
                                        bs->limits.request_alignment));
    while (ret == 0 && bytes > 0) {
        int64_t piece = is_overlay(s) ? in_cluster(s, offset, bytes) : bytes;

        if (is_overlay(s) &&
            !has_cluster(s, offset / s->config.cluster_bytes)) {
            ret = read_backing(bs, offset, piece, iov, at);
        } else {
            iovec_from_buffer(iov, at, s->data + offset, piece);
        }
        offset += piece;
        at += piece;
        bytes -= piece;
    }
    return ret;
}

/* Makes all clusters of the range the overlay's own. */
static int coroutine_fn allocate(BlockDriverState *bs, int64_t offset,
                                 int64_t bytes)
{
    MemoryState *s = bs->opaque;
    int64_t cluster = s->config.cluster_bytes;
    int ret = 0;

    if (!is_overlay(s)) {
        return 0;
    }
    for (int64_t i = offset / cluster;
         ret == 0 && i * cluster < offset + bytes; i++) {
        IoVec iov;

        if (!has_cluster(s, i)) {
            iovec_init_buffer(&iov, s->data + i * cluster, cluster);
            ret = read_backing(bs, i * cluster, cluster, &iov, 0);
            __atomic_store_n(&s->allocated[i], true, __ATOMIC_RELEASE);
        }
    }
    return ret;
}

static int coroutine_fn memory_co_pwritev(BlockDriverState *bs, int64_t offset,
                                          int64_t bytes, IoVec *iov, size_t at,
                                          BdrvRequestFlags flags)
{
    MemoryState *s = bs->opaque;
    int ret = begin_call(bs, MEMORY_WRITE, offset, bytes, flags);

    check_range(bs, offset, bytes, bs->limits.max_transfer);
    check_vector(bs, bytes, iov, at);
    g_assert(!(flags & ~bs->supported_write_flags));
    if (ret == 0) {
        ret = allocate(bs, offset, bytes);
    }
    if (ret == 0) {
        iovec_to_buffer(iov, at, s->data + offset, bytes);
    }
    return ret;
}

static int coroutine_fn memory_co_pwrite_zeroes(BlockDriverState *bs,
                                                int64_t offset, int64_t bytes,
                                                BdrvRequestFlags flags)
{
    MemoryState *s = bs->opaque;
    int ret = begin_call(bs, MEMORY_ZEROES, offset, bytes, flags);

    check_range(bs, offset, bytes, bs->limits.max_pwrite_zeroes);
    g_assert(!(flags & ~bs->supported_zero_flags));
    if (s->config.no_zeroes) {
        return -ENOTSUP;
    }
    if (ret == 0) {
        ret = allocate(bs, offset, bytes);
    }
    if (ret == 0) {
        memset(s->data + offset, 0, bytes);
    }
    return ret;
}

static int coroutine_fn memory_co_pdiscard(BlockDriverState *bs,
                                           int64_t offset, int64_t bytes)
{
    MemoryState *s = bs->opaque;
    int ret = begin_call(bs, MEMORY_DISCARD, offset, bytes, /* flags= */ 0);

    check_range(bs, offset, bytes, bs->limits.max_pdiscard);
    if (ret == 0) {
        memset(s->data + offset, 0, bytes);
    }
    return ret;
}

static int coroutine_fn memory_co_pwritev_compressed(BlockDriverState *bs,
                                                     int64_t offset,
                                                     int64_t bytes, IoVec *iov,
                                                     size_t at)
{
    MemoryState *s = bs->opaque;
    int ret;

    if (!s->config.compresses) {
        return -ENOTSUP;
    }
    ret = begin_call(bs, MEMORY_COMPRESSED, offset, bytes, /* flags= */ 0);
    check_range(bs, offset, bytes, bs->limits.max_transfer);
    if (ret == 0) {
        iovec_to_buffer(iov, at, s->data + offset, bytes);
    }
    return ret;
}

static int coroutine_fn memory_co_copy_range_from(BlockDriverState *bs,
                                                  BdrvChild *src,
                                                  int64_t src_offset,
                                                  BdrvChild *dst,
                                                  int64_t dst_offset,
                                                  int64_t bytes,
                                                  BdrvRequestFlags flags)
{
    MemoryState *s = bs->opaque;
    int ret;

    if (!s->config.copies) {
        return -ENOTSUP;
    }
    ret = begin_call(bs, MEMORY_COPY_FROM, src_offset, bytes, flags);
    check_range(bs, src_offset, bytes, bs->limits.max_transfer);
    return ret < 0 ? ret : bdrv_co_copy_range_to(src, src_offset, dst,
                                                 dst_offset, bytes, flags);
}

static int coroutine_fn memory_co_copy_range_to(BlockDriverState *bs,
                                                BdrvChild *src,
                                                int64_t src_offset,
                                                BdrvChild *dst,
                                                int64_t dst_offset,
                                                int64_t bytes,
                                                BdrvRequestFlags flags)
{
    MemoryState *s = bs->opaque;
    int ret;

    if (!s->config.copies || src->bs->drv != bs->drv) {
        return -ENOTSUP;
    }
    ret = begin_call(bs, MEMORY_COPY_TO, dst_offset, bytes, flags);
    check_range(bs, dst_offset, bytes, bs->limits.max_transfer);
    if (ret == 0) {
        memmove(s->data + dst_offset, state_of(src)->data + src_offset,
                bytes);
    }
    return ret;
}

/* Runs of equal answers: by cluster in an overlay, by block of 4096 else. */
static int coroutine_fn memory_co_block_status(BlockDriverState *bs,
                                               bool want_zero, int64_t offset,
                                               int64_t bytes,
                                               BlockStatus *ret_status)
{
    MemoryState *s = bs->opaque;
    int64_t unit = is_overlay(s) ? s->config.cluster_bytes : 4096;
    int64_t end = offset + bytes, at = offset - offset % unit;
    int ret = begin_call(bs, MEMORY_STATUS, offset, bytes, /* flags= */ 0);
    int first = -1;

    g_assert(is_aligned(offset | bytes, bs->limits.request_alignment));
    if (s->config.yields) {
        /* Others write behind what the caller holds: it is not looked at. */
        end = MIN(end, at + MAX(unit, bs->limits.request_alignment));
    }
    for (; at < end; at += unit) {
        bool is_zero = want_zero && at + unit <= s->data_bytes &&
                       buffer_is_zero(s->data + at, unit);
        int answer = is_overlay(s) && !has_cluster(s, at / unit) ? 0
            : is_zero ? BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA;

        if (first >= 0 && answer != first) {
            break;
        }
        first = answer;
    }
    *ret_status = (BlockStatus) {
        .flags = first ? first | BDRV_BLOCK_OFFSET_VALID : 0,
        .bytes = MIN(at, end) - offset,
        .host_offset = offset,
        .file = bs,
    };
    if (first > 0 && s->config.recurses) {
        ret_status->flags |= BDRV_BLOCK_RECURSE;
        ret_status->file = s->metadata->bs;
    }
    return ret;
}

static int coroutine_fn memory_co_flush_to_os(BlockDriverState *bs)
{
    return begin_call(bs, MEMORY_TO_OS, 0, 0, /* flags= */ 0);
}

static int coroutine_fn memory_co_flush_to_disk(BlockDriverState *bs)
{
    return begin_call(bs, MEMORY_TO_DISK, 0, 0, /* flags= */ 0);
}

static int coroutine_fn memory_co_truncate(BlockDriverState *bs,
                                           int64_t length, bool exact,
                                           BdrvPreallocMode prealloc,
                                           BdrvRequestFlags flags,
                                           GError **error)
{
    MemoryState *s = bs->opaque;
    int64_t old_length = bdrv_node_length(bs);
    int ret = begin_call(bs, MEMORY_TRUNCATE, length, 0, flags);

    g_assert(length <= s->data_bytes);
    if (ret == 0 && length < old_length) {
        memset(s->data + length, 0, s->data_bytes - length);
    }
    return ret;
}

static bool memory_get_info(BlockDriverState *bs, BlockDriverInfo *info)
{
    const MemoryState *s = bs->opaque;

    info->cluster_bytes = s->config.cluster_bytes;
    return is_overlay(s);
}

static void memory_refresh_limits(BlockDriverState *bs)
{
    const MemoryState *s = bs->opaque;

    if (!s->config.merges) {
        bs->limits = s->config.limits;
    }
}

/* Nodes are made by memory_open(), not from options. */
static bool memory_driver_open(BlockDriverState *bs, BlockOptions *options,
                               BdrvOpenFlags flags, GError **error)
{
    g_assert_not_reached();
}

static void memory_driver_close(BlockDriverState *bs)
{
    MemoryState *s = bs->opaque;

    g_assert(!s->held);
    g_free(s->data);
    g_free(s->allocated);
}

static bool memory_reopen_prepare(BlockReopenState *state, GError **error)
{
    return true; /* nothing depends on the flags */
}

static const BlockReopenOps memory_reopen = {
    .prepare = memory_reopen_prepare,
};

static const BlockDriver memory_driver = {
    .format_name = "test-memory",
    .instance_size = sizeof(MemoryState),
    .supports_backing = true,
    .is_format = true,
    .open = memory_driver_open,
    .close = memory_driver_close,
    .refresh_limits = memory_refresh_limits,
    .reopen = &memory_reopen,
    .co_preadv = memory_co_preadv,
    .co_pwritev = memory_co_pwritev,
    .co_pwrite_zeroes = memory_co_pwrite_zeroes,
    .co_pdiscard = memory_co_pdiscard,
    .co_pwritev_compressed = memory_co_pwritev_compressed,
    .co_copy_range_from = memory_co_copy_range_from,
    .co_copy_range_to = memory_co_copy_range_to,
    .co_block_status = memory_co_block_status,
    .co_flush_to_os = memory_co_flush_to_os,
    .co_flush_to_disk = memory_co_flush_to_disk,
    .co_truncate = memory_co_truncate,
    .get_info = memory_get_info,
};

static const BdrvChildClass root_class = { .parent_is_bs = false };

static void set_up_state(BlockDriverState *bs, const MemoryConfig *config)
{
    MemoryState *s = bs->opaque;

    s->config = *config;
    s->data_bytes = align_up(config->length + ROOM, MIB);
    s->data = g_malloc0(s->data_bytes);
    if (config->cluster_bytes) {
        s->allocated = g_new0(uint8_t, s->data_bytes / config->cluster_bytes
                                       + 1);
    }
}

/* An edge to the node of @child; the test may only read that from now on. */
static BdrvChild *attach(BlockDriverState *bs, BdrvChild *child,
                         const char *name, BdrvChildRole role)
{
    BdrvChild *edge;

    g_assert(bdrv_child_set_perm(child, BLK_PERM_CONSISTENT_READ,
                                 BLK_PERM_ALL, /* error= */ NULL));
    edge = bdrv_attach_child(bs, bdrv_ref(child->bs), name, role,
                             /* error= */ NULL);
    g_assert(edge);
    return edge;
}

BdrvChild *memory_open(const MemoryConfig *config)
{
    BlockDriverState *bs;
    BdrvChild *root;

    if (!bdrv_find_format("test-memory")) {
        bdrv_register(&memory_driver);
    }
    bs = bdrv_new(bdrv_find_format("test-memory"), /* node_name= */ NULL,
                  /* error= */ NULL);
    g_assert(bs);
    set_up_state(bs, config);
    bs->length = config->length;
    bs->open_flags = config->open_flags ? config->open_flags
                                        : BDRV_O_RDWR | BDRV_O_UNMAP;
    bs->supported_write_flags = config->write_flags;
    bs->supported_zero_flags = config->zero_flags;
    if (config->backing) {
        (void) attach(bs, config->backing, "backing", BDRV_CHILD_COW);
    }
    if (config->metadata) {
        MemoryState *s = bs->opaque;

        s->metadata = attach(bs, config->metadata, "metadata",
                             BDRV_CHILD_METADATA);
    }
    g_assert(bdrv_refresh_limits(bs, /* error= */ NULL));
    root = bdrv_root_attach_child(bs, "root", &root_class, /* parent= */ NULL,
                                  BLK_PERM_ALL, BLK_PERM_ALL,
                                  /* error= */ NULL);
    g_assert(root);
    return root;
}

void memory_close(BdrvChild *child)
{
    bdrv_detach_child(child);
}

void memory_set_limits(BdrvChild *child, const BlockLimits *limits)
{
    state_of(child)->config.limits = *limits;
}

uint8_t *memory_data(BdrvChild *child)
{
    return state_of(child)->data;
}

bool memory_is_allocated(BdrvChild *child, int64_t offset)
{
    MemoryState *s = state_of(child);

    return s->allocated[offset / s->config.cluster_bytes];
}

unsigned memory_count(BdrvChild *child, MemoryOp op)
{
    return __atomic_load_n(&state_of(child)->counts[op], __ATOMIC_RELAXED);
}

void memory_reset_counts(BdrvChild *child)
{
    memset(state_of(child)->counts, 0, sizeof(state_of(child)->counts));
}

MemoryCall memory_last(BdrvChild *child, MemoryOp op)
{
    return state_of(child)->last[op];
}

void memory_fail_next(BdrvChild *child, MemoryOp op, int ret)
{
    state_of(child)->fail[op] = ret;
}

void memory_hold_next(BdrvChild *child, MemoryOp op)
{
    state_of(child)->hold[op] = true;
}

bool memory_is_held(BdrvChild *child)
{
    return state_of(child)->held != NULL;
}

void memory_release(BdrvChild *child)
{
    MemoryState *s = state_of(child);
    Coroutine *co = s->held;

    g_assert(co);
    s->held = NULL;
    co_enter(co);
}

void memory_start(CoEntry *entry, void *opaque)
{
    co_enter(co_create(entry, opaque));
}

void memory_wait(const bool *done)
{
    while (!*done) {
        aio_poll(aio_context_current(), /* may_sleep= */ true);
    }
}

void memory_settle(void)
{
    for (int turn = 0; turn < 20; turn++) {
        aio_poll(aio_context_current(), /* may_sleep= */ false);
    }
}

typedef struct VectorCall {
    BdrvChild *child;
    int64_t offset;
    int64_t bytes;
    IoVec *iov;
    BdrvRequestFlags flags;
    int ret;
} VectorCall;

static void coroutine_fn preadv_entry(void *opaque)
{
    VectorCall *call = opaque;

    call->ret = bdrv_co_preadv(call->child, call->offset, call->iov->size,
                               call->iov, 0, call->flags);
}

int memory_preadv(BdrvChild *child, int64_t offset, IoVec *iov,
                  BdrvRequestFlags flags)
{
    VectorCall call = { child, offset, 0, iov, flags, 0 };

    aio_run_sync(preadv_entry, &call);
    return call.ret;
}

static void coroutine_fn pwritev_entry(void *opaque)
{
    VectorCall *call = opaque;

    call->ret = bdrv_co_pwritev(call->child, call->offset, call->iov->size,
                                call->iov, 0, call->flags);
}

int memory_pwritev(BdrvChild *child, int64_t offset, IoVec *iov,
                   BdrvRequestFlags flags)
{
    VectorCall call = { child, offset, 0, iov, flags, 0 };

    aio_run_sync(pwritev_entry, &call);
    return call.ret;
}

static void coroutine_fn pdiscard_entry(void *opaque)
{
    VectorCall *call = opaque;

    call->ret = bdrv_co_pdiscard(call->child, call->offset, call->bytes);
}

int memory_pdiscard(BdrvChild *child, int64_t offset, int64_t bytes)
{
    VectorCall call = { child, offset, bytes, NULL, 0, 0 };

    aio_run_sync(pdiscard_entry, &call);
    return call.ret;
}
