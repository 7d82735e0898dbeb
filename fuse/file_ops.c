/* SPDX-License-Identifier: MIT */
/*
 * a file's content: the kernel's calls turned into requests to the backend
 *
 * Reads go straight into the request's payload buffer, writes straight out of
 * it. Everything here is about the file's end and about what a file call
 * means for an image; alignment, splitting and order are the block layer's.
 *
 * How a file is opened decides how its pages are cached: O_DIRECT asks the
 * kernel to pass reads and writes through, in parallel; everything else keeps
 * the page cache over opens, for which it is enough that we are the only
 * writer of the image. Handles are empty (fh 0).
 *
 * Always true:
 *  F1  no request reaches the backend that touches bytes past its length;
 *  F2  a read-only export is never asked to change.
 *
 * Locking: none but the export's resize_lock (export.c).
 */
#include "fuse/file_ops.h"

#include "fuse/snapshot_ops.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

/* Zeroing and copying go in steps of this size, so that others get a turn. */
#define STEP_BYTES ((int64_t)1 << 30)

/* [offset, offset + bytes) of a 64-bit request, checked; F1 needs no more. */
static bool is_range(uint64_t offset, uint64_t bytes)
{
    return range_within(offset, bytes, (uint64_t)BDRV_MAX_LENGTH);
}

static Export *export_of(const FuseMountState *mount,
                         const FuseRequest *request, int *ret_error)
{
    Export *export = tree_export(mount->tree, request->header.nodeid);

    if (!export) {
        TreeKind kind = tree_node(mount->tree, request->header.nodeid).kind;

        *ret_error = tree_kind_is_folder(kind) ? -EISDIR
                     : kind == TREE_NOTHING ? -ENOENT : -EINVAL;
    }
    return export;
}

/*
 * What has no backend of its own: a document has a handle and is never
 * cached; a snapshot is opened by its first user and does not change; goto
 * takes a name at a time, as it is written.
 */
static int coroutine_fn open_beside(const FuseMountState *mount,
                                    FuseRequest *request,
                                    const TreeNode *node, bool for_reading)
{
    struct fuse_open_out *out;
    uint64_t handle = 0;
    int result;

    if (node->kind == TREE_GOTO) {
        out = fuse_request_out(request, sizeof(*out));
        out->open_flags = FOPEN_DIRECT_IO | FOPEN_NOFLUSH;
        return for_reading ? -EACCES : 0;
    }
    if (!for_reading) {
        return -EROFS;
    }
    result = node->kind == TREE_DOCUMENT
             ? fuse_document_open(mount, node, &handle)
             : fuse_snapshot_open(mount, node);
    if (result < 0) {
        return result;
    }
    out = fuse_request_out(request, sizeof(*out));
    out->fh = handle;
    out->open_flags = FOPEN_NOFLUSH | (node->kind == TREE_DOCUMENT
                                       ? FOPEN_DIRECT_IO : FOPEN_KEEP_CACHE);
    return 0;
}

/* Handles need no memory here: what must know its users counts them. */
int coroutine_fn fuse_op_release(const FuseMountState *mount,
                                 FuseRequest *request, const void *args)
{
    const struct fuse_release_in *in = args;
    TreeNode node = tree_node(mount->tree, request->header.nodeid);

    if (node.kind == TREE_DOCUMENT) {
        documents_close(mount->documents, in->fh);
    } else if (node.kind == TREE_SNAPSHOT_FILE) {
        fuse_snapshot_release(mount, &node);
    } else if (node.kind == TREE_IMAGE) {
        Export *export = g_ptr_array_index(mount->tree->exports, node.image);

        (void) __atomic_sub_fetch(&export->users, 1, __ATOMIC_SEQ_CST);
    }
    return 0;
}

/* A layer that is written by another name must not be cached by its own. */
static bool is_second_name(const FuseMountState *mount, const TreeNode *node)
{
    const Export *image;

    if (node->kind != TREE_LAYER) {
        return false;
    }
    image = g_ptr_array_index(mount->tree->exports, node->image);
    return !image->read_only;
}

/*
 * Whether the kernel may cache is decided for each open: two names of one
 * image must not have two caches.
 */
int coroutine_fn fuse_op_open(const FuseMountState *mount,
                              FuseRequest *request, const void *args)
{
    const struct fuse_open_in *in = args;
    TreeNode node = tree_node(mount->tree, request->header.nodeid);
    struct fuse_open_out *out;
    int result;
    Export *export;
    bool for_reading = (in->flags & O_ACCMODE) == O_RDONLY;

    if (node.kind == TREE_DOCUMENT || node.kind == TREE_SNAPSHOT_FILE ||
        node.kind == TREE_GOTO) {
        return open_beside(mount, request, &node, for_reading);
    }
    export = export_of(mount, request, &result);
    if (!export) {
        return result;
    }
    if (export->read_only && !for_reading) {
        return -EROFS; /* F2 */
    }
    if ((in->flags & O_TRUNC) && export->growable) {
        result = export_co_truncate(export, 0);
        if (result < 0) {
            return result;
        }
    }

    out = fuse_request_out(request, sizeof(*out));
    if ((in->flags & O_DIRECT) || is_second_name(mount, &node)) {
        out->open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
    } else {
        out->open_flags = FOPEN_KEEP_CACHE;
    }
    if (for_reading) {
        out->open_flags |= FOPEN_NOFLUSH;
    }
    if (node.kind == TREE_IMAGE) {
        (void) __atomic_add_fetch(&export->users, 1, __ATOMIC_SEQ_CST);
    }
    return 0;
}

/*
 * On the hot path: one comparison finds the image, the data goes where the
 * kernel takes it from.
 */
int coroutine_fn fuse_op_read(const FuseMountState *mount,
                              FuseRequest *request, const void *args)
{
    const struct fuse_read_in *in = args;
    int result;
    Export *export = export_of(mount, request, &result);
    int64_t length, bytes;
    IoVec iov;

    if (G_UNLIKELY(!export)) {
        return tree_node(mount->tree, request->header.nodeid).kind ==
                       TREE_DOCUMENT
               ? fuse_document_read(mount, request, in) : result;
    }
    if (!is_range(in->offset, in->size) ||
        in->size > request->payload_capacity) {
        return -EINVAL;
    }
    length = export_length(export);
    if ((int64_t)in->offset >= length || in->size == 0) {
        return 0;
    }
    bytes = MIN((int64_t)in->size, length - (int64_t)in->offset);

    iovec_init_buffer(&iov, request->payload, (size_t)bytes);
    result = blk_co_preadv(export->blk, (int64_t)in->offset, bytes, &iov,
                           /* flags= */ 0);
    if (result == 0) {
        request->out_payload_bytes = (size_t)bytes;
    }
    return result;
}

/* A file of fixed size takes what fits, as a block device does. */
int coroutine_fn fuse_op_write(const FuseMountState *mount,
                               FuseRequest *request, const void *args)
{
    const struct fuse_write_in *in = args;
    int result;
    Export *export = export_of(mount, request, &result);
    struct fuse_write_out *out;
    int64_t offset = (int64_t)in->offset;
    int64_t bytes = in->size;
    IoVec iov;

    if (!export) {
        return tree_node(mount->tree, request->header.nodeid).kind ==
                       TREE_GOTO
               ? fuse_goto_write(mount, request, in) : result;
    }
    if (export->read_only) {
        return -EROFS; /* F2 */
    }
    if (!is_range(in->offset, in->size) ||
        request->bytes != FUSE_WIRE_HEAD_BYTES + in->size) {
        return -EINVAL;
    }
    result = export_co_make_room(export, offset + bytes); /* F1 */
    if (result == -ENOSPC && offset < export_length(export)) {
        bytes = export_length(export) - offset; /* as on a block device */
        result = 0;
    }
    if (result < 0) {
        return result;
    }

    iovec_init_buffer(&iov, request->payload, (size_t)bytes);
    result = bytes == 0 ? 0 :
             blk_co_pwritev(export->blk, offset, bytes, &iov,
                            in->flags & O_DSYNC ? BDRV_REQ_FUA : 0);
    if (result < 0) {
        return result;
    }
    export_touch(export);
    out = fuse_request_out(request, sizeof(*out));
    out->size = (uint32_t)bytes;
    return 0;
}

/*
 * A read-only image has nothing to flush, and a flush would need the
 * permission.
 */
int coroutine_fn fuse_op_fsync(const FuseMountState *mount,
                               FuseRequest *request, const void *args)
{
    int result;
    Export *export = export_of(mount, request, &result);

    if (!export) {
        /* A document has nothing to lose. */
        return result == -EINVAL ? 0 : result;
    }
    return export->read_only ? 0 : blk_co_flush(export->blk);
}

/*
 * At close(2) data goes to the host's kernel, not to the disk: that is
 * fsync(2).
 */
int coroutine_fn fuse_op_flush(const FuseMountState *mount,
                               FuseRequest *request, const void *args)
{
    int result;
    Export *export = export_of(mount, request, &result);

    if (!export) {
        /* A document has nothing to lose. */
        return result == -EINVAL ? 0 : result;
    }
    return export->read_only ? 0 : blk_co_flush_to_os(export->blk);
}

/* In steps, so that a punch of terabytes does not hold one request for ever. */
static int coroutine_fn zero_range(Export *export, int64_t offset,
                                   int64_t bytes, BdrvRequestFlags flags)
{
    while (bytes > 0) {
        int64_t step = MIN(bytes, STEP_BYTES - offset % STEP_BYTES);
        int result = blk_co_pwrite_zeroes(export->blk, offset, step, flags);

        if (result < 0) {
            return result;
        }
        offset += step;
        bytes -= step;
    }
    export_touch(export);
    return 0;
}

/*
 * Allocating means nothing to an image that allocates by itself: within the
 * length it succeeds. A hole is zeros that may give their clusters back.
 */
int coroutine_fn fuse_op_fallocate(const FuseMountState *mount,
                                   FuseRequest *request, const void *args)
{
    const struct fuse_fallocate_in *in = args;
    uint32_t mode = in->mode & ~(uint32_t)FALLOC_FL_KEEP_SIZE;
    bool keep_size = in->mode & FALLOC_FL_KEEP_SIZE;
    int result;
    Export *export = export_of(mount, request, &result);
    int64_t offset = (int64_t)in->offset;
    int64_t bytes = (int64_t)in->length;

    if (!export) {
        return result;
    }
    if (export->read_only) {
        return -EROFS; /* F2 */
    }
    if (mode != 0 && mode != FALLOC_FL_ZERO_RANGE &&
        !(mode == FALLOC_FL_PUNCH_HOLE && keep_size)) {
        return -EOPNOTSUPP;
    }
    if (!is_range(in->offset, in->length)) {
        return -EFBIG;
    }
    if (!keep_size) {
        result = export_co_make_room(export, offset + bytes);
        if (result < 0) {
            return result;
        }
    }
    /* F1; past the end there is nothing to punch or to zero. */
    bytes = MIN(bytes, export_length(export) - offset);
    if (mode == 0 || bytes <= 0) {
        return 0;
    }
    return zero_range(export, offset, bytes,
                      mode == FALLOC_FL_PUNCH_HOLE && export->unmap
                      ? BDRV_REQ_MAY_UNMAP : 0);
}

/*
 * Does data (or a hole, if @want_hole) start at or after @offset, and where?
 * A hole is what reads zeros without looking, in whatever layer.
 */
static int coroutine_fn seek(Export *export, int64_t offset, bool want_hole,
                             int64_t *ret_offset)
{
    int64_t length = export_length(export);

    while (offset < length) {
        BlockStatus status;
        bool is_hole;
        int result = blk_co_block_status(export->blk, /* want_zero= */ true,
                                         offset, length - offset, &status);

        if (result < 0) {
            return result;
        }
        if (status.bytes <= 0) {
            return -EIO;
        }
        is_hole = (status.flags & BDRV_BLOCK_ZERO) ||
                  !(status.flags & BDRV_BLOCK_DATA);
        if (is_hole == want_hole) {
            *ret_offset = offset;
            return 0;
        }
        offset += status.bytes;
    }
    if (!want_hole) {
        return -ENXIO;
    }
    *ret_offset = length; /* every file ends with a hole */
    return 0;
}

int coroutine_fn fuse_op_lseek(const FuseMountState *mount,
                               FuseRequest *request, const void *args)
{
    const struct fuse_lseek_in *in = args;
    struct fuse_lseek_out *out;
    int result;
    Export *export = export_of(mount, request, &result);
    int64_t offset;

    if (!export) {
        return result;
    }
    if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE) {
        return -EINVAL;
    }
    if (in->offset >= (uint64_t)export_length(export)) {
        return -ENXIO;
    }
    result = seek(export, (int64_t)in->offset, in->whence == SEEK_HOLE,
                  &offset);
    if (result < 0) {
        return result;
    }
    out = fuse_request_out(request, sizeof(*out));
    out->offset = (uint64_t)offset;
    return 0;
}

/* One copy through @request's payload buffer. */
static int coroutine_fn copy_through_memory(FuseRequest *request,
                                            Export *source, int64_t from,
                                            Export *target, int64_t to,
                                            int64_t bytes)
{
    IoVec iov;
    int result;

    iovec_init_buffer(&iov, request->payload, (size_t)bytes);
    result = blk_co_preadv(source->blk, from, bytes, &iov, /* flags= */ 0);
    if (result < 0) {
        return result;
    }
    return blk_co_pwritev(target->blk, to, bytes, &iov, /* flags= */ 0);
}

/*
 * Copies up to @bytes; the result is what was copied, or -errno when that is
 * nothing. Once a copy in the kernel is refused the rest goes through memory.
 */
static int64_t coroutine_fn copy_range(FuseRequest *request, Export *source,
                                       int64_t from, Export *target,
                                       int64_t to, int64_t bytes)
{
    bool offload = true;
    int64_t done = 0;

    while (done < bytes) {
        int64_t step = MIN(bytes - done, offload
                           ? STEP_BYTES : (int64_t)request->payload_capacity);
        int result;

        if (offload) {
            result = blk_co_copy_range(source->blk, from + done, target->blk,
                                       to + done, step);
            if (result < 0) {
                offload = false;
                continue;
            }
        } else {
            result = copy_through_memory(request, source, from + done,
                                         target, to + done, step);
        }
        if (result < 0) {
            return done ? done : result;
        }
        done += step;
    }
    return done;
}

/* Below, the drivers copy by reflink where both ends allow it. */
int coroutine_fn fuse_op_copy_file_range(const FuseMountState *mount,
                                         FuseRequest *request,
                                         const void *args)
{
    /* A copy: the reply may use the buffer that the arguments are in. */
    struct fuse_copy_file_range_in in =
        *(const struct fuse_copy_file_range_in *)args;
    int result;
    Export *source = export_of(mount, request, &result);
    Export *target = tree_export(mount->tree, in.nodeid_out);
    int64_t bytes = (int64_t)MIN(in.len, (uint64_t)STEP_BYTES);

    if (!source || !target) {
        return source ? -EXDEV : result;
    }
    if (target->read_only) {
        return -EROFS; /* F2 */
    }
    if (in.flags || !is_range(in.off_in, (uint64_t)bytes) ||
        !is_range(in.off_out, (uint64_t)bytes)) {
        return -EINVAL;
    }
    bytes = MIN(bytes, export_length(source) - (int64_t)in.off_in);
    bytes = MAX(bytes, 0);
    result = export_co_make_room(target, (int64_t)in.off_out + bytes);
    if (result == -ENOSPC && (int64_t)in.off_out < export_length(target)) {
        bytes = export_length(target) - (int64_t)in.off_out; /* as a write */
        result = 0;
    }
    if (result < 0) {
        return result;
    }
    bytes = copy_range(request, source, (int64_t)in.off_in, target,
                       (int64_t)in.off_out, bytes);
    if (bytes < 0) {
        return (int)bytes;
    }
    export_touch(target);
    if (request->header.opcode == FUSE_COPY_FILE_RANGE_64) {
        struct fuse_copy_file_range_out *out =
            fuse_request_out(request, sizeof(*out));

        out->bytes_copied = (uint64_t)bytes;
    } else {
        struct fuse_write_out *out = fuse_request_out(request, sizeof(*out));

        out->size = (uint32_t)bytes;
    }
    return 0;
}
