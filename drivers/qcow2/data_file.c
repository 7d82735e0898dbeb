/* SPDX-License-Identifier: MIT */
/*
 * the external data file of a qcow2 image
 *
 *   image:      header, L1, L2 ... ──▶ "allocated" at the guest's own offset
 *   data file:  [guest cluster 0][guest cluster 1][...]
 *
 * Always true:
 *  D1  an L2 entry that is followed or replaced has its own guest offset or
 *      none: map.c, cluster.c and clear.c ask qcow2_is_misplaced(), so that a
 *      damaged entry is an error of its own cluster only;
 *  D2  a raw data file is changed before the mapping: at no moment does it
 *      show what the guest no longer sees;
 *  D3  discards reach the data file before the entries change. Afterwards the
 *      same place may have been given out again, as it always is the same.
 *
 * Locking: data_length is atomic and only grows, but for a resize (which keeps
 * requests behind the smaller length out). Nothing here takes a lock.
 */
#include "drivers/qcow2/data_file.h"

#include "block/graph/open.h"
#include "block/io/io.h"

#include <errno.h>
#include <inttypes.h>

void qcow2_raise_data_length(Qcow2State *q, int64_t length)
{
    int64_t known;

    if (!qcow2_has_data_file(q)) {
        qcow2_raise_file_length(q, length);
        return;
    }
    known = __atomic_load_n(&q->data_length, __ATOMIC_RELAXED);
    while (known < length &&
           !__atomic_compare_exchange_n(&q->data_length, &known, length,
                                        /* weak= */ true, __ATOMIC_RELEASE,
                                        __ATOMIC_RELAXED)) {
    }
}

/* -- opening -------------------------------------------------------------- */

/* Did the operator say where the data file is? */
static bool is_in_options(const BlockOptions *options)
{
    g_autoptr(BlockOptions) copy = block_options_copy(options);
    g_autoptr(BlockOptions) below = NULL;

    if (block_options_has(options, "data-file")) {
        return true;
    }
    below = block_options_take_subtree(copy, "data-file");
    return block_options_first_key(below) != NULL;
}

bool qcow2_data_file_open(BlockDriverState *bs, BlockOptions *options,
                          BdrvOpenFlags flags, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    bool by_operator = is_in_options(options);

    if (!qcow2_has_data_file(q)) {
        if (by_operator) {
            g_set_error_literal(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                                "option data-file is given, but the image has "
                                "no external data file");
        }
        q->data = bs->file;
        return !by_operator;
    }
    q->data = NULL;
    if ((flags & BDRV_O_NO_IO) && !by_operator) {
        return true; /* the facts are in the image's own file */
    }
    if (!by_operator && !q->header.data_file) {
        g_set_error_literal(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                            "the image has an external data file, but its "
                            "header does not name it; use option "
                            "data-file.filename");
        return false;
    }
    if (!bdrv_open_referenced_child(bs, options, "data-file",
                                    q->header.data_file, "file",
                                    BDRV_CHILD_DATA, &q->data, error)) {
        q->data = NULL;
        return false;
    }
    if (q->data) {
        q->data_length = bdrv_node_length(q->data->bs);
    }
    return true;
}

/* -- what it sees of changes ---------------------------------------------- */

int coroutine_fn qcow2_data_file_clear(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, bool unmap,
                                       bool *ret_done)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t end = MIN(offset + bytes, bdrv_node_length(bs));
    int ret = 0;

    *ret_done = false;
    if (!qcow2_has_data_file(q)) {
        return 0;
    }
    if (qcow2_data_is_raw(q)) {
        ret = bdrv_co_pwrite_zeroes(q->data, offset, end - offset,
                                    unmap ? BDRV_REQ_MAY_UNMAP : 0);
        if (ret >= 0) {
            qcow2_raise_data_length(q, end);
        }
        /* Mapped or not, it reads zeros now. */
        *ret_done = ret >= 0 && !bs->backing;
    } else if (unmap && q->options.punch[QCOW2_FREE_REQUEST]) {
        end = MIN(end, qcow2_data_length(q));
        if (offset < end) {
            /* A hint: the entries say that it reads zeros. */
            (void) bdrv_co_pdiscard(q->data, offset, end - offset);
        }
    }
    return ret;
}

int coroutine_fn qcow2_data_file_resize(BlockDriverState *bs, int64_t old,
                                        int64_t length, bool exact,
                                        GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t stale = MIN(qcow2_data_length(q), length);
    int ret;

    if (!qcow2_has_data_file(q)) {
        return 0;
    }
    ret = bdrv_co_truncate(q->data, length, exact, PREALLOC_OFF, 0, error);
    if (ret >= 0) {
        __atomic_store_n(&q->data_length, bdrv_node_length(q->data->bs),
                         __ATOMIC_RELEASE);
    }
    /* A longer file has who knows what where the image grows to. */
    if (ret >= 0 && stale > old) {
        ret = bdrv_co_pwrite_zeroes(q->data, old, stale - old,
                                    BDRV_REQ_MAY_UNMAP);
    }
    return ret;
}

int coroutine_fn qcow2_data_file_flush(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);

    return qcow2_has_data_file(q) && q->data ? bdrv_co_flush(q->data->bs) : 0;
}
