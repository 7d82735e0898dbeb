/* SPDX-License-Identifier: MIT */
/*
 * subcluster bitmaps that say what cannot be, mended
 *
 *   compressed cluster:  bits mean nothing            ─▶ none is set
 *   no cluster:          some subclusters are data    ─▶ they are not
 *   cluster:             some are data and zeros      ─▶ they are data
 *
 * A guest gets an error for the whole cluster, since nobody knows which bits
 * to trust. A repair has to decide: what is in the file is shown rather than
 * lost, it is the image's own in any case.
 *
 * One word is written at a time, within a sector: a crash leaves the old one
 * or the new one.
 *
 * Locking: none. Control plane, node drained.
 */
#include "drivers/qcow2/check_walk.h"

#include "block/io/io.h"
#include "drivers/qcow2/cluster.h"
#include "drivers/qcow2/data_file.h"

static uint64_t sound_bitmap(const Qcow2Walk *walk, uint64_t entry,
                             uint64_t bitmap)
{
    Qcow2ClusterType type = qcow2_cluster_type(walk->header, entry);

    /* The first cluster of a data file is at offset 0. */
    if (type == QCOW2_CLUSTER_UNALLOCATED && (entry & QCOW2_ENTRY_COPIED) &&
        qcow2_has_data_file(qcow2_state(walk->bs))) {
        type = QCOW2_CLUSTER_NORMAL;
    }
    if (type == QCOW2_CLUSTER_INVALID || qcow2_bitmap_is_sound(type, bitmap)) {
        return bitmap;
    }
    switch (type) {
    case QCOW2_CLUSTER_COMPRESSED:
        return 0;
    case QCOW2_CLUSTER_UNALLOCATED:
        return bitmap & ~QCOW2_BITMAP_ALL_ALLOC;
    default:
        return bitmap & ~(bitmap << 32);
    }
}

static bool mend_table(Qcow2Walk *walk, int64_t host_offset, bool *changed,
                       GError **error)
{
    g_autofree be64 *table = g_malloc(walk->cluster_bytes);

    if (!qcow2_walk_read(walk, host_offset, walk->cluster_bytes, table,
                         error)) {
        return false;
    }
    for (int64_t i = 0; i < walk->cluster_bytes / 8; i += 2) {
        uint64_t old = be64_get(&table[i + 1]);
        uint64_t bitmap = sound_bitmap(walk, be64_get(&table[i]), old);
        int64_t at = host_offset + (i + 1) * 8;
        int ret;

        if (bitmap == old) {
            continue;
        }
        be64_set(&table[i + 1], bitmap);
        ret = bdrv_pwrite(walk->bs->file, at, sizeof(be64), &table[i + 1]);
        if (ret < 0) {
            error_set_errno(error, -ret, "cannot write a subcluster bitmap");
            return false;
        }
        *changed = true;
    }
    return true;
}

bool qcow2_walk_mend_bitmaps(Qcow2Walk *walk, bool *ret_changed,
                             GError **error)
{
    bool ok = true;

    *ret_changed = false;
    for (guint i = 0; ok && walk->bad_bitmaps && i < walk->bad_bitmaps->len;
         i++) {
        ok = mend_table(walk, g_array_index(walk->bad_bitmaps, int64_t, i),
                        ret_changed, error);
    }
    return ok;
}
