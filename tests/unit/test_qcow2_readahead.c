/* SPDX-License-Identifier: MIT */
/*
 * decoding compressed clusters before they are asked for: seen by what the
 * disk is asked to read
 */
#include "tests/unit/qcow2_disk.h"

#include "block/graph/drain.h"
#include "drivers/qcow2/qcow2.h"
#include "drivers/qcow2/readahead.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>

#define CLUSTER 65536
#define CLUSTERS 48
#define PART 4096

static uint8_t byte_at(int64_t offset)
{
    return (uint8_t)(offset / CLUSTER * 31 + offset % CLUSTER / 1000);
}

typedef struct Write {
    BlockBackend *blk;
    int64_t offset;
    void *data;
    BdrvRequestFlags flags;
    int ret;
} Write;

static void coroutine_fn write_entry(void *opaque)
{
    Write *write = opaque;
    IoVec iov;

    iovec_init_buffer(&iov, write->data, CLUSTER);
    write->ret = blk_co_pwritev(write->blk, write->offset, CLUSTER, &iov,
                                write->flags);
}

static void write_cluster(BlockBackend *blk, int64_t offset, void *data,
                          BdrvRequestFlags flags)
{
    Write write = { blk, offset, data, flags, 0 };

    aio_run_sync(write_entry, &write);
    assert_int_equal(write.ret, 0);
}

/* All of it compressed. */
static BlockBackend *open_compressed(void)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, 16, CLUSTERS * CLUSTER);
    g_autofree uint8_t *plain = g_malloc(CLUSTER);
    BlockBackend *blk;

    test_disk_load(image->data, image->bytes);
    blk = test_disk_open(BDRV_O_RDWR, "", NULL);
    assert_non_null(blk);
    for (int64_t at = 0; at < CLUSTERS * CLUSTER; at += CLUSTER) {
        for (int i = 0; i < CLUSTER; i++) {
            plain[i] = byte_at(at + i);
        }
        write_cluster(blk, at, plain, BDRV_REQ_WRITE_COMPRESSED);
    }
    assert_int_equal(blk_flush(blk), 0);
    if (!qcow2_state(blk_bs(blk))->readahead) {
        print_message("skipped: one processor, nothing is read ahead\n");
        skip();
    }
    return blk;
}

static void read_part(BlockBackend *blk, int64_t offset)
{
    uint8_t part[PART];

    assert_int_equal(blk_pread(blk, offset, PART, part), 0);
    for (int i = 0; i < PART; i++) {
        assert_int_equal(part[i], byte_at(offset + i));
    }
}

/* Waits for what runs on its own. */
static void settle(BlockBackend *blk)
{
    while (qcow2_readahead_is_running(blk_bs(blk))) {
        aio_poll(aio_context_current(), /* may_sleep= */ true);
    }
}

static void finish(BlockBackend *blk)
{
    blk_free(blk);
    test_disk_unload();
}

static void test_a_sequential_reader_finds_the_next_clusters_decoded(
    void **state)
{
    BlockBackend *blk = open_compressed();
    unsigned reads;

    for (int i = 0; i < 4; i++) {
        read_part(blk, i * PART);
    }
    settle(blk);
    reads = test_disk.reads;
    read_part(blk, 8 * CLUSTER); /* too far on to go on with it */
    read_part(blk, 1 * CLUSTER);
    read_part(blk, 20 * CLUSTER);
    assert_int_equal(test_disk.reads, reads);
    finish(blk);
}

static void test_scattered_reads_decode_nothing_else(void **state)
{
    BlockBackend *blk = open_compressed();
    static const int clusters[] = { 3, 40, 11, 30, 20, 45 };
    unsigned reads;

    for (size_t i = 0; i < G_N_ELEMENTS(clusters); i++) {
        read_part(blk, (int64_t)clusters[i] * CLUSTER);
    }
    settle(blk);
    reads = test_disk.reads;
    read_part(blk, 46 * CLUSTER);
    assert_int_equal(test_disk.reads, reads + 1);
    finish(blk);
}

static void test_reading_from_end_to_end_gives_the_content(void **state)
{
    BlockBackend *blk = open_compressed();

    for (int64_t at = 0; at < CLUSTERS * CLUSTER; at += PART) {
        read_part(blk, at);
    }
    finish(blk);
}

static void test_large_reads_take_what_was_decoded(void **state)
{
    BlockBackend *blk = open_compressed();
    g_autofree uint8_t *data = g_malloc(8 * CLUSTER);

    for (int64_t at = 0; at < CLUSTERS * CLUSTER; at += 8 * CLUSTER) {
        memset(data, 0, 8 * CLUSTER);
        assert_int_equal(blk_pread(blk, at, 8 * CLUSTER, data), 0);
        for (int i = 0; i < 8 * CLUSTER; i++) {
            assert_int_equal(data[i], byte_at(at + i));
        }
    }
    finish(blk);
}

/* What is decoded in vain fails nobody, and is told to who asks for it. */
static void test_a_damaged_cluster_fails_only_its_own_read(void **state)
{
    BlockBackend *blk = open_compressed();
    uint8_t part[PART];
    int64_t end = test_disk.length;
    bool has_failed = false;

    /* Streams follow each other, the last ends where the data does. */
    while (test_disk.data[end - 1] == 0) {
        end--;
    }
    memset(test_disk.data + end - 100, 0xff, 64);
    for (int64_t offset = 0; offset < CLUSTERS * CLUSTER; offset += PART) {
        int ret = blk_pread(blk, offset, PART, part);

        if (ret < 0) {
            assert_int_equal(ret, -EIO);
            has_failed = true;
            continue;
        }
        for (int i = 0; i < PART; i++) {
            assert_int_equal(part[i], byte_at(offset + i));
        }
    }
    assert_true(has_failed);
    finish(blk);
}

static void test_a_drain_ends_it(void **state)
{
    BlockBackend *blk = open_compressed();

    for (int i = 0; i < 4; i++) {
        read_part(blk, i * PART);
    }
    bdrv_drained_begin(blk_bs(blk));
    assert_false(qcow2_readahead_is_running(blk_bs(blk)));
    bdrv_drained_end(blk_bs(blk));
    finish(blk);
}

static void test_what_was_decoded_is_not_given_after_an_overwrite(
    void **state)
{
    BlockBackend *blk = open_compressed();
    g_autofree uint8_t *plain = g_malloc(CLUSTER);
    uint8_t part[PART];

    for (int i = 0; i < 4; i++) {
        read_part(blk, i * PART);
    }
    memset(plain, 0xe7, CLUSTER);
    write_cluster(blk, CLUSTER, plain, /* flags= */ 0);
    write_cluster(blk, 2 * CLUSTER, plain, BDRV_REQ_WRITE_COMPRESSED);
    for (int64_t at = CLUSTER; at < 3 * CLUSTER; at += PART) {
        assert_int_equal(blk_pread(blk, at, PART, part), 0);
        assert_memory_equal(part, plain, PART);
    }
    read_part(blk, 3 * CLUSTER);
    finish(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            test_a_sequential_reader_finds_the_next_clusters_decoded),
        cmocka_unit_test(test_scattered_reads_decode_nothing_else),
        cmocka_unit_test(test_reading_from_end_to_end_gives_the_content),
        cmocka_unit_test(test_large_reads_take_what_was_decoded),
        cmocka_unit_test(test_a_damaged_cluster_fails_only_its_own_read),
        cmocka_unit_test(test_a_drain_ends_it),
        cmocka_unit_test(
            test_what_was_decoded_is_not_given_after_an_overwrite),
    };
    int failed;

    test_disk_setup();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_disk_teardown();
    return failed;
}
