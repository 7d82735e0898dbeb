/* SPDX-License-Identifier: MIT */
/*
 * operations on names and folders, and on the mount as a whole
 *
 * Each is a FuseOperation (dispatch.h): coroutine, any I/O thread, 0 or
 * -errno. Arguments were checked for length.
 */
#ifndef FUSE_DIR_OPS_H
#define FUSE_DIR_OPS_H

#include "fuse/dispatch.h"

/* -ENOENT, -ENOTDIR. */
FuseOperation fuse_op_lookup;
FuseOperation fuse_op_opendir;
FuseOperation fuse_op_readdir;
FuseOperation fuse_op_statfs;
/* Flushes every image of the mount to its medium. */
FuseOperation fuse_op_syncfs;

/* For operations whose answer is a name's: lookup, mkdir. */
void coroutine_fn fuse_reply_entry(const FuseMountState *mount,
                                   FuseRequest *request, uint64_t inode);

#endif
