/* SPDX-License-Identifier: MIT */
/*
 * the first cluster of a qcow2 image, written anew
 */
#ifndef DRIVERS_QCOW2_REWRITE_H
#define DRIVERS_QCOW2_REWRITE_H

#include "drivers/qcow2/qcow2.h"

/* A copy with strings of its own, for qcow2_header_clear(). */
Qcow2Header qcow2_header_copy(const Qcow2Header *header);

/* Would the first cluster hold it? Reads the file. */
bool qcow2_header_has_room(BlockDriverState *bs, const Qcow2Header *wanted);

/*
 * qcow2_header_rewrite:
 * The header says from now on, on the medium when it returns, what @wanted
 * does about version, feature bits, backing file and data file; the rest of it
 * and extensions that we do not know stay. q->header and the node's backing
 * names follow. The metadata has been flushed. False: nothing has changed
 * (NAMETOOLONG when the cluster has no room), or the medium failed. Control
 * plane, node drained.
 */
bool qcow2_header_rewrite(BlockDriverState *bs, const Qcow2Header *wanted,
                          GError **error);

#endif
