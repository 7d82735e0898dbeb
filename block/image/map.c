/* SPDX-License-Identifier: MIT */
/*
 * the allocation map of an image: which layer has what, and where
 *
 * Layer by layer from the top, filters overlooked, until one says data or
 * zeros; then the next range. An extent is held back until its neighbour turns
 * out to be of another kind, so that one entry of the map is as long as can be.
 *
 * Locking: none; one coroutine of the control plane.
 */
#include "block/image/map.h"

#include "block/graph/edge.h"
#include "block/graph/node.h"
#include "block/io/status.h"
#include "block/rt/aio_context.h"

#include <inttypes.h>

typedef struct MapWalk {
    BlockBackend *blk;
    int64_t offset;
    int64_t end;
    ImageMapVisit *visit;
    void *opaque;
    int ret;
} MapWalk;

/* The longest extent from @offset on that one answer covers. */
static int coroutine_fn ask(MapWalk *walk, ImageMapExtent *ret_extent)
{
    BlockDriverState *bs = bdrv_skip_filters(blk_bs(walk->blk));
    BlockStatus status = { .bytes = walk->end - walk->offset };
    int depth = 0;

    for (;;) {
        BdrvChild *below;
        int ret = bdrv_co_block_status(bs, /* want_zero= */ true, walk->offset,
                                       status.bytes, &status);

        if (ret < 0) {
            return ret;
        }
        below = bdrv_cow_child(bs);
        if (status.flags & (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO) || !below) {
            break;
        }
        bs = bdrv_skip_filters(below->bs);
        depth++;
    }
    *ret_extent = (ImageMapExtent) {
        .start = walk->offset,
        .length = status.bytes,
        .depth = depth,
        .is_present = status.flags & BDRV_BLOCK_ALLOCATED,
        .reads_zeros = status.flags & BDRV_BLOCK_ZERO,
        .is_data = status.flags & BDRV_BLOCK_DATA,
        .is_compressed = status.flags & BDRV_BLOCK_COMPRESSED,
        .has_offset = status.flags & BDRV_BLOCK_OFFSET_VALID,
    };
    if (ret_extent->has_offset) {
        ret_extent->host_offset = status.host_offset;
        ret_extent->file = status.file;
    }
    return 0;
}

/* Does @next go on where @extent ends, here and in the file? */
static bool can_join(const ImageMapExtent *extent, const ImageMapExtent *next)
{
    return extent->depth == next->depth &&
           extent->is_present == next->is_present &&
           extent->reads_zeros == next->reads_zeros &&
           extent->is_data == next->is_data &&
           extent->is_compressed == next->is_compressed &&
           extent->has_offset == next->has_offset &&
           extent->file == next->file &&
           (!extent->has_offset ||
            extent->host_offset + extent->length == next->host_offset);
}

static void coroutine_fn walk_entry(void *opaque)
{
    MapWalk *walk = opaque;
    ImageMapExtent held = { .length = 0 };

    while (walk->offset < walk->end) {
        ImageMapExtent next;

        walk->ret = ask(walk, &next);
        if (walk->ret < 0) {
            break;
        }
        walk->offset += next.length;
        if (held.length && can_join(&held, &next)) {
            held.length += next.length;
            continue;
        }
        if (held.length && !walk->visit(&held, walk->opaque)) {
            return;
        }
        held = next;
    }
    if (held.length) {
        (void) walk->visit(&held, walk->opaque); /* the last one anyway */
    }
}

bool image_map(BlockBackend *blk, int64_t start, int64_t length,
               ImageMapVisit *visit, void *opaque, GError **error)
{
    int64_t end = blk_length(blk);
    MapWalk walk = { .blk = blk, .offset = start, .visit = visit,
                     .opaque = opaque };

    walk.end = start >= end || length >= end - start ? end : start + length;
    aio_run_sync(walk_entry, &walk);
    if (walk.ret < 0) {
        error_set_errno(error, -walk.ret, "cannot find out what is allocated "
                        "at offset %" PRId64, walk.offset);
    }
    return walk.ret == 0;
}
