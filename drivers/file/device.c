/* SPDX-License-Identifier: MIT */
/*
 * what a block device tells of itself: sectors, geometry, the medium in it
 *
 * One driver serves disks and drives whose medium can be changed: what is no
 * such drive refuses the CD-ROM's requests.
 *
 * Locking: see file.h; lock_fd stays the same from open to close.
 */
#include "drivers/file/file.h"

#include "block/rt/thread_pool.h"

#include <errno.h>
#include <linux/cdrom.h>
#include <linux/fs.h>
#include <linux/hdreg.h>
#include <sys/ioctl.h>

int file_probe_blocksizes(BlockDriverState *bs, BlockSizes *ret_sizes)
{
    FileState *s = bs->opaque;
    unsigned physical = 0;

    if (!s->is_device) {
        return -ENOTSUP;
    }
    if (ioctl(s->lock_fd, BLKPBSZGET, &physical) < 0 || physical == 0) {
        physical = (unsigned)s->device_block_bytes;
    }
    *ret_sizes = (BlockSizes) {
        .logical = (uint32_t)s->device_block_bytes,
        .physical = physical,
    };
    return 0;
}

/* Many disks have none, and say so by zeros. */
int file_probe_geometry(BlockDriverState *bs, BlockGeometry *ret_geometry)
{
    FileState *s = bs->opaque;
    struct hd_geometry found = { 0 };

    if (!s->is_device || ioctl(s->lock_fd, HDIO_GETGEO, &found) < 0 ||
        found.heads == 0 || found.sectors == 0) {
        return -ENOTSUP;
    }
    *ret_geometry = (BlockGeometry) {
        .cylinders = found.cylinders,
        .heads = found.heads,
        .sectors = found.sectors,
    };
    return 0;
}

typedef struct Ioctl {
    int fd;
    unsigned long request;
    void *argument;
} Ioctl;

static int run_ioctl(void *opaque)
{
    const Ioctl *call = opaque;
    int ret = ioctl(call->fd, call->request, call->argument);

    return ret < 0 ? -errno : ret;
}

int coroutine_fn file_co_ioctl(BlockDriverState *bs, unsigned long request,
                               void *argument)
{
    FileState *s = bs->opaque;
    Ioctl call = { s->aio.fd, request, argument };

    return s->is_device ? thread_pool_co_run(run_ioctl, &call) : -ENOTSUP;
}

/* A device that knows no drive's status has nothing that could be missing. */
static bool device_is_inserted(BlockDriverState *bs)
{
    FileState *s = bs->opaque;
    int status = s->is_device
                     ? ioctl(s->lock_fd, CDROM_DRIVE_STATUS, CDSL_CURRENT)
                     : -1;

    return status < 0 || status == CDS_NO_INFO || status == CDS_DISC_OK;
}

/* -ENOTSUP is the one word for "no such drive". */
static int drive_ioctl(BlockDriverState *bs, unsigned long request, int value)
{
    FileState *s = bs->opaque;

    if (!s->is_device) {
        return -ENOTSUP;
    }
    if (ioctl(s->lock_fd, request, value) == 0) {
        return 0;
    }
    return errno == ENOTTY || errno == EINVAL || errno == ENOSYS ? -ENOTSUP
                                                                 : -errno;
}

static int device_eject(BlockDriverState *bs, bool out)
{
    return drive_ioctl(bs, out ? CDROMEJECT : CDROMCLOSETRAY, 0);
}

static int device_lock_medium(BlockDriverState *bs, bool locked)
{
    return drive_ioctl(bs, CDROM_LOCKDOOR, locked);
}

const BlockMediaOps file_media = {
    .is_inserted = device_is_inserted,
    .eject = device_eject,
    .lock_medium = device_lock_medium,
};
