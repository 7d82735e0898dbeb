/* SPDX-License-Identifier: MIT */
/*
 * null: a node of any length that stores nothing
 *
 * For measuring what the layers above cost. Reads give zeros, or leave the
 * buffer as it is (read-zeroes=off); writes vanish; each request takes
 * latency-ns, asleep.
 *
 * It claims every ability a protocol can have, so that no layer above falls
 * back to something slower: what is measured is then that layer's best case.
 * Limits are the defaults, any alignment: filters such as blkdebug can narrow
 * them where that is what shall be measured.
 *
 * Locking: none, the state does not change once open (the length is the
 * node's).
 */
#include "block/driver.h"
#include "block/rt/timer.h"
#include "drivers/registry.h"

#define DEFAULT_LENGTH GIB

typedef struct NullState {
    int64_t latency_ns;
    bool read_zeroes;
} NullState;

static const BlockOptionDesc null_options[] = {
    { .name = "size", .type = BLOCK_OPTION_SIZE, .default_value = "1G",
      .help = "length of the node", .is_strong = true },
    { .name = "latency-ns", .type = BLOCK_OPTION_NUMBER,
      .default_value = "0", .help = "how long each request takes" },
    { .name = "read-zeroes", .type = BLOCK_OPTION_BOOL,
      .default_value = "on", .is_strong = true,
      .help = "fill buffers with zeros; off leaves them as they are" },
    { .name = NULL },
};

static bool null_open(BlockDriverState *bs, BlockOptions *options,
                      BdrvOpenFlags flags, GError **error)
{
    NullState *s = bs->opaque;
    uint64_t latency_ns = 0;
    int64_t length = DEFAULT_LENGTH;

    s->read_zeroes = true;
    if (!block_options_take_size(options, "size", &length, error) ||
        !block_options_take_number(options, "latency-ns", &latency_ns,
                                   error) ||
        !block_options_take_bool(options, "read-zeroes", &s->read_zeroes,
                                 error)) {
        return false;
    }
    if (length < 0 || length > BDRV_MAX_LENGTH || latency_ns > INT64_MAX) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "size or latency-ns of a null node is too large");
        return false;
    }
    s->latency_ns = latency_ns;
    /* There is nothing to flush, so FUA costs nothing to promise. */
    bs->length = length;
    bs->supported_read_flags = BDRV_REQ_REGISTERED_BUF;
    bs->supported_write_flags = BDRV_REQ_FUA | BDRV_REQ_WRITE_UNCHANGED |
                                BDRV_REQ_REGISTERED_BUF;
    bs->supported_zero_flags = BDRV_REQ_FUA | BDRV_REQ_WRITE_UNCHANGED |
                               BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    return true;
}

/*
 * Asleep, not busy: many requests at once take as long as one, as on a device
 * with a deep queue. Without a latency nothing yields, so requests end inline.
 */
static int coroutine_fn pretend_work(BlockDriverState *bs)
{
    const NullState *s = bs->opaque;

    if (s->latency_ns) {
        co_sleep_ns(s->latency_ns);
    }
    return 0;
}

static int coroutine_fn null_co_preadv(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, IoVec *iov,
                                       size_t iov_offset,
                                       BdrvRequestFlags flags)
{
    const NullState *s = bs->opaque;

    /* Filling costs more than all layers above a small request. */
    if (s->read_zeroes) {
        iovec_memset(iov, iov_offset, 0, bytes);
    }
    return pretend_work(bs);
}

static int coroutine_fn null_co_pwritev(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes, IoVec *iov,
                                        size_t iov_offset,
                                        BdrvRequestFlags flags)
{
    return pretend_work(bs);
}

static int coroutine_fn null_co_pwrite_zeroes(BlockDriverState *bs,
                                              int64_t offset, int64_t bytes,
                                              BdrvRequestFlags flags)
{
    return pretend_work(bs);
}

static int coroutine_fn null_co_pdiscard(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes)
{
    return pretend_work(bs);
}

/* One run to the end: whoever copies us finds nothing to copy. */
static int coroutine_fn null_co_block_status(BlockDriverState *bs,
                                             bool want_zero, int64_t offset,
                                             int64_t bytes,
                                             BlockStatus *ret_status)
{
    const NullState *s = bs->opaque;

    *ret_status = (BlockStatus) {
        .flags = BDRV_BLOCK_OFFSET_VALID |
                 (s->read_zeroes ? BDRV_BLOCK_ZERO : BDRV_BLOCK_DATA),
        .bytes = bytes,
        .host_offset = offset,
        .file = bs,
    };
    return 0;
}

static int coroutine_fn null_co_flush_to_disk(BlockDriverState *bs)
{
    return pretend_work(bs);
}

/* The caller keeps the length, and that is all there is. */
static int coroutine_fn null_co_truncate(BlockDriverState *bs, int64_t length,
                                         bool exact, BdrvPreallocMode prealloc,
                                         BdrvRequestFlags flags,
                                         GError **error)
{
    return 0;
}

static int64_t coroutine_fn null_co_get_allocated_file_size(
    BlockDriverState *bs)
{
    return 0;
}

/* With read-zeroes=off the content is whatever the buffer held. */
static bool null_has_zero_init(BlockDriverState *bs)
{
    const NullState *s = bs->opaque;

    return s->read_zeroes;
}

const BlockDriver bdrv_null = {
    .format_name = "null",
    .instance_size = sizeof(NullState),
    .options = null_options,
    .open = null_open,
    .co_preadv = null_co_preadv,
    .co_pwritev = null_co_pwritev,
    .co_pwrite_zeroes = null_co_pwrite_zeroes,
    .co_pdiscard = null_co_pdiscard,
    .co_block_status = null_co_block_status,
    .co_flush_to_disk = null_co_flush_to_disk,
    .co_truncate = null_co_truncate,
    .co_get_allocated_file_size = null_co_get_allocated_file_size,
    .has_zero_init = null_has_zero_init,
};
