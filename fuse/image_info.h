/* SPDX-License-Identifier: MIT */
/*
 * facts of an image as JSON, for the commands and for files in the mount
 */
#ifndef FUSE_IMAGE_INFO_H
#define FUSE_IMAGE_INFO_H

#include "block/image/map.h"

#include <json-glib/json-glib.h>

/*
 * image_info_of_node:
 * What 'imgfuse info' says of the format node @bs, whose file the user calls
 * @filename. The caller unrefs. Control plane; does I/O.
 */
JsonObject *image_info_of_node(BlockDriverState *bs, const char *filename);

/* Each snapshot in it, maybe none; the caller unrefs. Control plane. */
JsonArray *image_info_snapshots(BlockDriverState *bs);

/* One line of 'imgfuse map --output=json', with the comma before it. */
void image_info_append_extent(GString *text, const ImageMapExtent *extent,
                              bool is_first);

/* @root, consumed, indented as qemu-img does, with a newline; caller frees. */
char *image_info_text(JsonNode *root);

#endif
