/* SPDX-License-Identifier: MIT */
/*
 * FuseRequest, and the way from it to the function that answers it
 *
 * A transport takes a request off the kernel into a FuseRequest, makes a
 * coroutine and calls fuse_dispatch() in it. That checks the message, calls the
 * operation, and leaves in the request what to reply; the transport sends it.
 * Operations know no transport.
 *
 * Memory: @head has the header and all arguments in one piece; @payload is page
 * aligned and holds the data of a WRITE, or takes the data of a reply: so
 * image data is never copied between buffers here.
 */
#ifndef FUSE_DISPATCH_H
#define FUSE_DISPATCH_H

#include "fuse/control.h"
#include "fuse/tree.h"
#include "fuse/wire.h"

/* Header and arguments of any request we know (RENAME2 has two names). */
#define FUSE_REQUEST_HEAD_BYTES 640
/* The largest fixed-size reply (statx). */
#define FUSE_REQUEST_OUT_BYTES 288

typedef struct FuseRequest {
    /* What came. */
    union {
        struct fuse_in_header header;
        uint8_t head[FUSE_REQUEST_HEAD_BYTES];
    } __attribute__((aligned(8)));
    size_t bytes;     /* of the whole message, as the transport received it */
    uint8_t *payload; /* what came after byte 80, and room for a reply */
    size_t payload_capacity;

    /* What to answer, beside the error. */
    bool no_reply;       /* FORGET and the like */
    size_t out_bytes;    /* of @out */
    size_t out_payload_bytes; /* of @payload, sent after @out */
    uint8_t out[FUSE_REQUEST_OUT_BYTES] __attribute__((aligned(8)));
} FuseRequest;

/* What is the same for all requests of a mount; constant while it lasts. */
typedef struct FuseMountState {
    Tree *tree;
    bool writeback; /* the kernel keeps size and times */
    Control *control;     /* the main thread's ear */
    Documents *documents; /* those that are open */
    int notify_fd;        /* where the kernel hears of changes */
} FuseMountState;

/*
 * One operation. @args: the bytes after the header, at least as many as the
 * table in dispatch.c asks for. 0 or -errno. Coroutine, any I/O thread.
 */
typedef int FuseOperation(const FuseMountState *mount, FuseRequest *request,
                          const void *args);

/*
 * fuse_dispatch:
 * Answers @request: 0 or -errno for the reply's header; on an error nothing
 * of out and payload is to be sent. The first min(bytes, 80) bytes of the
 * message are in @head, the rest is in @payload (fuse_dispatch moves it over
 * where it belongs to the arguments). -EINVAL: malformed, -ENOSYS: unknown.
 */
int coroutine_fn fuse_dispatch(const FuseMountState *mount,
                               FuseRequest *request);

/* For operations: @bytes zeroed bytes as the reply's fixed part. */
void *fuse_request_out(FuseRequest *request, size_t bytes);

/* The name of an opcode, for the log; "?" when unknown. */
const char *fuse_opcode_name(uint32_t opcode);

#endif
