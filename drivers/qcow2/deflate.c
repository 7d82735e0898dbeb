/* SPDX-License-Identifier: MIT */
/*
 * encoding compressed clusters of a qcow2 image
 *
 * A stream is raw deflate (RFC 1951, no zlib header) or one zstd frame. Its
 * matches reach back as far as the cluster goes: readers decode a cluster in
 * one call into one buffer, where no window bounds them. An encoder takes some
 * hundred KiB to set up, so idle ones are kept.
 *
 * Locking: idle_lock protects the list of idle encoders; it is not held while
 * encoding. An encoder belongs to one thread at a time.
 */
#include "drivers/qcow2/deflate.h"

#include "block/rt/thread_pool.h"
#include "drivers/qcow2/format.h"

#include <errno.h>
#include <libdeflate.h>
#include <zstd.h>

/*
 * Level 1 of libdeflate takes less room than level 6 of zlib with the 4 KiB
 * window that writers of this format use, in a fifth of the time (64 KiB
 * clusters of programs: 0.343 and 0.351 of the size). Of zstd, level 1 takes
 * 0.341, level 3 0.327 and half as long again.
 */
#define DEFLATE_LEVEL 1
#define ZSTD_LEVEL 1
#define IDLE_ENCODERS_MAX THREAD_POOL_MAX

/* One thread's tools; which of the two is the image's choice. */
typedef struct Encoder {
    struct libdeflate_compressor *deflate;
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
    if (encoder->deflate) {
        libdeflate_free_compressor(encoder->deflate);
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
    } else if (!encoder.deflate) {
        encoder.deflate = libdeflate_alloc_compressor(DEFLATE_LEVEL);
    }
    *ret_encoder = encoder;
    return encoder.deflate || encoder.zstd;
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
                                       in_bytes, ZSTD_LEVEL);

        used = ZSTD_isError(got) ? 0 : (int64_t)got;
    } else {
        used = (int64_t)libdeflate_deflate_compress(encoder.deflate, in,
                                                    in_bytes, out, out_bytes);
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
