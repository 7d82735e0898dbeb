/* SPDX-License-Identifier: MIT */
/*
 * preallocation of guest clusters in a qcow2 image that grows
 *
 *   no lock: an L2 slice is pinned, host clusters are taken, made to read zeros
 *   lock:    the entries are published
 *
 * Always true:
 *  P1  a cluster reads zeros in the file before an entry points at it. What
 *      lies behind everything ever written does so without a write;
 *  P2  what an entry has already stays.
 *
 * Locking: q->lock for each step's two ends, never across data I/O. Nobody
 * else changes these entries meanwhile: the guest's end of the image is in
 * front of them.
 */
#include "drivers/qcow2/preallocate.h"

#include "block/io/io.h"
#include "block/rt/buffer_pool.h"
#include "drivers/qcow2/cluster.h"
#include "drivers/qcow2/data_file.h"

#include <errno.h>

#define FILL_STEP_BYTES (1 * MIB)

/* One run of clusters that get a place. */
typedef struct Step {
    BlockDriverState *bs;
    BdrvPreallocMode prealloc;
    Qcow2Slice *slice;
    unsigned entry; /* of the slice, the first */
    int64_t clusters;
    int64_t host_offset;
    bool is_fresh;
} Step;

static bool has_place(const Qcow2State *q, Qcow2L2Entry entry)
{
    Qcow2ClusterType type = qcow2_subcluster_type(q, entry, 0);

    /* A cluster may be there though its first subcluster is not. */
    return (entry.word & QCOW2_OFFSET_MASK) ||
           (type != QCOW2_CLUSTER_UNALLOCATED &&
            type != QCOW2_CLUSTER_ZERO_PLAIN);
}

/* From the first entry of @step on: those alike, at most step->clusters. */
static bool find_run(const Qcow2State *q, Step *step)
{
    bool is_placed = has_place(q, qcow2_l2_get(step->slice, step->entry));
    int64_t count = 1;

    while (count < step->clusters &&
           has_place(q, qcow2_l2_get(step->slice,
                                     step->entry + (unsigned)count)) ==
               is_placed) {
        count++;
    }
    step->clusters = count;
    return !is_placed;
}

static int coroutine_fn take_clusters(Step *step, int64_t offset)
{
    Qcow2State *q = qcow2_state(step->bs);
    int64_t fresh = q->fresh_offset;
    int ret = 0;

    if (qcow2_has_data_file(q)) {
        step->host_offset = offset;
        step->is_fresh = true; /* the resize of the file has seen to it */
        return 0;
    }
    ret = qcow2_alloc_clusters(step->bs, step->clusters, /* needed= */ 1,
                               &step->host_offset, &step->clusters);
    step->is_fresh = ret >= 0 && step->host_offset >= fresh;
    return ret;
}

/* Pins the slice of @offset. 1: clusters were taken; 0: have them already. */
static int coroutine_fn begin(Step *step, int64_t offset, int64_t end)
{
    Qcow2State *q = qcow2_state(step->bs);
    int64_t bytes = align_down(end - offset, q->cluster_bytes);
    int ret;

    step->entry = qcow2_l2_position(step->bs, offset).entry;
    co_mutex_lock(&q->lock);
    ret = qcow2_own_range(step->bs, offset, q->cluster_bytes, &bytes,
                          &step->slice);
    step->clusters = bytes >> q->cluster_bits;
    if (ret >= 0) {
        ret = find_run(q, step);
        if (ret) {
            ret = take_clusters(step, offset);
            ret = ret < 0 ? ret : 1;
        }
        if (ret <= 0) {
            qcow2_l2_unpin(step->bs, step->slice);
        }
    }
    co_mutex_unlock(&q->lock);
    return ret;
}

static int coroutine_fn write_zeros(BdrvChild *child, int64_t offset,
                                    int64_t bytes)
{
    void *zeros = buffer_pool_get(FILL_STEP_BYTES);
    int64_t end = offset + bytes;
    int ret = zeros ? 0 : -ENOMEM;

    if (zeros) {
        memset(zeros, 0, FILL_STEP_BYTES);
    }
    while (offset < end && ret >= 0) {
        int64_t part = MIN(end - offset, FILL_STEP_BYTES);

        ret = bdrv_co_pwrite(child, offset, part, zeros, 0);
        offset += part;
    }
    buffer_pool_put(zeros, FILL_STEP_BYTES);
    return ret;
}

/* P1, and the room that was asked for. */
static int coroutine_fn make_zero(const Step *step)
{
    Qcow2State *q = qcow2_state(step->bs);
    int64_t bytes = step->clusters << q->cluster_bits;

    if (qcow2_has_data_file(q)) {
        /* That file ends with the image, perhaps inside a cluster. */
        bytes = CLAMP(qcow2_data_length(q) - step->host_offset, 0, bytes);
    }
    switch (step->prealloc) {
    case PREALLOC_FULL:
        return write_zeros(q->data, step->host_offset, bytes);
    case PREALLOC_FALLOC:
        return bdrv_co_pwrite_zeroes(q->data, step->host_offset, bytes, 0);
    default:
        return step->is_fresh
                   ? 0
                   : bdrv_co_pwrite_zeroes(q->data, step->host_offset, bytes,
                                           BDRV_REQ_MAY_UNMAP);
    }
}

static void coroutine_fn publish(Step *step, int ret)
{
    BlockDriverState *bs = step->bs;
    Qcow2State *q = qcow2_state(bs);

    co_mutex_lock(&q->lock);
    if (ret < 0 && !qcow2_has_data_file(q)) {
        qcow2_unalloc_clusters(bs, step->host_offset, step->clusters);
    }
    for (int64_t i = 0; ret >= 0 && i < step->clusters; i++) {
        int64_t host_offset = step->host_offset + (i << q->cluster_bits);

        qcow2_l2_set(bs, step->slice, step->entry + (unsigned)i,
                     (Qcow2L2Entry){
                         (uint64_t)host_offset | QCOW2_ENTRY_COPIED,
                         q->subclusters > 1 ? QCOW2_BITMAP_ALL_ALLOC : 0 });
        q->allocated_since_barrier = true;
    }
    qcow2_l2_unpin(bs, step->slice);
    co_mutex_unlock(&q->lock);
}

int coroutine_fn qcow2_preallocate(BlockDriverState *bs, int64_t offset,
                                   int64_t end, BdrvPreallocMode prealloc)
{
    Qcow2State *q = qcow2_state(bs);
    int ret = 0;

    while (offset < end && ret >= 0) {
        Step step = { .bs = bs, .prealloc = prealloc };

        ret = qcow2_co_commit_if_due(bs);
        if (ret >= 0) {
            ret = begin(&step, offset, end);
        }
        if (ret > 0) {
            ret = make_zero(&step);
            publish(&step, ret);
        }
        offset += step.clusters << q->cluster_bits;
    }
    return MIN(ret, 0);
}
