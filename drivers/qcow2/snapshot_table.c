/* SPDX-License-Identifier: MIT */
/*
 * the table of internal snapshots: bytes <-> Qcow2Snapshot
 *
 *   [fixed part][extra data][id][name][zeros to 8] ... one after the other
 *
 * Extra data: 8 bytes of VM state size, 8 of disk size, 8 of an instruction
 * count; older writers leave the end out, newer ones may append.
 *
 * Locking: control plane; qcow2_snapshots_index() takes q->lock.
 */
#include "drivers/qcow2/snapshot.h"

#include "block/io/io.h"
#include "block/rt/aio_context.h"
#include "drivers/qcow2/overlap.h"
#include "drivers/qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define INDEX_ENTRIES_MAX (32 * MIB)

/* Known extra data, in disk order. */
typedef struct RawExtra {
    be64 vm_state_size;
    be64 disk_size;
    be64 icount;
} __attribute__((packed)) RawExtra;
static_assert(sizeof(RawExtra) == 24, "snapshot extra data layout");

void qcow2_snapshot_free(Qcow2Snapshot *snapshot)
{
    if (snapshot) {
        g_free(snapshot->info.id);
        g_free(snapshot->info.name);
        g_clear_pointer(&snapshot->more_extra, g_bytes_unref);
        g_free(snapshot);
    }
}

Qcow2Snapshot *qcow2_snapshot_new(const char *id, const char *name)
{
    Qcow2Snapshot *snapshot = g_new0(Qcow2Snapshot, 1);

    snapshot->info.id = g_strdup(id);
    snapshot->info.name = g_strdup(name);
    snapshot->info.disk_bytes = -1;
    snapshot->info.icount = -1;
    return snapshot;
}

/* -- from disk ------------------------------------------------------------ */

static bool corrupt(GError **error, uint32_t index, const char *what)
{
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                "entry %" PRIu32 " of the snapshot table %s", index, what);
    return false;
}

static void parse_extra(Qcow2Snapshot *snapshot, const uint8_t *data,
                        size_t bytes)
{
    RawExtra extra;

    memset(&extra, 0xff, sizeof(extra)); /* not said */
    memcpy(&extra, data, MIN(bytes, sizeof(extra)));
    if (bytes >= 8) {
        snapshot->info.vm_state_bytes =
            (int64_t)be64_get(&extra.vm_state_size);
    }
    if (bytes >= 16) {
        snapshot->info.disk_bytes = (int64_t)be64_get(&extra.disk_size);
    }
    if (bytes >= 24) {
        snapshot->info.icount = (int64_t)be64_get(&extra.icount);
    }
    if (bytes > sizeof(extra)) {
        snapshot->more_extra = g_bytes_new(data + sizeof(extra),
                                           bytes - sizeof(extra));
    }
}

/* Is the L1 table where one may be, and the size what one may have? */
static bool check_entry(const Qcow2State *q, const Qcow2Snapshot *snapshot,
                        uint32_t index, GError **error)
{
    int64_t reach = q->cluster_bytes << q->l2_bits;
    int64_t disk_bytes = snapshot->info.disk_bytes;

    if (snapshot->l1_entries * 8 > QCOW2_L1_MAX_BYTES ||
        snapshot->l1_offset < 0 ||
        qcow2_in_cluster(q, snapshot->l1_offset) != 0 ||
        !range_within(snapshot->l1_offset, snapshot->l1_entries * 8,
                      qcow2_file_length(q))) {
        return corrupt(error, index, "has an L1 table that is unaligned, too "
                       "large, or past the end of the file");
    }
    if (disk_bytes < -1 || disk_bytes > BDRV_MAX_LENGTH ||
        (disk_bytes > 0 &&
         div_round_up(disk_bytes, reach) > snapshot->l1_entries)) {
        return corrupt(error, index, "has a disk size that its L1 table does "
                       "not cover");
    }
    return true;
}

/* Extra data, id and name: @bytes at @data. */
Qcow2Snapshot *qcow2_snapshot_parse(const Qcow2RawSnapshot *raw,
                                    const uint8_t *data)
{
    uint32_t extra = be32_get(&raw->extra_data_size);
    unsigned id_bytes = be16_get(&raw->id_size);
    Qcow2Snapshot *snapshot = g_new0(Qcow2Snapshot, 1);

    snapshot->info.id = g_strndup((const char *)data + extra, id_bytes);
    snapshot->info.name = g_strndup((const char *)data + extra + id_bytes,
                                    be16_get(&raw->name_size));
    snapshot->info.date_sec = be32_get(&raw->date_sec);
    snapshot->info.date_nsec = be32_get(&raw->date_nsec);
    snapshot->info.vm_clock_nsec = be64_get(&raw->vm_clock_nsec);
    snapshot->info.vm_state_bytes = be32_get(&raw->vm_state_size);
    snapshot->info.disk_bytes = -1;
    snapshot->info.icount = -1;
    snapshot->l1_offset = (int64_t)be64_get(&raw->l1_table_offset);
    snapshot->l1_entries = be32_get(&raw->l1_size);
    parse_extra(snapshot, data, extra);
    return snapshot;
}

static bool read_entry(BlockDriverState *bs, uint32_t index, int64_t *at,
                       GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    g_autofree uint8_t *data = NULL;
    Qcow2Snapshot *snapshot;
    Qcow2RawSnapshot raw;
    int64_t bytes;
    int ret;

    if (!range_within(*at, sizeof(raw), qcow2_file_length(q))) {
        return corrupt(error, index, "is past the end of the file");
    }
    ret = bdrv_pread(bs->file, *at, sizeof(raw), &raw);
    bytes = (int64_t)be32_get(&raw.extra_data_size) +
            be16_get(&raw.id_size) + be16_get(&raw.name_size);
    if (ret >= 0 &&
        (be32_get(&raw.extra_data_size) > QCOW2_SNAPSHOT_EXTRA_MAX_BYTES ||
         !range_within(*at, sizeof(raw) + bytes, qcow2_file_length(q)))) {
        return corrupt(error, index, "is too long");
    }
    if (ret >= 0) {
        data = g_malloc0(bytes + 1);
        ret = bytes ? bdrv_pread(bs->file, *at + (int64_t)sizeof(raw), bytes,
                                 data) : 0;
    }
    if (ret < 0) {
        error_set_errno(error, -ret, "reading the snapshot table");
        return false;
    }
    snapshot = qcow2_snapshot_parse(&raw, data);
    g_ptr_array_add(q->snapshots, snapshot);
    *at = align_up(*at + (int64_t)sizeof(raw) + bytes, 8);
    return check_entry(q, snapshot, index, error);
}

bool qcow2_snapshots_load(BlockDriverState *bs, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t start = q->header.snapshots_offset;
    int64_t at = start;

    q->snapshots = g_ptr_array_new_with_free_func(
        (GDestroyNotify)qcow2_snapshot_free);
    for (uint32_t i = 0; i < q->header.snapshots; i++) {
        if (!read_entry(bs, i, &at, error)) {
            return false;
        }
        if (at - start > QCOW2_SNAPSHOT_TABLE_MAX_BYTES) {
            return corrupt(error, i, "ends past the table's largest size");
        }
    }
    qcow2_set_range(q, QCOW2_RANGE_SNAPSHOTS, start, at - start);
    return true;
}

void qcow2_snapshots_clear(BlockDriverState *bs)
{
    g_clear_pointer(&qcow2_state(bs)->snapshots, g_ptr_array_unref);
}

/* -- to disk -------------------------------------------------------------- */

static void encode_entry(const Qcow2Snapshot *snapshot, GByteArray *table)
{
    const BlockSnapshot *info = &snapshot->info;
    gsize more_bytes = 0;
    const void *more = snapshot->more_extra
                           ? g_bytes_get_data(snapshot->more_extra,
                                              &more_bytes) : NULL;
    static const uint8_t zeros[8];
    Qcow2RawSnapshot raw;
    RawExtra extra;

    be64_set(&raw.l1_table_offset, snapshot->l1_offset);
    be32_set(&raw.l1_size, snapshot->l1_entries);
    be16_set(&raw.id_size, strlen(info->id));
    be16_set(&raw.name_size, strlen(info->name));
    be32_set(&raw.date_sec, info->date_sec);
    be32_set(&raw.date_nsec, info->date_nsec);
    be64_set(&raw.vm_clock_nsec, info->vm_clock_nsec);
    be32_set(&raw.vm_state_size,
             info->vm_state_bytes > UINT32_MAX ? 0 : info->vm_state_bytes);
    be32_set(&raw.extra_data_size, sizeof(extra) + more_bytes);
    be64_set(&extra.vm_state_size, info->vm_state_bytes);
    be64_set(&extra.disk_size, info->disk_bytes);
    be64_set(&extra.icount, info->icount);
    g_byte_array_append(table, (const uint8_t *)&raw, sizeof(raw));
    g_byte_array_append(table, (const uint8_t *)&extra, sizeof(extra));
    if (more) {
        g_byte_array_append(table, more, more_bytes);
    }
    g_byte_array_append(table, (const uint8_t *)info->id, strlen(info->id));
    g_byte_array_append(table, (const uint8_t *)info->name,
                        strlen(info->name));
    g_byte_array_append(table, zeros, -table->len & 7);
}

GByteArray *qcow2_snapshots_encode(const GPtrArray *snapshots,
                                   uint32_t *ret_count)
{
    GByteArray *table = g_byte_array_new();

    *ret_count = 0;
    for (guint i = 0; i < snapshots->len; i++) {
        const Qcow2Snapshot *snapshot = g_ptr_array_index(snapshots, i);

        if (snapshot) {
            encode_entry(snapshot, table);
            ++*ret_count;
        }
    }
    return table;
}

/* -- what a guest may not hit --------------------------------------------- */

uint64_t *coroutine_fn qcow2_co_read_l1(BlockDriverState *bs,
                                        int64_t host_offset, int64_t entries,
                                        int *ret_error)
{
    g_autofree uint64_t *l1 = g_try_malloc0(MAX(entries, 1) * 8);
    int ret = l1 ? 0 : -ENOMEM;

    if (ret >= 0 && entries > 0) {
        ret = bdrv_co_pread(bs->file, host_offset, entries * 8, l1, 0);
    }
    if (ret < 0) {
        *ret_error = ret;
        return NULL;
    }
    for (int64_t i = 0; i < entries; i++) {
        l1[i] = be64toh(l1[i]);
    }
    return g_steal_pointer(&l1);
}

static void add_number(GHashTable *numbers, int64_t cluster, bool is_l2)
{
    g_hash_table_add(numbers,
                     GSIZE_TO_POINTER(qcow2_overlap_number(cluster, is_l2)));
}

/*
 * Each number once: snapshots share most of their tables. L2 tables only if
 * somebody asks for them: the L1 table has to be read.
 */
static int coroutine_fn add_numbers(BlockDriverState *bs,
                                    const Qcow2Snapshot *snapshot,
                                    GHashTable *numbers)
{
    const Qcow2State *q = qcow2_state(bs);
    int64_t first = snapshot->l1_offset >> q->cluster_bits;
    int64_t clusters = div_round_up(snapshot->l1_entries * 8,
                                    q->cluster_bytes);
    g_autofree uint64_t *l1 = NULL;
    int ret = 0;

    for (int64_t i = 0; i < clusters; i++) {
        add_number(numbers, first + i, /* is_l2= */ false);
    }
    if (!(q->options.overlap_classes & QCOW2_OVERLAP_INACTIVE_L2)) {
        return 0;
    }
    l1 = qcow2_co_read_l1(bs, snapshot->l1_offset, snapshot->l1_entries, &ret);
    for (int64_t i = 0; l1 && i < snapshot->l1_entries; i++) {
        if (l1[i] & QCOW2_OFFSET_MASK) {
            add_number(numbers, (l1[i] & QCOW2_OFFSET_MASK) >> q->cluster_bits,
                       /* is_l2= */ true);
        }
    }
    return ret;
}

int coroutine_fn qcow2_snapshots_index(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    g_autoptr(GHashTable) numbers = g_hash_table_new(NULL, NULL);
    int64_t budget = INDEX_ENTRIES_MAX;
    GArray *array;
    GHashTableIter i;
    gpointer key;

    for (guint k = 0; k < q->snapshots->len; k++) {
        const Qcow2Snapshot *snapshot = g_ptr_array_index(q->snapshots, k);
        int ret;

        budget -= snapshot->l1_entries;
        if (budget < 0) {
            break;
        }
        ret = add_numbers(bs, snapshot, numbers);
        if (ret < 0) {
            return ret;
        }
    }
    array = g_array_new(FALSE, FALSE, sizeof(int64_t));
    g_hash_table_iter_init(&i, numbers);
    while (g_hash_table_iter_next(&i, &key, NULL)) {
        int64_t number = GPOINTER_TO_SIZE(key);

        g_array_append_val(array, number);
    }
    co_mutex_lock(&q->lock);
    qcow2_overlap_set_snapshots(bs, array);
    co_mutex_unlock(&q->lock);
    return 0;
}

typedef struct IndexCall {
    BlockDriverState *bs;
    int ret;
} IndexCall;

static void coroutine_fn index_entry(void *opaque)
{
    IndexCall *call = opaque;

    call->ret = qcow2_snapshots_index(call->bs);
}

bool qcow2_snapshots_guard(BlockDriverState *bs, GError **error)
{
    IndexCall call = { bs, 0 };

    if (qcow2_state(bs)->snapshots->len > 0) {
        aio_run_sync(index_entry, &call);
    }
    if (call.ret < 0) {
        error_set_errno(error, -call.ret, "reading the snapshots' L1 tables");
    }
    return call.ret >= 0;
}
