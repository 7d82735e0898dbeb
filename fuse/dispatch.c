/* SPDX-License-Identifier: MIT */
/*
 * from opcode to operation
 *
 * One flat table says, for each opcode, who answers and how many bytes of
 * arguments there must be; all that is common to requests is checked here, so
 * that operations may look at their arguments at once. The kernel is a
 * friend, but a message that contradicts itself is answered with EINVAL
 * rather than trusted.
 *
 * Locking: none; a request belongs to one coroutine.
 */
#include "fuse/dispatch.h"

#include "fuse/attr_ops.h"
#include "fuse/dir_ops.h"
#include "fuse/file_ops.h"
#include "fuse/log.h"
#include "fuse/snapshot_ops.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* The kernel wants no answer, and nothing is kept that it could change. */
static int coroutine_fn op_no_reply(const FuseMountState *mount,
                                    FuseRequest *request, const void *args)
{
    request->no_reply = true;
    return 0;
}

/* Fine, and nothing to do: handles are empty. */
static int coroutine_fn op_ok(const FuseMountState *mount,
                              FuseRequest *request, const void *args)
{
    return 0;
}

/* Names cannot be made, changed or removed. */
static int coroutine_fn op_names_fixed(const FuseMountState *mount,
                                       FuseRequest *request, const void *args)
{
    return -EPERM;
}

static int coroutine_fn op_ioctl(const FuseMountState *mount,
                                 FuseRequest *request, const void *args)
{
    return -ENOTTY;
}

static const struct Operation {
    const char *name;
    FuseOperation *run; /* NULL: answered with ENOSYS */
    size_t args_bytes;  /* at least */
} operations[FUSE_WIRE_OPCODES] = {
    [FUSE_LOOKUP] = { "LOOKUP", fuse_op_lookup, 1 },
    [FUSE_FORGET] = { "FORGET", op_no_reply, 0 },
    [FUSE_GETATTR] = { "GETATTR", fuse_op_getattr, 0 },
    [FUSE_SETATTR] = { "SETATTR", fuse_op_setattr,
                       sizeof(struct fuse_setattr_in) },
    [FUSE_SYMLINK] = { "SYMLINK", op_names_fixed, 0 },
    [FUSE_MKNOD] = { "MKNOD", op_names_fixed, 0 },
    [FUSE_MKDIR] = { "MKDIR", fuse_op_mkdir,
                     sizeof(struct fuse_mkdir_in) + 1 },
    [FUSE_UNLINK] = { "UNLINK", op_names_fixed, 0 },
    [FUSE_RMDIR] = { "RMDIR", fuse_op_rmdir, 1 },
    [FUSE_RENAME] = { "RENAME", op_names_fixed, 0 },
    [FUSE_LINK] = { "LINK", op_names_fixed, 0 },
    [FUSE_OPEN] = { "OPEN", fuse_op_open, sizeof(struct fuse_open_in) },
    [FUSE_READ] = { "READ", fuse_op_read, sizeof(struct fuse_read_in) },
    [FUSE_WRITE] = { "WRITE", fuse_op_write, sizeof(struct fuse_write_in) },
    [FUSE_STATFS] = { "STATFS", fuse_op_statfs, 0 },
    [FUSE_RELEASE] = { "RELEASE", fuse_op_release,
                       sizeof(struct fuse_release_in) },
    [FUSE_FSYNC] = { "FSYNC", fuse_op_fsync, 0 },
    [FUSE_SETXATTR] = { "SETXATTR", NULL, 0 },
    [FUSE_GETXATTR] = { "GETXATTR", NULL, 0 },
    [FUSE_LISTXATTR] = { "LISTXATTR", NULL, 0 },
    [FUSE_REMOVEXATTR] = { "REMOVEXATTR", NULL, 0 },
    [FUSE_FLUSH] = { "FLUSH", fuse_op_flush, 0 },
    [FUSE_OPENDIR] = { "OPENDIR", fuse_op_opendir, 0 },
    [FUSE_READDIR] = { "READDIR", fuse_op_readdir,
                       sizeof(struct fuse_read_in) },
    [FUSE_RELEASEDIR] = { "RELEASEDIR", op_ok, 0 },
    [FUSE_FSYNCDIR] = { "FSYNCDIR", fuse_op_syncfs, 0 },
    [FUSE_ACCESS] = { "ACCESS", fuse_op_access,
                      sizeof(struct fuse_access_in) },
    [FUSE_CREATE] = { "CREATE", op_names_fixed, 0 },
    [FUSE_INTERRUPT] = { "INTERRUPT", op_no_reply, 0 },
    [FUSE_DESTROY] = { "DESTROY", fuse_op_syncfs, 0 },
    [FUSE_IOCTL] = { "IOCTL", op_ioctl, 0 },
    [FUSE_NOTIFY_REPLY] = { "NOTIFY_REPLY", op_no_reply, 0 },
    [FUSE_BATCH_FORGET] = { "BATCH_FORGET", op_no_reply, 0 },
    [FUSE_FALLOCATE] = { "FALLOCATE", fuse_op_fallocate,
                         sizeof(struct fuse_fallocate_in) },
    [FUSE_RENAME2] = { "RENAME2", op_names_fixed, 0 },
    [FUSE_LSEEK] = { "LSEEK", fuse_op_lseek, sizeof(struct fuse_lseek_in) },
    [FUSE_COPY_FILE_RANGE] = { "COPY_FILE_RANGE", fuse_op_copy_file_range,
                               sizeof(struct fuse_copy_file_range_in) },
    [FUSE_SYNCFS] = { "SYNCFS", fuse_op_syncfs, 0 },
    [FUSE_TMPFILE] = { "TMPFILE", op_names_fixed, 0 },
    [FUSE_STATX] = { "STATX", fuse_op_statx, sizeof(struct fuse_statx_in) },
    [FUSE_COPY_FILE_RANGE_64] = { "COPY_FILE_RANGE_64",
                                  fuse_op_copy_file_range,
                                  sizeof(struct fuse_copy_file_range_in) },
};

const char *fuse_opcode_name(uint32_t opcode)
{
    if (opcode >= FUSE_WIRE_OPCODES || !operations[opcode].name) {
        return "?";
    }
    return operations[opcode].name;
}

void *fuse_request_out(FuseRequest *request, size_t bytes)
{
    g_assert(bytes <= sizeof(request->out));
    memset(request->out, 0, bytes);
    request->out_bytes = bytes;
    return request->out;
}

/*
 * Brings the arguments together and ends them with a NUL, as names must end;
 * a WRITE's data stays where it is. Longer ones than we know (BATCH_FORGET)
 * are cut: nobody looks at them.
 */
static void gather_args(FuseRequest *request)
{
    size_t tail;

    if (request->bytes <= FUSE_WIRE_HEAD_BYTES) {
        request->head[request->bytes] = 0;
        return;
    }
    tail = MIN(request->bytes, FUSE_REQUEST_HEAD_BYTES - 1) -
           FUSE_WIRE_HEAD_BYTES;
    memcpy(request->head + FUSE_WIRE_HEAD_BYTES, request->payload, tail);
    request->head[FUSE_WIRE_HEAD_BYTES + tail] = 0;
}

int coroutine_fn fuse_dispatch(const FuseMountState *mount,
                               FuseRequest *request)
{
    const struct Operation *operation;
    uint32_t opcode = request->header.opcode;
    int result;

    request->no_reply = false;
    request->out_bytes = 0;
    request->out_payload_bytes = 0;

    if (opcode >= FUSE_WIRE_OPCODES || !operations[opcode].run) {
        return -ENOSYS;
    }
    operation = &operations[opcode];
    if (request->header.len != request->bytes ||
        request->bytes < sizeof(struct fuse_in_header) +
                         operation->args_bytes) {
        return -EINVAL;
    }
    if (opcode != FUSE_WRITE && opcode != FUSE_READ) {
        gather_args(request);
    }

    result = operation->run(mount, request,
                            request->head + sizeof(struct fuse_in_header));
    if (G_UNLIKELY(log_requests)) {
        g_debug("%s inode %" PRIu64 " bytes %zu -> %d (%zu + %zu)",
                operation->name, (uint64_t)request->header.nodeid,
                request->bytes, result, request->out_bytes,
                request->out_payload_bytes);
    }
    return result;
}
