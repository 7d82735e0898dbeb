/* SPDX-License-Identifier: MIT */
/*
 * the first word between the kernel and us: INIT
 *
 * The kernel says what it can do, we say what we want of it, before anything
 * else is asked. Everything before that waits in the kernel, so the
 * conversation is had by the main thread alone, blocking.
 */
#ifndef FUSE_SESSION_H
#define FUSE_SESSION_H

#include "block/error.h"

#include "fuse/wire.h"

#include <stdbool.h>
#include <stddef.h>

/* The largest READ and WRITE: as many pages as the kernel's default limit. */
#define SESSION_MAX_PAGES 256
#define SESSION_MAX_BYTES ((size_t)SESSION_MAX_PAGES * 4096)

/* A new enough protocol for all that we rely on (Linux 5.4). */
#define SESSION_MINOR_MIN 31

typedef struct SessionWish {
    bool writeback; /* the kernel's write-back cache */
} SessionWish;

/* What was agreed. */
typedef struct SessionTerms {
    uint32_t minor;
    uint64_t flags;
    size_t max_bytes; /* of one READ or WRITE */
} SessionTerms;

/*
 * session_negotiate:
 * The reply to an INIT request of @in_bytes bytes after the header. 0, or
 * -errno for the reply's header: -EPROTO when the kernel is too old or the
 * message too short. @out with major 7 alone asks the kernel for another INIT.
 */
int session_negotiate(const SessionWish *wish, const struct fuse_init_in *in,
                      size_t in_bytes, struct fuse_init_out *out,
                      SessionTerms *ret_terms);

/*
 * session_handshake:
 * Reads INIT from @fd (a blocking /dev/fuse of a fresh mount), answers it.
 * UNSUPPORTED when the kernel is too old. Control plane; blocks.
 */
bool session_handshake(const SessionWish *wish, int fd,
                       SessionTerms *ret_terms, GError **error);

#endif
