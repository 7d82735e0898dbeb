/* SPDX-License-Identifier: MIT */
/*
 * making and opening a named overlay
 *
 * The image is opened once for a moment to learn its format, because a header
 * that says it spares the next open a guess. The overlay's header has the
 * image's absolute name: the two need not lie side by side.
 *
 * Always true: the image is opened for reading only; a file that is there is
 * never written over.
 *
 * Locking: none, control plane.
 */
#include "fuse/overlay.h"

#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/graph/open.h"
#include "block/graph/reference_policy.h"
#include "block/image/create.h"

#include <stdlib.h>
#include <sys/stat.h>

/* The format of @image; the caller frees. NULL with @error. */
static char *format_of(const char *image, const char *format,
                       ReferencePolicy *policy, GError **error)
{
    BlockOptions *options = block_options_new();
    g_autoptr(BlockBackend) blk = NULL;

    if (format) {
        block_options_set_string(options, "driver", format);
    }
    blk = blk_open(image, options, BDRV_O_RDONLY, policy, "overlay", error);
    return blk ? g_strdup(bdrv_skip_filters(blk_bs(blk))->drv->format_name)
               : NULL;
}

/* Complete or not there: image_create() renames the finished file. */
static bool make(const char *file, const char *image, const char *format,
                 ReferencePolicy *policy, GError **error)
{
    g_autofree char *backing_format =
        format_of(image, format, policy, error);
    ImageCreateRequest request = {
        .filename = file,
        .format = BDRV_OVERLAY_FORMAT,
        .length = -1,
        .backing_name = image,
        .backing_format = backing_format,
    };

    if (!backing_format) {
        return false;
    }
    if (!image_create(&request, /* ret_length= */ NULL, error)) {
        g_prefix_error(error, "overlay: ");
        return false;
    }
    return true;
}

/* Is @image the backing file of the open overlay? */
static bool is_over(BlockBackend *blk, const char *image)
{
    const BdrvChild *below = bdrv_cow_child(blk_bs(blk));
    const char *name = below ? bdrv_skip_filters(below->bs)->exact_filename
                             : NULL;
    struct stat wanted, found;

    return name && stat(image, &wanted) == 0 && stat(name, &found) == 0 &&
           wanted.st_dev == found.st_dev && wanted.st_ino == found.st_ino;
}

BlockBackend *overlay_open(const char *file, const char *image,
                           const char *format, BlockOptions *options,
                           BdrvOpenFlags flags, ReferencePolicy *policy,
                           const char *user, GError **error)
{
    g_autoptr(BlockOptions) own = options;
    char *real = realpath(image, /* resolved= */ NULL); /* free()'s */
    g_autofree char *name = g_strdup(real);
    g_autofree char *folder = name ? g_path_get_dirname(name) : NULL;
    g_autoptr(BlockBackend) blk = NULL;
    struct stat st;

    free(real);
    if (!name) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_NOT_FOUND,
                    "overlay: image '%s' is not a file that is there", image);
        return NULL;
    }
    if (!reference_policy_allow_path(policy, folder, error) ||
        (stat(file, &st) < 0 && !make(file, name, format, policy, error))) {
        return NULL;
    }
    block_options_set_string(own, "driver", BDRV_OVERLAY_FORMAT);
    blk = blk_open(file, g_steal_pointer(&own), flags, policy, user, error);
    if (blk && !is_over(blk, name)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "overlay '%s' belongs to another image than '%s'; give "
                    "the name of a new file", file, image);
        return NULL;
    }
    return g_steal_pointer(&blk);
}
