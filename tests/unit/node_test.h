/* SPDX-License-Identifier: MIT */
/*
 * for tests of drivers: a node, a user of it, and data-plane calls as plain
 * functions
 *
 * A TestNode is opened from json: options and held by a root edge with the
 * permissions of an ordinary user. Calls assert what every test would.
 */
#ifndef TESTS_UNIT_NODE_TEST_H
#define TESTS_UNIT_NODE_TEST_H

#include "block/driver.h"
#include "block/graph/open.h"
#include "block/graph/perm.h"
#include "block/io/io.h"
#include "block/io/status.h"
#include "block/rt/aio_context.h"
#include "block/rt/buffer_pool.h"
#include "block/rt/thread_pool.h"
#include "drivers/registry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct TestNode {
    BdrvChild *root;
} TestNode;

static const BdrvChildClass test_root_class = { .parent_is_bs = false };

/* Once per program, around all tests. */
static inline int node_test_setup(void **state)
{
    g_autoptr(GError) error = NULL;

    drivers_register_all();
    *state = aio_context_new(&error);
    assert_non_null(*state);
    return 0;
}

static inline int node_test_teardown(void **state)
{
    thread_pool_shutdown();
    aio_context_free(*state);
    buffer_pool_drain(); /* idle buffers are no leak */
    return 0;
}

/* NULL with @error; @format is a printf format of the options' JSON. */
static inline BdrvChild *node_try_open(BdrvOpenFlags flags, GError **error,
                                       const char *format, ...)
{
    va_list args;
    g_autofree char *json = NULL;
    uint32_t perm = BLK_PERM_CONSISTENT_READ;
    BlockOptions *options;
    BlockDriverState *bs;

    va_start(args, format);
    json = g_strdup_vprintf(format, args);
    va_end(args);
    options = block_options_from_json(json, error);
    assert_non_null(options);
    bs = bdrv_open(/* filename= */ NULL, options, flags, /* policy= */ NULL,
                   error);
    if (bs == NULL) {
        return NULL;
    }
    if (flags & BDRV_O_RDWR) {
        perm |= BLK_PERM_WRITE | BLK_PERM_RESIZE;
    }
    return bdrv_root_attach_child(bs, "root", &test_root_class, NULL, perm,
                                  BLK_PERM_CONSISTENT_READ |
                                      BLK_PERM_WRITE_UNCHANGED,
                                  error);
}

#define node_open(flags, ...)                                     \
    ({                                                            \
        g_autoptr(GError) open_error = NULL;                      \
        BdrvChild *opened =                                       \
            node_try_open(flags, &open_error, __VA_ARGS__);       \
        if (opened == NULL) {                                     \
            fail_msg("%s", open_error->message);                  \
        }                                                         \
        opened;                                                   \
    })

/* Opening fails with @expected, and the message has @word in it. */
#define assert_open_fails(expected, word, flags, ...)                    \
    do {                                                               \
        g_autoptr(GError) open_error = NULL;                           \
        assert_null(node_try_open(flags, &open_error, __VA_ARGS__));   \
        assert_non_null(open_error);                                   \
        if (!g_error_matches(open_error, IMGFUSE_ERROR, expected) ||       \
            strstr(open_error->message, word) == NULL) {               \
            fail_msg("code %d: %s", open_error->code,                  \
                     open_error->message);                             \
        }                                                              \
    } while (0)

/* ---- calls that have no synchronous form ---- */

typedef struct NodeCall {
    BdrvChild *child;
    BdrvChild *other;
    int64_t offset;
    int64_t bytes;
    int64_t other_offset;
    BlockStatus status;
    int ret;
} NodeCall;

static inline void node_status_entry(void *opaque)
{
    NodeCall *call = opaque;

    call->ret = bdrv_co_block_status(call->child->bs, /* want_zero= */ true,
                                     call->offset, call->bytes,
                                     &call->status);
}

static inline void node_discard_entry(void *opaque)
{
    NodeCall *call = opaque;

    call->ret = bdrv_co_pdiscard(call->child, call->offset, call->bytes);
}

static inline void node_copy_entry(void *opaque)
{
    NodeCall *call = opaque;

    call->ret = bdrv_co_copy_range(call->child, call->offset, call->other,
                                   call->other_offset, call->bytes, 0);
}

static inline BlockStatus node_status(BdrvChild *child, int64_t offset,
                                      int64_t bytes)
{
    NodeCall call = { .child = child, .offset = offset, .bytes = bytes };

    aio_run_sync(node_status_entry, &call);
    assert_int_equal(call.ret, 0);
    return call.status;
}

static inline int node_discard(BdrvChild *child, int64_t offset,
                               int64_t bytes)
{
    NodeCall call = { .child = child, .offset = offset, .bytes = bytes };

    aio_run_sync(node_discard_entry, &call);
    return call.ret;
}

static inline int node_copy(BdrvChild *from, int64_t from_offset,
                            BdrvChild *to, int64_t to_offset, int64_t bytes)
{
    NodeCall call = { .child = from, .other = to, .offset = from_offset,
                      .other_offset = to_offset, .bytes = bytes };

    aio_run_sync(node_copy_entry, &call);
    return call.ret;
}

/* Does [@offset, + @bytes) of the node read as @byte everywhere? */
static inline void assert_node_reads(BdrvChild *child, int64_t offset,
                                     int64_t bytes, int byte)
{
    g_autofree uint8_t *buffer = g_malloc(bytes);

    memset(buffer, ~byte, bytes);
    assert_int_equal(bdrv_pread(child, offset, bytes, buffer), 0);
    for (int64_t i = 0; i < bytes; i++) {
        if (buffer[i] != (uint8_t)byte) {
            fail_msg("byte %" G_GINT64_FORMAT " is 0x%02x, not 0x%02x",
                     offset + i, buffer[i], byte);
        }
    }
}

static inline void node_fill(BdrvChild *child, int64_t offset, int64_t bytes,
                             int byte)
{
    g_autofree uint8_t *buffer = g_malloc(bytes);

    memset(buffer, byte, bytes);
    assert_int_equal(bdrv_pwrite(child, offset, bytes, buffer), 0);
}

/* ---- files to work on ---- */

typedef struct TestFile {
    char path[64];
} TestFile;

/* @bytes of @byte; sparse when @byte is 0. */
static inline TestFile test_file_new(int64_t bytes, int byte)
{
    TestFile file = { "/tmp/test-file-XXXXXX" };
    g_autofree uint8_t *content = g_malloc(bytes + 1);
    int fd = mkstemp(file.path);

    assert_true(fd >= 0);
    memset(content, byte, bytes);
    if (byte != 0) {
        assert_int_equal(pwrite(fd, content, bytes, 0), bytes);
    }
    assert_int_equal(ftruncate(fd, bytes), 0);
    (void) fsync(fd); /* so that block counts are settled */
    (void) close(fd);
    return file;
}

static inline void test_file_free(TestFile *file)
{
    (void) unlink(file->path);
}

static inline struct stat test_file_stat(const TestFile *file)
{
    struct stat st;

    assert_int_equal(stat(file->path, &st), 0);
    return st;
}

#endif
