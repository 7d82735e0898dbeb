/* SPDX-License-Identifier: MIT */
/*
 * the snapshot table as a check sees it: what its entries mean, although some
 * of their fields are wrong; and a table without those faults
 *
 * An entry's length follows from three of its sizes. Where they lead to
 * nothing that looks like an entry, the next one is looked for: it starts at
 * a multiple of 8, and has a place for an L1 table or a number for an id. The
 * sizes are then made to fit, so that the snapshots behind are found, and the
 * damaged one keeps its name. An L1 table that does not cover the disk size
 * that the entry tells is taken as long as it must be.
 *
 * Bounded: SEARCH_BYTES for one entry, SEARCHES_MAX searches in all.
 *
 * Locking: none. Control plane, node drained.
 */
#include "drivers/qcow2/check_walk.h"

#include "block/io/io.h"
#include "drivers/qcow2/snapshot.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

/* The longest that programs write; longer ones are damage. */
#define ID_MAX 127
#define NAME_MAX_BYTES 1023
#define SEARCH_BYTES 8192
#define SEARCHES_MAX 64

/* An entry as it stands, and the bytes behind its fixed part. */
typedef struct Entry {
    Qcow2RawSnapshot raw;
    uint8_t data[QCOW2_SNAPSHOT_EXTRA_MAX_BYTES + ID_MAX + NAME_MAX_BYTES];
    int64_t data_bytes; /* of data that are in the file */
} Entry;

static bool load_entry(Qcow2Walk *walk, int64_t at, Entry *entry,
                       GError **error)
{
    int64_t data_at = at + (int64_t)sizeof(entry->raw);

    if (!range_within(at, sizeof(entry->raw), walk->file_bytes)) {
        memset(entry, 0, sizeof(*entry));
        return true;
    }
    entry->data_bytes = MIN((int64_t)sizeof(entry->data),
                            walk->file_bytes - data_at);
    memset(entry->data, 0, sizeof(entry->data));
    return qcow2_walk_read(walk, at, sizeof(entry->raw), &entry->raw,
                           error) &&
           (entry->data_bytes == 0 ||
            qcow2_walk_read(walk, data_at, entry->data_bytes, entry->data,
                            error));
}

static bool sizes_are_sane(const Entry *entry)
{
    int64_t extra = be32_get(&entry->raw.extra_data_size);
    int64_t id = be16_get(&entry->raw.id_size);
    int64_t name = be16_get(&entry->raw.name_size);

    return extra <= QCOW2_SNAPSHOT_EXTRA_MAX_BYTES && id > 0 &&
           id <= ID_MAX && name <= NAME_MAX_BYTES &&
           extra + id + name <= entry->data_bytes;
}

static int64_t entry_bytes(const Entry *entry)
{
    return align_up((int64_t)sizeof(entry->raw) +
                    be32_get(&entry->raw.extra_data_size) +
                    be16_get(&entry->raw.id_size) +
                    be16_get(&entry->raw.name_size), 8);
}

static bool l1_is_placed(const Qcow2Walk *walk, int64_t offset,
                         int64_t entries)
{
    return offset > 0 && is_aligned(offset, walk->cluster_bytes) &&
           entries > 0 && entries * 8 <= QCOW2_L1_MAX_BYTES &&
           range_within(offset, entries * 8, walk->file_bytes);
}

/* One of two signs is enough: the other may be what is damaged. */
static bool looks_like_entry(const Qcow2Walk *walk, const Entry *entry)
{
    bool has_l1 = l1_is_placed(walk,
                               (int64_t)be64_get(&entry->raw.l1_table_offset),
                               be32_get(&entry->raw.l1_size));
    bool has_id = sizes_are_sane(entry) &&
                  g_ascii_isdigit(entry->data[be32_get(
                      &entry->raw.extra_data_size)]);

    return has_l1 || has_id;
}

/* Where the entry behind the one at @at starts; 0: not to be found. */
static bool search_next(Qcow2Walk *walk, int64_t at, int64_t *ret_next,
                        GError **error)
{
    Entry entry;

    *ret_next = 0;
    for (int64_t i = align_up(sizeof(entry.raw) + 1, 8); i < SEARCH_BYTES;
         i += 8) {
        if (!load_entry(walk, at + i, &entry, error)) {
            return false;
        }
        if (looks_like_entry(walk, &entry)) {
            *ret_next = at + i;
            break;
        }
    }
    return true;
}

/* Makes the sizes fit @bytes of data, which end in zeros: see above. */
static void guess_sizes(Entry *entry, int64_t bytes)
{
    int64_t extra = be32_get(&entry->raw.extra_data_size);
    int64_t id = be16_get(&entry->raw.id_size);
    int64_t text;

    bytes = CLAMP(bytes, 0, entry->data_bytes);
    if (extra >= bytes) {
        extra = bytes > 24 && g_ascii_isdigit(entry->data[24])   ? 24
                : bytes > 16 && g_ascii_isdigit(entry->data[16]) ? 16 : 0;
    }
    text = strnlen((const char *)entry->data + extra, bytes - extra);
    text = MIN(text, 255);
    if (id < 1 || id > MIN(ID_MAX, text)) {
        for (id = 0; id < text &&
                     g_ascii_isdigit(entry->data[extra + id]); id++) {
        }
    }
    be32_set(&entry->raw.extra_data_size, extra);
    be16_set(&entry->raw.id_size, id);
    be16_set(&entry->raw.name_size, text - id);
}

/* An L1 table as long as the disk size asks for, when it is too short. */
static void mend_l1_entries(Qcow2Walk *walk, Qcow2Snapshot *snapshot)
{
    int64_t reach = walk->cluster_bytes / 8 * walk->cluster_bytes;
    int64_t disk_bytes = snapshot->info.disk_bytes;
    int64_t needed;

    if (walk->header->incompatible & QCOW2_INCOMPAT_EXTENDED_L2) {
        reach /= 2;
    }
    if (disk_bytes <= 0 || disk_bytes > BDRV_MAX_LENGTH) {
        return;
    }
    needed = div_round_up(disk_bytes, reach);
    if ((snapshot->l1_entries < needed ||
         snapshot->l1_entries * 8 > QCOW2_L1_MAX_BYTES) &&
        l1_is_placed(walk, snapshot->l1_offset, needed)) {
        qcow2_walk_corrupt(walk, "snapshot '%s' has an L1 table of %" PRId64
                           " entries for %" PRId64 " bytes",
                           snapshot->info.name, snapshot->l1_entries,
                           disk_bytes);
        walk->snapshots_broken = true;
        snapshot->l1_entries = needed;
    }
}

/* Adds the snapshot that @entry tells, with what can be mended mended. */
static void take_entry(Qcow2Walk *walk, Entry *entry)
{
    Qcow2Snapshot *snapshot = qcow2_snapshot_parse(&entry->raw, entry->data);
    uint32_t extra = be32_get(&entry->raw.extra_data_size);

    if (walk->header->version > 2 && extra < 16) {
        qcow2_walk_corrupt(walk, "snapshot '%s' has %u bytes of extra data, "
                           "must be 16 at least", snapshot->info.name, extra);
        walk->snapshots_broken = true;
    }
    mend_l1_entries(walk, snapshot);
    g_ptr_array_add(walk->snapshots, snapshot);
}

/*
 * The entry at *@at, number @index; then *@at is where the next one starts, 0
 * where there is none.
 */
static bool scan_entry(Qcow2Walk *walk, uint32_t index, int *searches,
                       int64_t *at, GError **error)
{
    bool is_last = index + 1 == walk->header->snapshots;
    Entry entry, next;
    int64_t found = 0;

    if (!load_entry(walk, *at, &entry, error)) {
        return false;
    }
    if (sizes_are_sane(&entry)) {
        found = *at + entry_bytes(&entry);
        if (!is_last && !load_entry(walk, found, &next, error)) {
            return false;
        }
        if (is_last || looks_like_entry(walk, &next) || --*searches < 0) {
            take_entry(walk, &entry);
            *at = found;
            return true;
        }
    }
    if (!looks_like_entry(walk, &entry) || *searches < 0) {
        qcow2_walk_corrupt(walk, "entry %u of the snapshot table at 0x%"
                           PRIx64 " is none", index, *at);
        walk->snapshots_broken = true;
        *at = 0;
        return true;
    }
    --*searches;
    if (!is_last && !search_next(walk, *at, &found, error)) {
        return false;
    }
    if (!sizes_are_sane(&entry) || (found && !is_last &&
                                    found != *at + entry_bytes(&entry))) {
        qcow2_walk_corrupt(walk, "entry %u of the snapshot table at 0x%"
                           PRIx64 " has wrong sizes", index, *at);
        walk->snapshots_broken = true;
        guess_sizes(&entry, found ? found - *at - (int64_t)sizeof(entry.raw)
                                  : (int64_t)sizeof(entry.data));
    }
    take_entry(walk, &entry);
    *at = found ? found : *at + entry_bytes(&entry);
    return true;
}

bool qcow2_walk_scan_snapshots(Qcow2Walk *walk, int64_t *ret_bytes,
                               GError **error)
{
    int64_t start = walk->header->snapshots_offset;
    int64_t at = start, end = start;
    int searches = SEARCHES_MAX;

    walk->snapshots = g_ptr_array_new_with_free_func(
        (GDestroyNotify)qcow2_snapshot_free);
    for (uint32_t i = 0; i < walk->header->snapshots && at; i++) {
        if (!scan_entry(walk, i, &searches, &at, error)) {
            return false;
        }
        end = at ? at : end;
        if (end - start > QCOW2_SNAPSHOT_TABLE_MAX_BYTES) {
            break;
        }
    }
    *ret_bytes = end - start;
    return true;
}

/* The header's two fields lie side by side: one write changes both. */
static bool point_header_at(Qcow2Walk *walk, int64_t offset, uint32_t count,
                            GError **error)
{
    struct {
        be32 count;
        be64 offset;
    } __attribute__((packed)) raw;
    Qcow2Header *header = &qcow2_state(walk->bs)->header;
    int ret;

    be32_set(&raw.count, count);
    be64_set(&raw.offset, offset);
    ret = bdrv_pwrite(walk->bs->file, offsetof(Qcow2RawHeader, nb_snapshots),
                      sizeof(raw), &raw);
    ret = ret < 0 ? ret : bdrv_flush(walk->bs->file->bs);
    if (ret < 0) {
        error_set_errno(error, -ret, "writing the header");
        return false;
    }
    header->snapshots = count;
    header->snapshots_offset = offset;
    return true;
}

/* A snapshot without an L1 table has nothing to show. */
static void drop_lost(Qcow2Walk *walk)
{
    for (guint i = 0; i < walk->snapshots->len;) {
        Qcow2Snapshot *snapshot = g_ptr_array_index(walk->snapshots, i);

        if (!l1_is_placed(walk, snapshot->l1_offset,
                          snapshot->l1_entries)) {
            g_ptr_array_remove_index(walk->snapshots, i);
            continue;
        }
        if (snapshot->info.disk_bytes < 0) {
            snapshot->info.disk_bytes = walk->header->size;
        }
        i++;
    }
}

bool qcow2_walk_mend_snapshots(Qcow2Walk *walk, GError **error)
{
    int64_t offset = align_up(walk->file_bytes, walk->cluster_bytes);
    g_autoptr(GByteArray) table = NULL;
    uint32_t count;
    int ret;

    drop_lost(walk);
    table = qcow2_snapshots_encode(walk->snapshots, &count);
    if (count == 0) {
        return point_header_at(walk, /* offset= */ 0, /* count= */ 0, error);
    }
    ret = bdrv_pwrite(walk->bs->file, offset, table->len, table->data);
    ret = ret < 0 ? ret : bdrv_flush(walk->bs->file->bs);
    if (ret < 0) {
        error_set_errno(error, -ret, "writing a new snapshot table");
        return false;
    }
    return point_header_at(walk, offset, count, error);
}
