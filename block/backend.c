/* SPDX-License-Identifier: MIT */
/*
 * BlockBackend: one user's handle on a root node
 *
 * Every request passes the same gate: count itself in, look whether the
 * backend is drained, run, count itself out. The rest is for others: ranges,
 * alignment and splitting are block/io's, errors are passed on as they come.
 *
 *   request                          drain
 *     count + 1, fence                 quiesced + 1, fence
 *     quiesced? back out and sleep     sum of counts > 0? sleep
 *     ...
 *     count - 1, fence
 *     quiesced? kick the drain
 *
 * Always true outside a function of this file:
 *  K1  while quiesced > 0 and the sum of counts is 0 no request runs, and
 *      blk->root may change;
 *  K2  a sleeper in blk->sleepers was put there under sleepers_lock while
 *      quiesced > 0, and is woken when that becomes 0;
 *  K3  of a guessed raw image the first BLOCK_PROBE_BYTES never change so
 *      that they would be guessed to be something else.
 *
 * Locking: sleepers_lock (GMutex, innermost) protects the list of sleepers
 * and orders it against quiesced becoming 0. protect_lock (CoMutex, outermost)
 * serialises writes into the protected bytes. The counters need none.
 */
#include "block/backend.h"

#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"
#include "block/graph/open.h"
#include "block/graph/perm.h"
#include "block/graph/probe.h"
#include "block/io/accounting.h"
#include "block/io/io.h"
#include "block/io/snapshot_access.h"
#include "block/io/status.h"
#include "block/rt/aio_context.h"
#include "block/rt/comutex.h"
#include "block/rt/context_counter.h"

#include <errno.h>
#include <string.h>

/* A request that waits for the end of a drain; on its stack. */
typedef struct Sleeper {
    Coroutine *co;
    struct Sleeper *next;
} Sleeper;

struct BlockBackend {
    ContextCounter in_flight; /* cache lines of their own: must come first */
    BdrvChild *root;
    Accounting *accounting;
    uint32_t perm;
    uint32_t shared;
    char *user;
    bool write_through;
    bool protect_probed_raw;
    GPtrArray *drained; /* nodes of blk_drain_begin(), one count of each */
    int quiesced; /* drains that have not ended; atomic */
    GMutex sleepers_lock;
    Sleeper *sleepers;
    CoMutex protect_lock;
    void (*on_resize)(void *opaque); /* constant while in use */
    void *resize_opaque;
};

/* ---- the gate ----------------------------------------------------------- */

static void coroutine_fn sleep_while_quiesced(BlockBackend *blk)
{
    Sleeper sleeper = {.co = co_self()};

    g_mutex_lock(&blk->sleepers_lock);
    if (__atomic_load_n(&blk->quiesced, __ATOMIC_SEQ_CST) == 0) {
        g_mutex_unlock(&blk->sleepers_lock);
        return;
    }
    sleeper.next = blk->sleepers; /* K2 */
    blk->sleepers = &sleeper;
    g_mutex_unlock(&blk->sleepers_lock);
    co_yield();
}

static inline void leave_at(BlockBackend *blk, unsigned context_index)
{
    context_counter_leave(&blk->in_flight, context_index);
    /* Either the drain sees our count gone, or we see the drain. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (G_UNLIKELY(__atomic_load_n(&blk->quiesced, __ATOMIC_RELAXED) > 0)) {
        bdrv_drain_kick();
    }
}

static void leave(BlockBackend *blk)
{
    leave_at(blk, aio_context_index(aio_context_current()));
}

/* As enter(), but -EAGAIN instead of sleeping while drained. */
static inline int try_enter(BlockBackend *blk, uint32_t needed)
{
    int ret = 0;

    context_counter_enter(&blk->in_flight,
                          aio_context_index(aio_context_current()));
    if (G_UNLIKELY(__atomic_load_n(&blk->quiesced, __ATOMIC_SEQ_CST) > 0)) {
        ret = -EAGAIN;
    } else if (G_UNLIKELY(blk->root == NULL)) {
        ret = -ENXIO;
    } else if (G_UNLIKELY((blk->perm & needed) != needed)) {
        ret = -EACCES;
    }
    if (G_UNLIKELY(ret < 0)) {
        leave(blk);
    }
    return ret;
}

/* Returns 0 and counts the request, or why it cannot be made. */
static inline int coroutine_fn enter(BlockBackend *blk, uint32_t needed)
{
    int ret;

    while (G_UNLIKELY((ret = try_enter(blk, needed)) == -EAGAIN)) {
        sleep_while_quiesced(blk);
    }
    return ret;
}

/* enter() for what is accounted; end it with end_request(). */
static inline int coroutine_fn begin_request(BlockBackend *blk,
                                             uint32_t needed,
                                             AccountingType type,
                                             int64_t bytes,
                                             AccountingCookie *cookie)
{
    int ret = enter(blk, needed);

    if (G_UNLIKELY(ret < 0)) {
        accounting_invalid(blk->accounting, type);
        return ret;
    }
    accounting_begin(blk->accounting, cookie, type, bytes);
    return 0;
}

/* -EINVAL of a range that the node does not have: nothing was begun. */
static bool is_refusal(BlockBackend *blk, int64_t offset, int64_t bytes)
{
    return offset < 0 || bytes < 0 || bytes > BDRV_REQUEST_MAX_BYTES ||
           offset > bdrv_node_length(blk->root->bs) - bytes;
}

/* Counts the request with its result, which it returns. */
static inline int end_request(BlockBackend *blk, AccountingCookie *cookie,
                              int64_t offset, int ret)
{
    unsigned index = aio_context_index(aio_context_current());

    if (G_UNLIKELY(ret == -EINVAL || ret == -EROFS || ret == -EFBIG) &&
        (ret == -EROFS || is_refusal(blk, offset, cookie->bytes))) {
        accounting_invalid(blk->accounting, cookie->type);
    } else {
        accounting_end_at(blk->accounting, cookie, index, ret);
    }
    leave_at(blk, index);
    return ret;
}

/* ---- the root edge ------------------------------------------------------ */

static char *root_parent_desc(BdrvChild *child)
{
    const BlockBackend *blk = child->parent;

    return g_strdup(blk->user);
}

static void root_resize(BdrvChild *child)
{
    BlockBackend *blk = child->parent;

    if (blk->on_resize) {
        blk->on_resize(blk->resize_opaque);
    }
}

static void root_drained_begin(BdrvChild *child)
{
    BlockBackend *blk = child->parent;

    __atomic_fetch_add(&blk->quiesced, 1, __ATOMIC_SEQ_CST);
}

static bool root_drained_poll(BdrvChild *child)
{
    BlockBackend *blk = child->parent;

    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return context_counter_sum(&blk->in_flight) != 0;
}

static void root_drained_end(BdrvChild *child)
{
    BlockBackend *blk = child->parent;
    Sleeper *sleeper = NULL;

    g_mutex_lock(&blk->sleepers_lock);
    if (__atomic_sub_fetch(&blk->quiesced, 1, __ATOMIC_SEQ_CST) == 0) {
        sleeper = g_steal_pointer(&blk->sleepers);
    }
    g_mutex_unlock(&blk->sleepers_lock);
    while (sleeper != NULL) {
        Sleeper *next = sleeper->next; /* the wake ends its life */

        co_wake(sleeper->co);
        sleeper = next;
    }
}

static const BdrvChildClass blk_root_class = {
    .get_parent_desc = root_parent_desc,
    .resize = root_resize,
    .drained_begin = root_drained_begin,
    .drained_poll = root_drained_poll,
    .drained_end = root_drained_end,
};

/* ---- life --------------------------------------------------------------- */

BlockBackend *blk_new(uint32_t perm, uint32_t shared, const char *user)
{
    BlockBackend *blk = g_aligned_alloc0(1, sizeof(BlockBackend),
                                         _Alignof(BlockBackend));

    blk->perm = perm;
    blk->shared = shared;
    blk->user = g_strdup(user);
    blk->accounting = accounting_new();
    blk->drained = g_ptr_array_new();
    g_mutex_init(&blk->sleepers_lock);
    co_mutex_init(&blk->protect_lock);
    return blk;
}

bool blk_insert_node(BlockBackend *blk, BlockDriverState *bs, GError **error)
{
    g_assert(blk->root == NULL);
    /* Others may use it already: their requests look at permissions. */
    bdrv_drained_begin(bs);
    blk->root = bdrv_root_attach_child(bdrv_ref(bs), "root", &blk_root_class,
                                       blk, blk->perm, blk->shared, error);
    bdrv_drained_end(bs);
    return blk->root != NULL;
}

static void set_flags(BlockBackend *blk, BdrvOpenFlags flags)
{
    const BlockDriverState *bs = blk->root->bs;

    blk_set_write_through(blk, flags & BDRV_O_WRITETHROUGH);
    if ((bs->open_flags & BDRV_O_PROBED) && (flags & BDRV_O_RDWR) &&
        strcmp(bs->drv->format_name, "raw") == 0) {
        blk_set_protect_probed_raw(blk, true);
    }
}

BlockBackend *blk_open(const char *filename, BlockOptions *options,
                       BdrvOpenFlags flags, ReferencePolicy *policy,
                       const char *user, GError **error)
{
    g_autoptr(BlockDriverState) bs = bdrv_open(filename, options, flags,
                                               policy, error);
    g_autoptr(BlockBackend) blk = NULL;
    uint32_t perm = BLK_PERM_CONSISTENT_READ;
    uint32_t shared = BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE_UNCHANGED;

    if (bs == NULL) {
        return NULL;
    }
    /* Options may have asked for less than the flags. */
    if ((flags & BDRV_O_RDWR) && !bs->read_only) {
        perm |= BLK_PERM_WRITE;
        perm |= flags & BDRV_O_RESIZE ? BLK_PERM_RESIZE : 0;
    }
    if (bs->force_share) {
        shared = BLK_PERM_ALL;
    }
    blk = blk_new(perm, shared, user);
    if (!blk_insert_node(blk, bs, error)) {
        return NULL;
    }
    set_flags(blk, flags);
    return g_steal_pointer(&blk);
}

void blk_remove_node(BlockBackend *blk)
{
    BlockDriverState *bs = blk_bs(blk);

    if (bs == NULL) {
        return;
    }
    bdrv_ref(bs);
    bdrv_drained_begin(bs);
    if (!bs->read_only) {
        (void) bdrv_flush(bs); /* who wants to know calls blk_flush before */
    }
    bdrv_detach_child(g_steal_pointer(&blk->root)); /* K1 */
    bdrv_drained_end(bs);
    bdrv_unref(bs);
}

void blk_free(BlockBackend *blk)
{
    if (blk == NULL) {
        return;
    }
    blk_remove_node(blk);
    g_assert(blk->sleepers == NULL && blk->drained->len == 0);
    g_ptr_array_free(blk->drained, /* free_segment= */ TRUE);
    co_mutex_destroy(&blk->protect_lock);
    g_mutex_clear(&blk->sleepers_lock);
    accounting_free(blk->accounting);
    g_free(blk->user);
    g_aligned_free(blk);
}

/* ---- facts and settings ------------------------------------------------- */

BlockDriverState *blk_bs(BlockBackend *blk)
{
    return blk->root != NULL ? blk->root->bs : NULL;
}

bool blk_is_read_only(const BlockBackend *blk)
{
    return !(blk->perm & BLK_PERM_WRITE) || blk->root == NULL ||
           blk->root->bs->read_only;
}

bool blk_set_perm(BlockBackend *blk, uint32_t perm, uint32_t shared,
                  GError **error)
{
    BlockDriverState *bs = blk_bs(blk);
    bool ok = true;

    /* Requests look at permissions without a lock. */
    if (bs != NULL) {
        bdrv_drained_begin(bs);
        ok = bdrv_child_set_perm(blk->root, perm, shared, error);
    }
    if (ok) {
        blk->perm = perm;
        blk->shared = shared;
    }
    if (bs != NULL) {
        bdrv_drained_end(bs);
    }
    return ok;
}

void blk_set_resize_handler(BlockBackend *blk, void (*handler)(void *opaque),
                            void *opaque)
{
    blk->resize_opaque = opaque;
    blk->on_resize = handler;
}

void blk_set_write_through(BlockBackend *blk, bool on)
{
    blk->write_through = on;
}

void blk_set_protect_probed_raw(BlockBackend *blk, bool on)
{
    blk->protect_probed_raw = on;
}

Accounting *blk_accounting(BlockBackend *blk)
{
    return blk->accounting;
}

int64_t blk_length(BlockBackend *blk)
{
    return blk->root != NULL ? bdrv_node_length(blk->root->bs) : -ENXIO;
}

const BlockLimits *blk_limits(BlockBackend *blk)
{
    static const BlockLimits none = {.request_alignment = 1};

    return blk->root != NULL ? &blk->root->bs->limits : &none;
}

int64_t blk_cluster_bytes(BlockBackend *blk)
{
    BlockDriverState *bs = blk_bs(blk);
    BlockDriverInfo info = {.cluster_bytes = -1};

    if (bs == NULL || bs->drv == NULL || !bs->drv->get_info(bs, &info)) {
        return 0;
    }
    return MAX(info.cluster_bytes, 0);
}

/* ---- the probed raw image (K3) ------------------------------------------ */

/*
 * Would [@offset, + @bytes) of @iov (NULL: zeros) make another format of the
 * image? 0: no; -EPERM: yes; or the error of reading what is there.
 */
static int coroutine_fn check_header_write(BlockBackend *blk, int64_t offset,
                                           int64_t bytes, const IoVec *iov)
{
    BlockDriverState *bs = blk->root->bs;
    uint8_t header[BLOCK_PROBE_BYTES] = {0};
    int64_t there = MIN(bdrv_node_length(bs), BLOCK_PROBE_BYTES);
    int64_t part = MIN(bytes, BLOCK_PROBE_BYTES - offset);
    const BlockDriver *guess;
    int ret;

    if (there > 0) {
        ret = bdrv_co_pread(blk->root, 0, there, header, 0);
        if (ret < 0) {
            return ret;
        }
    }
    if (iov != NULL) {
        iovec_to_buffer(iov, 0, header + offset, (size_t)part);
    } else {
        memset(header + offset, 0, (size_t)part);
    }
    guess = bdrv_probe_bytes(header, (size_t)MAX(there, offset + part),
                             bs->exact_filename);
    return guess == bs->drv ? 0 : -EPERM;
}

static inline bool touches_header(const BlockBackend *blk, int64_t offset,
                                  int64_t bytes)
{
    return G_UNLIKELY(blk->protect_probed_raw) &&
           offset >= 0 && bytes > 0 && offset < BLOCK_PROBE_BYTES;
}

/* Checks and writes under the lock: two halves of a header must not pass. */
static int coroutine_fn write_header(BlockBackend *blk, int64_t offset,
                                     int64_t bytes, IoVec *iov,
                                     BdrvRequestFlags flags)
{
    int ret;

    co_mutex_lock(&blk->protect_lock);
    ret = check_header_write(blk, offset, bytes, iov);
    if (ret == 0) {
        ret = iov != NULL
            ? bdrv_co_pwritev(blk->root, offset, bytes, iov, 0, flags)
            : bdrv_co_pwrite_zeroes(blk->root, offset, bytes, flags);
    }
    co_mutex_unlock(&blk->protect_lock);
    return ret;
}

/* ---- requests ----------------------------------------------------------- */

static inline BdrvRequestFlags write_flags(const BlockBackend *blk,
                                           BdrvRequestFlags flags)
{
    return blk->write_through ? flags | BDRV_REQ_FUA : flags;
}

int coroutine_fn blk_co_preadv(BlockBackend *blk, int64_t offset,
                               int64_t bytes, IoVec *iov,
                               BdrvRequestFlags flags)
{
    AccountingCookie cookie;
    int ret = begin_request(blk, BLK_PERM_CONSISTENT_READ, ACCOUNTING_READ,
                            bytes, &cookie);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_co_preadv(blk->root, offset, bytes, iov, 0, flags);
    return end_request(blk, &cookie, offset, ret);
}

int coroutine_fn blk_co_pwritev(BlockBackend *blk, int64_t offset,
                                int64_t bytes, IoVec *iov,
                                BdrvRequestFlags flags)
{
    AccountingCookie cookie;
    int ret = begin_request(blk, BLK_PERM_WRITE, ACCOUNTING_WRITE,
                            bytes, &cookie);

    if (ret < 0) {
        return ret;
    }
    flags = write_flags(blk, flags);
    if (touches_header(blk, offset, bytes)) {
        ret = write_header(blk, offset, bytes, iov, flags);
    } else {
        ret = bdrv_co_pwritev(blk->root, offset, bytes, iov, 0, flags);
    }
    return end_request(blk, &cookie, offset, ret);
}

int coroutine_fn blk_co_pwrite_zeroes(BlockBackend *blk, int64_t offset,
                                      int64_t bytes, BdrvRequestFlags flags)
{
    AccountingCookie cookie;
    int ret = begin_request(blk, BLK_PERM_WRITE, ACCOUNTING_ZEROES,
                            bytes, &cookie);

    if (ret < 0) {
        return ret;
    }
    flags = write_flags(blk, flags);
    if (touches_header(blk, offset, bytes)) {
        ret = write_header(blk, offset, bytes, /* iov= */ NULL, flags);
    } else {
        ret = bdrv_co_pwrite_zeroes(blk->root, offset, bytes, flags);
    }
    return end_request(blk, &cookie, offset, ret);
}

int coroutine_fn blk_co_pdiscard(BlockBackend *blk, int64_t offset,
                                 int64_t bytes)
{
    AccountingCookie cookie;
    int ret = begin_request(blk, BLK_PERM_WRITE, ACCOUNTING_UNMAP,
                            bytes, &cookie);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_co_pdiscard(blk->root, offset, bytes);
    return end_request(blk, &cookie, offset, ret);
}

int coroutine_fn blk_co_flush(BlockBackend *blk)
{
    AccountingCookie cookie;
    int ret = begin_request(blk, 0, ACCOUNTING_FLUSH,
                            0, &cookie);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_co_flush(blk->root->bs);
    return end_request(blk, &cookie, 0, ret);
}

int coroutine_fn blk_co_flush_to_os(BlockBackend *blk)
{
    AccountingCookie cookie;
    int ret = begin_request(blk, 0, ACCOUNTING_FLUSH,
                            0, &cookie);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_co_flush_to_os(blk->root->bs);
    return end_request(blk, &cookie, 0, ret);
}

int coroutine_fn blk_co_truncate(BlockBackend *blk, int64_t length, bool exact,
                                 BdrvPreallocMode prealloc, GError **error)
{
    int ret = enter(blk, BLK_PERM_RESIZE);

    if (ret < 0) {
        error_set_errno(error, -ret, "%s may not change the length",
                        blk->user);
        return ret;
    }
    ret = bdrv_co_truncate(blk->root, length, exact, prealloc, 0, error);
    leave(blk);
    return ret;
}

int coroutine_fn blk_co_block_status(BlockBackend *blk, bool want_zero,
                                     int64_t offset, int64_t bytes,
                                     BlockStatus *ret_status)
{
    int ret = enter(blk, BLK_PERM_CONSISTENT_READ);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_co_block_status_above(blk->root->bs, /* base= */ NULL,
                                     want_zero, offset, bytes, ret_status,
                                     /* ret_depth= */ NULL);
    leave(blk);
    return ret;
}

int coroutine_fn blk_co_is_allocated_above(BlockBackend *blk,
                                           BlockDriverState *base,
                                           bool include_base, int64_t offset,
                                           int64_t bytes, int64_t *ret_bytes)
{
    int ret = enter(blk, BLK_PERM_CONSISTENT_READ);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_co_is_allocated_above(blk->root->bs, base, include_base,
                                     offset, bytes, ret_bytes);
    leave(blk);
    return ret;
}

/*
 * Both are held. @ret -ENOTSUP: the caller goes on through memory, and that
 * is what counts.
 */
static int end_copy(BlockBackend *src, AccountingCookie *read,
                    BlockBackend *dst, AccountingCookie *written, int ret)
{
    if (ret != -ENOTSUP) {
        accounting_end(src->accounting, read, ret);
        accounting_end(dst->accounting, written, ret);
    }
    leave(dst);
    leave(src);
    return ret;
}

int coroutine_fn blk_co_copy_range(BlockBackend *src, int64_t src_offset,
                                   BlockBackend *dst, int64_t dst_offset,
                                   int64_t bytes)
{
    AccountingCookie read, written;
    int ret = begin_request(src, BLK_PERM_CONSISTENT_READ, ACCOUNTING_READ,
                            bytes, &read);

    if (ret < 0) {
        return ret;
    }
    /*
     * Sleeping at the second gate with a foot in the first could make a drain
     * of both wait for ever: rather let the copy go through memory.
     */
    ret = try_enter(dst, BLK_PERM_WRITE);
    if (ret < 0) {
        leave(src);
        if (ret == -EAGAIN) {
            return -ENOTSUP;
        }
        accounting_invalid(dst->accounting, ACCOUNTING_WRITE);
        return ret;
    }
    accounting_begin(dst->accounting, &written, ACCOUNTING_WRITE, bytes);
    if (touches_header(dst, dst_offset, bytes)) {
        ret = -ENOTSUP; /* the content must be looked at: through memory */
    } else {
        ret = bdrv_co_copy_range(src->root, src_offset, dst->root, dst_offset,
                                 bytes, write_flags(dst, 0));
    }
    return end_copy(src, &read, dst, &written, ret);
}

int64_t coroutine_fn blk_co_get_allocated_file_size(BlockBackend *blk)
{
    int64_t ret = enter(blk, 0);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_co_get_allocated_file_size(blk->root->bs);
    leave(blk);
    return ret;
}

int coroutine_fn blk_co_keep_snapshot(BlockBackend *blk, int64_t offset,
                                      int64_t bytes)
{
    int ret = enter(blk, BLK_PERM_CONSISTENT_READ);

    if (ret < 0) {
        return ret;
    }
    ret = bdrv_co_keep_snapshot(blk->root, offset, bytes);
    leave(blk);
    return ret;
}

/* ---- the control plane's own I/O ---------------------------------------- */

/*
 * Not through the gate: the control plane waits for its own request, so no
 * drain can be waiting for it; and it may do I/O inside a drained section.
 */
int blk_pread(BlockBackend *blk, int64_t offset, int64_t bytes, void *buffer)
{
    if (blk->root == NULL) {
        return -ENXIO;
    }
    if (!(blk->perm & BLK_PERM_CONSISTENT_READ)) {
        return -EACCES;
    }
    return bdrv_pread(blk->root, offset, bytes, buffer);
}

int blk_pwrite(BlockBackend *blk, int64_t offset, int64_t bytes,
               const void *buffer)
{
    if (blk->root == NULL) {
        return -ENXIO;
    }
    if (!(blk->perm & BLK_PERM_WRITE)) {
        return -EACCES;
    }
    return bdrv_pwrite(blk->root, offset, bytes, buffer);
}

int blk_pwrite_zeroes(BlockBackend *blk, int64_t offset, int64_t bytes,
                      BdrvRequestFlags flags)
{
    if (blk->root == NULL) {
        return -ENXIO;
    }
    if (!(blk->perm & BLK_PERM_WRITE)) {
        return -EACCES;
    }
    return bdrv_pwrite_zeroes(blk->root, offset, bytes, flags);
}

int blk_flush(BlockBackend *blk)
{
    return blk->root != NULL ? bdrv_flush(blk->root->bs) : -ENXIO;
}

/* The root may change meanwhile: the end is for the node of the begin. */
void blk_drain_begin(BlockBackend *blk)
{
    BlockDriverState *bs = blk_bs(blk);

    if (bs != NULL) {
        bdrv_drained_begin(bs);
        bdrv_ref(bs);
    }
    g_ptr_array_add(blk->drained, bs);
}

void blk_drain_end(BlockBackend *blk)
{
    BlockDriverState *bs;

    g_assert(blk->drained->len > 0);
    bs = g_ptr_array_remove_index(blk->drained, blk->drained->len - 1);
    if (bs != NULL) {
        bdrv_drained_end(bs);
        bdrv_unref(bs);
    }
}
