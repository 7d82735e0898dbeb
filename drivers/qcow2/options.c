/* SPDX-License-Identifier: MIT */
/*
 * the runtime options of a qcow2 image: what they are called, what they mean
 * together, what they are when nobody says anything
 *
 *   cache-size = l2-cache-size + refcount-cache-size: any two give the third
 *   overlap-check: a set of structures, single ones on or off on top of it
 *   pass-discard-*: what is punched out of the file, by why it was given up
 *
 * A reopen comes with the options that change; reopen.c adds those that the
 * node has, so that here they are always seen together.
 */
#include "drivers/qcow2/options.h"

#include "block/graph/options.h"
#include "drivers/qcow2/overlap.h"

#include <inttypes.h>

#define L2_CACHE_DEFAULT_BYTES (32 * MIB)
#define REFCOUNT_CACHE_DEFAULT_BYTES (4 * MIB)
#define REFCOUNT_CACHE_MIN_CLUSTERS 4
#define L2_ENTRY_DEFAULT_BYTES 4096
#define L2_ENTRY_MIN_BYTES 512
#define CLEAN_INTERVAL_DEFAULT_S 600
#define CLEAN_INTERVAL_MAX_S UINT32_MAX

/* What only header and tables of fixed place need. */
#define OVERLAP_CONSTANT \
    (QCOW2_OVERLAP_MAIN_HEADER | QCOW2_OVERLAP_REFCOUNT_TABLE | \
     QCOW2_OVERLAP_SNAPSHOT_TABLE | QCOW2_OVERLAP_BITMAP_DIRECTORY)
/* All but what takes reading the tables of snapshots. */
#define OVERLAP_CACHED (QCOW2_OVERLAP_ALL & ~QCOW2_OVERLAP_INACTIVE_L2)

static const char *const overlap_names[] = {
    "none", "constant", "cached", "all", NULL,
};
static const unsigned overlap_sets[] = {
    0, OVERLAP_CONSTANT, OVERLAP_CACHED, QCOW2_OVERLAP_ALL,
};

/* One option for each class, in the order of its bits. */
static const char *const overlap_keys[QCOW2_OVERLAP_CLASSES] = {
    "overlap-check.main-header",
    "overlap-check.active-l1",
    "overlap-check.active-l2",
    "overlap-check.refcount-table",
    "overlap-check.refcount-block",
    "overlap-check.snapshot-table",
    "overlap-check.inactive-l1",
    "overlap-check.inactive-l2",
    "overlap-check.bitmap-directory",
};

static const char *const punch_keys[QCOW2_FREE_REASONS] = {
    [QCOW2_FREE_REQUEST] = "pass-discard-request",
    [QCOW2_FREE_SNAPSHOT] = "pass-discard-snapshot",
    [QCOW2_FREE_OTHER] = "pass-discard-other",
};

#define MUTABLE(name, type, help, value) \
    { name, type, help, value, NULL, true, false }
#define OVERLAP(name, help) \
    MUTABLE("overlap-check." name, BLOCK_OPTION_BOOL, help, NULL)

const BlockOptionDesc qcow2_options[] = {
    MUTABLE("cache-size", BLOCK_OPTION_SIZE,
            "memory for L2 tables and refcount blocks together", NULL),
    MUTABLE("l2-cache-size", BLOCK_OPTION_SIZE, "memory for L2 tables",
            "32M"),
    MUTABLE("l2-cache-entry-size", BLOCK_OPTION_SIZE,
            "part of an L2 table that is cached at once, 512 to the size of a "
            "cluster", "4k"),
    MUTABLE("refcount-cache-size", BLOCK_OPTION_SIZE,
            "memory for refcount blocks", "4M"),
    MUTABLE("cache-clean-interval", BLOCK_OPTION_NUMBER,
            "seconds until unused entries leave the caches, 0: never", "600"),
    { "overlap-check", BLOCK_OPTION_ENUM,
      "structures that a write must not hit", "all", overlap_names, true,
      false },
    { "overlap-check.template", BLOCK_OPTION_ENUM,
      "the same, beside options for single structures", NULL, overlap_names,
      true, false },
    OVERLAP("main-header", "a write must not hit the header"),
    OVERLAP("active-l1", "... the L1 table"),
    OVERLAP("active-l2", "... L2 tables"),
    OVERLAP("refcount-table", "... the refcount table"),
    OVERLAP("refcount-block", "... refcount blocks"),
    OVERLAP("snapshot-table", "... the table of snapshots"),
    OVERLAP("inactive-l1", "... L1 tables of snapshots"),
    OVERLAP("inactive-l2", "... L2 tables of snapshots"),
    OVERLAP("bitmap-directory", "... the directory of bitmaps"),
    MUTABLE("lazy-refcounts", BLOCK_OPTION_BOOL,
            "accepted; refcounts are always written back lazily and in order",
            NULL),
    MUTABLE("pass-discard-request", BLOCK_OPTION_BOOL,
            "punch what guests discard out of the file (default: when "
            "discards reach the image)", NULL),
    MUTABLE("pass-discard-snapshot", BLOCK_OPTION_BOOL,
            "punch what removed snapshots had out of the file", "on"),
    MUTABLE("pass-discard-other", BLOCK_OPTION_BOOL,
            "punch what else is given up out of the file", "off"),
    MUTABLE("discard-no-unref", BLOCK_OPTION_BOOL,
            "discarded clusters read zeros, but stay allocated", "off"),
    { "encrypt.format", BLOCK_OPTION_STRING,
      "aes or luks; the image's own is taken, it must be this one", NULL,
      NULL, false, false },
    { "encrypt.key-secret", BLOCK_OPTION_STRING,
      "id of the secret that opens the image (default: --key)", NULL, NULL,
      false, false },
    { NULL, BLOCK_OPTION_STRING, NULL, NULL, NULL, false, false },
};

static bool refuse(GError **error, const char *message)
{
    g_set_error_literal(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION, message);
    return false;
}

/* -- caches --------------------------------------------------------------- */

/* As given; -1: not said. */
typedef struct CacheSizes {
    int64_t both, l2, refcount;
} CacheSizes;

/* All L2 tables of the disk, in whole clusters. */
static int64_t l2_tables_bytes(const Qcow2Header *header)
{
    int64_t cluster_bytes = (int64_t)1 << header->cluster_bits;
    int64_t entries = div_round_up(header->size, cluster_bytes);

    return align_up(entries * qcow2_header_l2_words(header) *
                        (int64_t)sizeof(uint64_t), cluster_bytes);
}

/* Refcount blocks get the rest, or the little that they need at least. */
static void share_out(CacheSizes *sizes, const Qcow2Header *header)
{
    int64_t l2_most = l2_tables_bytes(header);
    int64_t refcount_least = (int64_t)REFCOUNT_CACHE_MIN_CLUSTERS
                             << header->cluster_bits;

    if (sizes->l2 >= 0) {
        sizes->refcount = sizes->both - sizes->l2;
    } else if (sizes->refcount >= 0) {
        sizes->l2 = sizes->both - sizes->refcount;
    } else {
        sizes->refcount = MAX(sizes->both - l2_most,
                              MIN(sizes->both, refcount_least));
        sizes->l2 = sizes->both - sizes->refcount;
    }
}

static bool take_cache_sizes(BlockOptions *options, const Qcow2Header *header,
                             Qcow2Options *opts, GError **error)
{
    CacheSizes sizes = { -1, -1, -1 };

    if (!block_options_take_size(options, "cache-size", &sizes.both, error) ||
        !block_options_take_size(options, "l2-cache-size", &sizes.l2,
                                 error) ||
        !block_options_take_size(options, "refcount-cache-size",
                                 &sizes.refcount, error)) {
        return false;
    }
    if (sizes.both >= 0) {
        if (sizes.l2 >= 0 && sizes.refcount >= 0) {
            return refuse(error, "cache-size, l2-cache-size and "
                          "refcount-cache-size cannot be given together: two "
                          "of them say the third");
        }
        if (sizes.l2 > sizes.both || sizes.refcount > sizes.both) {
            return refuse(error, sizes.l2 > sizes.both
                                     ? "l2-cache-size is more than cache-size"
                                     : "refcount-cache-size is more than "
                                       "cache-size");
        }
        share_out(&sizes, header);
    }
    opts->l2_cache_bytes = sizes.l2 >= 0 ? sizes.l2 : L2_CACHE_DEFAULT_BYTES;
    opts->refcount_cache_bytes =
        sizes.refcount >= 0 ? sizes.refcount : REFCOUNT_CACHE_DEFAULT_BYTES;
    return true;
}

static bool take_l2_entry_size(BlockOptions *options,
                               const Qcow2Header *header, Qcow2Options *opts,
                               GError **error)
{
    int64_t cluster_bytes = (int64_t)1 << header->cluster_bits;
    int64_t bytes = MIN(cluster_bytes, L2_ENTRY_DEFAULT_BYTES);

    if (!block_options_take_size(options, "l2-cache-entry-size", &bytes,
                                 error)) {
        return false;
    }
    if (bytes < L2_ENTRY_MIN_BYTES || bytes > cluster_bytes ||
        (bytes & (bytes - 1)) != 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "l2-cache-entry-size is %" PRId64 ", must be a power of "
                    "two from %d to the cluster size, %" PRId64, bytes,
                    L2_ENTRY_MIN_BYTES, cluster_bytes);
        return false;
    }
    opts->l2_entry_bytes = bytes;
    return true;
}

static bool take_clean_interval(BlockOptions *options, Qcow2Options *opts,
                                GError **error)
{
    uint64_t seconds = CLEAN_INTERVAL_DEFAULT_S;

    if (!block_options_take_number(options, "cache-clean-interval", &seconds,
                                   error)) {
        return false;
    }
    if (seconds > CLEAN_INTERVAL_MAX_S) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "cache-clean-interval is %" PRIu64 " seconds, must be at "
                    "most %" PRIu32, seconds, CLEAN_INTERVAL_MAX_S);
        return false;
    }
    opts->clean_interval_s = (int64_t)seconds;
    return true;
}

/* -- the rest ------------------------------------------------------------- */

static bool take_overlap(BlockOptions *options, Qcow2Options *opts,
                         GError **error)
{
    int set = G_N_ELEMENTS(overlap_sets) - 1;

    /* One of the two: a key is a value or a group. */
    if (!block_options_take_enum(options, "overlap-check", overlap_names,
                                 &set, error) ||
        !block_options_take_enum(options, "overlap-check.template",
                                 overlap_names, &set, error)) {
        return false;
    }
    opts->overlap_classes = overlap_sets[set];
    for (unsigned i = 0; i < QCOW2_OVERLAP_CLASSES; i++) {
        bool is_on = opts->overlap_classes & (1u << i);

        if (!block_options_take_bool(options, overlap_keys[i], &is_on,
                                     error)) {
            return false;
        }
        opts->overlap_classes &= ~(1u << i);
        opts->overlap_classes |= is_on ? 1u << i : 0;
    }
    return true;
}

static bool take_discards(BlockOptions *options, BdrvOpenFlags flags,
                          const Qcow2Header *header, Qcow2Options *opts,
                          GError **error)
{
    opts->punch[QCOW2_FREE_REQUEST] = flags & BDRV_O_UNMAP;
    opts->punch[QCOW2_FREE_SNAPSHOT] = true;
    opts->punch[QCOW2_FREE_OTHER] = false;
    opts->discard_no_unref = false;
    for (unsigned i = 0; i < QCOW2_FREE_REASONS; i++) {
        if (!block_options_take_bool(options, punch_keys[i], &opts->punch[i],
                                     error)) {
            return false;
        }
    }
    if (!block_options_take_bool(options, "discard-no-unref",
                                 &opts->discard_no_unref, error)) {
        return false;
    }
    return (!opts->discard_no_unref || header->version >= 3) ||
           refuse(error, "discard-no-unref needs an image of version 3");
}

static bool take_lazy_refcounts(BlockOptions *options,
                                const Qcow2Header *header, GError **error)
{
    bool lazy = false;

    if (!block_options_take_bool(options, "lazy-refcounts", &lazy, error)) {
        return false;
    }
    return (!lazy || header->version >= 3) ||
           refuse(error, "lazy-refcounts needs an image of version 3");
}

bool qcow2_options_take(BlockOptions *options, BdrvOpenFlags flags,
                        const Qcow2Header *header, Qcow2Options *ret_opts,
                        GError **error)
{
    Qcow2Options opts = { 0 };

    if (!take_cache_sizes(options, header, &opts, error) ||
        !take_l2_entry_size(options, header, &opts, error) ||
        !take_clean_interval(options, &opts, error) ||
        !take_overlap(options, &opts, error) ||
        !take_discards(options, flags, header, &opts, error) ||
        !take_lazy_refcounts(options, header, error)) {
        return false;
    }
    *ret_opts = opts;
    return true;
}
