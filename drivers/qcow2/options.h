/* SPDX-License-Identifier: MIT */
/*
 * what a user may choose when a qcow2 image is opened, or reopened
 */
#ifndef DRIVERS_QCOW2_OPTIONS_H
#define DRIVERS_QCOW2_OPTIONS_H

#include "block/driver.h"
#include "drivers/qcow2/header.h"

/* Why a host cluster has been given up. */
typedef enum Qcow2FreeReason {
    QCOW2_FREE_REQUEST,  /* a guest's discard or zero-write */
    QCOW2_FREE_SNAPSHOT, /* a snapshot was removed or left */
    QCOW2_FREE_OTHER,    /* it was replaced: by a write, a longer table ... */
    QCOW2_FREE_REASONS,
} Qcow2FreeReason;

typedef struct Qcow2Options {
    int64_t l2_cache_bytes;
    int64_t l2_entry_bytes; /* of a slice: 512 to a cluster, a power of two */
    int64_t refcount_cache_bytes;
    int64_t clean_interval_s;  /* 0: never */
    unsigned overlap_classes;  /* of Qcow2OverlapClass */
    bool punch[QCOW2_FREE_REASONS]; /* freed clusters, out of the file */
    bool discard_no_unref; /* discarded clusters stay allocated */
} Qcow2Options;

/* For the driver's table; all but those of encryption may change at reopen. */
extern const BlockOptionDesc qcow2_options[];

/*
 * qcow2_options_take:
 * Takes our options out of @options and fits them to the image of @header:
 * caches are no larger than what they can hold. What encrypt.* says is left
 * there. OPTION: bad values, or such as contradict each other or the image.
 */
bool qcow2_options_take(BlockOptions *options, BdrvOpenFlags flags,
                        const Qcow2Header *header,
                        Qcow2Options *ret_opts, GError **error);

#endif
