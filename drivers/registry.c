/* SPDX-License-Identifier: MIT */
/*
 * the one list of built-in drivers
 *
 * The order is the order of `help` and, between formats that are equally sure
 * of themselves, of probing. Drivers know nothing of this file.
 *
 * Locking: none; called once at start-up.
 */
#include "drivers/registry.h"

static const BlockDriver *const drivers[] = {
    /* protocols */
    &bdrv_file,
    &bdrv_host_device,
    &bdrv_null,
    /* formats */
    &bdrv_raw,
    &bdrv_qcow2,
    &bdrv_luks,
    /* filters */
    &bdrv_blkdebug,
    &bdrv_blklogwrites,
    &bdrv_blkverify,
    &bdrv_compress,
    &bdrv_concat,
    &bdrv_copy_before_write,
    &bdrv_copy_on_read_filter,
    &bdrv_preallocate,
    &bdrv_quorum,
    &bdrv_salvage,
    &bdrv_snapshot_access,
    &bdrv_snapshot_view,
    &bdrv_throttle,
};

void drivers_register_all(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++) {
        bdrv_register(drivers[i]);
    }
}
