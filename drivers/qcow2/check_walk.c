/* SPDX-License-Identifier: MIT */
/*
 * who references which host cluster: the walk behind check.c
 *
 *   header ─▶ refcount table ─▶ refcount blocks
 *          ─▶ active L1 ─────▶ L2 tables ─▶ clusters, compressed data
 *          ─▶ snapshots ─▶ L1 ─┘
 *          ─▶ bitmap directory ─▶ bitmap tables ─▶ bitmap data
 *
 * Snapshots share most L2 tables. So the L1 tables are read first, to learn
 * how often each L2 table is used; then each is read once and its entries are
 * counted that many times.
 *
 * Every step is bounded, whatever the image says:
 *  W1  a table is read only where it lies in the file, at most once, but for
 *      L1 tables, whose sum is limited by L1_ENTRIES_MAX;
 *  W2  memory: limits of the format for single tables, L1_ENTRIES_MAX for the
 *      list of L2 tables, the limit of Qcow2Counts for the rest.
 *
 * Locking: none. Control plane, node drained.
 */
#include "drivers/qcow2/check_walk.h"

#include "block/io/io.h"
#include "drivers/qcow2/bitmap_directory.h"
#include "drivers/qcow2/cluster.h"
#include "drivers/qcow2/data_file.h"
#include "drivers/qcow2/snapshot.h"

#include <inttypes.h>

/* Entries of all L1 tables together. */
#define L1_ENTRIES_MAX (INT64_C(1) << 28)
/* The list of L2 tables is merged when it has grown by this many. */
#define L2_REFS_MERGE (1 << 20)

/* An L2 table, and how many L1 entries point at it. */
typedef struct L2Ref {
    int64_t host_offset;
    uint32_t refs;
    bool is_walked;
} L2Ref;

bool qcow2_walk_read(Qcow2Walk *walk, int64_t host_offset, int64_t bytes,
                     void *buffer, GError **error)
{
    int64_t inside = MIN(bytes, walk->file_bytes - host_offset);
    int ret = bdrv_pread(walk->bs->file, host_offset, inside, buffer);

    if (ret < 0) {
        error_set_errno(error, -ret, "cannot read %" PRId64 " bytes at 0x%"
                        PRIx64, inside, host_offset);
        return false;
    }
    memset((uint8_t *)buffer + inside, 0, bytes - inside);
    return true;
}

static bool too_much(GError **error, const char *what)
{
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                "the image needs more %s than a check may take", what);
    return false;
}

/* Counts every cluster that the range, which starts in the file, touches. */
static bool count_range(Qcow2Walk *walk, int64_t host_offset, int64_t bytes,
                        uint32_t times, GError **error)
{
    int64_t first = host_offset / walk->cluster_bytes;
    int64_t last = (host_offset + bytes - 1) / walk->cluster_bytes;

    return bytes <= 0 ||
           qcow2_counts_add(walk->counts, first, last - first + 1, times) ||
           too_much(error, "memory");
}

/* Is a table of @bytes at @host_offset where a table may be? */
static bool table_is_placed(Qcow2Walk *walk, const char *what,
                            uint64_t host_offset, uint64_t bytes)
{
    if (!is_aligned(host_offset, walk->cluster_bytes)) {
        qcow2_walk_corrupt(walk, "%s at 0x%" PRIx64 " is not aligned to "
                           "clusters", what, host_offset);
        return false;
    }
    if (host_offset >= (uint64_t)walk->file_bytes ||
        bytes > (uint64_t)align_up(walk->file_bytes, walk->cluster_bytes) -
                    host_offset) {
        qcow2_walk_corrupt(walk, "%s of %" PRIu64 " bytes at 0x%" PRIx64
                           " lies past the end of the file at 0x%" PRIx64,
                           what, bytes, host_offset, walk->file_bytes);
        return false;
    }
    return true;
}

/*
 * Reads a placed table of 8-byte entries, in host byte order, and counts its
 * clusters. *ret_table NULL: it is not where a table may be.
 */
static bool read_table(Qcow2Walk *walk, const char *what, int64_t host_offset,
                       int64_t entries, uint64_t **ret_table, GError **error)
{
    g_autofree uint64_t *table = NULL;

    *ret_table = NULL;
    if (!table_is_placed(walk, what, host_offset, entries * 8)) {
        return true;
    }
    table = g_try_malloc(MAX(entries, 1) * 8);
    if (!table) {
        return too_much(error, "memory");
    }
    if (!qcow2_walk_read(walk, host_offset, entries * 8, table, error) ||
        !count_range(walk, host_offset, entries * 8, /* times= */ 1, error)) {
        return false;
    }
    for (int64_t i = 0; i < entries; i++) {
        table[i] = be64toh(table[i]);
    }
    *ret_table = g_steal_pointer(&table);
    return true;
}

/* -- refcount structures ------------------------------------------------- */

static bool walk_refcounts(Qcow2Walk *walk, GError **error)
{
    int64_t bytes = walk->header->reftable_clusters * walk->cluster_bytes;

    walk->reftable_entries = bytes / 8;
    if (!read_table(walk, "refcount table", walk->header->reftable_offset,
                    walk->reftable_entries, &walk->reftable, error)) {
        return false;
    }
    if (!walk->reftable) {
        walk->reftable_entries = 0;
        walk->refcounts_broken = true;
    }
    for (int64_t i = 0; i < walk->reftable_entries; i++) {
        uint64_t offset = walk->reftable[i] & QCOW2_REFTABLE_OFFSET_MASK;

        if (walk->reftable[i] != offset) {
            qcow2_walk_corrupt(walk, "entry 0x%" PRIx64 " of the refcount "
                               "table has bits set that mean nothing",
                               walk->reftable[i]);
            walk->refcounts_broken = true;
        }
        if (!offset) {
            continue;
        }
        if (!table_is_placed(walk, "refcount block", offset,
                             walk->cluster_bytes)) {
            walk->reftable[i] = 0;
            walk->refcounts_broken = true;
            continue;
        }
        /* Two uses of a block would be compared twice, and fit one at most. */
        if (qcow2_counts_get(walk->counts, offset / walk->cluster_bytes)) {
            qcow2_walk_corrupt(walk, "refcount block %" PRId64 " at 0x%" PRIx64
                               " is used for something else, too", i, offset);
            walk->reftable[i] = 0;
            walk->refcounts_broken = true;
            continue;
        }
        if (!count_range(walk, offset, walk->cluster_bytes, 1, error)) {
            return false;
        }
    }
    return true;
}

/* -- L2 tables ----------------------------------------------------------- */

static bool walk_compressed(Qcow2Walk *walk, uint64_t entry, uint32_t times,
                            GError **error)
{
    unsigned bits = walk->header->cluster_bits;
    int64_t offset = qcow2_compressed_offset(entry, bits);
    int64_t bytes = qcow2_compressed_bytes(entry, bits);

    if (offset >= walk->file_bytes ||
        bytes - (walk->file_bytes - offset) >= QCOW2_COMPRESSED_SECTOR_BYTES) {
        qcow2_walk_corrupt(walk, "compressed cluster of %" PRId64 " bytes at "
                           "0x%" PRIx64 " lies past the end of the file",
                           bytes, offset);
        return true;
    }
    return count_range(walk, offset, bytes, times, error);
}

static bool walk_cluster(Qcow2Walk *walk, uint64_t entry, uint32_t times,
                         GError **error)
{
    uint64_t offset = entry & QCOW2_OFFSET_MASK;

    if (!is_aligned(offset, walk->cluster_bytes)) {
        qcow2_walk_corrupt(walk, "data cluster at 0x%" PRIx64 " is not "
                           "aligned to clusters", offset);
        return true;
    }
    if (offset >= (uint64_t)walk->file_bytes) {
        qcow2_walk_corrupt(walk, "data cluster at 0x%" PRIx64 " lies past the "
                           "end of the file at 0x%" PRIx64, offset,
                           walk->file_bytes);
        return true;
    }
    return count_range(walk, offset, walk->cluster_bytes, times, error);
}

/* What a person wants to know about the active mapping. */
static void count_allocated(Qcow2Walk *walk, int64_t offset, int64_t clusters)
{
    walk->result->allocated_clusters += clusters;
    if (walk->next_host_offset && walk->next_host_offset != offset) {
        walk->result->fragmented_clusters++;
    }
    walk->next_host_offset = offset + clusters * walk->cluster_bytes;
}

static void count_facts(Qcow2Walk *walk, Qcow2ClusterType type, uint64_t entry)
{
    if (type == QCOW2_CLUSTER_COMPRESSED) {
        walk->result->allocated_clusters++;
        walk->result->compressed_clusters++;
        walk->result->fragmented_clusters++;
    } else if (type == QCOW2_CLUSTER_NORMAL ||
               type == QCOW2_CLUSTER_ZERO_ALLOC) {
        count_allocated(walk, entry & QCOW2_OFFSET_MASK, /* clusters= */ 1);
        walk->lacks_copied |= !(entry & QCOW2_ENTRY_COPIED);
    }
}

/* Each table once: its entries are walked one after the other (W1). */
static void note_bad_bitmap(Qcow2Walk *walk)
{
    GArray *tables = walk->bad_bitmaps;

    if (!tables) {
        tables = walk->bad_bitmaps =
            g_array_new(FALSE, FALSE, sizeof(walk->l2_offset));
    }
    if (tables->len == 0 ||
        g_array_index(tables, int64_t, tables->len - 1) != walk->l2_offset) {
        g_array_append_val(tables, walk->l2_offset);
    }
}

/* What the bitmap of an extended entry may say depends on the cluster. */
static void walk_bitmap(Qcow2Walk *walk, Qcow2ClusterType type,
                        uint64_t entry, uint64_t bitmap)
{
    if (type != QCOW2_CLUSTER_INVALID &&
        !qcow2_bitmap_is_sound(type, bitmap)) {
        qcow2_walk_corrupt(walk, "L2 entry 0x%" PRIx64 " has the subcluster "
                           "bitmap 0x%" PRIx64 ", which cannot be", entry,
                           bitmap);
        note_bad_bitmap(walk);
    }
}

/* An entry of an image with a data file, of the guest's @offset. */
static void check_data_entry(Qcow2Walk *walk, uint64_t entry, uint64_t bitmap,
                             int64_t offset)
{
    uint64_t host_offset = entry & QCOW2_OFFSET_MASK;

    if (entry & QCOW2_L2_COMPRESSED) {
        qcow2_walk_corrupt(walk, "L2 entry 0x%" PRIx64 " of guest offset 0x%"
                           PRIx64 " is compressed, in an image with a data "
                           "file", entry, offset);
    } else if (!qcow2_data_file_is_own_place(entry, offset)) {
        qcow2_walk_corrupt(walk, "L2 entry 0x%" PRIx64 " of guest offset 0x%"
                           PRIx64 " is for another place of the data file",
                           entry, offset);
    } else if (qcow2_cluster_type(walk->header, entry) ==
               QCOW2_CLUSTER_INVALID) {
        qcow2_walk_corrupt(walk, "L2 entry 0x%" PRIx64 " has bits set that "
                           "mean nothing", entry);
    } else if (host_offset != 0 || (entry & QCOW2_ENTRY_COPIED)) {
        walk_bitmap(walk, QCOW2_CLUSTER_NORMAL, entry, bitmap);
        /* Zeros of the first cluster: QEMU takes offset 0 for none. */
        if (host_offset != 0 || qcow2_header_l2_words(walk->header) > 1 ||
            !(entry & QCOW2_L2_ZERO)) {
            count_allocated(walk, offset, /* clusters= */ 1);
        }
    } else {
        walk_bitmap(walk, QCOW2_CLUSTER_UNALLOCATED, entry, bitmap);
    }
}

/* @bitmap is 0 without extended L2 entries. */
static bool walk_l2_entry(Qcow2Walk *walk, uint64_t entry, uint64_t bitmap,
                          uint32_t times, bool is_active, GError **error)
{
    Qcow2ClusterType type = qcow2_cluster_type(walk->header, entry);

    walk_bitmap(walk, type, entry, bitmap);
    if (is_active) {
        count_facts(walk, type, entry);
    }
    switch (type) {
    case QCOW2_CLUSTER_COMPRESSED:
        return walk_compressed(walk, entry, times, error);
    case QCOW2_CLUSTER_NORMAL:
    case QCOW2_CLUSTER_ZERO_ALLOC:
        return walk_cluster(walk, entry, times, error);
    case QCOW2_CLUSTER_INVALID:
        qcow2_walk_corrupt(walk, "L2 entry 0x%" PRIx64 " has bits set that "
                           "mean nothing", entry);
        return true;
    case QCOW2_CLUSTER_UNALLOCATED:
    case QCOW2_CLUSTER_UNALLOCATED_ALLOC: /* of subclusters only */
    case QCOW2_CLUSTER_ZERO_PLAIN:
        break;
    }
    return true;
}

/*
 * How many entries from @entry on are for clusters that follow each other in
 * the file, all in order but for what counts tell. Most entries of most images
 * are; the others are looked at one by one.
 */
static int64_t count_run(const Qcow2Walk *walk, const uint64_t *entry,
                         int64_t limit)
{
    int64_t offset = *entry & QCOW2_OFFSET_MASK;
    int64_t n = 0;

    if (*entry != (offset | QCOW2_ENTRY_COPIED) || offset == 0 ||
        !is_aligned(offset, walk->cluster_bytes)) {
        return 0;
    }
    limit = MIN(limit, div_round_up(walk->file_bytes - offset,
                                    walk->cluster_bytes));
    while (n < limit && entry[n] == *entry + n * walk->cluster_bytes) {
        n++;
    }
    return n;
}

static bool walk_l2_entries(Qcow2Walk *walk, const uint64_t *table,
                            uint32_t times, bool is_active, GError **error)
{
    int64_t entries = walk->cluster_bytes / 8;
    unsigned words = qcow2_header_l2_words(walk->header);
    int64_t run;

    for (int64_t i = 0; i < entries; i += run * words) {
        uint64_t bitmap = words > 1 ? table[i + 1] : 0;
        int64_t offset = table[i] & QCOW2_OFFSET_MASK;

        run = words > 1 ? 0 : count_run(walk, table + i, entries - i);
        if (run == 0) {
            run = 1;
            if ((table[i] || bitmap) &&
                !walk_l2_entry(walk, table[i], bitmap, times, is_active,
                               error)) {
                return false;
            }
            continue;
        }
        if (is_active) {
            count_allocated(walk, offset, run);
        }
        if (!count_range(walk, offset, run * walk->cluster_bytes, times,
                         error)) {
            return false;
        }
    }
    return true;
}

/* Nobody counts clusters of the data file. */
static void check_data_entries(Qcow2Walk *walk, const uint64_t *table,
                               int64_t offset)
{
    unsigned words = qcow2_header_l2_words(walk->header);

    for (int64_t i = 0; i < walk->cluster_bytes / 8; i += words) {
        check_data_entry(walk, table[i], words > 1 ? table[i + 1] : 0,
                         offset + i / words * walk->cluster_bytes);
    }
}

/* @offset: the guest's, of the table's first entry; -1: only snapshots'. */
static bool walk_l2(Qcow2Walk *walk, L2Ref *ref, int64_t offset,
                    GError **error)
{
    bool is_active = offset >= 0;
    g_autofree uint64_t *table = NULL;

    ref->is_walked = true;
    walk->l2_offset = ref->host_offset;
    walk->next_host_offset = 0;
    if (!read_table(walk, "L2 table", ref->host_offset,
                    walk->cluster_bytes / 8, &table, error)) {
        return false;
    }
    if (!table) {
        return true;
    }
    /* read_table() has counted the first of the pointers to it. */
    if (!count_range(walk, ref->host_offset, walk->cluster_bytes,
                     ref->refs - 1, error)) {
        return false;
    }
    if (is_active && qcow2_has_data_file(qcow2_state(walk->bs))) {
        check_data_entries(walk, table, offset);
        return true;
    }
    return walk_l2_entries(walk, table, ref->refs, is_active, error);
}

/* -- L1 tables ----------------------------------------------------------- */

static gint compare_l2_refs(gconstpointer a, gconstpointer b)
{
    int64_t x = ((const L2Ref *)a)->host_offset;
    int64_t y = ((const L2Ref *)b)->host_offset;

    return (x > y) - (x < y);
}

/* Sorts the list and joins what is about the same table. */
static void merge_l2_refs(GArray *refs)
{
    guint kept = 0;

    g_array_sort(refs, compare_l2_refs);
    for (guint i = 0; i < refs->len; i++) {
        L2Ref *ref = &g_array_index(refs, L2Ref, i);
        L2Ref *last = &g_array_index(refs, L2Ref, kept ? kept - 1 : 0);

        if (kept && last->host_offset == ref->host_offset) {
            last->refs += ref->refs;
        } else {
            g_array_index(refs, L2Ref, kept++) = *ref;
        }
    }
    g_array_set_size(refs, kept);
}

static L2Ref *find_l2_ref(GArray *refs, int64_t host_offset)
{
    L2Ref key = { .host_offset = host_offset };
    guint at;

    return g_array_binary_search(refs, &key, compare_l2_refs, &at)
               ? &g_array_index(refs, L2Ref, at) : NULL;
}

/* Notes the L2 tables that an L1 table names. */
static void note_l1_entries(Qcow2Walk *walk, const uint64_t *l1,
                            int64_t entries)
{
    guint before = walk->l2_refs->len;

    for (int64_t i = 0; i < entries; i++) {
        L2Ref ref = { .host_offset = l1[i] & QCOW2_OFFSET_MASK, .refs = 1 };

        if (l1[i] & QCOW2_L1_RESERVED) {
            qcow2_walk_corrupt(walk, "L1 entry 0x%" PRIx64 " has bits set that "
                               "mean nothing", l1[i]);
        }
        if (ref.host_offset) {
            g_array_append_val(walk->l2_refs, ref);
        }
        if (walk->l2_refs->len - before > L2_REFS_MERGE) {
            merge_l2_refs(walk->l2_refs);
            before = walk->l2_refs->len;
        }
    }
    merge_l2_refs(walk->l2_refs);
}

static bool walk_active_l1(Qcow2Walk *walk, GError **error)
{
    const Qcow2Header *header = walk->header;

    if (header->l1_entries > 0 &&
        !read_table(walk, "L1 table", header->l1_offset, header->l1_entries,
                    &walk->l1, error)) {
        return false;
    }
    if (walk->l1) {
        note_l1_entries(walk, walk->l1, header->l1_entries);
        for (int64_t i = 0; i < header->l1_entries; i++) {
            walk->lacks_copied |= walk->l1[i] &&
                                  !(walk->l1[i] & QCOW2_ENTRY_COPIED);
        }
    }
    return true;
}

/* -- snapshots ----------------------------------------------------------- */

static bool walk_snapshot_l1(Qcow2Walk *walk, const Qcow2Snapshot *snapshot,
                             int64_t *l1_budget, GError **error)
{
    g_autofree uint64_t *l1 = NULL;

    if (snapshot->l1_entries * 8 > QCOW2_L1_MAX_BYTES) {
        qcow2_walk_corrupt(walk, "snapshot '%s' has an L1 table of %" PRId64
                           " entries", snapshot->info.name,
                           snapshot->l1_entries);
        walk->snapshots_broken = true;
        return true;
    }
    *l1_budget -= snapshot->l1_entries;
    if (*l1_budget < 0) {
        return too_much(error, "time");
    }
    if (!read_table(walk, "snapshot's L1 table", snapshot->l1_offset,
                    snapshot->l1_entries, &l1, error)) {
        return false;
    }
    if (l1) {
        note_l1_entries(walk, l1, snapshot->l1_entries);
    } else {
        walk->snapshots_broken = true;
    }
    return true;
}

static bool walk_snapshots(Qcow2Walk *walk, GError **error)
{
    int64_t start = walk->header->snapshots_offset;
    int64_t l1_budget = L1_ENTRIES_MAX;
    int64_t bytes;

    if (!walk->header->snapshots) {
        return true;
    }
    if (!table_is_placed(walk, "snapshot table", start, /* bytes= */ 1)) {
        return true;
    }
    if (!qcow2_walk_scan_snapshots(walk, &bytes, error)) {
        return false;
    }
    for (guint i = 0; i < walk->snapshots->len; i++) {
        if (!walk_snapshot_l1(walk, g_ptr_array_index(walk->snapshots, i),
                              &l1_budget, error)) {
            return false;
        }
    }
    bytes = MIN(bytes, align_up(walk->file_bytes, walk->cluster_bytes) -
                       start);
    return count_range(walk, start, bytes, /* times= */ 1, error);
}

/* -- bitmaps ------------------------------------------------------------- */

/* @entries_left: of all tables together (W2). */
static bool walk_bitmap_table(Qcow2Walk *walk,
                              const Qcow2RawBitmapEntry *raw,
                              int64_t *entries_left, GError **error)
{
    int64_t entries = be32_get(&raw->table_entries);
    g_autofree uint64_t *table = NULL;

    if (entries * 8 > QCOW2_L1_MAX_BYTES) {
        qcow2_walk_corrupt(walk, "bitmap table of %" PRId64 " entries",
                           entries);
        return true;
    }
    *entries_left -= entries;
    if (*entries_left < 0) {
        return too_much(error, "bitmap table entries");
    }
    if (!read_table(walk, "bitmap table", be64_get(&raw->table_offset),
                    entries, &table, error)) {
        return false;
    }
    for (int64_t i = 0; table && i < entries; i++) {
        uint64_t offset = table[i] & QCOW2_OFFSET_MASK;

        if (table[i] & ~(QCOW2_OFFSET_MASK | (offset ? 0 : 1))) {
            qcow2_walk_corrupt(walk, "bitmap table entry 0x%" PRIx64 " has "
                               "bits set that mean nothing", table[i]);
            continue;
        }
        if (offset && table_is_placed(walk, "bitmap data", offset,
                                      walk->cluster_bytes) &&
            !count_range(walk, offset, walk->cluster_bytes, 1, error)) {
            return false;
        }
    }
    return true;
}

static bool walk_bitmaps(Qcow2Walk *walk, GError **error)
{
    const Qcow2Header *header = walk->header;
    int64_t start = header->bitmap_directory_offset;
    int64_t bytes = header->bitmap_directory_bytes;
    int64_t entries_left = L1_ENTRIES_MAX;
    int64_t at = 0;
    g_autofree uint8_t *directory = NULL;

    if (!header->has_bitmaps ||
        !(header->autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
        return true;
    }
    if (bytes > QCOW2_BITMAP_DIRECTORY_MAX_BYTES ||
        !table_is_placed(walk, "bitmap directory", start, bytes)) {
        return true;
    }
    directory = g_try_malloc(bytes);
    if (!directory) {
        return too_much(error, "memory");
    }
    if (!qcow2_walk_read(walk, start, bytes, directory, error) ||
        !count_range(walk, start, bytes, /* times= */ 1, error)) {
        return false;
    }
    for (uint32_t i = 0; i < header->bitmaps; i++) {
        const Qcow2RawBitmapEntry *raw;

        if (!range_within(at, sizeof(*raw), bytes)) {
            qcow2_walk_corrupt(walk, "bitmap directory ends in entry %u", i);
            break;
        }
        raw = (const Qcow2RawBitmapEntry *)(directory + at);
        if (!walk_bitmap_table(walk, raw, &entries_left, error)) {
            return false;
        }
        at += align_up(sizeof(*raw) + (int64_t)be32_get(&raw->extra_data_size) +
                       be16_get(&raw->name_size), 8);
    }
    return true;
}

/* -- all of it ----------------------------------------------------------- */

/* Active tables first and in guest order: fragments are counted so. */
static bool walk_l2_tables(Qcow2Walk *walk, GError **error)
{
    int64_t reach = walk->cluster_bytes
                    << qcow2_header_l2_bits(walk->header);

    for (int64_t i = 0; walk->l1 && i < walk->header->l1_entries; i++) {
        L2Ref *ref = find_l2_ref(walk->l2_refs,
                                 walk->l1[i] & QCOW2_OFFSET_MASK);

        if (ref && !ref->is_walked &&
            !walk_l2(walk, ref, i * reach, error)) {
            return false;
        }
    }
    for (guint i = 0; i < walk->l2_refs->len; i++) {
        L2Ref *ref = &g_array_index(walk->l2_refs, L2Ref, i);

        if (!ref->is_walked &&
            !walk_l2(walk, ref, /* offset= */ -1, error)) {
            return false;
        }
    }
    return true;
}

/* The header's place was checked when it was loaded. */
static bool walk_crypto(Qcow2Walk *walk, GError **error)
{
    const Qcow2Header *header = walk->header;

    return header->crypto_bytes == 0 ||
           count_range(walk, header->crypto_offset, header->crypto_bytes,
                       /* times= */ 1, error);
}

bool qcow2_walk(Qcow2Walk *walk, GError **error)
{
    walk->header = &qcow2_state(walk->bs)->header;
    walk->cluster_bytes = (int64_t)1 << walk->header->cluster_bits;
    walk->file_bytes = bdrv_getlength(walk->bs->file->bs);
    if (walk->file_bytes < 0) {
        error_set_errno(error, -(int)walk->file_bytes, "length of the file");
        return false;
    }
    walk->counts = qcow2_counts_new();
    walk->l2_refs = g_array_new(/* zero_terminated= */ FALSE,
                                /* clear= */ FALSE, sizeof(L2Ref));
    walk->result->total_clusters = div_round_up(walk->header->size,
                                                walk->cluster_bytes);
    /* The first cluster is the header's. */
    return count_range(walk, 0, walk->cluster_bytes, /* times= */ 1, error) &&
           walk_refcounts(walk, error) && walk_active_l1(walk, error) &&
           walk_snapshots(walk, error) && walk_bitmaps(walk, error) &&
           walk_crypto(walk, error) && walk_l2_tables(walk, error);
}

void qcow2_walk_clear(Qcow2Walk *walk)
{
    qcow2_counts_free(walk->counts);
    g_free(walk->l1);
    g_free(walk->reftable);
    g_clear_pointer(&walk->snapshots, g_ptr_array_unref);
    g_clear_pointer(&walk->bad_bitmaps, g_array_unref);
    if (walk->l2_refs) {
        g_array_free(walk->l2_refs, /* free_segment= */ TRUE);
    }
    *walk = (Qcow2Walk) { NULL };
}
