/* SPDX-License-Identifier: MIT */
/*
 * accounting: counts, latency bins, several threads
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "block/io/accounting.h"
#include "block/rt/aio_context.h"
#include "block/rt/io_thread.h"
#include "tests/unit/memory_driver.h"

#include "block/backend.h"

#include <errno.h>

#define ROUNDS 100000

static int make_context(void **state)
{
    *state = aio_context_new(NULL);
    return *state == NULL;
}

static int free_context(void **state)
{
    aio_context_free(*state);
    return 0;
}

static void count_one(Accounting *accounting, AccountingType type,
                      int64_t bytes, int ret)
{
    AccountingCookie cookie;

    accounting_begin(accounting, &cookie, type, bytes);
    accounting_end(accounting, &cookie, ret);
}

static void test_operations_and_bytes_are_counted_by_type(void **state)
{
    Accounting *accounting = accounting_new();
    AccountingTotals totals;

    count_one(accounting, ACCOUNTING_READ, 4096, 0);
    count_one(accounting, ACCOUNTING_READ, 512, 0);
    count_one(accounting, ACCOUNTING_WRITE, 100, 0);

    accounting_totals(accounting, ACCOUNTING_READ, &totals);
    assert_int_equal(totals.operations, 2);
    assert_int_equal(totals.bytes, 4608);
    accounting_totals(accounting, ACCOUNTING_WRITE, &totals);
    assert_int_equal(totals.operations, 1);
    assert_int_equal(totals.bytes, 100);
    accounting_free(accounting);
}

static void test_a_failed_request_counts_as_failed_only(void **state)
{
    Accounting *accounting = accounting_new();
    AccountingTotals totals;

    count_one(accounting, ACCOUNTING_FLUSH, 0, -5);
    accounting_invalid(accounting, ACCOUNTING_FLUSH);
    accounting_merged(accounting, ACCOUNTING_FLUSH, 3);

    accounting_totals(accounting, ACCOUNTING_FLUSH, &totals);
    assert_int_equal(totals.failed, 1);
    assert_int_equal(totals.operations, 0);
    assert_int_equal(totals.invalid, 1);
    assert_int_equal(totals.merged, 3);
    accounting_free(accounting);
}

static void test_latency_lands_in_the_bin_between_its_boundaries(void **state)
{
    Accounting *accounting = accounting_new();
    uint64_t boundaries[] = { 1, UINT64_C(3600000000000) };
    AccountingTotals totals;

    assert_true(accounting_set_histogram(accounting, ACCOUNTING_READ,
                                         boundaries, 2, NULL));
    count_one(accounting, ACCOUNTING_READ, 1, 0);

    accounting_totals(accounting, ACCOUNTING_READ, &totals);
    assert_int_equal(totals.bins[0] + totals.bins[1], 1);
    assert_int_equal(totals.bins[2], 0);
    accounting_free(accounting);
}

static void test_boundaries_that_do_not_rise_are_refused(void **state)
{
    Accounting *accounting = accounting_new();
    uint64_t boundaries[] = { 10, 10 };
    g_autoptr(GError) error = NULL;

    assert_false(accounting_set_histogram(accounting, ACCOUNTING_READ,
                                          boundaries, 2, &error));
    assert_true(g_error_matches(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION));
    accounting_free(accounting);
}

static void count_many(void *opaque)
{
    for (int i = 0; i < ROUNDS; i++) {
        count_one(opaque, ACCOUNTING_WRITE, 2, 0);
    }
}

static void test_threads_that_count_at_a_time_lose_nothing(void **state)
{
    Accounting *accounting = accounting_new();
    AccountingTotals totals;
    IoThread *thread[3];

    for (int i = 0; i < 3; i++) {
        thread[i] = io_thread_new("count", NULL);
        aio_schedule(io_thread_context(thread[i]), count_many, accounting);
    }
    count_many(accounting);
    for (int i = 0; i < 3; i++) {
        io_thread_free(thread[i]);
    }

    accounting_totals(accounting, ACCOUNTING_WRITE, &totals);
    assert_int_equal(totals.operations, 4 * ROUNDS);
    assert_int_equal(totals.bytes, 8 * ROUNDS);
    accounting_free(accounting);
}

/* ---- nodes and backends -------------------------------------------------- */

static AccountingTotals totals_of(Accounting *accounting, AccountingType type)
{
    AccountingTotals totals;

    accounting_totals(accounting, type, &totals);
    return totals;
}

/* One request of each type, and a write that fails. */
static void use_node(BdrvChild *child)
{
    uint8_t buffer[4096] = { 1 };

    assert_int_equal(bdrv_pwrite(child, 0, 4096, buffer), 0);
    assert_int_equal(bdrv_pread(child, 0, 100, buffer), 0);
    assert_int_equal(bdrv_pwrite_zeroes(child, 0, 512, 0), 0);
    assert_int_equal(memory_pdiscard(child, 0, 8192), 0);
    assert_int_equal(bdrv_flush(child->bs), 0);
    memory_fail_next(child, MEMORY_WRITE, -EIO);
    assert_int_equal(bdrv_pwrite(child, 0, 4096, buffer), -EIO);
}

static void test_a_node_counts_from_when_it_is_told_to(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });
    Accounting *accounting;

    use_node(child);
    assert_null(child->bs->accounting);
    accounting = bdrv_enable_accounting(child->bs);
    assert_ptr_equal(bdrv_enable_accounting(child->bs), accounting);
    use_node(child);

    assert_int_equal(totals_of(accounting, ACCOUNTING_WRITE).operations, 1);
    assert_int_equal(totals_of(accounting, ACCOUNTING_WRITE).bytes, 4096);
    assert_int_equal(totals_of(accounting, ACCOUNTING_WRITE).failed, 1);
    assert_int_equal(totals_of(accounting, ACCOUNTING_READ).bytes, 100);
    assert_int_equal(totals_of(accounting, ACCOUNTING_ZEROES).bytes, 512);
    assert_int_equal(totals_of(accounting, ACCOUNTING_UNMAP).bytes, 8192);
    assert_int_equal(totals_of(accounting, ACCOUNTING_FLUSH).operations, 1);
    memory_close(child);
}

static void test_a_node_knows_how_far_it_was_written(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });
    Accounting *accounting = bdrv_enable_accounting(child->bs);
    uint8_t byte = 1;

    child->bs->open_flags |= BDRV_O_UNMAP;
    assert_int_equal(accounting_highest_end(accounting), 0);
    assert_int_equal(bdrv_pwrite(child, 70000, 1, &byte), 0);
    assert_int_equal(bdrv_pwrite(child, 3, 1, &byte), 0);
    assert_int_equal(accounting_highest_end(accounting), 70001);

    assert_int_equal(bdrv_pwrite_zeroes(child, 65536, 65536, 0), 0);
    assert_int_equal(accounting_highest_end(accounting), 131072);

    assert_int_equal(bdrv_pread(child, MIB - 1, 1, &byte), 0);
    assert_int_equal(memory_pdiscard(child, 524288, 65536), 0);
    assert_int_equal(accounting_highest_end(accounting), 131072);

    memory_fail_next(child, MEMORY_WRITE, -EIO); /* and got who knows where */
    assert_int_equal(bdrv_pwrite(child, 262144, 1, &byte), -EIO);
    assert_int_equal(accounting_highest_end(accounting), 262145);
    memory_close(child);
}

static void test_a_nodes_latency_is_measured_by_histogram(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });
    Accounting *accounting = bdrv_enable_accounting(child->bs);
    const uint64_t boundaries[] = { 1, UINT64_MAX };
    AccountingTotals totals;

    assert_true(accounting_set_histogram(accounting, ACCOUNTING_READ,
                                         boundaries, 2, NULL));
    use_node(child);
    totals = totals_of(accounting, ACCOUNTING_READ);
    assert_int_equal(totals.bins[0] + totals.bins[1], 1);
    assert_int_equal(totals.bins[2], 0);
    totals = totals_of(accounting, ACCOUNTING_WRITE); /* not asked for */
    assert_int_equal(totals.bins[0] + totals.bins[1], 0);
    assert_int_equal(totals.total_time_ns, 0);
    memory_close(child);
}

typedef struct BackendRead {
    BlockBackend *blk;
    int ret;
} BackendRead;

static void coroutine_fn backend_read_entry(void *opaque)
{
    BackendRead *read = opaque;
    uint8_t buffer[512];
    IoVec iov;

    iovec_init_buffer(&iov, buffer, sizeof(buffer));
    read->ret = blk_co_preadv(read->blk, 0, sizeof(buffer), &iov, 0);
}

/* Two users of a node: each counts its own, the node both. */
static void test_backends_always_count_their_own(void **state)
{
    BdrvChild *child = memory_open(&(MemoryConfig) { .length = MIB });
    Accounting *accounting = bdrv_enable_accounting(child->bs);
    const uint64_t boundary = UINT64_MAX;

    for (int i = 0; i < 2; i++) {
        BackendRead read = {
            blk_new(BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, "test"), -1 };
        Accounting *own = blk_accounting(read.blk);

        assert_true(blk_insert_node(read.blk, child->bs, NULL));
        assert_true(accounting_set_histogram(own, ACCOUNTING_READ, &boundary,
                                             1, NULL));
        aio_run_sync(backend_read_entry, &read);
        assert_int_equal(read.ret, 0);
        assert_int_equal(totals_of(own, ACCOUNTING_READ).operations, 1);
        assert_int_equal(totals_of(own, ACCOUNTING_READ).bins[0], 1);
        blk_free(read.blk);
    }
    assert_int_equal(totals_of(accounting, ACCOUNTING_READ).operations, 2);
    assert_int_equal(totals_of(accounting, ACCOUNTING_READ).bytes, 1024);
    memory_close(child);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operations_and_bytes_are_counted_by_type),
        cmocka_unit_test(test_a_failed_request_counts_as_failed_only),
        cmocka_unit_test(
            test_latency_lands_in_the_bin_between_its_boundaries),
        cmocka_unit_test(test_boundaries_that_do_not_rise_are_refused),
        cmocka_unit_test(test_threads_that_count_at_a_time_lose_nothing),
        cmocka_unit_test(test_a_node_counts_from_when_it_is_told_to),
        cmocka_unit_test(test_a_node_knows_how_far_it_was_written),
        cmocka_unit_test(test_a_nodes_latency_is_measured_by_histogram),
        cmocka_unit_test(test_backends_always_count_their_own),
    };

    return cmocka_run_group_tests(tests, make_context, free_context);
}
