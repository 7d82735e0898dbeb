/* SPDX-License-Identifier: MIT */
/*
 * names and folders, and the mount as a whole
 *
 * Which names there are is tree_walk.c's affair. They live long in the
 * kernel: those of images never change, and of a snapshot that goes the
 * kernel is told. A listing is kept by the kernel only where nothing changes.
 * Its place is the tree's cookie behind "." and "..", so nothing is kept
 * between two calls.
 *
 * Locking: none; see tree.h.
 */
#include "fuse/dir_ops.h"

#include "fuse/attr_ops.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* Seconds that a name is believed. */
#define NAME_VALID 86400

void coroutine_fn fuse_reply_entry(const FuseMountState *mount,
                                   FuseRequest *request, uint64_t inode)
{
    struct fuse_entry_out *out = fuse_request_out(request, sizeof(*out));

    out->nodeid = inode;
    out->entry_valid = NAME_VALID;
    out->attr_valid = fuse_attr_valid(mount, inode);
    fuse_fill_attr(mount, inode, &out->attr);
}

/*
 * Names are believed for a day: those of images stay, and the kernel is told
 * when a snapshot's goes.
 */
int coroutine_fn fuse_op_lookup(const FuseMountState *mount,
                                FuseRequest *request, const void *args)
{
    uint64_t inode;

    if (!tree_is_folder(mount->tree, request->header.nodeid)) {
        return -ENOTDIR;
    }
    inode = tree_lookup_in(mount->tree, request->header.nodeid, args);
    if (!inode) {
        return -ENOENT;
    }
    fuse_reply_entry(mount, request, inode);
    return 0;
}

/* May names come or go in that folder? */
static bool changes(const Tree *tree, TreeKind kind)
{
    return kind == TREE_SNAPSHOTS ||
           (kind == TREE_ROOT && tree->show_snapshots);
}

/*
 * The kernel keeps a listing where nothing comes or goes: a find(1) over a
 * mount of many images costs one READDIR for each folder.
 */
int coroutine_fn fuse_op_opendir(const FuseMountState *mount,
                                 FuseRequest *request, const void *args)
{
    TreeKind kind = tree_node(mount->tree, request->header.nodeid).kind;
    struct fuse_open_out *out;

    if (!tree_kind_is_folder(kind)) {
        return -ENOTDIR;
    }
    out = fuse_request_out(request, sizeof(*out));
    if (!changes(mount->tree, kind)) {
        out->open_flags = FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE;
    }
    return 0;
}

/* Adds an entry to the reply; false: there is no room for it. */
static bool add_entry(FuseRequest *request, size_t room,
                      const TreeEntry *entry, uint64_t next)
{
    size_t length = strlen(entry->name);
    size_t bytes = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + length);
    struct fuse_dirent *out;

    if (bytes > room - request->out_payload_bytes) {
        return false;
    }
    out = (struct fuse_dirent *)(request->payload +
                                 request->out_payload_bytes);
    memset(out, 0, bytes);
    out->ino = entry->inode;
    out->off = next;
    out->namelen = (uint32_t)length;
    out->type = (entry->is_folder ? S_IFDIR : S_IFREG) >> 12;
    memcpy(out->name, entry->name, length);
    request->out_payload_bytes += bytes;
    return true;
}

/*
 * The cookie is the tree's own, so a listing goes on where it was even when
 * entries have gone in between.
 */
int coroutine_fn fuse_op_readdir(const FuseMountState *mount,
                                 FuseRequest *request, const void *args)
{
    /* A copy: the reply uses the buffer that arguments may be in. */
    struct fuse_read_in in = *(const struct fuse_read_in *)args;
    size_t room = MIN(in.size, request->payload_capacity);
    uint64_t folder = request->header.nodeid;
    uint64_t cookie = in.offset < 2 ? 0 : in.offset - 2;
    TreeEntry entry = { .inode = folder, .is_folder = true };

    if (!tree_is_folder(mount->tree, folder)) {
        return -ENOTDIR;
    }
    for (uint64_t dots = in.offset; dots < 2; dots++) {
        g_strlcpy(entry.name, dots == 0 ? "." : "..", sizeof(entry.name));
        if (!add_entry(request, room, &entry, dots + 1)) {
            return 0;
        }
    }
    while (tree_next(mount->tree, folder, &cookie, &entry) &&
           add_entry(request, room, &entry, cookie + 2)) {
    }
    return 0;
}

/* Of one image where a file is asked about, else of all. */
int coroutine_fn fuse_op_statfs(const FuseMountState *mount,
                                FuseRequest *request, const void *args)
{
    const Tree *tree = mount->tree;
    TreeNode node = tree_node(tree, request->header.nodeid);
    const Export *export = NULL;
    struct fuse_statfs_out *out = fuse_request_out(request, sizeof(*out));
    int64_t total = 0;

    if (node.kind != TREE_NOTHING && node.kind != TREE_ROOT) {
        export = g_ptr_array_index(tree->exports, node.image);
    }
    for (guint i = 0; i < tree->exports->len; i++) {
        const Export *other = g_ptr_array_index(tree->exports, i);

        if (!export) {
            export = other;
        }
        total += export_length(other);
    }
    /* A loop device takes f_bsize for the granularity of discards. */
    out->st.bsize = export ? (uint32_t)export->cluster_bytes : 4096;
    out->st.frsize = out->st.bsize;
    out->st.blocks = (uint64_t)div_round_up(total, out->st.bsize);
    out->st.files = tree->exports->len + !tree->root_is_file;
    out->st.namelen = 255;
    return 0;
}

/* All images are flushed, also when one fails: the others' data is as dear. */
int coroutine_fn fuse_op_syncfs(const FuseMountState *mount,
                                FuseRequest *request, const void *args)
{
    int first_error = 0;

    for (guint i = 0; i < mount->tree->exports->len; i++) {
        Export *export = g_ptr_array_index(mount->tree->exports, i);
        int result = export->read_only ? 0 : blk_co_flush(export->blk);

        if (result < 0 && first_error == 0) {
            first_error = result;
        }
    }
    return first_error;
}
