/* SPDX-License-Identifier: MIT */
/*
 * Mount: putting the file system at its place and taking it away
 *
 * libfuse does both, by mount(2) for root and by fusermount3 for others. That
 * is all libfuse does here: the protocol is ours. Control plane.
 */
#ifndef FUSE_MOUNT_H
#define FUSE_MOUNT_H

#include "block/error.h"

#include <stdbool.h>
#include <sys/types.h>

#define MOUNT_FSTYPE "fuse.imgfuse"

typedef struct Mount Mount;

/*
 * mount_check_point:
 * May we mount at @path? Gives its real, absolute name (the caller frees) and
 * whether it is a regular file. NOT_FOUND: missing; FAILED: neither folder
 * nor file, or somebody's mount point already; the error says the way out.
 */
bool mount_check_point(const char *path, char **ret_real, bool *ret_is_file,
                       GError **error);

/*
 * mount_new:
 * Mounts at @point. @source is shown in the mount table; @options are further
 * mount options, separated by commas, or NULL.
 */
Mount *mount_new(const char *point, const char *source, const char *options,
                 bool read_only, GError **error);

/* The FUSE device of the mount, blocking. Gone after mount_unmount(). */
int mount_fd(const Mount *mount);

/*
 * Takes the mount away (lazily: files that are open stay usable as long as we
 * serve). Harmless when somebody else has done it.
 */
void mount_unmount(Mount *mount);

/* Unmounts and frees. */
void mount_free(Mount *mount);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Mount, mount_free)

/*
 * mount_find:
 * Is there a mount at exactly @real (an absolute path without links)? Gives
 * the topmost one's device and type (the caller frees; NULL: do not want).
 * Asks the mount table only, never the file system.
 */
bool mount_find(const char *real, dev_t *ret_device, char **ret_fstype);

#endif
