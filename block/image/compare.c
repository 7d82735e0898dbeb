/* SPDX-License-Identifier: MIT */
/*
 * comparing two images: does a reader see the same bytes?
 *
 * Ranges are handed out in order with what the two images say about them;
 * what both know to be zeros is never read. Several are compared at a time.
 *
 * Always true outside a function of this file:
 *  D1  everything before `found` has been handed out, and what is handed out
 *      gets compared: so the first difference is found, whoever is faster.
 *
 * Locking: lock protects difference, found and the stage that failed. The
 * position is next's own.
 */
#include "block/image/compare.h"

#include "block/image/workers.h"
#include "block/rt/buffer_pool.h"

#include <errno.h>
#include <string.h>

#define CHUNK_BYTES (512 * KIB)
/* How exact the place of a difference is. */
#define SECTOR_BYTES 512
#define STATUS_FLAGS \
    (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO | BDRV_BLOCK_ALLOCATED)

/* Kinds of work: which images need reading. */
enum { READ_FIRST = 1 << 0, READ_SECOND = 1 << 1 };

typedef struct CompareState {
    ImageCompare *compare;
    int64_t position;
    int64_t lengths[2];
    int64_t end;
    GMutex lock;
    ImageDifference difference;
    int64_t found; /* where; INT64_MAX: nowhere yet */
    ImageFault *fault;
} CompareState;

static void note(CompareState *state, ImageDifference difference,
                 int64_t offset)
{
    g_mutex_lock(&state->lock);
    if (offset < state->found) {
        state->found = offset;
        state->difference = difference;
    }
    g_mutex_unlock(&state->lock);
}

/* Several workers may fail at a time. */
static void set_stage(CompareState *state, ImageCompareStage stage)
{
    g_mutex_lock(&state->lock);
    state->compare->failed_stage = stage;
    g_mutex_unlock(&state->lock);
}

static bool is_found(CompareState *state)
{
    bool found;

    g_mutex_lock(&state->lock);
    found = state->found != INT64_MAX;
    g_mutex_unlock(&state->lock);
    return found;
}

/* -- handing out --------------------------------------------------------- */

/* Behind an image's end are zeros. */
static int coroutine_fn status_of(CompareState *state, int index,
                                  BlockStatus *ret_status)
{
    int64_t left = state->lengths[index] - state->position;

    if (left <= 0) {
        *ret_status = (BlockStatus) {
            .flags = BDRV_BLOCK_ZERO,
            .bytes = state->end - state->position,
        };
        return 0;
    }
    return blk_co_block_status(state->compare->images[index],
                               /* want_zero= */ true, state->position, left,
                               ret_status);
}

/* One range of which both images say one thing. */
static int coroutine_fn look(CompareState *state, ImageWork *work)
{
    BlockStatus status[2];

    for (int i = 0; i < 2; i++) {
        int ret = status_of(state, i, &status[i]);

        if (ret < 0) {
            set_stage(state, IMAGE_COMPARE_STATUS);
            return image_fault_note(
                state->fault, ret, "find out what is allocated in",
                state->compare->names[i], state->position,
                state->lengths[i] - state->position);
        }
    }
    *work = (ImageWork) {
        .offset = state->position,
        .bytes = MIN(status[0].bytes, status[1].bytes),
    };
    if (state->compare->is_strict &&
        (status[0].flags & STATUS_FLAGS) != (status[1].flags & STATUS_FLAGS)) {
        note(state, IMAGE_DIFFERS_STATUS, state->position);
    }
    work->kind |= status[0].flags & BDRV_BLOCK_ZERO ? 0 : READ_FIRST;
    work->kind |= status[1].flags & BDRV_BLOCK_ZERO ? 0 : READ_SECOND;
    return 0;
}

static int coroutine_fn compare_next(void *opaque, ImageWork *ret_work)
{
    CompareState *state = opaque;

    while (state->position < state->end && !is_found(state)) {
        ImageWork more;
        int ret = look(state, ret_work);

        if (ret < 0 || is_found(state)) {
            return ret;
        }
        if (!ret_work->kind) {
            state->position += ret_work->bytes;
            continue;
        }
        /* Short ranges of one kind together, up to a chunk. */
        ret_work->bytes = MIN(ret_work->bytes, CHUNK_BYTES);
        state->position += ret_work->bytes;
        while (ret_work->bytes < CHUNK_BYTES &&
               state->position < state->end &&
               look(state, &more) == 0 && more.kind == ret_work->kind) {
            more.bytes = MIN(more.bytes, CHUNK_BYTES - ret_work->bytes);
            ret_work->bytes += more.bytes;
            state->position += more.bytes;
        }
        return 1;
    }
    return 0;
}

/* -- comparing ----------------------------------------------------------- */

static int coroutine_fn read_into(CompareState *state, int index,
                                  const ImageWork *work, uint8_t *buffer)
{
    IoVec iov;
    int ret;

    iovec_init_buffer(&iov, buffer, work->bytes);
    ret = blk_co_preadv(state->compare->images[index], work->offset,
                        work->bytes, &iov, 0);
    if (ret < 0) {
        set_stage(state, IMAGE_COMPARE_READ);
    }
    return image_fault_note(state->fault, ret, "read",
                            state->compare->names[index], work->offset,
                            work->bytes);
}

/* The first sector that differs, -1 when none. @second NULL: zeros. */
static int64_t first_difference(const uint8_t *first, const uint8_t *second,
                                int64_t bytes)
{
    if (second ? memcmp(first, second, bytes) == 0
               : buffer_is_zero(first, bytes)) {
        return -1;
    }
    for (int64_t at = 0; at < bytes; at += SECTOR_BYTES) {
        int64_t part = MIN(bytes - at, SECTOR_BYTES);

        if (second ? memcmp(first + at, second + at, part) != 0
                   : !buffer_is_zero(first + at, part)) {
            return at;
        }
    }
    return -1;
}

static int coroutine_fn compare_run(void *opaque, const ImageWork *work)
{
    CompareState *state = opaque;
    bool both = work->kind == (READ_FIRST | READ_SECOND);
    uint8_t *buffers[2] = {
        buffer_pool_get(work->bytes),
        both ? buffer_pool_get(work->bytes) : NULL,
    };
    int ret = -ENOMEM;
    int64_t at;

    if (buffers[0] && (buffers[1] || !both)) {
        ret = read_into(state, work->kind == READ_SECOND, work, buffers[0]);
    }
    if (ret == 0 && both) {
        ret = read_into(state, 1, work, buffers[1]);
    }
    if (ret == 0) {
        at = first_difference(buffers[0], buffers[1], work->bytes);
        if (at >= 0) {
            note(state, IMAGE_DIFFERS_CONTENT, work->offset + at);
        }
    }
    buffer_pool_put(buffers[0], work->bytes);
    buffer_pool_put(buffers[1], work->bytes);
    return ret;
}

static void compare_progress(void *opaque, int64_t offset)
{
    CompareState *state = opaque;

    state->compare->progress(state->compare->opaque, offset, state->end);
}

bool image_compare(ImageCompare *compare, GError **error)
{
    g_auto(ImageFault) fault = { 0 };
    CompareState state = { .compare = compare, .found = INT64_MAX,
                           .fault = &fault };
    ImageWorkers workers = {
        .next = compare_next,
        .run = compare_run,
        .progress = compare->progress ? compare_progress : NULL,
        .opaque = &state,
        .fault = &fault,
        .count = IMAGE_WORKERS_DEFAULT,
    };
    int ret;

    for (int i = 0; i < 2; i++) {
        state.lengths[i] = blk_length(compare->images[i]);
        state.end = MAX(state.end, state.lengths[i]);
    }
    if (compare->is_strict && state.lengths[0] != state.lengths[1]) {
        compare->difference = IMAGE_DIFFERS_LENGTH;
        return true;
    }
    compare->failed_stage = IMAGE_COMPARE_READ;
    workers.total = state.end;
    g_mutex_init(&state.lock);
    ret = image_workers_run(&workers, error);
    g_mutex_clear(&state.lock);
    compare->difference = state.difference;
    compare->offset = state.found;
    return ret == 0;
}
