/* SPDX-License-Identifier: MIT */
/*
 * option snapshot=on: writes go to an overlay that nobody can find
 *
 *   users ─▶ overlay ─file─▶ file without a name in $TMPDIR
 *               └─backing─▶ the image, read-only
 *
 * The file is made without a name (O_TMPFILE) or loses it at once, so that
 * nothing is left behind however we end; until it is open as a node it is
 * reached through /proc/self/fd. The overlay's format makes its own bytes by
 * its create operations; its header names no backing file.
 *
 * Always true outside a function of this file:
 *  T1  no descriptor and no name of the file is left but the file node's own.
 *
 * Locking: none, control plane.
 */
#include "block/backend.h"
#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"
#include "block/graph/open.h"
#include "block/graph/open_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* A descriptor of an empty file without a name; -1 with @error. */
static int make_unnamed_file(GError **error)
{
    const char *folder = g_get_tmp_dir();
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);
    g_autofree char *name = NULL;

    if (fd >= 0) {
        return fd;
    }
    name = g_build_filename(folder, "imgfuse-XXXXXX", NULL);
    fd = g_mkstemp_full(name, O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        error_set_errno(error, errno, "cannot make a temporary file in %s",
                        folder);
        return -1;
    }
    (void) unlink(name); /* should it stay, it is only an empty file more */
    return fd;
}

/* A node on @fd's file, which may then be closed. */
static BlockDriverState *open_unnamed_file(int fd, GError **error)
{
    BlockOptions *options = block_options_new();
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);

    block_options_set_string(options, "driver", "file");
    block_options_set_string(options, "filename", path);
    block_options_set_string(options, "locking", "off"); /* nobody else */
    return open_tree(/* filename= */ NULL, options,
                     BDRV_O_RDWR | BDRV_O_RESIZE | BDRV_O_PROTOCOL |
                         BDRV_O_UNMAP | BDRV_O_NO_FLUSH,
                     error);
}

/* Has the format write an empty image of @length into @file. */
static bool fill(BlockDriverState *file, int64_t length, GError **error)
{
    const BlockDriver *format = bdrv_find_format(BDRV_OVERLAY_FORMAT);
    g_autoptr(BlockOptions) options = block_options_new();
    g_autoptr(BlockBackend) blk = blk_new(
        BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE,
        BLK_PERM_ALL, "making a temporary overlay");

    if (format == NULL || format->create == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "this program has no format for temporary overlays");
        return false;
    }
    return blk_insert_node(blk, file, error) &&
           format->create->create(blk, length, options, error);
}

static BlockDriverState *make_file(int64_t length, GError **error)
{
    g_autoptr(BlockDriverState) file = NULL;
    int fd = make_unnamed_file(error);

    if (fd < 0) {
        return NULL;
    }
    file = open_unnamed_file(fd, error);
    (void) close(fd); /* T1 */
    if (file == NULL || !fill(file, length, error)) {
        return NULL;
    }
    return g_steal_pointer(&file);
}

/* What is said of discards and zeros is meant for the layer that is written. */
static void move_option(BlockOptions *from, BlockOptions *to, const char *key)
{
    g_autofree char *value = NULL;

    (void) block_options_take_string(from, key, &value, NULL);
    if (value != NULL) {
        block_options_set_string(to, key, value);
    }
}

BlockDriverState *open_temporary_overlay(const char *filename,
                                         BlockOptions *options,
                                         BdrvOpenFlags flags, GError **error)
{
    BdrvOpenFlags image_flags =
        flags & ~(BdrvOpenFlags)(BDRV_O_RDWR | BDRV_O_RESIZE);
    g_autoptr(BlockOptions) own = options;
    g_autoptr(BlockOptions) overlay_options = block_options_new();
    g_autoptr(BlockDriverState) image = NULL;
    g_autoptr(BlockDriverState) file = NULL;
    BlockDriverState *overlay;

    move_option(own, overlay_options, "discard");
    move_option(own, overlay_options, "detect-zeroes");
    image = open_tree(filename, g_steal_pointer(&own), image_flags, error);
    if (image == NULL) {
        return NULL;
    }
    file = make_file(bdrv_node_length(image), error);
    if (file == NULL) {
        g_prefix_error(error, "temporary overlay of %s: ", bdrv_name(image));
        return NULL;
    }
    block_options_set_string(overlay_options, "driver", BDRV_OVERLAY_FORMAT);
    block_options_set_string(overlay_options, "file", file->node_name);
    block_options_set_string(overlay_options, "backing", image->node_name);
    overlay = open_tree(/* filename= */ NULL,
                        g_steal_pointer(&overlay_options),
                        flags | BDRV_O_NO_FLUSH, error);
    if (overlay != NULL) {
        overlay->temporary = true;
        bdrv_refresh_filename(overlay);
    }
    return overlay;
}
