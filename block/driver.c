/* SPDX-License-Identifier: MIT */
/*
 * the list of drivers, and the defaults that complete their tables
 *
 * A driver's table says what it is and leaves the rest out. Here every gap is
 * closed once: a filter forwards to the child it shows, everything else gets
 * -ENOTSUP or a neutral answer. So nobody else tests members for NULL, but for
 * refresh_filename, whose default is in graph/filename.c.
 *
 * Always true outside a function of this file:
 *  B1  no two registered drivers have the same format or protocol name;
 *  B2  a registered table has no NULL function but refresh_filename, and its
 *      perm and reopen tables are complete.
 *
 * Locking: none. Drivers are registered at start-up, then the list is
 * constant and any thread may read it.
 */
#include "block/driver.h"

#include "block/graph/device.h"
#include "block/graph/edge.h"
#include "block/graph/open.h"
#include "block/graph/perm.h"
#include "block/io/io.h"
#include "block/io/status.h"

#include <errno.h>
#include <string.h>

static GPtrArray *drivers; /* of BlockDriver *, completed copies */

/* ---- neutral lifecycle -------------------------------------------------- */

static int default_probe(const uint8_t *buffer, size_t bytes,
                         const char *filename)
{
    return 0;
}

static bool default_parse_filename(const char *filename, BlockOptions *options,
                                   GError **error)
{
    const char *colon = strchr(filename, ':');

    g_assert(colon != NULL); /* asked only for names with our prefix */
    block_options_set_string(options, "filename", colon + 1);
    return true;
}

/* Filters; formats and protocols cannot do without (check_table()). */
static bool default_open(BlockDriverState *bs, BlockOptions *options,
                         BdrvOpenFlags flags, GError **error)
{
    if (bs->drv->is_filter) {
        return bdrv_open_file_child(bs, options, error);
    }
    return true;
}

static void default_nothing(BlockDriverState *bs)
{
}

static bool default_drain_poll(BlockDriverState *bs)
{
    return false;
}

static bool replaces_nothing(BlockDriverState *bs,
                             BlockDriverState *to_replace)
{
    return false;
}

static bool forward_can_replace(BlockDriverState *bs,
                                BlockDriverState *to_replace)
{
    return bdrv_recurse_can_replace(bdrv_filter_child(bs)->bs, to_replace);
}

static int default_inactivate(BlockDriverState *bs)
{
    return 0;
}

static bool default_invalidate_cache(BlockDriverState *bs, GError **error)
{
    return true;
}

static bool default_check_perm(BlockDriverState *bs, uint32_t perm,
                               uint32_t shared, GError **error)
{
    return true;
}

static void default_set_perm(BlockDriverState *bs, uint32_t perm,
                             uint32_t shared)
{
}

/* A protocol opened its file for one purpose; others only pass it on. */
static bool default_reopen_prepare(BlockReopenState *state, GError **error)
{
    BlockDriverState *bs = state->bs;

    if (bs->drv->is_format || bs->drv->is_filter ||
        ((bs->open_flags ^ state->flags) &
         (BDRV_O_RDWR | BDRV_O_NOCACHE)) == 0) {
        return true;
    }
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                "driver '%s' cannot change how it opened its file while in "
                "use", bs->drv->format_name);
    return false;
}

static void default_reopen_end(BlockReopenState *state)
{
}

/* ---- I/O that is not there ---------------------------------------------- */

static int coroutine_fn no_preadv(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes, IoVec *iov,
                                  size_t iov_offset, BdrvRequestFlags flags)
{
    return -ENOTSUP;
}

static int coroutine_fn no_range(BlockDriverState *bs, int64_t offset,
                                 int64_t bytes)
{
    return -ENOTSUP;
}

static int coroutine_fn no_pwrite_zeroes(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes,
                                         BdrvRequestFlags flags)
{
    return -ENOTSUP;
}

static int coroutine_fn no_pwritev_compressed(BlockDriverState *bs,
                                              int64_t offset, int64_t bytes,
                                              IoVec *iov, size_t iov_offset)
{
    return -ENOTSUP;
}

static int coroutine_fn data_block_status(BlockDriverState *bs, bool want_zero,
                                          int64_t offset, int64_t bytes,
                                          BlockStatus *ret_status)
{
    *ret_status = (BlockStatus){
        .flags = BDRV_BLOCK_DATA | BDRV_BLOCK_ALLOCATED,
        .bytes = bytes,
    };
    return 0;
}

static int coroutine_fn no_flush_needed(BlockDriverState *bs)
{
    return 0;
}

static int coroutine_fn no_truncate(BlockDriverState *bs, int64_t length,
                                    bool exact, BdrvPreallocMode prealloc,
                                    BdrvRequestFlags flags, GError **error)
{
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                "driver '%s' cannot change the length", bs->drv->format_name);
    return -ENOTSUP;
}

static int64_t coroutine_fn stored_length(BlockDriverState *bs)
{
    return bdrv_node_length(bs);
}

int coroutine_fn bdrv_refuse_copy_range(BlockDriverState *bs, BdrvChild *src,
                                        int64_t src_offset, BdrvChild *dst,
                                        int64_t dst_offset, int64_t bytes,
                                        BdrvRequestFlags flags)
{
    return -ENOTSUP;
}

static int64_t coroutine_fn sum_of_children(BlockDriverState *bs)
{
    int64_t sum = 0;
    bool any = false;

    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = bs->children->pdata[i];
        int64_t part;

        if (child->role & BDRV_CHILD_COW) {
            continue; /* another layer's bytes */
        }
        part = bdrv_co_get_allocated_file_size(child->bs);
        if (part < 0) {
            return part;
        }
        sum += part;
        any = true;
    }
    return any ? sum : -ENOTSUP;
}

/* ---- filters forward ---------------------------------------------------- */

static int coroutine_fn forward_preadv(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, IoVec *iov,
                                       size_t iov_offset,
                                       BdrvRequestFlags flags)
{
    return bdrv_co_preadv(bdrv_filter_child(bs), offset, bytes, iov,
                          iov_offset, flags);
}

static int coroutine_fn forward_pwritev(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes, IoVec *iov,
                                        size_t iov_offset,
                                        BdrvRequestFlags flags)
{
    return bdrv_co_pwritev(bdrv_filter_child(bs), offset, bytes, iov,
                           iov_offset, flags);
}

static int coroutine_fn forward_pwrite_zeroes(BlockDriverState *bs,
                                              int64_t offset, int64_t bytes,
                                              BdrvRequestFlags flags)
{
    return bdrv_co_pwrite_zeroes(bdrv_filter_child(bs), offset, bytes, flags);
}

static int coroutine_fn forward_pdiscard(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes)
{
    return bdrv_co_pdiscard(bdrv_filter_child(bs), offset, bytes);
}

static int coroutine_fn forward_pwritev_compressed(BlockDriverState *bs,
                                                   int64_t offset,
                                                   int64_t bytes, IoVec *iov,
                                                   size_t iov_offset)
{
    return bdrv_co_pwritev(bdrv_filter_child(bs), offset, bytes, iov,
                           iov_offset, BDRV_REQ_WRITE_COMPRESSED);
}

static int coroutine_fn forward_block_status(BlockDriverState *bs,
                                             bool want_zero, int64_t offset,
                                             int64_t bytes,
                                             BlockStatus *ret_status)
{
    *ret_status = (BlockStatus){
        .flags = BDRV_BLOCK_RAW | BDRV_BLOCK_OFFSET_VALID,
        .bytes = bytes,
        .host_offset = offset,
        .file = bdrv_filter_child(bs)->bs,
    };
    return 0;
}

static int coroutine_fn forward_truncate(BlockDriverState *bs, int64_t length,
                                         bool exact, BdrvPreallocMode prealloc,
                                         BdrvRequestFlags flags,
                                         GError **error)
{
    return bdrv_co_truncate(bdrv_filter_child(bs), length, exact, prealloc,
                            flags, error);
}

static int64_t coroutine_fn forward_getlength(BlockDriverState *bs)
{
    return bdrv_co_getlength(bdrv_filter_child(bs)->bs);
}

static int coroutine_fn forward_copy_range_from(BlockDriverState *bs,
                                                BdrvChild *src,
                                                int64_t src_offset,
                                                BdrvChild *dst,
                                                int64_t dst_offset,
                                                int64_t bytes,
                                                BdrvRequestFlags flags)
{
    return bdrv_co_copy_range_from(bdrv_filter_child(bs), src_offset, dst,
                                   dst_offset, bytes, flags);
}

static int coroutine_fn forward_copy_range_to(BlockDriverState *bs,
                                              BdrvChild *src,
                                              int64_t src_offset,
                                              BdrvChild *dst,
                                              int64_t dst_offset,
                                              int64_t bytes,
                                              BdrvRequestFlags flags)
{
    return bdrv_co_copy_range_to(src, src_offset, bdrv_filter_child(bs),
                                 dst_offset, bytes, flags);
}

static int coroutine_fn no_ioctl(BlockDriverState *bs, unsigned long request,
                                 void *argument)
{
    return -ENOTSUP;
}

static int coroutine_fn forward_ioctl(BlockDriverState *bs,
                                      unsigned long request, void *argument)
{
    return bdrv_co_ioctl(bdrv_filter_child(bs)->bs, request, argument);
}

/* ---- facts -------------------------------------------------------------- */

static int no_blocksizes(BlockDriverState *bs, BlockSizes *ret_sizes)
{
    return -ENOTSUP;
}

static int forward_blocksizes(BlockDriverState *bs, BlockSizes *ret_sizes)
{
    return bdrv_probe_blocksizes(bdrv_filter_child(bs)->bs, ret_sizes);
}

static int no_geometry(BlockDriverState *bs, BlockGeometry *ret_geometry)
{
    return -ENOTSUP;
}

static int forward_geometry(BlockDriverState *bs, BlockGeometry *ret_geometry)
{
    return bdrv_probe_geometry(bdrv_filter_child(bs)->bs, ret_geometry);
}

static bool no_info(BlockDriverState *bs, BlockDriverInfo *info)
{
    return false;
}

static bool forward_info(BlockDriverState *bs, BlockDriverInfo *info)
{
    BlockDriverState *shown = bdrv_filter_child(bs)->bs;

    return shown->drv != NULL && shown->drv->get_info(shown, info);
}

static JsonNode *no_specific_info(BlockDriverState *bs)
{
    return NULL;
}

static bool no_zero_init(BlockDriverState *bs)
{
    return false;
}

static bool forward_zero_init(BlockDriverState *bs)
{
    BlockDriverState *shown = bdrv_filter_child(bs)->bs;

    return shown->drv != NULL && shown->drv->has_zero_init(shown);
}

/* ---- completing a table ------------------------------------------------- */

#define COMPLETE(table, member, value)   \
    do {                                 \
        if ((table)->member == NULL) {   \
            (table)->member = (value);   \
        }                                \
    } while (0)

static void complete_lifecycle(BlockDriver *driver)
{
    COMPLETE(driver, probe, default_probe);
    COMPLETE(driver, parse_filename, default_parse_filename);
    COMPLETE(driver, open, default_open);
    COMPLETE(driver, close, default_nothing);
    COMPLETE(driver, refresh_limits, default_nothing);
    COMPLETE(driver, drain_begin, default_nothing);
    COMPLETE(driver, drain_poll, default_drain_poll);
    COMPLETE(driver, drain_end, default_nothing);
    COMPLETE(driver, cancel_in_flight, default_nothing);
    COMPLETE(driver, inactivate, default_inactivate);
    COMPLETE(driver, invalidate_cache, default_invalidate_cache);
}

static void complete_perm(BlockDriver *driver)
{
    BlockPermOps *ops = g_new0(BlockPermOps, 1);

    if (driver->perm != NULL) {
        *ops = *driver->perm;
    }
    COMPLETE(ops, check_perm, default_check_perm);
    COMPLETE(ops, set_perm, default_set_perm);
    COMPLETE(ops, abort_perm_update, default_nothing);
    COMPLETE(ops, child_perm, bdrv_default_perms);
    driver->perm = ops;
}

static void complete_reopen(BlockDriver *driver)
{
    BlockReopenOps *ops = g_new0(BlockReopenOps, 1);

    if (driver->reopen != NULL) {
        *ops = *driver->reopen;
    }
    COMPLETE(ops, prepare, default_reopen_prepare);
    COMPLETE(ops, commit, default_reopen_end);
    COMPLETE(ops, commit_post, default_reopen_end);
    COMPLETE(ops, abort, default_reopen_end);
    driver->reopen = ops;
}

static void complete_filter(BlockDriver *driver)
{
    COMPLETE(driver, co_preadv, forward_preadv);
    COMPLETE(driver, co_pwritev, forward_pwritev);
    COMPLETE(driver, co_pwrite_zeroes, forward_pwrite_zeroes);
    COMPLETE(driver, co_pdiscard, forward_pdiscard);
    COMPLETE(driver, co_pwritev_compressed, forward_pwritev_compressed);
    COMPLETE(driver, co_block_status, forward_block_status);
    COMPLETE(driver, co_truncate, forward_truncate);
    COMPLETE(driver, co_getlength, forward_getlength);
    COMPLETE(driver, co_copy_range_from, forward_copy_range_from);
    COMPLETE(driver, co_copy_range_to, forward_copy_range_to);
    COMPLETE(driver, recurse_can_replace, forward_can_replace);
    COMPLETE(driver, co_ioctl, forward_ioctl);
    COMPLETE(driver, probe_blocksizes, forward_blocksizes);
    COMPLETE(driver, probe_geometry, forward_geometry);
    COMPLETE(driver, get_info, forward_info);
    COMPLETE(driver, has_zero_init, forward_zero_init);
}

static void complete_io(BlockDriver *driver)
{
    COMPLETE(driver, co_preadv, no_preadv);
    COMPLETE(driver, co_pwritev, no_preadv);
    COMPLETE(driver, co_pwrite_zeroes, no_pwrite_zeroes);
    COMPLETE(driver, co_pdiscard, no_range);
    driver->can_compress = driver->co_pwritev_compressed != NULL;
    COMPLETE(driver, co_pwritev_compressed, no_pwritev_compressed);
    COMPLETE(driver, co_block_status, data_block_status);
    COMPLETE(driver, co_flush_to_os, no_flush_needed);
    COMPLETE(driver, co_flush_to_disk, no_flush_needed);
    COMPLETE(driver, co_truncate, no_truncate);
    COMPLETE(driver, co_getlength, stored_length);
    COMPLETE(driver, co_copy_range_from, bdrv_refuse_copy_range);
    COMPLETE(driver, co_copy_range_to, bdrv_refuse_copy_range);
    COMPLETE(driver, co_get_allocated_file_size, sum_of_children);
    COMPLETE(driver, recurse_can_replace, replaces_nothing);
    COMPLETE(driver, co_ioctl, no_ioctl);
    COMPLETE(driver, probe_blocksizes, no_blocksizes);
    COMPLETE(driver, probe_geometry, no_geometry);
    COMPLETE(driver, get_info, no_info);
    COMPLETE(driver, get_specific_info, no_specific_info);
    COMPLETE(driver, has_zero_init, no_zero_init);
}

/* Our own tables are constant: a bad one is a bug, found at start-up. */
static void check_table(const BlockDriver *driver)
{
    if (driver->format_name == NULL || driver->format_name[0] == '\0') {
        g_error("a driver has no name");
    }
    if (driver->is_filter && driver->is_format) {
        g_error("driver '%s' is a filter and a format", driver->format_name);
    }
    if (driver->is_format && driver->protocol_name != NULL) {
        g_error("driver '%s' is a format and a protocol", driver->format_name);
    }
    if (driver->is_filter && driver->supports_backing) {
        g_error("filter '%s' has a backing file", driver->format_name);
    }
    if (driver->filtered_child_is_backing && !driver->is_filter) {
        g_error("driver '%s' filters its backing child but is no filter",
                driver->format_name);
    }
    if (!driver->is_filter && driver->open == NULL) {
        g_error("driver '%s' cannot be opened", driver->format_name);
    }
    if (bdrv_find_format(driver->format_name) != NULL ||
        (driver->protocol_name != NULL &&
         bdrv_find_protocol(driver->protocol_name) != NULL)) {
        g_error("driver '%s' is registered twice", driver->format_name);
    }
}

void bdrv_register(const BlockDriver *driver)
{
    BlockDriver *copy;

    check_table(driver); /* B1 */
    copy = g_memdup2(driver, sizeof(*driver));
    complete_lifecycle(copy);
    complete_perm(copy);
    complete_reopen(copy);
    if (copy->is_filter) {
        complete_filter(copy);
    }
    complete_io(copy); /* B2 */
    if (drivers == NULL) {
        drivers = g_ptr_array_new();
    }
    g_ptr_array_add(drivers, copy);
}

/* ---- finding ------------------------------------------------------------ */

const BlockDriver *bdrv_find_protocol(const char *protocol_name)
{
    for (guint i = 0; drivers != NULL && i < drivers->len; i++) {
        const BlockDriver *driver = drivers->pdata[i];

        if (g_strcmp0(driver->protocol_name, protocol_name) == 0) {
            return driver;
        }
    }
    return NULL;
}

const BlockDriver *bdrv_find_format(const char *name)
{
    for (guint i = 0; drivers != NULL && i < drivers->len; i++) {
        const BlockDriver *driver = drivers->pdata[i];

        if (strcmp(driver->format_name, name) == 0) {
            return driver;
        }
    }
    return bdrv_find_protocol(name);
}

void bdrv_foreach_driver(void (*visit)(const BlockDriver *driver,
                                       void *opaque),
                         void *opaque)
{
    for (guint i = 0; drivers != NULL && i < drivers->len; i++) {
        visit(drivers->pdata[i], opaque);
    }
}
