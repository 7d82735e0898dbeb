/* SPDX-License-Identifier: MIT */
/*
 * decoding compressed clusters of a qcow2 image
 *
 * The other half of deflate.h: the bytes that a descriptor names -> the
 * content of a cluster. Where they come from and who keeps the result is
 * compress.c's business.
 */
#ifndef DRIVERS_QCOW2_INFLATE_H
#define DRIVERS_QCOW2_INFLATE_H

#include "block/types.h"

/* Decoders of one image, reused. */
typedef struct Qcow2Decoders Qcow2Decoders;

/* @compression_type as in the header, checked. Never fails. */
Qcow2Decoders *qcow2_decoders_new(unsigned compression_type);
/* Nobody may be decoding. */
void qcow2_decoders_free(Qcow2Decoders *decoders);

/*
 * qcow2_decode:
 * Exactly @out_bytes, a whole cluster, from @in. Garbage behind the end of the
 * stream is normal. 0; -EIO: not a stream, or one of another length; -ENOMEM.
 * Any thread, many at a time.
 */
int qcow2_decode(Qcow2Decoders *decoders, const void *in, size_t in_bytes,
                 void *out, size_t out_bytes);

/*
 * qcow2_decode_prefix:
 * The first @out_bytes of a cluster, in about the part of the time that they
 * are of the cluster. What follows them is not looked at: damage there goes
 * unnoticed. 0; -EIO; -ENOTSUP unless qcow2_can_decode_prefix(). Any thread.
 */
int qcow2_decode_prefix(Qcow2Decoders *decoders, const void *in,
                        size_t in_bytes, void *out, size_t out_bytes);
bool qcow2_can_decode_prefix(const Qcow2Decoders *decoders);

#endif
