/* SPDX-License-Identifier: MIT */
/*
 * blkverify: runs every request on two images and compares
 *
 * `test` is the image under test, shown to the user; `raw` is one that is
 * trusted. Writes go to both. A read whose results differ fails with -EIO and
 * logs the first byte that differs: a difference is what this driver is for,
 * so it must never pass silently.
 *
 * Locking: none; the state is constant after open.
 */
#include "drivers/registry.h"

#include "block/graph/open.h"
#include "block/io/io.h"
#include "block/rt/buffer_pool.h"

#include <errno.h>
#include <inttypes.h>

#define G_LOG_DOMAIN_BLKVERIFY "imgfuse-blkverify"

typedef struct BlkverifyState {
    BdrvChild *raw;
} BlkverifyState;

static const BlockOptionDesc blkverify_options[] = {
    { .name = "test", .type = BLOCK_OPTION_CHILD,
      .help = "the image under test" },
    { .name = "raw", .type = BLOCK_OPTION_CHILD,
      .help = "the trusted image to compare with" },
    { .name = NULL },
};

/* A longer raw image is fine: what lies past the test image is not compared. */
static bool blkverify_open(BlockDriverState *bs, BlockOptions *options,
                           BdrvOpenFlags flags, GError **error)
{
    BlkverifyState *s = bs->opaque;

    if (!bdrv_open_child(bs, options, "raw", BDRV_CHILD_DATA,
                         /* required= */ true, &s->raw, error) ||
        !bdrv_open_child(bs, options, "test",
                         BDRV_CHILD_FILTERED | BDRV_CHILD_PRIMARY,
                         /* required= */ true, &bs->file, error)) {
        return false;
    }
    bs->length = bdrv_node_length(bs->file->bs);
    if (bdrv_node_length(s->raw->bs) < bs->length) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "the raw image has %" PRId64 " bytes, the test image %"
                    PRId64, bdrv_node_length(s->raw->bs), bs->length);
        return false;
    }
    return true;
}

/* Logs where the two differ. */
static void report(BlockDriverState *bs, int64_t offset, int64_t bytes,
                   const uint8_t *test, const uint8_t *raw)
{
    int64_t at = 0;

    while (at < bytes && test[at] == raw[at]) {
        at++;
    }
    g_log(G_LOG_DOMAIN_BLKVERIFY, G_LOG_LEVEL_WARNING,
          "%s: read of %" PRId64 " bytes at %" PRId64 " differs from byte %"
          PRId64 ": 0x%02x, raw image 0x%02x", bdrv_name(bs), bytes, offset,
          offset + at, test[at], raw[at]);
}

/* Equal data, or equal errors; the guest never sees data in doubt. */
static int coroutine_fn read_both(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes, uint8_t *test, uint8_t *raw)
{
    BlkverifyState *s = bs->opaque;
    int test_ret = bdrv_co_pread(bs->file, offset, bytes, test, 0);
    int raw_ret = bdrv_co_pread(s->raw, offset, bytes, raw, 0);

    if (test_ret != raw_ret) {
        g_log(G_LOG_DOMAIN_BLKVERIFY, G_LOG_LEVEL_WARNING,
              "%s: read of %" PRId64 " bytes at %" PRId64
              " returned %d, raw image %d", bdrv_name(bs), bytes, offset,
              test_ret, raw_ret);
        return -EIO;
    }
    if (test_ret == 0 && memcmp(test, raw, bytes) != 0) {
        report(bs, offset, bytes, test, raw);
        return -EIO;
    }
    return test_ret;
}

/*
 * Both go to buffers of ours: with one in the guest's, a guest that reuses
 * its buffer meanwhile would look like a defect of the image.
 */
static int coroutine_fn blkverify_co_preadv(BlockDriverState *bs,
                                            int64_t offset, int64_t bytes,
                                            IoVec *iov, size_t iov_offset,
                                            BdrvRequestFlags flags)
{
    uint8_t *test = buffer_pool_get(bytes);
    uint8_t *raw = buffer_pool_get(bytes);
    int ret = -ENOMEM;

    if (test != NULL && raw != NULL) {
        ret = read_both(bs, offset, bytes, test, raw);
    }
    if (ret == 0) {
        iovec_from_buffer(iov, iov_offset, test, bytes);
    }
    buffer_pool_put(test, bytes);
    buffer_pool_put(raw, bytes);
    return ret;
}

/* Both did it: the same result, or the difference is an error. */
static int both(BlockDriverState *bs, const char *what, int64_t offset,
                int test_ret, int raw_ret)
{
    if (test_ret != raw_ret) {
        g_log(G_LOG_DOMAIN_BLKVERIFY, G_LOG_LEVEL_WARNING,
              "%s: %s at %" PRId64 " returned %d, raw image %d",
              bdrv_name(bs), what, offset, test_ret, raw_ret);
        return -EIO;
    }
    return test_ret;
}

/*
 * The raw image is written although the test image failed: a result that both
 * share is no difference, and only so does a later read compare like with
 * like.
 */
static int coroutine_fn blkverify_co_pwritev(BlockDriverState *bs,
                                             int64_t offset, int64_t bytes,
                                             IoVec *iov, size_t iov_offset,
                                             BdrvRequestFlags flags)
{
    BlkverifyState *s = bs->opaque;
    int test_ret = bdrv_co_pwritev(bs->file, offset, bytes, iov, iov_offset,
                                   flags);
    int raw_ret = bdrv_co_pwritev(s->raw, offset, bytes, iov, iov_offset,
                                  flags);

    return both(bs, "write", offset, test_ret, raw_ret);
}

static int coroutine_fn blkverify_co_pwrite_zeroes(BlockDriverState *bs,
                                                   int64_t offset,
                                                   int64_t bytes,
                                                   BdrvRequestFlags flags)
{
    BlkverifyState *s = bs->opaque;
    int test_ret = bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);
    int raw_ret = bdrv_co_pwrite_zeroes(s->raw, offset, bytes, flags);

    return both(bs, "zero write", offset, test_ret, raw_ret);
}

/* The two may discard differently: what is read afterwards would differ. */
static int coroutine_fn blkverify_co_pdiscard(BlockDriverState *bs,
                                              int64_t offset, int64_t bytes)
{
    return -ENOTSUP;
}

/* The trusted image has no need to compress. */
static int coroutine_fn blkverify_co_pwritev_compressed(BlockDriverState *bs,
                                                        int64_t offset,
                                                        int64_t bytes,
                                                        IoVec *iov,
                                                        size_t iov_offset)
{
    BlkverifyState *s = bs->opaque;
    int test_ret = bdrv_co_pwritev(bs->file, offset, bytes, iov, iov_offset,
                                   BDRV_REQ_WRITE_COMPRESSED);
    int raw_ret;

    if (test_ret == -ENOTSUP) {
        return test_ret; /* it comes again as an ordinary write */
    }
    raw_ret = bdrv_co_pwritev(s->raw, offset, bytes, iov, iov_offset,
                              /* flags= */ 0);
    return both(bs, "compressed write", offset, test_ret, raw_ret);
}

/* The trusted image first: it may be longer than the other, never shorter. */
static int coroutine_fn blkverify_co_truncate(BlockDriverState *bs,
                                              int64_t length, bool exact,
                                              BdrvPreallocMode prealloc,
                                              BdrvRequestFlags flags,
                                              GError **error)
{
    BlkverifyState *s = bs->opaque;
    int ret = bdrv_co_truncate(s->raw, length, exact, PREALLOC_OFF, flags,
                               error);

    return ret < 0 ? ret : bdrv_co_truncate(bs->file, length, exact, prealloc,
                                            flags, error);
}

const BlockDriver bdrv_blkverify = {
    .format_name = "blkverify",
    .instance_size = sizeof(BlkverifyState),
    .is_filter = true,
    .options = blkverify_options,
    .open = blkverify_open,
    .co_preadv = blkverify_co_preadv,
    .co_pwritev = blkverify_co_pwritev,
    .co_pwrite_zeroes = blkverify_co_pwrite_zeroes,
    .co_pdiscard = blkverify_co_pdiscard,
    .co_pwritev_compressed = blkverify_co_pwritev_compressed,
    .co_truncate = blkverify_co_truncate,
    .co_copy_range_from = bdrv_refuse_copy_range,
    .co_copy_range_to = bdrv_refuse_copy_range,
};
