/* SPDX-License-Identifier: MIT */
/*
 * building a graph: from a name and options to an open node
 *
 * A reference is a node name, a filename ("disk.qcow2"), a prefixed name
 * ("nbd://host"), or json:{...}; options say the rest. Without `driver` the
 * format is probed on a file node made from the rest. Control plane.
 */
#ifndef BLOCK_GRAPH_OPEN_H
#define BLOCK_GRAPH_OPEN_H

#include "block/graph/options.h"
#include "block/types.h"

/* The format of overlays that we make: no one else above drivers/ names one. */
#define BDRV_OVERLAY_FORMAT "qcow2"

/* Options of every node, beside its driver's; ended by a NULL name. */
extern const BlockOptionDesc bdrv_common_options[];

/*
 * bdrv_open:
 * @filename (may be NULL) and @options (taken over, may be NULL) -> a node of
 * which the caller gets one count, with its whole chain below. @policy governs
 * what images name; NULL allows nothing beyond the image's own folder.
 * The error says which layer it is about and how it was reached.
 * BDRV_O_PROBED is set in the node's open_flags when the format was guessed.
 * With option `snapshot` (of the root only) and BDRV_O_RDWR, what is written
 * goes to a temporary overlay, and the image is opened read-only.
 */
BlockDriverState *bdrv_open(const char *filename, BlockOptions *options,
                            BdrvOpenFlags flags, ReferencePolicy *policy,
                            GError **error);

/*
 * bdrv_open_child:
 * For drivers, in open: makes the child @name of @parent from the reference
 * or subtree that @options has under @name and attaches it. When absent:
 * error if @required, else *ret_child NULL. The policy is the one of the
 * graph being opened.
 */
bool bdrv_open_child(BlockDriverState *parent, BlockOptions *options,
                     const char *name, BdrvChildRole role, bool required,
                     BdrvChild **ret_child, GError **error);

/*
 * bdrv_open_file_child:
 * The usual first step of formats and filters: opens child "file" (role
 * IMAGE for formats, FILTERED | PRIMARY for filters) into parent->file.
 */
bool bdrv_open_file_child(BlockDriverState *parent, BlockOptions *options,
                          GError **error);

/*
 * bdrv_open_referenced_child:
 * A child that the image itself names (data file, extent): @image_name passes
 * the reference policy, relative to @parent's folder. Options under @name
 * override it. @driver names the child's format ("file" or "raw", ...).
 */
bool bdrv_open_referenced_child(BlockDriverState *parent,
                                BlockOptions *options, const char *name,
                                const char *image_name, const char *driver,
                                BdrvChildRole role, BdrvChild **ret_child,
                                GError **error);

/*
 * bdrv_open_node runs this after the driver's open: opens the backing file
 * that bs->backing_name and backing_format name (or options override).
 * Backing layers are opened read-only. A circle is refused by file identity.
 */
bool bdrv_open_backing(BlockDriverState *bs, BlockOptions *options,
                       GError **error);

#endif
