/* SPDX-License-Identifier: MIT */
/*
 * reading compressed clusters of a qcow2 image
 *
 * The descriptor (qcow2 spec, "Compressed Clusters Descriptor") for clusters
 * of 2^n bytes, with x = 62 - (n - 8):
 *
 *    61          x x-1                              0
 *   [more sectors ][ host offset, any byte            ]
 *
 * The extent ends with the sector that holds its last byte, so what follows
 * the compressed stream there belongs to somebody else and is ignored.
 *
 * Decoded clusters are kept in a few shards, least recently used first out.
 * An entry is found by its descriptor and the generation in which it was
 * decoded; raising the generation forgets all at once.
 *
 * Whoever wants some bytes in the middle of a cluster, and did not lately want
 * others of it, will hardly come back: only as much is decoded as it takes,
 * and nothing is kept.
 *
 * compress_batch.c decodes several whole clusters at once.
 *
 * Always true outside a function of this file:
 *  C1  an entry with users > 0 is neither evicted nor refilled;
 *  C2  an entry in state READY holds the whole decoded cluster and its data
 *      does not change until it is evicted;
 *  C3  one cluster is decoded by one coroutine at a time: others that want it
 *      wait for the LOADING entry.
 *
 * Locking: shard->lock protects the shard's entries but for the data of
 * pinned ones, and touched. It is not held across I/O and decoding.
 */
#include "drivers/qcow2/compress.h"

#include "block/io/debug_event.h"
#include "block/io/io.h"
#include "block/rt/buffer_pool.h"
#include "block/rt/comutex.h"
#include "drivers/qcow2/format.h"
#include "drivers/qcow2/inflate.h"

#include <errno.h>

#define SHARDS 4
#define SHARD_ENTRIES_MIN 1
#define SHARD_ENTRIES_MAX 32
/* Clusters of which a shard knows that some bytes were wanted. */
#define SHARD_TOUCHED 64

typedef enum EntryState {
    ENTRY_EMPTY,
    ENTRY_LOADING, /* pinned by the coroutine that decodes it */
    ENTRY_READY,
} EntryState;

typedef struct Entry {
    uint64_t descriptor;
    uint64_t generation;
    uint64_t last_use; /* of shard->clock */
    EntryState state;
    unsigned users;
    uint8_t *data; /* one cluster, allocated at the first use */
} Entry;

typedef struct Shard {
    CoMutex lock;
    CoQueue loaded; /* woken when a LOADING entry changes its state */
    uint64_t clock;
    unsigned entries;
    Entry entry[SHARD_ENTRIES_MAX];
    uint64_t touched[SHARD_TOUCHED]; /* descriptors, by hash; 0: none */
} Shard;

struct Qcow2Inflater {
    unsigned cluster_bits;
    uint64_t generation; /* atomic */
    Qcow2Decoders *decoders;
    Shard shard[SHARDS];
};

Qcow2CompressedExtent qcow2_compressed_extent(uint64_t l2_entry,
                                              unsigned cluster_bits)
{
    return (Qcow2CompressedExtent) {
        .host_offset = qcow2_compressed_offset(l2_entry, cluster_bits),
        .bytes = qcow2_compressed_bytes(l2_entry, cluster_bits),
    };
}

bool qcow2_compressed_extent_clip(Qcow2CompressedExtent *extent,
                                  int64_t file_bytes)
{
    int64_t there = file_bytes - extent->host_offset;

    if (there <= 0 ||
        extent->bytes - there >= QCOW2_COMPRESSED_SECTOR_BYTES) {
        return false;
    }
    extent->bytes = MIN(extent->bytes, there);
    return true;
}

Qcow2Inflater *qcow2_inflater_new(unsigned compression_type,
                                  unsigned cluster_bits)
{
    Qcow2Inflater *inflater = g_new0(Qcow2Inflater, 1);
    int64_t fit = (QCOW2_INFLATER_CACHE_BYTES / SHARDS) >> cluster_bits;

    inflater->decoders = qcow2_decoders_new(compression_type);
    inflater->cluster_bits = cluster_bits;
    for (int i = 0; i < SHARDS; i++) {
        Shard *shard = &inflater->shard[i];

        co_mutex_init(&shard->lock);
        co_queue_init(&shard->loaded);
        shard->entries = CLAMP(fit, SHARD_ENTRIES_MIN, SHARD_ENTRIES_MAX);
    }
    return inflater;
}

void qcow2_inflater_free(Qcow2Inflater *inflater)
{
    if (!inflater) {
        return;
    }
    for (int i = 0; i < SHARDS; i++) {
        Shard *shard = &inflater->shard[i];

        for (unsigned j = 0; j < shard->entries; j++) {
            g_assert(shard->entry[j].users == 0);
            g_free(shard->entry[j].data);
        }
        co_queue_destroy(&shard->loaded);
        co_mutex_destroy(&shard->lock);
    }
    qcow2_decoders_free(inflater->decoders);
    g_free(inflater);
}

int64_t qcow2_inflater_cluster_bytes(const Qcow2Inflater *inflater)
{
    return (int64_t)1 << inflater->cluster_bits;
}

void qcow2_inflater_invalidate(Qcow2Inflater *inflater)
{
    __atomic_fetch_add(&inflater->generation, 1, __ATOMIC_SEQ_CST);
}

/* -- decoding ------------------------------------------------------------ */

int qcow2_inflate(Qcow2Inflater *inflater, const void *in, size_t in_bytes,
                  void *out, size_t out_bytes)
{
    return qcow2_decode(inflater->decoders, in, in_bytes, out, out_bytes);
}

/*
 * Reads the extent and decodes its first @out_bytes to @out, which are less
 * than a cluster only if that can be done.
 */
static int coroutine_fn load_cluster(Qcow2Inflater *inflater, BdrvChild *file,
                                     int64_t file_bytes, uint64_t l2_entry,
                                     uint8_t *out, int64_t out_bytes)
{
    Qcow2CompressedExtent extent =
        qcow2_compressed_extent(l2_entry, inflater->cluster_bits);
    uint8_t *in;
    int ret;

    if (!qcow2_compressed_extent_clip(&extent, file_bytes)) {
        return -EIO;
    }
    in = buffer_pool_get(extent.bytes);
    if (!in) {
        return -ENOMEM;
    }

    bdrv_debug_event(file, BLOCK_DEBUG_READ_COMPRESSED);
    ret = bdrv_co_pread(file, extent.host_offset, extent.bytes, in,
                        /* flags= */ 0);
    if (ret == 0) {
        /*
         * Inline: a 64 KiB cluster takes about as long as the way to another
         * thread and back, and other I/O threads go on meanwhile.
         */
        ret = out_bytes < qcow2_inflater_cluster_bytes(inflater)
                  ? qcow2_decode_prefix(inflater->decoders, in, extent.bytes,
                                        out, out_bytes)
                  : qcow2_decode(inflater->decoders, in, extent.bytes, out,
                                 out_bytes);
    }
    buffer_pool_put(in, extent.bytes);
    return ret;
}

/* -- the cache of decoded clusters --------------------------------------- */

static uint64_t hash_of(uint64_t descriptor)
{
    return descriptor * UINT64_C(0x9e3779b97f4a7c15);
}

static Shard *shard_of(Qcow2Inflater *inflater, uint64_t descriptor)
{
    return &inflater->shard[(hash_of(descriptor) >> 60) % SHARDS];
}

/* Called with the lock held. */
static Entry *shard_find(Shard *shard, uint64_t descriptor,
                         uint64_t generation)
{
    for (unsigned i = 0; i < shard->entries; i++) {
        Entry *entry = &shard->entry[i];

        if (entry->state != ENTRY_EMPTY && entry->descriptor == descriptor &&
            entry->generation == generation) {
            return entry;
        }
    }
    return NULL;
}

/*
 * The entry to give up: an empty one or the one unused for longest. NULL when
 * all are pinned (C1) or there is no memory. Called with the lock held.
 */
static Entry *shard_victim(Shard *shard, size_t cluster_bytes)
{
    Entry *victim = NULL;

    for (unsigned i = 0; i < shard->entries; i++) {
        Entry *entry = &shard->entry[i];

        if (entry->users > 0) {
            continue;
        }
        if (!victim || entry->state == ENTRY_EMPTY ||
            (victim->state != ENTRY_EMPTY &&
             entry->last_use < victim->last_use)) {
            victim = entry;
        }
    }
    if (victim && !victim->data) {
        victim->data = g_try_malloc(cluster_bytes);
    }
    return victim && victim->data ? victim : NULL;
}

/* Was it asked for lately? It is from now on. Called with the lock held. */
static bool touch(Shard *shard, uint64_t descriptor)
{
    uint64_t *slot =
        &shard->touched[(hash_of(descriptor) >> 32) % SHARD_TOUCHED];
    bool is_known = *slot == descriptor;

    *slot = descriptor;
    return is_known;
}

/*
 * Finds the entry of @l2_entry and pins it, decoding when it is missing.
 * 0 with NULL in *@ret_entry: do without the cache, as there is no room or
 * (@is_passing) nobody else asked for the cluster lately.
 */
static int coroutine_fn cache_get(Qcow2Inflater *inflater, Shard *shard,
                                  BdrvChild *file, int64_t file_bytes,
                                  uint64_t l2_entry, bool is_passing,
                                  Entry **ret_entry)
{
    uint64_t generation = __atomic_load_n(&inflater->generation,
                                          __ATOMIC_SEQ_CST);
    Entry *entry;
    int ret;

    *ret_entry = NULL;
    co_mutex_lock(&shard->lock);
    while ((entry = shard_find(shard, l2_entry, generation)) &&
           entry->state == ENTRY_LOADING) {
        co_queue_wait(&shard->loaded, &shard->lock);
    }
    if (entry) {
        entry->users++;
        entry->last_use = ++shard->clock;
        co_mutex_unlock(&shard->lock);
        *ret_entry = entry;
        return 0;
    }
    if (touch(shard, l2_entry) || !is_passing) {
        entry = shard_victim(shard, (size_t)1 << inflater->cluster_bits);
    }
    if (entry) {
        entry->descriptor = l2_entry;
        entry->generation = generation;
        entry->last_use = ++shard->clock;
        entry->state = ENTRY_LOADING;
        entry->users = 1;
    }
    co_mutex_unlock(&shard->lock);
    if (!entry) {
        return 0;
    }

    ret = load_cluster(inflater, file, file_bytes, l2_entry, entry->data,
                       qcow2_inflater_cluster_bytes(inflater));

    co_mutex_lock(&shard->lock);
    entry->state = ret == 0 ? ENTRY_READY : ENTRY_EMPTY;
    entry->users -= ret == 0 ? 0 : 1;
    co_queue_wake_all(&shard->loaded);
    co_mutex_unlock(&shard->lock);
    *ret_entry = ret == 0 ? entry : NULL;
    return ret;
}

static void coroutine_fn cache_put(Shard *shard, Entry *entry)
{
    co_mutex_lock(&shard->lock);
    entry->users--;
    co_mutex_unlock(&shard->lock);
}

/* Without the cache: into the caller's memory or a buffer of our own. */
static int coroutine_fn read_uncached(Qcow2Inflater *inflater, BdrvChild *file,
                                      int64_t file_bytes, uint64_t l2_entry,
                                      int64_t in_cluster, int64_t bytes,
                                      IoVec *iov, size_t iov_offset)
{
    int64_t wanted = qcow2_can_decode_prefix(inflater->decoders)
                         ? in_cluster + bytes
                         : qcow2_inflater_cluster_bytes(inflater);
    uint8_t *data = buffer_pool_get(wanted);
    int ret;

    if (!data) {
        return -ENOMEM;
    }
    ret = load_cluster(inflater, file, file_bytes, l2_entry, data, wanted);
    if (ret == 0) {
        iovec_from_buffer(iov, iov_offset, data + in_cluster, bytes);
    }
    buffer_pool_put(data, wanted);
    return ret;
}

/*
 * Bytes in the middle of a cluster: perhaps a random read. At the start it
 * looks like a sequential one.
 */
static bool is_passing(const Qcow2Inflater *inflater, int64_t in_cluster,
                       int64_t bytes)
{
    int64_t cluster_bytes = qcow2_inflater_cluster_bytes(inflater);

    return in_cluster > 0 && in_cluster + bytes < cluster_bytes &&
           qcow2_can_decode_prefix(inflater->decoders);
}

int coroutine_fn qcow2_inflater_co_read(Qcow2Inflater *inflater,
                                        BdrvChild *file, int64_t file_bytes,
                                        uint64_t l2_entry, int64_t in_cluster,
                                        int64_t bytes, IoVec *iov,
                                        size_t iov_offset)
{
    Shard *shard = shard_of(inflater, l2_entry);
    Entry *entry;
    void *whole;
    int ret;

    g_assert(range_within(in_cluster, bytes,
                          UINT64_C(1) << inflater->cluster_bits));
    /* Nobody comes back for a cluster that was read whole. */
    if (bytes == qcow2_inflater_cluster_bytes(inflater) &&
        (whole = iovec_contiguous(iov, iov_offset, bytes)) != NULL) {
        return load_cluster(inflater, file, file_bytes, l2_entry, whole,
                            bytes);
    }

    ret = cache_get(inflater, shard, file, file_bytes, l2_entry,
                    is_passing(inflater, in_cluster, bytes), &entry);
    if (ret < 0) {
        return ret;
    }
    if (!entry) {
        return read_uncached(inflater, file, file_bytes, l2_entry, in_cluster,
                             bytes, iov, iov_offset);
    }
    iovec_from_buffer(iov, iov_offset, entry->data + in_cluster, bytes);
    cache_put(shard, entry);
    return 0;
}
