/* SPDX-License-Identifier: MIT */
/*
 * the log of writes that the Linux device mapper target log-writes makes
 *
 *   sector 0   super
 *   sector 1   entry | data, nr_sectors of it (none for discards and marks
 *              entry | data   that have no data_len, and for flushes)
 *              ...
 *
 * All numbers are little-endian; a sector is super.sectorsize bytes, in the
 * log as well as in entry.sector. An entry takes a whole sector.
 */
#ifndef DRIVERS_FILTERS_LOG_WRITES_FORMAT_H
#define DRIVERS_FILTERS_LOG_WRITES_FORMAT_H

#include "block/rt/bytes.h"

#include <assert.h>

#define LOG_WRITES_MAGIC UINT64_C(0x6a736677736872)
#define LOG_WRITES_VERSION 1

#define LOG_SECTOR_MIN 512
#define LOG_SECTOR_MAX ((int64_t)1 << 23)

/* entry.flags; an entry without any is a write. */
#define LOG_FLUSH (UINT64_C(1) << 0)   /* all before it is durable */
#define LOG_FUA (UINT64_C(1) << 1)     /* it is durable itself */
#define LOG_DISCARD (UINT64_C(1) << 2) /* no data follows */
#define LOG_MARK (UINT64_C(1) << 3)    /* data_len bytes of a name follow */

typedef struct LogSuper {
    le64 magic;
    le64 version;
    le64 nr_entries;
    le32 sectorsize;
} LogSuper;
static_assert(sizeof(LogSuper) == 28, "log super block");

typedef struct LogEntry {
    le64 sector;
    le64 nr_sectors;
    le64 flags;
    le64 data_len;
} LogEntry;
static_assert(sizeof(LogEntry) == 32, "log entry");

/* Sectors of data that follow the entry. */
static inline uint64_t log_data_sectors(const LogEntry *entry,
                                        int64_t sector_bytes)
{
    uint64_t flags = le64_get(&entry->flags);
    uint64_t data_len = le64_get(&entry->data_len);

    if (flags & LOG_DISCARD) {
        return 0;
    }
    if (flags & LOG_MARK) {
        return data_len / sector_bytes + (data_len % sector_bytes != 0);
    }
    return le64_get(&entry->nr_sectors);
}

#endif
