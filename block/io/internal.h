/* SPDX-License-Identifier: MIT */
/*
 * what the files of the data plane share; nobody else includes it
 *
 * "Untracked" functions run inside of a request that the caller has begun and
 * that covers the range. Coroutine, any I/O thread, 0 or -errno.
 */
#ifndef BLOCK_IO_INTERNAL_H
#define BLOCK_IO_INTERNAL_H

#include "block/graph/edge.h"
#include "block/graph/node.h"
#include "block/io/accounting.h"
#include "block/io/request.h"
#include "block/types.h"

/* The longest bounce buffer, but for larger request_alignments. */
#define BDRV_BOUNCE_BYTES ((int64_t)1 << 20)

/* -- io.c ---------------------------------------------------------------- */

/* Is the range addressable at all? Does not look at the node's length. */
int bdrv_check_range(const BlockDriverState *bs, int64_t offset,
                     int64_t bytes);

/*
 * The same for writers: -EROFS, and -EINVAL past the end without RESIZE
 * permission. Asserts the permission to write.
 */
int bdrv_check_write(const BdrvChild *child, int64_t offset, int64_t bytes,
                     BdrvRequestFlags flags);

/*
 * The end of whatever changes bytes: generation, dirty bitmaps and, when @ret
 * is 0, a longer node. Before bdrv_request_end().
 */
void bdrv_finish_change(BdrvChild *child, int64_t offset, int64_t bytes,
                        int ret);

/* The same for writers of any kind, which need space where they end. */
void bdrv_finish_write(BdrvChild *child, int64_t offset, int64_t bytes,
                       int ret);

/*
 * Runs @call, an expression, with its result counted where @bs counts its
 * requests. Evaluates to that result.
 */
#define BDRV_COUNTED(bs, type, bytes, call)                               \
    ({                                                                    \
        Accounting *counted_by = (bs)->accounting;                        \
        AccountingCookie counted;                                         \
        int counted_ret;                                                  \
                                                                          \
        if (G_UNLIKELY(counted_by != NULL)) {                             \
            accounting_begin(counted_by, &counted, type, bytes);          \
        }                                                                 \
        counted_ret = (call);                                             \
        if (G_UNLIKELY(counted_by != NULL)) {                             \
            accounting_end(counted_by, &counted, counted_ret);            \
        }                                                                 \
        counted_ret;                                                      \
    })

/* -- fragment.c: aligned requests, untracked ----------------------------- */

/*
 * Calls the driver, in pieces and through bounce buffers where the limits
 * demand it. offset and bytes are aligned to request_alignment. What lies
 * past the node's end reads as zeros.
 */
int coroutine_fn bdrv_read_aligned(BlockDriverState *bs, int64_t offset,
                                   int64_t bytes, IoVec *iov, size_t at,
                                   BdrvRequestFlags flags);
int coroutine_fn bdrv_write_aligned(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes, IoVec *iov, size_t at,
                                    BdrvRequestFlags flags);

/* -- pad.c --------------------------------------------------------------- */

/*
 * A request widened to whole blocks of request_alignment: @iov is the user's
 * data between the scratch bytes of the first and the last block. When both
 * are one block, head and tail point at the same scratch block.
 */
typedef struct BdrvPad {
    int64_t offset;
    int64_t bytes;
    int64_t block;  /* request_alignment */
    uint8_t *head;  /* scratch block, NULL when the start is aligned */
    uint8_t *tail;  /* scratch block, NULL when the end is aligned */
    IoVec iov;
} BdrvPad;

/* -ENOMEM, or 0: end it with bdrv_pad_destroy(). */
int bdrv_pad_init(BdrvPad *pad, BlockDriverState *bs, int64_t offset,
                  int64_t bytes, const IoVec *iov, size_t at);
void bdrv_pad_destroy(BdrvPad *pad);

/* Reads the scratch blocks: the first half of a read-modify-write. */
int coroutine_fn bdrv_pad_fill(BdrvPad *pad, BlockDriverState *bs);

/* -- zero.c: untracked --------------------------------------------------- */

/* offset and bytes are aligned to request_alignment. */
int coroutine_fn bdrv_zero_aligned(BlockDriverState *bs, int64_t offset,
                                   int64_t bytes, BdrvRequestFlags flags);

/* Any alignment; the request must be serialising when there is none. */
int coroutine_fn bdrv_zero_range(BlockDriverState *bs, int64_t offset,
                                 int64_t bytes, BdrvRequestFlags flags);

/* -- copy_on_read.c ------------------------------------------------------ */

/* 1 when some of the range is not in this layer, 0 or -errno. */
int coroutine_fn bdrv_lacks_data(BlockDriverState *bs, int64_t offset,
                                 int64_t bytes);

/*
 * A whole read request: what @bs does not have is written to it. Begins and
 * ends its own tracked request.
 */
int coroutine_fn bdrv_copy_on_read(BlockDriverState *bs, int64_t offset,
                                   int64_t bytes, IoVec *iov, size_t at,
                                   BdrvRequestFlags flags);

#endif
