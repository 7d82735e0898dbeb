/* SPDX-License-Identifier: MIT */
/*
 * reading many compressed clusters of a qcow2 image at once
 *
 *   descriptors ─▶ one read of the file, where they lie close together
 *               ─▶ decode: this thread and workers, each takes the next one
 *               ─▶ straight into the caller's memory
 *
 * Writers put one compressed cluster behind the other, so a long read of the
 * guest is a long one of the file, and the CPUs share the decoding. Clusters
 * that lie apart, or whose place in the caller's memory is in pieces, are read
 * one by one (compress.c).
 *
 * The same machinery decodes clusters into the cache before they are wanted:
 * then a worker does all of it, and this thread is free for requests.
 *
 * Locking: none. next, ret and active are atomic; the job is on the stack of
 * the reading coroutine, which goes on when active has become 0.
 */
#include "drivers/qcow2/compress_internal.h"

#include "block/io/debug_event.h"
#include "block/io/io.h"
#include "block/rt/buffer_pool.h"
#include "block/rt/thread_pool.h"

#include <errno.h>

/* More help than this costs more on the way than it saves. */
#define HELPERS_MAX 3
/* Bytes between clusters that are read along rather than read around. */
#define WASTE_MAX (1 * MIB)

typedef struct Batch Batch;

/* One worker's part in it. */
typedef struct Helper {
    ThreadPoolTask task;
    Batch *batch;
} Helper;

struct Batch {
    Qcow2Inflater *inflater;
    unsigned count;
    Qcow2CompressedExtent extent[QCOW2_INFLATER_BATCH_MAX];
    uint8_t *out[QCOW2_INFLATER_BATCH_MAX];
    const uint8_t *in; /* the bytes of the file from start on */
    int64_t start;
    int64_t bytes;
    Helper helper[HELPERS_MAX];
    Coroutine *co;
    unsigned next;   /* atomic: the next cluster to decode */
    int ret;         /* atomic: of one that failed */
    unsigned active; /* atomic: threads that may touch this */
};

/* Finds out what to read for it. False: the clusters go one by one. */
static bool batch_plan(Batch *batch, Qcow2Inflater *inflater,
                       int64_t file_bytes, const uint64_t *l2_entry,
                       unsigned count)
{
    int64_t end = 0;
    int64_t sum = 0;

    batch->inflater = inflater;
    batch->count = count;
    batch->next = 0;
    batch->ret = 0;
    batch->start = INT64_MAX;
    for (unsigned i = 0; i < count; i++) {
        Qcow2CompressedExtent *extent = &batch->extent[i];

        *extent = qcow2_compressed_extent(l2_entry[i],
                                          inflater->cluster_bits);
        if (!qcow2_compressed_extent_clip(extent, file_bytes)) {
            return false;
        }
        batch->start = MIN(batch->start, extent->host_offset);
        end = MAX(end, extent->host_offset + extent->bytes);
        sum += extent->bytes;
    }
    batch->bytes = end - batch->start;
    return batch->bytes - sum <= WASTE_MAX;
}

/* Is the caller's memory in one piece for each cluster? */
static bool batch_aim(Batch *batch, const IoVec *iov, size_t iov_offset)
{
    unsigned bits = batch->inflater->cluster_bits;

    for (unsigned i = 0; i < batch->count; i++) {
        batch->out[i] = iovec_contiguous(iov, iov_offset + ((size_t)i << bits),
                                         (size_t)1 << bits);
        if (!batch->out[i]) {
            return false;
        }
    }
    return true;
}

static void decode_some(Batch *batch)
{
    for (;;) {
        unsigned i = __atomic_fetch_add(&batch->next, 1, __ATOMIC_RELAXED);
        int ret;

        if (i >= batch->count) {
            return;
        }
        ret = qcow2_inflate(
            batch->inflater,
            batch->in + (batch->extent[i].host_offset - batch->start),
            batch->extent[i].bytes, batch->out[i],
            qcow2_inflater_cluster_bytes(batch->inflater));
        if (ret < 0) {
            __atomic_store_n(&batch->ret, ret, __ATOMIC_RELAXED);
        }
    }
}

/* True for the last one; for others the batch may be gone. */
static bool leave(Batch *batch)
{
    return __atomic_sub_fetch(&batch->active, 1, __ATOMIC_ACQ_REL) == 0;
}

static void helper_run(ThreadPoolTask *task)
{
    Batch *batch = ((Helper *)task)->batch;

    decode_some(batch);
    if (leave(batch)) {
        co_wake(batch->co);
    }
}

/* @helpers workers decode, and this thread, if @takes_part. */
static void coroutine_fn decode_all(Batch *batch, unsigned helpers,
                                    bool takes_part)
{
    batch->co = co_self();
    batch->active = 1 + helpers;
    for (unsigned i = 0; i < helpers; i++) {
        batch->helper[i] = (Helper) { { helper_run, NULL }, batch };
        thread_pool_submit(&batch->helper[i].task);
    }
    if (takes_part) {
        decode_some(batch);
    }
    if (!leave(batch)) {
        co_yield();
    }
}

/* Reads what the plan says and decodes it. */
static int coroutine_fn batch_run(Batch *batch, BdrvChild *file,
                                  unsigned helpers, bool takes_part)
{
    void *in = buffer_pool_get(batch->bytes);
    int ret;

    if (!in) {
        return -ENOMEM;
    }
    batch->in = in;
    bdrv_debug_event(file, BLOCK_DEBUG_READ_COMPRESSED);
    ret = bdrv_co_pread(file, batch->start, batch->bytes, in, /* flags= */ 0);
    if (ret == 0) {
        decode_all(batch, helpers, takes_part);
        ret = batch->ret;
    }
    buffer_pool_put(in, batch->bytes);
    return ret;
}

static int coroutine_fn read_one_by_one(Qcow2Inflater *inflater,
                                        BdrvChild *file, int64_t file_bytes,
                                        const uint64_t *l2_entry,
                                        unsigned count, IoVec *iov,
                                        size_t iov_offset)
{
    int64_t cluster_bytes = qcow2_inflater_cluster_bytes(inflater);
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < count; i++) {
        ret = qcow2_inflater_co_read(inflater, file, file_bytes, l2_entry[i],
                                     0, cluster_bytes, iov,
                                     iov_offset + i * cluster_bytes);
    }
    return ret;
}

/* Clusters that nobody has decoded. */
static int coroutine_fn read_group(Qcow2Inflater *inflater, BdrvChild *file,
                                   int64_t file_bytes,
                                   const uint64_t *l2_entry, unsigned count,
                                   IoVec *iov, size_t iov_offset)
{
    unsigned helpers = MIN(MIN(inflater->processors, count / 2),
                           HELPERS_MAX);
    Batch batch;

    if (count < 2 ||
        !batch_plan(&batch, inflater, file_bytes, l2_entry, count) ||
        !batch_aim(&batch, iov, iov_offset)) {
        return read_one_by_one(inflater, file, file_bytes, l2_entry, count,
                               iov, iov_offset);
    }
    return batch_run(&batch, file, helpers, /* takes_part= */ false);
}

/*
 * First what is to be decoded, then what read-ahead has decoded or is about
 * to: so both go on at the same time.
 */
int coroutine_fn qcow2_inflater_co_read_many(Qcow2Inflater *inflater,
                                             BdrvChild *file,
                                             int64_t file_bytes,
                                             const uint64_t *l2_entry,
                                             unsigned count, IoVec *iov,
                                             size_t iov_offset)
{
    bool is_there[QCOW2_INFLATER_BATCH_MAX];
    unsigned bits = inflater->cluster_bits;
    unsigned end;
    int ret = 0;

    g_assert(count <= QCOW2_INFLATER_BATCH_MAX);
    for (unsigned i = 0; i < count; i++) {
        is_there[i] = qcow2_cache_has(inflater->cache, l2_entry[i]);
    }
    for (unsigned i = 0; ret == 0 && i < count; i = end) {
        for (end = i; end < count && is_there[end] == is_there[i]; end++) {
        }
        if (!is_there[i]) {
            ret = read_group(inflater, file, file_bytes, l2_entry + i,
                             end - i, iov, iov_offset + ((size_t)i << bits));
        }
    }
    for (unsigned i = 0; ret == 0 && i < count; i++) {
        if (is_there[i]) {
            ret = read_one_by_one(inflater, file, file_bytes, l2_entry + i,
                                  /* count= */ 1, iov,
                                  iov_offset + ((size_t)i << bits));
        }
    }
    return ret;
}

void coroutine_fn qcow2_inflater_co_prefetch(Qcow2Inflater *inflater,
                                             BdrvChild *file,
                                             int64_t file_bytes,
                                             const uint64_t *l2_entry,
                                             unsigned count)
{
    Qcow2CachedCluster *entry[QCOW2_INFLATER_BATCH_MAX];
    uint64_t claimed[QCOW2_INFLATER_BATCH_MAX];
    unsigned claims = 0;
    bool is_new, ok;
    Batch batch;

    g_assert(count <= QCOW2_INFLATER_BATCH_MAX);
    for (unsigned i = 0; i < count; i++) {
        entry[claims] = qcow2_cache_get(inflater->cache, l2_entry[i],
                                        QCOW2_CACHE_CLAIM, &is_new);
        if (entry[claims]) {
            batch.out[claims] = qcow2_cache_data(entry[claims]);
            claimed[claims++] = l2_entry[i];
        }
    }
    ok = claims > 0 &&
         batch_plan(&batch, inflater, file_bytes, claimed, claims) &&
         batch_run(&batch, file, /* helpers= */ 1, /* takes_part= */ false) ==
             0;
    for (unsigned i = 0; i < claims; i++) {
        qcow2_cache_publish(inflater->cache, entry[i], ok);
        if (ok) {
            qcow2_cache_put(inflater->cache, entry[i]);
        }
    }
}
