/* SPDX-License-Identifier: MIT */
/*
 * the external data file: guest clusters in a file of their own
 *
 * With incompatible bit 2 the image's own file holds metadata only; a guest
 * cluster lies in the data file at the guest's own offset, or nowhere. So
 * there is nothing to allocate, to count or to share there: no compressed
 * clusters, no internal snapshots.
 *
 * With autoclear bit 1 ("raw") the data file alone must read as the guest
 * sees the disk, at every moment: what reads zeros is zeros there, too.
 *
 * q->data is the child with the guest's clusters: the data file, or bs->file
 * in all other images. NULL when the image was opened for its facts only.
 */
#ifndef DRIVERS_QCOW2_DATA_FILE_H
#define DRIVERS_QCOW2_DATA_FILE_H

#include "drivers/qcow2/qcow2.h"

static inline bool qcow2_has_data_file(const Qcow2State *q)
{
    return q->header.incompatible & QCOW2_INCOMPAT_DATA_FILE;
}

static inline bool qcow2_data_is_raw(const Qcow2State *q)
{
    return qcow2_has_data_file(q) &&
           (q->header.autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW);
}

/* Length of the file that guest clusters are in. Any thread. */
static inline int64_t qcow2_data_length(const Qcow2State *q)
{
    return qcow2_has_data_file(q)
               ? __atomic_load_n(&q->data_length, __ATOMIC_ACQUIRE)
               : qcow2_file_length(q);
}

/* A write has ended at @length of that file. Any thread. */
void qcow2_raise_data_length(Qcow2State *q, int64_t length);

/*
 * qcow2_data_file_open:
 * Sets q->data. The name is the header's, under the same policy as a backing
 * file's, unless @options have a `data-file`. The header was loaded. Control
 * plane.
 */
bool qcow2_data_file_open(BlockDriverState *bs, BlockOptions *options,
                          BdrvOpenFlags flags, GError **error);

/*
 * Does the word of an L2 entry that is not compressed stand for the guest
 * cluster at @offset itself, or for nothing?
 */
static inline bool qcow2_data_file_is_own_place(uint64_t word, int64_t offset)
{
    int64_t host_offset = word & QCOW2_OFFSET_MASK;

    if (host_offset == 0 && offset != 0) {
        return !(word & QCOW2_ENTRY_COPIED) || (word & QCOW2_L2_ZERO);
    }
    return host_offset == 0 || host_offset == offset;
}

/*
 * Is the L2 entry of the guest cluster at @offset damaged, as it can only be
 * in an image with a data file? Who follows or replaces an entry asks (D1).
 */
static inline bool qcow2_is_misplaced(const Qcow2State *q, uint64_t word,
                                      int64_t offset)
{
    return G_UNLIKELY(qcow2_has_data_file(q)) &&
           ((word & QCOW2_L2_COMPRESSED) ||
            !qcow2_data_file_is_own_place(word, offset));
}

/*
 * qcow2_data_file_clear:
 * Before the mapping of a guest range is cleared: what the data file has to
 * see of it. A raw file gets zeros; others a hole when the clusters are given
 * up (@unmap) and discards reach the files. *ret_done: nothing is left to do
 * in the mapping. Whole clusters; lock not held; not inside an epoch.
 */
int coroutine_fn qcow2_data_file_clear(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, bool unmap,
                                       bool *ret_done);

/*
 * qcow2_data_file_resize:
 * The data file follows the image from @old to @length bytes; behind @old it
 * reads zeros then. @exact: it may not stay longer. Coroutine.
 */
int coroutine_fn qcow2_data_file_resize(BlockDriverState *bs, int64_t old,
                                        int64_t length, bool exact,
                                        GError **error);

/* What guests wrote to the data file becomes durable. Coroutine. */
int coroutine_fn qcow2_data_file_flush(BlockDriverState *bs);

#endif
