/* SPDX-License-Identifier: MIT */
/*
 * new qcow2 images
 *
 * Writes header, refcounts, L1 and, with preallocation, L2 tables of an empty
 * image into a new file. Where the file comes from, and that it vanishes when
 * this fails, is the matter of block/image/create.c.
 */
#ifndef DRIVERS_QCOW2_CREATE_H
#define DRIVERS_QCOW2_CREATE_H

#include "block/driver.h"

/*
 * Options: compat, cluster_size, refcount_bits, lazy_refcounts,
 * compression_type, preallocation, backing_file, backing_fmt, data_file,
 * data_file_raw, encryption, encrypt.* (the data file itself is the caller's to make). Errors: OPTION
 * for values out of range or at odds with each other, UNSUPPORTED for options
 * of the format that this driver cannot do yet.
 */
extern const BlockCreateOps qcow2_create_ops;

#endif
