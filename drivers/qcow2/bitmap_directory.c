/* SPDX-License-Identifier: MIT */
/*
 * the directory of persistent bitmaps: bytes on disk <-> a list
 *
 * qcow2 specification, "Bitmaps": entries follow each other, each padded to 8
 * bytes. Extra data that we do not know is kept byte for byte; whether such a
 * bitmap may be used is said by its EXTRA_COMPATIBLE flag.
 *
 * Always true:
 *  D1  encoding what was parsed gives the same entries, so that what we cannot
 *      use survives a store;
 *  D2  a bitmap that was in use when it was read is never usable: nobody knows
 *      what was written since its content was stored.
 *
 * Locking: none.
 */
#include "drivers/qcow2/bitmap_directory.h"

#include "block/error.h"

#include <inttypes.h>
#include <string.h>

#define TYPE_DIRTY_TRACKING 1
#define GRANULARITY_BITS_MIN 9
#define GRANULARITY_BITS_MAX 31
#define KNOWN_FLAGS \
    (QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO | QCOW2_BITMAP_EXTRA_COMPATIBLE)

void qcow2_bitmap_free(Qcow2Bitmap *bitmap)
{
    if (bitmap == NULL) {
        return;
    }
    hbitmap_free(bitmap->bits);
    g_clear_pointer(&bitmap->extra, g_bytes_unref);
    g_free(bitmap->info.name);
    g_free(bitmap);
}

void qcow2_bitmap_set_flags(Qcow2Bitmap *bitmap, uint32_t flags)
{
    __atomic_store_n(&bitmap->flags, flags, __ATOMIC_RELAXED);
    bitmap->info.is_enabled = flags & QCOW2_BITMAP_AUTO;
}

Qcow2Bitmap *qcow2_bitmap_new(const char *name, unsigned granularity_bits,
                              uint32_t flags)
{
    Qcow2Bitmap *bitmap = g_new0(Qcow2Bitmap, 1);

    bitmap->info.name = g_strdup(name);
    bitmap->info.granularity = INT64_C(1) << granularity_bits;
    bitmap->info.state = BLOCK_BITMAP_USABLE;
    bitmap->granularity_bits = granularity_bits;
    bitmap->type = TYPE_DIRTY_TRACKING;
    qcow2_bitmap_set_flags(bitmap, flags);
    return bitmap;
}

/* -- parsing -------------------------------------------------------------- */

int64_t qcow2_bitmap_entry_bytes(const uint8_t *entry, int64_t bytes)
{
    const Qcow2RawBitmapEntry *raw = (const Qcow2RawBitmapEntry *)entry;
    int64_t length;

    if (bytes < (int64_t)sizeof(*raw)) {
        return 0;
    }
    length = align_up((int64_t)sizeof(*raw) +
                      be32_get(&raw->extra_data_size) +
                      be16_get(&raw->name_size), 8);
    return length <= bytes ? length : 0;
}

static bool check_entry(const Qcow2RawBitmapEntry *raw, int64_t length,
                        uint32_t index, GError **error)
{
    unsigned name_bytes = be16_get(&raw->name_size);
    const char *name = (const char *)(raw + 1) +
                       (length ? be32_get(&raw->extra_data_size) : 0);

    if (length == 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                    "the bitmap directory ends inside an entry (%" PRIu32 ")",
                    index);
    } else if (name_bytes == 0 || name_bytes > QCOW2_BITMAP_NAME_MAX ||
               memchr(name, '\0', name_bytes) != NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                    "an entry of the bitmap directory has %" PRId64 " bytes, "
                    "with a name of %u", length, name_bytes);
    } else if (raw->granularity_bits < GRANULARITY_BITS_MIN ||
               raw->granularity_bits > GRANULARITY_BITS_MAX) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                    "granularity_bits of a bitmap is %u, must be %d to %d",
                    raw->granularity_bits, GRANULARITY_BITS_MIN,
                    GRANULARITY_BITS_MAX);
    } else {
        return true;
    }
    return false;
}

static BlockBitmapState state_of(const Qcow2RawBitmapEntry *raw)
{
    uint32_t flags = be32_get(&raw->flags);

    if (flags & QCOW2_BITMAP_IN_USE) {
        return BLOCK_BITMAP_INCONSISTENT; /* D2 */
    }
    if (raw->type != TYPE_DIRTY_TRACKING || (flags & ~KNOWN_FLAGS) ||
        (be32_get(&raw->extra_data_size) > 0 &&
         !(flags & QCOW2_BITMAP_EXTRA_COMPATIBLE))) {
        return BLOCK_BITMAP_FOREIGN;
    }
    return BLOCK_BITMAP_USABLE;
}

/* @raw was checked. */
static Qcow2Bitmap *parse_entry(const Qcow2RawBitmapEntry *raw)
{
    uint32_t extra_bytes = be32_get(&raw->extra_data_size);
    const char *extra = (const char *)(raw + 1);
    g_autofree char *name = g_strndup(extra + extra_bytes,
                                      be16_get(&raw->name_size));
    Qcow2Bitmap *bitmap = qcow2_bitmap_new(name, raw->granularity_bits,
                                           be32_get(&raw->flags));

    bitmap->info.state = state_of(raw);
    bitmap->type = raw->type;
    bitmap->table_offset = (int64_t)be64_get(&raw->table_offset);
    bitmap->table_entries = be32_get(&raw->table_entries);
    if (extra_bytes > 0) {
        bitmap->extra = g_bytes_new(extra, extra_bytes);
    }
    return bitmap;
}

GPtrArray *qcow2_bitmaps_parse(const uint8_t *directory, int64_t bytes,
                               uint32_t count, GError **error)
{
    g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(
        (GDestroyNotify)qcow2_bitmap_free);
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);
    int64_t at = 0;

    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *entry = directory + at;
        int64_t length = qcow2_bitmap_entry_bytes(entry, bytes - at);
        Qcow2Bitmap *bitmap;

        if (!check_entry((const Qcow2RawBitmapEntry *)entry, length, i,
                         error)) {
            return NULL;
        }
        bitmap = parse_entry((const Qcow2RawBitmapEntry *)entry);
        g_ptr_array_add(list, bitmap);
        if (!g_hash_table_add(names, bitmap->info.name)) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                        "the bitmap directory has two bitmaps '%s'",
                        bitmap->info.name);
            return NULL;
        }
        at += length;
    }
    return g_steal_pointer(&list);
}

/* -- writing -------------------------------------------------------------- */

GByteArray *qcow2_bitmaps_encode(const GPtrArray *bitmaps)
{
    static const uint8_t padding[8];
    GByteArray *directory = g_byte_array_new();

    for (guint i = 0; i < bitmaps->len; i++) {
        const Qcow2Bitmap *bitmap = g_ptr_array_index(bitmaps, i);
        size_t name_bytes = strlen(bitmap->info.name);
        gsize extra_bytes = 0;
        const void *extra =
            bitmap->extra ? g_bytes_get_data(bitmap->extra, &extra_bytes)
                          : NULL;
        Qcow2RawBitmapEntry raw = { .type = bitmap->type,
                                    .granularity_bits =
                                        bitmap->granularity_bits };

        be64_set(&raw.table_offset, (uint64_t)bitmap->table_offset);
        be32_set(&raw.table_entries, bitmap->table_entries);
        be32_set(&raw.flags, bitmap->flags);
        be16_set(&raw.name_size, name_bytes);
        be32_set(&raw.extra_data_size, extra_bytes);
        g_byte_array_append(directory, (const uint8_t *)&raw, sizeof(raw));
        if (extra_bytes > 0) {
            g_byte_array_append(directory, extra, extra_bytes);
        }
        g_byte_array_append(directory, (const uint8_t *)bitmap->info.name,
                            name_bytes);
        g_byte_array_append(directory, padding,
                            align_up(directory->len, 8) - directory->len);
    }
    return directory;
}

bool qcow2_bitmap_entry_mark(uint8_t *directory, int64_t bytes, int64_t at,
                             bool all, int64_t *ret_next)
{
    Qcow2RawBitmapEntry *raw = (Qcow2RawBitmapEntry *)(directory + at);
    uint32_t flags = be32_get(&raw->flags);
    bool is_due = (all || (flags & QCOW2_BITMAP_AUTO)) &&
                  !(flags & QCOW2_BITMAP_IN_USE);

    *ret_next = at + qcow2_bitmap_entry_bytes(directory + at, bytes - at);
    if (is_due) {
        be32_set(&raw->flags, flags | QCOW2_BITMAP_IN_USE);
    }
    return is_due;
}
