/* SPDX-License-Identifier: MIT */
/*
 * stream: data from the layers below moves up into a node
 *
 *   guest ─▶ top ─▶ mid ─▶ base        becomes        guest ─▶ top ─▶ base
 *             ▲──────┘ prefetch reads
 *
 * The copying is the block layer's copy-on-read, which excludes the guest's
 * writes to the clusters it fills; we only ask for prefetches of what the
 * layers in between have. What nobody above @base has stays unallocated.
 *
 * Always true: the chain from top to base is frozen from the start to the
 * end; whatever part of the data was moved, top reads the same.
 *
 * Locking: see job.c; the state is constant while the coroutine runs.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "block/image/stream.h"

#include "block/backend.h"
#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/graph/edge.h"
#include "block/graph/reopen.h"
#include "block/image/chain.h"

#define CHUNK_BYTES MIB
/* Skipping needs no data: longer steps. */
#define STATUS_MAX_BYTES (256 * MIB)

typedef struct StreamState {
    BlockBackend *blk;     /* on top */
    BlockDriverState *top; /* counted */
    BlockDriverState *base; /* counted, or NULL */
    GPtrArray *frozen;
    int64_t length;
    bool reopened; /* top was read-only */
} StreamState;

/*
 * What is to be done with the bytes at @offset: 1 to fetch, 0 to skip; for
 * *@ret_bytes.
 */
static int coroutine_fn look(StreamState *s, int64_t offset,
                             int64_t *ret_bytes)
{
    int64_t bytes = MIN(s->length - offset, STATUS_MAX_BYTES);
    int ret = blk_co_is_allocated_above(s->blk, s->top->backing->bs,
                                        /* include_base= */ false, offset,
                                        bytes, &bytes);

    if (ret == 0) {
        ret = blk_co_is_allocated_above(s->blk, s->base,
                                        /* include_base= */ false, offset,
                                        bytes, &bytes);
    } else if (ret > 0) {
        ret = 0; /* top has it */
    }
    *ret_bytes = bytes;
    return ret;
}

static int coroutine_fn stream_run(Job *job)
{
    StreamState *s = job_state(job);
    int64_t offset = 0;

    job_set_total(job, s->length);
    while (offset < s->length) {
        int64_t bytes = 0;
        int ret = look(s, offset, &bytes);
        bool fetch = ret > 0;

        if (fetch) {
            bytes = MIN(bytes, CHUNK_BYTES);
            ret = blk_co_preadv(s->blk, offset, bytes, /* iov= */ NULL,
                                BDRV_REQ_COPY_ON_READ | BDRV_REQ_PREFETCH);
        }
        if (ret < 0) {
            return ret;
        }
        offset += bytes;
        job_progress(job, bytes);
        ret = job_co_pause_point(job, fetch ? bytes : 0);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* Data first, then the graph, the header last. */
static bool stream_prepare(Job *job, GError **error)
{
    StreamState *s = job_state(job);
    bool ok;
    int ret;

    bdrv_drained_begin(s->top);
    ret = blk_flush(s->blk);
    if (ret < 0) {
        error_set_errno(error, -ret, "flushing %s", bdrv_name(s->top));
    }
    chain_unfreeze(s->frozen);
    ok = ret == 0 && chain_set_backing(s->top, s->base, error);
    bdrv_drained_end(s->top);
    return ok;
}

static void stream_clean(Job *job)
{
    StreamState *s = job_state(job);

    chain_unfreeze(s->frozen);
    g_clear_pointer(&s->frozen, g_ptr_array_unref);
    g_clear_pointer(&s->blk, blk_free);
    if (s->reopened) {
        (void) bdrv_reopen_set_read_only(s->top, true, NULL);
    }
    chain_release(s->top, s);
    g_clear_pointer(&s->base, bdrv_unref);
    g_clear_pointer(&s->top, bdrv_unref);
}

static const JobDriver stream_driver = {
    .name = "stream",
    .instance_size = sizeof(StreamState),
    .run = stream_run,
    .prepare = stream_prepare,
    .clean = stream_clean,
};

static bool check_layers(BlockDriverState *top, BlockDriverState *base,
                         GError **error)
{
    if (bdrv_cow_child(top) == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s has no backing file to stream from", bdrv_name(top));
        return false;
    }
    return (base == NULL || chain_edge_to(top, base, error) != NULL) &&
           chain_can_rename(top, error);
}

static bool set_up(StreamState *s, GError **error)
{
    s->frozen = g_ptr_array_new();
    if (!chain_claim(s->top, BDRV_OP_STREAM, s, error) ||
        !chain_freeze(s->frozen, s->top, s->base, error)) {
        return false;
    }
    if (s->top->read_only) {
        if (!bdrv_reopen_set_read_only(s->top, false, error)) {
            return false;
        }
        s->reopened = true;
    }
    s->blk = blk_new(BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE_UNCHANGED,
                     BLK_PERM_ALL, "stream job");
    s->length = bdrv_node_length(s->top);
    return blk_insert_node(s->blk, s->top, error);
}

Job *stream_job_new(const char *id, BlockDriverState *top,
                    BlockDriverState *base, GError **error)
{
    StreamState *s;
    Job *job;

    top = bdrv_skip_filters(top);
    if (!check_layers(top, base, error)) {
        return NULL;
    }
    job = job_new(&stream_driver, id, error);
    if (job == NULL) {
        return NULL;
    }
    s = job_state(job);
    s->top = bdrv_ref(top);
    s->base = base != NULL ? bdrv_ref(base) : NULL;
    if (!set_up(s, error)) {
        job_free(job);
        return NULL;
    }
    return job;
}
