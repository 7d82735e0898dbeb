/* SPDX-License-Identifier: MIT */
/*
 * converting: all that one image shows goes into another
 *
 *   next:  block status of the source, in whole units of the target
 *            │ in the target's backing file, or zeros where those are free
 *            │   ─▶ nothing to do
 *            ├ zeros ─▶ a zero-write
 *            └ data  ─▶ pieces of up to a chunk
 *   run:   copy in the kernel, or read ─▶ leave out zeros ─▶ write
 *
 * A unit is what the target writes at once without reading: a cluster, or for
 * files what is worth a hole. Pieces begin and end at units, so two workers
 * never meet in one.
 *
 * Pieces are small enough to stay in the CPU's cache between read and write.
 *
 * Locking: the position is next's own (workers.h); kernel_copies is atomic.
 */
#include "block/image/convert.h"

#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/image/workers.h"
#include "block/io/io.h"
#include "block/io/status.h"
#include "block/rt/buffer_pool.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define CHUNK_BYTES (512 * KIB)
/* The kernel copies without a buffer: longer pieces are cheaper. */
#define KERNEL_CHUNK_BYTES (64 * MIB)
#define ZERO_CHUNK_BYTES (1024 * MIB)

typedef enum ConvertKind {
    CONVERT_NOTHING,
    CONVERT_ZERO,
    CONVERT_DATA,
} ConvertKind;

typedef struct ConvertState {
    const ImageConvert *config;
    int64_t length; /* of the source */
    int64_t unit;
    int64_t chunk;
    int64_t position;
    int kernel_copies; /* still worth trying; atomic */
    ImageFault *fault;
} ConvertState;

static int read_fault(ConvertState *state, int ret, const char *what,
                      int64_t offset, int64_t bytes)
{
    return image_fault_note(state->fault, ret, what,
                            state->config->source_name, offset, bytes);
}

static int write_fault(ConvertState *state, int ret, int64_t offset,
                       int64_t bytes)
{
    return image_fault_note(state->fault, ret, "write",
                            state->config->target_name, offset, bytes);
}

/* -- handing out --------------------------------------------------------- */

/* In the target's backing file, what the source's lower layers show is. */
static int coroutine_fn ask_top_layer(ConvertState *state, int64_t offset,
                                      int64_t bytes, BlockStatus *ret_status)
{
    BlockDriverState *top = bdrv_skip_filters(blk_bs(state->config->source));

    return bdrv_co_block_status(top, /* want_zero= */ true, offset, bytes,
                                ret_status);
}

static int coroutine_fn ask(ConvertState *state, int64_t offset,
                            ConvertKind *ret_kind, int64_t *ret_bytes)
{
    const ImageConvert *config = state->config;
    bool in_backing = offset < config->backing_bytes;
    int64_t bytes = state->length - offset;
    BlockStatus status;
    int ret;

    if (in_backing) {
        ret = ask_top_layer(state, offset,
                            MIN(bytes, config->backing_bytes - offset),
                            &status);
    } else {
        ret = blk_co_block_status(config->source, /* want_zero= */ true,
                                  offset, bytes, &status);
    }
    if (ret < 0) {
        return read_fault(state, ret, "find out what is allocated in", offset,
                          bytes);
    }
    *ret_bytes = status.bytes;
    if (in_backing && !(status.flags & (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO))) {
        *ret_kind = CONVERT_NOTHING;
    } else if (config->sparse_bytes == 0 && !in_backing) {
        *ret_kind = CONVERT_DATA;
    } else if (!(status.flags & BDRV_BLOCK_ZERO)) {
        *ret_kind = CONVERT_DATA;
    } else {
        *ret_kind = config->target_is_zero && !in_backing ? CONVERT_NOTHING
                                                          : CONVERT_ZERO;
    }
    return 0;
}

/* The same in whole units: one that is of several kinds is data. */
static int coroutine_fn ask_units(ConvertState *state, int64_t offset,
                                  ConvertKind *ret_kind, int64_t *ret_bytes)
{
    int64_t left = state->length - offset;
    int64_t bytes = 0;
    int ret = ask(state, offset, ret_kind, &bytes);

    if (ret < 0 || bytes >= left) {
        *ret_bytes = left;
        return ret;
    }
    if (*ret_kind != CONVERT_DATA && bytes >= state->unit) {
        *ret_bytes = align_down(bytes, state->unit);
    } else {
        *ret_kind = CONVERT_DATA;
        *ret_bytes = MIN(align_up(bytes, state->unit), left);
    }
    return 0;
}

/* How much one piece of work may be. */
static int64_t piece_max(ConvertState *state, ConvertKind kind)
{
    if (kind == CONVERT_NOTHING) {
        return INT64_MAX;
    }
    if (kind == CONVERT_ZERO) {
        return ZERO_CHUNK_BYTES;
    }
    return __atomic_load_n(&state->kernel_copies, __ATOMIC_RELAXED)
               ? MAX(KERNEL_CHUNK_BYTES, state->chunk) : state->chunk;
}

static int coroutine_fn convert_next(void *opaque, ImageWork *ret_work)
{
    ConvertState *state = opaque;

    if (state->config->cancel &&
        __atomic_load_n(state->config->cancel, __ATOMIC_RELAXED)) {
        return -ECANCELED;
    }
    *ret_work = (ImageWork) { .offset = state->position };
    while (state->position < state->length) {
        int64_t max = piece_max(state, ret_work->kind) - ret_work->bytes;
        ConvertKind kind;
        int64_t bytes;
        int ret;

        if (ret_work->kind != CONVERT_NOTHING && max < state->unit) {
            break;
        }
        ret = ask_units(state, state->position, &kind, &bytes);
        if (ret < 0) {
            return ret;
        }
        if (kind == CONVERT_NOTHING && ret_work->kind == CONVERT_NOTHING) {
            state->position += bytes;
            ret_work->offset = state->position;
            continue;
        }
        if (ret_work->kind == CONVERT_NOTHING) {
            ret_work->kind = kind;
            max = piece_max(state, kind);
        } else if (kind != (ConvertKind)ret_work->kind) {
            break;
        }
        bytes = MIN(bytes, max);
        ret_work->bytes += bytes;
        state->position += bytes;
    }
    return ret_work->bytes > 0;
}

/* -- copying ------------------------------------------------------------- */

static int coroutine_fn write_zeros(ConvertState *state, int64_t offset,
                                    int64_t bytes)
{
    const ImageConvert *config = state->config;
    int ret;

    if (config->target_is_zero && config->backing_bytes < 0) {
        return 0;
    }
    ret = blk_co_pwrite_zeroes(config->target, offset, bytes,
                               BDRV_REQ_MAY_UNMAP);
    return write_fault(state, ret, offset, bytes);
}

/*
 * Compression takes whole clusters, or up to the target's end, which may lie
 * some bytes behind the source's: there are zeros. False: the source ends
 * in the middle of a cluster that goes on.
 */
static bool fill_cluster(const ConvertState *state, int64_t offset,
                         int64_t *bytes, uint8_t *buffer)
{
    int64_t left = blk_length(state->config->target) - offset;
    int64_t whole = MIN(state->unit, left);
    bool at_end = offset + *bytes == state->length;

    if (*bytes == whole) {
        return true;
    }
    if (!at_end || whole < left ||
        left - *bytes >= blk_limits(state->config->target)->request_alignment) {
        return false;
    }
    memset(buffer + *bytes, 0, whole - *bytes);
    *bytes = whole;
    return true;
}

static int coroutine_fn write_data(ConvertState *state, int64_t offset,
                                   int64_t bytes, uint8_t *buffer)
{
    BdrvRequestFlags flags = 0;
    IoVec iov;
    int ret;

    if (state->config->compress && fill_cluster(state, offset, &bytes,
                                                buffer)) {
        flags |= BDRV_REQ_WRITE_COMPRESSED;
    }
    iovec_init_buffer(&iov, buffer, bytes);
    ret = blk_co_pwritev(state->config->target, offset, bytes, &iov, flags);
    return write_fault(state, ret, offset, bytes);
}

/* Bytes from @at on that are all data, or all zeros (*ret_zero), in units. */
static int64_t run_length(const ConvertState *state, const uint8_t *buffer,
                          int64_t at, int64_t bytes, bool *ret_zero)
{
    int64_t unit = state->unit;
    int64_t end = MIN(at + unit, bytes);

    *ret_zero = state->config->sparse_bytes > 0 &&
                buffer_is_zero(buffer + at, end - at);
    /* Compressed clusters go one by one. */
    while (end < bytes && !(state->config->compress && !*ret_zero)) {
        int64_t part = MIN(unit, bytes - end);
        bool zero = state->config->sparse_bytes > 0 &&
                    buffer_is_zero(buffer + end, part);

        if (zero != *ret_zero) {
            break;
        }
        end += part;
    }
    return end - at;
}

static int coroutine_fn copy_piece(ConvertState *state, int64_t offset,
                                   int64_t bytes, uint8_t *buffer)
{
    IoVec iov;
    int ret;

    iovec_init_buffer(&iov, buffer, bytes);
    ret = blk_co_preadv(state->config->source, offset, bytes, &iov, 0);
    (void) read_fault(state, ret, "read", offset, bytes);
    for (int64_t at = 0; ret == 0 && at < bytes;) {
        bool zero;
        int64_t run = run_length(state, buffer, at, bytes, &zero);

        ret = zero ? write_zeros(state, offset + at, run)
                   : write_data(state, offset + at, run, buffer + at);
        at += run;
    }
    return ret;
}

/* True when the kernel has copied it. */
static bool coroutine_fn try_kernel_copy(ConvertState *state, int64_t offset,
                                         int64_t bytes)
{
    if (!__atomic_load_n(&state->kernel_copies, __ATOMIC_RELAXED)) {
        return false;
    }
    if (blk_co_copy_range(state->config->source, offset,
                          state->config->target, offset, bytes) == 0) {
        return true;
    }
    /* Whatever it was, reading and writing will do it or say it better. */
    __atomic_store_n(&state->kernel_copies, false, __ATOMIC_RELAXED);
    return false;
}

static int coroutine_fn convert_run(void *opaque, const ImageWork *work)
{
    ConvertState *state = opaque;
    uint8_t *buffer;
    int ret = 0;

    if (work->kind == CONVERT_ZERO) {
        return write_zeros(state, work->offset, work->bytes);
    }
    if (try_kernel_copy(state, work->offset, work->bytes)) {
        return 0;
    }
    buffer = buffer_pool_get(state->chunk);
    if (!buffer) {
        return -ENOMEM;
    }
    for (int64_t at = 0; ret == 0 && at < work->bytes; at += state->chunk) {
        ret = copy_piece(state, work->offset + at,
                         MIN(work->bytes - at, state->chunk), buffer);
    }
    buffer_pool_put(buffer, state->chunk);
    return ret;
}

/* -- the whole ----------------------------------------------------------- */

/* Why clusters of @bs cannot be compressed; NULL: they can. */
static const char *no_compression(const BlockDriverState *bs)
{
    if (!bs->drv->can_compress) {
        return "its format has no compression";
    }
    if (bs->encrypted) {
        return "clusters are either compressed or encrypted";
    }
    /* Only a file besides the metadata's own holds data and no metadata. */
    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = g_ptr_array_index(bs->children, i);

        if ((child->role & (BDRV_CHILD_DATA | BDRV_CHILD_METADATA)) ==
            BDRV_CHILD_DATA) {
            return "an external data file has no compressed clusters";
        }
    }
    return NULL;
}

static void convert_progress(void *opaque, int64_t offset)
{
    ConvertState *state = opaque;

    state->config->progress(state->config->opaque, offset, state->length);
}

bool image_convert_check(const ImageConvert *config, GError **error)
{
    int64_t target_bytes = blk_length(config->target);
    int64_t source_bytes = blk_length(config->source);
    const char *reason = config->compress
        ? no_compression(bdrv_skip_filters(blk_bs(config->target))) : NULL;

    if (target_bytes < source_bytes) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: has %" PRId64 " bytes, the source %" PRId64,
                    config->target_name, target_bytes, source_bytes);
        return false;
    }
    if (reason) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: cannot be compressed: %s", config->target_name,
                    reason);
        return false;
    }
    return true;
}

bool image_convert(const ImageConvert *config, GError **error)
{
    int64_t cluster_bytes = blk_cluster_bytes(config->target);
    g_auto(ImageFault) fault = { 0 };
    ConvertState state = {
        .config = config,
        .fault = &fault,
        .length = blk_length(config->source),
        .unit = MAX(cluster_bytes, config->sparse_bytes),
        .kernel_copies = config->copy_range && !config->compress,
    };
    ImageWorkers workers = {
        .next = convert_next,
        .run = convert_run,
        .progress = config->progress ? convert_progress : NULL,
        .opaque = &state,
        .fault = &fault,
        .total = state.length,
        .count = config->coroutines,
    };
    int ret;

    /* Compression has no choice; and without clusters there may be a hint. */
    state.unit = config->compress ? cluster_bytes
                                  : MAX(state.unit,
                                        IMAGE_CONVERT_SPARSE_DEFAULT);
    state.chunk = MAX(CHUNK_BYTES, state.unit);
    if (image_workers_run(&workers, error) < 0) {
        return false;
    }
    ret = blk_flush(config->target);
    if (ret < 0) {
        error_set_errno(error, -ret, "%s: cannot flush",
                        config->target_name);
    }
    return ret == 0;
}
