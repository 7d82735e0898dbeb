/* SPDX-License-Identifier: MIT */
/*
 * preallocate: a file that grows does so in large steps
 *
 * Below a format on a file system where each extension is slow: a write that
 * reaches past the end of the file first makes it `prealloc-size` longer by a
 * zero-write, so that the following ones find room. When writing ends, the
 * part that nobody has written to is cut off again.
 *
 *   0 ............. our length ............. the child's length
 *   |  written, seen above  |  zeros, unseen  |
 *
 * Always true outside a function of this file:
 *  A1  the child is at least as long as we are, and what it has behind our
 *      length reads zeros;
 *  A2  once we do not write any more (closed, inactive, read-only) both are
 *      the same.
 *
 * Locking: s->lock (a CoMutex): one writer at a time makes the child longer.
 */
#include "drivers/registry.h"

#include "block/graph/open.h"
#include "block/graph/perm.h"
#include "block/io/io.h"
#include "block/rt/comutex.h"

#include <errno.h>

#define G_LOG_DOMAIN_PREALLOCATE "imgfuse-preallocate"

typedef struct PreallocateState {
    int64_t size;
    int64_t align;
    CoMutex lock;
    bool gave_up; /* the child cannot do it cheaply; atomic */
} PreallocateState;

static const BlockOptionDesc preallocate_options[] = {
    { .name = "prealloc-size", .type = BLOCK_OPTION_SIZE,
      .default_value = "128M", .help = "how much to reserve behind a write" },
    { .name = "prealloc-align", .type = BLOCK_OPTION_SIZE,
      .default_value = "1M", .help = "lengths of the file are multiples" },
    { .name = NULL },
};

static bool preallocate_open(BlockDriverState *bs, BlockOptions *options,
                             BdrvOpenFlags flags, GError **error)
{
    PreallocateState *s = bs->opaque;

    s->size = 128 * MIB;
    s->align = MIB;
    if (!block_options_take_size(options, "prealloc-size", &s->size, error) ||
        !block_options_take_size(options, "prealloc-align", &s->align,
                                 error)) {
        return false;
    }
    if (s->size < 0 || s->size > TIB || s->align < 512 || s->align > GIB ||
        s->align % 512 != 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "prealloc-size must be at most 1T, prealloc-align a "
                    "multiple of 512 up to 1G");
        return false;
    }
    if (!bdrv_open_file_child(bs, options, error)) {
        return false;
    }
    co_mutex_init(&s->lock);
    bs->length = bdrv_node_length(bs->file->bs);
    bs->supported_read_flags = bs->file->bs->supported_read_flags;
    bs->supported_write_flags =
        bs->file->bs->supported_write_flags | BDRV_REQ_WRITE_UNCHANGED;
    bs->supported_zero_flags =
        bs->file->bs->supported_zero_flags | BDRV_REQ_WRITE_UNCHANGED;
    return true;
}

/* ---- growing ------------------------------------------------------------ */

/* The end of the file to make for a write that ends at @end. */
static int64_t next_end(const PreallocateState *s, int64_t end)
{
    int64_t wanted = end + s->size;

    return div_round_up(wanted, s->align) * s->align;
}

/* Makes room for a write of [.., @end); that it does not work is no error. */
static void coroutine_fn make_room(BlockDriverState *bs, int64_t end)
{
    PreallocateState *s = bs->opaque;
    int64_t child_end;

    if (__atomic_load_n(&s->gave_up, __ATOMIC_RELAXED) ||
        end <= bdrv_node_length(bs->file->bs) ||
        !(bdrv_child_perm(bs->file) & BLK_PERM_RESIZE) ||
        end > BDRV_MAX_LENGTH - s->size - s->align) {
        return;
    }
    co_mutex_lock(&s->lock);
    child_end = bdrv_node_length(bs->file->bs);
    if (end > child_end) {
        int ret = bdrv_co_pwrite_zeroes(bs->file, child_end,
                                        next_end(s, end) - child_end,
                                        BDRV_REQ_NO_FALLBACK);

        if (ret == -ENOTSUP) {
            __atomic_store_n(&s->gave_up, true, __ATOMIC_RELAXED);
        }
    }
    co_mutex_unlock(&s->lock);
}

static int coroutine_fn preallocate_co_pwritev(BlockDriverState *bs,
                                               int64_t offset, int64_t bytes,
                                               IoVec *iov, size_t iov_offset,
                                               BdrvRequestFlags flags)
{
    make_room(bs, offset + bytes);
    return bdrv_co_pwritev(bs->file, offset, bytes, iov, iov_offset, flags);
}

static int coroutine_fn preallocate_co_pwrite_zeroes(BlockDriverState *bs,
                                                     int64_t offset,
                                                     int64_t bytes,
                                                     BdrvRequestFlags flags)
{
    make_room(bs, offset + bytes);
    return bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);
}

/* ---- cutting off -------------------------------------------------------- */

/* Resizing starts from the true end: growing modes count from there. */
static int coroutine_fn preallocate_co_truncate(BlockDriverState *bs,
                                                int64_t length, bool exact,
                                                BdrvPreallocMode prealloc,
                                                BdrvRequestFlags flags,
                                                GError **error)
{
    int64_t end = bdrv_node_length(bs);

    if (bdrv_node_length(bs->file->bs) > end) {
        int ret = bdrv_co_truncate(bs->file, end, /* exact= */ true,
                                   PREALLOC_OFF, /* flags= */ 0, error);

        if (ret < 0) {
            return ret;
        }
    }
    return bdrv_co_truncate(bs->file, length, exact, prealloc, flags, error);
}

/* A2. Control plane. */
static bool drop_preallocation(BlockDriverState *bs, GError **error)
{
    int64_t end = bdrv_node_length(bs);

    if (bs->read_only || bdrv_node_length(bs->file->bs) <= end ||
        !(bdrv_child_perm(bs->file) & BLK_PERM_RESIZE)) {
        return true;
    }
    return bdrv_truncate(bs->file, end, /* exact= */ true, PREALLOC_OFF,
                         error) == 0;
}

static void preallocate_close(BlockDriverState *bs)
{
    PreallocateState *s = bs->opaque;
    g_autoptr(GError) error = NULL;

    if (!drop_preallocation(bs, &error)) {
        g_log(G_LOG_DOMAIN_PREALLOCATE, G_LOG_LEVEL_WARNING,
              "%s: preallocated space stays: %s", bdrv_name(bs),
              error->message);
    }
    co_mutex_destroy(&s->lock);
}

static int preallocate_inactivate(BlockDriverState *bs)
{
    return drop_preallocation(bs, /* error= */ NULL) ? 0 : -EIO;
}

/* Should the reopen be refused after this, then only room was lost. */
static bool preallocate_reopen_prepare(BlockReopenState *state,
                                       GError **error)
{
    return (state->flags & BDRV_O_RDWR) ||
           drop_preallocation(state->bs, error);
}

/* The end of the file is ours, also between two users above. */
static void preallocate_child_perm(BlockDriverState *bs, BdrvChild *child,
                                   BdrvChildRole role, uint32_t perm,
                                   uint32_t shared, uint32_t *ret_perm,
                                   uint32_t *ret_shared)
{
    bdrv_default_perms(bs, child, role, perm, shared, ret_perm, ret_shared);
    if (!bs->read_only) {
        *ret_perm |= BLK_PERM_WRITE | BLK_PERM_RESIZE;
        *ret_shared &= ~(uint32_t)(BLK_PERM_WRITE | BLK_PERM_RESIZE);
    }
}

static const BlockReopenOps preallocate_reopen = {
    .prepare = preallocate_reopen_prepare,
};

static const BlockPermOps preallocate_perm = {
    .child_perm = preallocate_child_perm,
};

const BlockDriver bdrv_preallocate = {
    .format_name = "preallocate",
    .instance_size = sizeof(PreallocateState),
    .is_filter = true,
    .options = preallocate_options,
    .open = preallocate_open,
    .close = preallocate_close,
    .reopen = &preallocate_reopen,
    .perm = &preallocate_perm,
    .inactivate = preallocate_inactivate,
    .co_pwritev = preallocate_co_pwritev,
    .co_pwrite_zeroes = preallocate_co_pwrite_zeroes,
    .co_truncate = preallocate_co_truncate,
};
