/* SPDX-License-Identifier: MIT */
/*
 * rebasing: an overlay gets another backing file and shows the same as before
 */
#ifndef BLOCK_IMAGE_REBASE_H
#define BLOCK_IMAGE_REBASE_H

#include "block/backend.h"

typedef struct ImageRebase {
    BlockBackend *overlay;     /* writable, open with its old backing file */
    BlockBackend *new_backing; /* NULL: none */
    unsigned coroutines;
    const int *cancel;         /* atomic; not 0: stop with ECANCELED */
    void (*progress)(void *opaque, int64_t done_bytes, int64_t total_bytes);
    void *opaque;
} ImageRebase;

/*
 * image_rebase_data:
 * Copies into the overlay what it does not have itself and what the old
 * backing file shows otherwise than the new one; then flushes. Backing files
 * read zeros behind their ends. The overlay shows the same at any time, also
 * after a failure: only its header is still to be changed. Control plane.
 */
bool image_rebase_data(const ImageRebase *rebase, GError **error);

/*
 * image_rebase_header:
 * The header of @overlay names @name (NULL: none) of @format as its backing
 * file, on the medium at the return. What the overlay shows is the caller's
 * business. UNSUPPORTED when the format cannot change it. The open node keeps
 * reading the old one. Control plane.
 */
bool image_rebase_header(BlockBackend *overlay, const char *name,
                         const char *format, GError **error);

#endif
