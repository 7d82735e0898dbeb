/* SPDX-License-Identifier: MIT */
/*
 * the blklogwrites filter: what a replayed log gives
 */
#include "tests/unit/filter_test.h"
#include "tests/tools/replay_log.h"

#include <fcntl.h>

#define LOG_JSON                                                         \
    "{\"driver\":\"blklogwrites\",\"file\":\"%s\",\"log\":{\"driver\":"  \
    "\"file\",\"filename\":\"%s\"}%s}"

/* Replays the log into a new file of @bytes zeros; the content. */
static uint8_t *replayed(const TestFile *log, int64_t bytes, uint64_t limit,
                         uint64_t *ret_flushes)
{
    TestFile file = test_file_new(bytes, 0);
    int log_fd = open(log->path, O_RDONLY);
    int fd = open(file.path, O_RDWR);
    uint8_t *content = g_malloc(bytes);

    assert_true(log_fd >= 0 && fd >= 0);
    assert_true(replay_log(log_fd, fd, limit, ret_flushes) >= 0);
    assert_int_equal(pread(fd, content, bytes, 0), bytes);
    (void) close(log_fd);
    (void) close(fd);
    test_file_free(&file);
    return content;
}

static uint64_t super_entries(const TestFile *log)
{
    LogSuper super;
    int fd = open(log->path, O_RDONLY);

    assert_int_equal(pread(fd, &super, sizeof(super), 0), sizeof(super));
    (void) close(fd);
    return le64_get(&super.nr_entries);
}

static void test_a_replayed_log_gives_the_same_file(void **state)
{
    TestFile log = test_file_new(0, 0);
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(FILTER_FLAGS, LOG_JSON, below_name(below),
                                log.path, "");
    g_autofree uint8_t *content = NULL;
    uint64_t flushes;

    node_fill(node, 0, 100000, 'a');
    node_fill(node, 777, 5, 'b');
    assert_int_equal(bdrv_flush(node->bs), 0);
    assert_int_equal(bdrv_pwrite_zeroes(node, 8192, 16384, 0), 0);
    node_fill(node, MIB - 512, 512, 'c');
    bdrv_detach_child(node);

    content = replayed(&log, MIB, UINT64_MAX, &flushes);
    assert_memory_equal(content, memory_data(below), MIB);
    assert_int_equal(flushes, 2); /* ours, and the one at close */
    memory_close(below);
    test_file_free(&log);
}

static void test_a_prefix_of_the_log_is_the_image_at_that_time(void **state)
{
    TestFile log = test_file_new(0, 0);
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(FILTER_FLAGS, LOG_JSON, below_name(below),
                                log.path, "");
    g_autofree uint8_t *content = NULL;
    uint64_t flushes;

    node_fill(node, 0, 512, 'a');
    assert_int_equal(bdrv_flush(node->bs), 0);
    node_fill(node, 0, 512, 'b');
    bdrv_detach_child(node);

    content = replayed(&log, MIB, 2, &flushes);
    assert_int_equal(content[0], 'a');
    assert_int_equal(flushes, 1);
    memory_close(below);
    test_file_free(&log);
}

static void test_the_header_counts_entries_at_each_flush(void **state)
{
    TestFile log = test_file_new(0, 0);
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(FILTER_FLAGS, LOG_JSON, below_name(below),
                                log.path, ",\"log-super-update-interval\":3");

    node_fill(node, 0, 512, 'a');
    node_fill(node, 0, 512, 'a');
    assert_int_equal(super_entries(&log), 0);
    node_fill(node, 0, 512, 'a');
    assert_int_equal(super_entries(&log), 3);
    assert_int_equal(bdrv_flush(node->bs), 0);
    assert_int_equal(super_entries(&log), 4);
    assert_int_equal(node_discard(node, 0, 512), 0);
    bdrv_detach_child(node);
    assert_true(super_entries(&log) >= 5);
    memory_close(below);
    test_file_free(&log);
}

static void test_larger_sectors_pad_writes(void **state)
{
    TestFile log = test_file_new(0, 0);
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(FILTER_FLAGS, LOG_JSON, below_name(below),
                                log.path, ",\"log-sector-size\":4096");
    g_autofree uint8_t *content = NULL;

    node_fill(node, 5000, 100, 'a');
    bdrv_detach_child(node);

    content = replayed(&log, MIB, UINT64_MAX, NULL);
    assert_memory_equal(content, memory_data(below), MIB);
    assert_int_equal(content[5099], 'a');
    memory_close(below);
    test_file_free(&log);
}

static void test_appending_goes_on_behind_the_last_entry(void **state)
{
    TestFile log = test_file_new(0, 0);
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(FILTER_FLAGS, LOG_JSON, below_name(below),
                                log.path, ",\"log-sector-size\":1024");
    g_autofree uint8_t *content = NULL;

    node_fill(node, 0, 4096, 'a');
    bdrv_detach_child(node);
    node = node_open(FILTER_FLAGS, LOG_JSON, below_name(below), log.path,
                     ",\"log-append\":true");
    node_fill(node, 1024, 2048, 'b');
    bdrv_detach_child(node);

    content = replayed(&log, MIB, UINT64_MAX, NULL);
    assert_memory_equal(content, memory_data(below), MIB);
    assert_int_equal(content[0], 'a');
    assert_int_equal(content[1024], 'b');
    memory_close(below);
    test_file_free(&log);
}

static void test_damaged_logs_are_not_appended_to(void **state)
{
    TestFile log = test_file_new(4096, 'x');
    TestFile empty = test_file_new(0, 0);
    TestFile cut = test_file_new(512, 0);
    BdrvChild *below = below_open_length(MIB);
    int fd = open(cut.path, O_WRONLY);
    LogSuper super;

    assert_open_fails(IMGFUSE_ERROR_CORRUPT, "magic", FILTER_FLAGS, LOG_JSON,
                      below_name(below), log.path, ",\"log-append\":true");
    le64_set(&super.magic, LOG_WRITES_MAGIC);
    le64_set(&super.version, LOG_WRITES_VERSION);
    le64_set(&super.nr_entries, UINT64_MAX);
    le32_set(&super.sectorsize, 512);
    assert_int_equal(pwrite(fd, &super, sizeof(super), 0), sizeof(super));
    assert_open_fails(IMGFUSE_ERROR_CORRUPT, "ends before", FILTER_FLAGS,
                      LOG_JSON, below_name(below), cut.path,
                      ",\"log-append\":true");
    assert_open_fails(IMGFUSE_ERROR_OPTION, "log-sector-size", FILTER_FLAGS,
                      LOG_JSON, below_name(below), empty.path,
                      ",\"log-sector-size\":1000");

    (void) close(fd);
    memory_close(below);
    test_file_free(&log);
    test_file_free(&empty);
    test_file_free(&cut);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_replayed_log_gives_the_same_file),
        cmocka_unit_test(test_a_prefix_of_the_log_is_the_image_at_that_time),
        cmocka_unit_test(test_the_header_counts_entries_at_each_flush),
        cmocka_unit_test(test_larger_sectors_pad_writes),
        cmocka_unit_test(test_appending_goes_on_behind_the_last_entry),
        cmocka_unit_test(test_damaged_logs_are_not_appended_to),
    };

    return cmocka_run_group_tests(tests, node_test_setup, node_test_teardown);
}
