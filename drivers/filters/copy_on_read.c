/* SPDX-License-Identifier: MIT */
/*
 * copy-on-read: what is read from the backing chain stays in the top layer
 *
 * Passes reads on with BDRV_REQ_COPY_ON_READ; the block layer does the copying
 * (block/io/copy_on_read.c). With `bottom` only data above that node counts:
 * what comes from it or below is not copied.
 *
 * Locking: none; the state is constant after open.
 */
#include "drivers/registry.h"

#include "block/graph/open.h"
#include "block/graph/perm.h"
#include "block/io/io.h"
#include "block/io/status.h"

typedef struct CopyOnReadState {
    BlockDriverState *bottom; /* counted; NULL: copy from everywhere */
} CopyOnReadState;

static const BlockOptionDesc copy_on_read_options[] = {
    { .name = "bottom", .type = BLOCK_OPTION_STRING,
      .help = "node name of the deepest layer to copy from; default: all" },
    { .name = NULL },
};

/* By walking down from our child: a layer elsewhere would never be met. */
static bool find_bottom(BlockDriverState *bs, const char *name, GError **error)
{
    CopyOnReadState *s = bs->opaque;
    BlockDriverState *bottom = bdrv_find_node(name);

    if (bottom == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_NOT_FOUND,
                    "bottom node '%s' not found", name);
        return false;
    }
    for (BlockDriverState *layer = bs->file->bs; layer != NULL;) {
        BdrvChild *next = bdrv_filter_or_cow_child(layer);

        if (layer == bottom) {
            s->bottom = bdrv_ref(bottom);
            return true;
        }
        layer = next != NULL ? next->bs : NULL;
    }
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                "node '%s' is not in the backing chain of %s", name,
                bdrv_name(bs->file->bs));
    return false;
}

static bool copy_on_read_open(BlockDriverState *bs, BlockOptions *options,
                              BdrvOpenFlags flags, GError **error)
{
    g_autofree char *bottom = NULL;

    if (!block_options_take_string(options, "bottom", &bottom, error) ||
        !bdrv_open_file_child(bs, options, error)) {
        return false;
    }
    if (bottom != NULL && !find_bottom(bs, bottom, error)) {
        return false;
    }
    bs->length = bdrv_node_length(bs->file->bs);
    /* A prefetch comes here so that what it fills stops at bottom, too. */
    bs->supported_read_flags = BDRV_REQ_PREFETCH;
    bs->supported_write_flags =
        bs->file->bs->supported_write_flags | BDRV_REQ_WRITE_UNCHANGED;
    bs->supported_zero_flags =
        bs->file->bs->supported_zero_flags | BDRV_REQ_WRITE_UNCHANGED;
    return true;
}

/* The count on bottom kept it from going before us. */
static void copy_on_read_close(BlockDriverState *bs)
{
    CopyOnReadState *s = bs->opaque;

    g_clear_pointer(&s->bottom, bdrv_unref);
}

/* Filling a layer needs to write it, even for one who only reads us. */
static void copy_on_read_child_perm(BlockDriverState *bs, BdrvChild *child,
                                    BdrvChildRole role, uint32_t perm,
                                    uint32_t shared, uint32_t *ret_perm,
                                    uint32_t *ret_shared)
{
    bdrv_default_perms(bs, child, role, perm, shared, ret_perm, ret_shared);
    if (!bs->read_only) {
        *ret_perm |= BLK_PERM_WRITE_UNCHANGED;
    }
}

/* Does [@offset, + *@bytes) come from above bottom? Shortens *@bytes. */
static int coroutine_fn is_to_be_copied(BlockDriverState *bs, int64_t offset,
                                        int64_t *bytes)
{
    CopyOnReadState *s = bs->opaque;

    if (bs->read_only) {
        return 0;
    }
    if (s->bottom == NULL) {
        return 1;
    }
    return bdrv_co_is_allocated_above(bs->file->bs, s->bottom,
                                      /* include_base= */ true, offset, *bytes,
                                      bytes);
}

/*
 * The copying is the block layer's, in the child's node, where it excludes
 * writes to the same clusters; we only say which part of a read shall have it.
 */
static int coroutine_fn copy_on_read_co_preadv(BlockDriverState *bs,
                                               int64_t offset, int64_t bytes,
                                               IoVec *iov, size_t iov_offset,
                                               BdrvRequestFlags flags)
{
    while (bytes > 0) {
        int64_t part = bytes;
        int copy = is_to_be_copied(bs, offset, &part);
        int ret;

        if (copy < 0) {
            return copy;
        }
        /* A prefetch of what will not be copied has no effect to wait for. */
        if (copy == 0 && (flags & BDRV_REQ_PREFETCH)) {
            ret = 0;
        } else {
            ret = bdrv_co_preadv(bs->file, offset, part, iov, iov_offset,
                                 copy ? flags | BDRV_REQ_COPY_ON_READ : flags);
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

static const BlockPermOps copy_on_read_perm = {
    .child_perm = copy_on_read_child_perm,
};

const BlockDriver bdrv_copy_on_read_filter = {
    .format_name = "copy-on-read",
    .instance_size = sizeof(CopyOnReadState),
    .is_filter = true,
    .options = copy_on_read_options,
    .open = copy_on_read_open,
    .close = copy_on_read_close,
    .perm = &copy_on_read_perm,
    .co_preadv = copy_on_read_co_preadv,
};
