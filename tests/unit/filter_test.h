/* SPDX-License-Identifier: MIT */
/*
 * for tests of filters: memory nodes below, the filter above
 *
 * The memory nodes (memory_driver.h) are named in the filter's options by
 * their node names. Their own root edges give up all permissions, so that the
 * filter may have them.
 */
#ifndef TESTS_UNIT_FILTER_TEST_H
#define TESTS_UNIT_FILTER_TEST_H

#include "tests/unit/memory_driver.h"
#include "tests/unit/node_test.h"

#include <errno.h>

/* A memory node that others may use freely; end with memory_close(). */
static inline BdrvChild *below_open(const MemoryConfig *config)
{
    BdrvChild *child = memory_open(config);

    assert_true(bdrv_child_set_perm(child, /* perm= */ 0, BLK_PERM_ALL,
                                    /* error= */ NULL));
    return child;
}

static inline BdrvChild *below_open_length(int64_t length)
{
    return below_open(&(MemoryConfig) {
        .length = length,
        .write_flags = BDRV_REQ_WRITE_UNCHANGED,
        .zero_flags = BDRV_REQ_WRITE_UNCHANGED | BDRV_REQ_MAY_UNMAP |
                      BDRV_REQ_NO_FALLBACK,
    });
}

static inline const char *below_name(const BdrvChild *child)
{
    return child->bs->node_name;
}

#define FILTER_FLAGS (BDRV_O_RDWR | BDRV_O_RESIZE | BDRV_O_UNMAP)

/* A request that runs beside the test; `done` when it has ended. */
typedef struct Background {
    BdrvChild *child;
    bool is_write;
    int64_t offset;
    int64_t bytes;
    uint8_t *buffer;
    int ret;
    bool done;
} Background;

static inline void coroutine_fn background_entry(void *opaque)
{
    Background *request = opaque;

    request->ret = request->is_write
        ? bdrv_co_pwrite(request->child, request->offset, request->bytes,
                         request->buffer, /* flags= */ 0)
        : bdrv_co_pread(request->child, request->offset, request->bytes,
                        request->buffer, /* flags= */ 0);
    request->done = true;
}

static inline void background_start(Background *request, BdrvChild *child,
                                    bool is_write, int64_t offset,
                                    int64_t bytes, int byte)
{
    *request = (Background) {
        .child = child, .is_write = is_write, .offset = offset,
        .bytes = bytes, .buffer = g_malloc(bytes),
    };
    memset(request->buffer, byte, bytes);
    memory_start(background_entry, request);
}

/* Waits for its end, frees, and returns its result. */
static inline int background_end(Background *request)
{
    memory_wait(&request->done);
    g_free(request->buffer);
    return request->ret;
}

/* An integer member of the node's details, as `info` would show it. */
static inline int64_t specific_int(BdrvChild *child, const char *member)
{
    JsonNode *node = child->bs->drv->get_specific_info(child->bs);
    int64_t value;

    assert_non_null(node);
    value = json_object_get_int_member(json_node_get_object(node), member);
    json_node_unref(node);
    return value;
}

#endif
