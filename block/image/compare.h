/* SPDX-License-Identifier: MIT */
/*
 * comparing two images: does a reader see the same bytes?
 */
#ifndef BLOCK_IMAGE_COMPARE_H
#define BLOCK_IMAGE_COMPARE_H

#include "block/backend.h"

typedef enum ImageDifference {
    IMAGE_SAME,
    IMAGE_DIFFERS_CONTENT, /* at the sector of offset */
    IMAGE_DIFFERS_STATUS,  /* strict: allocation differs at offset */
    IMAGE_DIFFERS_LENGTH,  /* strict */
} ImageDifference;

typedef enum ImageCompareStage {
    IMAGE_COMPARE_STATUS, /* asking what is allocated */
    IMAGE_COMPARE_READ,
} ImageCompareStage;

typedef struct ImageCompare {
    BlockBackend *images[2];
    const char *names[2]; /* for messages */
    bool is_strict;
    void (*progress)(void *opaque, int64_t done_bytes, int64_t total_bytes);
    void *opaque;
    /* -- results --------------------------------------------------------- */
    ImageDifference difference; /* the first one */
    int64_t offset;
    ImageCompareStage failed_stage; /* when image_compare() fails */
} ImageCompare;

/*
 * image_compare:
 * Fills the results. Of images of different length the rest of the longer one
 * must read zeros. False: an image could not be read, @error says which and
 * where. Control plane.
 */
bool image_compare(ImageCompare *compare, GError **error);

#endif
