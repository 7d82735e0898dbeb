/* SPDX-License-Identifier: MIT */
/*
 * operation blockers and frozen edges: who is refused what, and why
 */
#include "graph_test_driver.h"

#include "block/backend.h"
#include "block/graph/op_blocker.h"
#include "block/graph/reopen.h"

#include <errno.h>

static const BdrvChildClass user_class = {0};

/* Fails unless *@error is CONFLICT with @word; clears it. */
static void assert_conflict(GError **error, const char *word)
{
    assert_non_null(*error);
    if (!g_error_matches(*error, IMGFUSE_ERROR, IMGFUSE_ERROR_CONFLICT) ||
        strstr((*error)->message, word) == NULL) {
        fail_msg("%s", (*error)->message);
    }
    g_clear_error(error);
}

static void test_a_blocked_operation_is_refused_with_the_reason(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", 0);
    g_autoptr(GError) error = NULL;

    bdrv_op_block(m, BDRV_OP_MIRROR_SOURCE, &error, "commit 'job0' works");

    assert_true(bdrv_op_is_blocked(m, BDRV_OP_MIRROR_SOURCE, &error));
    assert_non_null(strstr(error->message, "mirror source"));
    assert_conflict(&error, "commit 'job0' works");
    assert_false(bdrv_op_is_blocked(m, BDRV_OP_STREAM, &error));
    assert_null(error);
    bdrv_op_unblock(m, BDRV_OP_MIRROR_SOURCE, &error);
    assert_false(bdrv_op_is_blocked(m, BDRV_OP_MIRROR_SOURCE, NULL));
    assert_null(m->op_blockers);
}

static void test_two_owners_block_until_both_have_ended(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", 0);
    int one, two;

    bdrv_op_block_all(m, &one, "one");
    bdrv_op_block(m, BDRV_OP_RESIZE, &two, "two");

    bdrv_op_unblock_all(m, &one);
    assert_true(bdrv_op_is_blocked(m, BDRV_OP_RESIZE, NULL));
    assert_true(bdrv_op_is_blocked_now(m, BDRV_OP_RESIZE));
    assert_false(bdrv_op_is_blocked(m, BDRV_OP_SNAPSHOT, NULL));
    bdrv_op_unblock_all(m, &one); /* harmless */
    bdrv_op_unblock_all(m, &two);
    assert_int_equal(m->blocked_ops, 0);
    assert_null(m->op_blockers);
}

typedef struct Resize {
    BlockBackend *blk;
    int ret;
} Resize;

static void resize_entry(void *opaque)
{
    Resize *resize = opaque;

    resize->ret = blk_co_truncate(resize->blk, TMEM_BYTES, /* exact= */ true,
                                  PREALLOC_OFF, NULL);
}

static void test_a_blocked_resize_is_busy(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", BDRV_O_RDWR);
    g_autoptr(BlockBackend) blk = blk_new(
        BLK_PERM_WRITE | BLK_PERM_RESIZE, BLK_PERM_ALL, "test");
    Resize resize = {blk, 0};

    assert_true(blk_insert_node(blk, m, NULL));
    bdrv_op_block(m, BDRV_OP_RESIZE, &resize, "a mirror reads it");
    aio_run_sync(resize_entry, &resize);
    assert_int_equal(resize.ret, -EBUSY);

    bdrv_op_unblock(m, BDRV_OP_RESIZE, &resize);
    aio_run_sync(resize_entry, &resize);
    assert_int_not_equal(resize.ret, -EBUSY);
}

static void test_a_blocked_reopen_is_refused(void **state)
{
    g_autoptr(BlockDriverState) m = test_node("m", BDRV_O_RDWR);
    g_autoptr(GError) error = NULL;

    bdrv_op_block(m, BDRV_OP_REOPEN, &error, "a backup reads it");
    assert_false(bdrv_reopen_set_read_only(m, true, &error));
    assert_conflict(&error, "a backup reads it");
    assert_false(m->read_only);

    bdrv_op_unblock(m, BDRV_OP_REOPEN, &error);
    assert_true(bdrv_reopen_set_read_only(m, true, &error));
}

/* ---- frozen edges ------------------------------------------------------- */

static void test_a_frozen_edge_is_not_replaced(void **state)
{
    g_autoptr(BlockDriverState) a = test_node("a", 0);
    g_autoptr(BlockDriverState) b = test_node("b", 0);
    g_autoptr(BlockDriverState) f =
        test_open("{\"driver\":\"tfilter\",\"file\":\"a\"}", 0);
    BdrvChild *user = bdrv_root_attach_child(bdrv_ref(a), "user", &user_class,
                                             NULL, 0, BLK_PERM_ALL, NULL);
    g_autoptr(GError) error = NULL;

    assert_true(bdrv_child_freeze(f->file, "stream 's0' works", &error));
    assert_false(bdrv_child_freeze(f->file, "another", &error));
    assert_conflict(&error, "stream 's0' works");

    assert_false(bdrv_replace_child(f->file, b, &error));
    assert_conflict(&error, "stream 's0' works");
    assert_false(bdrv_replace_node(a, b, &error));
    assert_conflict(&error, "stream 's0' works");
    assert_ptr_equal(user->bs, a);

    bdrv_child_unfreeze(f->file);
    assert_true(bdrv_replace_node(a, b, &error));
    assert_ptr_equal(f->file->bs, b);
    assert_ptr_equal(user->bs, b);
    bdrv_detach_child(user);
}

static void test_a_frozen_backing_edge_stays(void **state)
{
    char *folder = test_folder();
    g_autoptr(BlockDriverState) other = test_node("other", 0);
    g_autoptr(BlockDriverState) top = NULL;
    g_autofree char *name = g_build_filename(folder, "top", NULL);
    BlockDriverState *base;
    g_autoptr(GError) error = NULL;

    test_write_file(folder, "base", "TFMT\n");
    test_write_file(folder, "top", "TFMT\nbacking=base\nformat=tfmt\n");
    top = bdrv_open(name, NULL, 0, NULL, &error);
    assert_non_null(top);
    base = top->backing->bs;

    assert_true(bdrv_child_freeze(top->backing, NULL, &error));
    assert_false(bdrv_set_backing(top, NULL, &error));
    assert_conflict(&error, "a job works");
    assert_false(bdrv_set_backing(top, other, &error));
    assert_conflict(&error, "backing");
    assert_ptr_equal(top->backing->bs, base);

    bdrv_child_unfreeze(top->backing);
    assert_true(bdrv_set_backing(top, other, &error));
    assert_ptr_equal(top->backing->bs, other);
    assert_true(bdrv_set_backing(top, NULL, &error));
    assert_null(top->backing);
    assert_true(bdrv_set_backing(top, other, &error));
    assert_ptr_equal(top->backing->bs, other);
    test_remove_folder(folder);
}

static void test_only_some_nodes_have_backing_files(void **state)
{
    g_autoptr(BlockDriverState) a = test_node("a", 0);
    g_autoptr(BlockDriverState) b = test_node("b", 0);
    g_autoptr(GError) error = NULL;

    assert_false(bdrv_set_backing(a, b, &error));
    assert_true(g_error_matches(error, IMGFUSE_ERROR,
                                IMGFUSE_ERROR_UNSUPPORTED));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_blocked_operation_is_refused_with_the_reason),
        cmocka_unit_test(test_two_owners_block_until_both_have_ended),
        cmocka_unit_test(test_a_blocked_resize_is_busy),
        cmocka_unit_test(test_a_blocked_reopen_is_refused),
        cmocka_unit_test(test_a_frozen_edge_is_not_replaced),
        cmocka_unit_test(test_a_frozen_backing_edge_stays),
        cmocka_unit_test(test_only_some_nodes_have_backing_files),
    };

    return cmocka_run_group_tests(tests, graph_test_setup,
                                  graph_test_teardown);
}
