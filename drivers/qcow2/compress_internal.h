/* SPDX-License-Identifier: MIT */
/*
 * what the files that read compressed clusters share: for compress*.c only
 */
#ifndef DRIVERS_QCOW2_COMPRESS_INTERNAL_H
#define DRIVERS_QCOW2_COMPRESS_INTERNAL_H

#include "drivers/qcow2/compress.h"
#include "drivers/qcow2/compress_cache.h"
#include "drivers/qcow2/inflate.h"

struct Qcow2Inflater {
    unsigned cluster_bits;
    unsigned processors; /* that may decode at a time */
    Qcow2Decoders *decoders;
    Qcow2ClusterCache *cache;
};

#endif
