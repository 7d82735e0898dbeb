/* SPDX-License-Identifier: MIT */
/*
 * snapshots as files: names, numbers, who keeps one open; on a real image in a
 * fresh folder, without a mount
 */
#include "drivers/registry.h"

#include "fuse/tree.h"
#include "fuse/wire.h"

#include "block/graph/options.h"
#include "block/image/create.h"
#include "block/image/snapshot.h"
#include "block/rt/aio_context.h"
#include "block/rt/thread_pool.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <glib/gstdio.h>

#include <cmocka.h>

typedef struct Fixture {
    AioContext *ctx;
    char *folder;
    char *path;
    Tree *tree;
    SnapshotFiles *files;
} Fixture;

static int setup(void **state)
{
    Fixture *fixture = g_new0(Fixture, 1);
    ImageCreateRequest request = { .format = "qcow2", .length = 1 << 20 };
    g_autoptr(GError) error = NULL;
    BlockOptions *options = block_options_new();
    BlockBackend *blk;

    fixture->ctx = aio_context_new(NULL);
    fixture->folder = g_dir_make_tmp("imgfuse-XXXXXX", NULL);
    fixture->path = g_build_filename(fixture->folder, "disk.qcow2", NULL);
    request.filename = fixture->path;
    if (!image_create(&request, NULL, &error)) {
        return -1;
    }
    block_options_set_string(options, "driver", "qcow2");
    blk = blk_open(fixture->path, options, BDRV_O_RDWR, NULL, "test", &error);
    fixture->tree = tree_new();
    fixture->tree->has_meta = fixture->tree->show_snapshots = true;
    if (!blk || !tree_add(fixture->tree, export_new("disk.raw", blk, 0, 0),
                          NULL)) {
        return -1;
    }
    fixture->files = snapshot_files_new(fixture->tree->exports->pdata[0]);
    tree_extras(fixture->tree, 0)->snapshots = fixture->files;
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    Fixture *fixture = *state;

    tree_free(fixture->tree);
    thread_pool_shutdown();
    aio_context_free(fixture->ctx);
    (void) g_unlink(fixture->path);
    (void) g_rmdir(fixture->folder);
    g_free(fixture->path);
    g_free(fixture->folder);
    g_free(fixture);
    return 0;
}

static SnapshotFileInfo named(SnapshotFiles *files, const char *name)
{
    SnapshotFileInfo info;

    assert_true(snapshot_files_by_name(files, name, &info));
    return info;
}

static void test_escaping_leads_back(void **state)
{
    static const char *const rows[][2] = {
        { "plain", "plain" },  { "a/b", "a%2Fb" },   { "100%", "100%25" },
        { ".", "%2E" },        { "..", "%2E%2E" },   { "...", "..." },
        { "\n\x7f", "%0A%7F" }, { "\xff\xc3", "\xff\xc3" }, { " ", " " },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *escaped = snapshot_name_escape(rows[i][0]);
        g_autofree char *plain = snapshot_name_unescape(escaped);

        assert_string_equal(escaped, rows[i][1]);
        assert_string_equal(plain, rows[i][0]);
    }
}

static void test_only_one_text_stands_for_a_name(void **state)
{
    static const char *const rows[] = { "%", "%4", "%2f", "%41", "a%zz",
                                        "%00" };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        assert_null(snapshot_name_unescape(rows[i]));
    }
}

static void test_what_is_made_is_in_the_tree_until_removed(void **state)
{
    Fixture *f = *state;
    SnapshotFileInfo info;
    uint64_t folder, inode;

    assert_int_equal(snapshot_files_create(f->files, "a%2Fb"), 0);

    info = named(f->files, "a%2Fb");
    inode = tree_lookup(f->tree, "disk.raw@a%2Fb");
    assert_int_equal(tree_node(f->tree, inode).kind, TREE_SNAPSHOT_FILE);
    assert_int_equal(tree_node(f->tree, inode).item, info.key);
    folder = tree_lookup(f->tree, ".imgfuse");
    folder = tree_lookup_in(f->tree, folder, "disk.raw");
    folder = tree_lookup_in(f->tree, folder, "snapshots");
    assert_true(tree_is_folder(f->tree,
                               tree_lookup_in(f->tree, folder, "a%2Fb")));

    assert_int_equal(snapshot_files_remove(f->files, info.key), 0);
    assert_int_equal(tree_node(f->tree, inode).kind, TREE_NOTHING);
    assert_int_equal(tree_lookup_in(f->tree, folder, "a%2Fb"), 0);
}

static void test_a_new_snapshot_of_an_old_name_is_another_file(void **state)
{
    Fixture *f = *state;
    uint64_t old;

    assert_int_equal(snapshot_files_create(f->files, "x"), 0);
    old = named(f->files, "x").key;
    assert_int_equal(snapshot_files_remove(f->files, old), 0);
    assert_int_equal(snapshot_files_create(f->files, "x"), 0);

    assert_int_not_equal(named(f->files, "x").key, old);
    assert_int_equal(snapshot_files_remove(f->files,
                                           named(f->files, "x").key), 0);
}

static void test_an_open_file_keeps_its_snapshot(void **state)
{
    Fixture *f = *state;
    uint64_t key;

    assert_int_equal(snapshot_files_create(f->files, "kept"), 0);
    key = named(f->files, "kept").key;
    assert_null(snapshot_files_export(f->files, key));
    assert_int_equal(snapshot_files_open(f->files, key), 0);
    assert_int_equal(snapshot_files_open(f->files, key), 0);

    assert_non_null(snapshot_files_export(f->files, key));
    assert_int_equal(snapshot_files_remove(f->files, key), -EBUSY);
    snapshot_files_release(f->files, key);
    assert_int_equal(snapshot_files_remove(f->files, key), -EBUSY);
    snapshot_files_release(f->files, key);
    assert_int_equal(snapshot_files_remove(f->files, key), 0);
    assert_int_equal(snapshot_files_open(f->files, key), -ENOENT);
}

/* First sector of the image, all bytes @value. */
static void fill_sector(const Fixture *f, uint8_t value)
{
    const Export *image = f->tree->exports->pdata[0];
    uint8_t sector[512];

    memset(sector, value, sizeof(sector));
    assert_int_equal(blk_pwrite(image->blk, 0, sizeof(sector), sector), 0);
}

static uint8_t first_byte(const Fixture *f)
{
    const Export *image = f->tree->exports->pdata[0];
    uint8_t byte = 0;

    assert_int_equal(blk_pread(image->blk, 0, 1, &byte), 0);
    return byte;
}

static void test_going_back_needs_a_snapshot_and_nobody_in_the_file(
    void **state)
{
    Fixture *f = *state;
    Export *image = f->tree->exports->pdata[0];

    fill_sector(f, 1);
    assert_int_equal(snapshot_files_create(f->files, "then"), 0);
    fill_sector(f, 2);

    assert_int_equal(snapshot_files_goto(f->files, "never"), -ENOENT);
    image->users = 1;
    assert_int_equal(snapshot_files_goto(f->files, "then"), -EBUSY);
    image->users = 0;
    assert_int_equal(first_byte(f), 2);
    assert_int_equal(snapshot_files_goto(f->files, "then"), 0);
    assert_int_equal(first_byte(f), 1);
    assert_int_equal(snapshot_files_remove(f->files,
                                           named(f->files, "then").key), 0);
}

static void test_only_a_writable_image_can_go_back(void **state)
{
    Fixture *f = *state;
    Export *image = f->tree->exports->pdata[0];
    uint64_t folder = tree_lookup(f->tree, ".imgfuse");

    folder = tree_lookup_in(f->tree, folder, "disk.raw");
    assert_int_not_equal(tree_lookup_in(f->tree, folder, "goto"), 0);
    image->read_only = true;
    assert_int_equal(tree_lookup_in(f->tree, folder, "goto"), 0);
    assert_int_equal(snapshot_files_goto(f->files, "any"), -EROFS);
    image->read_only = false;
}

static void test_bad_names_are_refused(void **state)
{
    Fixture *f = *state;
    g_autofree char *long_name = g_strnfill(250, 'l');

    assert_int_equal(snapshot_files_create(f->files, ""), -EINVAL);
    assert_int_equal(snapshot_files_create(f->files, "%"), -EINVAL);
    assert_int_equal(snapshot_files_create(f->files, long_name),
                     -ENAMETOOLONG);
    assert_int_equal(snapshot_files_create(f->files, "twice"), 0);
    assert_int_equal(snapshot_files_create(f->files, "twice"), -EEXIST);
    assert_int_equal(snapshot_files_remove(f->files,
                                           named(f->files, "twice").key), 0);
}

static void test_a_listing_goes_on_where_entries_went(void **state)
{
    Fixture *f = *state;
    uint64_t cookie = 0;
    TreeEntry entry;
    unsigned seen = 0;

    for (int i = 0; i < 5; i++) {
        char name[2] = { (char)('a' + i), '\0' };

        assert_int_equal(snapshot_files_create(f->files, name), 0);
    }
    while (tree_next(f->tree, FUSE_ROOT_ID, &cookie, &entry)) {
        TreeNode node = tree_node(f->tree, entry.inode);

        if (node.kind == TREE_SNAPSHOT_FILE) {
            seen++;
            assert_int_equal(snapshot_files_remove(f->files, node.item), 0);
        }
    }
    assert_int_equal(seen, 5);
    assert_false(snapshot_files_next(f->files, 0,
                                     &(SnapshotFileInfo) { 0 }));
}

static void test_invented_inodes_are_nothing(void **state)
{
    Fixture *f = *state;
    static const uint64_t rows[] = {
        0, 3, UINT64_MAX, (uint64_t)TREE_ROOT << 56, (uint64_t)TREE_IMAGE << 56,
        (uint64_t)TREE_DOCUMENT << 56 | DOCUMENT_KINDS,
        (uint64_t)TREE_LAYER << 56, (uint64_t)TREE_SNAPSHOT_FILE << 56 | 7,
        (uint64_t)TREE_IMAGE_META << 56 | (uint64_t)1 << 40,
        (uint64_t)200 << 56,
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        assert_int_equal(tree_node(f->tree, rows[i]).kind, TREE_NOTHING);
        assert_null(tree_export(f->tree, rows[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_escaping_leads_back),
        cmocka_unit_test(test_only_one_text_stands_for_a_name),
        cmocka_unit_test(test_what_is_made_is_in_the_tree_until_removed),
        cmocka_unit_test(
            test_a_new_snapshot_of_an_old_name_is_another_file),
        cmocka_unit_test(test_an_open_file_keeps_its_snapshot),
        cmocka_unit_test(
            test_going_back_needs_a_snapshot_and_nobody_in_the_file),
        cmocka_unit_test(test_only_a_writable_image_can_go_back),
        cmocka_unit_test(test_bad_names_are_refused),
        cmocka_unit_test(test_a_listing_goes_on_where_entries_went),
        cmocka_unit_test(test_invented_inodes_are_nothing),
    };

    drivers_register_all();
    return cmocka_run_group_tests(tests, setup, teardown);
}
