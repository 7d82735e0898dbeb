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
 * the compressed stream there belongs to somebody else and is ignored. A
 * stream is raw deflate (no zlib header) or zstd frames.
 *
 * Decoded clusters are kept in a few shards, least recently used first out.
 * An entry is found by its descriptor and the generation in which it was
 * decoded; raising the generation forgets all at once.
 *
 * Always true outside a function of this file:
 *  C1  an entry with users > 0 is neither evicted nor refilled;
 *  C2  an entry in state READY holds the whole decoded cluster and its data
 *      does not change until it is evicted;
 *  C3  one cluster is decoded by one coroutine at a time: others that want it
 *      wait for the LOADING entry.
 *
 * Locking: shard->lock protects the shard's entries but for the data of
 * pinned ones. It is not held across I/O and decoding. inflater->idle_lock
 * protects the list of idle decoders, is innermost.
 */
#include "drivers/qcow2/compress.h"

#include "block/io/debug_event.h"
#include "block/io/io.h"
#include "block/rt/buffer_pool.h"
#include "block/rt/comutex.h"
#include "drivers/qcow2/format.h"

#include <errno.h>
#include <libdeflate.h>
#include <zstd.h>

#define SECTOR_BYTES 512
#define SHARDS 4
#define SHARD_ENTRIES_MIN 1
#define SHARD_ENTRIES_MAX 32
#define IDLE_DECODERS_MAX 16

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
} Shard;

/* One thread's tools while it decodes. */
typedef struct Decoder {
    struct libdeflate_decompressor *deflate;
    ZSTD_DCtx *zstd;
} Decoder;

struct Qcow2Inflater {
    unsigned compression_type;
    unsigned cluster_bits;
    uint64_t generation; /* atomic */
    GMutex idle_lock;
    unsigned idle_count;
    Decoder idle[IDLE_DECODERS_MAX];
    Shard shard[SHARDS];
};

/* One cluster to read and decode. */
typedef struct LoadJob {
    Qcow2Inflater *inflater;
    const uint8_t *in;
    size_t in_bytes;
    uint8_t *out;
} LoadJob;

Qcow2CompressedExtent qcow2_compressed_extent(uint64_t l2_entry,
                                              unsigned cluster_bits)
{
    unsigned offset_bits = 62 - (cluster_bits - 8);
    uint64_t descriptor = l2_entry & ((UINT64_C(1) << 62) - 1);
    int64_t offset = descriptor & ((UINT64_C(1) << offset_bits) - 1);
    int64_t sectors = (descriptor >> offset_bits) + 1;

    return (Qcow2CompressedExtent) {
        .host_offset = offset,
        .bytes = sectors * SECTOR_BYTES - offset % SECTOR_BYTES,
    };
}

Qcow2Inflater *qcow2_inflater_new(unsigned compression_type,
                                  unsigned cluster_bits)
{
    Qcow2Inflater *inflater = g_new0(Qcow2Inflater, 1);
    int64_t fit = (QCOW2_INFLATER_CACHE_BYTES / SHARDS) >> cluster_bits;

    inflater->compression_type = compression_type;
    inflater->cluster_bits = cluster_bits;
    g_mutex_init(&inflater->idle_lock);
    for (int i = 0; i < SHARDS; i++) {
        Shard *shard = &inflater->shard[i];

        co_mutex_init(&shard->lock);
        co_queue_init(&shard->loaded);
        shard->entries = CLAMP(fit, SHARD_ENTRIES_MIN, SHARD_ENTRIES_MAX);
    }
    return inflater;
}

static void decoder_free(Decoder *decoder)
{
    if (decoder->deflate) {
        libdeflate_free_decompressor(decoder->deflate);
    }
    (void) ZSTD_freeDCtx(decoder->zstd); /* NULL is fine, no error for us */
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
    for (unsigned i = 0; i < inflater->idle_count; i++) {
        decoder_free(&inflater->idle[i]);
    }
    g_mutex_clear(&inflater->idle_lock);
    g_free(inflater);
}

void qcow2_inflater_invalidate(Qcow2Inflater *inflater)
{
    __atomic_fetch_add(&inflater->generation, 1, __ATOMIC_SEQ_CST);
}

/* -- decoding ------------------------------------------------------------ */

/* An idle decoder, or a new one. False: no memory. */
static bool decoder_get(Qcow2Inflater *inflater, Decoder *ret_decoder)
{
    Decoder decoder = { NULL, NULL };

    g_mutex_lock(&inflater->idle_lock);
    if (inflater->idle_count > 0) {
        decoder = inflater->idle[--inflater->idle_count];
    }
    g_mutex_unlock(&inflater->idle_lock);

    if (inflater->compression_type == QCOW2_COMPRESSION_ZSTD) {
        if (!decoder.zstd) {
            decoder.zstd = ZSTD_createDCtx();
        }
    } else if (!decoder.deflate) {
        decoder.deflate = libdeflate_alloc_decompressor();
    }
    *ret_decoder = decoder;
    return decoder.zstd || decoder.deflate;
}

static void decoder_put(Qcow2Inflater *inflater, Decoder decoder)
{
    g_mutex_lock(&inflater->idle_lock);
    if (inflater->idle_count < IDLE_DECODERS_MAX) {
        inflater->idle[inflater->idle_count++] = decoder;
        decoder = (Decoder) { NULL, NULL };
    }
    g_mutex_unlock(&inflater->idle_lock);
    decoder_free(&decoder);
}

static int inflate_deflate(struct libdeflate_decompressor *deflate,
                           const void *in, size_t in_bytes, void *out,
                           size_t out_bytes)
{
    size_t in_used;
    size_t out_used;

    /* A stream longer than a cluster is INSUFFICIENT_SPACE: a bomb. */
    if (libdeflate_deflate_decompress_ex(deflate, in, in_bytes, out, out_bytes,
                                         &in_used, &out_used) !=
        LIBDEFLATE_SUCCESS) {
        return -EIO;
    }
    return out_used == out_bytes ? 0 : -EIO;
}

/*
 * Frame by frame, because garbage may follow. Decoding in one go needs no
 * window memory, whatever the frame's header asks for.
 */
static int inflate_zstd(ZSTD_DCtx *zstd, const uint8_t *in, size_t in_bytes,
                        uint8_t *out, size_t out_bytes)
{
    while (out_bytes > 0) {
        size_t frame_bytes = ZSTD_findFrameCompressedSize(in, in_bytes);
        size_t got;

        if (ZSTD_isError(frame_bytes) || frame_bytes == 0) {
            return -EIO;
        }
        got = ZSTD_decompressDCtx(zstd, out, out_bytes, in, frame_bytes);
        if (ZSTD_isError(got)) {
            return -EIO;
        }
        in += frame_bytes;
        in_bytes -= frame_bytes;
        out += got;
        out_bytes -= got;
    }
    return 0;
}

int qcow2_inflate(Qcow2Inflater *inflater, const void *in, size_t in_bytes,
                  void *out, size_t out_bytes)
{
    Decoder decoder;
    int ret;

    if (!decoder_get(inflater, &decoder)) {
        return -ENOMEM;
    }
    if (inflater->compression_type == QCOW2_COMPRESSION_ZSTD) {
        ret = inflate_zstd(decoder.zstd, in, in_bytes, out, out_bytes);
    } else {
        ret = inflate_deflate(decoder.deflate, in, in_bytes, out, out_bytes);
    }
    decoder_put(inflater, decoder);
    return ret;
}

/* Has the shape that a worker thread would call, were it worth the way. */
static int load_job_run(void *opaque)
{
    LoadJob *job = opaque;

    return qcow2_inflate(job->inflater, job->in, job->in_bytes, job->out,
                         (size_t)1 << job->inflater->cluster_bits);
}

/*
 * Reads the extent and decodes it to @out. The last sector may stick out of
 * the file (writers need not pad it); anything more is a broken descriptor.
 */
static int coroutine_fn load_cluster(Qcow2Inflater *inflater, BdrvChild *file,
                                     int64_t file_bytes, uint64_t l2_entry,
                                     uint8_t *out)
{
    Qcow2CompressedExtent extent =
        qcow2_compressed_extent(l2_entry, inflater->cluster_bits);
    int64_t bytes = extent.bytes;
    LoadJob job;
    uint8_t *in;
    int ret;

    if (extent.host_offset >= file_bytes ||
        bytes - (file_bytes - extent.host_offset) >= SECTOR_BYTES) {
        return -EIO;
    }
    bytes = MIN(bytes, file_bytes - extent.host_offset);
    in = buffer_pool_get(bytes);
    if (!in) {
        return -ENOMEM;
    }

    bdrv_debug_event(file, BLOCK_DEBUG_READ_COMPRESSED);
    ret = bdrv_co_pread(file, extent.host_offset, bytes, in, /* flags= */ 0);
    if (ret == 0) {
        job = (LoadJob) { inflater, in, bytes, out };
        /*
         * Inline: a 64 KiB cluster takes about as long as the way to another
         * thread and back, and other I/O threads go on meanwhile.
         */
        ret = load_job_run(&job);
    }
    buffer_pool_put(in, bytes);
    return ret;
}

/* -- the cache of decoded clusters --------------------------------------- */

static Shard *shard_of(Qcow2Inflater *inflater, uint64_t descriptor)
{
    uint64_t hash = descriptor * UINT64_C(0x9e3779b97f4a7c15);

    return &inflater->shard[(hash >> 60) % SHARDS];
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

/*
 * Finds the entry of @l2_entry and pins it, decoding when it is missing.
 * 0 with NULL in *@ret_entry: there is no room, do without the cache.
 */
static int coroutine_fn cache_get(Qcow2Inflater *inflater, Shard *shard,
                                  BdrvChild *file, int64_t file_bytes,
                                  uint64_t l2_entry, Entry **ret_entry)
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
    entry = shard_victim(shard, (size_t)1 << inflater->cluster_bits);
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

    ret = load_cluster(inflater, file, file_bytes, l2_entry, entry->data);

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
    size_t cluster_bytes = (size_t)1 << inflater->cluster_bits;
    uint8_t *data = buffer_pool_get(cluster_bytes);
    int ret;

    if (!data) {
        return -ENOMEM;
    }
    ret = load_cluster(inflater, file, file_bytes, l2_entry, data);
    if (ret == 0) {
        iovec_from_buffer(iov, iov_offset, data + in_cluster, bytes);
    }
    buffer_pool_put(data, cluster_bytes);
    return ret;
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
    if (bytes == (int64_t)1 << inflater->cluster_bits &&
        (whole = iovec_contiguous(iov, iov_offset, bytes)) != NULL) {
        return load_cluster(inflater, file, file_bytes, l2_entry, whole);
    }

    ret = cache_get(inflater, shard, file, file_bytes, l2_entry, &entry);
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
