/* SPDX-License-Identifier: MIT */
/*
 * room for compressed clusters: several of them share a host cluster
 *
 *   host clusters  |   7   |   8   |
 *   compressed     [ A ][ B ][ C ]          C touches 7 and 8
 *   refcounts        3       1              one for each that touches it
 *
 * The next piece starts where the last one ended (packing_offset), at any
 * byte. When it does not fit into the rest of that host cluster a new one is
 * taken, and the piece spans both if the new one happens to follow.
 *
 * Always true:
 *  P1  packing_offset is 0 or inside a host cluster with a count of at least
 *      1 (qcow2_refcount_add() sees to it when a count drops to 0);
 *  P2  bytes before it in that cluster were handed out, and are not handed
 *      out again before the whole cluster was free.
 *
 * Locking: q->lock is held.
 */
#include "drivers/qcow2/packing.h"

#include "block/io/debug_event.h"
#include "drivers/qcow2/qcow2.h"

#include <errno.h>

/* The piece ended at @end: where the next one may start. */
static void set_offset(Qcow2State *q, int64_t end)
{
    q->packing_offset = qcow2_in_cluster(q, end) ? end : 0;
}

/* In what is left of the last host cluster. -ERANGE: cannot be. */
static int coroutine_fn pack_in_rest(BlockDriverState *bs, int64_t bytes,
                                     int64_t *ret_host_offset)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t start = q->packing_offset;
    int ret;

    if (start == 0 ||
        bytes > q->cluster_bytes - qcow2_in_cluster(q, start)) {
        return -ERANGE;
    }
    ret = qcow2_refcount_add(bs, start, 1);
    if (ret >= 0) {
        set_offset(q, start + bytes);
        *ret_host_offset = start;
    }
    return ret;
}

int coroutine_fn qcow2_pack(BlockDriverState *bs, int64_t bytes,
                            int64_t *ret_host_offset)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t rest, fresh, got;
    int ret;

    bdrv_debug_event(bs->file, BLOCK_DEBUG_CLUSTER_ALLOC_BYTES);
    ret = pack_in_rest(bs, bytes, ret_host_offset);
    if (ret != -ERANGE) {
        return ret;
    }
    ret = qcow2_alloc_clusters(bs, /* wanted= */ 1, /* needed= */ 1, &fresh,
                               &got);
    if (ret < 0) {
        return ret;
    }
    /* Allocating may have taken away what was left (P1). */
    rest = q->packing_offset;
    if (rest != 0 && align_up(rest, q->cluster_bytes) == fresh &&
        qcow2_refcount_add(bs, rest, 1) >= 0) {
        fresh = rest;
    }
    set_offset(q, fresh + bytes);
    q->allocated_since_barrier = true;
    *ret_host_offset = fresh;
    return 0;
}

void coroutine_fn qcow2_unpack(BlockDriverState *bs, int64_t host_offset,
                               int64_t bytes)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t at = align_down(host_offset, q->cluster_bytes);

    for (; at < host_offset + bytes; at += q->cluster_bytes) {
        (void) qcow2_refcount_add(bs, at, -1); /* a leak at worst */
    }
}
