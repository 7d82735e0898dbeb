/* SPDX-License-Identifier: MIT */
/*
 * replaying a log of writes into a plain file, for replay_log.c and for tests
 */
#ifndef TESTS_TOOLS_REPLAY_LOG_H
#define TESTS_TOOLS_REPLAY_LOG_H

#include "drivers/filters/log_writes_format.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

static inline bool replay_copy(int log_fd, int64_t log_offset, int fd,
                               int64_t offset, int64_t bytes)
{
    char buffer[65536];

    while (bytes > 0) {
        size_t part = bytes < (int64_t)sizeof(buffer) ? (size_t)bytes
                                                      : sizeof(buffer);

        if (pread(log_fd, buffer, part, log_offset) != (ssize_t)part ||
            pwrite(fd, buffer, part, offset) != (ssize_t)part) {
            return false;
        }
        log_offset += part;
        offset += part;
        bytes -= part;
    }
    return true;
}

/*
 * replay_log:
 * Does the first @limit entries of the log (UINT64_MAX: all) to the file @fd.
 * Discards are left out: what they leave is undefined. Returns the number of
 * entries done, -1 when the log is no such log, is cut short, or I/O failed.
 * @ret_flushes (may be NULL) counts the flushes among them.
 */
static inline int64_t replay_log(int log_fd, int fd, uint64_t limit,
                                 uint64_t *ret_flushes)
{
    LogSuper super;
    uint64_t entries, flushes = 0, done;
    int64_t sector_bytes, log_offset;

    if (pread(log_fd, &super, sizeof(super), 0) != sizeof(super) ||
        le64_get(&super.magic) != LOG_WRITES_MAGIC ||
        le64_get(&super.version) != LOG_WRITES_VERSION) {
        return -1;
    }
    sector_bytes = le32_get(&super.sectorsize);
    entries = le64_get(&super.nr_entries);
    if (sector_bytes < LOG_SECTOR_MIN || sector_bytes > LOG_SECTOR_MAX) {
        return -1;
    }
    log_offset = sector_bytes;
    for (done = 0; done < entries && done < limit; done++) {
        LogEntry entry;
        uint64_t sectors;

        if (pread(log_fd, &entry, sizeof(entry), log_offset) !=
            sizeof(entry)) {
            return -1;
        }
        log_offset += sector_bytes;
        sectors = log_data_sectors(&entry, sector_bytes);
        if (sectors > (uint64_t)(INT64_MAX / 2 - log_offset) / sector_bytes ||
            le64_get(&entry.sector) >
                (uint64_t)(INT64_MAX / 2 / sector_bytes)) {
            return -1;
        }
        if (!(le64_get(&entry.flags) & LOG_MARK) &&
            !replay_copy(log_fd, log_offset, fd,
                         le64_get(&entry.sector) * sector_bytes,
                         sectors * sector_bytes)) {
            return -1;
        }
        flushes += (le64_get(&entry.flags) & LOG_FLUSH) != 0;
        log_offset += sectors * sector_bytes;
    }
    if (ret_flushes) {
        *ret_flushes = flushes;
    }
    return done;
}

#endif
