/* SPDX-License-Identifier: MIT */
/*
 * encoding compressed clusters of a qcow2 image
 *
 * The other half of compress.h: a cluster's content -> the bytes that its
 * descriptor names. Where they go is packing.c's and cluster.c's business.
 */
#ifndef DRIVERS_QCOW2_DEFLATE_H
#define DRIVERS_QCOW2_DEFLATE_H

#include "block/types.h"

/* Encoders of one image, reused. */
typedef struct Qcow2Deflater Qcow2Deflater;

/* @compression_type as in the header, checked. Never fails. */
Qcow2Deflater *qcow2_deflater_new(unsigned compression_type);
/* Nobody may be encoding. NULL is harmless. */
void qcow2_deflater_free(Qcow2Deflater *deflater);

/*
 * qcow2_deflate:
 * Encodes @in_bytes to at most @out_bytes. Returns how many, 0 when they do
 * not suffice (then the data is better stored as it is), or -ENOMEM. Any
 * thread, many at a time.
 */
int64_t qcow2_deflate(Qcow2Deflater *deflater, const void *in,
                      size_t in_bytes, void *out, size_t out_bytes);

/* The same in a worker thread, while the calling coroutine sleeps. */
int64_t coroutine_fn qcow2_co_deflate(Qcow2Deflater *deflater, const void *in,
                                      size_t in_bytes, void *out,
                                      size_t out_bytes);

#endif
