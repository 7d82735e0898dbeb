/* SPDX-License-Identifier: MIT */
/*
 * poke IMAGE OFFSET BYTES: writes that range of a qcow2 image and closes it
 *
 * For scripts that want our driver to have written something. Exit status: 0
 * done, 1 not, 2 usage.
 */
#include "block/backend.h"
#include "block/rt/aio_context.h"
#include "block/rt/thread_pool.h"
#include "drivers/registry.h"

#include <stdio.h>
#include <stdlib.h>

static int poke(const char *name, int64_t offset, int64_t bytes)
{
    g_autoptr(GError) error = NULL;
    BlockOptions *options = block_options_new();
    g_autofree uint8_t *data = g_malloc(MIB);
    BlockBackend *blk;
    int ret = 0;

    memset(data, 0x55, MIB);
    block_options_set_string(options, "driver", "qcow2");
    blk = blk_open(name, options, BDRV_O_RDWR, /* policy= */ NULL, "poke",
                   &error);
    if (!blk) {
        fprintf(stderr, "%s\n", error->message);
        return 1;
    }
    for (int64_t at = 0; at < bytes && ret >= 0; at += MIB) {
        ret = blk_pwrite(blk, offset + at, MIN(bytes - at, MIB), data);
    }
    blk_free(blk);
    if (ret < 0) {
        fprintf(stderr, "%s: %s\n", name, g_strerror(-ret));
    }
    return ret < 0;
}

int main(int argc, char **argv)
{
    AioContext *ctx;
    int code;

    if (argc != 4) {
        fprintf(stderr, "usage: %s IMAGE OFFSET BYTES\n", argv[0]);
        return 2;
    }
    drivers_register_all();
    ctx = aio_context_new(/* error= */ NULL);
    code = poke(argv[1], g_ascii_strtoll(argv[2], NULL, 10),
                g_ascii_strtoll(argv[3], NULL, 10));
    thread_pool_shutdown();
    co_pool_drain();
    aio_context_free(ctx);
    return code;
}
