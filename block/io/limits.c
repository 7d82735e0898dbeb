/* SPDX-License-Identifier: MIT */
/*
 * BlockLimits: merge, narrow, complete, check
 *
 * A parent's requests come out at its children, so their transfer sizes are
 * good advice for it. Alignments that every node enforces on its own calls
 * (request_alignment, min_mem_alignment) are not merged: a format takes any
 * byte range and each child pads what it gets. A filter passes zero-writes
 * and discards through, so it takes their limits over, too.
 *
 * Always true for the limits of an open node:
 *  L1  request_alignment is a power of two, max_transfer a multiple of it;
 *  L2  min_mem_alignment is a power of two and at most opt_mem_alignment;
 *  L3  each max_ is 0 or at least request_alignment.
 *
 * Locking: none, control plane with the node drained.
 */
#include "block/io/limits.h"

#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"

#define REQUEST_ALIGNMENT_MAX ((int64_t)64 << 20)
#define MEM_ALIGNMENT_MAX ((size_t)4096) /* what buffer_pool_get() gives */

/* Minimum of two limits for which 0 is "none". */
static int64_t tighter(int64_t a, int64_t b)
{
    return a && b ? MIN(a, b) : MAX(a, b);
}

static void merge_child(BlockLimits *limits, const BlockLimits *child)
{
    limits->max_transfer = tighter(limits->max_transfer, child->max_transfer);
    limits->opt_transfer = MAX(limits->opt_transfer, child->opt_transfer);
    limits->max_hw_transfer = tighter(limits->max_hw_transfer,
                                      child->max_hw_transfer);
    limits->max_hw_iov = tighter(limits->max_hw_iov, child->max_hw_iov);
    limits->max_iov = tighter(limits->max_iov, child->max_iov);
    limits->opt_mem_alignment = MAX(limits->opt_mem_alignment,
                                    child->opt_mem_alignment);
}

static void merge_filtered_child(BlockLimits *limits, const BlockLimits *child)
{
    limits->max_pdiscard = child->max_pdiscard;
    limits->pdiscard_alignment = child->pdiscard_alignment;
    limits->max_pwrite_zeroes = child->max_pwrite_zeroes;
    limits->pwrite_zeroes_alignment = child->pwrite_zeroes_alignment;
}

static void merge_children(BlockDriverState *bs)
{
    BdrvChild *filtered = bdrv_filter_child(bs);

    for (guint i = 0; bs->children && i < bs->children->len; i++) {
        const BdrvChild *child = g_ptr_array_index(bs->children, i);

        if (child->role & (BDRV_CHILD_DATA | BDRV_CHILD_FILTERED |
                           BDRV_CHILD_COW)) {
            merge_child(&bs->limits, &child->bs->limits);
        }
    }
    if (filtered) {
        merge_filtered_child(&bs->limits, &filtered->bs->limits);
    }
}

static bool is_power_of_two(uint64_t value)
{
    return value && !(value & (value - 1));
}

/*
 * Fills gaps, and fits what came from children to our own blocks; a limit of
 * the driver's own that makes no sense is left for check_limits().
 */
static void complete_limits(BlockLimits *limits, const BlockLimits *merged)
{
    int64_t block;

    limits->request_alignment = limits->request_alignment ?: 1;
    limits->min_mem_alignment = limits->min_mem_alignment ?: 1;
    limits->opt_mem_alignment = MAX(limits->opt_mem_alignment,
                                    limits->min_mem_alignment);
    block = limits->request_alignment;
    if (!is_power_of_two(block)) {
        return;
    }
    if (limits->max_transfer == merged->max_transfer &&
        limits->max_transfer < block && limits->max_transfer) {
        limits->max_transfer = block;
    }
    limits->max_transfer = align_down(limits->max_transfer, block); /* L1 */
    if (limits->max_pdiscard == merged->max_pdiscard &&
        limits->max_pdiscard && limits->max_pdiscard < block) {
        limits->max_pdiscard = block;
    }
    if (limits->max_pwrite_zeroes == merged->max_pwrite_zeroes &&
        limits->max_pwrite_zeroes && limits->max_pwrite_zeroes < block) {
        limits->max_pwrite_zeroes = block;
    }
}

/* 0, or a useful number of bytes? (L3) */
static bool is_max_legal(int64_t max, int64_t block)
{
    return max == 0 || max >= block;
}

/* The name of the first limit that is illegal, or NULL. @driver: as given. */
static const char *illegal_limit(const BlockLimits *limits,
                                 const BlockLimits *driver)
{
    int64_t block = limits->request_alignment;

    if (block < 0 || block > REQUEST_ALIGNMENT_MAX || !is_power_of_two(block)) {
        return "request_alignment";
    }
    if (driver->max_transfer < 0 ||
        (driver->max_transfer && limits->max_transfer < block)) {
        return "max_transfer";
    }
    if (!is_max_legal(limits->max_pdiscard, block)) {
        return "max_pdiscard";
    }
    if (!is_max_legal(limits->max_pwrite_zeroes, block)) {
        return "max_pwrite_zeroes";
    }
    if (limits->pdiscard_alignment < 0) {
        return "pdiscard_alignment";
    }
    if (limits->pwrite_zeroes_alignment < 0) {
        return "pwrite_zeroes_alignment";
    }
    if (limits->max_iov < 0) {
        return "max_iov";
    }
    if (!is_power_of_two(limits->min_mem_alignment) ||
        limits->min_mem_alignment > MEM_ALIGNMENT_MAX ||
        (int64_t)limits->min_mem_alignment > block) {
        return "min_mem_alignment";
    }
    if (!is_power_of_two(limits->opt_mem_alignment)) {
        return "opt_mem_alignment";
    }
    return NULL;
}

/* A parent that merges our limits follows a change. */
static bool refresh_parents(BlockDriverState *bs, GError **error)
{
    for (guint i = 0; bs->parents && i < bs->parents->len; i++) {
        BdrvChild *edge = g_ptr_array_index(bs->parents, i);
        BlockDriverState *parent = edge->parent;

        /* A parent that is still being opened refreshes by itself. */
        if (edge->klass->parent_is_bs && parent->limits.request_alignment &&
            !bdrv_refresh_limits(parent, error)) {
            return false;
        }
    }
    return true;
}

bool bdrv_refresh_limits(BlockDriverState *bs, GError **error)
{
    BlockLimits old = bs->limits;
    BlockLimits merged, driver;
    const char *illegal;

    memset(&bs->limits, 0, sizeof(bs->limits));
    if (bs->drv) {
        merge_children(bs);
    }
    merged = bs->limits;
    if (bs->drv && bs->drv->refresh_limits) {
        bs->drv->refresh_limits(bs);
    }
    driver = bs->limits;
    complete_limits(&bs->limits, &merged);

    illegal = illegal_limit(&bs->limits, &driver);
    if (illegal) {
        bs->limits = old;
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "driver '%s' published an illegal limit %s",
                    bs->drv->format_name, illegal);
        return false;
    }
    if (memcmp(&old, &bs->limits, sizeof(old)) == 0) {
        return true;
    }
    return refresh_parents(bs, error);
}

size_t bdrv_mem_alignment(const BlockDriverState *bs)
{
    return MAX(bs->limits.opt_mem_alignment, (size_t)1);
}
