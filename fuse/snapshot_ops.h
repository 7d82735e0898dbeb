/* SPDX-License-Identifier: MIT */
/*
 * operations on what stands beside an image: snapshots and documents
 *
 * The first two are FuseOperations (dispatch.h). The others are for file_ops.c,
 * whose operations come here when an inode has no plain backend: coroutine,
 * any I/O thread, 0 or -errno. All of them may wait for the main thread.
 */
#ifndef FUSE_SNAPSHOT_OPS_H
#define FUSE_SNAPSHOT_OPS_H

#include "fuse/dispatch.h"

/*
 * In a folder snapshots/: makes one of all writes that were answered before.
 * -EPERM elsewhere; else as snapshot_files_create().
 */
FuseOperation fuse_op_mkdir;
/* Removes it: -EBUSY while its file is open, -EPERM in other folders. */
FuseOperation fuse_op_rmdir;

/* One more user of a snapshot's file. */
int coroutine_fn fuse_snapshot_open(const FuseMountState *mount,
                                    const TreeNode *node);
void fuse_snapshot_release(const FuseMountState *mount, const TreeNode *node);

/*
 * fuse_goto_write:
 * The image goes back to the snapshot whose name (as its folder has it) was
 * written. -EBUSY while the image's file is open; else as
 * snapshot_files_goto().
 */
int coroutine_fn fuse_goto_write(const FuseMountState *mount,
                                 FuseRequest *request,
                                 const struct fuse_write_in *in);

/* Writes a document for this open; *ret_handle names it. */
int coroutine_fn fuse_document_open(const FuseMountState *mount,
                                    const TreeNode *node,
                                    uint64_t *ret_handle);
/* Short at the end. -EBADF: no such handle. */
int fuse_document_read(const FuseMountState *mount, FuseRequest *request,
                       const struct fuse_read_in *in);

#endif
