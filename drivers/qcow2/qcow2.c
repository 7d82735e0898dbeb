/* SPDX-License-Identifier: MIT */
/*
 * the qcow2 driver: table, opening and closing, and the loops that split a
 * request into runs of clusters
 *
 * How a run is found, allocated and written is cluster.c's; how metadata
 * reaches the file commit.c's. See qcow2.h for the whole picture, the
 * invariants and the locks.
 *
 * Locking: open, close and reopen run on the control plane with the node
 * drained. The data path takes no lock here: a write in place is a lookup, a
 * few comparisons and the write itself, all within one epoch.
 */
#include "drivers/qcow2/qcow2.h"

#include "block/graph/open.h"
#include "block/io/io.h"
#include "block/rt/aio_context.h"
#include "block/rt/buffer_pool.h"
#include "drivers/qcow2/amend.h"
#include "drivers/qcow2/bitmaps.h"
#include "drivers/qcow2/cache_clean.h"
#include "drivers/qcow2/check.h"
#include "drivers/qcow2/cluster.h"
#include "drivers/qcow2/compress.h"
#include "drivers/qcow2/create.h"
#include "drivers/qcow2/crypto.h"
#include "drivers/qcow2/data_file.h"
#include "drivers/qcow2/data_io.h"
#include "drivers/qcow2/deflate.h"
#include "drivers/qcow2/overlap.h"
#include "drivers/qcow2/readahead.h"
#include "drivers/qcow2/snapshot.h"

#include <errno.h>
#include <inttypes.h>

/* -- shared state --------------------------------------------------------- */

void qcow2_raise_file_length(Qcow2State *q, int64_t length)
{
    int64_t known = __atomic_load_n(&q->file_length, __ATOMIC_RELAXED);

    while (known < length &&
           !__atomic_compare_exchange_n(&q->file_length, &known, length,
                                        /* weak= */ true, __ATOMIC_RELEASE,
                                        __ATOMIC_RELAXED)) {
    }
}

void qcow2_set_range(Qcow2State *q, unsigned which, int64_t start,
                     int64_t bytes)
{
    Qcow2HostRange *range = &q->main_metadata[which];
    int64_t end = align_up(start + bytes, q->cluster_bytes);

    __atomic_store_n(&range->start, start, __ATOMIC_RELAXED);
    __atomic_store_n(&range->end, bytes ? end : start, __ATOMIC_RELAXED);
}

void qcow2_set_ranges(Qcow2State *q)
{
    const Qcow2Header *header = &q->header;

    qcow2_set_range(q, QCOW2_RANGE_HEADER, 0, q->cluster_bytes);
    qcow2_set_range(q, QCOW2_RANGE_L1, header->l1_offset,
                    header->l1_entries * 8);
    qcow2_set_range(q, QCOW2_RANGE_REFTABLE, header->reftable_offset,
                    header->reftable_clusters << q->cluster_bits);
    qcow2_set_range(q, QCOW2_RANGE_SNAPSHOTS, header->snapshots_offset,
                    header->snapshots * (int64_t)sizeof(Qcow2RawSnapshot));
    /* Without the autoclear bit nobody says what is there now. */
    qcow2_set_range(q, QCOW2_RANGE_BITMAPS, header->bitmap_directory_offset,
                    header->has_bitmaps &&
                            (header->autoclear & QCOW2_AUTOCLEAR_BITMAPS)
                        ? header->bitmap_directory_bytes : 0);
    qcow2_set_range(q, QCOW2_RANGE_CRYPTO, header->crypto_offset,
                    header->crypto_bytes);
}

void coroutine_fn qcow2_mark_corrupt(BlockDriverState *bs, const char *what)
{
    Qcow2State *q = qcow2_state(bs);

    g_debug("%s: image is corrupt: %s", bdrv_name(bs), what);
    if (__atomic_exchange_n(&q->is_corrupt, 1, __ATOMIC_SEQ_CST) ||
        bs->read_only) {
        return;
    }
    co_mutex_lock(&q->commit_lock);
    q->header.incompatible |= QCOW2_INCOMPAT_CORRUPT;
    /* Best effort: this open refuses writes in any case. */
    (void) qcow2_header_co_write_features(bs, q->header.incompatible,
                                          q->header.compatible,
                                          q->header.autoclear);
    co_mutex_unlock(&q->commit_lock);
}

int coroutine_fn qcow2_prepare_write(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    uint64_t autoclear;
    int ret = 0;

    if (__atomic_load_n(&q->is_corrupt, __ATOMIC_RELAXED) || !q->is_loaded ||
        !q->data) {
        return -EIO;
    }
    co_mutex_lock(&q->commit_lock);
    autoclear = q->header.autoclear & QCOW2_KNOWN_AUTOCLEAR;
    if (!q->write_state) {
        ret = qcow2_bitmaps_co_mark(bs, /* all= */ false);
        if (ret >= 0 && autoclear != q->header.autoclear) {
            ret = qcow2_header_co_write_features(bs, q->header.incompatible,
                                                 q->header.compatible,
                                                 autoclear);
        }
        if (ret >= 0) {
            q->header.autoclear = autoclear;
            __atomic_store_n(&q->write_state, 1, __ATOMIC_RELEASE);
        }
    }
    co_mutex_unlock(&q->commit_lock);
    return ret;
}

static inline bool may_write(const Qcow2State *q)
{
    return __atomic_load_n(&q->write_state, __ATOMIC_ACQUIRE) &&
           !__atomic_load_n(&q->is_corrupt, __ATOMIC_RELAXED);
}

/* -- data path ------------------------------------------------------------ */

static int coroutine_fn qcow2_co_preadv(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes, IoVec *iov,
                                        size_t iov_offset,
                                        BdrvRequestFlags flags)
{
    const Qcow2State *q = qcow2_state(bs);

    return !q->is_loaded || !q->data
               ? -EIO
               : qcow2_read(bs, offset, bytes, iov, iov_offset);
}

static int coroutine_fn write_in_place(BlockDriverState *bs,
                                       const Qcow2Run *run, int64_t offset,
                                       IoVec *iov, size_t iov_offset)
{
    Qcow2State *q = qcow2_state(bs);
    int ret;

    if (!qcow2_has_data_file(q) &&
        qcow2_hits_ranges(q, q->guarded_ranges, run->host_offset,
                          run->bytes)) {
        qcow2_mark_corrupt(bs, "an L2 entry points at metadata");
        return -EIO;
    }
    ret = qcow2_data_co_pwritev(bs, run->host_offset, offset, run->bytes, iov,
                                iov_offset);
    if (ret >= 0) {
        /* Only the last, cut off cluster of a file can change it. */
        qcow2_raise_data_length(q, run->host_offset + run->bytes);
    }
    return ret;
}

/* On new clusters; when the file is full, what was freed may make room. */
static int coroutine_fn write_on_new(BlockDriverState *bs, int64_t offset,
                                     int64_t bytes, IoVec *iov,
                                     size_t iov_offset, int64_t *ret_bytes)
{
    int ret = qcow2_co_commit_if_due(bs);

    if (ret >= 0) {
        ret = qcow2_write_allocating(bs, offset, bytes, iov, iov_offset,
                                     ret_bytes);
    }
    if (ret == -ENOSPC && qcow2_co_commit(bs) >= 0) {
        ret = qcow2_write_allocating(bs, offset, bytes, iov, iov_offset,
                                     ret_bytes);
    }
    return ret;
}

static int coroutine_fn qcow2_co_pwritev(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes, IoVec *iov,
                                         size_t iov_offset,
                                         BdrvRequestFlags flags)
{
    Qcow2State *q = qcow2_state(bs);
    int ret = may_write(q) ? 0 : qcow2_prepare_write(bs);

    while (bytes > 0 && ret >= 0) {
        unsigned side = qcow2_epoch_enter(q->epoch);
        int64_t done = 0;
        Qcow2Run run;
        bool in_place;

        ret = qcow2_map(bs, offset, bytes, &run);
        in_place =
            ret >= 0 && run.type == QCOW2_CLUSTER_NORMAL && run.copied;
        if (in_place) {
            ret = write_in_place(bs, &run, offset, iov, iov_offset);
            done = run.bytes;
        }
        qcow2_epoch_leave(q->epoch, side);
        if (ret >= 0 && !in_place) {
            ret = write_on_new(bs, offset, bytes, iov, iov_offset, &done);
        }
        offset += done;
        iov_offset += done;
        bytes -= done;
    }
    return ret;
}

/* One cluster or the image's last part of one, zeros behind it. */
static int coroutine_fn write_compressed(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes, IoVec *iov,
                                         size_t iov_offset)
{
    Qcow2State *q = qcow2_state(bs);
    uint8_t *plain = buffer_pool_get(2 * q->cluster_bytes);
    uint8_t *packed;
    int64_t used;
    int ret;

    if (!plain) {
        return -ENOMEM;
    }
    packed = plain + q->cluster_bytes;
    iovec_to_buffer(iov, iov_offset, plain, bytes);
    memset(plain + bytes, 0, q->cluster_bytes - bytes);
    used = qcow2_co_deflate(q->deflater, plain, q->cluster_bytes, packed,
                            q->cluster_bytes - 1);
    ret = used > 0 ? qcow2_co_commit_if_due(bs) : -ERANGE;
    if (ret >= 0) {
        ret = qcow2_write_packed(bs, offset, packed, used);
    }
    if (ret == -ENOSPC && qcow2_co_commit(bs) >= 0) {
        ret = qcow2_write_packed(bs, offset, packed, used);
    }
    buffer_pool_put(plain, 2 * q->cluster_bytes);
    return ret == -ERANGE ? qcow2_co_pwritev(bs, offset, bytes, iov,
                                             iov_offset, 0)
                          : ret;
}

static int coroutine_fn qcow2_co_pwritev_compressed(BlockDriverState *bs,
                                                    int64_t offset,
                                                    int64_t bytes, IoVec *iov,
                                                    size_t iov_offset)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t end = offset + bytes;
    int ret;

    if (qcow2_has_data_file(q) || qcow2_is_encrypted(q)) {
        return -ENOTSUP;
    }
    if (qcow2_in_cluster(q, offset) != 0 ||
        (qcow2_in_cluster(q, end) != 0 && end != bdrv_node_length(bs))) {
        return -EINVAL;
    }
    ret = may_write(q) ? 0 : qcow2_prepare_write(bs);
    while (offset < end && ret >= 0) {
        int64_t part = MIN(end - offset, q->cluster_bytes);

        ret = write_compressed(bs, offset, part, iov, iov_offset);
        offset += part;
        iov_offset += part;
    }
    return ret;
}

/*
 * A multiple of @unit? The image's last, partial cluster counts as whole.
 */
static bool is_whole_units(const BlockDriverState *bs, int64_t unit,
                           int64_t offset, int64_t *bytes)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t end = offset + *bytes;

    if (end == bdrv_node_length(bs)) {
        end = align_up(end, q->cluster_bytes);
    }
    *bytes = end - offset;
    return is_aligned(offset | end, unit);
}

static int coroutine_fn clear(BlockDriverState *bs, int64_t offset,
                              int64_t bytes, Qcow2ClearMode mode)
{
    Qcow2State *q = qcow2_state(bs);
    int ret = may_write(q) ? 0 : qcow2_prepare_write(bs);
    bool is_done = false;

    if (ret >= 0) {
        ret = qcow2_data_file_clear(bs, offset, bytes,
                                    mode != QCOW2_CLEAR_ZERO, &is_done);
    }
    if (ret < 0 || is_done) {
        return ret;
    }
    ret = qcow2_clear_clusters(bs, offset, bytes, mode);
    if (ret == -ENOSPC && qcow2_co_commit(bs) >= 0) {
        ret = qcow2_clear_clusters(bs, offset, bytes, mode);
    }
    return ret;
}

static int coroutine_fn qcow2_co_pwrite_zeroes(BlockDriverState *bs,
                                               int64_t offset, int64_t bytes,
                                               BdrvRequestFlags flags)
{
    bool unmap = flags & BDRV_REQ_MAY_UNMAP;

    if (!is_whole_units(bs, qcow2_state(bs)->subcluster_bytes, offset,
                        &bytes)) {
        return -ENOTSUP;
    }
    if (qcow2_state(bs)->header.version < 3) {
        /* No zero flag: only a hole reads zeros. */
        return unmap && !bs->backing
                   ? clear(bs, offset, bytes, QCOW2_CLEAR_UNALLOCATED)
                   : -ENOTSUP;
    }
    return clear(bs, offset, bytes,
                 unmap ? QCOW2_CLEAR_ZERO_UNMAP : QCOW2_CLEAR_ZERO);
}

static int coroutine_fn qcow2_co_pdiscard(BlockDriverState *bs,
                                          int64_t offset, int64_t bytes)
{
    if (!is_whole_units(bs, qcow2_state(bs)->cluster_bytes, offset,
                        &bytes)) {
        return -ENOTSUP;
    }
    if (qcow2_state(bs)->options.discard_no_unref) {
        return clear(bs, offset, bytes, QCOW2_CLEAR_ZERO);
    }
    if (!bs->backing) {
        return clear(bs, offset, bytes, QCOW2_CLEAR_UNALLOCATED);
    }
    /* A hole would show the backing file's old content. */
    return qcow2_state(bs)->header.version < 3
               ? -ENOTSUP
               : clear(bs, offset, bytes, QCOW2_CLEAR_ZERO_UNMAP);
}

static int coroutine_fn qcow2_co_flush_to_os(BlockDriverState *bs)
{
    return qcow2_co_commit(bs);
}

/* -- opening -------------------------------------------------------------- */

/* Everything that hangs off the header, from the file into memory. */
static bool load_tables(BlockDriverState *bs, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    const Qcow2Header *header = &q->header;
    uint64_t *l1 =
        qcow2_l1_read(bs, header->l1_offset, header->l1_entries, error);

    if (!l1) {
        return false;
    }
    if (!qcow2_refcount_init(bs, q->options.refcount_cache_bytes, error)) {
        g_free(l1);
        return false;
    }
    qcow2_l2_init(bs, l1, header->l1_entries);
    q->inflater =
        qcow2_inflater_new(header->compression_type, q->cluster_bits);
    q->readahead = qcow2_readahead_new(bs);
    q->deflater = qcow2_deflater_new(header->compression_type);
    return qcow2_snapshots_load(bs, error) &&
           qcow2_bitmaps_load(bs, error) &&
           (!q->guards || qcow2_snapshots_guard(bs, error));
}

static void unload(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);

    q->is_loaded = false;
    q->write_state = 0;
    qcow2_overlap_forget(bs);
    qcow2_snapshots_clear(bs);
    qcow2_bitmaps_unload(bs);
    qcow2_l2_destroy(bs);
    qcow2_refcount_destroy(bs);
    g_clear_pointer(&q->readahead, qcow2_readahead_free);
    g_clear_pointer(&q->inflater, qcow2_inflater_free);
    g_clear_pointer(&q->deflater, qcow2_deflater_free);
    qcow2_header_clear(&q->header);
}

static bool load_header(BlockDriverState *bs, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t length;

    if (!qcow2_header_load(bs, &q->header, q->for_check, error)) {
        return false;
    }
    q->cluster_bits = q->header.cluster_bits;
    q->cluster_bytes = (int64_t)1 << q->cluster_bits;
    q->l2_bits = qcow2_header_l2_bits(&q->header);
    q->l2_words = qcow2_header_l2_words(&q->header);
    q->subclusters = q->l2_words > 1 ? QCOW2_SUBCLUSTERS : 1;
    q->subcluster_bytes = q->cluster_bytes / q->subclusters;
    q->subcluster_bits = __builtin_ctzll(q->subcluster_bytes);
    length = bdrv_node_length(bs->file->bs);
    q->file_length = length;
    q->fresh_offset = q->used_end = align_up(length, q->cluster_bytes);
    q->write_state = 0;
    q->packing_offset = 0;
    q->allocated_since_barrier = false;
    q->is_corrupt = (q->header.incompatible & QCOW2_INCOMPAT_CORRUPT) != 0;
    qcow2_set_ranges(q);
    return true;
}

static bool load(BlockDriverState *bs, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    g_autoptr(GError) local = NULL;

    if (load_tables(bs, q->for_check ? &local : error)) {
        q->for_check = false;
        q->is_loaded = true;
        return true;
    }
    /* Damaged beyond use, but a check may look at it. */
    return q->for_check;
}

bool qcow2_reload(BlockDriverState *bs, GError **error)
{
    unload(bs);
    return load_header(bs, error) && load(bs, error);
}

void qcow2_set_options(BlockDriverState *bs, const Qcow2Options *opts)
{
    Qcow2State *q = qcow2_state(bs);

    q->options = *opts;
    q->guarded_ranges = qcow2_overlap_ranges(opts->overlap_classes);
}

/* Somebody else may have changed the image, also its length. */
static bool qcow2_invalidate_cache(BlockDriverState *bs, GError **error)
{
    (void) qcow2_bitmaps_untrack(bs);
    if (!qcow2_reload(bs, error)) {
        return false;
    }
    bs->length = qcow2_state(bs)->header.size;
    if (!bs->read_only) {
        qcow2_bitmaps_track(bs);
    }
    return true;
}

static bool qcow2_open(BlockDriverState *bs, BlockOptions *options,
                       BdrvOpenFlags flags, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    Qcow2Options opts;
    void *epoch = NULL;

    if (!bdrv_open_file_child(bs, options, error)) {
        return false;
    }
    q->bs = bs;
    q->for_check = flags & BDRV_O_CHECK;
    q->guards = flags & BDRV_O_RDWR;
    if (!load_header(bs, error) ||
        !qcow2_options_take(options, flags, &q->header, &opts, error)) {
        qcow2_header_clear(&q->header);
        return false;
    }
    qcow2_set_options(bs, &opts);
    if (posix_memalign(&epoch, 64, sizeof(Qcow2Epoch)) != 0) {
        g_error("no memory for an epoch");
    }
    q->epoch = memset(epoch, 0, sizeof(Qcow2Epoch));
    co_mutex_init(&q->commit_lock);
    co_mutex_init(&q->lock);
    co_queue_init(&q->in_flight_queue);
    if (!load(bs, error) ||
        !qcow2_data_file_open(bs, options, flags, error) ||
        !qcow2_crypto_open(bs, options, flags, error) ||
        !qcow2_check_writable(bs, flags, error)) {
        qcow2_crypto_close(bs);
        unload(bs);
        g_clear_pointer(&epoch, free);
        return false;
    }
    bs->length = q->header.size;
    bs->backing_name = g_strdup(q->header.backing_name);
    bs->backing_format = g_strdup(q->header.backing_format);
    bs->supported_zero_flags = BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    if ((flags & BDRV_O_RDWR) && !(flags & BDRV_O_CHECK)) {
        qcow2_bitmaps_track(bs);
    }
    qcow2_cache_clean_init(bs);
    return true;
}

/* The file was grown in steps: what no cluster uses goes again. */
static void cut_file(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);

    if (!bs->read_only && q->used_end < q->file_length) {
        /* A longer file is only longer. */
        (void) bdrv_truncate(bs->file, q->used_end, /* exact= */ true,
                             PREALLOC_OFF, NULL);
        q->file_length = q->used_end;
    }
}

int qcow2_settle(BlockDriverState *bs)
{
    int ret = qcow2_commit_all(bs);

    if (ret >= 0 && !bs->read_only && !bs->inactive) {
        ret = qcow2_bitmaps_store(bs);
    }
    if (ret < 0) {
        g_warning("%s: writing back metadata: %s", bdrv_name(bs),
                  g_strerror(-ret));
    } else {
        cut_file(bs);
    }
    return ret;
}

static void qcow2_close(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);

    qcow2_cache_clean_stop(bs);
    (void) qcow2_settle(bs); /* said there; nobody is left to tell */
    qcow2_crypto_close(bs);
    unload(bs);
    g_clear_pointer(&q->views, g_ptr_array_unref);
    co_queue_destroy(&q->in_flight_queue);
    co_mutex_destroy(&q->lock);
    co_mutex_destroy(&q->commit_lock);
    g_clear_pointer(&q->epoch, free);
}

/* -- own sources of requests ---------------------------------------------- */

static void qcow2_drain_begin(BlockDriverState *bs)
{
    qcow2_readahead_stop(bs);
    qcow2_cache_clean_stop(bs);
}

static void qcow2_drain_end(BlockDriverState *bs)
{
    qcow2_readahead_resume(bs);
    qcow2_cache_clean_start(bs);
}

/* -- facts ---------------------------------------------------------------- */

static int qcow2_probe(const uint8_t *buffer, size_t bytes,
                       const char *filename)
{
    const Qcow2RawHeader *raw = (const Qcow2RawHeader *)buffer;

    if (bytes < 8 || be32_get(&raw->magic) != QCOW2_MAGIC) {
        return 0;
    }
    /* Any newer version is ours, too: to refuse by its name. */
    return be32_get(&raw->version) >= 2 ? 100 : 0;
}

static void qcow2_refresh_limits(BlockDriverState *bs)
{
    int64_t cluster_bytes = qcow2_state(bs)->cluster_bytes;

    if (bs->encrypted) {
        bs->limits.request_alignment =
            MAX(bs->limits.request_alignment, IMAGE_ENCRYPTION_ALIGNMENT);
    }
    bs->limits.pwrite_zeroes_alignment = qcow2_state(bs)->subcluster_bytes;
    bs->limits.pdiscard_alignment = cluster_bytes;
    bs->limits.max_pwrite_zeroes = 0;
    bs->limits.max_pdiscard = 0;
}

/* Preallocated clusters of an encrypted image decrypt to noise. */
static bool qcow2_has_zero_init(BlockDriverState *bs)
{
    const Qcow2State *q = qcow2_state(bs);
    bool is_mapped = false;

    for (int64_t i = 0; i < q->l2.l1_entries && qcow2_is_encrypted(q); i++) {
        is_mapped |= q->l2.l1[i] != 0;
    }
    return !bs->backing && !is_mapped;
}

const BlockDriver bdrv_qcow2 = {
    .format_name = "qcow2",
    .instance_size = sizeof(Qcow2State),
    .is_format = true,
    .supports_backing = true,
    .only_truncate_grows = true,
    .options = qcow2_options,
    .probe = qcow2_probe,
    .open = qcow2_open,
    .close = qcow2_close,
    .drain_begin = qcow2_drain_begin,
    .drain_poll = qcow2_readahead_is_running,
    .drain_end = qcow2_drain_end,
    .refresh_limits = qcow2_refresh_limits,
    .reopen = &qcow2_reopen_ops,
    .inactivate = qcow2_settle,
    .invalidate_cache = qcow2_invalidate_cache,
    .create = &qcow2_create_ops,
    .amend = &qcow2_amend_ops,
    .check = &qcow2_check_ops,
    .snapshots = &qcow2_snapshot_ops,
    .bitmaps = &qcow2_bitmap_ops,
    .change_backing_file = qcow2_change_backing_file,
    .make_empty = qcow2_make_empty,
    .co_preadv = qcow2_co_preadv,
    .co_pwritev = qcow2_co_pwritev,
    .co_pwritev_compressed = qcow2_co_pwritev_compressed,
    .co_pwrite_zeroes = qcow2_co_pwrite_zeroes,
    .co_pdiscard = qcow2_co_pdiscard,
    .co_block_status = qcow2_co_block_status,
    .co_flush_to_os = qcow2_co_flush_to_os,
    .co_truncate = qcow2_co_truncate,
    .get_info = qcow2_get_info,
    .get_specific_info = qcow2_get_specific_info,
    .get_cache_figures = qcow2_get_cache_figures,
    .has_zero_init = qcow2_has_zero_init,
};
