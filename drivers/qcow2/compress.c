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
 * Whoever wants some bytes in the middle of a cluster, and did not lately want
 * others of it, will hardly come back: only as much is decoded as it takes,
 * and nothing is kept.
 *
 * compress_batch.c decodes several whole clusters at once.
 *
 * Locking: none; compress_cache.c keeps the decoded clusters.
 */
#include "drivers/qcow2/compress_internal.h"

#include "block/io/debug_event.h"
#include "block/io/io.h"
#include "block/rt/buffer_pool.h"
#include "drivers/qcow2/format.h"

#include <errno.h>

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

    inflater->decoders = qcow2_decoders_new(compression_type);
    inflater->cluster_bits = cluster_bits;
    inflater->processors = g_get_num_processors();
    inflater->cache = qcow2_cache_new(QCOW2_INFLATER_CACHE_BYTES,
                                      INT64_C(1) << cluster_bits);
    return inflater;
}

void qcow2_inflater_free(Qcow2Inflater *inflater)
{
    if (inflater) {
        qcow2_cache_free(inflater->cache);
        qcow2_decoders_free(inflater->decoders);
        g_free(inflater);
    }
}

int64_t qcow2_inflater_cluster_bytes(const Qcow2Inflater *inflater)
{
    return (int64_t)1 << inflater->cluster_bits;
}

void qcow2_inflater_invalidate(Qcow2Inflater *inflater)
{
    qcow2_cache_invalidate(inflater->cache);
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

/* -- reading -------------------------------------------------------------- */

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
    Qcow2CacheWish wish = QCOW2_CACHE_MAKE;
    Qcow2CachedCluster *entry;
    void *whole = NULL;
    bool is_new;
    int ret = 0;

    g_assert(range_within(in_cluster, bytes,
                          UINT64_C(1) << inflater->cluster_bits));
    if (bytes == qcow2_inflater_cluster_bytes(inflater)) {
        whole = iovec_contiguous(iov, iov_offset, bytes);
    }
    if (whole) {
        wish = QCOW2_CACHE_FIND; /* nobody comes back for such a cluster */
    } else if (is_passing(inflater, in_cluster, bytes)) {
        wish = QCOW2_CACHE_PASSING;
    }
    entry = qcow2_cache_get(inflater->cache, l2_entry, wish, &is_new);
    if (is_new) {
        ret = load_cluster(inflater, file, file_bytes, l2_entry,
                           qcow2_cache_data(entry),
                           qcow2_inflater_cluster_bytes(inflater));
        qcow2_cache_publish(inflater->cache, entry, ret == 0);
    }
    if (ret < 0) {
        return ret;
    }
    if (entry) {
        iovec_from_buffer(iov, iov_offset,
                          qcow2_cache_data(entry) + in_cluster, bytes);
        qcow2_cache_put(inflater->cache, entry);
        return 0;
    }
    return whole ? load_cluster(inflater, file, file_bytes, l2_entry, whole,
                                bytes)
                 : read_uncached(inflater, file, file_bytes, l2_entry,
                                 in_cluster, bytes, iov, iov_offset);
}
