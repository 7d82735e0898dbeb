/* SPDX-License-Identifier: MIT */
/*
 * what the files that check and repair an image share: for check*.c only
 *
 * Control plane, node drained. False is an error of the file, in *error.
 */
#ifndef DRIVERS_QCOW2_CHECK_INTERNAL_H
#define DRIVERS_QCOW2_CHECK_INTERNAL_H

#include "drivers/qcow2/check.h"
#include "drivers/qcow2/check_walk.h"

/* One look at the image, with the refcount blocks read so far. */
typedef struct Check {
    Qcow2Walk walk;
    unsigned order;           /* of the refcounts */
    int64_t counts_per_block;
    int64_t cached_block;     /* table index of what @block holds; -1: none */
    uint8_t *block;
    bool needs_new_blocks;    /* a used cluster has no block for its count */
    bool has_shared;          /* a cluster with more than one reference */
    int64_t end_cluster;      /* one past the last used or counted one */
} Check;

/* check.c: to the image's own file. */
bool qcow2_check_write(Check *check, int64_t host_offset, int64_t bytes,
                       const void *buffer, GError **error);
bool qcow2_check_flush(Check *check, GError **error);

/* The refcount of @cluster on disk; 0 where it has no block. */
bool qcow2_check_disk_count(Check *check, int64_t cluster,
                            uint64_t *ret_count, GError **error);

/* Reports where the refcounts differ from what check->walk has counted. */
bool qcow2_check_compare(Check *check, GError **error);

/* Writes the counts that @fix allows to change into their blocks. */
bool qcow2_check_fix_in_place(Check *check, Qcow2CheckFix fix,
                              GError **error);

/*
 * qcow2_check_rebuild:
 * Writes all refcount structures anew, of the width check->order, and has the
 * header point at them. What the walk knows is wrong afterwards.
 */
bool qcow2_check_rebuild(Check *check, GError **error);

#endif
