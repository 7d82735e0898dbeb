/* SPDX-License-Identifier: MIT */
/*
 * changing what an image is, not what it contains
 *
 * What can change is the format's; here is the length, which is the last to
 * change: everything else has been refused or done by then.
 *
 * Locking: none; control plane. The node is drained while its driver works.
 */
#include "block/image/amend.h"

#include "block/backend.h"
#include "block/graph/drain.h"
#include "block/image/create.h"

#include <inttypes.h>

/* *@ret_length -1: not asked for. */
static bool take_length(BlockBackend *blk, BlockOptions *options,
                        int64_t *ret_length, GError **error)
{
    int64_t length = -1;
    int64_t now = blk_length(blk);

    if (!block_options_take_size(options, "size", &length, error)) {
        return false;
    }
    if (length > BDRV_MAX_LENGTH) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "size is %" PRId64 ", more than %" PRId64, length,
                    BDRV_MAX_LENGTH);
        return false;
    }
    if (length >= 0 && length < now) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "size would shrink from %" PRId64 " to %" PRId64 " bytes "
                    "and lose what is behind; if that is meant, use "
                    "'imgfuse resize --shrink'", now, length);
        return false;
    }
    *ret_length = length;
    return true;
}

bool image_amend(BlockBackend *blk, BlockOptions *options,
                 const BlockAmendHow *how, GError **error)
{
    BlockDriverState *bs = bdrv_skip_filters(blk_bs(blk));
    int64_t length;
    bool ok;
    int ret;

    if (!bs->drv->amend) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "format '%s' has nothing that could be amended",
                    bs->drv->format_name);
        return false;
    }
    if (!take_length(blk, options, &length, error)) {
        return false;
    }
    bdrv_drained_begin(bs);
    ok = bs->drv->amend->amend(bs, options, how, error);
    bdrv_drained_end(bs);
    if (!ok || (length >= 0 &&
                !image_create_resize(blk, length, PREALLOC_OFF, error))) {
        return false;
    }
    ret = blk_flush(blk);
    if (ret < 0) {
        error_set_errno(error, -ret, "cannot flush");
    }
    return ret >= 0;
}
