/* SPDX-License-Identifier: MIT */
/*
 * decoding compressed clusters of a qcow2 image
 *
 * A stream is raw deflate (no zlib header) or zstd frames; how many bytes it
 * has is known up to a sector only, so garbage may follow. The sources are
 * hostile: a stream that stands for more or less than was asked for is an
 * error, and memory does not depend on what it says.
 *
 * libdeflate is the fastest for whole clusters, but says nothing about what
 * is in the buffer when that is too small. ISA-L does: it decodes the start of
 * a cluster alone, where the build found it.
 *
 * Locking: idle_lock protects the list of idle decoders; it is not held while
 * decoding. A decoder belongs to one thread at a time.
 */
#include "drivers/qcow2/inflate.h"

#include "drivers/qcow2/format.h"

#include <errno.h>
#include <libdeflate.h>
#include <zstd.h>
#ifdef HAVE_ISAL
#include <isa-l/igzip_lib.h>
#endif

#define IDLE_DECODERS_MAX 16

/* One thread's tools while it decodes; each made at its first use. */
typedef struct Decoder {
    struct libdeflate_decompressor *deflate;
    ZSTD_DCtx *zstd;
#ifdef HAVE_ISAL
    struct inflate_state *prefix;
#endif
} Decoder;

struct Qcow2Decoders {
    unsigned compression_type;
    GMutex idle_lock;
    unsigned idle_count;
    Decoder idle[IDLE_DECODERS_MAX];
};

Qcow2Decoders *qcow2_decoders_new(unsigned compression_type)
{
    Qcow2Decoders *decoders = g_new0(Qcow2Decoders, 1);

    decoders->compression_type = compression_type;
    g_mutex_init(&decoders->idle_lock);
    return decoders;
}

static void decoder_free(Decoder *decoder)
{
    if (decoder->deflate) {
        libdeflate_free_decompressor(decoder->deflate);
    }
    (void) ZSTD_freeDCtx(decoder->zstd); /* NULL is fine, no error for us */
#ifdef HAVE_ISAL
    g_free(decoder->prefix);
#endif
}

void qcow2_decoders_free(Qcow2Decoders *decoders)
{
    for (unsigned i = 0; i < decoders->idle_count; i++) {
        decoder_free(&decoders->idle[i]);
    }
    g_mutex_clear(&decoders->idle_lock);
    g_free(decoders);
}

/* An idle decoder, or one without tools yet. */
static Decoder decoder_get(Qcow2Decoders *decoders)
{
    Decoder decoder = { NULL };

    g_mutex_lock(&decoders->idle_lock);
    if (decoders->idle_count > 0) {
        decoder = decoders->idle[--decoders->idle_count];
    }
    g_mutex_unlock(&decoders->idle_lock);
    return decoder;
}

static void decoder_put(Qcow2Decoders *decoders, Decoder decoder)
{
    bool is_kept;

    g_mutex_lock(&decoders->idle_lock);
    is_kept = decoders->idle_count < IDLE_DECODERS_MAX;
    if (is_kept) {
        decoders->idle[decoders->idle_count++] = decoder;
    }
    g_mutex_unlock(&decoders->idle_lock);
    if (!is_kept) {
        decoder_free(&decoder);
    }
}

static int inflate_deflate(Decoder *decoder, const void *in, size_t in_bytes,
                           void *out, size_t out_bytes)
{
    size_t in_used;
    size_t out_used;

    if (!decoder->deflate) {
        decoder->deflate = libdeflate_alloc_decompressor();
    }
    if (!decoder->deflate) {
        return -ENOMEM;
    }
    /* A stream longer than a cluster is INSUFFICIENT_SPACE: a bomb. */
    if (libdeflate_deflate_decompress_ex(decoder->deflate, in, in_bytes, out,
                                         out_bytes, &in_used, &out_used) !=
        LIBDEFLATE_SUCCESS) {
        return -EIO;
    }
    return out_used == out_bytes ? 0 : -EIO;
}

/*
 * Frame by frame, because garbage may follow. Decoding in one go needs no
 * window memory, whatever the frame's header asks for.
 */
static int inflate_zstd(Decoder *decoder, const uint8_t *in, size_t in_bytes,
                        uint8_t *out, size_t out_bytes)
{
    if (!decoder->zstd) {
        decoder->zstd = ZSTD_createDCtx();
    }
    if (!decoder->zstd) {
        return -ENOMEM;
    }
    while (out_bytes > 0) {
        size_t frame_bytes = ZSTD_findFrameCompressedSize(in, in_bytes);
        size_t got;

        if (ZSTD_isError(frame_bytes) || frame_bytes == 0) {
            return -EIO;
        }
        got = ZSTD_decompressDCtx(decoder->zstd, out, out_bytes, in,
                                  frame_bytes);
        if (ZSTD_isError(got)) {
            return -EIO;
        }
        in += frame_bytes;
        in_bytes -= frame_bytes;
        out += got;
        out_bytes -= got;
    }
    return 0;
}

int qcow2_decode(Qcow2Decoders *decoders, const void *in, size_t in_bytes,
                 void *out, size_t out_bytes)
{
    Decoder decoder = decoder_get(decoders);
    int ret;

    if (decoders->compression_type == QCOW2_COMPRESSION_ZSTD) {
        ret = inflate_zstd(&decoder, in, in_bytes, out, out_bytes);
    } else {
        ret = inflate_deflate(&decoder, in, in_bytes, out, out_bytes);
    }
    decoder_put(decoders, decoder);
    return ret;
}

/* -- the start of a cluster alone ------------------------------------------ */

#ifdef HAVE_ISAL

/* A zstd block is as long as most clusters: there is nothing to save. */
bool qcow2_can_decode_prefix(const Qcow2Decoders *decoders)
{
    return decoders->compression_type == QCOW2_COMPRESSION_ZLIB;
}

int qcow2_decode_prefix(Qcow2Decoders *decoders, const void *in,
                        size_t in_bytes, void *out, size_t out_bytes)
{
    Decoder decoder = decoder_get(decoders);
    struct inflate_state *state;
    int ret;

    if (!decoder.prefix) {
        decoder.prefix = g_new(struct inflate_state, 1);
    }
    state = decoder.prefix;
    isal_inflate_init(state);
    state->next_in = (void *)in; /* only read */
    state->avail_in = in_bytes;
    state->next_out = out;
    state->avail_out = out_bytes;
    ret = isal_inflate_stateless(state);
    ret = (ret == ISAL_OUT_OVERFLOW || ret == ISAL_DECOMP_OK) &&
          state->avail_out == 0 ? 0 : -EIO;
    decoder_put(decoders, decoder);
    return ret;
}

#else

bool qcow2_can_decode_prefix(const Qcow2Decoders *decoders)
{
    return false;
}

int qcow2_decode_prefix(Qcow2Decoders *decoders, const void *in,
                        size_t in_bytes, void *out, size_t out_bytes)
{
    return -ENOTSUP;
}

#endif
