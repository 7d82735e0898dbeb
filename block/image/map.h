/* SPDX-License-Identifier: MIT */
/*
 * the allocation map of an image: which layer has what, and where
 */
#ifndef BLOCK_IMAGE_MAP_H
#define BLOCK_IMAGE_MAP_H

#include "block/backend.h"

typedef struct ImageMapExtent {
    int64_t start;
    int64_t length;
    int depth;          /* layers below the top one; 0: the top one's */
    bool is_present;    /* some layer decides; false: zeros for want of one */
    bool reads_zeros;
    bool is_data;       /* reading it needs I/O */
    bool is_compressed;
    bool has_offset;
    int64_t host_offset;    /* with has_offset: where it starts in @file */
    BlockDriverState *file; /* with has_offset */
} ImageMapExtent;

/* False with an error in the visitor's own hands stops the walk. */
typedef bool ImageMapVisit(const ImageMapExtent *extent, void *opaque);

/*
 * image_map:
 * Calls @visit for each extent of [@start, + @length) in order, neighbours of
 * one kind made one. The range is cut at the image's end. False with @error
 * when the image could not be asked; extents before that were visited. A
 * visitor that stops the walk is no error. Control plane.
 */
bool image_map(BlockBackend *blk, int64_t start, int64_t length,
               ImageMapVisit *visit, void *opaque, GError **error);

#endif
