/* SPDX-License-Identifier: MIT */
/*
 * names and inode numbers
 *
 *   inode 1               the root: a folder, or the only image
 *   inode 2, 3, 4, ...    images 0, 1, 2, ... of a folder
 *   kind : image : item   everything else, in 8, 16 and 40 bits
 *
 * What is in a file is export.c's affair, how the kernel asks dir_ops.c's,
 * which names a folder has tree_walk.c's.
 *
 * Always true once the mount is there: names differ, each is a legal file
 * name, and nothing but snapshots changes any more; so there is no lock here.
 */
#include "fuse/tree.h"

#include "fuse/wire.h"

#include <string.h>
#include <unistd.h>

#define IMAGE_SHIFT SNAPSHOT_KEY_BITS
#define KIND_SHIFT 56
#define IMAGES_MAX ((1 << (KIND_SHIFT - IMAGE_SHIFT)) - 1)
#define ITEM_MASK (((uint64_t)1 << IMAGE_SHIFT) - 1)

Tree *tree_new(void)
{
    Tree *tree = g_new0(Tree, 1);

    tree->exports = g_ptr_array_new_with_free_func(
        (GDestroyNotify)export_free);
    tree->extras = g_array_new(/* zero_terminated= */ FALSE,
                               /* clear= */ TRUE, sizeof(TreeExtras));
    tree->file_mode = -1;
    tree->uid = geteuid();
    tree->gid = getegid();
    tree->made_ns = g_get_real_time() * 1000;
    return tree;
}

void tree_free(Tree *tree)
{
    if (!tree) {
        return;
    }
    for (guint i = 0; i < tree->extras->len; i++) {
        TreeExtras *extras = tree_extras(tree, i);

        /* Users of an image's nodes before the image itself. */
        snapshot_files_free(extras->snapshots);
        g_clear_pointer(&extras->layers, g_ptr_array_unref);
    }
    g_array_unref(tree->extras);
    g_ptr_array_unref(tree->exports);
    g_free(tree);
}

/* The same rule for what users say and what is made from file names. */
bool tree_check_name(const char *name, GError **error)
{
    if (!*name || strchr(name, '/') || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0 || strlen(name) > TREE_NAME_BYTES_MAX) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "'%s' cannot be a file's name in the mount; give another "
                    "with --name or name=NAME,file=IMAGE", name);
        return false;
    }
    return true;
}

/*
 * Names must differ before the mount is made: afterwards nobody could rename.
 */
bool tree_add(Tree *tree, Export *export, GError **error)
{
    g_autoptr(Export) owned = export;

    if (!tree_check_name(export->name, error)) {
        return false;
    }
    for (guint i = 0; i < tree->exports->len; i++) {
        const Export *other = g_ptr_array_index(tree->exports, i);

        if (strcmp(other->name, export->name) == 0) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                        "two images would both be shown as '%s'; tell them "
                        "apart with name=NAME,file=IMAGE", export->name);
            return false;
        }
    }
    if (tree->exports->len >= IMAGES_MAX) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "one mount shows %d images at most", IMAGES_MAX);
        return false;
    }
    g_ptr_array_add(tree->exports, g_steal_pointer(&owned));
    g_array_set_size(tree->extras, tree->exports->len);
    return true;
}

TreeExtras *tree_extras(const Tree *tree, guint image)
{
    return &g_array_index(tree->extras, TreeExtras, image);
}

bool tree_has_goto(const Tree *tree, guint image)
{
    const Export *export = g_ptr_array_index(tree->exports, image);

    return tree_extras(tree, image)->snapshots && !export->read_only;
}

/* ---- inode numbers ---- */

/* The image with that inode number; false when it is none's. */
static bool image_of_inode(const Tree *tree, uint64_t inode, guint *ret_image)
{
    uint64_t first = tree->root_is_file ? FUSE_ROOT_ID : FUSE_ROOT_ID + 1;

    if (inode < first || inode - first >= tree->exports->len) {
        return false;
    }
    *ret_image = (guint)(inode - first);
    return true;
}

/* What is not listed is a file. */
bool tree_kind_is_folder(TreeKind kind)
{
    return kind == TREE_ROOT || kind == TREE_META ||
           kind == TREE_IMAGE_META || kind == TREE_LAYERS ||
           kind == TREE_SNAPSHOTS || kind == TREE_SNAPSHOT;
}

/* Is there such a thing beside an image? The kernel may ask for anything. */
static bool exists(const Tree *tree, const TreeNode *node)
{
    const TreeExtras *extras;

    if (!tree->has_meta || node->image >= tree->exports->len) {
        return false;
    }
    extras = tree_extras(tree, node->image);
    switch (node->kind) {
    case TREE_META:
        return node->image == 0 && node->item == 0;
    case TREE_IMAGE_META:
        return node->item == 0;
    case TREE_DOCUMENT:
        return node->item < DOCUMENT_KINDS;
    case TREE_LAYERS:
        return extras->layers && node->item == 0;
    case TREE_LAYER:
        return extras->layers && node->item < extras->layers->len;
    case TREE_SNAPSHOTS:
        return extras->snapshots && node->item == 0;
    case TREE_SNAPSHOT_FILE:
    case TREE_SNAPSHOT:
        return extras->snapshots &&
               (node->kind == TREE_SNAPSHOT || tree->show_snapshots) &&
               snapshot_files_by_key(extras->snapshots, node->item, NULL);
    case TREE_GOTO:
        return tree_has_goto(tree, node->image) && node->item == 0;
    case TREE_NOTHING:
    case TREE_ROOT:
    case TREE_IMAGE:
        break;
    }
    return false;
}

/*
 * The kernel asks by number, and a number may be stale or made up: what does
 * not exist (any more) is nothing.
 */
TreeNode tree_node(const Tree *tree, uint64_t inode)
{
    TreeNode node = { .kind = TREE_NOTHING };

    if (image_of_inode(tree, inode, &node.image)) {
        node.kind = TREE_IMAGE;
        return node;
    }
    if (inode == FUSE_ROOT_ID) {
        node.kind = TREE_ROOT;
        return node;
    }
    node.kind = (TreeKind)(inode >> KIND_SHIFT);
    node.image = (guint)(inode >> IMAGE_SHIFT) & IMAGES_MAX;
    node.item = inode & ITEM_MASK;
    return exists(tree, &node) ? node : (TreeNode) { .kind = TREE_NOTHING };
}

/* Kind, image and item have bits of their own, so numbers never meet. */
uint64_t tree_node_inode(const Tree *tree, const TreeNode *node)
{
    if (node->kind == TREE_ROOT) {
        return FUSE_ROOT_ID;
    }
    if (node->kind == TREE_IMAGE) {
        return tree_inode(tree, node->image);
    }
    return (uint64_t)node->kind << KIND_SHIFT |
           (uint64_t)node->image << IMAGE_SHIFT | node->item;
}

/*
 * On the way of every read and write: images, by far the most, are told by a
 * comparison; what is beside them costs a look at the tree or a lock.
 */
Export *tree_export(const Tree *tree, uint64_t inode)
{
    TreeNode node;
    guint image;

    if (G_LIKELY(image_of_inode(tree, inode, &image))) {
        return g_ptr_array_index(tree->exports, image);
    }
    node = tree_node(tree, inode);
    if (node.kind == TREE_LAYER) {
        return g_ptr_array_index(tree_extras(tree, node.image)->layers,
                                 node.item);
    }
    if (node.kind == TREE_SNAPSHOT_FILE) {
        return snapshot_files_export(
            tree_extras(tree, node.image)->snapshots, node.item);
    }
    return NULL;
}

bool tree_is_folder(const Tree *tree, uint64_t inode)
{
    return tree_kind_is_folder(tree_node(tree, inode).kind);
}

uint64_t tree_inode(const Tree *tree, guint index)
{
    return index + (tree->root_is_file ? FUSE_ROOT_ID : FUSE_ROOT_ID + 1);
}

char *tree_default_name(const char *path)
{
    g_autofree char *base = g_path_get_basename(path);
    char *dot = strrchr(base, '.');

    /* A leading dot hides a file; it starts no suffix. */
    if (dot && dot != base) {
        *dot = '\0';
    }
    return g_strconcat(base, ".raw", NULL);
}
