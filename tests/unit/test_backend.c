/* SPDX-License-Identifier: MIT */
/*
 * BlockBackend: the gate, permissions, write-through, the probed raw image
 */
#include "graph_test_driver.h"

#include "block/backend.h"
#include "block/io/accounting.h"
#include "block/rt/io_thread.h"

#include <errno.h>

typedef struct Call {
    BlockBackend *blk;
    int64_t offset, bytes;
    char *buffer;
    bool is_write, is_zero;
    int ret;    /* atomic where a thread sets it */
    int n_done; /* atomic */
    bool stop;  /* atomic */
} Call;

static void coroutine_fn call_entry(void *opaque)
{
    Call *call = opaque;
    IoVec iov;

    iovec_init_buffer(&iov, call->buffer, (size_t)call->bytes);
    if (call->is_zero) {
        call->ret = blk_co_pwrite_zeroes(call->blk, call->offset, call->bytes,
                                         0);
    } else if (call->is_write) {
        call->ret = blk_co_pwritev(call->blk, call->offset, call->bytes, &iov,
                                   0);
    } else {
        call->ret = blk_co_preadv(call->blk, call->offset, call->bytes, &iov,
                                  0);
    }
    __atomic_fetch_add(&call->n_done, 1, __ATOMIC_SEQ_CST);
}

static int do_write(BlockBackend *blk, int64_t offset, const char *text)
{
    Call call = {.blk = blk, .offset = offset, .buffer = (char *)text,
                 .bytes = (int64_t)strlen(text), .is_write = true};

    aio_run_sync(call_entry, &call);
    return call.ret;
}

static int do_read(BlockBackend *blk)
{
    char buffer[16];
    Call call = {.blk = blk, .buffer = buffer, .bytes = sizeof(buffer)};

    aio_run_sync(call_entry, &call);
    return call.ret;
}

static BlockBackend *open_mem(BdrvOpenFlags flags)
{
    BlockBackend *blk = blk_open(
        NULL, block_options_from_string("driver=tmem", NULL), flags, NULL,
        "test", NULL);

    assert_non_null(blk);
    return blk;
}

static void test_what_was_not_asked_for_is_refused(void **state)
{
    g_autoptr(BlockBackend) reader = open_mem(BDRV_O_RDONLY);
    g_autoptr(BlockBackend) empty = blk_new(BLK_PERM_ALL, BLK_PERM_ALL, "e");

    assert_int_equal(do_read(reader), 0);
    assert_int_equal(do_write(reader, 0, "x"), -EACCES);
    assert_true(blk_is_read_only(reader));
    assert_int_equal(do_read(empty), -ENXIO);
    assert_int_equal(blk_length(empty), -ENXIO);
    assert_int_equal(blk_length(reader), TMEM_BYTES);
}

/* A node of another user is in the message. */
static void test_two_writers_conflict_by_name(void **state)
{
    g_autoptr(BlockBackend) writer = open_mem(BDRV_O_RDWR);
    g_autoptr(BlockBackend) other = blk_new(BLK_PERM_WRITE, BLK_PERM_ALL,
                                            "commit of x");
    g_autoptr(GError) error = NULL;

    assert_false(blk_insert_node(other, blk_bs(writer), &error));
    assert_non_null(strstr(error->message, "commit of x"));
    assert_non_null(strstr(error->message, "test"));
    assert_true(blk_set_perm(writer, BLK_PERM_WRITE, BLK_PERM_ALL, NULL));
    assert_true(blk_insert_node(other, blk_bs(writer), NULL));
}

static void test_write_through_flushes_each_write(void **state)
{
    g_autoptr(BlockBackend) blk = open_mem(BDRV_O_RDWR | BDRV_O_WRITETHROUGH);
    BlockDriverState *bs = blk_bs(blk);

    assert_int_equal(do_write(blk, 0, "a"), 0);
    assert_int_equal(test_mem(bs)->flushes, 1);
    assert_int_equal(do_write(blk, 0, "b"), 0);
    assert_int_equal(test_mem(bs)->flushes, 2);
    blk_set_write_through(blk, false);
    assert_int_equal(do_write(blk, 0, "c"), 0);
    assert_int_equal(test_mem(bs)->flushes, 2);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(test_mem(bs)->flushes, 3);
}

/* tmem is not raw: take the raw format over it, guessed. */
static BlockBackend *open_probed(BlockDriverState **ret_file)
{
    BlockBackend *blk = blk_open(NULL, block_options_from_json(
        "{\"file\":{\"driver\":\"tmem\"}}", NULL), BDRV_O_RDWR, NULL, "test",
        NULL);

    assert_non_null(blk);
    *ret_file = blk_bs(blk)->file->bs;
    return blk;
}

static void test_a_probed_raw_image_stays_raw(void **state)
{
    BlockDriverState *file;
    g_autoptr(BlockBackend) blk = open_probed(&file);

    assert_int_equal(do_write(blk, 0, "TFMT\nx"), -EPERM);
    assert_int_equal(test_mem(file)->bytes[0], 0);
    assert_int_equal(do_write(blk, 0, "TFM"), 0);
    assert_int_equal(do_write(blk, 3, "T\n"), -EPERM);
    assert_int_equal(do_write(blk, 3, "TT"), 0);
    assert_int_equal(do_write(blk, 2048, "TFMT\n"), 0);
    blk_set_protect_probed_raw(blk, false);
    assert_int_equal(do_write(blk, 3, "T\n"), 0);
}

static void test_a_named_raw_image_takes_any_bytes(void **state)
{
    g_autoptr(BlockBackend) blk = blk_open(NULL, block_options_from_json(
        "{\"driver\":\"raw\",\"file\":{\"driver\":\"tmem\"}}", NULL),
        BDRV_O_RDWR, NULL, "test", NULL);

    assert_int_equal(do_write(blk, 0, "TFMT\n"), 0);
}

static void test_a_drain_waits_for_a_request_in_flight(void **state)
{
    g_autoptr(BlockBackend) blk = open_mem(BDRV_O_RDWR);
    BlockDriverState *bs = blk_bs(blk);
    char buffer[16];
    Call call = {.blk = blk, .buffer = buffer, .bytes = sizeof(buffer)};

    test_mem(bs)->hold_reads = true;
    co_enter(co_create(call_entry, &call));
    assert_int_equal(call.n_done, 0);
    aio_schedule(aio_context_current(), (AioCallback *)test_release_read, bs);
    blk_drain_begin(blk);
    assert_int_equal(call.n_done, 1);
    blk_drain_end(blk);
}

static void test_requests_wait_for_the_end_of_a_drain(void **state)
{
    g_autoptr(BlockBackend) blk = open_mem(BDRV_O_RDWR);
    char buffer[16];
    Call call = {.blk = blk, .buffer = buffer, .bytes = sizeof(buffer),
                 .ret = 1};

    blk_drain_begin(blk);
    blk_drain_begin(blk);
    co_enter(co_create(call_entry, &call));
    co_enter(co_create(call_entry, &call));
    assert_int_equal(blk_pread(blk, 0, 16, buffer), 0);
    blk_drain_end(blk);
    while (aio_poll(aio_context_current(), false)) {
    }
    assert_int_equal(call.n_done, 0);
    blk_drain_end(blk);
    while (call.n_done < 2) {
        aio_poll(aio_context_current(), true);
    }
    assert_int_equal(call.ret, 0);
}

/* The root goes away while a request waits: it finds none. */
static void test_removing_the_root_ends_waiting_requests(void **state)
{
    g_autoptr(BlockBackend) blk = open_mem(BDRV_O_RDWR);
    char buffer[16];
    Call call = {.blk = blk, .buffer = buffer, .bytes = sizeof(buffer)};

    blk_drain_begin(blk);
    co_enter(co_create(call_entry, &call));
    blk_remove_node(blk);
    blk_drain_end(blk);
    while (call.n_done < 1) {
        aio_poll(aio_context_current(), true);
    }
    assert_int_equal(call.ret, -ENXIO);
}

static void coroutine_fn load_entry(void *opaque)
{
    Call *call = opaque;

    while (!__atomic_load_n(&call->stop, __ATOMIC_SEQ_CST)) {
        char buffer[64];
        Call one = {.blk = call->blk, .buffer = buffer,
                    .bytes = sizeof(buffer)};

        call_entry(&one);
        __atomic_fetch_add(&call->n_done, 1, __ATOMIC_SEQ_CST);
        co_wake(co_self()); /* let the loop turn */
        co_yield();
    }
    __atomic_fetch_add(&call->ret, 1, __ATOMIC_SEQ_CST);
}

static void start_load(void *opaque)
{
    co_enter(co_create(load_entry, opaque));
}

/* Two threads send requests while the control plane drains 500 times. */
static void test_drains_hold_against_io_threads(void **state)
{
    IoThread *threads[2];
    g_autoptr(BlockBackend) blk = open_mem(BDRV_O_RDWR);
    Call call = {.blk = blk};

    for (int i = 0; i < 2; i++) {
        threads[i] = io_thread_new("load", NULL);
        io_thread_run(threads[i], start_load, &call);
    }
    for (int i = 0; i < 500; i++) {
        int before;

        blk_drain_begin(blk);
        before = __atomic_load_n(&call.n_done, __ATOMIC_SEQ_CST);
        g_usleep(20);
        /* One that had left the gate may still be counted by the test. */
        assert_true(__atomic_load_n(&call.n_done, __ATOMIC_SEQ_CST) <=
                    before + 2);
        blk_drain_end(blk);
    }
    __atomic_store_n(&call.stop, true, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 2; i++) {
        io_thread_free(threads[i]);
    }
    assert_int_equal(call.ret, 2);
    assert_true(call.n_done > 500);
}

static AccountingTotals totals_of(BlockBackend *blk, AccountingType type)
{
    AccountingTotals totals;

    accounting_totals(blk_accounting(blk), type, &totals);
    return totals;
}

static void test_requests_are_accounted_by_type_and_result(void **state)
{
    g_autoptr(BlockBackend) blk = open_mem(BDRV_O_RDWR);
    Call zeroes = {.blk = blk, .bytes = 100, .is_zero = true};

    assert_int_equal(do_read(blk), 0);
    assert_int_equal(do_read(blk), 0);
    assert_int_equal(do_write(blk, 0, "abc"), 0);
    assert_true(do_write(blk, TMEM_BYTES, "x") < 0);
    aio_run_sync(call_entry, &zeroes);

    assert_int_equal(totals_of(blk, ACCOUNTING_READ).operations, 2);
    assert_int_equal(totals_of(blk, ACCOUNTING_READ).bytes, 32);
    assert_int_equal(totals_of(blk, ACCOUNTING_WRITE).operations, 1);
    assert_int_equal(totals_of(blk, ACCOUNTING_WRITE).bytes, 3);
    assert_int_equal(totals_of(blk, ACCOUNTING_WRITE).failed, 0);
    assert_int_equal(totals_of(blk, ACCOUNTING_WRITE).invalid, 1);
    assert_int_equal(totals_of(blk, ACCOUNTING_ZEROES).operations, 1);
    assert_int_equal(totals_of(blk, ACCOUNTING_ZEROES).bytes, 100);
    assert_int_equal(totals_of(blk, ACCOUNTING_FLUSH).operations, 0);
}

static void test_a_refused_request_is_accounted_as_invalid(void **state)
{
    g_autoptr(BlockBackend) reader = open_mem(BDRV_O_RDONLY);
    g_autoptr(BlockBackend) empty = blk_new(BLK_PERM_ALL, BLK_PERM_ALL, "e");

    assert_int_equal(do_write(reader, 0, "x"), -EACCES);
    assert_int_equal(do_read(empty), -ENXIO);

    assert_int_equal(totals_of(reader, ACCOUNTING_WRITE).invalid, 1);
    assert_int_equal(totals_of(reader, ACCOUNTING_WRITE).failed, 0);
    assert_int_equal(totals_of(reader, ACCOUNTING_READ).invalid, 0);
    assert_int_equal(totals_of(empty, ACCOUNTING_READ).invalid, 1);
}

static void test_latency_is_accounted_where_a_histogram_is_set(void **state)
{
    g_autoptr(BlockBackend) blk = open_mem(BDRV_O_RDWR);
    uint64_t boundary = UINT64_C(3600000000000);

    assert_true(accounting_set_histogram(blk_accounting(blk), ACCOUNTING_READ,
                                         &boundary, 1, NULL));
    assert_int_equal(do_read(blk), 0);
    assert_int_equal(do_write(blk, 0, "x"), 0);

    assert_int_equal(totals_of(blk, ACCOUNTING_READ).bins[0], 1);
    assert_true(totals_of(blk, ACCOUNTING_READ).total_time_ns > 0);
    assert_int_equal(totals_of(blk, ACCOUNTING_WRITE).total_time_ns, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_not_asked_for_is_refused),
        cmocka_unit_test(test_two_writers_conflict_by_name),
        cmocka_unit_test(test_write_through_flushes_each_write),
        cmocka_unit_test(test_a_probed_raw_image_stays_raw),
        cmocka_unit_test(test_a_named_raw_image_takes_any_bytes),
        cmocka_unit_test(test_a_drain_waits_for_a_request_in_flight),
        cmocka_unit_test(test_requests_wait_for_the_end_of_a_drain),
        cmocka_unit_test(test_removing_the_root_ends_waiting_requests),
        cmocka_unit_test(test_drains_hold_against_io_threads),
        cmocka_unit_test(test_requests_are_accounted_by_type_and_result),
        cmocka_unit_test(test_a_refused_request_is_accounted_as_invalid),
        cmocka_unit_test(test_latency_is_accounted_where_a_histogram_is_set),
    };

    return cmocka_run_group_tests(tests, graph_test_setup,
                                  graph_test_teardown);
}
