/* SPDX-License-Identifier: MIT */
/*
 * handing images over: requests refused, locks given up, caches forgotten
 */
#include "node_test.h"

#include "block/graph/edge.h"
#include "block/graph/inactivate.h"
#include "block/graph/reopen.h"
#include "block/image/create.h"

#include <errno.h>

#define FILE_BYTES 65536

static BdrvChild *open_raw(const TestFile *file, BdrvOpenFlags flags,
                           GError **error)
{
    return node_try_open(flags, error,
                         "{\"driver\":\"raw\",\"file\":{\"driver\":\"file\","
                         "\"filename\":\"%s\",\"locking\":\"on\"}}",
                         file->path);
}

/* Its only count goes with the edge. */
static void close_root(BdrvChild *root)
{
    bdrv_detach_child(root);
}

static int write_byte(BdrvChild *child, int byte)
{
    uint8_t buffer[512];

    memset(buffer, byte, sizeof(buffer));
    return bdrv_pwrite(child, 0, sizeof(buffer), buffer);
}

static int read_byte(BdrvChild *child, uint8_t *ret_byte)
{
    return bdrv_pread(child, 0, 1, ret_byte);
}

static void test_requests_to_an_inactive_node_are_refused(void **state)
{
    TestFile file = test_file_new(FILE_BYTES, 1);
    BdrvChild *root = open_raw(&file, BDRV_O_RDWR, NULL);
    g_autoptr(GError) error = NULL;
    uint8_t byte = 0;

    assert_non_null(root);
    assert_int_equal(write_byte(root, 2), 0);
    assert_true(bdrv_inactivate_all(&error));
    assert_int_equal(write_byte(root, 3), -EPERM);
    assert_int_equal(bdrv_pwrite_zeroes(root, 0, 512, 0), -EPERM);
    assert_int_equal(node_discard(root, 0, 512), -EPERM);
    assert_int_equal(read_byte(root, &byte), -EPERM);
    assert_int_equal(bdrv_truncate(root, 512, true, PREALLOC_OFF, NULL),
                     -EPERM);
    assert_int_equal(bdrv_flush(root->bs), 0);
    assert_false(bdrv_reopen_set_read_only(root->bs, true, NULL));

    assert_true(bdrv_activate_all(&error));
    assert_int_equal(read_byte(root, &byte), 0);
    assert_int_equal(byte, 2);
    assert_int_equal(write_byte(root, 4), 0);
    close_root(root);
    test_file_free(&file);
}

/* The new owner writes and makes the file longer; then it comes back. */
static void test_the_file_can_change_hands(void **state)
{
    TestFile file = test_file_new(FILE_BYTES, 1);
    BdrvChild *mine = open_raw(&file, BDRV_O_RDWR, NULL);
    BdrvChild *theirs;
    uint8_t byte = 0;

    assert_null(open_raw(&file, BDRV_O_RDWR, NULL));
    assert_true(bdrv_inactivate(mine->bs, NULL));
    theirs = open_raw(&file, BDRV_O_RDWR, NULL);
    assert_non_null(theirs);
    assert_int_equal(write_byte(theirs, 5), 0);
    assert_int_equal(bdrv_truncate(theirs, 2 * FILE_BYTES, true, PREALLOC_OFF,
                                   NULL), 0);

    {
        g_autoptr(GError) error = NULL;

        assert_false(bdrv_activate(mine->bs, &error));
        assert_true(g_error_matches(error, IMGFUSE_ERROR,
                                    IMGFUSE_ERROR_LOCKED));
    }
    assert_true(mine->bs->inactive && mine->bs->file->bs->inactive);
    assert_int_equal(read_byte(mine, &byte), -EPERM);
    assert_int_equal(write_byte(theirs, 6), 0);

    close_root(theirs);
    assert_true(bdrv_activate(mine->bs, NULL));
    assert_int_equal(read_byte(mine, &byte), 0);
    assert_int_equal(byte, 6);
    assert_int_equal(bdrv_node_length(mine->bs), 2 * FILE_BYTES);
    assert_null(open_raw(&file, BDRV_O_RDWR, NULL));
    close_root(mine);
    test_file_free(&file);
}

/* A format's tables are read anew: the other one allocated clusters. */
static void test_a_format_forgets_its_caches(void **state)
{
    TestFile place = test_file_new(0, 0);
    g_autofree char *json = g_strdup_printf(
        "{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\","
        "\"filename\":\"%s\"}}", place.path);
    ImageCreateRequest request = {
        .filename = place.path, .format = "qcow2", .length = 1 << 20,
        .replace = true,
    };
    BdrvChild *mine, *theirs;

    assert_true(image_create(&request, NULL, NULL));
    mine = node_open(BDRV_O_RDWR, "%s", json);
    node_fill(mine, 0, 65536, 1);
    assert_node_reads(mine, 65536, 65536, 0);
    assert_true(bdrv_inactivate(mine->bs, NULL));

    theirs = node_open(BDRV_O_RDWR, "%s", json);
    assert_node_reads(theirs, 0, 65536, 1);
    node_fill(theirs, 65536, 65536, 2);
    close_root(theirs);

    assert_true(bdrv_activate(mine->bs, NULL));
    assert_node_reads(mine, 0, 65536, 1);
    assert_node_reads(mine, 65536, 65536, 2);
    node_fill(mine, 131072, 65536, 3);
    assert_node_reads(mine, 65536, 65536, 2);
    close_root(mine);
    theirs = node_open(0, "%s", json);
    assert_node_reads(theirs, 131072, 65536, 3);
    close_root(theirs);
    test_file_free(&place);
}

static void test_a_node_that_others_need_stays_active(void **state)
{
    TestFile file = test_file_new(FILE_BYTES, 1);
    BdrvChild *a = node_open(0, "{\"driver\":\"file\",\"node-name\":\"shared\","
                             "\"filename\":\"%s\"}", file.path);
    BdrvChild *b = node_open(0, "{\"driver\":\"raw\",\"file\":\"shared\"}");
    BdrvChild *c = node_open(0, "{\"driver\":\"raw\",\"file\":\"shared\"}");
    g_autoptr(GError) error = NULL;
    uint8_t byte;

    assert_false(bdrv_inactivate(a->bs, &error));
    assert_true(g_error_matches(error, IMGFUSE_ERROR,
                                IMGFUSE_ERROR_CONFLICT));
    assert_true(bdrv_inactivate(b->bs, NULL));
    assert_false(a->bs->inactive);
    assert_int_equal(read_byte(b, &byte), -EPERM);
    assert_int_equal(read_byte(c, &byte), 0);

    assert_true(bdrv_inactivate_all(NULL));
    assert_true(a->bs->inactive && b->bs->inactive && c->bs->inactive);
    assert_true(bdrv_activate(b->bs, NULL));
    assert_false(a->bs->inactive || b->bs->inactive);
    assert_int_equal(read_byte(b, &byte), 0);
    assert_int_equal(read_byte(c, &byte), -EPERM);
    close_root(c);
    close_root(b);
    close_root(a);
    test_file_free(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_to_an_inactive_node_are_refused),
        cmocka_unit_test(test_the_file_can_change_hands),
        cmocka_unit_test(test_a_format_forgets_its_caches),
        cmocka_unit_test(test_a_node_that_others_need_stays_active),
    };

    return cmocka_run_group_tests(tests, node_test_setup, node_test_teardown);
}
