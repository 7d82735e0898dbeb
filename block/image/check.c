/* SPDX-License-Identifier: MIT */
/*
 * checking an image's structures, and repairing them
 *
 * Finds the node that has structures, keeps everybody else away from it while
 * the driver walks, and bounds how much is said about a badly damaged image.
 * What is wrong with an image is the driver's business.
 */
#include "block/image/check.h"

#include "block/graph/drain.h"

bool bdrv_check(BlockDriverState *bs, BlockCheckFix fix,
                BlockCheckResult *result, GError **error)
{
    bool ok;

    bs = bdrv_skip_filters(bs);
    if (!bs->drv || !bs->drv->check) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: format '%s' has nothing that could be checked",
                    bdrv_name(bs), bs->drv ? bs->drv->format_name : "none");
        return false;
    }
    if (fix != BLOCK_CHECK_FIX_NONE && bs->read_only) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_DENIED,
                    "%s: is open read-only, so it cannot be repaired",
                    bdrv_name(bs));
        return false;
    }

    bdrv_drained_begin(bs);
    ok = bs->drv->check->check(bs, fix, result, error);
    bdrv_drained_end(bs);
    return ok;
}

void block_check_report(BlockCheckResult *result, const char *format, ...)
{
    g_autofree char *line = NULL;
    va_list args;

    if (!result->report || result->reports > BLOCK_CHECK_REPORTS_MAX) {
        return;
    }
    if (result->reports++ == BLOCK_CHECK_REPORTS_MAX) {
        result->report("more findings are counted, but not shown",
                       result->report_opaque);
        return;
    }
    va_start(args, format);
    line = g_strdup_vprintf(format, args);
    va_end(args);
    result->report(line, result->report_opaque);
}
