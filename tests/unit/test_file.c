/* SPDX-License-Identifier: MIT */
/*
 * the file driver on real files in /tmp
 */
#include "drivers/file/file.h"
#include "tests/unit/node_test.h"

#include <errno.h>
#include <fcntl.h>

#define FILE_JSON "{\"driver\":\"file\",\"filename\":\"%s\"}"
/* Valgrind does not see what a ring reads into memory; of threads it does. */
#define THREADS_JSON \
    "{\"driver\":\"file\",\"aio\":\"threads\",\"filename\":\"%s\"}"
#define FILE_BYTES (1 << 20)

/* ---- what may be opened ---- */

static void test_missing_file_is_named(void **state)
{
    assert_open_fails(IMGFUSE_ERROR_NOT_FOUND,
                      "/nowhere/disk.img: cannot open: No such file", 0,
                      FILE_JSON, "/nowhere/disk.img");
}

static void test_directory_and_character_device_are_refused(void **state)
{
    assert_open_fails(IMGFUSE_ERROR_UNSUPPORTED, "directory", 0, FILE_JSON,
                      "/tmp");
    assert_open_fails(IMGFUSE_ERROR_UNSUPPORTED, "character device", 0,
                      FILE_JSON, "/dev/zero");
}

/* Opening a FIFO for reading would wait for a writer. */
static void test_fifo_is_refused_without_waiting(void **state)
{
    TestFile file = test_file_new(0, 0);

    test_file_free(&file);
    assert_int_equal(mkfifo(file.path, 0600), 0);
    assert_open_fails(IMGFUSE_ERROR_UNSUPPORTED, "FIFO", 0, FILE_JSON,
                      file.path);
    test_file_free(&file);
}

static void test_host_device_wants_a_device(void **state)
{
    TestFile file = test_file_new(512, 'x');

    assert_open_fails(IMGFUSE_ERROR_UNSUPPORTED, "not a block device", 0,
                      "{\"driver\":\"host_device\",\"filename\":\"%s\"}",
                      file.path);
    test_file_free(&file);
}

static void test_unknown_and_bad_options_are_refused(void **state)
{
    TestFile file = test_file_new(512, 'x');

    assert_open_fails(IMGFUSE_ERROR_OPTION, "lokking", 0,
                      "{\"driver\":\"file\",\"filename\":\"%s\","
                      "\"lokking\":\"on\"}", file.path);
    assert_open_fails(IMGFUSE_ERROR_OPTION, "maybe", 0,
                      "{\"driver\":\"file\",\"filename\":\"%s\","
                      "\"locking\":\"maybe\"}", file.path);
    assert_open_fails(IMGFUSE_ERROR_OPTION, "filename", 0,
                      "{\"driver\":\"file\"}");
    test_file_free(&file);
}

static void test_empty_file_opens(void **state)
{
    TestFile file = test_file_new(0, 0);
    BdrvChild *node = node_open(0, FILE_JSON, file.path);

    assert_int_equal(bdrv_getlength(node->bs), 0);
    bdrv_detach_child(node);
    test_file_free(&file);
}

static void test_reading_leaves_the_times_alone(void **state)
{
    TestFile file = test_file_new(FILE_BYTES, 'x');
    struct timespec old[2] = { { .tv_sec = 1000 }, { .tv_sec = 2000 } };
    BdrvChild *node;
    struct stat st;

    assert_int_equal(utimensat(AT_FDCWD, file.path, old, 0), 0);
    node = node_open(0, FILE_JSON, file.path);
    assert_node_reads(node, 0, FILE_BYTES, 'x');
    bdrv_detach_child(node);

    st = test_file_stat(&file);
    assert_int_equal(st.st_atim.tv_sec, 1000);
    assert_int_equal(st.st_mtim.tv_sec, 2000);
    test_file_free(&file);
}

static void test_second_writer_is_refused_in_one_process_too(void **state)
{
    TestFile file = test_file_new(512, 'x');
    BdrvChild *node = node_open(BDRV_O_RDWR, FILE_JSON, file.path);
    BdrvChild *again;

    assert_open_fails(IMGFUSE_ERROR_LOCKED, "lock", BDRV_O_RDWR, FILE_JSON,
                      file.path);
    again = node_open(BDRV_O_FORCE_SHARE, FILE_JSON, file.path);

    bdrv_detach_child(again);
    bdrv_detach_child(node);
    node = node_open(BDRV_O_RDWR, FILE_JSON, file.path);
    bdrv_detach_child(node);
    test_file_free(&file);
}

/* ---- reading, writing, the end of the file ---- */

static void test_reads_and_writes_reach_the_file(void **state)
{
    TestFile file = test_file_new(FILE_BYTES, 'x');
    BdrvChild *node = node_open(BDRV_O_RDWR, FILE_JSON, file.path);
    g_autofree char *content = NULL;

    node_fill(node, 1001, 5003, 'y');
    assert_node_reads(node, 0, 1001, 'x');
    assert_node_reads(node, 1001, 5003, 'y');
    assert_node_reads(node, 6004, FILE_BYTES - 6004, 'x');
    assert_int_equal(bdrv_flush(node->bs), 0);
    bdrv_detach_child(node);

    assert_true(g_file_get_contents(file.path, &content, NULL, NULL));
    assert_int_equal(content[1000], 'x');
    assert_int_equal(content[1001], 'y');
    test_file_free(&file);
}

/* Evidence must not be padded with zeros that nobody wrote. */
static void test_reading_what_a_shrunk_file_lost_is_an_error(void **state)
{
    TestFile file = test_file_new(FILE_BYTES, 'x');
    BdrvChild *node = node_open(0, FILE_JSON, file.path);
    g_autofree uint8_t *buffer = g_malloc(8192);

    assert_int_equal(truncate(file.path, 6000), 0);
    assert_int_equal(bdrv_pread(node, 4096, 8192, buffer), -EIO);
    assert_int_equal(bdrv_pread(node, 65536, 512, buffer), -EIO);
    assert_node_reads(node, 0, 6000, 'x');

    bdrv_detach_child(node);
    test_file_free(&file);
}

/* Direct I/O moves whole sectors; the rounding is not part of the node. */
static void test_direct_io_reads_an_odd_end(void **state)
{
    TestFile file = test_file_new(10001, 'x');
    g_autoptr(GError) error = NULL;
    BdrvChild *node = node_try_open(BDRV_O_NOCACHE, &error, THREADS_JSON,
                                    file.path);
    uint8_t byte;

    if (node == NULL) {
        print_message("skipped: %s\n", error->message);
        test_file_free(&file);
        skip();
    }
    assert_int_equal(bdrv_getlength(node->bs), 10001);
    assert_node_reads(node, 9000, 1001, 'x');
    assert_node_reads(node, 10000, 1, 'x');
    assert_int_equal(bdrv_pread(node, 10001, 1, &byte), -EINVAL);

    bdrv_detach_child(node);
    test_file_free(&file);
}

static void test_direct_io_writes_odd_ranges(void **state)
{
    TestFile file = test_file_new(FILE_BYTES, 'x');
    g_autoptr(GError) error = NULL;
    BdrvChild *node = node_try_open(BDRV_O_RDWR | BDRV_O_NOCACHE, &error,
                                    THREADS_JSON, file.path);

    if (node == NULL) {
        print_message("skipped: %s\n", error->message);
        test_file_free(&file);
        skip();
    }
    node_fill(node, 5001, 20011, 'y');
    assert_node_reads(node, 0, 5001, 'x');
    assert_node_reads(node, 5001, 20011, 'y');
    assert_node_reads(node, 25012, 10000, 'x');

    bdrv_detach_child(node);
    test_file_free(&file);
}

/* ---- zeros, holes, length ---- */

static void check_zeroing(BdrvRequestFlags flags)
{
    TestFile file = test_file_new(FILE_BYTES, 'x');
    BdrvChild *node = node_open(BDRV_O_RDWR, FILE_JSON, file.path);

    assert_int_equal(bdrv_pwrite_zeroes(node, 4097, 200001, flags), 0);
    assert_node_reads(node, 0, 4097, 'x');
    assert_node_reads(node, 4097, 200001, 0);
    assert_node_reads(node, 204098, 10000, 'x');
    assert_int_equal(test_file_stat(&file).st_size, FILE_BYTES);

    bdrv_detach_child(node);
    test_file_free(&file);
}

static void test_zeroing_touches_its_range_only(void **state)
{
    check_zeroing(0);
    check_zeroing(BDRV_REQ_MAY_UNMAP);
}

static void test_zeroing_past_the_end_extends_and_stays_sparse(void **state)
{
    TestFile file = test_file_new(4096, 'x');
    BdrvChild *node = node_open(BDRV_O_RDWR | BDRV_O_RESIZE, FILE_JSON,
                                file.path);

    assert_int_equal(bdrv_pwrite_zeroes(node, 2048, 16 << 20, 0), 0);
    assert_node_reads(node, 0, 2048, 'x');
    assert_node_reads(node, 2048, 1 << 20, 0);
    assert_int_equal(bdrv_flush(node->bs), 0);
    assert_int_equal(test_file_stat(&file).st_size, (16 << 20) + 2048);

    assert_int_equal(bdrv_pwrite_zeroes(node, 32 << 20, 16 << 20,
                                        BDRV_REQ_MAY_UNMAP), 0);
    assert_int_equal(test_file_stat(&file).st_size, 48 << 20);
    assert_true(test_file_stat(&file).st_blocks < (18 << 20) / 512);

    bdrv_detach_child(node);
    test_file_free(&file);
}

static void test_discard_makes_a_hole(void **state)
{
    TestFile file = test_file_new(FILE_BYTES, 'x');
    BdrvChild *node = node_open(BDRV_O_RDWR | BDRV_O_UNMAP, FILE_JSON,
                                file.path);
    blkcnt_t before = test_file_stat(&file).st_blocks;
    int ret = node_discard(node, 65536, 524288);

    assert_int_equal(ret, 0);
    assert_int_equal(before - test_file_stat(&file).st_blocks, 1024);
    assert_node_reads(node, 65536, 524288, 0);
    assert_node_reads(node, 0, 65536, 'x');
    assert_int_equal(test_file_stat(&file).st_size, FILE_BYTES);

    bdrv_detach_child(node);
    test_file_free(&file);
}

static void test_status_tells_holes_from_data(void **state)
{
    TestFile file = test_file_new(FILE_BYTES, 0);
    BdrvChild *node = node_open(BDRV_O_RDWR, FILE_JSON, file.path);
    BlockStatus status;

    node_fill(node, 65536, 65536, 'x');

    status = node_status(node, 0, FILE_BYTES);
    assert_true(status.flags & BDRV_BLOCK_ZERO);
    assert_int_equal(status.bytes, 65536);
    status = node_status(node, 65536, FILE_BYTES - 65536);
    assert_true(status.flags & BDRV_BLOCK_DATA);
    assert_int_equal(status.bytes, 65536);
    assert_int_equal(status.host_offset, 65536);
    status = node_status(node, 131072, FILE_BYTES - 131072);
    assert_true(status.flags & BDRV_BLOCK_ZERO);
    assert_int_equal(status.bytes, FILE_BYTES - 131072);

    bdrv_detach_child(node);
    test_file_free(&file);
}

static void test_truncate_allocates_as_asked(void **state)
{
    static const struct {
        BdrvPreallocMode mode;
        bool allocated;
    } rows[] = {
        { PREALLOC_OFF, false },
        { PREALLOC_FALLOC, true },
        { PREALLOC_FULL, true },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        TestFile file = test_file_new(4096, 'x');
        BdrvChild *node = node_open(BDRV_O_RDWR | BDRV_O_RESIZE, FILE_JSON,
                                    file.path);
        g_autoptr(GError) error = NULL;

        assert_int_equal(bdrv_truncate(node, FILE_BYTES, true, rows[i].mode,
                                       &error), 0);
        assert_int_equal(bdrv_flush(node->bs), 0);
        assert_int_equal(bdrv_getlength(node->bs), FILE_BYTES);
        assert_int_equal(bdrv_get_allocated_file_size(node->bs) >= FILE_BYTES,
                         rows[i].allocated);
        assert_node_reads(node, 4096, FILE_BYTES - 4096, 0);

        assert_int_equal(bdrv_truncate(node, 100, true, PREALLOC_OFF, &error),
                         0);
        assert_int_equal(test_file_stat(&file).st_size, 100);
        bdrv_detach_child(node);
        test_file_free(&file);
    }
}

static void test_a_file_has_no_metadata_to_preallocate(void **state)
{
    TestFile file = test_file_new(4096, 'x');
    BdrvChild *node = node_open(BDRV_O_RDWR | BDRV_O_RESIZE, FILE_JSON,
                                file.path);
    g_autoptr(GError) error = NULL;

    assert_int_equal(bdrv_truncate(node, 8192, true, PREALLOC_METADATA,
                                   &error), -ENOTSUP);
    assert_non_null(error);
    assert_int_equal(test_file_stat(&file).st_size, 4096);
    bdrv_detach_child(node);
    test_file_free(&file);
}

/* ---- flush ---- */

static void flush_entry(void *opaque)
{
    NodeCall *call = opaque;

    call->ret = file_co_flush_to_disk(call->child->bs);
}

/* F6: the kernel may have thrown the dirty pages away. */
static void test_a_failed_flush_fails_for_ever(void **state)
{
    TestFile file = test_file_new(4096, 'x');
    BdrvChild *node = node_open(BDRV_O_RDWR, FILE_JSON, file.path);
    FileState *s = node->bs->opaque;
    NodeCall call = { .child = node };
    AioFile good = s->aio;
    int pipe_fd[2];

    aio_run_sync(flush_entry, &call);
    assert_int_equal(call.ret, 0);
    assert_int_equal(pipe(pipe_fd), 0);
    s->aio.fd = pipe_fd[0]; /* fdatasync of a pipe fails */
    aio_run_sync(flush_entry, &call);
    assert_true(call.ret < 0);
    s->aio = good;

    for (int i = 0; i < 100; i++) {
        aio_run_sync(flush_entry, &call);
        assert_int_equal(call.ret, -EIO);
    }
    (void) close(pipe_fd[0]);
    (void) close(pipe_fd[1]);
    bdrv_detach_child(node);
    test_file_free(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_missing_file_is_named),
        cmocka_unit_test(test_directory_and_character_device_are_refused),
        cmocka_unit_test(test_fifo_is_refused_without_waiting),
        cmocka_unit_test(test_host_device_wants_a_device),
        cmocka_unit_test(test_unknown_and_bad_options_are_refused),
        cmocka_unit_test(test_empty_file_opens),
        cmocka_unit_test(test_reading_leaves_the_times_alone),
        cmocka_unit_test(test_second_writer_is_refused_in_one_process_too),
        cmocka_unit_test(test_reads_and_writes_reach_the_file),
        cmocka_unit_test(test_reading_what_a_shrunk_file_lost_is_an_error),
        cmocka_unit_test(test_direct_io_reads_an_odd_end),
        cmocka_unit_test(test_direct_io_writes_odd_ranges),
        cmocka_unit_test(test_zeroing_touches_its_range_only),
        cmocka_unit_test(test_zeroing_past_the_end_extends_and_stays_sparse),
        cmocka_unit_test(test_discard_makes_a_hole),
        cmocka_unit_test(test_status_tells_holes_from_data),
        cmocka_unit_test(test_truncate_allocates_as_asked),
        cmocka_unit_test(test_a_file_has_no_metadata_to_preallocate),
        cmocka_unit_test(test_a_failed_flush_fails_for_ever),
    };

    return cmocka_run_group_tests(tests, node_test_setup, node_test_teardown);
}
