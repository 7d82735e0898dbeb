/* SPDX-License-Identifier: MIT */
/*
 * blklogwrites: notes every change of an image in a log
 *
 * What goes through is done on `file` first, then written to `log` in the
 * format of log_writes_format.h, with its data. So the log can be replayed up
 * to any flush, to see what a crash there would have left
 * (tests/tools/replay_log.c, or xfstests' replay-log).
 *
 * Always true outside a function of this file:
 *  G1  a request returns after its entry is in the log, so a flush's entry
 *      comes behind those of all writes that it covers;
 *  G2  super.nr_entries on disk never counts an entry that is not written.
 *
 * Locking: s->lock (a CoMutex) protects the log's end and is held while an
 * entry is written: entries lie there in the order of their numbers.
 */
#include "drivers/registry.h"

#include "block/graph/open.h"
#include "block/io/io.h"
#include "block/rt/comutex.h"
#include "drivers/filters/log_writes_format.h"

#include <errno.h>
#include <inttypes.h>

typedef struct LogWritesState {
    BdrvChild *log;
    int64_t sector_bytes;
    uint64_t update_interval; /* entries between two updates of super */
    CoMutex lock;
    uint64_t end_sector; /* of the log */
    uint64_t entries;
    uint64_t entries_in_super;
} LogWritesState;

static const BlockOptionDesc log_writes_options[] = {
    { .name = "log", .type = BLOCK_OPTION_CHILD,
      .help = "where the log goes" },
    { .name = "log-sector-size", .type = BLOCK_OPTION_SIZE,
      .default_value = "512",
      .help = "unit of the log, and of requests from then on" },
    { .name = "log-append", .type = BLOCK_OPTION_BOOL, .default_value = "off",
      .help = "go on with the log that is there" },
    { .name = "log-super-update-interval", .type = BLOCK_OPTION_NUMBER,
      .default_value = "4096",
      .help = "entries after which the log's header is written again" },
    { .name = NULL },
};

/* ---- the log's header, and its end -------------------------------------- */

/* nr_entries is what replaying believes: entries behind it do not exist. */
static void fill_super(const LogWritesState *s, LogSuper *super)
{
    le64_set(&super->magic, LOG_WRITES_MAGIC);
    le64_set(&super->version, LOG_WRITES_VERSION);
    le64_set(&super->nr_entries, s->entries);
    le32_set(&super->sectorsize, s->sector_bytes);
}

/* Bounds also what an appended log may claim: it is a divisor below. */
static bool is_sector_size(int64_t bytes)
{
    return bytes >= LOG_SECTOR_MIN && bytes <= LOG_SECTOR_MAX &&
           (bytes & (bytes - 1)) == 0;
}

static bool bad_log(GError **error, const char *what)
{
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                "cannot append to the log: %s", what);
    return false;
}

/* Walks the entries: their lengths are not noted anywhere else. */
static bool find_end(LogWritesState *s, GError **error)
{
    int64_t log_sectors = bdrv_getlength(s->log->bs) / s->sector_bytes;

    s->end_sector = 1;
    for (uint64_t i = 0; i < s->entries; i++) {
        LogEntry entry;
        uint64_t sectors;
        int ret;

        if (s->end_sector >= (uint64_t)MAX(log_sectors, 0)) {
            return bad_log(error, "it ends before its last entry");
        }
        ret = bdrv_pread(s->log, s->end_sector * s->sector_bytes,
                         sizeof(entry), &entry);
        if (ret < 0) {
            error_set_errno(error, -ret, "reading the log");
            return false;
        }
        sectors = log_data_sectors(&entry, s->sector_bytes);
        if (sectors > (uint64_t)log_sectors) {
            return bad_log(error, "an entry is longer than the log");
        }
        s->end_sector += 1 + sectors;
    }
    return true;
}

/*
 * Takes over the log's own sector size and count. Nothing in it is believed
 * before it is checked: the log may be of another tool, or no log at all.
 */
static bool read_log(LogWritesState *s, GError **error)
{
    LogSuper super;
    int ret = bdrv_pread(s->log, 0, sizeof(super), &super);

    if (ret < 0) {
        error_set_errno(error, -ret, "reading the log");
        return false;
    }
    if (le64_get(&super.magic) != LOG_WRITES_MAGIC) {
        return bad_log(error, "it has no magic number");
    }
    if (le64_get(&super.version) != LOG_WRITES_VERSION) {
        return bad_log(error, "its version is not 1");
    }
    if (!is_sector_size(le32_get(&super.sectorsize))) {
        return bad_log(error, "its sector size is no power of two");
    }
    s->sector_bytes = le32_get(&super.sectorsize);
    s->entries = le64_get(&super.nr_entries);
    s->entries_in_super = s->entries;
    return find_end(s, error);
}

/*
 * A new log begins with a whole sector, so that the header's padding is not
 * what the medium had there before.
 */
static bool start_log(LogWritesState *s, bool append, GError **error)
{
    LogSuper super;
    int ret;

    if (append) {
        return read_log(s, error);
    }
    s->end_sector = 1;
    fill_super(s, &super);
    ret = bdrv_pwrite_zeroes(s->log, 0, s->sector_bytes, /* flags= */ 0);
    if (ret == 0) {
        ret = bdrv_pwrite(s->log, 0, sizeof(super), &super);
    }
    if (ret < 0) {
        error_set_errno(error, -ret, "writing the log's header");
    }
    return ret == 0;
}

/* ---- open and close ----------------------------------------------------- */

static bool take_options(LogWritesState *s, BlockOptions *options,
                         bool *ret_append, GError **error)
{
    bool has_sector_size = block_options_has(options, "log-sector-size");

    s->sector_bytes = LOG_SECTOR_MIN;
    s->update_interval = 4096;
    *ret_append = false;
    if (!block_options_take_size(options, "log-sector-size", &s->sector_bytes,
                                 error) ||
        !block_options_take_bool(options, "log-append", ret_append, error) ||
        !block_options_take_number(options, "log-super-update-interval",
                                   &s->update_interval, error)) {
        return false;
    }
    if (has_sector_size && *ret_append) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "log-append takes the log's own log-sector-size");
        return false;
    }
    if (!is_sector_size(s->sector_bytes) || s->update_interval == 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "log-sector-size must be a power of two of 512 bytes to "
                    "8 MiB, log-super-update-interval at least 1");
        return false;
    }
    return true;
}

/* Requests are made of whole sectors, so the image has to be. */
static bool check_length(BlockDriverState *bs, GError **error)
{
    const LogWritesState *s = bs->opaque;
    int64_t length = bdrv_node_length(bs->file->bs);

    if (length % s->sector_bytes != 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "length %" PRId64 " is no multiple of the log's sector "
                    "size %" PRId64, length, s->sector_bytes);
        return false;
    }
    bs->length = length;
    return true;
}

/*
 * The log is begun here, not at the first write: what cannot be logged must
 * not be opened for writing. FUA is passed on only where the child has it;
 * else the block layer flushes, and that flush is an entry of its own.
 */
static bool log_writes_open(BlockDriverState *bs, BlockOptions *options,
                            BdrvOpenFlags flags, GError **error)
{
    LogWritesState *s = bs->opaque;
    bool append;

    if (!take_options(s, options, &append, error) ||
        !bdrv_open_file_child(bs, options, error) ||
        !bdrv_open_child(bs, options, "log", BDRV_CHILD_METADATA,
                         /* required= */ true, &s->log, error)) {
        return false;
    }
    if (!bs->read_only && !start_log(s, append, error)) {
        return false;
    }
    if (!check_length(bs, error)) {
        return false;
    }
    co_mutex_init(&s->lock);
    bs->supported_write_flags =
        (bs->file->bs->supported_write_flags & BDRV_REQ_FUA) |
        BDRV_REQ_WRITE_UNCHANGED;
    bs->supported_zero_flags =
        (bs->file->bs->supported_zero_flags &
         (BDRV_REQ_FUA | BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK)) |
        BDRV_REQ_WRITE_UNCHANGED;
    return true;
}

static void log_writes_close(BlockDriverState *bs)
{
    LogWritesState *s = bs->opaque;
    LogSuper super;

    if (!bs->read_only && s->entries != s->entries_in_super) {
        fill_super(s, &super);
        /* Entries behind the header's count are lost, the log is not. */
        (void) bdrv_pwrite(s->log, 0, sizeof(super), &super);
    }
    co_mutex_destroy(&s->lock);
}

/* Entries count sectors; the block layer pads requests to whole ones. */
static void log_writes_refresh_limits(BlockDriverState *bs)
{
    const LogWritesState *s = bs->opaque;

    bs->limits.request_alignment = s->sector_bytes;
}

/* A log that was not begun at open cannot be gone on with. */
static bool log_writes_reopen_prepare(BlockReopenState *state, GError **error)
{
    const LogWritesState *s = state->bs->opaque;

    if ((state->flags & BDRV_O_RDWR) && s->end_sector == 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "opened read-only, so there is no log");
        return false;
    }
    return true;
}

/* ---- writing entries ---------------------------------------------------- */

/* Under s->lock. The count is noted only when it is on its way to the disk. */
static int coroutine_fn write_super(LogWritesState *s)
{
    LogSuper super;
    int ret;

    fill_super(s, &super);
    ret = bdrv_co_pwrite(s->log, 0, sizeof(super), &super, /* flags= */ 0);
    if (ret == 0) {
        s->entries_in_super = s->entries;
    }
    return ret;
}

/* What stands after an entry: @iov, zeros when that is NULL, or nothing. */
typedef struct LogData {
    IoVec *iov;
    size_t at;
    int64_t bytes; /* in the log */
} LogData;

static int coroutine_fn write_data(LogWritesState *s, int64_t log_offset,
                                   const LogData *data)
{
    if (data->bytes == 0) {
        return 0;
    }
    if (data->iov == NULL) {
        return bdrv_co_pwrite_zeroes(s->log, log_offset, data->bytes,
                                     /* flags= */ 0);
    }
    return bdrv_co_pwritev(s->log, log_offset, data->bytes, data->iov,
                           data->at, /* flags= */ 0);
}

/* With s->lock. The sector behind the entry is zeros. */
static int coroutine_fn write_entry(LogWritesState *s, const LogEntry *entry,
                                    const LogData *data)
{
    int64_t log_offset = s->end_sector * s->sector_bytes;
    int ret = bdrv_co_pwrite_zeroes(s->log, log_offset, s->sector_bytes,
                                    /* flags= */ 0);

    if (ret == 0) {
        ret = bdrv_co_pwrite(s->log, log_offset, sizeof(*entry), entry,
                             /* flags= */ 0);
    }
    return ret < 0 ? ret : write_data(s, log_offset + s->sector_bytes, data);
}

/* Adds an entry for [@offset, + @bytes) of the image (G1). */
static int coroutine_fn log_request(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes, uint64_t log_flags,
                                    const LogData *data)
{
    LogWritesState *s = bs->opaque;
    LogEntry entry;
    int ret;

    le64_set(&entry.sector, offset / s->sector_bytes);
    le64_set(&entry.nr_sectors, bytes / s->sector_bytes);
    le64_set(&entry.flags, log_flags);
    le64_set(&entry.data_len, 0);

    co_mutex_lock(&s->lock);
    ret = write_entry(s, &entry, data);
    if (ret == 0) {
        s->end_sector += 1 + data->bytes / s->sector_bytes;
        s->entries++;
        if (log_flags & LOG_FLUSH) {
            ret = write_super(s);
            ret = ret < 0 ? ret : bdrv_co_flush(s->log->bs);
        } else if (s->entries - s->entries_in_super >= s->update_interval) {
            ret = write_super(s); /* G2 */
        }
    }
    co_mutex_unlock(&s->lock);
    return ret;
}

/* Other flags say how, not what: a replay has no use for them. */
static uint64_t log_flags_of(BdrvRequestFlags flags)
{
    return flags & BDRV_REQ_FUA ? LOG_FUA : 0;
}

/*
 * File first, log second: a write that failed is not in the log. One that
 * worked but could not be logged fails, since the log would lie from then on;
 * the caller may repeat it, which is harmless.
 */
static int coroutine_fn log_writes_co_pwritev(BlockDriverState *bs,
                                              int64_t offset, int64_t bytes,
                                              IoVec *iov, size_t iov_offset,
                                              BdrvRequestFlags flags)
{
    LogData data = { .iov = iov, .at = iov_offset, .bytes = bytes };
    int ret = bdrv_co_pwritev(bs->file, offset, bytes, iov, iov_offset,
                              flags);

    return ret < 0 ? ret : log_request(bs, offset, bytes, log_flags_of(flags),
                                       &data);
}

static int coroutine_fn log_writes_co_pwritev_compressed(
    BlockDriverState *bs, int64_t offset, int64_t bytes, IoVec *iov,
    size_t iov_offset)
{
    return log_writes_co_pwritev(bs, offset, bytes, iov, iov_offset,
                                 BDRV_REQ_WRITE_COMPRESSED);
}

/* The log's format has no zeros: they stand in it as data, sparse if it can. */
static int coroutine_fn log_writes_co_pwrite_zeroes(BlockDriverState *bs,
                                                    int64_t offset,
                                                    int64_t bytes,
                                                    BdrvRequestFlags flags)
{
    LogData data = { .bytes = bytes };
    int ret = bdrv_co_pwrite_zeroes(bs->file, offset, bytes, flags);

    return ret < 0 ? ret : log_request(bs, offset, bytes, log_flags_of(flags),
                                       &data);
}

/* An entry without data; what is read there after a replay is undefined. */
static int coroutine_fn log_writes_co_pdiscard(BlockDriverState *bs,
                                               int64_t offset, int64_t bytes)
{
    LogData nothing = { .bytes = 0 };
    int ret = bdrv_co_pdiscard(bs->file, offset, bytes);

    return ret < 0 ? ret : log_request(bs, offset, bytes, LOG_DISCARD,
                                       &nothing);
}

/* The children are flushed here, so that the entry comes after that. */
static int coroutine_fn log_writes_co_flush_to_disk(BlockDriverState *bs)
{
    LogData nothing = { .bytes = 0 };
    int ret = bdrv_co_flush(bs->file->bs);

    return ret < 0 ? ret : log_request(bs, 0, 0, LOG_FLUSH, &nothing);
}

/* In whole sectors, as at open. */
static int coroutine_fn log_writes_co_truncate(BlockDriverState *bs,
                                               int64_t length, bool exact,
                                               BdrvPreallocMode prealloc,
                                               BdrvRequestFlags flags,
                                               GError **error)
{
    const LogWritesState *s = bs->opaque;

    if (length % s->sector_bytes != 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "length %" PRId64 " is no multiple of the log's sector "
                    "size %" PRId64, length, s->sector_bytes);
        return -EINVAL;
    }
    return bdrv_co_truncate(bs->file, length, exact, prealloc, flags, error);
}

/* The log is not the image. */
static int64_t coroutine_fn log_writes_co_get_allocated_file_size(
    BlockDriverState *bs)
{
    return bdrv_co_get_allocated_file_size(bs->file->bs);
}

static const BlockReopenOps log_writes_reopen = {
    .prepare = log_writes_reopen_prepare,
};

const BlockDriver bdrv_blklogwrites = {
    .format_name = "blklogwrites",
    .instance_size = sizeof(LogWritesState),
    .is_filter = true,
    .flushes_children = true,
    .options = log_writes_options,
    .open = log_writes_open,
    .close = log_writes_close,
    .refresh_limits = log_writes_refresh_limits,
    .reopen = &log_writes_reopen,
    .co_pwritev = log_writes_co_pwritev,
    .co_pwrite_zeroes = log_writes_co_pwrite_zeroes,
    .co_pdiscard = log_writes_co_pdiscard,
    .co_pwritev_compressed = log_writes_co_pwritev_compressed,
    .co_flush_to_disk = log_writes_co_flush_to_disk,
    .co_truncate = log_writes_co_truncate,
    .co_copy_range_from = bdrv_refuse_copy_range,
    .co_copy_range_to = bdrv_refuse_copy_range,
    .co_get_allocated_file_size = log_writes_co_get_allocated_file_size,
};
