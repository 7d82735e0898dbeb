/* SPDX-License-Identifier: MIT */
/*
 * reopening: transactions of flags and options, also under load
 */
#include "node_test.h"

#include "block/backend.h"
#include "block/graph/edge.h"
#include "block/graph/reopen.h"
#include "block/rt/io_thread.h"

#define FILE_BYTES 65536
#define THREADS 2
#define WORKERS 4

/* A node on @file; the caller has its only count. */
static BlockDriverState *open_node(BdrvOpenFlags flags, const char *format,
                                   ...) G_GNUC_PRINTF(2, 3);

static BlockDriverState *open_node(BdrvOpenFlags flags, const char *format,
                                   ...)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;
    BlockDriverState *bs;
    BlockOptions *options;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    options = block_options_from_string(text, &error);
    assert_non_null(options);
    bs = bdrv_open(/* filename= */ NULL, options, flags, /* policy= */ NULL,
                   &error);
    if (bs == NULL) {
        fail_msg("%s", error->message);
    }
    return bs;
}

static BlockOptions *options_of(const char *text)
{
    BlockOptions *options = block_options_from_string(text, NULL);

    assert_non_null(options);
    return options;
}

/* Reopening @bs with @text fails with @code, and the message has @word. */
static void assert_refused(BlockDriverState *bs, const char *text, int code,
                           const char *word)
{
    g_autoptr(GError) error = NULL;

    assert_false(bdrv_reopen_options(bs, options_of(text), &error));
    assert_non_null(error);
    if (!g_error_matches(error, IMGFUSE_ERROR, code) ||
        strstr(error->message, word) == NULL) {
        fail_msg("%s: code %d: %s", text, error->code, error->message);
    }
}

static void assert_reopens(BlockDriverState *bs, const char *text)
{
    g_autoptr(GError) error = NULL;

    if (!bdrv_reopen_options(bs, options_of(text), &error)) {
        fail_msg("%s: %s", text, error->message);
    }
}

static void test_options_of_every_node_change(void **state)
{
    g_autoptr(BlockDriverState) bs =
        open_node(BDRV_O_RDWR, "driver=throttle,file.driver=null");

    assert_reopens(bs, "detect-zeroes=unmap,discard=unmap,cache.no-flush=on");
    assert_int_equal(bs->detect_zeroes, BDRV_DETECT_ZEROES_UNMAP);
    assert_true(bs->open_flags & BDRV_O_UNMAP);
    assert_true(bs->open_flags & BDRV_O_NO_FLUSH);
    assert_string_equal(block_options_peek(bs->options, "discard"), "unmap");

    assert_reopens(bs, "discard=ignore,cache.no-flush=off");
    assert_int_equal(bs->detect_zeroes, BDRV_DETECT_ZEROES_UNMAP);
    assert_false(bs->open_flags & (BDRV_O_UNMAP | BDRV_O_NO_FLUSH));
}

static void test_flags_go_for_children_but_not_for_those_that_said(
    void **state)
{
    g_autoptr(BlockDriverState) follows =
        open_node(0, "driver=throttle,file.driver=null");
    g_autoptr(BlockDriverState) said = open_node(
        0, "driver=throttle,file.driver=null,file.discard=ignore");

    assert_reopens(follows, "discard=unmap");
    assert_true(follows->file->bs->open_flags & BDRV_O_UNMAP);

    assert_reopens(said, "discard=unmap");
    assert_true(said->open_flags & BDRV_O_UNMAP);
    assert_false(said->file->bs->open_flags & BDRV_O_UNMAP);
    assert_reopens(said, "file.discard=unmap");
    assert_true(said->file->bs->open_flags & BDRV_O_UNMAP);
}

static void test_only_mutable_options_change(void **state)
{
    g_autoptr(BlockDriverState) bs = open_node(
        BDRV_O_RDWR,
        "driver=throttle,throttle-group=g,file.driver=null,file.size=1M");

    assert_reopens(bs, "bps-total=1M");
    assert_refused(bs, "throttle-group=h", IMGFUSE_ERROR_OPTION,
                   "'throttle-group'");
    assert_refused(bs, "file.size=2M", IMGFUSE_ERROR_OPTION, "'size'");
    assert_refused(bs, "file=other", IMGFUSE_ERROR_OPTION, "'file'");
    assert_refused(bs, "force-share=on", IMGFUSE_ERROR_OPTION,
                   "'force-share'");
    assert_refused(bs, "bps-totl=1M", IMGFUSE_ERROR_OPTION, "'bps-totl'");
    assert_refused(bs, "bps-total=much", IMGFUSE_ERROR_OPTION, "much");
    assert_refused(bs, "detect-zeroes=perhaps", IMGFUSE_ERROR_OPTION,
                   "perhaps");
    assert_string_equal(block_options_peek(bs->options, "bps-total"), "1M");
}

/* Also in another spelling, and where it is the default. */
static void test_unchanged_values_are_accepted(void **state)
{
    g_autoptr(BlockDriverState) bs = open_node(
        BDRV_O_RDWR,
        "driver=throttle,throttle-group=g,file.driver=null,file.size=1M");
    g_autofree char *same = g_strdup_printf(
        "driver=throttle,throttle-group=g,node-name=%s,file.size=1048576,"
        "file.read-zeroes=true,force-share=no", bs->node_name);

    assert_reopens(bs, same);
}

static void test_all_nodes_of_a_queue_change_or_none(void **state)
{
    g_autoptr(BlockDriverState) a =
        open_node(BDRV_O_RDWR, "driver=throttle,file.driver=null");
    g_autoptr(BlockDriverState) b =
        open_node(BDRV_O_RDWR, "driver=throttle,file.driver=null");
    BdrvReopenQueue *queue = bdrv_reopen_queue_new();
    g_autoptr(GError) error = NULL;

    bdrv_reopen_queue_add(queue, a, a->open_flags | BDRV_O_UNMAP,
                          options_of("bps-read=5M,detect-zeroes=on"));
    bdrv_reopen_queue_add(queue, b, b->open_flags,
                          options_of("bps-read=9M,bps-total=9M"));
    assert_false(bdrv_reopen_multiple(queue, &error));
    assert_non_null(error);
    assert_int_equal(a->detect_zeroes, BDRV_DETECT_ZEROES_OFF);
    assert_false(a->open_flags & BDRV_O_UNMAP);
    assert_false(block_options_has(a->options, "bps-read"));
    assert_false(block_options_has(b->options, "bps-read"));

    queue = bdrv_reopen_queue_new();
    bdrv_reopen_queue_add(queue, a, a->open_flags | BDRV_O_UNMAP,
                          options_of("bps-read=5M,detect-zeroes=on"));
    bdrv_reopen_queue_add(queue, b, b->open_flags, options_of("bps-read=9M"));
    assert_true(bdrv_reopen_multiple(queue, NULL));
    assert_int_equal(a->detect_zeroes, BDRV_DETECT_ZEROES_ON);
    assert_true(a->open_flags & BDRV_O_UNMAP);
    assert_string_equal(block_options_peek(b->options, "bps-read"), "9M");
}

/* The second node's permissions are refused: the first stays, too. */
static void test_refused_permissions_abort_all_nodes(void **state)
{
    TestFile one = test_file_new(FILE_BYTES, 1);
    TestFile two = test_file_new(FILE_BYTES, 2);
    g_autoptr(BlockDriverState) a = open_node(
        0, "driver=raw,file.driver=file,file.filename=%s", one.path);
    g_autoptr(BlockDriverState) b = open_node(
        BDRV_O_RDWR, "driver=raw,file.driver=file,file.filename=%s",
        two.path);
    BdrvChild *writer = bdrv_root_attach_child(
        bdrv_ref(b), "writer", &test_root_class, NULL, BLK_PERM_WRITE,
        BLK_PERM_ALL, NULL);
    BdrvReopenQueue *queue = bdrv_reopen_queue_new();
    g_autoptr(GError) error = NULL;

    assert_non_null(writer);
    bdrv_reopen_queue_add(queue, a, a->open_flags | BDRV_O_RDWR, NULL);
    bdrv_reopen_queue_add(queue, b,
                          b->open_flags & ~(BdrvOpenFlags)BDRV_O_RDWR, NULL);
    assert_false(bdrv_reopen_multiple(queue, &error));
    assert_non_null(error);
    assert_true(a->read_only && a->file->bs->read_only);
    assert_false(b->read_only || b->file->bs->read_only);
    assert_false(a->file->perm & BLK_PERM_WRITE);
    node_fill(writer, 0, 512, 7);

    bdrv_detach_child(writer);
    assert_true(bdrv_reopen_set_read_only(b, true, NULL));
    assert_true(b->read_only);
    test_file_free(&one);
    test_file_free(&two);
}

static void test_a_node_becomes_writable_with_its_file(void **state)
{
    TestFile file = test_file_new(FILE_BYTES, 1);
    g_autoptr(BlockDriverState) bs = open_node(
        0, "driver=raw,file.driver=file,file.filename=%s,file.aio=threads",
        file.path);
    BdrvChild *writer;

    assert_reopens(bs, "read-only=off");
    writer = bdrv_root_attach_child(bdrv_ref(bs), "writer", &test_root_class,
                                    NULL, BLK_PERM_WRITE |
                                    BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL,
                                    NULL);
    assert_non_null(writer);
    node_fill(writer, 4096, 4096, 9);
    assert_reopens(bs, "file.aio=auto");
    assert_node_reads(writer, 4096, 4096, 9);
    assert_node_reads(writer, 0, 4096, 1);
    bdrv_detach_child(writer);
    assert_reopens(bs, "read-only=on");
    assert_true(bs->file->bs->read_only);
    test_file_free(&file);
}

/* ---- under load --------------------------------------------------------- */

typedef struct Load {
    BlockBackend *blk;
    int stop;    /* atomic */
    int running; /* atomic */
    int errors;  /* atomic */
    int64_t done; /* atomic */
} Load;

static void coroutine_fn load_entry(void *opaque)
{
    Load *load = opaque;
    g_autofree uint8_t *buffer = g_malloc0(4096);
    IoVec iov;

    iovec_init_buffer(&iov, buffer, 4096);
    while (!__atomic_load_n(&load->stop, __ATOMIC_ACQUIRE)) {
        int64_t n = __atomic_fetch_add(&load->done, 1, __ATOMIC_ACQ_REL);
        int64_t offset = n % 256 * 4096;
        int ret = n % 2 == 0
            ? blk_co_pwritev(load->blk, offset, 4096, &iov, 0)
            : blk_co_preadv(load->blk, offset, 4096, &iov, 0);

        if (ret < 0) {
            __atomic_fetch_add(&load->errors, 1, __ATOMIC_ACQ_REL);
        }
    }
    __atomic_fetch_sub(&load->running, 1, __ATOMIC_ACQ_REL);
}

static void start_load(void *opaque)
{
    for (int i = 0; i < WORKERS; i++) {
        co_enter(co_create(load_entry, opaque));
    }
}

static void test_options_change_under_load(void **state)
{
    Load load = {.running = THREADS * WORKERS};
    IoThread *threads[THREADS];
    g_autoptr(BlockDriverState) bs = open_node(
        BDRV_O_RDWR,
        "driver=throttle,file.driver=null,file.latency-ns=20000");
    int64_t before = 0;

    load.blk = blk_new(BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                       BLK_PERM_ALL, "load");
    assert_true(blk_insert_node(load.blk, bs, NULL));
    for (int i = 0; i < THREADS; i++) {
        threads[i] = io_thread_new("load", NULL);
        aio_schedule(io_thread_context(threads[i]), start_load, &load);
    }
    for (int i = 0; i < 100; i++) {
        static const char *const changes[] = {
            "bps-total=64M", "detect-zeroes=on", "iops-total=100000",
            "detect-zeroes=off,discard=unmap", "bps-total=0,discard=ignore",
            "iops-total=0",
        };

        assert_reopens(bs, changes[i % G_N_ELEMENTS(changes)]);
        assert_refused(bs, "throttle-group=x", IMGFUSE_ERROR_OPTION, "group");
        g_usleep(1000);
        if (i == 50) {
            before = __atomic_load_n(&load.done, __ATOMIC_ACQUIRE);
        }
    }
    assert_true(__atomic_load_n(&load.done, __ATOMIC_ACQUIRE) > before);
    assert_true(before > 0);

    __atomic_store_n(&load.stop, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < THREADS; i++) {
        io_thread_free(threads[i]);
    }
    assert_int_equal(load.running, 0);
    assert_int_equal(load.errors, 0);
    blk_free(load.blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options_of_every_node_change),
        cmocka_unit_test(
            test_flags_go_for_children_but_not_for_those_that_said),
        cmocka_unit_test(test_only_mutable_options_change),
        cmocka_unit_test(test_unchanged_values_are_accepted),
        cmocka_unit_test(test_all_nodes_of_a_queue_change_or_none),
        cmocka_unit_test(test_refused_permissions_abort_all_nodes),
        cmocka_unit_test(test_a_node_becomes_writable_with_its_file),
        cmocka_unit_test(test_options_change_under_load),
    };

    return cmocka_run_group_tests(tests, node_test_setup, node_test_teardown);
}
