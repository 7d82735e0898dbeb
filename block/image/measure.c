/* SPDX-License-Identifier: MIT */
/*
 * measuring: how large will the file of a new image be?
 *
 * Sizes of structures are the format's business (BlockCreateOps); here is
 * what all formats ask: how much does the source have, and are the options
 * right?
 *
 * Locking: none; control plane.
 */
#include "block/image/measure.h"

#include "block/backend.h"
#include "block/rt/aio_context.h"

#include <inttypes.h>

typedef struct DataWalk {
    BlockBackend *source;
    int64_t unit;
    int64_t offset;
    int64_t bytes; /* counted so far */
    int ret;
} DataWalk;

/*
 * Units are counted when something in them is met first: counted_end is where
 * the last one ends.
 */
static void coroutine_fn count_entry(void *opaque)
{
    DataWalk *walk = opaque;
    int64_t length = blk_length(walk->source);
    int64_t counted_end = 0;

    while (walk->offset < length) {
        BlockStatus status;
        int64_t end;

        walk->ret = blk_co_block_status(walk->source, /* want_zero= */ true,
                                        walk->offset, length - walk->offset,
                                        &status);
        if (walk->ret < 0) {
            return;
        }
        end = walk->offset + status.bytes;
        if (!(status.flags & BDRV_BLOCK_ZERO)) {
            int64_t first = MAX(align_down(walk->offset, walk->unit),
                                counted_end);

            counted_end = align_up(end, walk->unit);
            walk->bytes += counted_end - first;
        }
        walk->offset = end;
    }
}

bool image_measure_data(BlockBackend *source, int64_t unit, int64_t *ret_bytes,
                        GError **error)
{
    DataWalk walk = { .source = source, .unit = unit };

    aio_run_sync(count_entry, &walk);
    if (walk.ret < 0) {
        error_set_errno(error, -walk.ret, "cannot find out what is allocated "
                        "at offset %" PRId64, walk.offset);
        return false;
    }
    *ret_bytes = walk.bytes;
    return true;
}

bool image_measure(const char *format, BlockBackend *source, int64_t length,
                   const BlockOptions *options, BlockMeasure *ret_measure,
                   GError **error)
{
    const BlockDriver *driver = bdrv_find_format(format);
    g_autoptr(BlockOptions) own = options ? block_options_copy(options)
                                          : block_options_new();
    const char *unknown;

    if (!driver || !driver->create || !driver->create->measure) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    driver ? "images of format '%s' cannot be measured"
                           : "unknown format '%s'", format);
        return false;
    }
    if (!block_options_take_size(own, "size", &length, error)) {
        return false;
    }
    length = source ? blk_length(source) : length;
    if (length < 0 || length > BDRV_MAX_LENGTH) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "give the size of an image (--size, at most %" PRId64
                    " bytes), or an image", BDRV_MAX_LENGTH);
        return false;
    }
    ret_measure->bitmaps = -1;
    if (!driver->create->measure(source, length, own, ret_measure, error)) {
        return false;
    }
    unknown = block_options_first_key(own);
    if (unknown) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "format '%s' has no creation option '%s'", format,
                    unknown);
        return false;
    }
    return true;
}
