/* SPDX-License-Identifier: MIT */
/*
 * the one list of built-in drivers
 *
 * Each driver's table is a constant of its own file, which includes this
 * header for the declaration. Nobody else uses these names: drivers are found
 * by format or protocol name (bdrv_find_format).
 */
#ifndef DRIVERS_REGISTRY_H
#define DRIVERS_REGISTRY_H

#include "block/driver.h"

extern const BlockDriver bdrv_file;        /* file/file.c */
extern const BlockDriver bdrv_host_device; /* file/file.c */
extern const BlockDriver bdrv_luks;        /* luks.c */
extern const BlockDriver bdrv_raw;         /* raw.c */
extern const BlockDriver bdrv_qcow2;       /* qcow2/qcow2.c */

extern const BlockDriver bdrv_blkdebug;     /* filters/blkdebug.c */
extern const BlockDriver bdrv_blklogwrites; /* filters/blklogwrites.c */
extern const BlockDriver bdrv_blkverify;    /* filters/blkverify.c */
extern const BlockDriver bdrv_compress;     /* filters/compress.c */
extern const BlockDriver bdrv_concat;       /* filters/concat.c */
extern const BlockDriver
    bdrv_copy_before_write; /* filters/copy_before_write.c */
extern const BlockDriver
    bdrv_copy_on_read_filter; /* filters/copy_on_read.c */
extern const BlockDriver bdrv_null;        /* filters/null.c */
extern const BlockDriver bdrv_preallocate; /* filters/preallocate.c */
extern const BlockDriver bdrv_quorum;      /* filters/quorum.c */
extern const BlockDriver bdrv_salvage;      /* filters/salvage.c */
extern const BlockDriver
    bdrv_snapshot_access; /* filters/snapshot_access.c */
extern const BlockDriver
    bdrv_snapshot_view; /* filters/snapshot_view.c */
extern const BlockDriver bdrv_throttle; /* filters/throttle.c */

/* Registers every driver of this build. Once, before anything is opened. */
void drivers_register_all(void);

#endif
