/* SPDX-License-Identifier: MIT */
/*
 * the error domain and the way from errno to it
 *
 * Only turns a number of the system into a kind and a sentence; where the
 * error happened is said by the callers, who prefix.
 *
 * Locking: none; everything here is reentrant.
 */
#include "block/error.h"

#include <errno.h>
#include <stdarg.h>

GQuark imgfuse_error_quark(void)
{
    return g_quark_from_static_string("imgfuse-error-quark");
}

static ImgfuseError code_from_errno(int errnum)
{
    switch (errnum) {
    case ENOENT:
    case ENOTDIR:
    case ENXIO:
    case ENODEV:
        return IMGFUSE_ERROR_NOT_FOUND;
    case EACCES:
    case EPERM:
    case EROFS:
        return IMGFUSE_ERROR_DENIED;
    case EBUSY:
    case ETXTBSY:
        return IMGFUSE_ERROR_LOCKED;
    case ENOTSUP:
    case ENOSYS:
        return IMGFUSE_ERROR_UNSUPPORTED;
    case EUCLEAN: /* what our data path says of a damaged image */
    case EBADMSG:
        return IMGFUSE_ERROR_CORRUPT;
    case EIO:
    case ENOSPC:
    case EDQUOT:
        return IMGFUSE_ERROR_IO;
    default:
        return IMGFUSE_ERROR_FAILED;
    }
}

void error_set_errno(GError **error, int errnum, const char *format, ...)
{
    g_autofree char *message = NULL;
    va_list args;

    va_start(args, format);
    message = g_strdup_vprintf(format, args);
    va_end(args);

    g_set_error(error, IMGFUSE_ERROR, code_from_errno(errnum), "%s: %s",
                message, g_strerror(errnum));
}
