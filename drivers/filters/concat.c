/* SPDX-License-Identifier: MIT */
/*
 * concat: several images one behind the other, as one that can be read
 *
 *   children.0 │ children.1 │ children.2
 *   0          start[1]     start[2]       length
 *
 * Each part begins at a whole sector: behind a part whose length is odd there
 * are zeros up to there. The last part ends where it ends.
 *
 * Locking: none; all is constant after open.
 */
#include "drivers/registry.h"

#include "block/graph/open.h"
#include "block/io/io.h"
#include "block/io/status.h"

#include <errno.h>

#define MAX_CHILDREN 256
#define SECTOR_BYTES 512

typedef struct ConcatState {
    BdrvChild *children[MAX_CHILDREN];
    int64_t start[MAX_CHILDREN + 1]; /* [count]: the whole length */
    unsigned count;
} ConcatState;

static const BlockOptionDesc concat_options[] = {
    { .name = "children.N", .type = BLOCK_OPTION_CHILD,
      .help = "the parts, numbered from 0" },
    { .name = NULL },
};

static bool open_part(BlockDriverState *bs, BlockOptions *options,
                      BdrvChild **ret_child, GError **error)
{
    ConcatState *s = bs->opaque;
    g_autofree char *name = g_strdup_printf("children.%u", s->count);

    return bdrv_open_child(bs, options, name, BDRV_CHILD_DATA,
                           /* required= */ s->count == 0, ret_child, error);
}

/* Adds @child behind what is there. */
static bool add_part(ConcatState *s, BdrvChild *child, GError **error)
{
    int64_t end = s->count ? align_up(s->start[s->count], SECTOR_BYTES) : 0;
    int64_t length = bdrv_node_length(child->bs);

    if (length > BDRV_MAX_LENGTH - SECTOR_BYTES - end) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "the parts together are too long");
        return false;
    }
    s->children[s->count] = child;
    s->start[s->count] = end;
    s->start[++s->count] = end + length;
    return true;
}

static bool concat_open(BlockDriverState *bs, BlockOptions *options,
                        BdrvOpenFlags flags, GError **error)
{
    ConcatState *s = bs->opaque;

    if (flags & BDRV_O_RDWR) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "images one behind the other can only be read");
        return false;
    }
    while (s->count < MAX_CHILDREN) {
        BdrvChild *child;

        if (!open_part(bs, options, &child, error)) {
            return false;
        }
        if (child == NULL) {
            break; /* what has a higher number is left over: unknown */
        }
        if (!add_part(s, child, error)) {
            return false;
        }
    }
    bs->length = s->start[s->count];
    return true;
}

/* The part that @offset is in, and where in it. */
static unsigned part_at(const ConcatState *s, int64_t offset,
                        int64_t *ret_inside)
{
    unsigned low = 0;
    unsigned high = s->count;

    while (high - low > 1) {
        unsigned middle = (low + high) / 2;

        if (s->start[middle] <= offset) {
            low = middle;
        } else {
            high = middle;
        }
    }
    *ret_inside = offset - s->start[low];
    return low;
}

/* Bytes of part @index from @inside on, and of the zeros behind it. */
static void room_at(const ConcatState *s, unsigned index, int64_t inside,
                    int64_t *ret_bytes, int64_t *ret_zeros)
{
    int64_t length = bdrv_node_length(s->children[index]->bs);
    int64_t whole = index + 1 < s->count
                        ? s->start[index + 1] - s->start[index] : INT64_MAX;

    *ret_bytes = MAX(length - inside, 0);
    *ret_zeros = whole - inside - *ret_bytes;
}

static int coroutine_fn concat_co_preadv(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes, IoVec *iov,
                                         size_t iov_offset,
                                         BdrvRequestFlags flags)
{
    const ConcatState *s = bs->opaque;
    int ret = 0;

    while (bytes > 0 && ret == 0) {
        int64_t inside, there, zeros, part;
        unsigned index = part_at(s, offset, &inside);

        room_at(s, index, inside, &there, &zeros);
        if (there > 0) {
            part = MIN(there, bytes);
            ret = bdrv_co_preadv(s->children[index], inside, part, iov,
                                 iov_offset, flags);
        } else {
            part = MIN(zeros, bytes);
            iovec_memset(iov, iov_offset, 0, part);
        }
        offset += part;
        iov_offset += part;
        bytes -= part;
    }
    return ret;
}

static int coroutine_fn concat_co_block_status(BlockDriverState *bs,
                                               bool want_zero, int64_t offset,
                                               int64_t bytes,
                                               BlockStatus *ret_status)
{
    const ConcatState *s = bs->opaque;
    int64_t inside, there, zeros;
    unsigned index = part_at(s, offset, &inside);
    int ret;

    room_at(s, index, inside, &there, &zeros);
    if (there <= 0) {
        *ret_status = (BlockStatus) {
            .flags = BDRV_BLOCK_ALLOCATED | BDRV_BLOCK_ZERO,
            .bytes = MIN(zeros, bytes),
        };
        return 0;
    }
    ret = bdrv_co_block_status_above(s->children[index]->bs, /* base= */ NULL,
                                     want_zero, inside, MIN(there, bytes),
                                     ret_status, /* ret_depth= */ NULL);
    if (ret == 0) {
        ret_status->flags &= BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO |
                             BDRV_BLOCK_OFFSET_VALID;
        ret_status->flags |= BDRV_BLOCK_ALLOCATED;
    }
    return ret;
}

const BlockDriver bdrv_concat = {
    .format_name = "concat",
    .instance_size = sizeof(ConcatState),
    .options = concat_options,
    .open = concat_open,
    .co_preadv = concat_co_preadv,
    .co_block_status = concat_co_block_status,
};
