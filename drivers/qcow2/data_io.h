/* SPDX-License-Identifier: MIT */
/*
 * guest data of a qcow2 image at its place on the host
 *
 * The one place where guest data enters and leaves the file that holds it:
 * which file that is, and what is done to the bytes on their way, is decided
 * here and nowhere else. Metadata and compressed clusters do not come this
 * way.
 */
#ifndef DRIVERS_QCOW2_DATA_IO_H
#define DRIVERS_QCOW2_DATA_IO_H

#include "block/driver.h"

/*
 * qcow2_data_co_preadv:
 * Fills [@iov_offset, + @bytes) of @iov with what the guest wrote at
 * @host_offset. What lies past the end of the file was never written.
 *
 * @offset: the guest's; it has to be known, not only the host's.
 * 0 or -errno. Coroutine; inside an epoch; no lock held.
 */
int coroutine_fn qcow2_data_co_preadv(BlockDriverState *bs,
                                      int64_t host_offset, int64_t offset,
                                      int64_t bytes, IoVec *iov,
                                      size_t iov_offset);

/*
 * qcow2_data_co_pwritev:
 * The reverse. The caller has made sure that the place may be written to.
 * @iov is not changed.
 */
int coroutine_fn qcow2_data_co_pwritev(BlockDriverState *bs,
                                       int64_t host_offset, int64_t offset,
                                       int64_t bytes, IoVec *iov,
                                       size_t iov_offset);

/*
 * Is what the file has where nobody wrote what a guest sees as zeros? If not,
 * zeros have to be written like other data.
 */
bool qcow2_data_reads_zeros_unwritten(const BlockDriverState *bs);

#endif
