/* SPDX-License-Identifier: MIT */
/*
 * names of nodes: what a user types, and what we would type to get it again
 *
 * A name is plain ("disk.qcow2", also "a:b" when no protocol is called a), or
 * prefixed ("nbd://host/x": the protocol driver splits it), or json:{...}.
 * bdrv_refresh_filename() of node.h is implemented here. Control plane.
 */
#ifndef BLOCK_GRAPH_FILENAME_H
#define BLOCK_GRAPH_FILENAME_H

#include "block/types.h"

/*
 * filename_protocol:
 * The protocol driver whose prefix @name begins with, and in @ret_rest (may
 * be NULL) what follows the colon; NULL when @name is plain.
 */
const BlockDriver *filename_protocol(const char *name, const char **ret_rest);

/* Does it begin with json:{ ? Then filename_json() is the object. */
bool filename_is_json(const char *name);
const char *filename_json(const char *name);

/*
 * filename_to_options:
 * Adds to @options, below @prefix ("" or "file."), the `driver` and the
 * options that mean @name, as far as they are not there. OPTION when the
 * protocol cannot read it.
 */
bool filename_to_options(const char *name, const char *prefix,
                         BlockOptions *options, GError **error);

/* @name as seen from folder @directory (may be NULL). The caller frees. */
char *filename_combine(const char *directory, const char *name);

/*
 * The folder in which the file @name really lies, links resolved; NULL when
 * it cannot be found out. The caller frees.
 */
char *filename_real_directory(const char *name);

/* A name from an image, made safe to show on a terminal. Caller frees. */
char *filename_for_message(const char *name);

/* The options that open @bs again, as json:{...}. The caller frees. */
char *filename_json_of_node(const BlockDriverState *bs);

#endif
