/* SPDX-License-Identifier: MIT */
/*
 * making, removing, opening and going back to snapshots; opening and reading
 * documents
 *
 * All but reading is the main thread's work: the request's coroutine hands it
 * over (control.h) and sleeps. Before a snapshot is made the kernel is told to
 * forget the image's pages, which makes it write the dirty ones first: so what
 * a write(2) or a shared mapping has put there is in the snapshot, whether or
 * not it had reached us. After one has gone its names are taken back.
 *
 * A file is counted as open until the kernel's RELEASE. That follows a
 * close(2) at once, but another thread may take it, so a removal waits a
 * moment before it says that the snapshot is busy. Likewise before an image
 * goes back to one: its file must be open nowhere, for a file system in it
 * would not survive that its blocks change.
 *
 * Locking: none here.
 */
#include "fuse/snapshot_ops.h"

#include "block/rt/timer.h"

#include "fuse/dir_ops.h"
#include "fuse/log.h"
#include "fuse/notify.h"

#include <errno.h>
#include <string.h>

/* A RELEASE that is on its way: looks for it, and the time between two. */
#define RELEASE_TRIES 20
#define RELEASE_PAUSE_NS ((int64_t)10000000)

/* What the main thread is to do. */
typedef struct Task {
    const FuseMountState *mount;
    TreeNode node;
    const char *name;
    uint64_t key;
    GBytes *text; /* of a document */
} Task;

static SnapshotFiles *files_of(const FuseMountState *mount,
                               const TreeNode *node)
{
    return tree_extras(mount->tree, node->image)->snapshots;
}

static Export *image_of(const FuseMountState *mount, const TreeNode *node)
{
    return g_ptr_array_index(mount->tree->exports, node->image);
}

/* ---- making and removing ---- */

/*
 * What writers have in the kernel's cache was acknowledged to them, so it
 * belongs to the snapshot.
 */
static int run_create(void *opaque)
{
    const Task *task = opaque;
    const FuseMountState *mount = task->mount;

    if (!image_of(mount, &task->node)->read_only) {
        notify_content(mount->notify_fd,
                       tree_inode(mount->tree, task->node.image));
    }
    return snapshot_files_create(files_of(mount, &task->node), task->name);
}

/* The kernel believes names for long: it must hear that this one has gone. */
static int run_remove(void *opaque)
{
    const Task *task = opaque;
    const FuseMountState *mount = task->mount;
    int result = snapshot_files_remove(files_of(mount, &task->node),
                                       task->key);

    if (result == 0 && mount->tree->show_snapshots) {
        g_autofree char *name =
            g_strdup_printf("%s@%s", image_of(mount, &task->node)->name,
                            task->name);

        notify_entry(mount->notify_fd, FUSE_ROOT_ID, name);
    }
    return result;
}

/*
 * The reply is made here and not on the main thread, which never waits for the
 * kernel.
 */
int coroutine_fn fuse_op_mkdir(const FuseMountState *mount,
                               FuseRequest *request, const void *args)
{
    Task task = {
        .mount = mount,
        .node = tree_node(mount->tree, request->header.nodeid),
        .name = (const char *)args + sizeof(struct fuse_mkdir_in),
    };
    SnapshotFileInfo info;
    TreeNode made;
    int result;

    if (task.node.kind != TREE_SNAPSHOTS) {
        return -EPERM;
    }
    result = control_co_run(mount->control, run_create, &task);
    if (result < 0) {
        return result;
    }
    if (!snapshot_files_by_name(files_of(mount, &task.node), task.name,
                                &info)) {
        return -ENOENT; /* somebody has removed it already */
    }
    made = (TreeNode) { TREE_SNAPSHOT, task.node.image, info.key };
    fuse_reply_entry(mount, request, tree_node_inode(mount->tree, &made));
    return 0;
}

/* Waits for a RELEASE that is on its way: close(2) returns before it. */
int coroutine_fn fuse_op_rmdir(const FuseMountState *mount,
                               FuseRequest *request, const void *args)
{
    Task task = {
        .mount = mount,
        .node = tree_node(mount->tree, request->header.nodeid),
        .name = args,
    };
    SnapshotFileInfo info;

    if (task.node.kind != TREE_SNAPSHOTS) {
        return -EPERM;
    }
    if (!snapshot_files_by_name(files_of(mount, &task.node), task.name,
                                &info)) {
        return -ENOENT;
    }
    task.key = info.key;
    for (int i = 0; i < RELEASE_TRIES &&
                    snapshot_files_is_open(files_of(mount, &task.node),
                                           task.key); i++) {
        co_sleep_ns(RELEASE_PAUSE_NS);
    }
    return control_co_run(mount->control, run_remove, &task);
}

/* ---- going back to one ---- */

/*
 * What the kernel has in its pages is of the old state: dirty ones are
 * written before they could end up in the new one, and whatever somebody read
 * meanwhile is forgotten behind it.
 */
static int run_goto(void *opaque)
{
    const Task *task = opaque;
    const FuseMountState *mount = task->mount;
    uint64_t inode = tree_inode(mount->tree, task->node.image);
    int result;

    notify_content(mount->notify_fd, inode);
    result = snapshot_files_goto(files_of(mount, &task->node), task->name);
    if (result == 0) {
        export_touch(image_of(mount, &task->node));
        notify_content(mount->notify_fd, inode);
    }
    return result;
}

/* One write(2) is one name: echo and printf do it so. */
int coroutine_fn fuse_goto_write(const FuseMountState *mount,
                                 FuseRequest *request,
                                 const struct fuse_write_in *in)
{
    TreeNode node = tree_node(mount->tree, request->header.nodeid);
    uint32_t size = in->size; /* the reply uses the arguments' buffer */
    const Export *image = image_of(mount, &node);
    g_autofree char *name = NULL;
    struct fuse_write_out *out;
    Task task = { .mount = mount, .node = node };
    int result;

    if (request->bytes != FUSE_WIRE_HEAD_BYTES + size ||
        size > SNAPSHOT_NAME_BYTES_MAX + 1) {
        return -EINVAL;
    }
    name = g_strndup((const char *)request->payload, size);
    name[strcspn(name, "\n")] = '\0'; /* echo's */
    task.name = name;
    for (int i = 0; i < RELEASE_TRIES &&
                    __atomic_load_n(&image->users, __ATOMIC_SEQ_CST); i++) {
        co_sleep_ns(RELEASE_PAUSE_NS);
    }
    result = control_co_run(mount->control, run_goto, &task);
    if (result == 0) {
        out = fuse_request_out(request, sizeof(*out));
        out->size = size;
    }
    return result;
}

/* ---- opening a snapshot ---- */

static int run_open(void *opaque)
{
    const Task *task = opaque;

    return snapshot_files_open(files_of(task->mount, &task->node),
                               task->node.item);
}

int coroutine_fn fuse_snapshot_open(const FuseMountState *mount,
                                    const TreeNode *node)
{
    Task task = { .mount = mount, .node = *node };

    return control_co_run(mount->control, run_open, &task);
}

void fuse_snapshot_release(const FuseMountState *mount, const TreeNode *node)
{
    snapshot_files_release(files_of(mount, node), node->item);
}

/* ---- documents ---- */

/* The log says why; the reader only gets an errno. */
static int run_write(void *opaque)
{
    Task *task = opaque;
    g_autoptr(GError) error = NULL;

    task->text = document_write(image_of(task->mount, &task->node),
                                (DocumentKind)task->node.item, &error);
    if (!task->text) {
        log_error("%s: %s", document_name((DocumentKind)task->node.item),
                  error->message);
        return -EIO;
    }
    return 0;
}

/*
 * The text is made once for each open: a reader sees one moment, however
 * slowly it reads.
 */
int coroutine_fn fuse_document_open(const FuseMountState *mount,
                                    const TreeNode *node,
                                    uint64_t *ret_handle)
{
    Task task = { .mount = mount, .node = *node };
    int result = control_co_run(mount->control, run_write, &task);

    if (result == 0) {
        *ret_handle = documents_open(mount->documents, task.text);
    }
    return result;
}

/* stat(2) says length 0, so programs read until there is nothing more. */
int fuse_document_read(const FuseMountState *mount, FuseRequest *request,
                       const struct fuse_read_in *in)
{
    GBytes *text = documents_get(mount->documents, in->fh);
    gsize length;
    const uint8_t *data;

    if (!text) {
        return -EBADF;
    }
    data = g_bytes_get_data(text, &length);
    if (in->offset < length) {
        size_t bytes = MIN(in->size, length - in->offset);

        bytes = MIN(bytes, request->payload_capacity);
        memcpy(request->payload, data + in->offset, bytes);
        request->out_payload_bytes = bytes;
    }
    g_bytes_unref(text);
    return 0;
}
