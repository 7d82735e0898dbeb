/* SPDX-License-Identifier: MIT */
/*
 * converting: all that one image shows goes into another
 */
#ifndef BLOCK_IMAGE_CONVERT_H
#define BLOCK_IMAGE_CONVERT_H

#include "block/backend.h"

/* Runs of zeros in data that are worth leaving out. */
#define IMAGE_CONVERT_SPARSE_DEFAULT 4096

typedef struct ImageConvert {
    BlockBackend *source;
    BlockBackend *target;   /* at least as long, writable */
    const char *source_name; /* for messages: as the user knows it */
    const char *target_name; /* likewise */
    bool target_is_zero;    /* what is not written reads zeros */
    /*
     * The target has a backing file, as long as this, with what the layers
     * below the source's top one show: only the top one is copied. -1: none.
     */
    int64_t backing_bytes;
    bool compress;
    bool copy_range;        /* let the kernel copy where it can */
    int64_t sparse_bytes;   /* power of two; 0: write zeros, too */
    unsigned coroutines;
    const int *cancel;      /* atomic; not 0: stop with ECANCELED */
    void (*progress)(void *opaque, int64_t done_bytes, int64_t total_bytes);
    void *opaque;
} ImageConvert;

/*
 * image_convert_check:
 * Can it be done at all? OPTION when the target is too short, or cannot hold
 * compressed clusters, with the reason. Touches nothing. Control plane.
 */
bool image_convert_check(const ImageConvert *convert, GError **error);

/*
 * image_convert:
 * Copies and flushes, what image_convert_check() let pass. False: the target
 * holds some of the data, nobody knows what; @error names the side, offset
 * and bytes that failed.
 * Control plane.
 */
bool image_convert(const ImageConvert *convert, GError **error);

#endif
