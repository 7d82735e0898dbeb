/* SPDX-License-Identifier: MIT */
/*
 * tests of block/io/io.c, pad.c and fragment.c: whatever the user asks for,
 * the driver sees legal calls and the bytes end up in the right place
 *
 * The memory driver aborts on an illegal call, so a test that ends has also
 * shown the border to be clean.
 */
#include "tests/unit/memory_driver.h"


#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define LENGTH (MIB + 5000) /* not a multiple of the alignment */
#define ROUNDS 100000

static const BlockLimits narrow_limits = {
    .request_alignment = 4096,
    .max_transfer = 64 * 1024,
    .max_pdiscard = 100003,
    .max_pwrite_zeroes = 50001,
    .max_iov = 2,
    .min_mem_alignment = 512,
};

static int set_up(void **state)
{
    aio_context_new(NULL);
    return 0;
}

static int tear_down(void **state)
{
    aio_context_free(aio_context_current());
    return 0;
}

static BdrvChild *open_narrow(void)
{
    return memory_open(&(MemoryConfig) { .length = LENGTH,
                                         .limits = narrow_limits });
}

/* Cuts @buffer into random elements. */
static void scatter(IoVec *iov, GRand *rand, uint8_t *buffer, int64_t bytes)
{
    iovec_init(iov);
    while (bytes > 0) {
        int64_t piece = g_rand_int_range(rand, 1, 3) == 1 ? bytes
            : g_rand_int_range(rand, 1, 20000);

        piece = MIN(piece, bytes);
        iovec_add(iov, buffer, piece);
        buffer += piece;
        bytes -= piece;
    }
}

/* After a discard each byte is what it was, or zero. */
static void learn_discarded(uint8_t *model, const uint8_t *data, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i++) {
        assert_true(data[i] == model[i] || data[i] == 0);
        model[i] = data[i];
    }
}

static void random_request(BdrvChild *child, GRand *rand, uint8_t *model,
                           uint8_t *buffer)
{
    int64_t longest = g_rand_int_range(rand, 0, 8) ? 10000 : 300000;
    int64_t offset = g_rand_int_range(rand, 0, LENGTH);
    int64_t bytes = g_rand_int_range(rand, 1, longest);
    IoVec iov;

    bytes = MIN(bytes, LENGTH - offset);
    scatter(&iov, rand, buffer, bytes);
    switch (g_rand_int_range(rand, 0, 8)) {
    case 0: case 1: case 2:
        memset(buffer, g_rand_int_range(rand, 0, 256), bytes);
        memcpy(model + offset, buffer, bytes);
        assert_int_equal(memory_pwritev(child, offset, &iov, 0), 0);
        break;
    case 3:
        memset(model + offset, 0, bytes);
        assert_int_equal(bdrv_pwrite_zeroes(child, offset, bytes, 0), 0);
        break;
    case 4:
        assert_int_equal(memory_pdiscard(child, offset, bytes), 0);
        learn_discarded(model + offset, memory_data(child) + offset, bytes);
        break;
    default:
        assert_int_equal(memory_preadv(child, offset, &iov, 0), 0);
        assert_memory_equal(buffer, model + offset, bytes);
    }
    iovec_destroy(&iov);
}

static void test_random_requests_match_a_model(void **state)
{
    BdrvChild *child = open_narrow();
    g_autoptr(GRand) rand = g_rand_new_with_seed(42);
    g_autofree uint8_t *model = g_malloc0(LENGTH);
    g_autofree uint8_t *buffer = g_malloc(300000);

    for (int i = 0; i < ROUNDS; i++) {
        random_request(child, rand, model, buffer);
    }

    assert_memory_equal(memory_data(child), model, LENGTH);
    assert_int_equal(bdrv_node_length(child->bs), LENGTH);
    /* Every kind was there, and long ones were cut. */
    assert_true(memory_count(child, MEMORY_READ) > ROUNDS / 2);
    assert_true(memory_count(child, MEMORY_WRITE) > ROUNDS / 2);
    assert_true(memory_count(child, MEMORY_ZEROES) > ROUNDS / 16);
    assert_true(memory_count(child, MEMORY_DISCARD) > ROUNDS / 16);
    memory_close(child);
}

static void test_aligned_read_is_one_call_of_the_driver(void **state)
{
    BdrvChild *child = open_narrow();
    _Alignas(512) uint8_t buffer[8192];

    assert_int_equal(bdrv_pread(child, 4096, 8192, buffer), 0);

    assert_int_equal(memory_count(child, MEMORY_READ), 1);
    assert_int_equal(memory_last(child, MEMORY_READ).bytes, 8192);
    memory_close(child);
}

static void test_unaligned_write_reads_only_border_blocks(void **state)
{
    BdrvChild *child = open_narrow();
    g_autofree uint8_t *buffer = g_malloc0(40000);

    assert_int_equal(bdrv_pwrite(child, 100, 40000, buffer), 0);

    assert_int_equal(memory_count(child, MEMORY_READ), 2);
    memory_close(child);
}

static void test_bytes_past_the_end_read_as_zeros(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) {
        .length = 5000, .limits = { .request_alignment = 4096 } });
    uint8_t buffer[4096];
    IoVec iov;

    memset(memory_data(child), 0x55, 8192);
    iovec_init_buffer(&iov, buffer, sizeof(buffer));

    assert_int_equal(memory_preadv(child, 4096, &iov, 0), 0);

    assert_int_equal(buffer[5000 - 4096 - 1], 0x55);
    assert_true(buffer_is_zero(buffer + 5000 - 4096, 8192 - 5000));
    memory_close(child);
}

static void test_bad_ranges_are_refused(void **state)
{
    BdrvChild *child = open_narrow();
    uint8_t byte = 0;

    assert_int_equal(bdrv_pread(child, -1, 1, &byte), -EINVAL);
    assert_int_equal(bdrv_pread(child, LENGTH, 1, &byte), -EINVAL);
    assert_int_equal(bdrv_pread(child, INT64_MAX, 1, &byte), -EINVAL);
    assert_int_equal(bdrv_pwrite(child, 0, -1, &byte), -EINVAL);
    assert_int_equal(bdrv_pwrite(child, 0, BDRV_REQUEST_MAX_BYTES + 1, &byte),
                     -EINVAL);
    assert_int_equal(bdrv_pwrite(child, INT64_MAX, 1, &byte), -EINVAL);
    child->perm &= ~BLK_PERM_RESIZE;
    assert_int_equal(bdrv_pwrite(child, LENGTH + 8192, 1, &byte), -EINVAL);
    child->bs->read_only = true;
    assert_int_equal(bdrv_pwrite(child, 0, 1, &byte), -EROFS);
    assert_int_equal(bdrv_pwrite_zeroes(child, 0, 1, 0), -EROFS);
    assert_int_equal(memory_pdiscard(child, 0, 1), -EROFS);
    child->bs->read_only = false;
    memory_close(child);
}

static void test_write_past_the_end_extends_the_node(void **state)
{
    BdrvChild *child = open_narrow();
    uint8_t byte = 7, back = 0;

    assert_int_equal(bdrv_pwrite(child, LENGTH + 99999, 1, &byte), 0);

    assert_int_equal(bdrv_node_length(child->bs), LENGTH + 100000);
    assert_int_equal(bdrv_pread(child, LENGTH + 99999, 1, &back), 0);
    assert_int_equal(back, 7);
    assert_int_equal(bdrv_pread(child, LENGTH, 1, &back), 0);
    assert_int_equal(back, 0);
    memory_close(child);
}

static void test_failed_write_does_not_extend_the_node(void **state)
{
    BdrvChild *child = open_narrow();
    uint8_t byte = 7;

    memory_fail_next(child, MEMORY_WRITE, -ENOSPC);

    assert_int_equal(bdrv_pwrite(child, LENGTH + 99999, 1, &byte), -ENOSPC);
    assert_int_equal(bdrv_node_length(child->bs), LENGTH);
    memory_close(child);
}

static void test_fua_is_a_flush_where_the_driver_lacks_it(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });
    uint8_t buffer[512] = { 1 };
    IoVec iov;

    iovec_init_buffer(&iov, buffer, sizeof(buffer));
    assert_int_equal(memory_pwritev(child, 0, &iov, BDRV_REQ_FUA), 0);
    assert_int_equal(memory_count(child, MEMORY_TO_DISK), 1);
    assert_int_equal(memory_last(child, MEMORY_WRITE).flags, 0);
    memory_close(child);
}

static void test_fua_goes_to_a_driver_that_has_it(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) {
        .length = MIB, .write_flags = BDRV_REQ_FUA });
    uint8_t buffer[512] = { 1 };
    IoVec iov;

    iovec_init_buffer(&iov, buffer, sizeof(buffer));
    assert_int_equal(memory_pwritev(child, 0, &iov, BDRV_REQ_FUA), 0);
    assert_int_equal(memory_count(child, MEMORY_TO_DISK), 0);
    assert_int_equal(memory_last(child, MEMORY_WRITE).flags, BDRV_REQ_FUA);
    memory_close(child);
}

static void test_closed_node_has_no_medium(void **state)
{
    BdrvChild *child = open_narrow();
    const BlockDriver *drv = child->bs->drv;
    uint8_t byte;

    child->bs->drv = NULL;
    assert_int_equal(bdrv_pread(child, 0, 1, &byte), -ENOMEDIUM);
    assert_int_equal(bdrv_pwrite(child, 0, 1, &byte), -ENOMEDIUM);
    child->bs->drv = drv;
    memory_close(child);
}

/* -- copy-on-read -------------------------------------------------------- */

static BdrvChild *open_overlay(BdrvChild *base)
{
    return memory_open(&(MemoryConfig) {
        .length = MIB, .cluster_bytes = 65536, .backing = base });
}

static void test_copy_on_read_fills_whole_clusters_once(void **state)
{
    BdrvChild *base = memory_open(&(MemoryConfig) { .length = MIB });
    BdrvChild *top = open_overlay(base);
    uint8_t buffer[1000];

    memset(memory_data(base), 0x42, MIB);
    top->bs->copy_on_read = 1;
    assert_int_equal(bdrv_pread(top, 70000, sizeof(buffer), buffer), 0);
    assert_int_equal(bdrv_pread(top, 70000, sizeof(buffer), buffer), 0);

    assert_int_equal(buffer[999], 0x42);
    assert_false(memory_is_allocated(top, 0));
    assert_true(memory_is_allocated(top, 65536));
    assert_false(memory_is_allocated(top, 131072));
    assert_int_equal(memory_count(top, MEMORY_WRITE), 1);
    assert_int_equal(memory_last(top, MEMORY_WRITE).bytes, 65536);
    memory_close(top);
    memory_close(base);
}

static void test_failed_copy_does_not_fail_the_read(void **state)
{
    BdrvChild *base = memory_open(&(MemoryConfig) { .length = MIB });
    BdrvChild *top = open_overlay(base);
    uint8_t buffer[1000];
    IoVec iov;

    memset(memory_data(base), 0x42, MIB);
    memory_fail_next(top, MEMORY_WRITE, -ENOSPC);
    iovec_init_buffer(&iov, buffer, sizeof(buffer));

    assert_int_equal(memory_preadv(top, 0, &iov, BDRV_REQ_COPY_ON_READ), 0);
    assert_int_equal(buffer[0], 0x42);

    memory_fail_next(top, MEMORY_WRITE, -ENOSPC);
    assert_int_equal(memory_preadv(top, 0, &iov, BDRV_REQ_COPY_ON_READ |
                                                     BDRV_REQ_PREFETCH),
                     -ENOSPC);
    memory_close(top);
    memory_close(base);
}

/* -- compressed writes ----------------------------------------------------- */

static BdrvChild *open_compressing(bool compresses)
{
    return memory_open(&(MemoryConfig) {
        .length = MIB, .compresses = compresses,
        .limits = { .request_alignment = 4096 } });
}

static int write_compressed(BdrvChild *child, int64_t offset, int64_t bytes,
                            BdrvRequestFlags flags)
{
    g_autofree uint8_t *buffer = g_malloc(bytes);
    IoVec iov;

    memset(buffer, 6, bytes);
    iovec_init_buffer(&iov, buffer, bytes);
    return memory_pwritev(child, offset, &iov,
                          flags | BDRV_REQ_WRITE_COMPRESSED);
}

static void test_compressed_write_has_a_call_of_its_own(void **state)
{
    BdrvChild *child = open_compressing(true);

    assert_int_equal(write_compressed(child, 65536, 65536, 0), 0);

    assert_int_equal(memory_count(child, MEMORY_COMPRESSED), 1);
    assert_int_equal(memory_last(child, MEMORY_COMPRESSED).offset, 65536);
    assert_int_equal(memory_count(child, MEMORY_WRITE), 0);
    assert_int_equal(memory_data(child)[131071], 6);
    memory_close(child);
}

static void test_compressed_write_is_not_padded(void **state)
{
    BdrvChild *child = open_compressing(true);

    assert_int_equal(write_compressed(child, 100, 4096, 0), -EINVAL);
    assert_int_equal(write_compressed(child, 0, 4095, 0), -EINVAL);
    assert_int_equal(memory_count(child, MEMORY_COMPRESSED), 0);
    assert_int_equal(memory_count(child, MEMORY_READ), 0);
    memory_close(child);
}

static void test_who_cannot_compress_says_so(void **state)
{
    BdrvChild *child = open_compressing(false);

    assert_int_equal(write_compressed(child, 0, 65536, 0), -ENOTSUP);
    assert_int_equal(memory_count(child, MEMORY_WRITE), 0);
    memory_close(child);
}

/* Zeros of a compressed write are for the format to find. */
static void test_compressed_write_is_not_searched_for_zeros(void **state)
{
    BdrvChild *child = open_compressing(true);
    g_autofree uint8_t *zeros = g_malloc0(65536);
    IoVec iov;

    child->bs->detect_zeroes = BDRV_DETECT_ZEROES_ON;
    iovec_init_buffer(&iov, zeros, 65536);
    assert_int_equal(memory_pwritev(child, 0, &iov,
                                    BDRV_REQ_WRITE_COMPRESSED), 0);
    assert_int_equal(memory_count(child, MEMORY_COMPRESSED), 1);
    assert_int_equal(memory_count(child, MEMORY_ZEROES), 0);
    memory_close(child);
}

static void test_compressed_write_counts_as_a_write(void **state)
{
    BdrvChild *child = open_compressing(true);

    assert_int_equal(write_compressed(child, 0, 65536, BDRV_REQ_FUA), 0);
    assert_int_equal(memory_count(child, MEMORY_TO_DISK), 1);
    memory_fail_next(child, MEMORY_COMPRESSED, -EIO);
    assert_int_equal(write_compressed(child, 0, 65536, 0), -EIO);
    child->bs->read_only = true;
    assert_int_equal(write_compressed(child, 0, 65536, 0), -EROFS);
    child->bs->read_only = false;
    memory_close(child);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_requests_match_a_model),
        cmocka_unit_test(test_aligned_read_is_one_call_of_the_driver),
        cmocka_unit_test(test_unaligned_write_reads_only_border_blocks),
        cmocka_unit_test(test_bytes_past_the_end_read_as_zeros),
        cmocka_unit_test(test_bad_ranges_are_refused),
        cmocka_unit_test(test_write_past_the_end_extends_the_node),
        cmocka_unit_test(test_failed_write_does_not_extend_the_node),
        cmocka_unit_test(test_fua_is_a_flush_where_the_driver_lacks_it),
        cmocka_unit_test(test_fua_goes_to_a_driver_that_has_it),
        cmocka_unit_test(test_closed_node_has_no_medium),
        cmocka_unit_test(test_copy_on_read_fills_whole_clusters_once),
        cmocka_unit_test(test_failed_copy_does_not_fail_the_read),
        cmocka_unit_test(test_compressed_write_has_a_call_of_its_own),
        cmocka_unit_test(test_compressed_write_is_not_padded),
        cmocka_unit_test(test_who_cannot_compress_says_so),
        cmocka_unit_test(test_compressed_write_is_not_searched_for_zeros),
        cmocka_unit_test(test_compressed_write_counts_as_a_write),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
