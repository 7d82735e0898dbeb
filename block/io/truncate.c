/* SPDX-License-Identifier: MIT */
/*
 * changing and asking the length of a node
 *
 * Everything from the smaller of the two lengths on is kept free of other
 * requests while the driver works. An overlay that grows shows zeros in its
 * new part even where the backing file is longer: they are written before the
 * new length becomes visible; if that fails the old length is restored.
 *
 * Locking: none; the serialising request excludes other truncates.
 */
#include "block/driver.h"
#include "block/graph/op_blocker.h"
#include "block/io/bitmap.h"
#include "block/io/flush.h"
#include "block/io/internal.h"
#include "block/io/io.h"
#include "block/io/status.h"

#include <errno.h>

int64_t coroutine_fn bdrv_co_getlength(BlockDriverState *bs)
{
    int64_t length;

    if (!bs->drv) {
        return -ENOMEDIUM;
    }
    if (!bs->drv->has_variable_length) {
        return bdrv_node_length(bs);
    }
    length = bs->drv->co_getlength(bs);
    if (length > BDRV_MAX_LENGTH) {
        return -EFBIG;
    }
    if (length >= 0) {
        __atomic_store_n(&bs->length, length, __ATOMIC_RELEASE);
    }
    return length;
}

/* 0, or -errno with @error: may @bs be given @length at all? */
static int check_truncate(const BdrvChild *child, int64_t length,
                          GError **error)
{
    const BlockDriverState *bs = child->bs;
    int ret = 0;

    if (!bs->drv) {
        ret = -ENOMEDIUM;
    } else if (bs->inactive) {
        ret = -EPERM;
    } else if (length < 0) {
        ret = -EINVAL;
    } else if (length > BDRV_MAX_LENGTH) {
        ret = -EFBIG;
    } else if (bs->read_only) {
        ret = -EROFS;
    }
    if (ret < 0) {
        error_set_errno(error, -ret, "cannot resize '%s' to %" G_GINT64_FORMAT
                        " bytes", bdrv_name(bs), length);
        return ret;
    }
    g_assert(bdrv_child_perm(child) & BLK_PERM_RESIZE);
    if (bdrv_op_is_blocked_now(bs, BDRV_OP_RESIZE)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CONFLICT,
                    "the length of '%s' may not change now: a job works on "
                    "it", bdrv_name(bs));
        return -EBUSY;
    }
    return 0;
}

/*
 * Hides what a longer backing file has in [@old_length, @length).
 */
static int coroutine_fn zero_new_part(BlockDriverState *bs, int64_t old_length,
                                      int64_t length, GError **error)
{
    BdrvChild *cow = bdrv_cow_child(bs);
    int64_t backing_length;
    int ret;

    if (!cow || length <= old_length) {
        return 0;
    }
    backing_length = bdrv_co_getlength(cow->bs);
    ret = backing_length < 0 ? (int)backing_length : 0;
    if (backing_length > old_length) {
        ret = bdrv_zero_range(bs, old_length,
                              MIN(length, backing_length) - old_length,
                              /* flags= */ 0);
    }
    if (ret < 0) {
        error_set_errno(error, -ret, "cannot hide the backing file of '%s' in "
                        "the new part", bdrv_name(bs));
        (void) bs->drv->co_truncate(bs, old_length, /* exact= */ true,
                                    PREALLOC_OFF, /* flags= */ 0,
                                    /* error= */ NULL);
    }
    return ret;
}

void bdrv_length_changed(BlockDriverState *bs, int64_t old_length)
{
    int64_t length = bdrv_node_length(bs);

    bdrv_status_cache_invalidate(bs, MIN(old_length, length),
                                 BDRV_MAX_LENGTH - MIN(old_length, length));
    bdrv_dirty_bitmaps_truncate(bs, length);
    for (guint i = 0; bs->parents && i < bs->parents->len; i++) {
        BdrvChild *edge = g_ptr_array_index(bs->parents, i);

        if (edge->klass->resize) {
            edge->klass->resize(edge);
        }
    }
}

/* Makes the new length known in this node and above. */
static int coroutine_fn publish_length(BlockDriverState *bs,
                                       int64_t old_length, int64_t length)
{
    if (bs->drv->has_variable_length) {
        length = bdrv_co_getlength(bs);
        if (length < 0) {
            return (int)length;
        }
    } else {
        __atomic_store_n(&bs->length, length, __ATOMIC_RELEASE);
    }
    bdrv_length_changed(bs, old_length);
    return 0;
}

/* With the range past the smaller length to ourselves. */
static int coroutine_fn run_truncate(BlockDriverState *bs, int64_t old_length,
                                     int64_t length, bool exact,
                                     BdrvPreallocMode prealloc,
                                     BdrvRequestFlags flags, GError **error)
{
    g_autoptr(GError) local_error = NULL;
    int ret = bs->drv->co_truncate(bs, length, exact, prealloc, flags,
                                   &local_error);

    if (ret < 0 && !local_error) {
        error_set_errno(&local_error, -ret, "cannot resize '%s'",
                        bdrv_name(bs));
    }
    if (ret == 0) {
        ret = zero_new_part(bs, old_length, length, &local_error);
    }
    if (ret == 0) {
        ret = publish_length(bs, old_length, length);
        if (ret < 0) {
            error_set_errno(&local_error, -ret, "cannot tell the new length "
                            "of '%s'", bdrv_name(bs));
        }
    }
    if (ret < 0) {
        g_propagate_error(error, g_steal_pointer(&local_error));
    }
    return ret;
}

int coroutine_fn bdrv_co_truncate(BdrvChild *child, int64_t length, bool exact,
                                  BdrvPreallocMode prealloc,
                                  BdrvRequestFlags flags, GError **error)
{
    BlockDriverState *bs = child->bs;
    BdrvRequest request;
    int64_t old_length, start;
    int ret = check_truncate(child, length, error);

    if (ret < 0) {
        return ret;
    }
    old_length = bdrv_co_getlength(bs);
    if (old_length < 0) {
        error_set_errno(error, -(int)old_length, "cannot ask the length of "
                        "'%s'", bdrv_name(bs));
        return (int)old_length;
    }

    start = MIN(old_length, length);
    bdrv_request_begin(&request, bs, start, BDRV_MAX_LENGTH - start,
                       BDRV_TRACKED_TRUNCATE);
    bdrv_request_serialise(&request, bs->limits.request_alignment);
    old_length = bdrv_node_length(bs); /* a write may have extended it */
    ret = run_truncate(bs, old_length, length, exact, prealloc, flags, error);
    bdrv_mark_written(bs);
    bdrv_request_end(&request);
    return ret;
}
