/* SPDX-License-Identifier: MIT */
/*
 * changing what an image is, not what it contains
 */
#ifndef BLOCK_IMAGE_AMEND_H
#define BLOCK_IMAGE_AMEND_H

#include "block/driver.h"

/*
 * image_amend:
 * Changes the properties in @options (consumed as far as known) of the image
 * that @blk has open for writing; `size` is common to all formats. False with
 * UNSUPPORTED (format has nothing to amend) or OPTION, and then nothing has
 * changed, or with what reading and writing said: some of the changes may be
 * done then, and the image is sound. Durable when true. Control plane.
 */
bool image_amend(BlockBackend *blk, BlockOptions *options,
                 const BlockAmendHow *how, GError **error);

#endif
