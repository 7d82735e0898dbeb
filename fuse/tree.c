/* SPDX-License-Identifier: MIT */
/*
 * names and inode numbers
 *
 *   inode 1               the folder, or the only export
 *   inode 2, 3, 4, ...    exports 0, 1, 2, ... of a folder
 *
 * What is in a file is export.c's affair, how the kernel asks dir_ops.c's.
 *
 * Always true once the mount is there: names differ, each is a legal file
 * name, and nothing changes any more; so there is no lock.
 */
#include "fuse/tree.h"

#include "fuse/wire.h"

#include <string.h>
#include <unistd.h>

#define NAME_BYTES_MAX 255

Tree *tree_new(void)
{
    Tree *tree = g_new0(Tree, 1);

    tree->exports = g_ptr_array_new_with_free_func(
        (GDestroyNotify)export_free);
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
    g_ptr_array_unref(tree->exports);
    g_free(tree);
}

bool tree_check_name(const char *name, GError **error)
{
    if (!*name || strchr(name, '/') || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0 || strlen(name) > NAME_BYTES_MAX) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "'%s' cannot be a file's name in the mount; give another "
                    "with --name or name=NAME,file=IMAGE", name);
        return false;
    }
    return true;
}

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
    g_ptr_array_add(tree->exports, g_steal_pointer(&owned));
    return true;
}

Export *tree_export(const Tree *tree, uint64_t inode)
{
    uint64_t first = tree->root_is_file ? FUSE_ROOT_ID : FUSE_ROOT_ID + 1;

    if (inode < first || inode - first >= tree->exports->len) {
        return NULL;
    }
    return g_ptr_array_index(tree->exports, inode - first);
}

bool tree_is_folder(const Tree *tree, uint64_t inode)
{
    return inode == FUSE_ROOT_ID && !tree->root_is_file;
}

uint64_t tree_inode(const Tree *tree, guint index)
{
    return index + (tree->root_is_file ? FUSE_ROOT_ID : FUSE_ROOT_ID + 1);
}

uint64_t tree_lookup(const Tree *tree, const char *name)
{
    for (guint i = 0; i < tree->exports->len; i++) {
        const Export *export = g_ptr_array_index(tree->exports, i);

        if (strcmp(export->name, name) == 0) {
            return tree_inode(tree, i);
        }
    }
    return 0;
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
