/* SPDX-License-Identifier: MIT */
/*
 * Tree: the names in the mount and their inode numbers
 *
 * Either a folder with one file for each export, or - when the mount point is
 * a regular file - a single export that is the root itself. Inode numbers are
 * stable: the root is FUSE_ROOT_ID, exports follow in the order of adding. A
 * daemon that is started anew with the same arguments has the same tree, so
 * nothing needs to be remembered about lookups and open files.
 *
 * Built before the mount, constant while it lasts: any thread reads it.
 */
#ifndef FUSE_TREE_H
#define FUSE_TREE_H

#include "fuse/export.h"

#include <stdint.h>
#include <sys/types.h>

typedef struct Tree {
    GPtrArray *exports; /* of Export *, owned */
    bool root_is_file;  /* then there is exactly one export */
    bool others_may_read; /* mode bits for group and others */
    uid_t uid;
    gid_t gid;
    int64_t made_ns; /* the folder's time, realtime clock */
} Tree;

/* An empty folder owned by the calling process's user. */
Tree *tree_new(void);

/* Closes the images. Control plane. */
void tree_free(Tree *tree);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Tree, tree_free)

/* Takes @export over in any case. OPTION error: the name is bad or taken. */
bool tree_add(Tree *tree, Export *export, GError **error);

/* Is @name one that a folder can have? OPTION error with the reason. */
bool tree_check_name(const char *name, GError **error);

/* NULL when @inode is the folder or nothing. */
Export *tree_export(const Tree *tree, uint64_t inode);

/* Is @inode the root, and the root a folder? */
bool tree_is_folder(const Tree *tree, uint64_t inode);

/* The inode of @name in the folder, 0 when there is none. */
uint64_t tree_lookup(const Tree *tree, const char *name);

/* The inode of the export with index @index. */
uint64_t tree_inode(const Tree *tree, guint index);

/*
 * tree_default_name:
 * The file name for the image at @path: its base name with the suffix
 * replaced by ".raw". The caller frees.
 */
char *tree_default_name(const char *path);

#endif
