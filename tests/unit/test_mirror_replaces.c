/* SPDX-License-Identifier: MIT */
/*
 * a mirror that takes the place of a node below its source
 */
#include "tests/unit/job_test.h"

#include "block/image/mirror.h"
#include "block/io/debug_event.h"

#define DISK_BYTES (256 * KIB)

typedef struct Voters {
    BlockDriverState *quorum, *target;
    BlockBackend *guest;
} Voters;

static char *make_file(const char *name, int byte)
{
    char *path = g_build_filename(job_test_folder, name, NULL);
    g_autofree char *bytes = g_malloc(DISK_BYTES);

    memset(bytes, byte, DISK_BYTES);
    assert_true(g_file_set_contents(path, bytes, DISK_BYTES, NULL));
    return path;
}

/* The description of a raw node in a file of @byte. */
static char *raw_node(const char *name, int byte)
{
    g_autofree char *path = make_file(name, byte);

    return g_strdup_printf("{\"driver\":\"raw\",\"node-name\":\"%s\","
                           "\"file\":{\"driver\":\"file\","
                           "\"filename\":\"%s\"}}", name, path);
}

static BlockDriverState *open_json(const char *text)
{
    g_autofree char *name = g_strconcat("json:", text, NULL);
    g_autoptr(GError) error = NULL;
    BlockDriverState *bs = bdrv_open(name, NULL,
                                     BDRV_O_RDWR | BDRV_O_RESIZE, NULL,
                                     &error);

    if (bs == NULL) {
        fail_msg("%s", error->message);
    }
    return bs;
}

/* Two children of ones, the third is broken; a target of zeros. */
static void voters_open(Voters *v)
{
    g_autofree char *a = NULL, *b = NULL, *c = NULL, *t = NULL, *text = NULL;

    job_test_folder = g_dir_make_tmp("imgfuse-replaces-XXXXXX", NULL);
    assert_non_null(job_test_folder);
    a = raw_node("first", 1);
    b = raw_node("second", 1);
    c = raw_node("broken", 9);
    t = raw_node("target", 0);
    text = g_strdup_printf("{\"driver\":\"quorum\",\"vote-threshold\":2,"
                           "\"children\":[%s,%s,%s]}", a, b, c);
    v->quorum = open_json(text);
    v->target = open_json(t);
    v->guest = blk_new(BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                       BLK_PERM_ALL, "test");
    assert_ok(blk_insert_node(v->guest, v->quorum, &error));
}

static void voters_close(Voters *v)
{
    blk_free(v->guest);
    bdrv_unref(v->target);
    bdrv_unref(v->quorum);
    forget_folder();
}

static Job *mirror_new(const Voters *v, BlockDriverState *replaces,
                       GError **error)
{
    MirrorConfig config = {
        .source = v->quorum, .target = v->target, .replaces = replaces,
        .sync = MIRROR_SYNC_FULL,
    };

    return mirror_job_new("job", &config, error);
}

static bool is_child(const Voters *v, const BlockDriverState *bs)
{
    for (guint i = 0; i < v->quorum->children->len; i++) {
        const BdrvChild *child = v->quorum->children->pdata[i];

        if (child->bs == bs) {
            return true;
        }
    }
    return false;
}

static void assert_guest_reads(const Voters *v, int byte)
{
    uint8_t block[512];

    assert_int_equal(blk_pread(v->guest, DISK_BYTES - 512, 512, block), 0);
    assert_int_equal(block[0], byte);
}

static void test_a_broken_child_of_a_quorum_is_replaced(void **state)
{
    g_autoptr(GError) refused = NULL;
    Voters v;
    Job *job;

    voters_open(&v);
    job = mirror_new(&v, bdrv_find_node("broken"), &refused);
    if (job == NULL) {
        fail_msg("%s", refused->message);
    }
    job_start(job, NULL);
    assert_true(job_wait(job, /* until_ready= */ true, WAIT_NS));
    assert_ok(job_complete(job, &error));
    assert_true(job_wait(job, /* until_ready= */ false, WAIT_NS));
    assert_ok(job_result(job, &error));
    job_free(job);

    assert_true(is_child(&v, v.target));
    assert_null(bdrv_find_node("broken"));
    assert_guest_reads(&v, 1);
    voters_close(&v);
}

static void test_a_cancelled_mirror_replaces_nothing(void **state)
{
    g_autoptr(GError) refused = NULL;
    BlockDriverState *broken;
    Voters v;
    Job *job;

    voters_open(&v);
    broken = bdrv_find_node("broken");
    job = mirror_new(&v, broken, &refused);
    assert_non_null(job);
    job_start(job, NULL);
    assert_true(job_wait(job, /* until_ready= */ true, WAIT_NS));
    job_free(job);

    assert_true(is_child(&v, broken) && !is_child(&v, v.target));
    assert_guest_reads(&v, 1);
    voters_close(&v);
}

/* A job that nobody waits for any more must not wait for its target. */
static void test_a_cancelled_mirror_lets_go_of_a_target_that_hangs(void **state)
{
    g_autoptr(GError) refused = NULL;
    g_autofree char *raw = NULL, *text = NULL;
    BlockDriverState *slow;
    int64_t limit;
    Voters v;
    Job *job;

    voters_open(&v);
    raw = raw_node("slow", 0);
    text = g_strdup_printf("{\"driver\":\"raw\",\"node-name\":\"target2\","
                           "\"file\":{\"driver\":\"blkdebug\","
                           "\"node-name\":\"breakpoint\",\"file\":%s}}", raw);
    bdrv_unref(v.target);
    v.target = open_json(text);
    slow = bdrv_find_node("breakpoint");
    assert_non_null(slow);
    assert_ok(slow->drv->debug->set_breakpoint(slow, "pwritev", "held",
                                               &error));
    job = mirror_new(&v, /* replaces= */ NULL, &refused);
    assert_non_null(job);
    job_start(job, NULL);
    limit = clock_now_ns() + WAIT_NS;
    while (!slow->drv->debug->is_suspended(slow, "held") &&
           clock_now_ns() < limit) {
        (void) job_wait(job, /* until_ready= */ true, 1000000);
    }
    assert_true(slow->drv->debug->is_suspended(slow, "held"));
    alarm(30); /* a job that hangs ends the test */
    job_free(job);
    alarm(0);
    voters_close(&v);
}

static void test_what_is_not_below_the_source_is_not_replaced(void **state)
{
    g_autoptr(GError) refused = NULL;
    g_autofree char *text = NULL;
    BlockDriverState *other;
    Voters v;

    voters_open(&v);
    text = raw_node("other", 1);
    other = open_json(text);
    assert_null(mirror_new(&v, other, &refused));
    assert_non_null(strstr(refused->message, "cannot replace"));
    bdrv_unref(other);
    voters_close(&v);
}

static void test_a_child_with_another_user_is_not_replaced(void **state)
{
    g_autoptr(GError) refused = NULL;
    BlockBackend *user = blk_new(0, BLK_PERM_ALL, "another user");
    Voters v;

    voters_open(&v);
    assert_ok(blk_insert_node(user, bdrv_find_node("broken"), &error));
    assert_null(mirror_new(&v, bdrv_find_node("broken"), &refused));
    assert_non_null(strstr(refused->message, "cannot replace"));
    blk_free(user);
    assert_true(bdrv_recurse_can_replace(v.quorum, bdrv_find_node("broken")));
    voters_close(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_broken_child_of_a_quorum_is_replaced),
        cmocka_unit_test(test_a_cancelled_mirror_replaces_nothing),
        cmocka_unit_test(
            test_a_cancelled_mirror_lets_go_of_a_target_that_hangs),
        cmocka_unit_test(test_what_is_not_below_the_source_is_not_replaced),
        cmocka_unit_test(test_a_child_with_another_user_is_not_replaced),
    };

    return cmocka_run_group_tests(tests, job_test_setup, job_test_teardown);
}
