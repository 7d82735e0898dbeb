/* SPDX-License-Identifier: MIT */
/*
 * the error domain of the control plane
 *
 * Control-plane functions return bool (or a pointer) and fill a GError of
 * this domain. The code says what kind of fact was met, so that a caller may
 * react; the message says the fact with its numbers. Data-plane functions
 * never use it: they return 0 or -errno.
 */
#ifndef BLOCK_ERROR_H
#define BLOCK_ERROR_H

#include <glib.h>

#define IMGFUSE_ERROR (imgfuse_error_quark())

typedef enum ImgfuseError {
    IMGFUSE_ERROR_FAILED,      /* an operation failed; nothing more precise */
    IMGFUSE_ERROR_CORRUPT,     /* the image's bytes break its format */
    IMGFUSE_ERROR_UNSUPPORTED, /* valid, but not something we can do */
    IMGFUSE_ERROR_NOT_FOUND,   /* a file, node or name does not exist */
    IMGFUSE_ERROR_DENIED,      /* the system refused (EACCES, EPERM, EROFS) */
    IMGFUSE_ERROR_LOCKED,      /* somebody else uses the image */
    IMGFUSE_ERROR_FORBIDDEN,   /* the reference policy refused a name */
    IMGFUSE_ERROR_OPTION,      /* an option is unknown or has a bad value */
    IMGFUSE_ERROR_IO,          /* reading or writing failed */
    IMGFUSE_ERROR_CONFLICT,    /* permissions of two users of a node clash */
} ImgfuseError;

GQuark imgfuse_error_quark(void);

/*
 * error_set_errno:
 * Fills @error from a positive @errnum: the code is chosen from it (ENOENT ->
 * NOT_FOUND, EACCES -> DENIED, ...), the message is @format followed by ": "
 * and the system's text for it.
 */
void error_set_errno(GError **error, int errnum, const char *format, ...)
    G_GNUC_PRINTF(3, 4);

#endif
