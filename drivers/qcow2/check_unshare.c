/* SPDX-License-Identifier: MIT */
/*
 * copies of clusters that the active tables name twice
 *
 * Two L1 entries may come to name one L2 table, two L2 entries one cluster. A
 * refcount of 2 makes that sound until the first write to one of them: then
 * the other lacks COPIED at a count of 1. So the second gets a copy:
 *
 *   L1 ─▶ L2 of its own ─▶ data of its own
 *
 * What snapshots share with the active tables stays shared.
 *
 * Between two writes the image is no worse than before: a copy is durable
 * before an entry points at it, and the old one stays what it was for others.
 *
 * Not copied: compressed data (several share a cluster by design), and the
 * data of encrypted images, which reads right in its own place only.
 *
 * Locking: none. Control plane, node drained.
 */
#include "drivers/qcow2/check_walk.h"

#include "block/io/io.h"
#include "drivers/qcow2/cluster.h"
#include "drivers/qcow2/data_file.h"

#include <inttypes.h>

typedef struct Unshare {
    Qcow2Walk *walk;
    Qcow2Counts *seen;  /* named by an entry before */
    int64_t limit;      /* where the file ended: nothing points behind */
    int64_t end_offset; /* where the next copy goes */
    uint8_t *buffer;    /* a cluster */
} Unshare;

static bool write_at(Unshare *unshare, int64_t host_offset,
                     const void *buffer, int64_t bytes, GError **error)
{
    int ret = bdrv_pwrite(unshare->walk->bs->file, host_offset, bytes,
                          buffer);

    if (ret < 0) {
        error_set_errno(error, -ret, "cannot write %" PRId64 " bytes at 0x%"
                        PRIx64, bytes, host_offset);
    }
    return ret >= 0;
}

static bool flush(Unshare *unshare, GError **error)
{
    int ret = bdrv_flush(unshare->walk->bs->file->bs);

    if (ret < 0) {
        error_set_errno(error, -ret, "cannot flush");
    }
    return ret >= 0;
}

/* Notes an entry's cluster; *ret_again: it was noted before. */
static bool note_cluster(Unshare *unshare, int64_t host_offset,
                         bool *ret_again, GError **error)
{
    int64_t cluster = host_offset / unshare->walk->cluster_bytes;

    *ret_again = qcow2_counts_get(unshare->seen, cluster) > 0;
    if (!qcow2_counts_add(unshare->seen, cluster, 1, 1)) {
        g_set_error_literal(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                            "the image needs more memory than a repair may "
                            "take");
        return false;
    }
    return true;
}

static bool copy_cluster(Unshare *unshare, int64_t host_offset,
                         int64_t *ret_copy, GError **error)
{
    Qcow2Walk *walk = unshare->walk;

    if (!qcow2_walk_read(walk, host_offset, walk->cluster_bytes,
                         unshare->buffer, error) ||
        !write_at(unshare, unshare->end_offset, unshare->buffer,
                  walk->cluster_bytes, error)) {
        return false;
    }
    *ret_copy = unshare->end_offset;
    unshare->end_offset += walk->cluster_bytes;
    walk->file_bytes = unshare->end_offset;
    return true;
}

/* The entry of an L1 or L2 table, in disk byte order, gets a copy's offset. */
static bool unshare_entry(Unshare *unshare, uint64_t *raw, bool *changed,
                          GError **error)
{
    uint64_t entry = be64toh(*raw);
    int64_t host_offset = entry & QCOW2_OFFSET_MASK;
    bool is_again;
    int64_t copy;

    if (!host_offset || host_offset >= unshare->limit ||
        !is_aligned(host_offset, unshare->walk->cluster_bytes)) {
        return true; /* the walk has said so */
    }
    if (!note_cluster(unshare, host_offset, &is_again, error)) {
        return false;
    }
    if (!is_again) {
        return true;
    }
    if (!copy_cluster(unshare, host_offset, &copy, error)) {
        return false;
    }
    *raw = htobe64((entry & ~QCOW2_OFFSET_MASK) | copy | QCOW2_ENTRY_COPIED);
    *changed = true;
    return true;
}

static bool unshare_l2(Unshare *unshare, int64_t l2_offset, GError **error)
{
    Qcow2Walk *walk = unshare->walk;
    bool is_wide = walk->header->incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
    g_autofree uint64_t *table = g_malloc(walk->cluster_bytes);
    bool changed = false;

    if (!qcow2_walk_read(walk, l2_offset, walk->cluster_bytes, table,
                         error)) {
        return false;
    }
    for (int64_t i = 0; i < walk->cluster_bytes / 8; i += is_wide ? 2 : 1) {
        if (!(be64toh(table[i]) & QCOW2_L2_COMPRESSED) &&
            !unshare_entry(unshare, &table[i], &changed, error)) {
            return false;
        }
    }
    return !changed || (flush(unshare, error) &&
                        write_at(unshare, l2_offset, table,
                                 walk->cluster_bytes, error));
}

/* One L1 entry: its table, and what that points at. */
static bool unshare_l1_entry(Unshare *unshare, int64_t index, GError **error)
{
    Qcow2Walk *walk = unshare->walk;
    uint64_t raw = htobe64(walk->l1[index]);
    int64_t l2_offset = walk->l1[index] & QCOW2_OFFSET_MASK;
    bool changed = false;

    if (!l2_offset || !is_aligned(l2_offset, walk->cluster_bytes) ||
        l2_offset >= unshare->limit) {
        return true; /* the walk has said so */
    }
    if (!unshare_entry(unshare, &raw, &changed, error)) {
        return false;
    }
    l2_offset = be64toh(raw) & QCOW2_OFFSET_MASK;
    if (!qcow2_has_data_file(qcow2_state(walk->bs)) &&
        !walk->header->crypt_method &&
        !unshare_l2(unshare, l2_offset, error)) {
        return false;
    }
    return !changed ||
           (flush(unshare, error) &&
            write_at(unshare, walk->header->l1_offset + index * 8, &raw,
                     sizeof(raw), error));
}

bool qcow2_walk_unshare(Qcow2Walk *walk, bool *ret_changed, GError **error)
{
    int64_t end_offset = align_up(walk->file_bytes, walk->cluster_bytes);
    Unshare unshare = {
        .walk = walk,
        .seen = qcow2_counts_new(),
        .limit = walk->file_bytes,
        .end_offset = end_offset,
    };
    bool ok = true;

    unshare.buffer = g_malloc(walk->cluster_bytes);
    for (int64_t i = 0; walk->l1 && ok && i < walk->header->l1_entries; i++) {
        ok = unshare_l1_entry(&unshare, i, error);
    }
    g_free(unshare.buffer);
    qcow2_counts_free(unshare.seen);
    *ret_changed = unshare.end_offset != end_offset;
    return ok && (!*ret_changed || flush(&unshare, error));
}
