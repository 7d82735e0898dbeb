/* SPDX-License-Identifier: MIT */
/*
 * rebasing: an overlay gets another backing file and shows the same as before
 *
 *   next:  what the overlay's own layer has ─▶ nothing to do
 *          zeros in both backing files      ─▶ nothing to do
 *   run:   read the old one, read the new one ─▶ units that differ go into the
 *          overlay, zeros as zeros
 *
 * A unit is a cluster of the overlay. Pieces begin and end at units, so two
 * workers never meet in one.
 *
 * Always true: the overlay's open node reads the old backing file until it is
 * closed. So whatever was copied changes nothing that is seen, with the old
 * name in the header as with the new one, and the name changes last, after a
 * flush: a crash at any time leaves the same content.
 *
 * Locking: the position is next's own (workers.h); the rest is constant.
 */
#include "block/image/rebase.h"

#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/graph/edge.h"
#include "block/image/workers.h"
#include "block/rt/buffer_pool.h"

#include <errno.h>
#include <string.h>

#define CHUNK_BYTES (512 * KIB)

typedef struct RebaseState {
    const ImageRebase *config;
    BlockBackend *old_backing; /* NULL: none */
    int64_t length;            /* of the overlay */
    int64_t unit;
    int64_t chunk;             /* of one piece; whole units */
    int64_t position;
    ImageFault *fault;
} RebaseState;

static int note(RebaseState *state, int ret, const char *what,
                BlockBackend *blk, int64_t offset, int64_t bytes)
{
    return ret >= 0 ? ret
                    : image_fault_note(
                          state->fault, ret, what,
                          bdrv_name(bdrv_skip_filters(blk_bs(blk))), offset,
                          bytes);
}

/* -- handing out --------------------------------------------------------- */

static const char status_what[] = "find out what is allocated in";

/* Does @blk surely read zeros from @offset on? Shortens *@bytes to the run. */
static int coroutine_fn reads_zeros(RebaseState *state, BlockBackend *blk,
                                    int64_t offset, int64_t *bytes)
{
    int64_t length = blk ? blk_length(blk) : 0;
    BlockStatus status;
    int ret;

    if (offset >= length) {
        return 1;
    }
    ret = blk_co_block_status(blk, /* want_zero= */ true, offset,
                              MIN(*bytes, length - offset), &status);
    if (ret < 0) {
        return note(state, ret, status_what, blk, offset, *bytes);
    }
    *bytes = status.bytes;
    return (status.flags & BDRV_BLOCK_ZERO) != 0;
}

/* 1: may have to be copied, 0: surely not, for *@ret_bytes from @offset. */
static int coroutine_fn ask(RebaseState *state, int64_t offset,
                            int64_t *ret_bytes)
{
    const ImageRebase *config = state->config;
    BdrvChild *below =
        bdrv_cow_child(bdrv_skip_filters(blk_bs(config->overlay)));
    int64_t bytes = state->length - offset;
    int ret = blk_co_is_allocated_above(config->overlay,
                                        below ? below->bs : NULL,
                                        /* include_base= */ false, offset,
                                        bytes, &bytes);

    if (ret == 0) {
        ret = reads_zeros(state, state->old_backing, offset, &bytes);
        if (ret > 0) {
            ret = reads_zeros(state, config->new_backing, offset, &bytes);
        }
        ret = ret < 0 ? ret : !ret;
    } else if (ret > 0) {
        ret = 0;
    } else {
        (void) note(state, ret, status_what, config->overlay, offset, bytes);
    }
    *ret_bytes = bytes;
    return ret;
}

/* The same in whole units: one that has anything to do is to be done. */
static int coroutine_fn ask_units(RebaseState *state, int64_t offset,
                                  int64_t *ret_bytes)
{
    int64_t left = state->length - offset;
    int64_t bytes = 0;
    int ret = ask(state, offset, &bytes);

    if (ret < 0 || bytes >= left) {
        *ret_bytes = left;
        return ret;
    }
    if (ret == 0 && bytes >= state->unit) {
        *ret_bytes = align_down(bytes, state->unit);
        return 0;
    }
    *ret_bytes = MIN(align_up(bytes, state->unit), left);
    return 1;
}

static int coroutine_fn rebase_next(void *opaque, ImageWork *ret_work)
{
    RebaseState *state = opaque;

    while (state->position < state->length) {
        int64_t bytes;
        int ret;

        if (state->config->cancel &&
            __atomic_load_n(state->config->cancel, __ATOMIC_RELAXED)) {
            return -ECANCELED;
        }
        ret = ask_units(state, state->position, &bytes);
        if (ret < 0) {
            return ret;
        }
        if (ret > 0) {
            bytes = MIN(bytes, state->chunk);
            *ret_work = (ImageWork) { .offset = state->position,
                                      .bytes = bytes };
            state->position += bytes;
            return 1;
        }
        state->position += bytes;
    }
    return 0;
}

/* -- copying ------------------------------------------------------------- */

/* Behind the end of a backing file, and without one, there are zeros. */
static int coroutine_fn read_padded(RebaseState *state, BlockBackend *blk,
                                    int64_t offset, int64_t bytes,
                                    uint8_t *buffer)
{
    int64_t length = blk ? blk_length(blk) : 0;
    int64_t there = CLAMP(length - offset, 0, bytes);
    IoVec iov;

    memset(buffer + there, 0, bytes - there);
    if (there == 0) {
        return 0;
    }
    iovec_init_buffer(&iov, buffer, there);
    return note(state,
                blk_co_preadv(blk, offset, there, &iov, /* flags= */ 0),
                "read", blk, offset, there);
}

/*
 * Zeros must not become a hole, through which the new backing file would
 * show: no MAY_UNMAP. Without a backing file a format may leave zeros out in
 * any case, so there they are written as data.
 */
static int coroutine_fn write_unit(RebaseState *state, int64_t offset,
                                   int64_t bytes, uint8_t *buffer)
{
    BlockBackend *overlay = state->config->overlay;
    IoVec iov;
    int ret;

    if (state->old_backing && buffer_is_zero(buffer, bytes)) {
        ret = blk_co_pwrite_zeroes(overlay, offset, bytes, /* flags= */ 0);
    } else {
        iovec_init_buffer(&iov, buffer, bytes);
        ret = blk_co_pwritev(overlay, offset, bytes, &iov,
                             BDRV_REQ_WRITE_UNCHANGED);
    }
    return note(state, ret, "write", overlay, offset, bytes);
}

/*
 * Does the overlay's own layer have the unit? A piece may hold units that
 * were there before: the guest's data in them is not ours to overwrite.
 */
static int coroutine_fn is_own(RebaseState *state, int64_t offset,
                               int64_t bytes)
{
    BlockBackend *overlay = state->config->overlay;
    BdrvChild *below = bdrv_cow_child(bdrv_skip_filters(blk_bs(overlay)));
    int64_t found;
    int ret;

    do {
        ret = blk_co_is_allocated_above(overlay, below ? below->bs : NULL,
                                        /* include_base= */ false, offset,
                                        bytes, &found);
        offset += found;
        bytes -= found;
    } while (ret == 0 && bytes > 0);
    return note(state, ret, status_what, overlay, offset, bytes);
}

/*
 * A unit of which the overlay has a part (subclusters) is written through the
 * overlay's own eyes: its reads give both its part and the old backing file.
 */
static int coroutine_fn keep_unit(RebaseState *state, int64_t offset,
                                  int64_t bytes, uint8_t *old,
                                  const uint8_t *new)
{
    IoVec iov;
    int ret;

    if (memcmp(old, new, bytes) == 0) {
        return 0;
    }
    ret = is_own(state, offset, bytes);
    if (ret > 0) {
        iovec_init_buffer(&iov, old, bytes);
        ret = blk_co_preadv(state->config->overlay, offset, bytes, &iov, 0);
        (void) note(state, ret, "read", state->config->overlay, offset,
                     bytes);
    }
    return ret < 0 ? ret : write_unit(state, offset, bytes, old);
}

static int coroutine_fn rebase_run(void *opaque, const ImageWork *work)
{
    RebaseState *state = opaque;
    uint8_t *old = buffer_pool_get(state->chunk);
    uint8_t *new = buffer_pool_get(state->chunk);
    int ret = old && new ? 0 : -ENOMEM;

    if (ret == 0) {
        ret = read_padded(state, state->old_backing, work->offset,
                          work->bytes, old);
    }
    if (ret == 0) {
        ret = read_padded(state, state->config->new_backing, work->offset,
                          work->bytes, new);
    }
    for (int64_t at = 0; ret == 0 && at < work->bytes; at += state->unit) {
        ret = keep_unit(state, work->offset + at,
                        MIN(state->unit, work->bytes - at), old + at,
                        new + at);
    }
    buffer_pool_put(old, state->chunk);
    buffer_pool_put(new, state->chunk);
    return ret;
}

/* -- the whole ----------------------------------------------------------- */

static void rebase_progress(void *opaque, int64_t offset)
{
    RebaseState *state = opaque;

    state->config->progress(state->config->opaque, offset, state->length);
}

/* What the overlay reads now where it has nothing. */
static bool open_old_backing(RebaseState *state, GError **error)
{
    BdrvChild *below =
        bdrv_cow_child(bdrv_skip_filters(blk_bs(state->config->overlay)));

    if (below == NULL) {
        return true;
    }
    state->old_backing = blk_new(BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL,
                                 "rebase");
    return blk_insert_node(state->old_backing, below->bs, error);
}

static bool copy_all(RebaseState *state, GError **error)
{
    ImageWorkers workers = {
        .next = rebase_next,
        .run = rebase_run,
        .progress = state->config->progress ? rebase_progress : NULL,
        .opaque = state,
        .fault = state->fault,
        .total = state->length,
        .count = state->config->coroutines,
    };
    int ret;

    if (image_workers_run(&workers, error) < 0) {
        return false;
    }
    ret = blk_flush(state->config->overlay);
    if (ret < 0) {
        error_set_errno(error, -ret, "cannot flush");
    }
    return ret == 0;
}

bool image_rebase_data(const ImageRebase *config, GError **error)
{
    g_auto(ImageFault) fault = { 0 };
    RebaseState state = {
        .config = config,
        .fault = &fault,
        .length = blk_length(config->overlay),
        .unit = MAX(blk_cluster_bytes(config->overlay), 4 * KIB),
    };
    bool ok;

    state.chunk = align_up(CHUNK_BYTES, state.unit);
    ok = open_old_backing(&state, error) && copy_all(&state, error);
    if (state.old_backing) {
        blk_free(state.old_backing);
    }
    return ok;
}

bool image_rebase_header(BlockBackend *overlay, const char *name,
                         const char *format, GError **error)
{
    BlockDriverState *bs = bdrv_skip_filters(blk_bs(overlay));
    bool ok;

    if (!bs->drv->supports_backing || !bs->drv->change_backing_file) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "format '%s' %s", bs->drv->format_name,
                    bs->drv->supports_backing
                        ? "cannot change the name of its backing file"
                        : "has no backing files");
        return false;
    }
    bdrv_drained_begin(bs);
    ok = bs->drv->change_backing_file(bs, name, format, error);
    bdrv_drained_end(bs);
    return ok;
}
