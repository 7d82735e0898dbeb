/* SPDX-License-Identifier: MIT */
/*
 * raw: an image without a format, or a window into one
 *
 * Guest byte n is byte n + `offset` of the file child. Without options it
 * shows the whole file; `offset` and `size` cut a window out, such as a
 * partition. All I/O is passed on, so the driver costs one addition.
 *
 *   file   |<- offset ->|<------- bs->length ------->|   ignored   |
 *
 * The window's length is fixed by `size`, or is what the file has behind
 * `offset`; only in the latter case may it be changed.
 *
 * Locking: none; the state is constant after open.
 */
#include "drivers/registry.h"

#include "block/graph/device.h"
#include "block/graph/open.h"
#include "block/image/create.h"
#include "block/image/measure.h"
#include "block/io/io.h"

#include <errno.h>
#include <inttypes.h>

typedef struct RawState {
    int64_t offset;
    bool has_size; /* the `size` option was given */
} RawState;

static const BlockOptionDesc raw_options[] = {
    {
        .name = "offset",
        .type = BLOCK_OPTION_SIZE,
        .help = "where the image starts in the file",
        .default_value = "0",
        .is_strong = true,
    },
    {
        .name = "size",
        .type = BLOCK_OPTION_SIZE,
        .help = "length of the image; default: to the end of the file",
        .is_strong = true,
    },
    { .name = NULL },
};

/* Any file is a raw image, if nobody knows better. */
static int raw_probe(const uint8_t *buffer, size_t bytes, const char *filename)
{
    return 1;
}

/* Sets the window; -1 in @size means "to the end". */
static bool set_window(BlockDriverState *bs, int64_t offset, int64_t size,
                       GError **error)
{
    RawState *s = bs->opaque;
    int64_t file_length = bdrv_getlength(bs->file->bs);

    if (file_length < 0) {
        error_set_errno(error, -file_length, "cannot find out the length of "
                        "the file");
        return false;
    }
    if (offset < 0 || offset > file_length) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "offset %" PRId64 " is past the end of the file (%" PRId64
                    " bytes)", offset, file_length);
        return false;
    }
    s->has_size = size >= 0;
    if (s->has_size && size > file_length - offset) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "offset %" PRId64 " and size %" PRId64 " reach past the "
                    "end of the file (%" PRId64 " bytes)", offset, size,
                    file_length);
        return false;
    }
    s->offset = offset;
    bs->length = s->has_size ? size : file_length - offset;
    return true;
}

/*
 * What the file can do with a request's flags we can: nothing is changed on
 * the way. On an error the caller detaches the child.
 */
static bool raw_open(BlockDriverState *bs, BlockOptions *options,
                     BdrvOpenFlags flags, GError **error)
{
    int64_t offset = 0;
    int64_t size = -1;

    if (!block_options_take_size(options, "offset", &offset, error) ||
        !block_options_take_size(options, "size", &size, error) ||
        !bdrv_open_child(bs, options, "file",
                         BDRV_CHILD_DATA | BDRV_CHILD_PRIMARY,
                         /* required= */ true, &bs->file, error) ||
        !set_window(bs, offset, size, error)) {
        return false;
    }
    /* named "raw" an empty file is an image; guessed, it is a mistake */
    if (bdrv_node_length(bs->file->bs) == 0 &&
        ((flags | bs->open_flags) & BDRV_O_PROBED)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "the file is empty, there is no image in it; if that is "
                    "meant, say so with --format raw");
        return false;
    }
    bs->supported_read_flags = bs->file->bs->supported_read_flags;
    bs->supported_write_flags = bs->file->bs->supported_write_flags;
    bs->supported_zero_flags = bs->file->bs->supported_zero_flags;
    return true;
}

/* File position of @offset. */
static int64_t in_file(BlockDriverState *bs, int64_t offset)
{
    RawState *s = bs->opaque;

    return s->offset + offset;
}

/*
 * Rounding up at our end must not show or change what lies behind a window.
 * The length's own part of [@offset, + @bytes).
 */
static int64_t in_window(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    RawState *s = bs->opaque;

    if (!s->has_size) {
        return bytes;
    }
    return CLAMP(bdrv_node_length(bs) - offset, 0, bytes);
}

/*
 * The rounded-up end of a window belongs to somebody else: it reads as zeros,
 * like that of a file.
 */
static int coroutine_fn raw_co_preadv(BlockDriverState *bs, int64_t offset,
                                      int64_t bytes, IoVec *iov,
                                      size_t iov_offset,
                                      BdrvRequestFlags flags)
{
    int64_t inside = in_window(bs, offset, bytes);
    int ret = inside == 0 ? 0
                          : bdrv_co_preadv(bs->file, in_file(bs, offset),
                                           inside, iov, iov_offset, flags);

    if (ret == 0 && inside < bytes) {
        iovec_memset(iov, iov_offset + inside, /* byte= */ 0, bytes - inside);
    }
    return ret;
}

/* What pads the last block of a window is dropped: it was not the user's. */
static int coroutine_fn raw_co_pwritev(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, IoVec *iov,
                                       size_t iov_offset,
                                       BdrvRequestFlags flags)
{
    int64_t inside = in_window(bs, offset, bytes);

    return inside == 0 ? 0
                       : bdrv_co_pwritev(bs->file, in_file(bs, offset), inside,
                                         iov, iov_offset, flags);
}

static int coroutine_fn raw_co_pwrite_zeroes(BlockDriverState *bs,
                                             int64_t offset, int64_t bytes,
                                             BdrvRequestFlags flags)
{
    int64_t inside = in_window(bs, offset, bytes);

    return inside == 0 ? 0
                       : bdrv_co_pwrite_zeroes(bs->file, in_file(bs, offset),
                                               inside, flags);
}

static int coroutine_fn raw_co_pdiscard(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes)
{
    int64_t inside = in_window(bs, offset, bytes);

    return inside == 0 ? 0
                       : bdrv_co_pdiscard(bs->file, in_file(bs, offset),
                                          inside);
}

/* Nothing of our own: the block layer asks the file at host_offset. */
static int coroutine_fn raw_co_block_status(BlockDriverState *bs,
                                            bool want_zero, int64_t offset,
                                            int64_t bytes,
                                            BlockStatus *ret_status)
{
    *ret_status = (BlockStatus) {
        .flags = BDRV_BLOCK_RAW | BDRV_BLOCK_OFFSET_VALID,
        .bytes = bytes,
        .host_offset = in_file(bs, offset),
        .file = bs->file->bs,
    };
    return 0;
}

/*
 * -ENOTSUP: the option fixed the length, and what lies behind may be another
 * partition. -EFBIG: the position in the file would not be representable.
 */
static int coroutine_fn raw_co_truncate(BlockDriverState *bs, int64_t length,
                                        bool exact, BdrvPreallocMode prealloc,
                                        BdrvRequestFlags flags, GError **error)
{
    RawState *s = bs->opaque;

    if (s->has_size) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: opened with a fixed size, cannot be resized",
                    bdrv_name(bs));
        return -ENOTSUP;
    }
    if (length > BDRV_MAX_LENGTH - s->offset) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: %" PRId64 " bytes are too long", bdrv_name(bs),
                    length);
        return -EFBIG;
    }
    return bdrv_co_truncate(bs->file, in_file(bs, length), exact, prealloc,
                            flags, error);
}

/*
 * Asked of the file each time, since a device may change its length; one that
 * shrank to before the window leaves an empty one.
 */
static int64_t coroutine_fn raw_co_getlength(BlockDriverState *bs)
{
    RawState *s = bs->opaque;
    int64_t length;

    if (s->has_size) {
        return bdrv_node_length(bs);
    }
    length = bdrv_co_getlength(bs->file->bs);
    return length < 0 ? length : MAX(length - s->offset, 0);
}

/*
 * Copies go down to the files, where the kernel may share the blocks. The
 * block layer has cut them to our length, so a window's end is not passed.
 */
static int coroutine_fn raw_co_copy_range_from(BlockDriverState *bs,
                                               BdrvChild *src,
                                               int64_t src_offset,
                                               BdrvChild *dst,
                                               int64_t dst_offset,
                                               int64_t bytes,
                                               BdrvRequestFlags flags)
{
    return bdrv_co_copy_range_from(bs->file, in_file(bs, src_offset), dst,
                                   dst_offset, bytes, flags);
}

static int coroutine_fn raw_co_copy_range_to(BlockDriverState *bs,
                                             BdrvChild *src,
                                             int64_t src_offset,
                                             BdrvChild *dst,
                                             int64_t dst_offset, int64_t bytes,
                                             BdrvRequestFlags flags)
{
    return bdrv_co_copy_range_to(src, src_offset, bs->file,
                                 in_file(bs, dst_offset), bytes, flags);
}

static int coroutine_fn raw_co_ioctl(BlockDriverState *bs,
                                     unsigned long request, void *argument)
{
    return bdrv_co_ioctl(bs->file->bs, request, argument);
}

static int raw_probe_blocksizes(BlockDriverState *bs, BlockSizes *ret_sizes)
{
    return bdrv_probe_blocksizes(bs->file->bs, ret_sizes);
}

static int raw_probe_geometry(BlockDriverState *bs,
                              BlockGeometry *ret_geometry)
{
    return bdrv_probe_geometry(bs->file->bs, ret_geometry);
}

/* Closed below: nobody knows, and "no" is the answer that costs only time. */
static bool raw_has_zero_init(BlockDriverState *bs)
{
    const BlockDriver *drv = bs->file->bs->drv;

    return drv != NULL && drv->has_zero_init(bs->file->bs);
}

/* In the order of BdrvPreallocMode; a raw image has no metadata. */
static const char *const prealloc_values[] = { "off", "metadata", "falloc",
                                               "full", NULL };

/* An image of zeros: the length is all there is to make. */
static bool raw_create(BlockBackend *file, int64_t length,
                       BlockOptions *options, GError **error)
{
    int prealloc = PREALLOC_OFF;

    return block_options_take_enum(options, "preallocation", prealloc_values,
                                   &prealloc, error) &&
           image_create_resize(file, length, prealloc, error);
}

/* Holes count: a raw image is as long as what it shows. */
static bool raw_measure(BlockBackend *source, int64_t length,
                        BlockOptions *options, BlockMeasure *ret_measure,
                        GError **error)
{
    int prealloc = PREALLOC_OFF;

    if (!block_options_take_enum(options, "preallocation", prealloc_values,
                                 &prealloc, error)) {
        return false;
    }
    ret_measure->required = source ? length : align_up(length, 512);
    ret_measure->fully_allocated = ret_measure->required;
    return true;
}

static const BlockOptionDesc raw_create_options[] = {
    {
        .name = "preallocation",
        .type = BLOCK_OPTION_ENUM,
        .help = "off: sparse, falloc: reserved, full: written",
        .default_value = "off",
        .values = prealloc_values,
    },
    { .name = NULL },
};

static const BlockCreateOps raw_create_ops = {
    .options = raw_create_options,
    .create = raw_create,
    .measure = raw_measure,
};

const BlockDriver bdrv_raw = {
    .format_name = "raw",
    .instance_size = sizeof(RawState),
    .is_format = true,
    .options = raw_options,
    .probe = raw_probe,
    .open = raw_open,
    .create = &raw_create_ops,
    .co_preadv = raw_co_preadv,
    .co_pwritev = raw_co_pwritev,
    .co_pwrite_zeroes = raw_co_pwrite_zeroes,
    .co_pdiscard = raw_co_pdiscard,
    .co_block_status = raw_co_block_status,
    .co_truncate = raw_co_truncate,
    .co_getlength = raw_co_getlength,
    .co_copy_range_from = raw_co_copy_range_from,
    .co_copy_range_to = raw_co_copy_range_to,
    .co_ioctl = raw_co_ioctl,
    .probe_blocksizes = raw_probe_blocksizes,
    .probe_geometry = raw_probe_geometry,
    .has_zero_init = raw_has_zero_init,
};
