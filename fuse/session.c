/* SPDX-License-Identifier: MIT */
/*
 * negotiation with the kernel
 *
 * We ask for what makes an image file fast and true, and leave out what costs:
 * no AUTO_INVAL_DATA (an attribute request for each cached read; nobody else
 * writes the image), no kernel-visible locks, no READDIRPLUS. Bits that the
 * kernel has not offered are never answered.
 *
 * Locking: none; one thread, before there are others.
 */
#include "fuse/session.h"

#include "fuse/log.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

/*
 * Asynchronous direct I/O travels as "background" requests. The kernel's own
 * limit of 12 would be the whole queue depth of a virtual machine.
 */
#define MAX_BACKGROUND 1024
#define CONGESTION_THRESHOLD 768

static const struct WantedFlag {
    uint64_t bit;
    const char *why;
} wanted_flags[] = {
    { FUSE_ASYNC_READ, "read-ahead without waiting" },
    { FUSE_ATOMIC_O_TRUNC, "truncation comes with the open" },
    { FUSE_BIG_WRITES, "writes of more than a page" },
    { FUSE_PARALLEL_DIROPS, "look-ups side by side" },
    { FUSE_ASYNC_DIO, "direct I/O with a queue" },
    { FUSE_ABORT_ERROR, "tell an abort from an unmount" },
    { FUSE_MAX_PAGES, "requests of 1 MiB" },
    { FUSE_EXPLICIT_INVAL_DATA, "a new size keeps the cached pages" },
    { FUSE_HANDLE_KILLPRIV_V2, "no xattr request for each write" },
    { FUSE_INIT_EXT, "flags beyond 32 bits" },
    { FUSE_DIRECT_IO_ALLOW_MMAP, "shared mappings beside direct I/O" },
    { FUSE_NO_EXPORT_SUPPORT, "no NFS file handles" },
};

/* Only what the kernel offers, and of that only what we can keep. */
static uint64_t choose_flags(const SessionWish *wish, uint64_t offered)
{
    uint64_t flags = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(wanted_flags); i++) {
        flags |= wanted_flags[i].bit & offered;
    }
    if (wish->writeback) {
        flags |= FUSE_WRITEBACK_CACHE & offered;
        /* Here the kernel would set size 0 itself and never ask again. */
        flags &= ~(uint64_t)FUSE_ATOMIC_O_TRUNC;
    }
    return flags;
}

int session_negotiate(const SessionWish *wish, const struct fuse_init_in *in,
                      size_t in_bytes, struct fuse_init_out *out,
                      SessionTerms *ret_terms)
{
    /* Up to 7.35 the message ended after the first flags. */
    const size_t short_bytes = offsetof(struct fuse_init_in, flags2);
    uint64_t flags;

    memset(out, 0, sizeof(*out));
    out->major = FUSE_KERNEL_VERSION;
    if (in_bytes < short_bytes || in->major < FUSE_KERNEL_VERSION) {
        return -EPROTO;
    }
    if (in->major > FUSE_KERNEL_VERSION) {
        return 0; /* the kernel asks again, in our version */
    }
    if (in->minor < SESSION_MINOR_MIN) {
        return -EPROTO;
    }
    flags = in->flags;
    if ((flags & FUSE_INIT_EXT) && in_bytes >= sizeof(*in)) {
        flags |= (uint64_t)in->flags2 << 32;
    } else {
        flags &= ~(uint64_t)FUSE_INIT_EXT;
    }
    flags = choose_flags(wish, flags);

    out->minor = MIN(in->minor, (uint32_t)FUSE_KERNEL_MINOR_VERSION);
    out->max_readahead = in->max_readahead;
    out->flags = (uint32_t)flags;
    out->flags2 = (uint32_t)(flags >> 32);
    out->max_background = MAX_BACKGROUND;
    out->congestion_threshold = CONGESTION_THRESHOLD;
    out->max_write = SESSION_MAX_BYTES;
    out->time_gran = 1;
    out->max_pages = SESSION_MAX_PAGES;

    ret_terms->minor = in->minor;
    ret_terms->flags = flags;
    ret_terms->max_bytes = SESSION_MAX_BYTES;
    return 0;
}

static bool reply(int fd, uint64_t unique, int result,
                  const struct fuse_init_out *out, GError **error)
{
    struct fuse_out_header header = {
        .len = sizeof(header) + (result < 0 ? 0 : sizeof(*out)),
        .error = result,
        .unique = unique,
    };
    struct iovec iov[2] = {
        { &header, sizeof(header) },
        { (void *)out, sizeof(*out) },
    };

    if (writev(fd, iov, result < 0 ? 1 : 2) < 0) {
        error_set_errno(error, errno, "cannot answer the kernel's INIT");
        return false;
    }
    return true;
}

bool session_handshake(const SessionWish *wish, int fd,
                       SessionTerms *ret_terms, GError **error)
{
    union {
        struct fuse_in_header header;
        uint8_t bytes[FUSE_MIN_READ_BUFFER];
    } buffer;
    const struct fuse_init_in *in =
        (const struct fuse_init_in *)(buffer.bytes + sizeof(buffer.header));
    struct fuse_init_out out;
    ssize_t n;
    int result;

    for (;;) {
        do {
            n = read(fd, &buffer, sizeof(buffer));
        } while (n < 0 && (errno == EINTR || errno == ENOENT));
        if (n < 0) {
            error_set_errno(error, errno, "no word from the kernel's FUSE");
            return false;
        }
        if ((size_t)n < sizeof(buffer.header) ||
            buffer.header.opcode != FUSE_INIT) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                        "the kernel's FUSE does not begin with INIT");
            return false;
        }
        result = session_negotiate(wish, in, (size_t)n -
                                   sizeof(buffer.header), &out, ret_terms);
        if (!reply(fd, buffer.header.unique, result, &out, error)) {
            return false;
        }
        if (result < 0) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                        "the kernel speaks FUSE %u.%u, at least 7.%d is "
                        "needed", in->major, in->minor, SESSION_MINOR_MIN);
            return false;
        }
        if (in->major == FUSE_KERNEL_VERSION) {
            log_info("FUSE 7.%u, flags 0x%" PRIx64, ret_terms->minor,
                     ret_terms->flags);
            return true;
        }
    }
}
