/* SPDX-License-Identifier: MIT */
/*
 * new qcow2 images
 *
 * parse options -> plan the layout -> write. The plan, one after the other,
 * each part a whole number of clusters:
 *
 *   header | refcount table | refcount blocks | L1 | LUKS header |
 *       L2 tables | data
 *
 * The last two only with preallocation, and no data where an external data
 * file has it: L2 entries then name the guest's own offsets. Each cluster of
 * the plan has a count of 1, so a refcount block is full of ones but for the
 * end of the last.
 *
 * The header is written last: until then the file is no image.
 */
#include "drivers/qcow2/create.h"

#include "block/backend.h"
#include "block/image/create.h"
#include "block/image/measure.h"
#include "block/image/stored_bitmap.h"
#include "drivers/qcow2/crypto.h"
#include "drivers/qcow2/format.h"
#include "drivers/qcow2/refcount.h"

#include <inttypes.h>

#define CLUSTER_BYTES_DEFAULT (64 * KIB)
#define FEATURE_NAMES 8

static const char *const compat_values[] = { "0.10", "1.1", "v2", "v3", NULL };
static const char *const compression_values[] = { "zlib", "zstd", NULL };
static const char *const prealloc_values[] = { "off", "metadata", "falloc",
                                               "full", NULL };

/* What the options say. */
typedef struct CreateParams {
    int64_t length;
    unsigned version;
    unsigned cluster_bits;
    unsigned refcount_order;
    bool lazy_refcounts;
    bool extended_l2;
    int compression_type;
    int prealloc; /* a BdrvPreallocMode: the values are in its order */
    char *backing_file;
    char *backing_format;
    char *data_file; /* NULL: none */
    bool data_file_raw;
    Qcow2CryptoParams crypto;
} CreateParams;

/* Where things go; counts are in clusters, offsets in bytes. */
typedef struct CreatePlan {
    int64_t cluster_bytes;
    int64_t l1_entries;
    int64_t reftable_clusters;
    int64_t refblocks;
    int64_t l1_clusters;
    int64_t crypto_clusters;
    int64_t l2_tables;
    int64_t data_clusters;
    int64_t guest_clusters; /* that L2 entries map */
    int64_t total_clusters;
    int64_t reftable_offset;
    int64_t refblocks_offset;
    int64_t l1_offset;
    int64_t crypto_offset;
    int64_t l2_offset;
    int64_t data_offset;
} CreatePlan;

/* -- options ------------------------------------------------------------- */

static bool option_error(GError **error, const char *text)
{
    g_set_error_literal(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION, text);
    return false;
}

/* Is @value a power of two within [@min, @max]? Its logarithm if so. */
static bool power_of_two(const char *name, int64_t value, int64_t min,
                         int64_t max, unsigned *ret_bits, GError **error)
{
    if (value < min || value > max || (value & (value - 1)) != 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s is %" PRId64 ", must be a power of two from %" PRId64
                    " to %" PRId64, name, value, min, max);
        return false;
    }
    *ret_bits = __builtin_ctzll(value);
    return true;
}

static bool check_data_file(CreateParams *params, GError **error)
{
    if (params->data_file_raw && !params->data_file) {
        return option_error(error, "data_file_raw needs data_file");
    }
    if (!params->data_file) {
        return true;
    }
    if (params->version < 3) {
        return option_error(error, "data_file needs compat=1.1");
    }
    if (params->data_file_raw && params->crypto.method != QCOW2_CRYPT_NONE) {
        return option_error(error, "data_file_raw and encryption exclude each "
                            "other");
    }
    if (params->data_file_raw && params->backing_file) {
        return option_error(error, "data_file_raw and a backing file exclude "
                            "each other");
    }
    if (params->data_file[0] == '\0' ||
        strlen(params->data_file) > QCOW2_DATA_FILE_NAME_MAX) {
        return option_error(error, "the data file's name is empty or too "
                            "long");
    }
    if (params->data_file_raw && params->prealloc == PREALLOC_OFF) {
        /* Who does look at the metadata sees what stands in the raw file. */
        params->prealloc = PREALLOC_METADATA;
    }
    return true;
}

/* Version 2 knows fewer things. */
static bool check_combination(const CreateParams *params, GError **error)
{
    if (params->version < 3 && params->refcount_order != 4) {
        return option_error(error, "compat=0.10 has refcount_bits=16 only");
    }
    if (params->version < 3 && params->lazy_refcounts) {
        return option_error(error, "lazy_refcounts needs compat=1.1");
    }
    if (params->version < 3 &&
        params->compression_type != QCOW2_COMPRESSION_ZLIB) {
        return option_error(error, "compression_type=zstd needs compat=1.1");
    }
    if (params->extended_l2 && params->version < 3) {
        return option_error(error, "extended_l2 needs compat=1.1");
    }
    if (params->extended_l2 &&
        params->cluster_bits < QCOW2_EXTENDED_CLUSTER_BITS_MIN) {
        return option_error(error, "extended_l2 needs a cluster_size of at "
                            "least 16384");
    }
    if (params->backing_file && params->prealloc != PREALLOC_OFF &&
        !params->extended_l2) {
        return option_error(error, "an image with a backing file cannot be "
                            "preallocated without extended_l2=on: that would "
                            "hide the backing file");
    }
    if (params->backing_file &&
        strlen(params->backing_file) > QCOW2_BACKING_NAME_MAX) {
        return option_error(error, "the backing file's name is longer than "
                            "1023 bytes");
    }
    return true;
}

static bool parse_params(BlockOptions *options, CreateParams *params,
                         GError **error)
{
    int64_t cluster_bytes = CLUSTER_BYTES_DEFAULT;
    uint64_t refcount_bits = 16;
    int compat = 1;
    bool nocow = false; /* a hint for the file system; nothing depends on it */

    if (!block_options_take_enum(options, "compat", compat_values, &compat,
                                 error) ||
        !block_options_take_size(options, "cluster_size", &cluster_bytes,
                                 error) ||
        !block_options_take_number(options, "refcount_bits", &refcount_bits,
                                   error) ||
        !block_options_take_bool(options, "lazy_refcounts",
                                 &params->lazy_refcounts, error) ||
        !block_options_take_bool(options, "extended_l2",
                                 &params->extended_l2, error) ||
        !block_options_take_enum(options, "compression_type",
                                 compression_values,
                                 &params->compression_type, error) ||
        !block_options_take_enum(options, "preallocation", prealloc_values,
                                 &params->prealloc, error) ||
        !block_options_take_string(options, "backing_file",
                                   &params->backing_file, error) ||
        !block_options_take_string(options, "backing_fmt",
                                   &params->backing_format, error) ||
        !block_options_take_string(options, "data_file", &params->data_file,
                                   error) ||
        !block_options_take_bool(options, "data_file_raw",
                                 &params->data_file_raw, error) ||
        !block_options_take_bool(options, "nocow", &nocow, error) ||
        !qcow2_crypto_take_params(options, &params->crypto, error)) {
        return false;
    }
    params->version = compat % 2 == 0 ? 2 : 3;
    return power_of_two("cluster_size", cluster_bytes,
                        1 << QCOW2_CLUSTER_BITS_MIN,
                        1 << QCOW2_CLUSTER_BITS_MAX, &params->cluster_bits,
                        error) &&
           power_of_two("refcount_bits", MIN(refcount_bits, 1024), 1, 64,
                        &params->refcount_order, error) &&
           check_combination(params, error) && check_data_file(params, error);
}

/* -- planning ------------------------------------------------------------ */

/*
 * Counts need clusters, which need counts: repeat until nothing changes. Each
 * round only grows, and by ever less.
 */
static void plan_refcounts(const CreateParams *params, CreatePlan *plan)
{
    int64_t counts_per_block =
        plan->cluster_bytes * 8 >> params->refcount_order;
    int64_t others = 1 + plan->l1_clusters + plan->crypto_clusters +
                     plan->l2_tables + plan->data_clusters;
    int64_t before;

    plan->reftable_clusters = 1;
    plan->refblocks = 1;
    do {
        before = plan->reftable_clusters + plan->refblocks;
        plan->refblocks = div_round_up(others + before, counts_per_block);
        plan->reftable_clusters = div_round_up(plan->refblocks * 8,
                                               plan->cluster_bytes);
    } while (plan->reftable_clusters + plan->refblocks != before);
    plan->total_clusters = others + before;
}

/* Of an L2 table. */
static int64_t l2_entries(const CreateParams *params)
{
    return ((int64_t)1 << params->cluster_bits) /
           (params->extended_l2 ? 16 : 8);
}

static bool make_plan(const CreateParams *params, CreatePlan *plan,
                      GError **error)
{
    int64_t cluster_bytes = (int64_t)1 << params->cluster_bits;
    int64_t guest_clusters = div_round_up(params->length, cluster_bytes);

    *plan = (CreatePlan) { .cluster_bytes = cluster_bytes };
    plan->l1_entries = MAX(1, div_round_up(guest_clusters,
                                           l2_entries(params)));
    if (plan->l1_entries * 8 > QCOW2_L1_MAX_BYTES) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%" PRId64 " bytes are too many for clusters of %" PRId64
                    " bytes; use a larger cluster_size", params->length,
                    cluster_bytes);
        return false;
    }
    plan->l1_clusters = div_round_up(plan->l1_entries * 8, cluster_bytes);
    plan->crypto_clusters = div_round_up(
        qcow2_crypto_header_bytes(&params->crypto), cluster_bytes);
    if (params->prealloc != PREALLOC_OFF) {
        plan->data_clusters = guest_clusters;
        plan->l2_tables = guest_clusters ? plan->l1_entries : 0;
    }
    plan->guest_clusters = plan->data_clusters;
    if (params->data_file) {
        plan->data_clusters = 0; /* not in this file */
    }
    plan_refcounts(params, plan);
    if (plan->reftable_clusters * cluster_bytes > QCOW2_REFTABLE_MAX_BYTES) {
        return option_error(error, "too many clusters to preallocate; use a "
                            "larger cluster_size");
    }
    plan->reftable_offset = cluster_bytes;
    plan->refblocks_offset = plan->reftable_offset +
                             plan->reftable_clusters * cluster_bytes;
    plan->l1_offset = plan->refblocks_offset + plan->refblocks * cluster_bytes;
    plan->crypto_offset = plan->l1_offset + plan->l1_clusters * cluster_bytes;
    plan->l2_offset = plan->crypto_offset +
                      plan->crypto_clusters * cluster_bytes;
    plan->data_offset = params->data_file
                            ? 0 : plan->l2_offset +
                                      plan->l2_tables * cluster_bytes;
    return true;
}

/* -- writing ------------------------------------------------------------- */

/*
 * A table of @clusters with @entries pointers to consecutive clusters from
 * @target on; zeros behind them.
 */
static bool write_pointers(BlockBackend *file, const CreatePlan *plan,
                           int64_t offset, int64_t clusters, int64_t entries,
                           int64_t target, uint64_t flags, GError **error)
{
    int64_t bytes = clusters * plan->cluster_bytes;
    g_autofree be64 *table = g_try_malloc0(bytes);

    if (!table) {
        error_set_errno(error, ENOMEM, "a table of %" PRId64 " bytes", bytes);
        return false;
    }
    for (int64_t i = 0; i < entries; i++) {
        be64_set(&table[i], (target + i * plan->cluster_bytes) | flags);
    }
    return image_create_write(file, offset, bytes, table, error);
}

static bool write_refcounts(BlockBackend *file, const CreateParams *params,
                            const CreatePlan *plan, GError **error)
{
    int64_t per_block = plan->cluster_bytes * 8 >> params->refcount_order;
    g_autofree uint8_t *block = g_malloc(plan->cluster_bytes);

    if (!write_pointers(file, plan, plan->reftable_offset,
                        plan->reftable_clusters, plan->refblocks,
                        plan->refblocks_offset, /* flags= */ 0, error)) {
        return false;
    }
    for (int64_t i = 0; i < plan->refblocks; i++) {
        int64_t used = MIN(plan->total_clusters - i * per_block, per_block);

        memset(block, 0, plan->cluster_bytes);
        for (int64_t j = 0; j < used; j++) {
            qcow2_refcount_set(block, params->refcount_order, j, 1);
        }
        if (!image_create_write(file,
                                plan->refblocks_offset +
                                    i * plan->cluster_bytes,
                                plan->cluster_bytes, block, error)) {
            return false;
        }
    }
    return true;
}

/*
 * The L2 table at @index. The bitmap of an extended entry stays 0: the host
 * cluster is there, but none of its subclusters hides a backing file, or has
 * to be read; in a raw data file all are what it says.
 */
static bool write_l2_table(BlockBackend *file, const CreateParams *params,
                           const CreatePlan *plan, int64_t index,
                           GError **error)
{
    int64_t per_table = l2_entries(params);
    int64_t first = index * per_table;
    int64_t words = params->extended_l2 ? 2 : 1;
    g_autofree be64 *table = g_malloc0(plan->cluster_bytes);

    for (int64_t i = 0; i < MIN(plan->guest_clusters - first, per_table);
         i++) {
        be64_set(&table[i * words],
                 (plan->data_offset + (first + i) * plan->cluster_bytes) |
                     QCOW2_ENTRY_COPIED);
        if (params->extended_l2 && params->data_file_raw) {
            be64_set(&table[i * words + 1], QCOW2_BITMAP_ALL_ALLOC);
        }
    }
    return image_create_write(file,
                              plan->l2_offset + index * plan->cluster_bytes,
                              plan->cluster_bytes, table, error);
}

static bool write_mapping(BlockBackend *file, const CreateParams *params,
                          const CreatePlan *plan, GError **error)
{
    for (int64_t i = 0; i < plan->l2_tables; i++) {
        if (!write_l2_table(file, params, plan, i, error)) {
            return false;
        }
    }
    return write_pointers(file, plan, plan->l1_offset, plan->l1_clusters,
                          plan->l2_tables, plan->l2_offset,
                          QCOW2_ENTRY_COPIED, error);
}

/* -- the header ---------------------------------------------------------- */

/* Appends an extension, padded; false when there is no room before @end. */
static bool add_extension(uint8_t *header, size_t *at, size_t end,
                          uint32_t type, const void *data, size_t bytes)
{
    Qcow2RawExtension *raw = (Qcow2RawExtension *)(header + *at);
    size_t padded = align_up(bytes, 8);

    if (*at + sizeof(*raw) + padded > end) {
        return false;
    }
    be32_set(&raw->type, type);
    be32_set(&raw->length, bytes);
    memcpy(header + *at + sizeof(*raw), data, bytes);
    *at += sizeof(*raw) + padded;
    return true;
}

static void add_feature_names(uint8_t *header, size_t *at, size_t end)
{
    static const Qcow2RawFeatureName names[FEATURE_NAMES] = {
        { 0, 0, "dirty bit" },
        { 0, 1, "corrupt bit" },
        { 0, 2, "external data file" },
        { 0, 3, "compression type" },
        { 0, 4, "extended L2 entries" },
        { 1, 0, "lazy refcounts" },
        { 2, 0, "bitmaps" },
        { 2, 1, "raw external data" },
    };

    /* Only help for old programs: left out where the cluster is too small. */
    (void) add_extension(header, at, end, QCOW2_EXTENSION_FEATURE_NAMES, names,
                         sizeof(names));
}

static void set_version3_fields(Qcow2RawHeader *raw,
                                const CreateParams *params)
{
    uint64_t incompatible = 0;

    if (params->compression_type != QCOW2_COMPRESSION_ZLIB) {
        incompatible |= QCOW2_INCOMPAT_COMPRESSION;
    }
    if (params->data_file) {
        incompatible |= QCOW2_INCOMPAT_DATA_FILE;
    }
    if (params->extended_l2) {
        incompatible |= QCOW2_INCOMPAT_EXTENDED_L2;
    }
    if (params->data_file_raw) {
        be64_set(&raw->autoclear_features, QCOW2_AUTOCLEAR_DATA_FILE_RAW);
    }
    be64_set(&raw->incompatible_features, incompatible);
    if (params->lazy_refcounts) {
        be64_set(&raw->compatible_features, QCOW2_COMPAT_LAZY_REFCOUNTS);
    }
    be32_set(&raw->refcount_order, params->refcount_order);
    be32_set(&raw->header_length, sizeof(*raw));
    raw->compression_type = params->compression_type;
}

static bool add_crypto_extension(uint8_t *header, size_t *at, size_t end,
                                 const CreateParams *params,
                                 const CreatePlan *plan)
{
    Qcow2RawCryptoExtension raw;

    if (plan->crypto_clusters == 0) {
        return true;
    }
    be64_set(&raw.offset, plan->crypto_offset);
    be64_set(&raw.length, qcow2_crypto_header_bytes(&params->crypto));
    return add_extension(header, at, end, QCOW2_EXTENSION_CRYPTO_HEADER, &raw,
                         sizeof(raw));
}

/* The first cluster: header, extensions, end mark, backing file's name. */
static bool fill_header(uint8_t *cluster, const CreateParams *params,
                        const CreatePlan *plan, GError **error)
{
    Qcow2RawHeader *raw = (Qcow2RawHeader *)cluster;
    size_t name_bytes = params->backing_file ? strlen(params->backing_file)
                                             : 0;
    /* Behind the extensions: the end mark and the name. */
    size_t end = plan->cluster_bytes - sizeof(Qcow2RawExtension);
    size_t at = params->version < 3 ? QCOW2_HEADER_V2_BYTES : sizeof(*raw);

    be32_set(&raw->magic, QCOW2_MAGIC);
    be32_set(&raw->version, params->version);
    be32_set(&raw->cluster_bits, params->cluster_bits);
    be64_set(&raw->size, params->length);
    be32_set(&raw->l1_size, plan->l1_entries);
    be64_set(&raw->l1_table_offset, plan->l1_offset);
    be64_set(&raw->refcount_table_offset, plan->reftable_offset);
    be32_set(&raw->refcount_table_clusters, plan->reftable_clusters);
    be32_set(&raw->crypt_method, params->crypto.method);
    if (params->version >= 3) {
        set_version3_fields(raw, params);
    }
    if (name_bytes > end - at ||
        (params->backing_format &&
         !add_extension(cluster, &at, end - name_bytes,
                        QCOW2_EXTENSION_BACKING_FORMAT, params->backing_format,
                        strlen(params->backing_format))) ||
        (params->data_file &&
         !add_extension(cluster, &at, end - name_bytes,
                        QCOW2_EXTENSION_DATA_FILE, params->data_file,
                        strlen(params->data_file))) ||
        !add_crypto_extension(cluster, &at, end - name_bytes, params, plan)) {
        return option_error(error, "the other files' names do not fit in "
                            "the first cluster; use a larger cluster_size");
    }
    if (params->version >= 3) {
        add_feature_names(cluster, &at, end - name_bytes);
    }
    at += sizeof(Qcow2RawExtension); /* the end mark is zeros */
    if (name_bytes) {
        be64_set(&raw->backing_file_offset, at);
        be32_set(&raw->backing_file_size, name_bytes);
        memcpy(cluster + at, params->backing_file, name_bytes);
    }
    return true;
}

/* Unused key slots are holes, and belong to the file all the same. */
static bool write_crypto(BlockBackend *file, const CreateParams *params,
                         const CreatePlan *plan, GError **error)
{
    return (plan->crypto_clusters == 0 ||
            image_create_resize(file, plan->l2_offset, PREALLOC_OFF,
                                error)) &&
           qcow2_crypto_create(file, plan->crypto_offset, &params->crypto,
                               error);
}

static bool write_image(BlockBackend *file, const CreateParams *params,
                        GError **error)
{
    CreatePlan plan;
    g_autofree uint8_t *cluster = NULL;
    BdrvPreallocMode prealloc = params->prealloc;

    if (!make_plan(params, &plan, error)) {
        return false;
    }
    cluster = g_malloc0(plan.cluster_bytes);
    if (!fill_header(cluster, params, &plan, error) ||
        !write_refcounts(file, params, &plan, error) ||
        !write_crypto(file, params, &plan, error) ||
        !write_mapping(file, params, &plan, error)) {
        return false;
    }
    if (plan.data_clusters > 0 &&
        !image_create_resize(file, plan.total_clusters * plan.cluster_bytes,
                             prealloc == PREALLOC_METADATA ? PREALLOC_OFF
                                                           : prealloc,
                             error)) {
        return false;
    }
    return image_create_write(file, 0, plan.cluster_bytes, cluster, error);
}

static bool qcow2_create(BlockBackend *file, int64_t length,
                         BlockOptions *options, GError **error)
{
    /* A guest sees whole sectors. */
    CreateParams params = { .length = align_up(length, 512) };
    bool ok = parse_params(options, &params, error) &&
              write_image(file, &params, error);

    g_free(params.backing_file);
    g_free(params.backing_format);
    g_free(params.data_file);
    qcow2_crypto_params_clear(&params.crypto);
    return ok;
}

/*
 * The file with everything allocated is what full preallocation would make;
 * without the clusters that hold nothing it is what is required. That counts
 * the metadata of all clusters: an upper bound that is close.
 */
static bool measure_params(BlockBackend *source, CreateParams *params,
                           BlockMeasure *ret_measure, GError **error)
{
    BdrvPreallocMode prealloc = params->prealloc;
    int64_t data_bytes = 0;
    CreatePlan plan;

    params->prealloc = PREALLOC_FULL;
    /* All files together are as large as the one would be. */
    g_clear_pointer(&params->data_file, g_free);
    if (!make_plan(params, &plan, error)) {
        return false;
    }
    if (prealloc >= PREALLOC_FALLOC || params->backing_file) {
        /* What of a backing file is shared is not known: the worst case. */
        data_bytes = plan.data_clusters * plan.cluster_bytes;
    } else if (source && !image_measure_data(source, plan.cluster_bytes,
                                             &data_bytes, error)) {
        return false;
    }
    ret_measure->fully_allocated = plan.total_clusters * plan.cluster_bytes;
    ret_measure->required = ret_measure->fully_allocated + data_bytes -
                            plan.data_clusters * plan.cluster_bytes;
    return true;
}

/*
 * What copies of the source's usable bitmaps need, each with all its clusters
 * of bits; -1 when there is nothing to copy from or to.
 */
static int64_t measure_bitmaps(BlockBackend *source,
                               const CreateParams *params)
{
    const GPtrArray *list = source ? bdrv_bitmap_list(blk_bs(source)) : NULL;
    int64_t cluster_bytes = (int64_t)1 << params->cluster_bits;
    int64_t directory_bytes = 0;
    int64_t bytes = 0;

    if (!list || params->version < 3) {
        return -1;
    }
    for (guint i = 0; i < list->len; i++) {
        const BlockStoredBitmap *bitmap = g_ptr_array_index(list, i);
        int64_t units = div_round_up(params->length, bitmap->granularity);
        int64_t clusters = div_round_up(div_round_up(units, 8),
                                        cluster_bytes);

        if (bitmap->state == BLOCK_BITMAP_USABLE) {
            bytes += clusters * cluster_bytes +
                     align_up(clusters * 8, cluster_bytes);
            directory_bytes += align_up((int64_t)sizeof(Qcow2RawBitmapEntry) +
                                            (int64_t)strlen(bitmap->name), 8);
        }
    }
    return bytes + align_up(directory_bytes, cluster_bytes);
}

static bool qcow2_measure(BlockBackend *source, int64_t length,
                          BlockOptions *options, BlockMeasure *ret_measure,
                          GError **error)
{
    CreateParams params = { .length = align_up(length, 512) };
    bool ok = parse_params(options, &params, error) &&
              measure_params(source, &params, ret_measure, error);

    if (ok) {
        ret_measure->bitmaps = measure_bitmaps(source, &params);
    }
    g_free(params.backing_file);
    g_free(params.backing_format);
    g_free(params.data_file);
    qcow2_crypto_params_clear(&params.crypto);
    return ok;
}

static const BlockOptionDesc create_options[] = {
    { .name = "compat", .type = BLOCK_OPTION_ENUM, .default_value = "1.1",
      .values = compat_values, .help = "version of the format" },
    { .name = "cluster_size", .type = BLOCK_OPTION_SIZE,
      .default_value = "64k", .help = "size of a cluster, 512 to 2M" },
    { .name = "refcount_bits", .type = BLOCK_OPTION_NUMBER,
      .default_value = "16", .help = "width of a refcount, 1 to 64" },
    { .name = "lazy_refcounts", .type = BLOCK_OPTION_BOOL,
      .default_value = "off", .help = "refcounts may be written late" },
    { .name = "extended_l2", .type = BLOCK_OPTION_BOOL,
      .default_value = "off",
      .help = "allocate subclusters, 1/32 of a cluster of at least 16k" },
    { .name = "compression_type", .type = BLOCK_OPTION_ENUM,
      .default_value = "zlib", .values = compression_values,
      .help = "how compressed clusters are stored" },
    { .name = "preallocation", .type = BLOCK_OPTION_ENUM,
      .default_value = "off", .values = prealloc_values,
      .help = "what is allocated in advance" },
    { .name = "backing_file", .type = BLOCK_OPTION_STRING,
      .help = "image to read where this one has nothing" },
    { .name = "backing_fmt", .type = BLOCK_OPTION_STRING,
      .help = "format of the backing file" },
    { .name = "data_file", .type = BLOCK_OPTION_STRING,
      .help = "file for the guest's data; this one has the metadata only" },
    { .name = "data_file_raw", .type = BLOCK_OPTION_BOOL,
      .default_value = "off",
      .help = "the data file is a raw image at all times" },
    { .name = "encrypt.format", .type = BLOCK_OPTION_STRING,
      .help = "luks, or aes for old programs" },
    IMAGE_ENCRYPTION_OPTIONS("encrypt."),
    { .name = "encryption", .type = BLOCK_OPTION_BOOL, .default_value = "off",
      .help = "the old name of encrypt.format=aes" },
    { .name = "nocow", .type = BLOCK_OPTION_BOOL, .default_value = "off",
      .help = "accepted and without effect" },
    { .name = NULL },
};

const BlockCreateOps qcow2_create_ops = {
    .options = create_options,
    .create = qcow2_create,
    .measure = qcow2_measure,
};
