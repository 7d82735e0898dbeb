/* SPDX-License-Identifier: MIT */
/*
 * guessing an image's format from its first bytes
 */
#ifndef BLOCK_GRAPH_PROBE_H
#define BLOCK_GRAPH_PROBE_H

#include "block/types.h"

/*
 * bdrv_probe_bytes:
 * The registered format that scores highest on @buffer; "raw" when none
 * claims it. Never NULL. Any thread.
 */
const BlockDriver *bdrv_probe_bytes(const uint8_t *buffer, size_t bytes,
                                    const char *filename);

/* Reads the start of @file and probes it. NULL with IO. Control plane. */
const BlockDriver *bdrv_probe_node(BlockDriverState *file, GError **error);

#endif
