/* SPDX-License-Identifier: MIT */
/*
 * operations on attributes: length, times, mode
 *
 * Each is a FuseOperation (dispatch.h): coroutine, any I/O thread, 0 or
 * -errno. Arguments were checked for length.
 */
#ifndef FUSE_ATTR_OPS_H
#define FUSE_ATTR_OPS_H

#include "fuse/dispatch.h"

/* -ENOENT: no such inode (any more). */
FuseOperation fuse_op_getattr;
FuseOperation fuse_op_statx;
/*
 * -EPERM: owner and mode are fixed, the length unless the image may grow; the
 * time of last change is taken over and kept as long as the mount.
 */
FuseOperation fuse_op_setattr;
FuseOperation fuse_op_access;

/* Fills @attr for the existing inode @inode. */
void coroutine_fn fuse_fill_attr(const FuseMountState *mount, uint64_t inode,
                                 struct fuse_attr *attr);

/* Seconds for which the kernel may believe the attributes of @inode. */
uint64_t fuse_attr_valid(const FuseMountState *mount, uint64_t inode);

#endif
