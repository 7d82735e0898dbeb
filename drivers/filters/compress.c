/* SPDX-License-Identifier: MIT */
/*
 * compress: turns writes of whole clusters into compressed ones
 *
 * A write is split at cluster boundaries. What covers a whole cluster (or the
 * image's shorter last one) is written compressed; parts of a cluster, and
 * what the format refuses to compress with -ENOTSUP, are written as they are.
 *
 * Locking: none; the state is constant after open.
 */
#include "drivers/registry.h"

#include "block/graph/open.h"
#include "block/io/io.h"

#include <errno.h>

typedef struct CompressState {
    int64_t cluster_bytes;
} CompressState;

/* A cluster size of the node that gets the compressed writes; 0: none. */
static int64_t compressible_cluster_bytes(BlockDriverState *bs)
{
    BlockDriverState *target = bdrv_skip_filters(bs);
    BlockDriverInfo info = { .cluster_bytes = -1 };

    if (target->drv == NULL || !target->drv->get_info(target, &info) ||
        info.cluster_bytes <= 0) {
        return 0;
    }
    return info.cluster_bytes;
}

/*
 * The cluster size is asked once: formats do not change it while open. Which
 * node that is may lie below further filters.
 */
static bool compress_open(BlockDriverState *bs, BlockOptions *options,
                          BdrvOpenFlags flags, GError **error)
{
    CompressState *s = bs->opaque;

    if (!bdrv_open_file_child(bs, options, error)) {
        return false;
    }
    s->cluster_bytes = compressible_cluster_bytes(bs->file->bs);
    if (s->cluster_bytes == 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s has no clusters to compress",
                    bdrv_name(bs->file->bs));
        return false;
    }
    bs->length = bdrv_node_length(bs->file->bs);
    /* Not FUA: a compressed write has none, the block layer flushes. */
    bs->supported_write_flags = BDRV_REQ_WRITE_UNCHANGED;
    bs->supported_zero_flags = bs->file->bs->supported_zero_flags;
    return true;
}

/* Reading is the format's: it knows by its tables what is compressed. */
static int coroutine_fn compress_co_preadv(BlockDriverState *bs,
                                           int64_t offset, int64_t bytes,
                                           IoVec *iov, size_t iov_offset,
                                           BdrvRequestFlags flags)
{
    return bdrv_co_preadv(bs->file, offset, bytes, iov, iov_offset, flags);
}

/* One cluster, or the image's last, shorter one. */
static bool is_compressible(BlockDriverState *bs, int64_t offset,
                            int64_t bytes)
{
    CompressState *s = bs->opaque;

    return is_aligned(offset, s->cluster_bytes) &&
           (bytes == s->cluster_bytes ||
            (bytes < s->cluster_bytes &&
             offset + bytes == bdrv_node_length(bs)));
}

/*
 * Cluster by cluster, since a compressed write is one cluster. Parts of a
 * cluster, and clusters that a compressed write may not replace (-ENOTSUP),
 * are written as they are: the image is then larger, but never wrong.
 */
static int coroutine_fn compress_co_pwritev(BlockDriverState *bs,
                                            int64_t offset, int64_t bytes,
                                            IoVec *iov, size_t iov_offset,
                                            BdrvRequestFlags flags)
{
    CompressState *s = bs->opaque;

    while (bytes > 0) {
        int64_t in_cluster = offset & (s->cluster_bytes - 1);
        int64_t part = MIN(bytes, s->cluster_bytes - in_cluster);
        int ret = -ENOTSUP;

        if (is_compressible(bs, offset, part)) {
            ret = bdrv_co_pwritev(bs->file, offset, part, iov, iov_offset,
                                  flags | BDRV_REQ_WRITE_COMPRESSED);
        }
        if (ret == -ENOTSUP) {
            ret = bdrv_co_pwritev(bs->file, offset, part, iov, iov_offset,
                                  flags);
        }
        if (ret < 0) {
            return ret;
        }
        offset += part;
        iov_offset += part;
        bytes -= part;
    }
    return 0;
}

/* Whoever can choose shall write whole clusters: only these are compressed. */
static void compress_refresh_limits(BlockDriverState *bs)
{
    CompressState *s = bs->opaque;

    bs->limits.opt_transfer = MAX(bs->limits.opt_transfer, s->cluster_bytes);
}

const BlockDriver bdrv_compress = {
    .format_name = "compress",
    .instance_size = sizeof(CompressState),
    .is_filter = true,
    .open = compress_open,
    .refresh_limits = compress_refresh_limits,
    .co_preadv = compress_co_preadv,
    .co_pwritev = compress_co_pwritev,
    .co_copy_range_to = bdrv_refuse_copy_range,
};
