/* SPDX-License-Identifier: MIT */
/*
 * block status
 *
 * One layer: the driver answers for whole blocks of request_alignment; the
 * answer is cut to what was asked, followed into the file where the driver
 * says so (RAW: all of the answer; RECURSE: only whether data reads zeros),
 * and completed (ALLOCATED, zeros where there is no backing file).
 * Chains: from the top down until a layer has it.
 *
 * Always true for an answer:
 *  S1  1 <= bytes <= what was asked, and it ends at the node's end at most;
 *  S2  DATA or ZERO from a driver means ALLOCATED; neither RAW nor RECURSE
 *      leave this file.
 *
 * The cache of a protocol node holds one extent known to be data. It may be
 * late: data that has become a hole since still reads right as data.
 *
 * Locking: the cache has a spin lock.
 */
#include "block/io/status.h"

#include "block/driver.h"
#include "block/io/internal.h"
#include "block/io/io.h"
#include "block/io/spin_lock.h"

#include <errno.h>

struct BdrvStatusCache {
    SpinLock lock;
    int64_t start; /* data from here */
    int64_t end;   /* to here; start == end: nothing known */
};

BdrvStatusCache *bdrv_status_cache_new(void)
{
    return g_new0(BdrvStatusCache, 1);
}

void bdrv_status_cache_free(BdrvStatusCache *cache)
{
    g_free(cache);
}

void bdrv_status_cache_invalidate(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes)
{
    BdrvStatusCache *cache = bs->status_cache;

    if (!cache) {
        return;
    }
    spin_lock(&cache->lock);
    if (ranges_overlap(cache->start, cache->end - cache->start, offset,
                       bytes)) {
        cache->start = cache->end = 0;
    }
    spin_unlock(&cache->lock);
}

/* How much data is known to lie from @offset on; 0 when not known. */
static int64_t cache_look_up(BdrvStatusCache *cache, int64_t offset)
{
    int64_t bytes = 0;

    spin_lock(&cache->lock);
    if (cache->start <= offset && offset < cache->end) {
        bytes = cache->end - offset;
    }
    spin_unlock(&cache->lock);
    return bytes;
}

static void cache_store(BdrvStatusCache *cache, int64_t offset, int64_t bytes)
{
    spin_lock(&cache->lock);
    cache->start = offset;
    cache->end = offset + bytes;
    spin_unlock(&cache->lock);
}

/* The driver's answer for whole blocks, cut to [@offset, + @bytes) (S1). */
static int coroutine_fn ask_driver(BlockDriverState *bs, bool want_zero,
                                   int64_t offset, int64_t bytes,
                                   BlockStatus *status)
{
    int64_t block = bs->limits.request_alignment;
    int64_t first = align_down(offset, block);
    int64_t skip = offset - first;
    int ret;

    *status = (BlockStatus) { .flags = 0 };
    ret = bs->drv->co_block_status(bs, want_zero, first,
                                   align_up(offset + bytes, block) - first,
                                   status);
    if (ret < 0) {
        return ret;
    }
    if (status->bytes <= skip) {
        return -EIO; /* less than a block: a driver's bug, or EOF */
    }
    status->bytes = MIN(status->bytes - skip, bytes);
    status->host_offset += skip;
    return 0;
}

/* The driver's answer, or the cache's. */
static int coroutine_fn own_status(BlockDriverState *bs, bool want_zero,
                                   int64_t offset, int64_t bytes,
                                   BlockStatus *status)
{
    /* A format's answers change with its metadata: not for the cache. */
    BdrvStatusCache *cache = bs->file ? NULL : bs->status_cache;
    int64_t known = cache ? cache_look_up(cache, offset) : 0;
    int ret;

    if (known) {
        *status = (BlockStatus) {
            .flags = BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID,
            .bytes = MIN(known, bytes),
            .host_offset = offset,
            .file = bs,
        };
        return 0;
    }
    /* A protocol may as well tell us more than was asked, for the cache. */
    ret = ask_driver(bs, want_zero, offset,
                     cache ? bdrv_node_length(bs) - offset : bytes, status);
    if (ret < 0) {
        return ret;
    }
    if (cache && want_zero && status->file == bs &&
        status->host_offset == offset &&
        (status->flags & (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO |
                          BDRV_BLOCK_OFFSET_VALID)) ==
            (BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID)) {
        cache_store(cache, offset, status->bytes);
    }
    status->bytes = MIN(status->bytes, bytes);
    return 0;
}

/* RAW: the file's answer is ours. */
static int coroutine_fn follow_raw(bool want_zero, BlockStatus *status)
{
    BlockDriverState *file = status->file;
    int64_t host_offset = status->host_offset;
    int64_t bytes = status->bytes;

    if (host_offset >= bdrv_node_length(file)) {
        status->flags = BDRV_BLOCK_ZERO;
        return 0;
    }
    return bdrv_co_block_status(file, want_zero, host_offset, bytes, status);
}

/* RECURSE: does the file know that some of our data reads zeros? */
static void coroutine_fn follow_recurse(BlockStatus *status)
{
    BlockStatus below;

    if (status->host_offset >= bdrv_node_length(status->file)) {
        status->flags |= BDRV_BLOCK_ZERO;
        return;
    }
    if (bdrv_co_block_status(status->file, /* want_zero= */ true,
                             status->host_offset, status->bytes,
                             &below) < 0) {
        return; /* only an improvement is lost */
    }
    status->bytes = below.bytes;
    status->flags |= below.flags & BDRV_BLOCK_ZERO;
}

/* ALLOCATED, or what takes its place at the end of a chain (S2). */
static void complete_status(BlockDriverState *bs, int64_t offset,
                            BlockStatus *status)
{
    BdrvChild *cow = bs->drv->supports_backing ? bdrv_cow_child(bs) : NULL;

    status->flags &= ~(BDRV_BLOCK_RAW | BDRV_BLOCK_RECURSE | BDRV_BLOCK_EOF);
    if (status->flags & (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO)) {
        status->flags |= BDRV_BLOCK_ALLOCATED;
    } else if (bs->drv->supports_backing) {
        if (!cow || offset >= bdrv_node_length(cow->bs)) {
            status->flags |= BDRV_BLOCK_ZERO;
        } else {
            status->bytes = MIN(status->bytes,
                                bdrv_node_length(cow->bs) - offset);
        }
    }
    if (offset + status->bytes >= bdrv_node_length(bs)) {
        status->flags |= BDRV_BLOCK_EOF;
    }
}

int coroutine_fn bdrv_co_block_status(BlockDriverState *bs, bool want_zero,
                                      int64_t offset, int64_t bytes,
                                      BlockStatus *ret_status)
{
    BlockStatus status;
    bool is_raw;
    int ret = bdrv_check_range(bs, offset, bytes);

    if (ret < 0) {
        return ret;
    }
    if (bytes == 0 || offset >= bdrv_node_length(bs)) {
        return -EINVAL;
    }
    bytes = MIN(bytes, bdrv_node_length(bs) - offset);
    ret = own_status(bs, want_zero, offset, bytes, &status);
    if (ret < 0) {
        return ret;
    }
    is_raw = status.flags & BDRV_BLOCK_RAW;
    if (is_raw) {
        ret = follow_raw(want_zero, &status);
        if (ret < 0) {
            return ret;
        }
    } else if (want_zero && (status.flags & BDRV_BLOCK_RECURSE) &&
               (status.flags & BDRV_BLOCK_DATA) &&
               (status.flags & BDRV_BLOCK_OFFSET_VALID) &&
               !(status.flags & BDRV_BLOCK_ZERO) && status.file &&
               status.file != bs) {
        follow_recurse(&status);
    }
    if (is_raw && (status.flags & BDRV_BLOCK_ZERO) &&
        !(status.flags & BDRV_BLOCK_ALLOCATED) && bdrv_filter_child(bs)) {
        /* Zeros for want of a backing file: no more ours than the child's. */
        if (offset + status.bytes < bdrv_node_length(bs)) {
            status.flags &= ~BDRV_BLOCK_EOF;
        }
    } else {
        complete_status(bs, offset, &status);
    }
    *ret_status = status;
    return 0;
}

/*
 * From @bs down to @base (with @include_base: that one, too). *ret_depth: the
 * layer that decided. Not allocated in any: flags have no ALLOCATED.
 */
static int coroutine_fn chain_status(BlockDriverState *bs,
                                     BlockDriverState *base,
                                     bool include_base, bool want_zero,
                                     int64_t offset, int64_t bytes,
                                     BlockStatus *status, int *ret_depth)
{
    bool ends_at_eof = false;
    int64_t top_end = bdrv_node_length(bs);
    int depth = 0;

    *status = (BlockStatus) { .bytes = bytes };
    while (bs && (bs != base || include_base)) {
        BdrvChild *next = bdrv_filter_or_cow_child(bs);
        int ret;

        if (depth > 0 && offset >= bdrv_node_length(bs)) {
            /* A short backing file: it hides what is below with zeros. */
            status->flags = BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED;
            break;
        }
        ret = bdrv_co_block_status(bs, want_zero, offset, status->bytes,
                                   status);
        if (ret < 0) {
            return ret;
        }
        if ((status->flags & BDRV_BLOCK_ALLOCATED) || bs == base || !next) {
            break;
        }
        bs = next->bs;
        depth++;
    }
    ends_at_eof = offset + status->bytes >= top_end;
    status->flags &= ~BDRV_BLOCK_EOF;
    status->flags |= ends_at_eof ? BDRV_BLOCK_EOF : 0;
    *ret_depth = depth;
    return 0;
}

int coroutine_fn bdrv_co_block_status_above(BlockDriverState *bs,
                                            BlockDriverState *base,
                                            bool want_zero, int64_t offset,
                                            int64_t bytes,
                                            BlockStatus *ret_status,
                                            int *ret_depth)
{
    BlockStatus status;
    int depth;
    int ret = chain_status(bs, base, /* include_base= */ false, want_zero,
                           offset, bytes, &status, &depth);

    if (ret < 0) {
        return ret;
    }
    if (!base && !(status.flags & (BDRV_BLOCK_ALLOCATED | BDRV_BLOCK_ZERO))) {
        status.flags |= BDRV_BLOCK_ZERO;
    }
    *ret_status = status;
    if (ret_depth) {
        *ret_depth = depth;
    }
    return 0;
}

int coroutine_fn bdrv_co_is_allocated_above(BlockDriverState *bs,
                                            BlockDriverState *base,
                                            bool include_base, int64_t offset,
                                            int64_t bytes, int64_t *ret_bytes)
{
    BlockStatus status;
    int depth;
    int ret = chain_status(bs, base, include_base, /* want_zero= */ false,
                           offset, bytes, &status, &depth);

    if (ret < 0) {
        return ret;
    }
    *ret_bytes = status.bytes;
    return (status.flags & BDRV_BLOCK_ALLOCATED) != 0;
}

int coroutine_fn bdrv_co_is_zero(BlockDriverState *bs, int64_t offset,
                                 int64_t bytes)
{
    while (bytes > 0) {
        BlockStatus status;
        int ret = bdrv_co_block_status_above(bs, /* base= */ NULL,
                                             /* want_zero= */ true, offset,
                                             bytes, &status,
                                             /* ret_depth= */ NULL);
        if (ret < 0) {
            return ret;
        }
        if (!(status.flags & BDRV_BLOCK_ZERO)) {
            return 0;
        }
        offset += status.bytes;
        bytes -= status.bytes;
    }
    return 1;
}
