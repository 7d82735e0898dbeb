/* SPDX-License-Identifier: MIT */
/*
 * measuring: how large will the file of a new image be?
 */
#ifndef BLOCK_IMAGE_MEASURE_H
#define BLOCK_IMAGE_MEASURE_H

#include "block/driver.h"

struct BlockMeasure {
    int64_t required;        /* bytes of the file when just made */
    int64_t fully_allocated; /* ... and when everything has been written */
    int64_t bitmaps; /* more for the source's bitmaps; -1: not applicable */
};

/*
 * image_measure:
 * What an image of @format with @length bytes needs, holding what @source has
 * (NULL: nothing; else @length is not looked at). @options (may be NULL) are
 * those of creation; "size" among them beats @length. OPTION when they make no
 * image or @length is -1, UNSUPPORTED when the format cannot be measured, IO
 * when @source could not be read. Control plane.
 */
bool image_measure(const char *format, BlockBackend *source, int64_t length,
                   const BlockOptions *options, BlockMeasure *ret_measure,
                   GError **error);

/*
 * image_measure_data:
 * For drivers: bytes of the units of @unit bytes (a power of two) in which
 * @source has something that is not known to read zeros.
 */
bool image_measure_data(BlockBackend *source, int64_t unit, int64_t *ret_bytes,
                        GError **error);

#endif
