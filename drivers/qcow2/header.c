/* SPDX-License-Identifier: MIT */
/*
 * the header of a qcow2 image
 *
 *   0        72 or header_length       backing_file_offset      cluster end
 *   [fields ][extensions: type length data ... END][backing name][unused]
 *
 * Parse (raw -> native), check numbers, check tables against the file, walk
 * the extensions: each its own function, so that a refusal names one fact.
 * What the tables contain is for their owners (l2_cache.c, refcount.c).
 *
 * Locking: parsing none. Writers of the header are kept apart by their
 * callers (commit_lock, or a drained node).
 */
#include "drivers/qcow2/header.h"

#include "block/io/io.h"
#include "drivers/qcow2/bitmap_directory.h"
#include "drivers/qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>

#define KNOWN_INCOMPATIBLE \
    (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT | \
     QCOW2_INCOMPAT_DATA_FILE | QCOW2_INCOMPAT_COMPRESSION | \
     QCOW2_INCOMPAT_EXTENDED_L2)

#define FORMAT_NAME_MAX 63

/* What the extensions point at inside the buffer, for messages. */
typedef struct ExtensionFacts {
    const Qcow2RawFeatureName *names;
    size_t names_count;
} ExtensionFacts;

static bool corrupt(GError **error, const char *format, ...)
    G_GNUC_PRINTF(2, 3);

/* Always false, so that a check can be one statement. */
static bool corrupt(GError **error, const char *format, ...)
{
    va_list arguments;
    g_autofree char *message = NULL;

    va_start(arguments, format);
    message = g_strdup_vprintf(format, arguments);
    va_end(arguments);
    g_set_error_literal(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT, message);
    return false;
}

static bool unsupported(GError **error, const char *message)
{
    g_set_error_literal(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                        message);
    return false;
}

/* -- fields --------------------------------------------------------------- */

static void parse_v2_fields(Qcow2Header *header, const Qcow2RawHeader *raw)
{
    header->cluster_bits = be32_get(&raw->cluster_bits);
    header->size = (int64_t)be64_get(&raw->size);
    header->crypt_method = be32_get(&raw->crypt_method);
    header->l1_entries = be32_get(&raw->l1_size);
    header->l1_offset = (int64_t)be64_get(&raw->l1_table_offset);
    header->reftable_offset = (int64_t)be64_get(&raw->refcount_table_offset);
    header->reftable_clusters = be32_get(&raw->refcount_table_clusters);
    header->snapshots = be32_get(&raw->nb_snapshots);
    header->snapshots_offset = (int64_t)be64_get(&raw->snapshots_offset);
    header->refcount_order = 4;
    header->header_length = QCOW2_HEADER_V2_BYTES;
}

static bool parse_v3_fields(Qcow2Header *header, const Qcow2RawHeader *raw,
                            size_t bytes, GError **error)
{
    uint32_t length;

    if (bytes < QCOW2_HEADER_V3_BYTES) {
        return corrupt(error, "the file ends inside the header, after %zu "
                       "bytes", bytes);
    }
    header->incompatible = be64_get(&raw->incompatible_features);
    header->compatible = be64_get(&raw->compatible_features);
    header->autoclear = be64_get(&raw->autoclear_features);
    header->refcount_order = be32_get(&raw->refcount_order);
    length = be32_get(&raw->header_length);
    header->header_length = length;
    if (length < QCOW2_HEADER_V3_BYTES) {
        return corrupt(error, "header_length is %" PRIu32 ", must be at "
                       "least %d", length, QCOW2_HEADER_V3_BYTES);
    }
    if (length > bytes) {
        return corrupt(error, "header_length is %" PRIu32 ", past the end of "
                       "the first cluster or the file (%zu bytes)", length,
                       bytes);
    }
    if (length > offsetof(Qcow2RawHeader, compression_type)) {
        header->compression_type = raw->compression_type;
    }
    return true;
}

static bool parse_fields(Qcow2Header *header, const uint8_t *buffer,
                         size_t bytes, GError **error)
{
    const Qcow2RawHeader *raw = (const Qcow2RawHeader *)buffer;

    if (bytes < QCOW2_HEADER_V2_BYTES) {
        return corrupt(error, "the file ends inside the header, after %zu "
                       "bytes", bytes);
    }
    if (be32_get(&raw->magic) != QCOW2_MAGIC) {
        return corrupt(error, "no qcow2 image: it starts with 0x%08x",
                       be32_get(&raw->magic));
    }
    header->version = be32_get(&raw->version);
    if (header->version != 2 && header->version != 3) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "version is %u, must be 2 or 3", header->version);
        return false;
    }
    parse_v2_fields(header, raw);
    if (header->cluster_bits < QCOW2_CLUSTER_BITS_MIN ||
        header->cluster_bits > QCOW2_CLUSTER_BITS_MAX) {
        return corrupt(error, "cluster_bits is %u, must be %d to %d",
                       header->cluster_bits, QCOW2_CLUSTER_BITS_MIN,
                       QCOW2_CLUSTER_BITS_MAX);
    }
    if (header->version == 3 && !parse_v3_fields(header, raw, bytes, error)) {
        return false;
    }
    if (header->refcount_order > QCOW2_REFCOUNT_ORDER_MAX) {
        return corrupt(error, "refcount_order is %u, must be 0 to %d",
                       header->refcount_order, QCOW2_REFCOUNT_ORDER_MAX);
    }
    return true;
}

/* -- extensions ----------------------------------------------------------- */

static bool parse_bitmaps_extension(Qcow2Header *header, const uint8_t *data,
                                    uint32_t length, GError **error)
{
    const Qcow2RawBitmapsExtension *raw =
        (const Qcow2RawBitmapsExtension *)data;

    /* Without its autoclear bit the extension is stale: nobody reads it. */
    if (!(header->autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
        return true;
    }
    if (length != sizeof(*raw)) {
        return corrupt(error, "bitmaps extension has %" PRIu32 " bytes, must "
                       "have %zu", length, sizeof(*raw));
    }
    header->has_bitmaps = true;
    header->bitmaps = be32_get(&raw->nb_bitmaps);
    header->bitmap_directory_bytes = (int64_t)be64_get(&raw->directory_size);
    header->bitmap_directory_offset =
        (int64_t)be64_get(&raw->directory_offset);
    if (header->bitmaps == 0 || header->bitmaps > QCOW2_BITMAPS_MAX) {
        return corrupt(error, "the image has %" PRIu32 " bitmaps, must have 1 "
                       "to %d", header->bitmaps, QCOW2_BITMAPS_MAX);
    }
    return true;
}

static bool parse_crypto_extension(Qcow2Header *header, const uint8_t *data,
                                   uint32_t length, GError **error)
{
    const Qcow2RawCryptoExtension *raw =
        (const Qcow2RawCryptoExtension *)data;

    if (header->crypt_method != QCOW2_CRYPT_LUKS) {
        return corrupt(error, "the image has a crypto header, but its "
                       "crypt_method is %" PRIu32, header->crypt_method);
    }
    if (length != sizeof(*raw)) {
        return corrupt(error, "crypto header extension has %" PRIu32 " bytes, "
                       "must have %zu", length, sizeof(*raw));
    }
    header->crypto_offset = (int64_t)be64_get(&raw->offset);
    header->crypto_bytes = (int64_t)be64_get(&raw->length);
    return true;
}

static bool parse_extension(Qcow2Header *header, uint32_t type,
                            const uint8_t *data, uint32_t length,
                            ExtensionFacts *facts, GError **error)
{
    switch (type) {
    case QCOW2_EXTENSION_BACKING_FORMAT:
        if (length > FORMAT_NAME_MAX) {
            return corrupt(error, "backing format name has %" PRIu32
                           " bytes, more than %d", length, FORMAT_NAME_MAX);
        }
        g_free(header->backing_format);
        header->backing_format = g_strndup((const char *)data, length);
        return true;
    case QCOW2_EXTENSION_FEATURE_NAMES:
        facts->names = (const Qcow2RawFeatureName *)data;
        facts->names_count = length / sizeof(Qcow2RawFeatureName);
        return true;
    case QCOW2_EXTENSION_DATA_FILE:
        if (length > QCOW2_DATA_FILE_NAME_MAX) {
            return corrupt(error, "data file name has %" PRIu32 " bytes, more "
                           "than %d", length, QCOW2_DATA_FILE_NAME_MAX);
        }
        g_free(header->data_file);
        header->data_file = g_strndup((const char *)data, length);
        return true;
    case QCOW2_EXTENSION_BITMAPS:
        return parse_bitmaps_extension(header, data, length, error);
    case QCOW2_EXTENSION_CRYPTO_HEADER:
        return parse_crypto_extension(header, data, length, error);
    default:
        return true; /* unknown ones are to be ignored */
    }
}

static bool parse_extensions(Qcow2Header *header, const uint8_t *buffer,
                             size_t end, ExtensionFacts *facts,
                             GError **error)
{
    size_t at = header->header_length;

    while (at + sizeof(Qcow2RawExtension) <= end) {
        const Qcow2RawExtension *raw =
            (const Qcow2RawExtension *)(buffer + at);
        uint32_t type = be32_get(&raw->type);
        uint32_t length = be32_get(&raw->length);

        if (type == QCOW2_EXTENSION_END) {
            return true;
        }
        at += sizeof(*raw);
        if (length > end - at) {
            return corrupt(error, "header extension 0x%08" PRIx32 " at 0x%zx "
                           "has %" PRIu32 " bytes, past the end of the "
                           "extensions at 0x%zx", type, at - sizeof(*raw),
                           length, end);
        }
        if (!parse_extension(header, type, buffer + at, length, facts,
                             error)) {
            return false;
        }
        at += align_up(length, 8);
    }
    return true;
}

static bool parse_backing_name(Qcow2Header *header, const uint8_t *buffer,
                               size_t bytes, size_t *ret_extensions_end,
                               GError **error)
{
    const Qcow2RawHeader *raw = (const Qcow2RawHeader *)buffer;
    uint64_t offset = be64_get(&raw->backing_file_offset);
    uint32_t length = be32_get(&raw->backing_file_size);

    *ret_extensions_end = bytes;
    if (offset == 0) {
        return true;
    }
    if (length > QCOW2_BACKING_NAME_MAX) {
        return corrupt(error, "backing file name has %" PRIu32 " bytes, more "
                       "than %d", length, QCOW2_BACKING_NAME_MAX);
    }
    if (offset < (uint64_t)header->header_length ||
        !range_within(offset, length, bytes)) {
        return corrupt(error, "backing file name of %" PRIu32 " bytes at 0x%"
                       PRIx64 " is not between the header and the end of the "
                       "first cluster at 0x%zx", length, offset, bytes);
    }
    *ret_extensions_end = offset;
    if (length > 0) {
        header->backing_name =
            g_strndup((const char *)buffer + offset, length);
    }
    return true;
}

/* -- checks --------------------------------------------------------------- */

/* The name of an incompatible feature, by the image's own table. */
static char *feature_name(const ExtensionFacts *facts, unsigned bit)
{
    for (size_t i = 0; i < facts->names_count; i++) {
        const Qcow2RawFeatureName *raw = &facts->names[i];

        if (raw->type == 0 && raw->bit == bit) {
            g_autofree char *name = g_strndup(raw->name, sizeof(raw->name));

            return g_utf8_make_valid(name, -1);
        }
    }
    return g_strdup_printf("incompatible feature bit %u", bit);
}

static bool check_features(const Qcow2Header *header,
                           const ExtensionFacts *facts, GError **error)
{
    uint64_t unknown = header->incompatible & ~(uint64_t)KNOWN_INCOMPATIBLE;
    g_autoptr(GString) names = g_string_new(NULL);

    for (unsigned bit = 0; bit < 64; bit++) {
        if (unknown & (1ull << bit)) {
            g_autofree char *name = feature_name(facts, bit);

            g_string_append_printf(names, "%s%s", names->len ? ", " : "",
                                   name);
        }
    }
    if (unknown) {
        g_autofree char *message =
            g_strdup_printf("the image needs unknown features: %s",
                            names->str);

        return unsupported(error, message);
    }
    if ((header->incompatible & QCOW2_INCOMPAT_EXTENDED_L2) &&
        header->cluster_bits < QCOW2_EXTENDED_CLUSTER_BITS_MIN) {
        return corrupt(error, "clusters of %u bytes are too small for extended "
                       "L2 entries, which need %u",
                       1u << header->cluster_bits,
                       1u << QCOW2_EXTENDED_CLUSTER_BITS_MIN);
    }
    if (header->crypt_method > QCOW2_CRYPT_LUKS) {
        g_autofree char *message =
            g_strdup_printf("the image is encrypted by method %" PRIu32
                            ", which is not known", header->crypt_method);

        return unsupported(error, message);
    }
    return true;
}

static bool check_compression(const Qcow2Header *header, GError **error)
{
    bool bit = header->incompatible & QCOW2_INCOMPAT_COMPRESSION;

    if (header->compression_type > QCOW2_COMPRESSION_ZSTD) {
        return corrupt(error, "compression_type is %u, must be 0 (zlib) or 1 "
                       "(zstd)", header->compression_type);
    }
    if (bit != (header->compression_type != QCOW2_COMPRESSION_ZLIB)) {
        return corrupt(error, "compression_type is %u, but its incompatible "
                       "feature bit is %s", header->compression_type,
                       bit ? "set" : "clear");
    }
    return true;
}

/* Is a table where tables may be? @what is its name for the message. */
static bool check_table(const Qcow2Header *header, const char *what,
                        int64_t offset, int64_t bytes, int64_t file_bytes,
                        bool for_check, GError **error)
{
    uint64_t start = (uint64_t)offset;

    if (start & ((1ull << header->cluster_bits) - 1)) {
        return corrupt(error, "%s at 0x%" PRIx64 " is not aligned to clusters "
                       "of 0x%x bytes", what, start,
                       1u << header->cluster_bits);
    }
    if (start == 0) {
        return corrupt(error, "%s has no offset", what);
    }
    if (start >= (uint64_t)QCOW2_HOST_OFFSET_LIMIT) {
        return corrupt(error, "%s at 0x%" PRIx64 " is out of reach", what,
                       start);
    }
    if (!for_check &&
        !range_within(start, (uint64_t)bytes, (uint64_t)file_bytes)) {
        return corrupt(error, "%s at 0x%" PRIx64 " ends at 0x%" PRIx64 ", past "
                       "the end of the file at 0x%" PRIx64, what, start,
                       start + (uint64_t)bytes, (uint64_t)file_bytes);
    }
    return true;
}

static bool check_l1(const Qcow2Header *header, int64_t file_bytes,
                     bool for_check, GError **error)
{
    int l2_reach_bits =
        (int)(header->cluster_bits + qcow2_header_l2_bits(header));
    int64_t needed = div_round_up(header->size, (int64_t)1 << l2_reach_bits);
    g_autofree char *what =
        g_strdup_printf("L1 table of %" PRId64 " entries",
                        header->l1_entries);

    if (header->l1_entries > QCOW2_L1_MAX_BYTES / 8) {
        return corrupt(error, "%s is larger than %" PRId64 " MiB", what,
                       QCOW2_L1_MAX_BYTES / MIB);
    }
    if (header->l1_entries < needed) {
        return corrupt(error, "%s is too small for %" PRId64 " bytes, which "
                       "need %" PRId64, what, header->size, needed);
    }
    if (header->l1_entries == 0) {
        return true;
    }
    return check_table(header, what, header->l1_offset,
                       header->l1_entries * 8, file_bytes, for_check, error);
}

static bool check_reftable(const Qcow2Header *header, int64_t file_bytes,
                           bool for_check, GError **error)
{
    int64_t bytes = header->reftable_clusters << header->cluster_bits;
    g_autofree char *what =
        g_strdup_printf("refcount table of %" PRId64 " clusters",
                        header->reftable_clusters);

    if (header->reftable_clusters == 0) {
        return corrupt(error, "the image has no refcount table");
    }
    if (bytes > QCOW2_REFTABLE_MAX_BYTES) {
        return corrupt(error, "%s is larger than %" PRId64 " MiB", what,
                       QCOW2_REFTABLE_MAX_BYTES / MIB);
    }
    return check_table(header, what, header->reftable_offset, bytes,
                       file_bytes, for_check, error);
}

static bool check_snapshots(const Qcow2Header *header, int64_t file_bytes,
                            bool for_check, GError **error)
{
    int64_t least = header->snapshots * (int64_t)sizeof(Qcow2RawSnapshot);
    g_autofree char *what =
        g_strdup_printf("snapshot table of %" PRIu32 " entries",
                        header->snapshots);

    if (header->snapshots == 0) {
        return true;
    }
    if ((header->incompatible & QCOW2_INCOMPAT_DATA_FILE) && !for_check) {
        return corrupt(error, "the image has %" PRIu32 " snapshots and an "
                       "external data file, which exclude each other",
                       header->snapshots);
    }
    if (header->snapshots > QCOW2_SNAPSHOTS_MAX) {
        return corrupt(error, "the image has %" PRIu32 " snapshots, more than "
                       "%d", header->snapshots, QCOW2_SNAPSHOTS_MAX);
    }
    return check_table(header, what, header->snapshots_offset, least,
                       file_bytes, for_check, error);
}

static bool check_bitmaps(const Qcow2Header *header, int64_t file_bytes,
                          bool for_check, GError **error)
{
    if (!header->has_bitmaps) {
        return true;
    }
    if (header->bitmap_directory_bytes <
            header->bitmaps * (int64_t)sizeof(Qcow2RawBitmapEntry) ||
        header->bitmap_directory_bytes > QCOW2_BITMAP_DIRECTORY_MAX_BYTES) {
        return corrupt(error, "directory of %" PRIu32 " bitmaps has %" PRIu64
                       " bytes", header->bitmaps,
                       (uint64_t)header->bitmap_directory_bytes);
    }
    return check_table(header, "bitmap directory",
                       header->bitmap_directory_offset,
                       header->bitmap_directory_bytes, file_bytes, for_check,
                       error);
}

static bool check_crypto(const Qcow2Header *header, int64_t file_bytes,
                         GError **error)
{
    if (header->crypt_method != QCOW2_CRYPT_NONE &&
        (header->incompatible & QCOW2_INCOMPAT_DATA_FILE) &&
        (header->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW)) {
        return corrupt(error, "the data file is said to be raw, and encrypted");
    }
    if (header->crypt_method != QCOW2_CRYPT_LUKS) {
        return true;
    }
    if (header->crypto_offset == 0) {
        return corrupt(error, "the image is encrypted and has no crypto "
                       "header");
    }
    if (header->crypto_bytes <= 0 ||
        header->crypto_bytes > QCOW2_CRYPTO_HEADER_MAX_BYTES) {
        return corrupt(error, "the crypto header has %" PRIu64 " bytes, must "
                       "have 1 to %" PRId64, (uint64_t)header->crypto_bytes,
                       QCOW2_CRYPTO_HEADER_MAX_BYTES);
    }
    return check_table(header, "crypto header", header->crypto_offset,
                       header->crypto_bytes, file_bytes,
                       /* for_check= */ false, error);
}

static bool check_all(const Qcow2Header *header, const ExtensionFacts *facts,
                      int64_t file_bytes, bool for_check, GError **error)
{
    if (!check_features(header, facts, error) ||
        !check_compression(header, error)) {
        return false;
    }
    if (header->size < 0 || header->size > BDRV_MAX_LENGTH) {
        return corrupt(error, "size is %" PRIu64 " bytes, more than %" PRId64,
                       (uint64_t)header->size, BDRV_MAX_LENGTH);
    }
    return check_l1(header, file_bytes, for_check, error) &&
           check_reftable(header, file_bytes, for_check, error) &&
           check_snapshots(header, file_bytes, for_check, error) &&
           check_bitmaps(header, file_bytes, for_check, error) &&
           check_crypto(header, file_bytes, error);
}

bool qcow2_header_parse(Qcow2Header *ret_header, const uint8_t *buffer,
                        size_t bytes, int64_t file_bytes, bool for_check,
                        GError **error)
{
    Qcow2Header header = { 0 };
    ExtensionFacts facts = { 0 };
    size_t extensions_end;

    if (!parse_fields(&header, buffer, bytes, error)) {
        return false;
    }
    /* The header and all that hangs off it end with the first cluster. */
    bytes = MIN(bytes, (size_t)1 << header.cluster_bits);
    if (header.header_length > (int64_t)bytes) {
        return corrupt(error, "header_length is %" PRId64 ", past the end of "
                       "the first cluster (%zu bytes)", header.header_length,
                       bytes);
    }
    if (!parse_backing_name(&header, buffer, bytes, &extensions_end, error) ||
        !parse_extensions(&header, buffer, extensions_end, &facts, error) ||
        !check_all(&header, &facts, file_bytes, for_check, error)) {
        qcow2_header_clear(&header);
        return false;
    }
    *ret_header = header;
    return true;
}

void qcow2_header_clear(Qcow2Header *header)
{
    g_free(header->backing_name);
    g_free(header->backing_format);
    g_free(header->data_file);
    memset(header, 0, sizeof(*header));
}

/* -- reading -------------------------------------------------------------- */

bool qcow2_header_load(BlockDriverState *bs, Qcow2Header *ret_header,
                       bool for_check, GError **error)
{
    int64_t file_bytes = bdrv_getlength(bs->file->bs);
    Qcow2RawHeader raw = { 0 };
    g_autofree uint8_t *buffer = NULL;
    unsigned cluster_bits;
    int64_t bytes;
    int ret;

    if (file_bytes < 0) {
        error_set_errno(error, (int)-file_bytes, "length of the file");
        return false;
    }
    bytes = MIN(file_bytes, (int64_t)sizeof(raw));
    ret = bdrv_pread(bs->file, 0, bytes, &raw);
    if (ret >= 0) {
        /* A wild cluster_bits is refused by the parser, at any length. */
        cluster_bits = CLAMP(be32_get(&raw.cluster_bits),
                             QCOW2_CLUSTER_BITS_MIN, QCOW2_CLUSTER_BITS_MAX);
        bytes = MIN(file_bytes, (int64_t)1 << cluster_bits);
        buffer = g_malloc0(MAX(bytes, (int64_t)sizeof(raw)));
        ret = bdrv_pread(bs->file, 0, bytes, buffer);
    }
    if (ret < 0) {
        error_set_errno(error, -ret, "reading the header");
        return false;
    }
    return qcow2_header_parse(ret_header, buffer, bytes, file_bytes,
                              for_check, error);
}

/* -- writing -------------------------------------------------------------- */

int coroutine_fn qcow2_header_co_write_features(BlockDriverState *bs,
                                                uint64_t incompatible,
                                                uint64_t compatible,
                                                uint64_t autoclear)
{
    Qcow2RawHeader raw;
    int64_t at = offsetof(Qcow2RawHeader, incompatible_features);
    int ret;

    if (qcow2_state(bs)->header.version < 3) {
        return 0;
    }
    be64_set(&raw.incompatible_features, incompatible);
    be64_set(&raw.compatible_features, compatible);
    be64_set(&raw.autoclear_features, autoclear);
    ret = bdrv_co_pwrite(bs->file, at, 24, &raw.incompatible_features, 0);
    return ret < 0 ? ret : bdrv_co_flush(bs->file->bs);
}

int coroutine_fn qcow2_header_co_write_reftable(BlockDriverState *bs,
                                                int64_t offset,
                                                int64_t clusters)
{
    Qcow2RawHeader raw;

    /* Both fields in one write within one sector: never half. */
    be64_set(&raw.refcount_table_offset, (uint64_t)offset);
    be32_set(&raw.refcount_table_clusters, (uint32_t)clusters);
    return bdrv_co_pwrite(bs->file,
                          offsetof(Qcow2RawHeader, refcount_table_offset), 12,
                          &raw.refcount_table_offset, 0);
}

int coroutine_fn qcow2_header_co_write_l1(BlockDriverState *bs, int64_t size,
                                          int64_t l1_offset,
                                          int64_t l1_entries)
{
    Qcow2RawHeader raw;

    /* size, crypt_method, l1_size and l1_table_offset are neighbours. */
    be64_set(&raw.size, (uint64_t)size);
    be32_set(&raw.crypt_method, qcow2_state(bs)->header.crypt_method);
    be32_set(&raw.l1_size, (uint32_t)l1_entries);
    be64_set(&raw.l1_table_offset, (uint64_t)l1_offset);
    return bdrv_co_pwrite(bs->file, offsetof(Qcow2RawHeader, size), 24,
                          &raw.size, 0);
}
