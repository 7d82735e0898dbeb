/* SPDX-License-Identifier: MIT */
/*
 * what may change about a qcow2 image that exists
 *
 *   parse -> refuse what cannot be -> 1 upgrade, with the snapshot table
 *         -> 2 refcounts of another width -> 3 what version 2 lacks goes
 *         -> 4 the header, with all the rest -> read everything anew
 *
 * Each step leaves a sound image that reads the same, so a crash between them
 * leaves some of the changes undone and nothing else. Steps 1, 2 and 4 end
 * with one write of the header; 3 replaces what means zeros by other things
 * that do.
 *
 * We write refcounts back in order, with or without lazy_refcounts: the bit is
 * kept for others, and an image that we write is never marked dirty.
 *
 * Locking: control plane, node drained: nobody else is there.
 */
#include "drivers/qcow2/amend.h"

#include "block/image/encryption_slots.h"
#include "block/io/io.h"
#include "block/rt/aio_context.h"
#include "drivers/qcow2/bitmaps.h"
#include "drivers/qcow2/check.h"
#include "drivers/qcow2/cluster.h"
#include "drivers/qcow2/data_file.h"
#include "drivers/qcow2/rewrite.h"
#include "drivers/qcow2/snapshot.h"

#include <errno.h>
#include <inttypes.h>

static const char *const compat_values[] = { "0.10", "1.1", "v2", "v3", NULL };

typedef struct Amend {
    BlockDriverState *bs;
    Qcow2Header wanted; /* with strings of its own */
    bool has_backing;   /* the backing file is among the wishes */
    const BlockAmendHow *how;
    ImageEncryptionSlots slots; /* key slots of an encrypted image */
    int ret;
} Amend;

static bool refuse(GError **error, const char *format, ...)
    G_GNUC_PRINTF(2, 3);

/* Always false. */
static bool refuse(GError **error, const char *format, ...)
{
    va_list arguments;
    g_autofree char *message = NULL;

    va_start(arguments, format);
    message = g_strdup_vprintf(format, arguments);
    va_end(arguments);
    g_set_error_literal(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION, message);
    return false;
}

/* -- parsing -------------------------------------------------------------- */

/* An empty name means none. */
static void set_name(char **name, char *taken)
{
    g_free(*name);
    *name = taken && taken[0] ? g_strdup(taken) : NULL;
}

static bool take_names(Amend *amend, BlockOptions *options, GError **error)
{
    Qcow2Header *wanted = &amend->wanted;
    g_autofree char *backing = NULL;
    g_autofree char *format = NULL;
    g_autofree char *data_file = NULL;
    bool has_data_file = block_options_has(options, "data_file");
    bool has_format = block_options_has(options, "backing_fmt");

    amend->has_backing = block_options_has(options, "backing_file");
    if (!block_options_take_string(options, "backing_file", &backing,
                                   error) ||
        !block_options_take_string(options, "backing_fmt", &format, error) ||
        !block_options_take_string(options, "data_file", &data_file, error)) {
        return false;
    }
    if (amend->has_backing) {
        set_name(&wanted->backing_name, backing);
    }
    if (has_format) {
        set_name(&wanted->backing_format, format);
    }
    if (has_format && !wanted->backing_name) {
        return refuse(error, "backing_fmt is for images with a backing file");
    }
    if (has_data_file && !(wanted->incompatible & QCOW2_INCOMPAT_DATA_FILE)) {
        return refuse(error, "the image has no external data file, and cannot "
                      "get one: data_file is for new images");
    }
    if (has_data_file) {
        set_name(&wanted->data_file, data_file);
    }
    return true;
}

static bool take_bits(Amend *amend, BlockOptions *options, GError **error)
{
    Qcow2Header *wanted = &amend->wanted;
    bool lazy = wanted->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
    bool was_raw = qcow2_data_is_raw(qcow2_state(amend->bs));
    bool raw = was_raw;
    bool lazy_is_given = block_options_has(options, "lazy_refcounts");

    if (!block_options_take_bool(options, "lazy_refcounts", &lazy, error) ||
        !block_options_take_bool(options, "data_file_raw", &raw, error)) {
        return false;
    }
    if (raw && !was_raw) {
        return refuse(error, "data_file_raw=on is for new images");
    }
    if (wanted->version < 3 && lazy && lazy_is_given) {
        return refuse(error, "lazy_refcounts needs compat=1.1");
    }
    wanted->compatible &= ~(uint64_t)QCOW2_COMPAT_LAZY_REFCOUNTS;
    wanted->compatible |= lazy ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0;
    if (!raw) {
        wanted->autoclear &= ~(uint64_t)QCOW2_AUTOCLEAR_DATA_FILE_RAW;
    } else if (wanted->backing_name) {
        return refuse(error, "an image with a raw data file cannot have a "
                      "backing file");
    }
    return true;
}

static bool take_options(Amend *amend, BlockOptions *options, GError **error)
{
    Qcow2Header *wanted = &amend->wanted;
    int compat = wanted->version < 3 ? 0 : 1;
    uint64_t bits = 1u << wanted->refcount_order;

    if (!block_options_take_enum(options, "compat", compat_values, &compat,
                                 error) ||
        !block_options_take_number(options, "refcount_bits", &bits, error)) {
        return false;
    }
    wanted->version = compat % 2 == 0 ? 2 : 3;
    if (bits < 1 || bits > 64 || (bits & (bits - 1)) != 0) {
        return refuse(error, "refcount_bits is %" PRIu64 ", must be a power "
                      "of two from 1 to 64", bits);
    }
    wanted->refcount_order = (unsigned)__builtin_ctzll(bits);
    return take_names(amend, options, error) &&
           take_bits(amend, options, error);
}

/* -- what version 2 lacks ------------------------------------------------- */

/* Takes the zero flags out of a snapshot's L2 table; counts them. */
static int coroutine_fn strip_table(BlockDriverState *bs, int64_t host_offset,
                                    bool only_count, int64_t *count)
{
    Qcow2State *q = qcow2_state(bs);
    g_autofree be64 *table = g_malloc(q->cluster_bytes);
    int64_t found = 0;
    int ret;

    if (qcow2_in_cluster(q, host_offset) != 0) {
        return -EIO;
    }
    ret = bdrv_co_pread(bs->file, host_offset, q->cluster_bytes, table, 0);
    for (int64_t i = 0; ret >= 0 && i < q->cluster_bytes / 8; i++) {
        uint64_t entry = be64_get(&table[i]);

        if (!(entry & QCOW2_L2_COMPRESSED) && (entry & QCOW2_L2_ZERO)) {
            be64_set(&table[i], 0);
            found++;
        }
    }
    *count += found;
    return ret >= 0 && found > 0 && !only_count
               ? bdrv_co_pwrite(bs->file, host_offset, q->cluster_bytes,
                                table, 0)
               : ret;
}

/* All tables of snapshots. *@count: zero clusters in them. */
static int coroutine_fn strip_snapshots(BlockDriverState *bs, bool only_count,
                                        int64_t *count)
{
    Qcow2State *q = qcow2_state(bs);
    int ret = 0;

    *count = 0;
    for (guint i = 0; ret >= 0 && i < q->snapshots->len; i++) {
        const Qcow2Snapshot *snapshot = g_ptr_array_index(q->snapshots, i);
        g_autofree uint64_t *l1 =
            qcow2_co_read_l1(bs, snapshot->l1_offset, snapshot->l1_entries,
                             &ret);

        for (int64_t k = 0; l1 && ret >= 0 && k < snapshot->l1_entries; k++) {
            int64_t host_offset = l1[k] & QCOW2_OFFSET_MASK;

            if (host_offset) {
                ret = strip_table(bs, host_offset, only_count, count);
            }
        }
    }
    return ret;
}

typedef struct Strip {
    BlockDriverState *bs;
    bool only_count;
    int64_t count;
    int ret;
} Strip;

static void coroutine_fn strip_entry(void *opaque)
{
    Strip *strip = opaque;

    strip->ret = strip_snapshots(strip->bs, strip->only_count, &strip->count);
}

/* One run of zeros in the active mapping gets another form. */
static int coroutine_fn expand_run(BlockDriverState *bs, int64_t offset,
                                   int64_t bytes)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t end = MIN(offset + bytes, q->header.size);

    if (bs->backing && offset < MIN(bdrv_node_length(bs->backing->bs), end)) {
        return qcow2_write_zeros(bs, offset, end);
    }
    /* Nothing shows through a hole. */
    return qcow2_clear_clusters(bs, offset, bytes, QCOW2_CLEAR_UNALLOCATED);
}

/* All that the L1 reaches: also what a larger image has left behind. */
static void coroutine_fn expand_entry(void *opaque)
{
    Amend *amend = opaque;
    BlockDriverState *bs = amend->bs;
    Qcow2State *q = qcow2_state(bs);
    int64_t end = q->header.l1_entries << (q->l2_bits + q->cluster_bits);
    int64_t offset = 0;

    amend->ret = qcow2_prepare_write(bs);
    while (offset < end && amend->ret >= 0) {
        unsigned side = qcow2_epoch_enter(q->epoch);
        Qcow2Run run;

        amend->ret = qcow2_map(bs, offset, MIN(end - offset, GIB), &run);
        qcow2_epoch_leave(q->epoch, side);
        if (amend->ret >= 0 && (run.type == QCOW2_CLUSTER_ZERO_PLAIN ||
                                run.type == QCOW2_CLUSTER_ZERO_ALLOC)) {
            run.bytes = MIN(run.bytes, 64 * q->cluster_bytes);
            amend->ret = expand_run(bs, offset, run.bytes);
        }
        offset += run.bytes;
        if (amend->how->progress) {
            amend->how->progress(offset, end, amend->how->opaque);
        }
    }
}

static bool io_failed(int ret, const char *what, GError **error)
{
    if (ret < 0) {
        error_set_errno(error, -ret, "%s", what);
    }
    return ret < 0;
}

/* Step 3. What snapshots gave up is leaked until the repair finds it. */
static bool expand_zeros(Amend *amend, GError **error)
{
    BlockDriverState *bs = amend->bs;
    Strip strip = { .bs = bs };
    Qcow2CheckResult result = { 0 };

    aio_run_sync(expand_entry, amend);
    if (io_failed(amend->ret, "rewriting clusters of zeros", error) ||
        io_failed(qcow2_commit_all(bs), "writing the metadata back", error)) {
        return false;
    }
    aio_run_sync(strip_entry, &strip);
    if (io_failed(strip.ret, "rewriting tables of snapshots", error) ||
        io_failed(bdrv_flush(bs->file->bs), "cannot flush", error)) {
        return false;
    }
    return strip.count == 0 ||
           (qcow2_check(bs, QCOW2_FIX_LEAKS, &result, error) &&
            qcow2_reload(bs, error));
}

static bool snapshots_allow_version2(Amend *amend, GError **error)
{
    Qcow2State *q = qcow2_state(amend->bs);
    Strip strip = { .bs = amend->bs, .only_count = true };

    for (guint i = 0; i < q->snapshots->len; i++) {
        const Qcow2Snapshot *snapshot = g_ptr_array_index(q->snapshots, i);

        if (snapshot->info.disk_bytes != q->header.size ||
            snapshot->info.vm_state_bytes > UINT32_MAX) {
            return refuse(error, "compat=0.10 has no snapshots of another "
                          "size, such as '%s'", snapshot->info.name);
        }
    }
    if (q->header.backing_name && q->snapshots->len > 0) {
        aio_run_sync(strip_entry, &strip);
        if (io_failed(strip.ret, "reading tables of snapshots", error)) {
            return false;
        }
    }
    return strip.count == 0 ||
           refuse(error, "compat=0.10 has no clusters of zeros, and snapshots "
                  "have %" PRId64 " over the backing file; delete the "
                  "snapshots first", strip.count);
}

static bool can_be_version2(Amend *amend, GError **error)
{
    const Qcow2Header *header = &qcow2_state(amend->bs)->header;

    if (amend->wanted.refcount_order != 4) {
        return refuse(error, "compat=0.10 needs refcount_bits=16");
    }
    if (header->incompatible & QCOW2_INCOMPAT_DATA_FILE) {
        return refuse(error, "compat=0.10 has no external data files");
    }
    if (header->incompatible & QCOW2_INCOMPAT_COMPRESSION) {
        return refuse(error, "compat=0.10 has no compression_type=zstd");
    }
    if (header->incompatible & QCOW2_INCOMPAT_EXTENDED_L2) {
        return refuse(error, "compat=0.10 has no features like extended_l2");
    }
    if (header->incompatible & ~(uint64_t)QCOW2_INCOMPAT_DIRTY) {
        return refuse(error, "compat=0.10 has no features like 0x%" PRIx64,
                      header->incompatible);
    }
    if (header->has_bitmaps) {
        return refuse(error, "compat=0.10 has no bitmaps; remove them first");
    }
    if (amend->has_backing) {
        return refuse(error, "compat=0.10 and another backing file: one after "
                      "the other, please");
    }
    return header->version < 3 || snapshots_allow_version2(amend, error);
}

/* -- all of it ------------------------------------------------------------ */

/* Everything that can be refused is, here. */
static bool check_wishes(Amend *amend, GError **error)
{
    Qcow2State *q = qcow2_state(amend->bs);
    const Qcow2Header *wanted = &amend->wanted;

    if (wanted->version < 3 && !can_be_version2(amend, error)) {
        return false;
    }
    if (wanted->backing_name && !wanted->backing_format &&
        amend->has_backing) {
        return refuse(error, "backing_file needs its format: backing_fmt");
    }
    if ((wanted->backing_name &&
         strlen(wanted->backing_name) > QCOW2_BACKING_NAME_MAX) ||
        (wanted->data_file &&
         strlen(wanted->data_file) > QCOW2_DATA_FILE_NAME_MAX)) {
        return refuse(error, "a file name is too long");
    }
    if (!qcow2_header_has_room(amend->bs, wanted)) {
        return refuse(error, "what the header is to say does not fit in the "
                      "first cluster of %" PRId64 " bytes", q->cluster_bytes);
    }
    return wanted->refcount_order == q->header.refcount_order ||
           qcow2_change_refcount_order(amend->bs, wanted->refcount_order,
                                       /* only_try= */ true, error);
}

/* Step 1. Snapshots first: version 2 allows what version 3 demands. */
static bool upgrade(Amend *amend, GError **error)
{
    Qcow2State *q = qcow2_state(amend->bs);
    Qcow2Header newer;

    if (q->header.version >= 3 || amend->wanted.version < 3) {
        return true;
    }
    if (!qcow2_snapshots_rewrite(amend->bs, error) ||
        io_failed(qcow2_commit_all(amend->bs), "writing the metadata back",
                  error)) {
        return false;
    }
    newer = q->header;
    newer.version = 3;
    return qcow2_header_rewrite(amend->bs, &newer, error);
}

/* Step 4: what is the image's now stays, what was wished for is set. */
static bool write_wishes(Amend *amend, GError **error)
{
    const Qcow2Header *wanted = &amend->wanted;
    Qcow2Header header = qcow2_state(amend->bs)->header;

    header.version = wanted->version;
    header.backing_name = wanted->backing_name;
    header.backing_format = wanted->backing_format;
    header.data_file = wanted->data_file;
    if (wanted->version < 3) {
        header.incompatible = header.compatible = header.autoclear = 0;
    } else {
        header.compatible = wanted->compatible;
        header.autoclear &= wanted->autoclear & QCOW2_KNOWN_AUTOCLEAR;
    }
    return qcow2_header_rewrite(amend->bs, &header, error);
}

static bool change_all(Amend *amend, GError **error)
{
    BlockDriverState *bs = amend->bs;
    Qcow2State *q = qcow2_state(bs);
    const Qcow2Header *wanted = &amend->wanted;
    bool ok = upgrade(amend, error);

    if (ok && wanted->refcount_order != q->header.refcount_order) {
        ok = qcow2_change_refcount_order(bs, wanted->refcount_order,
                                         /* only_try= */ false, error) &&
             qcow2_reload(bs, error);
    }
    if (ok && wanted->version < q->header.version) {
        ok = expand_zeros(amend, error);
    }
    return ok && write_wishes(amend, error) && qcow2_reload(bs, error);
}

/* Reading everything anew forgets bitmaps in memory: to the file with them. */
static bool apply(Amend *amend, GError **error)
{
    bool had_bitmaps, ok;

    if (io_failed(qcow2_bitmaps_store(amend->bs), "cannot store the bitmaps",
                  error)) {
        return false;
    }
    had_bitmaps = qcow2_bitmaps_untrack(amend->bs);
    ok = change_all(amend, error);
    if (ok && had_bitmaps) {
        qcow2_bitmaps_track(amend->bs);
    }
    return ok;
}

static bool qcow2_amend(BlockDriverState *bs, BlockOptions *options,
                        const BlockAmendHow *how, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    Amend amend = {
        .bs = bs,
        .wanted = qcow2_header_copy(&q->header),
        .how = how,
    };
    bool ok = take_options(&amend, options, error) &&
              image_encryption_slots_take(options, "encrypt.", &amend.slots,
                                          error);
    const char *unknown = ok ? block_options_first_key(options) : NULL;

    if (unknown) {
        ok = refuse(error, "option '%s' of format 'qcow2' cannot be amended",
                    unknown);
    }
    if (ok) {
        ok = !io_failed(qcow2_commit_all(bs), "writing the metadata back",
                        error) &&
             check_wishes(&amend, error) &&
             image_encryption_slots_amend(q->encryption, bs->file,
                                          &amend.slots, how->force, error) &&
             apply(&amend, error);
    }
    image_encryption_slots_clear(&amend.slots);
    qcow2_header_clear(&amend.wanted);
    return ok;
}

static const BlockOptionDesc amend_options[] = {
    { .name = "size", .type = BLOCK_OPTION_SIZE, .help = "length to grow to" },
    { .name = "compat", .type = BLOCK_OPTION_ENUM, .values = compat_values,
      .help = "version of the format" },
    { .name = "lazy_refcounts", .type = BLOCK_OPTION_BOOL,
      .help = "refcounts may be written late" },
    { .name = "refcount_bits", .type = BLOCK_OPTION_NUMBER,
      .help = "width of a refcount, 1 to 64" },
    { .name = "backing_file", .type = BLOCK_OPTION_STRING,
      .help = "image to read where this one has nothing; empty: none" },
    { .name = "backing_fmt", .type = BLOCK_OPTION_STRING,
      .help = "format of the backing file" },
    { .name = "data_file", .type = BLOCK_OPTION_STRING,
      .help = "new name of the external data file" },
    { .name = "data_file_raw", .type = BLOCK_OPTION_BOOL,
      .help = "off: the data file need not be a raw image any more" },
    IMAGE_ENCRYPTION_AMEND_OPTIONS("encrypt."),
    { .name = NULL },
};

const BlockAmendOps qcow2_amend_ops = {
    .options = amend_options,
    .amend = qcow2_amend,
};
