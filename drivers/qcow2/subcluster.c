/* SPDX-License-Identifier: MIT */
/*
 * what an L2 entry says: the type of a cluster and of its subclusters
 *
 * An extended entry is damaged as a whole: one subcluster that is allocated
 * and zero at once makes all of them INVALID, because nobody knows which of
 * the bits to trust.
 *
 * Locking: none, pure functions.
 */
#include "drivers/qcow2/subcluster.h"

#include "drivers/qcow2/data_file.h"

Qcow2ClusterType qcow2_entry_type(uint64_t entry, unsigned version)
{
    if (entry & QCOW2_L2_COMPRESSED) {
        return QCOW2_CLUSTER_COMPRESSED;
    }
    if ((entry & QCOW2_L2_RESERVED) ||
        ((entry & QCOW2_L2_ZERO) && version < 3)) {
        return QCOW2_CLUSTER_INVALID;
    }
    if (entry & QCOW2_L2_ZERO) {
        return entry & QCOW2_OFFSET_MASK ? QCOW2_CLUSTER_ZERO_ALLOC
                                         : QCOW2_CLUSTER_ZERO_PLAIN;
    }
    return entry & QCOW2_OFFSET_MASK ? QCOW2_CLUSTER_NORMAL
                                     : QCOW2_CLUSTER_UNALLOCATED;
}

/* The first word of an extended entry: its zero flag is reserved. */
static Qcow2ClusterType extended_type(uint64_t word)
{
    if (word & QCOW2_L2_COMPRESSED) {
        return QCOW2_CLUSTER_COMPRESSED;
    }
    if (word & QCOW2_L2_RESERVED_EXTENDED) {
        return QCOW2_CLUSTER_INVALID;
    }
    return word & QCOW2_OFFSET_MASK ? QCOW2_CLUSTER_NORMAL
                                    : QCOW2_CLUSTER_UNALLOCATED;
}

Qcow2ClusterType qcow2_cluster_type(const Qcow2Header *header, uint64_t word)
{
    return header->incompatible & QCOW2_INCOMPAT_EXTENDED_L2
               ? extended_type(word)
               : qcow2_entry_type(word, header->version);
}

bool qcow2_bitmap_is_sound(Qcow2ClusterType type, uint64_t bitmap)
{
    if (type == QCOW2_CLUSTER_COMPRESSED) {
        return bitmap == 0;
    }
    if (type == QCOW2_CLUSTER_UNALLOCATED) {
        return (bitmap & QCOW2_BITMAP_ALL_ALLOC) == 0;
    }
    return (bitmap & bitmap >> 32) == 0;
}

/* By the two bits; @has_host: the cluster has one. */
static Qcow2ClusterType kind_type(unsigned kind, bool has_host)
{
    switch (kind) {
    case 0:
        return has_host ? QCOW2_CLUSTER_UNALLOCATED_ALLOC
                        : QCOW2_CLUSTER_UNALLOCATED;
    case 1:
        return QCOW2_CLUSTER_NORMAL;
    default:
        return has_host ? QCOW2_CLUSTER_ZERO_ALLOC : QCOW2_CLUSTER_ZERO_PLAIN;
    }
}

Qcow2ClusterType qcow2_subcluster_type(const Qcow2State *q,
                                       Qcow2L2Entry entry, unsigned index)
{
    Qcow2ClusterType type = qcow2_cluster_type(&q->header, entry.word);

    if (type == QCOW2_CLUSTER_COMPRESSED || type == QCOW2_CLUSTER_INVALID) {
        return type;
    }
    if (qcow2_in_cluster(q, entry.word & QCOW2_OFFSET_MASK) != 0) {
        return QCOW2_CLUSTER_INVALID;
    }
    /* The data file has guest data from its first byte on. */
    if (type == QCOW2_CLUSTER_UNALLOCATED &&
        (entry.word & QCOW2_ENTRY_COPIED) && qcow2_has_data_file(q)) {
        type = QCOW2_CLUSTER_NORMAL;
    }
    if (q->subclusters == 1) {
        return type;
    }
    return qcow2_bitmap_is_sound(type, entry.bitmap)
               ? kind_type(qcow2_bitmap_kind(entry.bitmap, index),
                           type == QCOW2_CLUSTER_NORMAL)
               : QCOW2_CLUSTER_INVALID;
}
