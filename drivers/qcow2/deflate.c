/* SPDX-License-Identifier: MIT */
/*
 * encoding compressed clusters of a qcow2 image
 *
 * A stream is raw deflate (no zlib header) whose matches reach back at most
 * 4 KiB, as the format's readers may have no larger window, or one zstd
 * frame. An encoder takes some hundred KiB to set up, so idle ones are kept.
 *
 * Locking: idle_lock protects the list of idle encoders; it is not held while
 * encoding. An encoder belongs to one thread at a time.
 */
#include "drivers/qcow2/deflate.h"

#include "block/rt/thread_pool.h"
#include "drivers/qcow2/format.h"

#include <errno.h>
#include <zlib.h>
#include <zstd.h>

/* The window of 1 << 12 bytes; negative: no header and checksum. */
#define WINDOW_BITS (-12)
#define MEM_LEVEL 9
#define IDLE_ENCODERS_MAX THREAD_POOL_MAX

/* One thread's tools; which of the two is the image's choice. */
typedef struct Encoder {
    z_stream *zlib;
    ZSTD_CCtx *zstd;
} Encoder;

struct Qcow2Deflater {
    unsigned compression_type;
    GMutex idle_lock;
    unsigned idle_count;
    Encoder idle[IDLE_ENCODERS_MAX];
};

static void encoder_free(Encoder *encoder)
{
    if (encoder->zlib) {
        deflateEnd(encoder->zlib);
        g_free(encoder->zlib);
    }
    ZSTD_freeCCtx(encoder->zstd);
    *encoder = (Encoder) { NULL, NULL };
}

Qcow2Deflater *qcow2_deflater_new(unsigned compression_type)
{
    Qcow2Deflater *deflater = g_new0(Qcow2Deflater, 1);

    deflater->compression_type = compression_type;
    g_mutex_init(&deflater->idle_lock);
    return deflater;
}

void qcow2_deflater_free(Qcow2Deflater *deflater)
{
    if (!deflater) {
        return;
    }
    for (unsigned i = 0; i < deflater->idle_count; i++) {
        encoder_free(&deflater->idle[i]);
    }
    g_mutex_clear(&deflater->idle_lock);
    g_free(deflater);
}

static z_stream *zlib_new(void)
{
    z_stream *stream = g_new0(z_stream, 1);

    if (deflateInit2(stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, WINDOW_BITS,
                     MEM_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK) {
        g_free(stream);
        return NULL;
    }
    return stream;
}

/* An idle encoder, or a new one. False: no memory. */
static bool encoder_get(Qcow2Deflater *deflater, Encoder *ret_encoder)
{
    Encoder encoder = { NULL, NULL };

    g_mutex_lock(&deflater->idle_lock);
    if (deflater->idle_count > 0) {
        encoder = deflater->idle[--deflater->idle_count];
    }
    g_mutex_unlock(&deflater->idle_lock);

    if (deflater->compression_type == QCOW2_COMPRESSION_ZSTD) {
        encoder.zstd = encoder.zstd ? encoder.zstd : ZSTD_createCCtx();
    } else {
        encoder.zlib = encoder.zlib ? encoder.zlib : zlib_new();
    }
    *ret_encoder = encoder;
    return encoder.zlib || encoder.zstd;
}

static void encoder_put(Qcow2Deflater *deflater, Encoder encoder)
{
    g_mutex_lock(&deflater->idle_lock);
    if (deflater->idle_count < IDLE_ENCODERS_MAX) {
        deflater->idle[deflater->idle_count++] = encoder;
        encoder = (Encoder) { NULL, NULL };
    }
    g_mutex_unlock(&deflater->idle_lock);
    encoder_free(&encoder);
}

static int64_t deflate_zlib(z_stream *stream, const void *in, size_t in_bytes,
                            void *out, size_t out_bytes)
{
    deflateReset(stream);
    stream->next_in = (void *)in;
    stream->avail_in = in_bytes;
    stream->next_out = out;
    stream->avail_out = out_bytes;
    return deflate(stream, Z_FINISH) == Z_STREAM_END
               ? (int64_t)(out_bytes - stream->avail_out) : 0;
}

int64_t qcow2_deflate(Qcow2Deflater *deflater, const void *in,
                      size_t in_bytes, void *out, size_t out_bytes)
{
    Encoder encoder;
    int64_t used;

    if (!encoder_get(deflater, &encoder)) {
        return -ENOMEM;
    }
    if (encoder.zstd) {
        size_t got = ZSTD_compressCCtx(encoder.zstd, out, out_bytes, in,
                                       in_bytes, ZSTD_CLEVEL_DEFAULT);

        used = ZSTD_isError(got) ? 0 : (int64_t)got;
    } else {
        used = deflate_zlib(encoder.zlib, in, in_bytes, out, out_bytes);
    }
    encoder_put(deflater, encoder);
    return used;
}

typedef struct DeflateJob {
    Qcow2Deflater *deflater;
    const void *in;
    size_t in_bytes;
    void *out;
    size_t out_bytes;
} DeflateJob;

/* Clusters are at most 2 MiB: an int is enough. */
static int deflate_job_run(void *opaque)
{
    const DeflateJob *job = opaque;

    return (int)qcow2_deflate(job->deflater, job->in, job->in_bytes, job->out,
                              job->out_bytes);
}

int64_t coroutine_fn qcow2_co_deflate(Qcow2Deflater *deflater, const void *in,
                                      size_t in_bytes, void *out,
                                      size_t out_bytes)
{
    DeflateJob job = { deflater, in, in_bytes, out, out_bytes };

    return thread_pool_co_run(deflate_job_run, &job);
}
