/* SPDX-License-Identifier: MIT */
/*
 * drivers for tests of the graph
 *
 * As little as it takes to see what the graph does with a driver. tmem counts
 * calls and refuses on request; tfmt exists for its header, which names other
 * files.
 */
#include "graph_test_driver.h"

#include <errno.h>
#include <glib/gstdio.h>

/* ---- tmem --------------------------------------------------------------- */

static bool tmem_open(BlockDriverState *bs, BlockOptions *options,
                      BdrvOpenFlags flags, GError **error)
{
    TestMem *mem = bs->opaque;
    int64_t size = TMEM_BYTES;
    g_autofree char *filename = NULL;

    if (!block_options_take_size(options, "size", &size, error) ||
        !block_options_take_string(options, "filename", &filename, error)) {
        return false;
    }
    mem->bytes = g_malloc0((size_t)size);
    bs->length = size;
    return true;
}

static void tmem_close(BlockDriverState *bs)
{
    g_free(test_mem(bs)->bytes);
}

static bool tmem_check_perm(BlockDriverState *bs, uint32_t perm,
                            uint32_t shared, GError **error)
{
    test_mem(bs)->checks++;
    if (test_mem(bs)->refuse_perms) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_LOCKED, "locked");
        return false;
    }
    return true;
}

static void tmem_set_perm(BlockDriverState *bs, uint32_t perm, uint32_t shared)
{
    test_mem(bs)->sets++;
}

static void tmem_abort_perm(BlockDriverState *bs)
{
    test_mem(bs)->aborts++;
}

static void tmem_drain_begin(BlockDriverState *bs)
{
    test_mem(bs)->drain_begins++;
}

static void tmem_drain_end(BlockDriverState *bs)
{
    test_mem(bs)->drain_ends++;
}

static bool tmem_reopen_prepare(BlockReopenState *state, GError **error)
{
    if (test_mem(state->bs)->refuse_reopen) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_DENIED, "refused");
        return false;
    }
    return true;
}

static void tmem_reopen_commit(BlockReopenState *state)
{
    test_mem(state->bs)->reopen_commits++;
}

static void tmem_reopen_abort(BlockReopenState *state)
{
    test_mem(state->bs)->reopen_aborts++;
}

static int coroutine_fn tmem_co_preadv(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, IoVec *iov,
                                       size_t iov_offset,
                                       BdrvRequestFlags flags)
{
    TestMem *mem = test_mem(bs);

    if (mem->hold_reads) {
        mem->held = co_self();
        co_yield();
    }
    iovec_from_buffer(iov, iov_offset, mem->bytes + offset, (size_t)bytes);
    return 0;
}

static int coroutine_fn tmem_co_pwritev(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes, IoVec *iov,
                                        size_t iov_offset,
                                        BdrvRequestFlags flags)
{
    iovec_to_buffer(iov, iov_offset, test_mem(bs)->bytes + offset,
                    (size_t)bytes);
    return 0;
}

static int coroutine_fn tmem_co_flush(BlockDriverState *bs)
{
    test_mem(bs)->flushes++;
    return 0;
}

static const BlockPermOps tmem_perm = {
    .check_perm = tmem_check_perm,
    .set_perm = tmem_set_perm,
    .abort_perm_update = tmem_abort_perm,
};

static const BlockReopenOps tmem_reopen = {
    .prepare = tmem_reopen_prepare,
    .commit = tmem_reopen_commit,
    .abort = tmem_reopen_abort,
};

static const BlockOptionDesc tmem_options[] = {
    { .name = "size", .type = BLOCK_OPTION_SIZE, .is_strong = true },
    { .name = NULL },
};

static const BlockDriver tmem_driver = {
    .format_name = "tmem",
    .protocol_name = "tmem",
    .instance_size = sizeof(TestMem),
    .options = tmem_options,
    .open = tmem_open,
    .close = tmem_close,
    .drain_begin = tmem_drain_begin,
    .drain_end = tmem_drain_end,
    .reopen = &tmem_reopen,
    .perm = &tmem_perm,
    .co_preadv = tmem_co_preadv,
    .co_pwritev = tmem_co_pwritev,
    .co_flush_to_disk = tmem_co_flush,
};

/* ---- file: content in memory, read at open ------------------------------ */

static bool tfile_open(BlockDriverState *bs, BlockOptions *options,
                       BdrvOpenFlags flags, GError **error)
{
    TestMem *mem = bs->opaque;
    g_autofree char *filename = NULL;
    char *content;
    gsize bytes;

    if (!block_options_take_string(options, "filename", &filename, error)) {
        return false;
    }
    if ((flags & BDRV_O_RDWR) && g_str_has_suffix(filename, ".ro")) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_DENIED,
                    "%s: read-only", filename);
        return false;
    }
    if (!g_file_get_contents(filename, &content, &bytes, NULL)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_NOT_FOUND,
                    "%s: no such file", filename);
        return false;
    }
    mem->bytes = (uint8_t *)content;
    bs->length = (int64_t)bytes;
    return true;
}

static const BlockDriver tfile_driver = {
    .format_name = "file",
    .protocol_name = "file",
    .needs_filename = true,
    .instance_size = sizeof(TestMem),
    .open = tfile_open,
    .close = tmem_close,
    .co_preadv = tmem_co_preadv,
    .co_pwritev = tmem_co_pwritev,
};

/* ---- formats and the filter --------------------------------------------- */

static int coroutine_fn pass_co_preadv(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, IoVec *iov,
                                       size_t iov_offset,
                                       BdrvRequestFlags flags)
{
    return bdrv_co_preadv(bs->file, offset, bytes, iov, iov_offset, flags);
}

static int coroutine_fn pass_co_pwritev(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes, IoVec *iov,
                                        size_t iov_offset,
                                        BdrvRequestFlags flags)
{
    return bdrv_co_pwritev(bs->file, offset, bytes, iov, iov_offset, flags);
}

static bool traw_open(BlockDriverState *bs, BlockOptions *options,
                      BdrvOpenFlags flags, GError **error)
{
    if (!bdrv_open_file_child(bs, options, error)) {
        return false;
    }
    bs->length = bdrv_node_length(bs->file->bs);
    return true;
}

static const BlockDriver traw_driver = {
    .format_name = "raw",
    .is_format = true,
    .open = traw_open,
    .co_preadv = pass_co_preadv,
    .co_pwritev = pass_co_pwritev,
};

static int tfmt_probe(const uint8_t *buffer, size_t bytes,
                      const char *filename)
{
    return bytes >= 5 && memcmp(buffer, "TFMT\n", 5) == 0 ? 100 : 0;
}

/* The rest of the header's line that begins with @key; NULL without. */
static char *header_line(const char *header, const char *key)
{
    const char *line = strstr(header, key);

    return line == NULL ? NULL
        : g_strndup(line + strlen(key), strcspn(line + strlen(key), "\n"));
}

static bool tfmt_open(BlockDriverState *bs, BlockOptions *options,
                      BdrvOpenFlags flags, GError **error)
{
    char header[1024] = "";
    g_autofree char *extent = NULL;
    BdrvChild *child;

    if (!bdrv_open_file_child(bs, options, error)) {
        return false;
    }
    bs->length = bdrv_node_length(bs->file->bs);
    if (bdrv_pread(bs->file, 0, MIN(bs->length, 1023), header) < 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_IO, "no header");
        return false;
    }
    if (strstr(header, "broken") != NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                    "header is broken");
        return false;
    }
    bs->backing_name = header_line(header, "backing=");
    bs->backing_format = header_line(header, "format=");
    extent = header_line(header, "extent=");
    return extent == NULL ||
           bdrv_open_referenced_child(bs, options, "extent", extent, "file",
                                      BDRV_CHILD_DATA, &child, error);
}

static const BlockDriver tfmt_driver = {
    .format_name = "tfmt",
    .is_format = true,
    .supports_backing = true,
    .probe = tfmt_probe,
    .open = tfmt_open,
    .co_preadv = pass_co_preadv,
    .co_pwritev = pass_co_pwritev,
};

static const BlockDriver tfilter_driver = {
    .format_name = "tfilter",
    .is_filter = true,
};

/* ---- for tests ---------------------------------------------------------- */

TestMem *test_mem(BlockDriverState *bs)
{
    return bs->opaque;
}

void test_release_read(BlockDriverState *bs)
{
    test_mem(bs)->hold_reads = false;
    co_wake(g_steal_pointer(&test_mem(bs)->held));
}

int graph_test_setup(void **state)
{
    g_autoptr(GError) error = NULL;

    if (bdrv_find_format("tmem") == NULL) {
        bdrv_register(&traw_driver);
        bdrv_register(&tfile_driver);
        bdrv_register(&tmem_driver);
        bdrv_register(&tfilter_driver);
        bdrv_register(&tfmt_driver);
    }
    *state = aio_context_new(&error);
    assert_non_null(*state);
    return 0;
}

int graph_test_teardown(void **state)
{
    thread_pool_shutdown();
    aio_context_free(*state);
    return 0;
}

BlockDriverState *test_open(const char *json, BdrvOpenFlags flags)
{
    g_autoptr(GError) error = NULL;
    BlockOptions *options = block_options_from_json(json, &error);
    BlockDriverState *bs;

    assert_non_null(options);
    bs = bdrv_open(NULL, options, flags, /* policy= */ NULL, &error);
    if (bs == NULL) {
        fail_msg("%s: %s", json, error->message);
    }
    return bs;
}

BlockDriverState *test_node(const char *name, BdrvOpenFlags flags)
{
    g_autofree char *json =
        g_strdup_printf("{\"driver\":\"tmem\",\"node-name\":\"%s\"}", name);

    return test_open(json, flags);
}

static void count_node(BlockDriverState *bs, void *opaque)
{
    (*(int *)opaque)++;
}

int test_count_nodes(void)
{
    int n = 0;

    bdrv_foreach_node(count_node, &n);
    return n;
}

char *test_folder(void)
{
    g_autofree char *name = g_dir_make_tmp("imgfuse-test-XXXXXX", NULL);
    char *real = realpath(name, NULL);
    char *folder = g_strdup(real);

    free(real);
    assert_non_null(folder);
    return folder;
}

static void remove_tree(const char *path)
{
    GDir *dir = g_file_test(path, G_FILE_TEST_IS_SYMLINK)
        ? NULL : g_dir_open(path, 0, NULL);
    const char *name;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *inner = g_build_filename(path, name, NULL);

        remove_tree(inner);
    }
    if (dir != NULL) {
        g_dir_close(dir);
    }
    g_remove(path);
}

void test_remove_folder(char *folder)
{
    remove_tree(folder);
    g_free(folder);
}

void test_write_file(const char *folder, const char *name, const char *content)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);

    assert_true(g_file_set_contents(path, content, -1, NULL));
}
