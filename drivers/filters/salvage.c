/* SPDX-License-Identifier: MIT */
/*
 * salvage: what cannot be read reads as zeros, and is remembered
 *
 * A read that fails is tried again in halves, down to one sector: so one bad
 * sector costs one sector. For rescuing what is left of a damaged image; it
 * can only be read.
 *
 * Locking: lost_lock protects the list of what was lost; the rest is constant
 * after open.
 */
#include "drivers/registry.h"

#include "block/graph/open.h"
#include "block/io/io.h"
#include "block/io/status.h"

#include <errno.h>

#define SECTOR_BYTES 512
/* Ranges that are remembered one by one; the rest is only counted. */
#define LOST_MAX 1000
/* How much is data where nobody can say. */
#define UNKNOWN_BYTES (64 * KIB)

typedef struct LostRange {
    int64_t offset;
    int64_t bytes;
} LostRange;

typedef struct SalvageState {
    GMutex lost_lock;
    GArray *lost; /* of LostRange, as they were met; under the lock */
    int64_t lost_bytes; /* under the lock */
} SalvageState;

static bool salvage_open(BlockDriverState *bs, BlockOptions *options,
                         BdrvOpenFlags flags, GError **error)
{
    SalvageState *s = bs->opaque;

    if (flags & BDRV_O_RDWR) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "a damaged image is only read");
        return false;
    }
    if (!bdrv_open_file_child(bs, options, error)) {
        return false;
    }
    bs->length = bdrv_node_length(bs->file->bs);
    g_mutex_init(&s->lost_lock);
    s->lost = g_array_new(FALSE, FALSE, sizeof(LostRange));
    return true;
}

static void salvage_close(BlockDriverState *bs)
{
    SalvageState *s = bs->opaque;

    g_array_unref(s->lost);
    g_mutex_clear(&s->lost_lock);
}

static void remember(SalvageState *s, int64_t offset, int64_t bytes)
{
    LostRange range = { offset, bytes };
    LostRange *last;

    g_mutex_lock(&s->lost_lock);
    s->lost_bytes += bytes;
    last = s->lost->len ? &g_array_index(s->lost, LostRange, s->lost->len - 1)
                        : NULL;
    if (last && last->offset + last->bytes == offset) {
        last->bytes += bytes;
    } else if (s->lost->len < LOST_MAX) {
        g_array_append_val(s->lost, range);
    }
    g_mutex_unlock(&s->lost_lock);
}

/* Calls itself at most 23 deep: a request has 2 GiB at most. */
static int coroutine_fn salvage_co_preadv(BlockDriverState *bs, int64_t offset,
                                          int64_t bytes, IoVec *iov,
                                          size_t iov_offset,
                                          BdrvRequestFlags flags)
{
    int ret = bdrv_co_preadv(bs->file, offset, bytes, iov, iov_offset, flags);
    int64_t half;

    if (ret == 0 || ret == -ENOMEM || ret == -ECANCELED) {
        return ret;
    }
    if (bytes <= SECTOR_BYTES) {
        iovec_memset(iov, iov_offset, 0, bytes);
        remember(bs->opaque, offset, bytes);
        return 0;
    }
    half = align_up(bytes / 2, SECTOR_BYTES);
    half = MIN(half, bytes - 1);
    ret = salvage_co_preadv(bs, offset, half, iov, iov_offset, flags);
    return ret < 0 ? ret
                   : salvage_co_preadv(bs, offset + half, bytes - half, iov,
                                       iov_offset + half, flags);
}

/* Where nobody can say what is there, reading will tell. */
static int coroutine_fn salvage_co_block_status(BlockDriverState *bs,
                                                bool want_zero,
                                                int64_t offset, int64_t bytes,
                                                BlockStatus *ret_status)
{
    int ret = bdrv_co_block_status_above(bs->file->bs, /* base= */ NULL,
                                         want_zero, offset, bytes, ret_status,
                                         /* ret_depth= */ NULL);

    if (ret < 0) {
        *ret_status = (BlockStatus) { .flags = BDRV_BLOCK_DATA,
                                      .bytes = MIN(bytes, UNKNOWN_BYTES) };
    }
    ret_status->flags &= BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO;
    ret_status->flags |= BDRV_BLOCK_ALLOCATED;
    return 0;
}

/* { "lost-bytes": N, "lost": [ { "offset": N, "length": N }, ... ] } */
static JsonNode *salvage_get_specific_info(BlockDriverState *bs)
{
    SalvageState *s = bs->opaque;
    g_autoptr(JsonBuilder) builder = json_builder_new();

    g_mutex_lock(&s->lost_lock);
    json_builder_begin_object(builder);
    json_builder_set_member_name(builder, "lost-bytes");
    json_builder_add_int_value(builder, s->lost_bytes);
    json_builder_set_member_name(builder, "lost");
    json_builder_begin_array(builder);
    for (guint i = 0; i < s->lost->len; i++) {
        const LostRange *range = &g_array_index(s->lost, LostRange, i);

        json_builder_begin_object(builder);
        json_builder_set_member_name(builder, "offset");
        json_builder_add_int_value(builder, range->offset);
        json_builder_set_member_name(builder, "length");
        json_builder_add_int_value(builder, range->bytes);
        json_builder_end_object(builder);
    }
    json_builder_end_array(builder);
    json_builder_end_object(builder);
    g_mutex_unlock(&s->lost_lock);
    return json_builder_get_root(builder);
}

const BlockDriver bdrv_salvage = {
    .format_name = "salvage",
    .instance_size = sizeof(SalvageState),
    .is_filter = true,
    .open = salvage_open,
    .close = salvage_close,
    .co_preadv = salvage_co_preadv,
    .co_block_status = salvage_co_block_status,
    .co_copy_range_from = bdrv_refuse_copy_range,
    .co_copy_range_to = bdrv_refuse_copy_range,
    .get_specific_info = salvage_get_specific_info,
};
