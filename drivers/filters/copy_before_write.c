/* SPDX-License-Identifier: MIT */
/*
 * copy-before-write: keeps what a node held when the filter came into being
 *
 * The guest works on `file` through us. Before a cluster of it changes for the
 * first time, its old content is copied to `target`. So old content is in the
 * target where it was changed, and still in the file where not: that is the
 * snapshot, which `snapshot-access` shows as a node.
 *
 * For each cluster there are two bits:
 *
 *   access  done
 *     1      0    part of the snapshot, still in the file
 *     1      1    part of the snapshot, copied: in the target
 *     0      1    no part of it (not in `bitmap`, or discarded): never copied
 *
 * Always true outside a function of this file:
 *  W1  a guest's request reaches the file only when done is set for all of
 *      its clusters, or the snapshot is broken for good;
 *  W2  done is set, and access cleared, only by who holds the cluster's range
 *      exclusively; who reads the snapshot holds it shared. So a read of old
 *      data in the file keeps writers of that cluster out.
 *
 * Locking: s->ranges as in W2; below it s->lock (innermost, never across a
 * yield) for the bits themselves.
 */
#include "drivers/registry.h"

#include "block/graph/open.h"
#include "block/graph/perm.h"
#include "block/io/bitmap.h"
#include "block/io/hbitmap.h"
#include "block/io/io.h"
#include "block/io/range_lock.h"
#include "block/io/status.h"
#include "block/rt/buffer_pool.h"

#include <errno.h>
#include <inttypes.h>

#define G_LOG_DOMAIN_CBW "imgfuse-copy-before-write"

#define CLUSTER_MIN (64 * KIB)
#define COPY_BYTES MIB /* of data, of one step */

typedef enum OnError {
    BREAK_GUEST_WRITE,
    BREAK_SNAPSHOT,
} OnError;

static const char *const on_error_values[] = {
    "break-guest-write", "break-snapshot", NULL,
};

typedef struct CbwState {
    BdrvChild *target;
    OnError on_error;
    int64_t length; /* of the snapshot */
    int64_t cluster_bytes;
    int snapshot_error; /* -errno once it is broken; atomic */
    RangeLock ranges;
    GMutex lock;
    HBitmap *access;
    HBitmap *done;
} CbwState;

static const BlockOptionDesc cbw_options[] = {
    { .name = "target", .type = BLOCK_OPTION_CHILD,
      .help = "where old data goes" },
    { .name = "bitmap.node", .type = BLOCK_OPTION_STRING,
      .help = "node with the dirty bitmap of what to keep; default: all" },
    { .name = "bitmap.name", .type = BLOCK_OPTION_STRING,
      .help = "name of that bitmap" },
    { .name = "on-cbw-error", .type = BLOCK_OPTION_ENUM,
      .values = on_error_values, .default_value = "break-guest-write",
      .help = "what fails when old data cannot be kept" },
    { .name = NULL },
};

/* ---- open and close ----------------------------------------------------- */

static int64_t target_cluster_bytes(const CbwState *s)
{
    BlockDriverState *target = bdrv_skip_filters(s->target->bs);
    BlockDriverInfo info = { .cluster_bytes = -1 };

    if (target->drv == NULL || !target->drv->get_info(target, &info)) {
        return CLUSTER_MIN;
    }
    return MAX(CLUSTER_MIN, info.cluster_bytes);
}

/* access is what @bitmap has set; done is the rest. */
static void take_bitmap(CbwState *s, BdrvDirtyBitmap *bitmap)
{
    int64_t offset = 0;
    int64_t bytes = 0;

    while (bdrv_dirty_bitmap_next_area(bitmap, offset + bytes, s->length,
                                       s->length, &offset, &bytes)) {
        bytes = MIN(bytes, s->length - offset);
        hbitmap_set(s->access, offset, bytes);
    }
    for (offset = 0; offset < s->length; offset += s->cluster_bytes) {
        if (!hbitmap_get(s->access, offset)) {
            hbitmap_set(s->done, offset,
                        MIN(s->cluster_bytes, s->length - offset));
        }
    }
}

/* Named by node and name: the bitmap is another node's, and only looked at. */
static bool find_bitmap(BlockOptions *options, BdrvDirtyBitmap **ret_bitmap,
                        int64_t *ret_length, GError **error)
{
    g_autofree char *node_name = NULL;
    g_autofree char *name = NULL;
    BlockDriverState *node;

    *ret_bitmap = NULL;
    if (!block_options_take_string(options, "bitmap.node", &node_name,
                                   error) ||
        !block_options_take_string(options, "bitmap.name", &name, error)) {
        return false;
    }
    if (node_name == NULL && name == NULL) {
        return true;
    }
    if (node_name == NULL || name == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "a bitmap needs bitmap.node and bitmap.name");
        return false;
    }
    node = bdrv_find_node(node_name);
    *ret_length = node != NULL ? bdrv_node_length(node) : 0;
    *ret_bitmap = node != NULL ? bdrv_dirty_bitmap_find(node, name) : NULL;
    if (*ret_bitmap == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_NOT_FOUND,
                    "node '%s' with a bitmap '%s' not found", node_name,
                    name);
        return false;
    }
    return true;
}

/* A target that is too short would lose the end of the snapshot. */
static bool open_children(BlockDriverState *bs, BlockOptions *options,
                          GError **error)
{
    CbwState *s = bs->opaque;
    int64_t target_length;

    if (!bdrv_open_file_child(bs, options, error) ||
        !bdrv_open_child(bs, options, "target", BDRV_CHILD_DATA,
                         /* required= */ true, &s->target, error)) {
        return false;
    }
    s->length = bdrv_node_length(bs->file->bs);
    target_length = bdrv_node_length(s->target->bs);
    if (target_length < s->length) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "the target has %" PRId64 " bytes, the file %" PRId64,
                    target_length, s->length);
        return false;
    }
    return true;
}

static bool cbw_open(BlockDriverState *bs, BlockOptions *options,
                     BdrvOpenFlags flags, GError **error)
{
    CbwState *s = bs->opaque;
    BdrvDirtyBitmap *bitmap;
    int64_t bitmap_length;
    int on_error = BREAK_GUEST_WRITE;

    if (!block_options_take_enum(options, "on-cbw-error", on_error_values,
                                 &on_error, error) ||
        !find_bitmap(options, &bitmap, &bitmap_length, error) ||
        !open_children(bs, options, error)) {
        return false;
    }
    if (bitmap != NULL && bitmap_length != s->length) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "the bitmap's node has %" PRId64 " bytes, the file %"
                    PRId64, bitmap_length, s->length);
        return false;
    }
    s->on_error = on_error;
    s->cluster_bytes = target_cluster_bytes(s);
    s->access = hbitmap_new(s->length, __builtin_ctzll(s->cluster_bytes));
    s->done = hbitmap_new(s->length, __builtin_ctzll(s->cluster_bytes));
    if (bitmap != NULL) {
        take_bitmap(s, bitmap);
    } else {
        hbitmap_set(s->access, 0, s->length);
    }
    range_lock_init(&s->ranges);
    g_mutex_init(&s->lock);
    bs->length = s->length;
    bs->supported_read_flags = bs->file->bs->supported_read_flags;
    bs->supported_write_flags =
        bs->file->bs->supported_write_flags | BDRV_REQ_WRITE_UNCHANGED;
    bs->supported_zero_flags =
        bs->file->bs->supported_zero_flags | BDRV_REQ_WRITE_UNCHANGED;
    return true;
}

static void cbw_close(BlockDriverState *bs)
{
    CbwState *s = bs->opaque;

    hbitmap_free(s->access);
    hbitmap_free(s->done);
    range_lock_destroy(&s->ranges);
    g_mutex_clear(&s->lock);
}

/*
 * Who writes the file behind our back would change the snapshot. But while
 * nobody is above us that is where the writers still are: a job that puts us
 * in between moves them up to us, drained.
 */
static void cbw_child_perm(BlockDriverState *bs, BdrvChild *child,
                           BdrvChildRole role, uint32_t perm, uint32_t shared,
                           uint32_t *ret_perm, uint32_t *ret_shared)
{
    bdrv_default_perms(bs, child, role, perm, shared, ret_perm, ret_shared);
    if (role & BDRV_CHILD_FILTERED) {
        *ret_perm |= BLK_PERM_CONSISTENT_READ;
        if (bs->parents->len > 0) {
            *ret_shared &= ~(uint32_t)(BLK_PERM_WRITE | BLK_PERM_RESIZE);
        }
    } else {
        *ret_perm &= ~(uint32_t)BLK_PERM_RESIZE;
    }
}

/* ---- keeping old data --------------------------------------------------- */

/* The first run in [@offset, @end) that is still to be copied. */
static bool next_undone(CbwState *s, int64_t offset, int64_t end,
                        int64_t *ret_offset, int64_t *ret_bytes)
{
    int64_t start = -1;
    int64_t stop;

    g_mutex_lock(&s->lock);
    if (offset < end) {
        start = hbitmap_next_clean(s->done, offset, end - offset);
    }
    if (start >= 0) {
        stop = hbitmap_next_dirty(s->done, start, end - start);
        *ret_offset = start;
        *ret_bytes = (stop < 0 ? end : stop) - start;
    }
    g_mutex_unlock(&s->lock);
    return start >= 0;
}

/*
 * Is [@offset, + @bytes) of the file, whole clusters, zeros? *bytes is cut to
 * the clusters for which the answer holds.
 */
static int coroutine_fn look_for_zeros(BlockDriverState *bs, int64_t offset,
                                       int64_t *bytes)
{
    CbwState *s = bs->opaque;
    BlockStatus status;
    int64_t whole;
    int ret = bdrv_co_block_status_above(bs->file->bs, /* base= */ NULL,
                                         /* want_zero= */ true, offset, *bytes,
                                         &status, /* ret_depth= */ NULL);

    if (ret < 0 || status.bytes >= *bytes) {
        return ret < 0 ? ret : (status.flags & BDRV_BLOCK_ZERO) != 0;
    }
    /* A cluster that is zeros in part is data. */
    whole = align_down(status.bytes, s->cluster_bytes);
    if ((status.flags & BDRV_BLOCK_ZERO) && whole > 0) {
        *bytes = whole;
        return 1;
    }
    *bytes = MIN(*bytes, align_up(status.bytes, s->cluster_bytes));
    return 0;
}

/* Copies the first of *bytes bytes, and says in it how many. */
static int coroutine_fn copy_step(BlockDriverState *bs, int64_t offset,
                                  int64_t *bytes, uint8_t *buffer)
{
    CbwState *s = bs->opaque;
    int ret = look_for_zeros(bs, offset, bytes);
    bool is_zero = ret > 0;

    if (ret == 0) {
        *bytes = MIN(*bytes, MAX(COPY_BYTES, s->cluster_bytes));
        ret = bdrv_co_pread(bs->file, offset, *bytes, buffer, /* flags= */ 0);
        is_zero = ret == 0 && buffer_is_zero(buffer, *bytes);
    }
    if (ret < 0) {
        return ret;
    }
    return is_zero ? bdrv_co_pwrite_zeroes(s->target, offset, *bytes,
                                           BDRV_REQ_MAY_UNMAP)
                   : bdrv_co_pwrite(s->target, offset, *bytes, buffer,
                                    /* flags= */ 0);
}

/* Copies [@offset, @end), whole clusters, held exclusively (W2). */
static int coroutine_fn copy_undone(BlockDriverState *bs, int64_t offset,
                                    int64_t end, uint8_t *buffer)
{
    CbwState *s = bs->opaque;
    int64_t bytes;

    while (next_undone(s, offset, end, &offset, &bytes)) {
        int ret = copy_step(bs, offset, &bytes, buffer);

        if (ret < 0) {
            return ret;
        }
        g_mutex_lock(&s->lock);
        hbitmap_set(s->done, offset, bytes);
        g_mutex_unlock(&s->lock);
        offset += bytes;
    }
    return 0;
}

/*
 * The buffer comes first: who waits for memory holds no lock. Whoever had the
 * range before may have copied all of it: then there is nothing left to do.
 */
static int coroutine_fn copy_range(BlockDriverState *bs, int64_t offset,
                                   int64_t end)
{
    CbwState *s = bs->opaque;
    size_t buffer_bytes = MAX(COPY_BYTES, s->cluster_bytes);
    uint8_t *buffer = buffer_pool_get(buffer_bytes);
    RangeHold hold;
    int ret;

    if (buffer == NULL) {
        return -ENOMEM;
    }
    range_lock_take(&s->ranges, &hold, offset, end - offset,
                    /* exclusive= */ true);
    ret = copy_undone(bs, offset, end, buffer);
    range_lock_release(&s->ranges, &hold);
    buffer_pool_put(buffer, buffer_bytes);
    return ret;
}

/* Before a guest changes [@offset, + @bytes): 0, or the guest's error. */
static int coroutine_fn copy_before(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes, BdrvRequestFlags flags)
{
    CbwState *s = bs->opaque;
    int64_t start = align_down(offset, s->cluster_bytes);
    int64_t end = MIN(align_up(offset + bytes, s->cluster_bytes), s->length);
    int64_t first, first_bytes;
    int ret;

    if ((flags & BDRV_REQ_WRITE_UNCHANGED) ||
        __atomic_load_n(&s->snapshot_error, __ATOMIC_ACQUIRE) != 0 ||
        !next_undone(s, start, end, &first, &first_bytes)) {
        return 0;
    }
    ret = copy_range(bs, first, end);
    if (ret < 0 && s->on_error == BREAK_SNAPSHOT) {
        g_log(G_LOG_DOMAIN_CBW, G_LOG_LEVEL_WARNING,
              "%s: old data at %" PRId64 " could not be kept (%s): the "
              "snapshot is broken", bdrv_name(bs), first, g_strerror(-ret));
        __atomic_store_n(&s->snapshot_error, ret, __ATOMIC_RELEASE);
        return 0;
    }
    return ret;
}

/* ---- the guest's requests ----------------------------------------------- */

static int coroutine_fn cbw_co_pwritev(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, IoVec *iov,
                                       size_t iov_offset,
                                       BdrvRequestFlags flags)
{
    int ret = copy_before(bs, offset, bytes, flags);

    return ret < 0 ? ret : bdrv_co_pwritev(bs->file, offset, bytes, iov,
                                           iov_offset, flags); /* W1 */
}

static int coroutine_fn cbw_co_pwritev_compressed(BlockDriverState *bs,
                                                  int64_t offset,
                                                  int64_t bytes, IoVec *iov,
                                                  size_t iov_offset)
{
    return cbw_co_pwritev(bs, offset, bytes, iov, iov_offset,
                          BDRV_REQ_WRITE_COMPRESSED);
}

static int coroutine_fn cbw_co_pwrite_zeroes(BlockDriverState *bs,
                                             int64_t offset, int64_t bytes,
                                             BdrvRequestFlags flags)
{
    int ret = copy_before(bs, offset, bytes, flags);

    return ret < 0 ? ret : bdrv_co_pwrite_zeroes(bs->file, offset, bytes,
                                                 flags);
}

static int coroutine_fn cbw_co_pdiscard(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes)
{
    int ret = copy_before(bs, offset, bytes, /* flags= */ 0);

    return ret < 0 ? ret : bdrv_co_pdiscard(bs->file, offset, bytes);
}

/* What is cut off is kept; the snapshot has its old length for ever. */
static int coroutine_fn cbw_co_truncate(BlockDriverState *bs, int64_t length,
                                        bool exact, BdrvPreallocMode prealloc,
                                        BdrvRequestFlags flags,
                                        GError **error)
{
    const CbwState *s = bs->opaque;
    int ret = 0;

    if (length < s->length) {
        ret = copy_before(bs, length, s->length - length, /* flags= */ 0);
    }
    if (ret < 0) {
        error_set_errno(error, -ret, "keeping what is to be cut off");
        return ret;
    }
    return bdrv_co_truncate(bs->file, length, exact, prealloc, flags, error);
}

/* The target holds the snapshot's data, not ours. */
static int64_t coroutine_fn cbw_co_get_allocated_file_size(
    BlockDriverState *bs)
{
    return bdrv_co_get_allocated_file_size(bs->file->bs);
}

/* ---- the snapshot's requests -------------------------------------------- */

/* Where [@offset, + @bytes) of the snapshot is; the range is held. */
static int locate(BlockDriverState *bs, int64_t offset, int64_t bytes,
                  BdrvChild **ret_child, int64_t *ret_bytes)
{
    CbwState *s = bs->opaque;
    int ret = __atomic_load_n(&s->snapshot_error, __ATOMIC_ACQUIRE);
    int64_t end_of_access, end_of_run;
    bool done;

    if (ret < 0) {
        return ret;
    }
    g_mutex_lock(&s->lock);
    if (!hbitmap_get(s->access, offset)) {
        g_mutex_unlock(&s->lock);
        return -EACCES;
    }
    done = hbitmap_get(s->done, offset);
    end_of_access = hbitmap_next_clean(s->access, offset, bytes);
    end_of_run = done ? hbitmap_next_clean(s->done, offset, bytes)
                      : hbitmap_next_dirty(s->done, offset, bytes);
    g_mutex_unlock(&s->lock);

    *ret_bytes = bytes;
    if (end_of_access >= 0) {
        *ret_bytes = MIN(*ret_bytes, end_of_access - offset);
    }
    if (end_of_run >= 0) {
        *ret_bytes = MIN(*ret_bytes, end_of_run - offset);
    }
    *ret_child = done ? s->target : bs->file;
    return 0;
}

/*
 * Run by run from where each is, all in one hold of the whole range, so that
 * no run moves from the file to the target while it is read (W2).
 */
static int coroutine_fn cbw_co_preadv_snapshot(BlockDriverState *bs,
                                               int64_t offset, int64_t bytes,
                                               IoVec *iov, size_t iov_offset)
{
    CbwState *s = bs->opaque;
    RangeHold hold;
    int ret = 0;

    range_lock_take(&s->ranges, &hold, offset, bytes, /* exclusive= */ false);
    while (ret == 0 && bytes > 0) {
        BdrvChild *child;
        int64_t part;

        ret = locate(bs, offset, bytes, &child, &part);
        if (ret == 0) {
            ret = bdrv_co_preadv(child, offset, part, iov, iov_offset,
                                 /* flags= */ 0);
            offset += part;
            iov_offset += part;
            bytes -= part;
        }
    }
    range_lock_release(&s->ranges, &hold);
    if (ret == 0) {
        /* A guest's write may have broken it while we read. */
        ret = __atomic_load_n(&s->snapshot_error, __ATOMIC_ACQUIRE);
    }
    return ret;
}

static int coroutine_fn cbw_co_snapshot_block_status(BlockDriverState *bs,
                                                     bool want_zero,
                                                     int64_t offset,
                                                     int64_t bytes,
                                                     BlockStatus *ret_status)
{
    CbwState *s = bs->opaque;
    BdrvChild *child;
    RangeHold hold;
    int ret;

    range_lock_take(&s->ranges, &hold, offset, bytes, /* exclusive= */ false);
    ret = locate(bs, offset, bytes, &child, &bytes);
    if (ret == 0) {
        ret = bdrv_co_block_status_above(child->bs, /* base= */ NULL,
                                         want_zero, offset, bytes, ret_status,
                                         /* ret_depth= */ NULL);
    }
    range_lock_release(&s->ranges, &hold);
    return ret;
}

/* Only whole clusters can be forgotten. */
static int coroutine_fn cbw_co_pdiscard_snapshot(BlockDriverState *bs,
                                                 int64_t offset,
                                                 int64_t bytes)
{
    CbwState *s = bs->opaque;
    int64_t start = align_up(offset, s->cluster_bytes);
    int64_t end = offset + bytes == s->length
        ? s->length : align_down(offset + bytes, s->cluster_bytes);
    RangeHold hold;
    int ret;

    if (start >= end) {
        return 0;
    }
    range_lock_take(&s->ranges, &hold, start, end - start,
                    /* exclusive= */ true);
    g_mutex_lock(&s->lock);
    hbitmap_reset(s->access, start, end - start);
    hbitmap_set(s->done, start, end - start);
    g_mutex_unlock(&s->lock);
    ret = bdrv_co_pdiscard(s->target, start, end - start);
    range_lock_release(&s->ranges, &hold);
    return ret;
}

/*
 * A backup has the rest copied by us: under the range's lock, so a cluster
 * goes to the target once, whoever comes first. A failure is the caller's and
 * breaks nothing: the old data is still in the file.
 */
static int coroutine_fn cbw_co_keep_snapshot(BlockDriverState *bs,
                                             int64_t offset, int64_t bytes)
{
    CbwState *s = bs->opaque;
    int64_t start = align_down(offset, s->cluster_bytes);
    int64_t end = MIN(align_up(offset + bytes, s->cluster_bytes), s->length);
    int ret = __atomic_load_n(&s->snapshot_error, __ATOMIC_ACQUIRE);
    int64_t first, first_bytes;

    if (ret == 0 && next_undone(s, start, end, &first, &first_bytes)) {
        ret = copy_range(bs, first, end);
    }
    if (ret == 0) {
        /* What was copied last may be new data already. */
        ret = __atomic_load_n(&s->snapshot_error, __ATOMIC_ACQUIRE);
    }
    return ret;
}

static int64_t cbw_snapshot_length(BlockDriverState *bs)
{
    const CbwState *s = bs->opaque;

    return s->length;
}

static const BlockSnapshotAccessOps cbw_snapshot_access = {
    .co_preadv_snapshot = cbw_co_preadv_snapshot,
    .co_snapshot_block_status = cbw_co_snapshot_block_status,
    .co_pdiscard_snapshot = cbw_co_pdiscard_snapshot,
    .co_keep_snapshot = cbw_co_keep_snapshot,
    .snapshot_length = cbw_snapshot_length,
};

static const BlockPermOps cbw_perm = {
    .child_perm = cbw_child_perm,
};

const BlockDriver bdrv_copy_before_write = {
    .format_name = "copy-before-write",
    .instance_size = sizeof(CbwState),
    .is_filter = true,
    .options = cbw_options,
    .open = cbw_open,
    .close = cbw_close,
    .perm = &cbw_perm,
    .snapshot_access = &cbw_snapshot_access,
    .co_pwritev = cbw_co_pwritev,
    .co_pwrite_zeroes = cbw_co_pwrite_zeroes,
    .co_pdiscard = cbw_co_pdiscard,
    .co_pwritev_compressed = cbw_co_pwritev_compressed,
    .co_truncate = cbw_co_truncate,
    .co_copy_range_to = bdrv_refuse_copy_range,
    .co_get_allocated_file_size = cbw_co_get_allocated_file_size,
};
