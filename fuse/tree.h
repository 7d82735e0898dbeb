/* SPDX-License-Identifier: MIT */
/*
 * Tree: the names in the mount and their inode numbers
 *
 *   /disk.raw                              an image
 *   /disk.raw@NAME                         its snapshot (show_snapshots)
 *   /.imgfuse/disk.raw/info.json ...       documents (has_meta)
 *   /.imgfuse/disk.raw/layers/0.raw ...    its layers, the image first
 *   /.imgfuse/disk.raw/snapshots/NAME/     a folder for each snapshot
 *   /.imgfuse/disk.raw/goto                to go back to one (read-write)
 *
 * or - when the mount point is a regular file - a single image that is the
 * root itself. Inode numbers are stable: the root is FUSE_ROOT_ID, images
 * follow in the order of adding, everything else is numbered by what it is
 * (tree.c). A daemon that is started anew with the same arguments has the
 * same tree, so nothing needs to be remembered about look-ups.
 *
 * Built before the mount and constant while it lasts, but for snapshots,
 * which have a lock of their own: any thread reads it.
 */
#ifndef FUSE_TREE_H
#define FUSE_TREE_H

#include "fuse/documents.h"
#include "fuse/snapshot_files.h"

#include <stdint.h>
#include <sys/types.h>

/* What stands beside an image. */
typedef struct TreeExtras {
    GPtrArray *layers;        /* of Export *, owned; NULL: not shown */
    SnapshotFiles *snapshots; /* owned; NULL: the format has none */
} TreeExtras;

typedef struct Tree {
    GPtrArray *exports; /* of Export *, owned */
    GArray *extras;     /* of TreeExtras, one for each export */
    bool root_is_file;  /* then there is exactly one export */
    bool has_meta;      /* the folder .imgfuse is there */
    bool show_snapshots;  /* each as a file beside its image */
    bool others_may_read; /* mode bits for group and others */
    int file_mode;        /* permission bits as the user wants, or -1 */
    uid_t uid;
    gid_t gid;
    int64_t made_ns; /* the folder's time, realtime clock */
} Tree;

typedef enum TreeKind {
    TREE_NOTHING,
    TREE_ROOT, /* a folder; a file as root is a TREE_IMAGE */
    TREE_IMAGE,
    TREE_META,          /* /.imgfuse */
    TREE_IMAGE_META,    /* its folder for an image */
    TREE_DOCUMENT,      /* item: a DocumentKind */
    TREE_LAYERS,        /* the folder */
    TREE_LAYER,         /* item: depth */
    TREE_SNAPSHOTS,     /* the folder */
    TREE_SNAPSHOT,      /* item: key; an empty folder */
    TREE_SNAPSHOT_FILE, /* item: key */
    TREE_GOTO,          /* takes the name of a snapshot to go back to */
} TreeKind;

/* What an inode number stands for. */
typedef struct TreeNode {
    TreeKind kind;
    guint image;
    uint64_t item;
} TreeNode;

#define TREE_NAME_BYTES_MAX 255

/* One name in a folder. */
typedef struct TreeEntry {
    uint64_t inode;
    bool is_folder;
    char name[TREE_NAME_BYTES_MAX + 1];
} TreeEntry;

/* An empty folder owned by the calling process's user. */
Tree *tree_new(void);

/* Closes the images and what stands beside them. Control plane. */
void tree_free(Tree *tree);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Tree, tree_free)

/* Takes @export over in any case. OPTION error: the name is bad or taken. */
bool tree_add(Tree *tree, Export *export, GError **error);

/* Is @name one that a folder can have? OPTION error with the reason. */
bool tree_check_name(const char *name, GError **error);

/* Can image @image go back to a snapshot? */
bool tree_has_goto(const Tree *tree, guint image);

TreeExtras *tree_extras(const Tree *tree, guint image);

/*
 * tree_export:
 * The backend behind a file: images, layers, snapshots that are open. NULL
 * for folders, documents and what does not exist.
 */
Export *tree_export(const Tree *tree, uint64_t inode);

/* TREE_NOTHING when there is no such inode (any more). */
TreeNode tree_node(const Tree *tree, uint64_t inode);
/* The inverse; @node exists. */
uint64_t tree_node_inode(const Tree *tree, const TreeNode *node);
bool tree_kind_is_folder(TreeKind kind);

/* Is @inode a folder? */
bool tree_is_folder(const Tree *tree, uint64_t inode);

/* The inode of @name in the root, 0 when there is none. */
uint64_t tree_lookup(const Tree *tree, const char *name);
/* The same in any folder. */
uint64_t tree_lookup_in(const Tree *tree, uint64_t folder, const char *name);

/* The inode of the export with index @index. */
uint64_t tree_inode(const Tree *tree, guint index);

/*
 * tree_next:
 * The entry of @folder at *cookie or behind, without "." and ".."; *cookie is
 * moved behind it. Begin with 0. False at the end. Entries that come or go
 * meanwhile are shown or not; all others are shown once.
 */
bool tree_next(const Tree *tree, uint64_t folder, uint64_t *cookie,
               TreeEntry *ret_entry);

/*
 * tree_default_name:
 * The file name for the image at @path: its base name with the suffix
 * replaced by ".raw". The caller frees.
 */
char *tree_default_name(const char *path);

#endif
