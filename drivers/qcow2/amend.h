/* SPDX-License-Identifier: MIT */
/*
 * what may change about a qcow2 image that exists
 */
#ifndef DRIVERS_QCOW2_AMEND_H
#define DRIVERS_QCOW2_AMEND_H

#include "block/driver.h"

/*
 * Options: compat, lazy_refcounts, refcount_bits, backing_file, backing_fmt,
 * data_file, data_file_raw=off. Errors: OPTION for values out of range or at
 * odds with the image or each other, and then nothing has changed.
 */
extern const BlockAmendOps qcow2_amend_ops;

#endif
