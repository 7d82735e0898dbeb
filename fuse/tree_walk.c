/* SPDX-License-Identifier: MIT */
/*
 * what is in which folder: listing and look-up
 *
 * A place in a listing is a number that stays good: an index where nothing
 * changes, a snapshot's serial where things come and go. In the root, images
 * and .imgfuse come first, then the snapshots of image 0, 1, ...:
 *
 *   0 .. n-1  images     n  .imgfuse     SNAPSHOT_BIT | image | serial
 *
 * Locking: none here; snapshot_files.c has its own.
 */
#include "fuse/tree.h"

#include "fuse/wire.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define META_NAME ".imgfuse"

/* In the root: room for 2^40 snapshots made during a mount. */
#define SNAPSHOT_BIT ((uint64_t)1 << 60)
#define SERIAL_BITS 40
#define SERIAL_MASK (((uint64_t)1 << SERIAL_BITS) - 1)

static const char *export_name(const Tree *tree, guint image)
{
    const Export *export = g_ptr_array_index(tree->exports, image);

    return export->name;
}

/* Completes *ret_entry; always true, so that callers can return it. */
static bool fill(const Tree *tree, TreeNode node, const char *name,
                 TreeEntry *ret_entry)
{
    ret_entry->inode = tree_node_inode(tree, &node);
    ret_entry->is_folder = tree_kind_is_folder(node.kind);
    g_strlcpy(ret_entry->name, name, sizeof(ret_entry->name));
    return true;
}

/* ---- listing ---- */

/* Files of snapshots, in the root. */
static bool next_snapshot_file(const Tree *tree, uint64_t *cookie,
                               TreeEntry *ret_entry)
{
    guint image = 0;
    uint64_t serial = 0;

    if (*cookie & SNAPSHOT_BIT) {
        image = (guint)((*cookie & ~SNAPSHOT_BIT) >> SERIAL_BITS);
        serial = *cookie & SERIAL_MASK;
    }
    for (; tree->show_snapshots && image < tree->exports->len;
         image++, serial = 0) {
        SnapshotFiles *files = tree_extras(tree, image)->snapshots;
        g_autofree char *name = NULL;
        SnapshotFileInfo info;

        if (files && snapshot_files_next(files, serial, &info)) {
            name = g_strdup_printf("%s@%s", export_name(tree, image),
                                   info.name);
            *cookie = SNAPSHOT_BIT | (uint64_t)image << SERIAL_BITS |
                      (info.serial + 1);
            return fill(tree,
                        (TreeNode) { TREE_SNAPSHOT_FILE, image, info.key },
                        name, ret_entry);
        }
    }
    return false;
}

/*
 * Snapshots come last: they come and go, and cookies of the others must stay.
 */
static bool next_in_root(const Tree *tree, uint64_t *cookie,
                         TreeEntry *ret_entry)
{
    guint n = tree->exports->len;

    if (*cookie < n) {
        guint image = (guint)(*cookie)++;

        return fill(tree, (TreeNode) { .kind = TREE_IMAGE, .image = image },
                    export_name(tree, image), ret_entry);
    }
    if (*cookie == n && tree->has_meta) {
        ++*cookie;
        return fill(tree, (TreeNode) { .kind = TREE_META }, META_NAME,
                    ret_entry);
    }
    return next_snapshot_file(tree, cookie, ret_entry);
}

/* The folder of an image: documents, then folders that it may have. */
static bool next_beside_image(const Tree *tree, guint image,
                              uint64_t *cookie, TreeEntry *ret_entry)
{
    const TreeExtras *extras = tree_extras(tree, image);

    if (*cookie < DOCUMENT_KINDS) {
        DocumentKind kind = (DocumentKind)(*cookie)++;

        return fill(tree, (TreeNode) { TREE_DOCUMENT, image, kind },
                    document_name(kind), ret_entry);
    }
    if (*cookie == DOCUMENT_KINDS) {
        ++*cookie;
        if (extras->layers) {
            return fill(tree, (TreeNode) { TREE_LAYERS, image, 0 }, "layers",
                        ret_entry);
        }
    }
    if (*cookie == DOCUMENT_KINDS + 1) {
        ++*cookie;
        if (extras->snapshots) {
            return fill(tree, (TreeNode) { TREE_SNAPSHOTS, image, 0 },
                        "snapshots", ret_entry);
        }
    }
    if (*cookie == DOCUMENT_KINDS + 2) {
        ++*cookie;
        if (tree_has_goto(tree, image)) {
            return fill(tree, (TreeNode) { TREE_GOTO, image, 0 }, "goto",
                        ret_entry);
        }
    }
    return false;
}

/* Numbered from the image down: 0 is what disk.raw shows. */
static bool next_layer(const Tree *tree, guint image, uint64_t *cookie,
                       TreeEntry *ret_entry)
{
    const GPtrArray *layers = tree_extras(tree, image)->layers;
    char name[32];

    if (*cookie >= layers->len) {
        return false;
    }
    snprintf(name, sizeof(name), "%" PRIu64 ".raw", *cookie);
    return fill(tree, (TreeNode) { TREE_LAYER, image, (*cookie)++ }, name,
                ret_entry);
}

static bool next_snapshot(const Tree *tree, guint image, uint64_t *cookie,
                          TreeEntry *ret_entry)
{
    SnapshotFileInfo info;

    if (!snapshot_files_next(tree_extras(tree, image)->snapshots, *cookie,
                             &info)) {
        return false;
    }
    *cookie = info.serial + 1;
    return fill(tree, (TreeNode) { TREE_SNAPSHOT, image, info.key },
                info.name, ret_entry);
}

/* Folders that are empty, and what is none, end at once. */
bool tree_next(const Tree *tree, uint64_t folder, uint64_t *cookie,
               TreeEntry *ret_entry)
{
    TreeNode node = tree_node(tree, folder);

    switch (node.kind) {
    case TREE_ROOT:
        return next_in_root(tree, cookie, ret_entry);
    case TREE_META:
        if (*cookie >= tree->exports->len) {
            return false;
        }
        node = (TreeNode) { TREE_IMAGE_META, (guint)(*cookie)++, 0 };
        return fill(tree, node, export_name(tree, node.image), ret_entry);
    case TREE_IMAGE_META:
        return next_beside_image(tree, node.image, cookie, ret_entry);
    case TREE_LAYERS:
        return next_layer(tree, node.image, cookie, ret_entry);
    case TREE_SNAPSHOTS:
        return next_snapshot(tree, node.image, cookie, ret_entry);
    default:
        return false; /* a snapshot's folder is empty */
    }
}

/* ---- look-up ---- */

/* "disk.raw@NAME": a name may have an '@' of its own, so try each image. */
static uint64_t lookup_snapshot_file(const Tree *tree, const char *name)
{
    for (guint i = 0; tree->show_snapshots && i < tree->exports->len; i++) {
        SnapshotFiles *files = tree_extras(tree, i)->snapshots;
        size_t length = strlen(export_name(tree, i));
        SnapshotFileInfo info;

        if (files && strncmp(name, export_name(tree, i), length) == 0 &&
            name[length] == '@' &&
            snapshot_files_by_name(files, name + length + 1, &info)) {
            TreeNode node = { TREE_SNAPSHOT_FILE, i, info.key };

            return tree_node_inode(tree, &node);
        }
    }
    return 0;
}

uint64_t tree_lookup(const Tree *tree, const char *name)
{
    return tree_lookup_in(tree, FUSE_ROOT_ID, name);
}

/* By walking: a folder has few names, but for snapshots. */
uint64_t tree_lookup_in(const Tree *tree, uint64_t folder, const char *name)
{
    TreeNode node = tree_node(tree, folder);
    uint64_t cookie = 0;
    SnapshotFileInfo info;
    TreeEntry entry;

    /* There may be thousands of snapshots: these are not walked. */
    if (node.kind == TREE_SNAPSHOTS) {
        if (!snapshot_files_by_name(tree_extras(tree, node.image)->snapshots,
                                    name, &info)) {
            return 0;
        }
        node = (TreeNode) { TREE_SNAPSHOT, node.image, info.key };
        return tree_node_inode(tree, &node);
    }
    while (!(cookie & SNAPSHOT_BIT) &&
           tree_next(tree, folder, &cookie, &entry)) {
        if (strcmp(entry.name, name) == 0) {
            return entry.inode;
        }
    }
    return node.kind == TREE_ROOT ? lookup_snapshot_file(tree, name) : 0;
}
