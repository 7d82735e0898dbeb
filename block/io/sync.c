/* SPDX-License-Identifier: MIT */
/*
 * the control plane's calls into the data plane
 *
 * Each packs its arguments, runs the coroutine function by aio_run_sync() on
 * the calling thread's loop, and hands back its result. Inside of a coroutine
 * (a driver function that both planes use) it is called directly.
 *
 * Locking: none.
 */
#include "block/driver.h"
#include "block/io/io.h"
#include "block/rt/aio_context.h"

#include <errno.h>

typedef struct SyncCall {
    BdrvChild *child;
    BlockDriverState *bs;
    int64_t offset; /* or the new length */
    int64_t bytes;
    void *buffer;
    BdrvRequestFlags flags;
    bool exact;
    BdrvPreallocMode prealloc;
    GError **error;
    int64_t ret;
} SyncCall;

/*
 * The loop of the calling thread turns meanwhile, so other work of it may run;
 * requests of I/O threads are not waited for. Not through any gate: a drain
 * that this thread has begun does not hold it back.
 */
static int64_t run(CoEntry *entry, SyncCall *call)
{
    if (co_in_coroutine()) {
        entry(call);
    } else {
        aio_run_sync(entry, call);
    }
    return call->ret;
}

static void coroutine_fn pread_entry(void *opaque)
{
    SyncCall *call = opaque;

    call->ret = bdrv_co_pread(call->child, call->offset, call->bytes,
                              call->buffer, /* flags= */ 0);
}

int bdrv_pread(BdrvChild *child, int64_t offset, int64_t bytes, void *buffer)
{
    SyncCall call = { .child = child, .offset = offset, .bytes = bytes,
                      .buffer = buffer };

    if (bytes < 0 || offset < 0 ||
        !range_within(offset, bytes, bdrv_node_length(child->bs))) {
        return -EINVAL;
    }
    return run(pread_entry, &call);
}

static void coroutine_fn pwrite_entry(void *opaque)
{
    SyncCall *call = opaque;

    call->ret = bdrv_co_pwrite(call->child, call->offset, call->bytes,
                               call->buffer, call->flags);
}

int bdrv_pwrite(BdrvChild *child, int64_t offset, int64_t bytes,
                const void *buffer)
{
    SyncCall call = { .child = child, .offset = offset, .bytes = bytes,
                      .buffer = (void *)buffer };

    return run(pwrite_entry, &call);
}

static void coroutine_fn pwrite_zeroes_entry(void *opaque)
{
    SyncCall *call = opaque;

    call->ret = bdrv_co_pwrite_zeroes(call->child, call->offset, call->bytes,
                                      call->flags);
}

int bdrv_pwrite_zeroes(BdrvChild *child, int64_t offset, int64_t bytes,
                       BdrvRequestFlags flags)
{
    SyncCall call = { .child = child, .offset = offset, .bytes = bytes,
                      .flags = flags };

    return run(pwrite_zeroes_entry, &call);
}

static void coroutine_fn flush_entry(void *opaque)
{
    SyncCall *call = opaque;

    call->ret = bdrv_co_flush(call->bs);
}

int bdrv_flush(BlockDriverState *bs)
{
    SyncCall call = { .bs = bs };

    return run(flush_entry, &call);
}

static void coroutine_fn truncate_entry(void *opaque)
{
    SyncCall *call = opaque;

    call->ret = bdrv_co_truncate(call->child, call->offset, call->exact,
                                 call->prealloc, /* flags= */ 0, call->error);
}

int bdrv_truncate(BdrvChild *child, int64_t length, bool exact,
                  BdrvPreallocMode prealloc, GError **error)
{
    SyncCall call = { .child = child, .offset = length, .exact = exact,
                      .prealloc = prealloc, .error = error };

    return run(truncate_entry, &call);
}

static void coroutine_fn getlength_entry(void *opaque)
{
    SyncCall *call = opaque;

    call->ret = bdrv_co_getlength(call->bs);
}

int64_t bdrv_getlength(BlockDriverState *bs)
{
    SyncCall call = { .bs = bs };

    return run(getlength_entry, &call);
}

int64_t coroutine_fn bdrv_co_get_allocated_file_size(BlockDriverState *bs)
{
    if (!bs->drv) {
        return -ENOMEDIUM;
    }
    return bs->drv->co_get_allocated_file_size(bs);
}

static void coroutine_fn allocated_entry(void *opaque)
{
    SyncCall *call = opaque;

    call->ret = bdrv_co_get_allocated_file_size(call->bs);
}

int64_t bdrv_get_allocated_file_size(BlockDriverState *bs)
{
    SyncCall call = { .bs = bs };

    return run(allocated_entry, &call);
}
