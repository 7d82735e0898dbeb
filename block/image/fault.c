/* SPDX-License-Identifier: MIT */
/*
 * a fault: what failed first while a whole image was worked on
 *
 * Locking: none. The first to set is_noted owns the rest until the threads
 * that might note are joined; only then is it read.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "block/image/fault.h"

#include <inttypes.h>

int image_fault_note(ImageFault *fault, int ret, const char *what,
                     const char *name, int64_t offset, int64_t bytes)
{
    if (ret < 0 &&
        !__atomic_exchange_n(&fault->is_noted, true, __ATOMIC_SEQ_CST)) {
        fault->ret = ret;
        fault->what = what;
        fault->name = g_strdup(name);
        fault->offset = offset;
        fault->bytes = bytes;
    }
    return ret;
}

bool image_fault_tell(const ImageFault *fault, GError **error)
{
    if (!fault->is_noted) {
        return false;
    }
    /* Its own result: the caller's may be that of a later request. */
    error_set_errno(error, -fault->ret, "%s: cannot %s %" PRId64
                    " bytes at offset %" PRId64, fault->name, fault->what,
                    fault->bytes, fault->offset);
    return true;
}

void image_fault_clear(ImageFault *fault)
{
    g_clear_pointer(&fault->name, g_free);
}
