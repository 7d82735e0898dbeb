/* SPDX-License-Identifier: MIT */
/*
 * messages from us to the kernel, outside of any request
 *
 * A notification is a reply with unique 0 whose error field is its kind. An
 * error is at most worth a line with -v: then the kernel believes what it has
 * cached a little longer.
 *
 * Locking: none; a message is one system call.
 */
#include "fuse/notify.h"

#include "fuse/log.h"
#include "fuse/wire.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

static void send(int fd, int kind, const void *body, size_t body_bytes,
                 const char *name)
{
    size_t name_bytes = name ? strlen(name) + 1 : 0;
    struct fuse_out_header header = {
        .len = (uint32_t)(sizeof(header) + body_bytes + name_bytes),
        .error = kind,
    };
    struct iovec iov[3] = {
        { &header, sizeof(header) },
        { (void *)body, body_bytes },
        { (void *)name, name_bytes },
    };

    /* ENOENT: the kernel has never asked for it. */
    if (writev(fd, iov, name ? 3 : 2) < 0 && errno != ENOENT &&
        errno != ENOTDIR) {
        log_info("notification %d: %s", kind, g_strerror(errno));
    }
}

void notify_attributes(int fd, uint64_t inode)
{
    /* A negative offset leaves the pages alone. */
    struct fuse_notify_inval_inode_out body = { .ino = inode, .off = -1 };

    send(fd, FUSE_NOTIFY_INVAL_INODE, &body, sizeof(body), /* name= */ NULL);
}

void notify_content(int fd, uint64_t inode)
{
    /* No length: to the end. */
    struct fuse_notify_inval_inode_out body = { .ino = inode };

    send(fd, FUSE_NOTIFY_INVAL_INODE, &body, sizeof(body), /* name= */ NULL);
}

void notify_entry(int fd, uint64_t parent, const char *name)
{
    struct fuse_notify_inval_entry_out body = {
        .parent = parent,
        .namelen = (uint32_t)strlen(name),
    };

    send(fd, FUSE_NOTIFY_INVAL_ENTRY, &body, sizeof(body), name);
}
