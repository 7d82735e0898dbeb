/* SPDX-License-Identifier: MIT */
/*
 * telling the kernel that what it has cached is no longer true
 *
 * Each call is a message on the FUSE device (@fd). The kernel may take locks
 * and send requests before it returns, so the caller must not be one whom
 * those requests need: the main thread, never an I/O thread. What the kernel
 * does not know of is no error.
 */
#ifndef FUSE_NOTIFY_H
#define FUSE_NOTIFY_H

#include <stdint.h>

/* Size and other attributes of @inode are to be asked anew. */
void notify_attributes(int fd, uint64_t inode);

/*
 * notify_content:
 * Dirty pages of @inode are written (as WRITE requests, before the return),
 * then all its pages and attributes are forgotten.
 */
void notify_content(int fd, uint64_t inode);

/* @name in folder @parent is another file, or none. */
void notify_entry(int fd, uint64_t parent, const char *name);

#endif
