/* SPDX-License-Identifier: MIT */
/*
 * the backing file's name in a qcow2 header changes
 *
 * How the header is written is rewrite.c's. A raw data file has to be the
 * whole disk, so such an image has no backing file.
 *
 * Locking: control plane, node drained: nobody else writes the header.
 */
#include "drivers/qcow2/data_file.h"
#include "drivers/qcow2/rewrite.h"

#include "block/io/io.h"

#include <errno.h>

bool qcow2_change_backing_file(BlockDriverState *bs, const char *name,
                               const char *format, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2Header wanted = q->header; /* its strings stay the header's */
    int ret = bs->read_only ? -EROFS : bdrv_flush(bs);

    if (ret == 0 && name && qcow2_data_is_raw(q)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: has a raw data file, so it cannot have a backing "
                    "file", bdrv_name(bs));
        return false;
    }
    /* What a writer does not understand it must clear. */
    wanted.autoclear &= QCOW2_KNOWN_AUTOCLEAR;
    wanted.backing_name = (char *)name;
    wanted.backing_format = (char *)format;
    if (ret < 0) {
        error_set_errno(error, -ret, "cannot flush");
    }
    if (ret < 0 || !qcow2_header_rewrite(bs, &wanted, error)) {
        g_prefix_error(error, "%s: changing the backing file's name to '%s': ",
                       bdrv_name(bs), name ? name : "");
        return false;
    }
    return true;
}
