/* SPDX-License-Identifier: MIT */
/*
 * SnapshotFiles: the internal snapshots of one mounted image, as files
 *
 * Names that a file cannot have are written with %XX for control characters,
 * '/' and '%'. A name that is empty, too long or another snapshot's, too, is
 * shown as %id-ID. Keys are made from what the image says of a snapshot, so
 * that they are the same in the next mount, and a new snapshot of an old name
 * has another one.
 *
 * A snapshot is opened when its file is, and stays open until it is removed
 * or the mount ends.
 */
#ifndef FUSE_SNAPSHOT_FILES_H
#define FUSE_SNAPSHOT_FILES_H

#include "fuse/export.h"

#define SNAPSHOT_KEY_BITS 40
#define SNAPSHOT_NAME_BYTES_MAX 255

typedef struct SnapshotFiles SnapshotFiles;

/* What is known without opening it; a copy. */
typedef struct SnapshotFileInfo {
    uint64_t key;    /* unique in the image, not 0 */
    uint64_t serial; /* rises in the order of being shown */
    int64_t length;
    int64_t time_ns; /* when it was made */
    char name[SNAPSHOT_NAME_BYTES_MAX + 1]; /* as a file's */
} SnapshotFileInfo;

/*
 * snapshot_files_new:
 * The snapshots that @image has now; NULL when its format has none. @image
 * stays the caller's and has to live longer. Control plane.
 */
SnapshotFiles *snapshot_files_new(Export *image);
/* Closes what is open. Control plane; NULL is harmless. */
void snapshot_files_free(SnapshotFiles *files);

/* -- any thread -------------------------------------------------------------- */

/* Those with the serial @serial or the next higher one. False: no more. */
bool snapshot_files_next(SnapshotFiles *files, uint64_t serial,
                         SnapshotFileInfo *ret_info);
bool snapshot_files_by_key(SnapshotFiles *files, uint64_t key,
                           SnapshotFileInfo *ret_info);
bool snapshot_files_by_name(SnapshotFiles *files, const char *name,
                            SnapshotFileInfo *ret_info);
/* When a snapshot was last made or removed. */
int64_t snapshot_files_changed_ns(SnapshotFiles *files);

/*
 * The file of a snapshot that is open, else NULL; it stays valid until the
 * snapshot_files_release() that belongs to its opening.
 */
Export *snapshot_files_export(SnapshotFiles *files, uint64_t key);
/* Undoes one snapshot_files_open(). */
void snapshot_files_release(SnapshotFiles *files, uint64_t key);
/* Is somebody between open and release? */
bool snapshot_files_is_open(SnapshotFiles *files, uint64_t key);

/* -- control plane: 0 or -errno; what was wrong is logged -------------------- */

/* -ENOENT: there is no such snapshot (any more). */
int snapshot_files_open(SnapshotFiles *files, uint64_t key);
/*
 * The image's state gets the name that @name (escaped) stands for. -EEXIST,
 * -EINVAL: not as we would write it; -ENAMETOOLONG, -EROFS.
 */
int snapshot_files_create(SnapshotFiles *files, const char *name);
/*
 * The image becomes what the snapshot @name (escaped) has; the present state
 * is lost. -EBUSY: the image's file is open; -ENOENT, -EROFS; -EPERM: it had
 * another length then and the file is of fixed size.
 */
int snapshot_files_goto(SnapshotFiles *files, const char *name);
/* -EBUSY: its file is open; -ENOENT, -EROFS. */
int snapshot_files_remove(SnapshotFiles *files, uint64_t key);

/* -- names ------------------------------------------------------------------- */

/* @name as a file's; the caller frees. Bytes from 128 on stay as they are. */
char *snapshot_name_escape(const char *name);
/* What @escaped stands for; NULL when escaping that gives another text. */
char *snapshot_name_unescape(const char *escaped);

#endif
