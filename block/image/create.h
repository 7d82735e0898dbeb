/* SPDX-License-Identifier: MIT */
/*
 * making new image files
 *
 * The bytes inside are the format's (BlockCreateOps); here is what is the same
 * for all: the size and the backing file are settled first, the file appears
 * under its name only when it is complete, and nothing is left behind when it
 * could not be made. Control plane.
 */
#ifndef BLOCK_IMAGE_CREATE_H
#define BLOCK_IMAGE_CREATE_H

#include "block/driver.h"

typedef struct ImageCreateRequest {
    const char *filename;
    const char *format;         /* "qcow2", "raw", ... */
    int64_t length;             /* -1: the backing file's */
    const char *backing_name;   /* as it will stand in the image, or NULL */
    const char *backing_format; /* required when there is a backing file */
    bool backing_unchecked;     /* do not open the backing file */
    bool replace;               /* an existing file is replaced, at the end */
    BlockOptions *options;      /* the format's own, or NULL; consumed */
    /*
     * Puts content into the empty image, which still has the name @path; a
     * failure is the creation's. NULL: it stays empty.
     */
    bool (*populate)(const char *path, void *opaque, GError **error);
    void *opaque; /* of populate */
} ImageCreateRequest;

/*
 * image_create:
 * True: the complete image is there under request->filename and on the
 * medium. False: nothing has changed; the error is UNSUPPORTED (format cannot
 * be created), OPTION, FAILED "exists" (without replace), NOT_FOUND (folder or
 * backing file), or what writing said.
 * A block device is written in place. *@ret_length (may be NULL): its length.
 */
bool image_create(const ImageCreateRequest *request, int64_t *ret_length,
                  GError **error);

/* For drivers: the backend's file to @length bytes. */
bool image_create_resize(BlockBackend *file, int64_t length,
                         BdrvPreallocMode prealloc, GError **error);

/* For drivers: writes all of @buffer, with the place in the error. */
bool image_create_write(BlockBackend *file, int64_t offset, int64_t bytes,
                        const void *buffer, GError **error);

#endif
