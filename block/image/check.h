/* SPDX-License-Identifier: MIT */
/*
 * checking an image's structures, and repairing them
 *
 * The walk itself is the driver's (BlockCheckOps); here are the counts it
 * fills, the way it reports what it finds, and the call that users make.
 * Control plane.
 */
#ifndef BLOCK_IMAGE_CHECK_H
#define BLOCK_IMAGE_CHECK_H

#include "block/driver.h"

/* Findings that are described one by one; the rest is only counted. */
#define BLOCK_CHECK_REPORTS_MAX 1000

struct BlockCheckResult {
    /* What is wrong now (what was repaired is not in here). */
    int64_t corruptions;
    int64_t leaks;
    /* Things that could not be looked at: read errors, no memory. */
    int64_t check_errors;
    int64_t corruptions_fixed;
    int64_t leaks_fixed;
    /* Facts found on the way; 0 where a format has no such thing. */
    int64_t image_end_offset;
    int64_t total_clusters;
    int64_t allocated_clusters;
    int64_t fragmented_clusters;
    int64_t compressed_clusters;

    /* The caller's: gets one line, without a newline, per finding. */
    void (*report)(const char *line, void *opaque);
    void *report_opaque;
    int64_t reports; /* lines so far */
};

/*
 * bdrv_check:
 * Checks the format node @bs, filters above it skipped. @result: zeroed but
 * for report. With @fix the node must be writable. False: the check could
 * not be done (UNSUPPORTED: the format has none; DENIED: read-only; IO).
 * Damage is no failure: look at @result.
 */
bool bdrv_check(BlockDriverState *bs, BlockCheckFix fix,
                BlockCheckResult *result, GError **error);

/* For drivers: hands one line to result->report, as long as there are few. */
void block_check_report(BlockCheckResult *result, const char *format, ...)
    G_GNUC_PRINTF(2, 3);

#endif
