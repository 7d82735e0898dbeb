/* SPDX-License-Identifier: MIT */
/*
 * names and attributes
 *
 * Answers may live long in the kernel: names never change, and the kernel
 * itself drops size and block count when it writes. Reading a folder gives
 * "." and ".." and the exports in their order; the position is the index of
 * the next entry, so nothing is kept between two calls.
 *
 * Permissions are checked by the kernel (the mount has default_permissions)
 * against the mode given here: the owner's alone, unless the mount was opened
 * to others. A read-only image has no write bits.
 *
 * Locking: none; the tree is constant, the rest atomic (export.h).
 */
#include "fuse/dir_ops.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Seconds. What can change by writing is asked anew now and then. */
#define VALID_CONSTANT 86400
#define VALID_CHANGING 60

#define NS_PER_S 1000000000

uint64_t fuse_attr_valid(const FuseMountState *mount, uint64_t inode)
{
    const Export *export = tree_export(mount->tree, inode);

    return export && !export->read_only ? VALID_CHANGING : VALID_CONSTANT;
}

static uint32_t mode_of(const Tree *tree, const Export *export)
{
    uint32_t mode = S_IRUSR;

    if (!export) {
        mode |= S_IFDIR | S_IXUSR;
    } else {
        mode |= S_IFREG | (export->read_only ? 0 : S_IWUSR);
    }
    if (tree->others_may_read) {
        mode |= (mode & (S_IRUSR | S_IXUSR)) >> 3;
        mode |= (mode & (S_IRUSR | S_IXUSR)) >> 6;
    }
    return mode;
}

void coroutine_fn fuse_fill_attr(const FuseMountState *mount, uint64_t inode,
                                 struct fuse_attr *attr)
{
    const Tree *tree = mount->tree;
    Export *export = tree_export(tree, inode);
    int64_t time_ns = tree->made_ns;

    memset(attr, 0, sizeof(*attr));
    attr->ino = inode;
    attr->mode = mode_of(tree, export);
    attr->nlink = export ? 1 : 2;
    attr->uid = tree->uid;
    attr->gid = tree->gid;
    attr->blksize = 4096;
    if (export) {
        attr->size = (uint64_t)export_length(export);
        attr->blocks =
            (uint64_t)div_round_up(export_co_allocated(export), 512);
        attr->blksize = (uint32_t)export->cluster_bytes;
        time_ns = __atomic_load_n(&export->mtime_ns, __ATOMIC_RELAXED);
    }
    attr->mtime = attr->atime = attr->ctime = (uint64_t)(time_ns / NS_PER_S);
    attr->mtimensec = attr->atimensec = attr->ctimensec =
        (uint32_t)(time_ns % NS_PER_S);
}

/* Does @inode exist? */
static bool is_inode(const FuseMountState *mount, uint64_t inode)
{
    return inode == FUSE_ROOT_ID || tree_export(mount->tree, inode);
}

int coroutine_fn fuse_op_lookup(const FuseMountState *mount,
                                FuseRequest *request, const void *args)
{
    struct fuse_entry_out *out;
    uint64_t inode;

    if (!tree_is_folder(mount->tree, request->header.nodeid)) {
        return -ENOTDIR;
    }
    inode = tree_lookup(mount->tree, args);
    if (!inode) {
        return -ENOENT;
    }
    out = fuse_request_out(request, sizeof(*out));
    out->nodeid = inode;
    out->entry_valid = VALID_CONSTANT;
    out->attr_valid = fuse_attr_valid(mount, inode);
    fuse_fill_attr(mount, inode, &out->attr);
    return 0;
}

static void coroutine_fn reply_attr(const FuseMountState *mount,
                                    FuseRequest *request)
{
    struct fuse_attr_out *out = fuse_request_out(request, sizeof(*out));

    out->attr_valid = fuse_attr_valid(mount, request->header.nodeid);
    fuse_fill_attr(mount, request->header.nodeid, &out->attr);
}

int coroutine_fn fuse_op_getattr(const FuseMountState *mount,
                                 FuseRequest *request, const void *args)
{
    if (!is_inode(mount, request->header.nodeid)) {
        return -ENOENT;
    }
    reply_attr(mount, request);
    return 0;
}

static struct fuse_sx_time sx_time(int64_t time_ns)
{
    return (struct fuse_sx_time) {
        .tv_sec = time_ns / NS_PER_S,
        .tv_nsec = (uint32_t)(time_ns % NS_PER_S),
    };
}

int coroutine_fn fuse_op_statx(const FuseMountState *mount,
                               FuseRequest *request, const void *args)
{
    const Export *export = tree_export(mount->tree, request->header.nodeid);
    struct fuse_statx_out *out;
    struct fuse_attr attr;
    int64_t mtime_ns;

    if (!is_inode(mount, request->header.nodeid)) {
        return -ENOENT;
    }
    fuse_fill_attr(mount, request->header.nodeid, &attr);
    mtime_ns = (int64_t)attr.mtime * NS_PER_S + attr.mtimensec;

    out = fuse_request_out(request, sizeof(*out));
    out->attr_valid = fuse_attr_valid(mount, request->header.nodeid);
    out->stat.mask = STATX_BASIC_STATS | STATX_BTIME;
    out->stat.blksize = attr.blksize;
    out->stat.nlink = attr.nlink;
    out->stat.uid = attr.uid;
    out->stat.gid = attr.gid;
    out->stat.mode = (uint16_t)attr.mode;
    out->stat.ino = attr.ino;
    out->stat.size = attr.size;
    out->stat.blocks = attr.blocks;
    out->stat.mtime = out->stat.atime = out->stat.ctime = sx_time(mtime_ns);
    out->stat.btime = sx_time(export ? export->birth_ns
                                     : mount->tree->made_ns);
    return 0;
}

/* The time of last change that @in asks for. */
static void set_mtime(Export *export, const struct fuse_setattr_in *in)
{
    int64_t time_ns = (int64_t)in->mtime * NS_PER_S + in->mtimensec;

    if (in->valid & FATTR_MTIME_NOW) {
        time_ns = g_get_real_time() * 1000;
    }
    if (in->mtimensec < NS_PER_S && (int64_t)in->mtime >= 0 &&
        (int64_t)in->mtime < INT64_MAX / NS_PER_S) {
        __atomic_store_n(&export->mtime_ns, time_ns, __ATOMIC_RELAXED);
    }
}

int coroutine_fn fuse_op_setattr(const FuseMountState *mount,
                                 FuseRequest *request, const void *args)
{
    const struct fuse_setattr_in *in = args;
    Export *export = tree_export(mount->tree, request->header.nodeid);
    int result = 0;

    if (!is_inode(mount, request->header.nodeid)) {
        return -ENOENT;
    }
    if (in->valid & (FATTR_UID | FATTR_GID)) {
        return -EPERM;
    }
    if ((in->valid & FATTR_MODE) &&
        (in->mode & 07777) != (mode_of(mount->tree, export) & 07777)) {
        return -EPERM;
    }
    if (export && (in->valid & FATTR_SIZE)) {
        if (export->read_only) {
            return -EROFS;
        }
        if (in->size > (uint64_t)BDRV_MAX_LENGTH) {
            return -EFBIG;
        }
        /*
         * With the write-back cache open(O_TRUNC) comes as this, too, and is
         * to be ignored on an image of fixed size.
         */
        if (in->size || export->growable || !mount->writeback) {
            result = export_co_truncate(export, (int64_t)in->size);
        }
    }
    if (result < 0) {
        return result;
    }
    if (export && (in->valid & FATTR_MTIME)) {
        set_mtime(export, in);
    }
    reply_attr(mount, request);
    return 0;
}

int coroutine_fn fuse_op_access(const FuseMountState *mount,
                                FuseRequest *request, const void *args)
{
    const struct fuse_access_in *in = args;
    const Export *export = tree_export(mount->tree, request->header.nodeid);

    if (!is_inode(mount, request->header.nodeid)) {
        return -ENOENT;
    }
    if (export && (in->mask & X_OK)) {
        return -EACCES;
    }
    if (in->mask & W_OK) {
        return export && !export->read_only ? 0 : -EROFS;
    }
    return 0;
}

int coroutine_fn fuse_op_opendir(const FuseMountState *mount,
                                 FuseRequest *request, const void *args)
{
    struct fuse_open_out *out;

    if (!tree_is_folder(mount->tree, request->header.nodeid)) {
        return -ENOTDIR;
    }
    out = fuse_request_out(request, sizeof(*out));
    out->open_flags = FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE;
    return 0;
}

/* The entry at @position: ".", "..", exports; NULL behind the last. */
static const char *entry_at(const Tree *tree, uint64_t position,
                            uint64_t *ret_inode)
{
    if (position < 2) {
        *ret_inode = FUSE_ROOT_ID;
        return position == 0 ? "." : "..";
    }
    if (position - 2 >= tree->exports->len) {
        return NULL;
    }
    *ret_inode = tree_inode(tree, (guint)(position - 2));
    return tree_export(tree, *ret_inode)->name;
}

int coroutine_fn fuse_op_readdir(const FuseMountState *mount,
                                 FuseRequest *request, const void *args)
{
    const struct fuse_read_in *in = args;
    size_t room = MIN(in->size, request->payload_capacity);
    uint64_t inode;
    const char *name;

    if (!tree_is_folder(mount->tree, request->header.nodeid)) {
        return -ENOTDIR;
    }
    for (uint64_t at = in->offset;
         (name = entry_at(mount->tree, at, &inode)) != NULL; at++) {
        size_t bytes = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + strlen(name));
        struct fuse_dirent *entry;

        if (bytes > room - request->out_payload_bytes) {
            break;
        }
        entry = (struct fuse_dirent *)(request->payload +
                                       request->out_payload_bytes);
        memset(entry, 0, bytes);
        entry->ino = inode;
        entry->off = at + 1;
        entry->namelen = (uint32_t)strlen(name);
        entry->type = at < 2 ? S_IFDIR >> 12 : S_IFREG >> 12;
        memcpy(entry->name, name, entry->namelen);
        request->out_payload_bytes += bytes;
    }
    return 0;
}

int coroutine_fn fuse_op_statfs(const FuseMountState *mount,
                                FuseRequest *request, const void *args)
{
    const Tree *tree = mount->tree;
    const Export *export = tree_export(tree, request->header.nodeid);
    struct fuse_statfs_out *out = fuse_request_out(request, sizeof(*out));
    int64_t total = 0;

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
