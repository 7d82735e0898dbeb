/* SPDX-License-Identifier: MIT */
/*
 * attributes
 *
 * Answers may live long in the kernel: it drops size and block count itself
 * when it writes, and is told when they change by other ways (notify.h).
 *
 * Permissions are checked by the kernel (the mount has default_permissions)
 * against the mode given here: the owner's alone, unless the mount was opened
 * to others, or as the user has said. What cannot be written has no write
 * bits, whatever was said.
 *
 * Locking: none; the tree is constant but for snapshots, of which copies are
 * taken, the rest atomic (export.h).
 */
#include "fuse/attr_ops.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Seconds. What can change by writing is asked anew now and then. */
#define VALID_CONSTANT 86400
#define VALID_CHANGING 60

#define NS_PER_S 1000000000

/* Whose content does not change as long as it is there. */
static bool is_constant(const Tree *tree, const TreeNode *node)
{
    const Export *export;

    switch (node->kind) {
    case TREE_IMAGE:
    case TREE_LAYER:
        /* The lowest layers are read-only, but jobs may write them. */
        export = g_ptr_array_index(tree->exports, node->image);
        return export->read_only;
    case TREE_SNAPSHOTS:
    case TREE_DOCUMENT:
        return false;
    default:
        return true;
    }
}

/* The kernel is told of changes that others make, so a minute is no risk. */
uint64_t fuse_attr_valid(const FuseMountState *mount, uint64_t inode)
{
    TreeNode node = tree_node(mount->tree, inode);

    return is_constant(mount->tree, &node) ? VALID_CONSTANT : VALID_CHANGING;
}

/* May the owner write what is there? Snapshots are made in their folder. */
static bool is_writable(const Tree *tree, const TreeNode *node)
{
    const Export *export;

    if (node->kind != TREE_IMAGE && node->kind != TREE_SNAPSHOTS &&
        node->kind != TREE_GOTO) {
        return false;
    }
    export = g_ptr_array_index(tree->exports, node->image);
    return !export->read_only;
}

/* The user's bits, less what the kind of file cannot do. */
static uint32_t mode_of(const Tree *tree, const TreeNode *node)
{
    bool is_folder = tree_kind_is_folder(node->kind);
    bool writable = is_writable(tree, node);
    uint32_t mode = S_IRUSR | (is_folder ? S_IXUSR : 0) |
                    (writable ? S_IWUSR : 0);

    if (tree->file_mode >= 0) {
        mode = (uint32_t)tree->file_mode & 0666;
        mode &= writable ? 0666 : 0444;
        /* Who may read a folder may enter it. */
        mode |= is_folder ? (mode & 0444) >> 2 : 0;
    } else if (node->kind == TREE_GOTO) {
        mode = S_IWUSR; /* nothing is to be read there, for nobody */
    } else if (tree->others_may_read) {
        mode |= (mode & (S_IRUSR | S_IXUSR)) >> 3;
        mode |= (mode & (S_IRUSR | S_IXUSR)) >> 6;
    }
    return mode | (is_folder ? S_IFDIR : S_IFREG);
}

/* Content that a backend serves: length, blocks, time. */
static void coroutine_fn fill_file(Export *export, struct fuse_attr *attr,
                                   int64_t *ret_time_ns)
{
    attr->size = (uint64_t)export_length(export);
    attr->blocks = (uint64_t)div_round_up(export_co_allocated(export), 512);
    attr->blksize = (uint32_t)export->cluster_bytes;
    *ret_time_ns = __atomic_load_n(&export->mtime_ns, __ATOMIC_RELAXED);
}

/*
 * A snapshot need not be open to be looked at. How much of the image is its
 * own nobody knows; it is not more than the image, so sparse copies look for
 * holes.
 */
static void coroutine_fn fill_snapshot(const Tree *tree, const TreeNode *node,
                                       struct fuse_attr *attr,
                                       int64_t *ret_time_ns)
{
    SnapshotFiles *files = tree_extras(tree, node->image)->snapshots;
    Export *image = g_ptr_array_index(tree->exports, node->image);
    SnapshotFileInfo info;

    if (!snapshot_files_by_key(files, node->item, &info)) {
        return; /* removed a moment ago */
    }
    *ret_time_ns = info.time_ns;
    if (node->kind == TREE_SNAPSHOT_FILE) {
        int64_t used = MIN(export_co_allocated(image), info.length);

        attr->size = (uint64_t)info.length;
        attr->blocks = (uint64_t)div_round_up(used, 512);
        attr->blksize = (uint32_t)image->cluster_bytes;
    }
}

static void coroutine_fn fill_by_kind(const Tree *tree, const TreeNode *node,
                                      struct fuse_attr *attr,
                                      int64_t *ret_time_ns)
{
    const TreeExtras *extras;

    switch (node->kind) {
    case TREE_IMAGE:
        fill_file(g_ptr_array_index(tree->exports, node->image), attr,
                  ret_time_ns);
        break;
    case TREE_LAYER:
        extras = tree_extras(tree, node->image);
        fill_file(g_ptr_array_index(extras->layers, node->item), attr,
                  ret_time_ns);
        break;
    case TREE_SNAPSHOT:
    case TREE_SNAPSHOT_FILE:
        fill_snapshot(tree, node, attr, ret_time_ns);
        break;
    case TREE_SNAPSHOTS:
        extras = tree_extras(tree, node->image);
        *ret_time_ns = snapshot_files_changed_ns(extras->snapshots);
        break;
    default:
        break; /* documents: length 0, as in /proc; a read tells */
    }
}

void coroutine_fn fuse_fill_attr(const FuseMountState *mount, uint64_t inode,
                                 struct fuse_attr *attr)
{
    const Tree *tree = mount->tree;
    TreeNode node = tree_node(tree, inode);
    int64_t time_ns = tree->made_ns;

    memset(attr, 0, sizeof(*attr));
    attr->ino = inode;
    attr->mode = mode_of(tree, &node);
    attr->nlink = tree_kind_is_folder(node.kind) ? 2 : 1;
    attr->uid = tree->uid;
    attr->gid = tree->gid;
    attr->blksize = 4096;
    fill_by_kind(tree, &node, attr, &time_ns);
    attr->mtime = attr->atime = attr->ctime = (uint64_t)(time_ns / NS_PER_S);
    attr->mtimensec = attr->atimensec = attr->ctimensec =
        (uint32_t)(time_ns % NS_PER_S);
}

/* Does @inode exist? */
static bool is_inode(const FuseMountState *mount, uint64_t inode)
{
    return tree_node(mount->tree, inode).kind != TREE_NOTHING;
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

/*
 * Times may be set, as by touch(1) and rsync(1); owner and mode are options of
 * the mount.
 */
int coroutine_fn fuse_op_setattr(const FuseMountState *mount,
                                 FuseRequest *request, const void *args)
{
    const struct fuse_setattr_in *in = args;
    TreeNode node = tree_node(mount->tree, request->header.nodeid);
    Export *export = tree_export(mount->tree, request->header.nodeid);
    int result = 0;

    if (!is_inode(mount, request->header.nodeid)) {
        return -ENOENT;
    }
    if (in->valid & (FATTR_UID | FATTR_GID)) {
        return -EPERM;
    }
    if ((in->valid & FATTR_MODE) &&
        (in->mode & 07777) != (mode_of(mount->tree, &node) & 07777)) {
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
    TreeNode node = tree_node(mount->tree, request->header.nodeid);

    if (node.kind == TREE_NOTHING) {
        return -ENOENT;
    }
    if (!tree_kind_is_folder(node.kind) && (in->mask & X_OK)) {
        return -EACCES;
    }
    return (in->mask & W_OK) && !is_writable(mount->tree, &node) ? -EROFS
                                                                 : 0;
}
