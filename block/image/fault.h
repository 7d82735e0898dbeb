/* SPDX-License-Identifier: MIT */
/*
 * a fault: what failed first while a whole image was worked on
 *
 * Work on a whole image is many small requests, of which one fails with a bare
 * errno, deep inside a coroutine. Who made the request notes here what it was
 * for; who waits for the whole tells it as one line.
 */
#ifndef BLOCK_IMAGE_FAULT_H
#define BLOCK_IMAGE_FAULT_H

#include "block/types.h"

/* Starts out zeroed. */
typedef struct ImageFault {
    int is_noted; /* atomic: the one who sets it fills the rest */
    int ret;
    const char *what; /* "read", "write", ... */
    char *name;       /* of the image; owned */
    int64_t offset;
    int64_t bytes;
} ImageFault;

/*
 * image_fault_note:
 * Notes that @what failed with @ret on @bytes from @offset of the image
 * @name, unless @ret is no error or another request was first. Returns @ret.
 * Any thread; @what is a constant.
 */
int image_fault_note(ImageFault *fault, int ret, const char *what,
                     const char *name, int64_t offset, int64_t bytes);

/*
 * image_fault_tell:
 * Sets @error to what was noted. False when nothing was. When nobody can note
 * any more.
 */
bool image_fault_tell(const ImageFault *fault, GError **error);

void image_fault_clear(ImageFault *fault);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ImageFault, image_fault_clear)

#endif
