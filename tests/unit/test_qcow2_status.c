/* SPDX-License-Identifier: MIT */
/*
 * block status of a qcow2 image
 */
#include "tests/unit/qcow2_image.h"

#include "block/io/status.h"

typedef struct StatusJob {
    BlockBackend *blk;
    int64_t offset;
    int64_t bytes;
    BlockStatus status;
    int ret;
} StatusJob;

static void coroutine_fn status_entry(void *opaque)
{
    StatusJob *job = opaque;

    job->ret = bdrv_co_block_status(blk_bs(job->blk), /* want_zero= */ false,
                                    job->offset, job->bytes, &job->status);
}

static StatusJob ask(BlockBackend *blk, int64_t offset)
{
    StatusJob job = { .blk = blk, .offset = offset,
                      .bytes = SEED_GUEST_BYTES - offset };

    aio_run_sync(status_entry, &job);
    return job;
}

/* Guest clusters 0 and 1 lie side by side in the file: one run. */
static void test_contiguous_data_is_one_run_with_its_offset(void **state)
{
    TestImage *image = *state;
    BlockBackend *blk;
    StatusJob job;

    image_write_file(image, seed_make(), SEED_BYTES);
    blk = image_open(image, BDRV_O_RDONLY);

    job = ask(blk, 512);

    assert_int_equal(job.ret, 0);
    assert_int_equal(job.status.bytes, 2 * SEED_CLUSTER - 512);
    assert_int_equal(job.status.host_offset, SEED_DATA + 512);
    assert_int_equal(job.status.flags & (BDRV_BLOCK_DATA | BDRV_BLOCK_ZERO),
                     BDRV_BLOCK_DATA);
    assert_true(job.status.flags & BDRV_BLOCK_OFFSET_VALID);
    assert_true(job.status.flags & BDRV_BLOCK_ALLOCATED);
    blk_free(blk);
}

static void test_compressed_data_has_no_offset(void **state)
{
    TestImage *image = *state;
    BlockBackend *blk;
    StatusJob job;

    image_write_file(image, seed_make(), SEED_BYTES);
    blk = image_open(image, BDRV_O_RDONLY);

    job = ask(blk, 2 * SEED_CLUSTER);

    assert_int_equal(job.ret, 0);
    assert_int_equal(job.status.bytes, SEED_CLUSTER);
    assert_true(job.status.flags & BDRV_BLOCK_COMPRESSED);
    assert_false(job.status.flags & BDRV_BLOCK_OFFSET_VALID);
    blk_free(blk);
}

static void test_zero_and_unallocated_clusters_differ(void **state)
{
    TestImage *image = *state;
    uint8_t *seed = seed_make();
    BlockBackend *blk;
    StatusJob zero;
    StatusJob nothing;

    seed_put(seed, SEED_L2 + 8 * 3, 8, QCOW2_L2_ZERO);
    seed_put(seed, SEED_L2 + 8 * 4, 8, QCOW2_L2_ZERO);
    image_write_file(image, seed, SEED_BYTES);
    blk = image_open(image, BDRV_O_RDONLY);

    zero = ask(blk, 3 * SEED_CLUSTER);
    nothing = ask(blk, 5 * SEED_CLUSTER);

    assert_int_equal(zero.ret, 0);
    assert_int_equal(zero.status.bytes, 2 * SEED_CLUSTER);
    assert_true(zero.status.flags & BDRV_BLOCK_ZERO);
    assert_true(zero.status.flags & BDRV_BLOCK_ALLOCATED);
    assert_int_equal(nothing.ret, 0);
    assert_int_equal(nothing.status.bytes, 11 * SEED_CLUSTER);
    assert_false(nothing.status.flags & BDRV_BLOCK_ALLOCATED);
    blk_free(blk);
}

static void test_a_damaged_entry_is_an_error_where_it_stands(void **state)
{
    TestImage *image = *state;
    uint8_t *seed = seed_make();
    BlockBackend *blk;
    StatusJob before;
    StatusJob there;

    seed_put(seed, SEED_L2 + 8, 8, QCOW2_ENTRY_COPIED | (1ull << 55));
    image_write_file(image, seed, SEED_BYTES);
    blk = image_open(image, BDRV_O_RDONLY);

    before = ask(blk, 0);
    there = ask(blk, SEED_CLUSTER);

    assert_int_equal(before.ret, 0);
    assert_int_equal(before.status.bytes, SEED_CLUSTER);
    assert_true(there.ret < 0);
    blk_free(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        image_test(test_contiguous_data_is_one_run_with_its_offset),
        image_test(test_compressed_data_has_no_offset),
        image_test(test_zero_and_unallocated_clusters_differ),
        image_test(test_a_damaged_entry_is_an_error_where_it_stands),
    };

    drivers_register_all();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
