/* SPDX-License-Identifier: MIT */
/*
 * an overlay with a name: what is written to an image goes to another file
 *
 * The image is the overlay's backing file, so what is there can be looked at,
 * mounted again, committed or thrown away later.
 */
#ifndef FUSE_OVERLAY_H
#define FUSE_OVERLAY_H

#include "block/backend.h"

/*
 * overlay_open:
 * Opens @file over the image at @image (@format NULL: probed), making it when
 * it is not there. @options (taken over) are for the overlay. @policy gets the
 * image's folder added. NULL with @error: FAILED when @file is over some
 * other image. Control plane.
 */
BlockBackend *overlay_open(const char *file, const char *image,
                           const char *format, BlockOptions *options,
                           BdrvOpenFlags flags, ReferencePolicy *policy,
                           const char *user, GError **error);

#endif
