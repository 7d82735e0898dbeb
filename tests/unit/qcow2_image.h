/* SPDX-License-Identifier: MIT */
/*
 * what the tests of the qcow2 driver share: a damaged or sound image in a
 * temporary file, opened through the block layer
 */
#ifndef TESTS_UNIT_QCOW2_IMAGE_H
#define TESTS_UNIT_QCOW2_IMAGE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "block/backend.h"
#include "block/graph/options.h"
#include "block/rt/aio_context.h"
#include "block/rt/thread_pool.h"
#include "drivers/registry.h"
#include "tests/hostile/qcow2_seed.h"

#include <glib/gstdio.h>
#include <unistd.h>

typedef struct TestImage {
    AioContext *ctx;
    char *directory;
    char *path;
} TestImage;

static inline int image_setup(void **state)
{
    TestImage *image = g_new0(TestImage, 1);

    image->ctx = aio_context_new(/* error= */ NULL);
    image->directory = g_dir_make_tmp("qcow2-XXXXXX", /* error= */ NULL);
    image->path = g_build_filename(image->directory, "a.qcow2", NULL);
    *state = image;
    return image->ctx && image->directory ? 0 : -1;
}

static inline int image_teardown(void **state)
{
    TestImage *image = *state;

    (void) g_unlink(image->path);
    (void) g_rmdir(image->directory);
    thread_pool_shutdown();
    co_pool_drain();
    aio_context_free(image->ctx);
    g_free(image->directory);
    g_free(image->path);
    g_free(image);
    return 0;
}

/* Writes @bytes of @data, consumed, to the image's file. */
static inline void image_write_file(TestImage *image, uint8_t *data,
                                    int64_t bytes)
{
    assert_true(g_file_set_contents(image->path, (char *)data, bytes, NULL));
    g_free(data);
}

static inline BlockBackend *image_open(TestImage *image, BdrvOpenFlags flags)
{
    BlockOptions *options = block_options_new();
    GError *error = NULL;
    BlockBackend *blk;

    block_options_set_string(options, "driver", "qcow2");
    blk = blk_open(image->path, options, flags, /* policy= */ NULL, "test",
                   &error);
    if (!blk) {
        fail_msg("%s", error->message);
    }
    return blk;
}

#define image_test(f) cmocka_unit_test_setup_teardown(f, image_setup, \
                                                      image_teardown)

#endif
