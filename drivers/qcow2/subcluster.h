/* SPDX-License-Identifier: MIT */
/*
 * what an L2 entry says: the type of a cluster and of its subclusters
 *
 * Without extended L2 entries a cluster is its one subcluster. Pure functions
 * of entries; no lock, no I/O.
 */
#ifndef DRIVERS_QCOW2_SUBCLUSTER_H
#define DRIVERS_QCOW2_SUBCLUSTER_H

#include "drivers/qcow2/qcow2.h"

typedef enum Qcow2ClusterType {
    QCOW2_CLUSTER_UNALLOCATED, /* the backing file, or zeros */
    QCOW2_CLUSTER_UNALLOCATED_ALLOC, /* the same, with a host cluster behind:
                                        of subclusters only */
    QCOW2_CLUSTER_ZERO_PLAIN,  /* zeros, no host cluster */
    QCOW2_CLUSTER_ZERO_ALLOC,  /* zeros, with a host cluster behind */
    QCOW2_CLUSTER_NORMAL,
    QCOW2_CLUSTER_COMPRESSED,
    QCOW2_CLUSTER_INVALID, /* reserved bits, unaligned offset, a bitmap that
                              cannot be: -EIO */
} Qcow2ClusterType;

/* Of a standard entry; @version 2 has no zero flag. */
Qcow2ClusterType qcow2_entry_type(uint64_t entry, unsigned version);

/*
 * qcow2_cluster_type:
 * Of a whole cluster: its entry, or the first word of an extended one, which
 * says NORMAL (there is a host cluster), UNALLOCATED (there is none),
 * COMPRESSED or INVALID. Offsets are not looked at.
 */
Qcow2ClusterType qcow2_cluster_type(const Qcow2Header *header, uint64_t word);

/* May a cluster of @type (as above) have this bitmap? */
bool qcow2_bitmap_is_sound(Qcow2ClusterType type, uint64_t bitmap);

/*
 * qcow2_subcluster_type:
 * Of subcluster @index of the cluster. INVALID also for an offset that no
 * cluster can have; a compressed cluster's bitmap is not looked at.
 */
Qcow2ClusterType qcow2_subcluster_type(const Qcow2State *q,
                                       Qcow2L2Entry entry, unsigned index);

static inline bool qcow2_has_host_cluster(Qcow2ClusterType type)
{
    return type == QCOW2_CLUSTER_NORMAL ||
           type == QCOW2_CLUSTER_ZERO_ALLOC ||
           type == QCOW2_CLUSTER_UNALLOCATED_ALLOC;
}

/* Bits @first to @first + @count - 1, in the allocation half. */
static inline uint64_t qcow2_bitmap_range(unsigned first, unsigned count)
{
    return ((UINT64_C(1) << count) - 1) << first;
}

/* The two bits of subcluster @index: 1 allocated, 2 reads zeros. */
static inline unsigned qcow2_bitmap_kind(uint64_t bitmap, unsigned index)
{
    return (bitmap >> index & 1) | (bitmap >> (index + 31) & 2);
}

/* How many subclusters from @index on are of that kind; 0: none. */
static inline unsigned qcow2_bitmap_run(uint64_t bitmap, unsigned index,
                                        unsigned kind)
{
    uint32_t allocated = (uint32_t)bitmap ^ (kind & 1 ? UINT32_MAX : 0);
    uint32_t zero = (uint32_t)(bitmap >> 32) ^ (kind & 2 ? UINT32_MAX : 0);
    uint64_t differs = (uint64_t)(allocated | zero) | UINT64_C(1) << 32;

    return __builtin_ctzll(differs >> index);
}

/* The alike subclusters of @entry from @index on: 1 without extended ones. */
static inline unsigned qcow2_subcluster_run(const Qcow2State *q,
                                            Qcow2L2Entry entry,
                                            unsigned index)
{
    return q->subclusters == 1
               ? 1
               : qcow2_bitmap_run(entry.bitmap, index,
                                  qcow2_bitmap_kind(entry.bitmap, index));
}

/* Index in its cluster of the subcluster at guest @offset. */
static inline unsigned qcow2_subcluster_index(const Qcow2State *q,
                                              int64_t offset)
{
    return (unsigned)(qcow2_in_cluster(q, offset) >> q->subcluster_bits);
}

#endif
