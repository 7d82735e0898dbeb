/* SPDX-License-Identifier: MIT */
/*
 * operations on the content of a file
 *
 * Each is a FuseOperation (dispatch.h): coroutine, any I/O thread, 0 or
 * -errno. Arguments were checked for length; ranges are checked here.
 */
#ifndef FUSE_FILE_OPS_H
#define FUSE_FILE_OPS_H

#include "fuse/dispatch.h"

/* -EROFS when a read-only image is opened for writing. */
FuseOperation fuse_op_open;
/* Snapshots and documents know who uses them; other handles are empty. */
FuseOperation fuse_op_release;
/* Short at the end of the file. */
FuseOperation fuse_op_read;
/* -ENOSPC past the end, unless the image may grow. */
FuseOperation fuse_op_write;
FuseOperation fuse_op_fsync;
/* close(2) of a file that was opened for writing. */
FuseOperation fuse_op_flush;
/* -EOPNOTSUPP for modes that are not named in file_ops.c. */
FuseOperation fuse_op_fallocate;
/* -ENXIO past the end, or where no data follows. */
FuseOperation fuse_op_lseek;
/*
 * For both opcodes; the reply has the one's or the other's shape. What would
 * end past a target that cannot grow is cut there, -ENOSPC when nothing fits.
 */
FuseOperation fuse_op_copy_file_range;

#endif
