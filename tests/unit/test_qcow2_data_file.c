/* SPDX-License-Identifier: MIT */
/*
 * tests of drivers/qcow2/data_file.c: places of guest clusters, the order of
 * data and metadata, and what a raw data file sees
 *
 * The image is on the test disk, its data file a real one.
 */
#include "block/image/check.h"
#include "drivers/qcow2/data_file.h"
#include "tests/unit/qcow2_disk.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CLUSTER_BITS 12
#define CLUSTER (1 << CLUSTER_BITS)
#define SIZE (64 * CLUSTER)
#define L1_OFFSET (3 * CLUSTER)

#define NO_FLUSH \
    ",\"inject-error\":[{\"event\":\"none\",\"iotype\":\"flush\"}]"

static char *data_path;

static int setup(void **state)
{
    int fd = g_file_open_tmp("data-XXXXXX", &data_path, NULL);

    g_close(fd, NULL);
    return truncate(data_path, SIZE);
}

static int teardown(void **state)
{
    (void) g_unlink(data_path);
    g_clear_pointer(&data_path, g_free);
    return 0;
}

static Qcow2Image *data_image(uint64_t autoclear)
{
    Qcow2Image *image = qcow2_image_new(3, CLUSTER_BITS, SIZE);

    qcow2_image_set64(image, 72, QCOW2_INCOMPAT_DATA_FILE);
    qcow2_image_set64(image, 88, autoclear);
    return image;
}

/* @rules: of the blkdebug filter above the data file, or "". */
static BlockBackend *open_with(BdrvOpenFlags flags, const char *rules)
{
    g_autofree char *extra = g_strdup_printf(
        "\"data-file\":{\"driver\":\"blkdebug\"%s,\"file\":"
        "{\"driver\":\"file\",\"filename\":\"%s\"}},", rules, data_path);
    GError *error = NULL;
    BlockBackend *blk = test_disk_open(flags, extra, &error);

    if (!blk) {
        fail_msg("%s", error->message);
    }
    return blk;
}

static BlockBackend *open_new(uint64_t autoclear, const char *rules)
{
    g_autoptr(Qcow2Image) image = data_image(autoclear);

    test_disk_load(image->data, image->bytes);
    return open_with(BDRV_O_RDWR | BDRV_O_RESIZE, rules);
}

static void assert_data_file_has(int64_t offset, int64_t bytes, char byte)
{
    g_autofree char *data = NULL;
    gsize length;

    assert_true(g_file_get_contents(data_path, &data, &length, NULL));
    assert_true((int64_t)length >= offset + bytes);
    for (int64_t i = 0; i < bytes; i++) {
        assert_int_equal(data[offset + i], byte);
    }
}

static uint64_t first_l1_entry(void)
{
    return be64_get((const be64 *)(test_disk.data + L1_OFFSET));
}

/* The first cluster is at 0, where other images have "nothing". */
static void test_guest_clusters_lie_at_their_own_offset(void **state)
{
    BlockBackend *blk = open_new(0, "");
    uint8_t data[CLUSTER], back[CLUSTER];

    memset(data, 'a', sizeof(data));
    assert_int_equal(blk_pwrite(blk, 0, CLUSTER, data), 0);
    assert_int_equal(blk_pwrite(blk, 5 * CLUSTER, CLUSTER, data), 0);
    blk_free(blk);
    assert_data_file_has(0, CLUSTER, 'a');
    assert_data_file_has(CLUSTER, CLUSTER, 0);
    assert_data_file_has(5 * CLUSTER, CLUSTER, 'a');

    blk = open_with(BDRV_O_RDONLY, "");
    assert_int_equal(blk_pread(blk, 0, CLUSTER, back), 0);
    assert_memory_equal(back, data, CLUSTER);
    assert_int_equal(blk_pread(blk, 5 * CLUSTER, CLUSTER, back), 0);
    assert_memory_equal(back, data, CLUSTER);
    blk_free(blk);
}

/* What the data file has not durably, no pointer may name. */
static void test_no_pointer_before_the_data_is_durable(void **state)
{
    BlockBackend *blk = open_new(0, NO_FLUSH);
    uint8_t data[CLUSTER] = { 1 };

    assert_int_equal(blk_pwrite(blk, CLUSTER, CLUSTER, data), 0);
    assert_int_equal(blk_flush(blk), -EIO);
    assert_int_equal(first_l1_entry(), 0);
    blk_free(blk);

    blk = open_new(0, "");
    assert_int_equal(blk_pwrite(blk, CLUSTER, CLUSTER, data), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_not_equal(first_l1_entry(), 0);
    blk_free(blk);
}

static void test_a_raw_data_file_has_the_zeros_that_a_guest_writes(
    void **state)
{
    BlockBackend *blk = open_new(QCOW2_AUTOCLEAR_DATA_FILE_RAW, "");
    uint8_t data[4 * CLUSTER], back[4 * CLUSTER];

    memset(data, 'a', sizeof(data));
    assert_int_equal(blk_pwrite(blk, 0, sizeof(data), data), 0);
    assert_int_equal(blk_pwrite_zeroes(blk, CLUSTER, CLUSTER, 0), 0);
    assert_int_equal(blk_pwrite_zeroes(blk, 2 * CLUSTER + 512, 512,
                                       BDRV_REQ_MAY_UNMAP), 0);
    assert_int_equal(blk_pread(blk, 0, sizeof(back), back), 0);
    blk_free(blk);

    memset(data + CLUSTER, 0, CLUSTER);
    memset(data + 2 * CLUSTER + 512, 0, 512);
    assert_memory_equal(back, data, sizeof(data));
    assert_data_file_has(0, CLUSTER, 'a');
    assert_data_file_has(CLUSTER, CLUSTER, 0);
    assert_data_file_has(2 * CLUSTER, 512, 'a');
    assert_data_file_has(2 * CLUSTER + 512, 512, 0);
    assert_data_file_has(3 * CLUSTER, CLUSTER, 'a');
}

/* Somebody else's place, or compressed data, which this kind has not. */
static void test_entries_for_another_place_are_errors(void **state)
{
    static const uint64_t entries[] = {
        QCOW2_ENTRY_COPIED | (2 * CLUSTER),
        QCOW2_ENTRY_COPIED,
        QCOW2_L2_ZERO | (3 * CLUSTER),
        QCOW2_L2_COMPRESSED | CLUSTER,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(entries); i++) {
        g_autoptr(Qcow2Image) image = data_image(0);
        int64_t l2 = qcow2_image_append(image, 1);
        uint8_t back[512];
        BlockBackend *blk;

        qcow2_image_set64(image, L1_OFFSET, QCOW2_ENTRY_COPIED | l2);
        qcow2_image_set64(image, l2 + 8, entries[i]); /* of cluster 1 */
        test_disk_load(image->data, image->bytes);
        blk = open_with(BDRV_O_RDWR, "");
        assert_int_equal(blk_pread(blk, CLUSTER, 512, back), -EIO);
        assert_int_equal(blk_pwrite(blk, CLUSTER, 512, back), -EIO);
        blk_free(blk);
    }
}

/* Other entries of its table, before and behind it, are as good as ever. */
static void test_a_damaged_entry_is_an_error_of_its_cluster_only(void **state)
{
    g_autoptr(Qcow2Image) image = data_image(0);
    int64_t l2 = qcow2_image_append(image, 1);
    uint8_t data[CLUSTER], back[3 * CLUSTER];
    BlockBackend *blk;

    qcow2_image_set64(image, L1_OFFSET, QCOW2_ENTRY_COPIED | l2);
    qcow2_image_set64(image, l2, QCOW2_ENTRY_COPIED);
    qcow2_image_set64(image, l2 + 8, QCOW2_ENTRY_COPIED | (9 * CLUSTER));
    qcow2_image_set64(image, l2 + 16, QCOW2_ENTRY_COPIED | (2 * CLUSTER));
    test_disk_load(image->data, image->bytes);
    blk = open_with(BDRV_O_RDWR | BDRV_O_RESIZE, "");
    memset(data, 'n', sizeof(data));

    for (int i = 0; i < 4; i++) {
        assert_int_equal(blk_pwrite(blk, i * CLUSTER, CLUSTER, data),
                         i == 1 ? -EIO : 0);
        assert_int_equal(blk_pread(blk, i * CLUSTER, CLUSTER, back),
                         i == 1 ? -EIO : 0);
        assert_true(i == 1 || memcmp(back, data, CLUSTER) == 0);
    }
    assert_int_equal(blk_pread(blk, 0, 3 * CLUSTER, back), -EIO);
    /* Nobody misses what it had: zeros are told, whatever it was. */
    assert_int_equal(blk_pwrite_zeroes(blk, CLUSTER, CLUSTER, 0), 0);
    assert_int_equal(blk_pread(blk, 0, 3 * CLUSTER, back), 0);
    assert_int_equal(back[CLUSTER], 0);
    assert_int_equal(back[2 * CLUSTER], 'n');
    blk_free(blk);
}

/* An extended L2 table maps half as much as its bytes would hold words. */
static void test_check_knows_what_a_table_of_subclusters_maps(void **state)
{
    const int cluster = 16384;
    const int64_t reach = (int64_t)cluster / 16 * cluster;
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, 14, 2 * reach);
    int64_t l2 = qcow2_image_append(image, 1);
    BlockCheckResult result = { 0 };
    BlockBackend *blk;

    qcow2_image_set32(image, 36, 2); /* entries of the L1 table */
    qcow2_image_set64(image, 72,
                      QCOW2_INCOMPAT_DATA_FILE | QCOW2_INCOMPAT_EXTENDED_L2);
    qcow2_image_set64(image, 3 * cluster + 8, QCOW2_ENTRY_COPIED | l2);
    qcow2_image_set64(image, l2, QCOW2_ENTRY_COPIED | (uint64_t)reach);
    qcow2_image_set64(image, l2 + 8, 1);
    test_disk_load(image->data, image->bytes);
    blk = open_with(BDRV_O_CHECK, "");

    assert_true(bdrv_check(blk_bs(blk), BLOCK_CHECK_FIX_NONE, &result, NULL));
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.allocated_clusters, 1);
    blk_free(blk);
}

static void test_a_nameless_data_file_is_asked_for(void **state)
{
    g_autoptr(Qcow2Image) image = data_image(0);
    g_autoptr(GError) error = NULL;

    test_disk_load(image->data, image->bytes);
    assert_null(test_disk_open(BDRV_O_RDONLY, "", &error));
    assert_non_null(strstr(error->message, "data-file.filename"));
}

static void test_other_images_take_no_data_file(void **state)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, CLUSTER_BITS, SIZE);
    g_autofree char *extra = g_strdup_printf(
        "\"data-file\":{\"driver\":\"file\",\"filename\":\"%s\"},",
        data_path);
    g_autoptr(GError) error = NULL;

    test_disk_load(image->data, image->bytes);
    assert_null(test_disk_open(BDRV_O_RDONLY, extra, &error));
    assert_non_null(strstr(error->message, "no external data file"));
}

#define data_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        data_test(test_guest_clusters_lie_at_their_own_offset),
        data_test(test_no_pointer_before_the_data_is_durable),
        data_test(test_a_raw_data_file_has_the_zeros_that_a_guest_writes),
        data_test(test_entries_for_another_place_are_errors),
        data_test(test_a_damaged_entry_is_an_error_of_its_cluster_only),
        data_test(test_check_knows_what_a_table_of_subclusters_maps),
        data_test(test_a_nameless_data_file_is_asked_for),
        data_test(test_other_images_take_no_data_file),
    };
    int failed;

    test_disk_setup();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_disk_teardown();
    return failed;
}
