/* SPDX-License-Identifier: MIT */
/*
 * host clusters that lost a reference, until their counts may drop (Q3)
 *
 *   open ──commit──▶ batch ──flushed──▶ waits for readers ──▶ counts drop
 *
 * What loses its last pointer goes to the open list. A commit closes the list
 * into a batch; when the loss is durable the batch starts its grace period,
 * and when that has passed the counts are lowered in memory. A cluster whose
 * count reaches 0 is free from then on.
 *
 * A count that would drop to 0 under a structure of the image is a lie of a
 * damaged image: it stays.
 *
 * Locking: every entry point expects q->lock to be held.
 */
#include "drivers/qcow2/data_file.h"
#include "drivers/qcow2/overlap.h"
#include "drivers/qcow2/qcow2.h"

#include <inttypes.h>

void qcow2_freed_batch_free(Qcow2FreedBatch *batch)
{
    if (batch) {
        g_array_unref(batch->freed);
        g_free(batch);
    }
}

void qcow2_freed_append(GArray *array, Qcow2Freed freed)
{
    Qcow2Freed *last =
        array->len ? &g_array_index(array, Qcow2Freed, array->len - 1) : NULL;

    if (last && last->host_offset + last->bytes == freed.host_offset &&
        last->reason == freed.reason) {
        last->bytes += freed.bytes;
    } else {
        g_array_append_val(array, freed);
    }
}

void qcow2_quarantine_add(BlockDriverState *bs, int64_t host_offset,
                          int64_t bytes, Qcow2FreeReason reason)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t start = align_down(host_offset, q->cluster_bytes);
    int64_t end = align_up(host_offset + bytes, q->cluster_bytes);

    qcow2_freed_append(q->quarantine.open,
                       (Qcow2Freed){ start, end - start, reason });
    q->quarantine.open_bytes += end - start;
}

void qcow2_quarantine_add_entry(BlockDriverState *bs, uint64_t entry,
                                Qcow2FreeReason reason)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t host_offset = entry & QCOW2_OFFSET_MASK;
    int64_t bytes = q->cluster_bytes;

    if (entry & QCOW2_L2_COMPRESSED) {
        host_offset = qcow2_compressed_offset(entry, q->cluster_bits);
        bytes = qcow2_compressed_bytes(entry, q->cluster_bits);
        q->quarantine.open_has_compressed = true;
    } else if (host_offset == 0 || qcow2_has_data_file(q)) {
        return; /* nothing, or nobody counts it */
    }
    if (host_offset >= qcow2_file_length(q) ||
        qcow2_hits_main_metadata(q, host_offset, bytes)) {
        g_debug("%s: a damaged L2 entry 0x%" PRIx64 " is dropped",
                bdrv_name(bs), entry);
        return;
    }
    qcow2_quarantine_add(bs, host_offset, bytes, reason);
}

Qcow2FreedBatch *qcow2_quarantine_close(BlockDriverState *bs)
{
    Qcow2Quarantine *quarantine = &qcow2_state(bs)->quarantine;
    Qcow2FreedBatch *batch;

    if (quarantine->open->len == 0) {
        return NULL;
    }
    batch = g_new0(Qcow2FreedBatch, 1);
    batch->freed = quarantine->open;
    batch->has_compressed = quarantine->open_has_compressed;
    batch->bytes = quarantine->open_bytes;
    quarantine->open = g_array_new(FALSE, FALSE, sizeof(Qcow2Freed));
    quarantine->open_has_compressed = false;
    quarantine->open_bytes = 0;
    return batch;
}

void qcow2_quarantine_reopen(BlockDriverState *bs, Qcow2FreedBatch *batch)
{
    Qcow2Quarantine *quarantine = &qcow2_state(bs)->quarantine;

    if (!batch) {
        return;
    }
    for (guint i = 0; i < batch->freed->len; i++) {
        qcow2_freed_append(quarantine->open,
                           g_array_index(batch->freed, Qcow2Freed, i));
    }
    quarantine->open_has_compressed |= batch->has_compressed;
    quarantine->open_bytes += batch->bytes;
    qcow2_freed_batch_free(batch);
}

void qcow2_quarantine_push(BlockDriverState *bs, Qcow2FreedBatch *batch)
{
    Qcow2State *q = qcow2_state(bs);

    if (!batch) {
        return;
    }
    batch->ticket = qcow2_epoch_retire(q->epoch);
    if (q->quarantine.last) {
        q->quarantine.last->next = batch;
    } else {
        q->quarantine.first = batch;
    }
    q->quarantine.last = batch;
}

bool qcow2_quarantine_is_ripe(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);

    if (!q->quarantine.first) {
        return false;
    }
    qcow2_epoch_poll(q->epoch);
    return qcow2_epoch_passed(q->epoch, q->quarantine.first->ticket);
}

Qcow2FreedBatch *qcow2_quarantine_pop(BlockDriverState *bs)
{
    Qcow2Quarantine *quarantine = &qcow2_state(bs)->quarantine;
    Qcow2FreedBatch *batch = quarantine->first;

    if (!qcow2_quarantine_is_ripe(bs)) {
        return NULL;
    }
    quarantine->first = batch->next;
    if (!quarantine->first) {
        quarantine->last = NULL;
    }
    batch->next = NULL;
    return batch;
}

/* One cluster of a batch loses its reference. */
static void coroutine_fn drop_cluster(BlockDriverState *bs, int64_t cluster)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t host_offset = cluster << q->cluster_bits;
    uint64_t count;

    /* On damage a leak is the safe side. */
    if (qcow2_refcount_of(bs, host_offset, &count) < 0 || count == 0 ||
        (count == 1 &&
         qcow2_overlaps_metadata(bs, QCOW2_OVERLAP_ALL, host_offset,
                                 q->cluster_bytes, NULL))) {
        return;
    }
    (void) qcow2_refcount_add(bs, host_offset, -1);
}

void coroutine_fn qcow2_quarantine_drop(BlockDriverState *bs,
                                        Qcow2FreedBatch *batch)
{
    Qcow2State *q = qcow2_state(bs);

    for (guint i = 0; i < batch->freed->len; i++) {
        Qcow2Freed *freed = &g_array_index(batch->freed, Qcow2Freed, i);
        int64_t start = freed->host_offset >> q->cluster_bits;
        int64_t count = freed->bytes >> q->cluster_bits;

        for (int64_t k = start; k < start + count; k++) {
            drop_cluster(bs, k);
        }
    }
    qcow2_freed_batch_free(batch);
}
