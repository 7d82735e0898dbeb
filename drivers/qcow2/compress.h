/* SPDX-License-Identifier: MIT */
/*
 * reading compressed clusters of a qcow2 image
 *
 * A compressed cluster is named by a 62-bit descriptor in its L2 entry: where
 * in the file the compressed bytes start and how many 512-byte sectors they
 * touch. This turns a descriptor into the cluster's content, and keeps a few
 * decoded clusters so that small sequential reads decode each only once.
 *
 * It knows nothing of guest offsets and L2 tables.
 */
#ifndef QCOW2_COMPRESS_H
#define QCOW2_COMPRESS_H

#include "block/types.h"

/* Bytes of decoded clusters that one image keeps. */
#define QCOW2_INFLATER_CACHE_BYTES (8 * MIB)

/* Where compressed bytes lie in the file. */
typedef struct Qcow2CompressedExtent {
    int64_t host_offset; /* any alignment */
    int64_t bytes;       /* to the end of the last sector; <= 2 clusters */
} Qcow2CompressedExtent;

/*
 * qcow2_compressed_extent:
 * Splits the descriptor in @l2_entry (the type bits are ignored) for clusters
 * of 1 << @cluster_bits bytes. Nothing is checked against the file.
 */
Qcow2CompressedExtent qcow2_compressed_extent(uint64_t l2_entry,
                                              unsigned cluster_bits);

/*
 * Cuts off what the file lacks of the last sector, which writers need not
 * fill. False: more is missing, the descriptor is broken.
 */
bool qcow2_compressed_extent_clip(Qcow2CompressedExtent *extent,
                                  int64_t file_bytes);

/* Decoders and decoded clusters of one image. */
typedef struct Qcow2Inflater Qcow2Inflater;

/*
 * @compression_type as in the header (QCOW2_COMPRESSION_*), checked by the
 * caller. Control plane. Never fails: memory comes with use.
 */
Qcow2Inflater *qcow2_inflater_new(unsigned compression_type,
                                  unsigned cluster_bits);

/* No reader may be left. NULL is harmless. */
void qcow2_inflater_free(Qcow2Inflater *inflater);

/*
 * qcow2_inflater_co_read:
 * Copies [@in_cluster, @in_cluster + @bytes) of the cluster that @l2_entry
 * describes to @iov at @iov_offset. The range stays within the cluster.
 *
 * @file_bytes: the length of @file's node; bytes past it are not read.
 * Returns 0; -EIO when the extent lies past the end of the file, or the data
 *   is not exactly one cluster (garbage, too short, too long); -ENOMEM.
 * Memory: one decoded cluster and at most two clusters of compressed bytes.
 * Context: coroutine, any I/O thread, many at a time. The caller keeps the
 *   host bytes from being reused meanwhile.
 */
int coroutine_fn qcow2_inflater_co_read(Qcow2Inflater *inflater,
                                        BdrvChild *file, int64_t file_bytes,
                                        uint64_t l2_entry, int64_t in_cluster,
                                        int64_t bytes, IoVec *iov,
                                        size_t iov_offset);

/* Bytes that qcow2_inflater_co_read_many() takes at once, at most. */
#define QCOW2_INFLATER_BATCH_BYTES (2 * MIB)
#define QCOW2_INFLATER_BATCH_MAX 32 /* clusters, at most */

/*
 * qcow2_inflater_co_read_many:
 * Fills @iov from @iov_offset on with @count whole clusters, which one read of
 * the file may fetch and several threads decode. Otherwise like
 * qcow2_inflater_co_read(); on error the contents are undefined.
 */
int coroutine_fn qcow2_inflater_co_read_many(Qcow2Inflater *inflater,
                                             BdrvChild *file,
                                             int64_t file_bytes,
                                             const uint64_t *l2_entry,
                                             unsigned count, IoVec *iov,
                                             size_t iov_offset);

/*
 * qcow2_inflater_co_prefetch:
 * Has a worker decode the clusters, of which nobody has or decodes, into the
 * cache. Whoever reads one meanwhile waits for it. Errors are left for the
 * readers to meet. Otherwise like qcow2_inflater_co_read_many().
 */
void coroutine_fn qcow2_inflater_co_prefetch(Qcow2Inflater *inflater,
                                             BdrvChild *file,
                                             int64_t file_bytes,
                                             const uint64_t *l2_entry,
                                             unsigned count);

/*
 * qcow2_inflater_invalidate:
 * Forgets every decoded cluster. To be called when host clusters that held
 * compressed data become allocatable again: after the grace period that ends
 * every reader of the old entry, before the first new use. Any thread.
 */
void qcow2_inflater_invalidate(Qcow2Inflater *inflater);

/*
 * qcow2_inflate:
 * The decoding alone: exactly @out_bytes from @in. Garbage behind the end of
 * the compressed stream is normal (the descriptor counts whole sectors).
 * 0 or -EIO. Any thread.
 */
int qcow2_inflate(Qcow2Inflater *inflater, const void *in, size_t in_bytes,
                  void *out, size_t out_bytes);

/* How many bytes a cluster has. */
int64_t qcow2_inflater_cluster_bytes(const Qcow2Inflater *inflater);

#endif
