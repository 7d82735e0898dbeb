/* SPDX-License-Identifier: MIT */
/*
 * BlockDriver: the contract that every driver fills
 *
 * A driver is a constant table. It may leave anything out: registration
 * (bdrv_register) completes a copy with defaults - a filter forwards to its
 * filtered child, everything else answers -ENOTSUP or the neutral value named
 * below - so the block layer never tests a member for NULL.
 *
 * A driver reaches its children through the bdrv_* calls of block/io/io.h and
 * block/graph/open.h on its own edges, keeps its state in bs->opaque
 * (instance_size zeroed bytes), and never sees who is above it.
 *
 * Contexts. Control-plane members (lifecycle) run on the control plane's
 * thread with the node drained, outside of coroutines: they do I/O with
 * bdrv_pread()/bdrv_pwrite(). Members with co_ in their name run in coroutines
 * of any I/O thread, many at a time: a driver that has mutable state protects
 * it itself and says how in its opening comment.
 */
#ifndef BLOCK_DRIVER_H
#define BLOCK_DRIVER_H

#include "block/graph/node.h"
#include "block/graph/options.h"
#include "block/io/debug_event.h"
#include "block/io/snapshot_access.h"
#include "block/types.h"

#include <json-glib/json-glib.h>

/* Bytes that probe() gets to see (fewer when the file is shorter). */
#define BLOCK_PROBE_BYTES 2048

/* Reopening: all nodes of a transaction prepare, then all commit or abort. */
typedef struct BlockReopenState {
    BlockDriverState *bs;
    BdrvOpenFlags flags;   /* the new ones */
    BlockOptions *options; /* what is to change; unknown ones stay in it */
    void *opaque;          /* the driver's, from prepare to commit or abort */
} BlockReopenState;

typedef struct BlockReopenOps {
    bool (*prepare)(BlockReopenState *state, GError **error);
    void (*commit)(BlockReopenState *state);
    void (*commit_post)(BlockReopenState *state);
    void (*abort)(BlockReopenState *state);
} BlockReopenOps;

/*
 * Permissions, two-phase. @perm and @shared are the sums over all parents.
 * check: may they be taken? Nothing visible changes but what abort undoes
 * (the file driver takes new locks here). set: make them so, give up what is
 * no longer needed; cannot fail. Each check is followed by one set or abort.
 * Requests of other users may be under way in the node: these hooks touch
 * nothing that requests use.
 */
typedef struct BlockPermOps {
    bool (*check_perm)(BlockDriverState *bs, uint32_t perm, uint32_t shared,
                       GError **error);
    void (*set_perm)(BlockDriverState *bs, uint32_t perm, uint32_t shared);
    void (*abort_perm_update)(BlockDriverState *bs);
    /*
     * What @child of @bs needs when the parents of @bs need @perm and let
     * others do @shared. NULL: bdrv_default_perms(), by role (perm.h).
     */
    void (*child_perm)(BlockDriverState *bs, BdrvChild *child,
                       BdrvChildRole role, uint32_t perm, uint32_t shared,
                       uint32_t *ret_perm, uint32_t *ret_shared);
} BlockPermOps;

typedef struct BlockMeasure BlockMeasure;

/*
 * Making a new image inside an empty file. Control plane. create: @file is a
 * backend with write and resize permission on a node of zero length (or a
 * block device); @options holds what the user gave: the driver takes what it
 * knows, the caller reports what is left. A failure needs no cleaning up: the
 * caller removes the file. @options and the result stay the caller's.
 */
typedef struct BlockCreateOps {
    const BlockOptionDesc *options; /* ended by a NULL name */
    bool (*create)(BlockBackend *file, int64_t length, BlockOptions *options,
                   GError **error);
    /*
     * How large would the file be (block/image/measure.h)? @source NULL: an
     * empty image; else it is @length bytes long. @options as for create.
     * NULL: cannot be told.
     */
    bool (*measure)(BlockBackend *source, int64_t length,
                    BlockOptions *options, BlockMeasure *ret_measure,
                    GError **error);
} BlockCreateOps;

/*
 * What may change about an image that exists (block/image/amend.h). amend
 * takes what it knows out of @options. It decides whether all of it can be
 * done before it changes anything; what it does is in an order that a crash
 * leaves a sound image. Control plane, node drained and writable.
 */
typedef struct BlockAmendHow {
    bool force; /* also what may make the data unreachable */
    /* Told now and then; may be NULL. */
    void (*progress)(int64_t done, int64_t total, void *opaque);
    void *opaque;
} BlockAmendHow;
typedef struct BlockAmendOps {
    const BlockOptionDesc *options; /* ended by a NULL name */
    bool (*amend)(BlockDriverState *bs, BlockOptions *options,
                  const BlockAmendHow *how, GError **error);
} BlockAmendOps;

/* What a check may repair, and what it found (block/image/check.h). */
typedef enum BlockCheckFix {
    BLOCK_CHECK_FIX_NONE = 0,
    BLOCK_CHECK_FIX_LEAKS = 1 << 0,
    BLOCK_CHECK_FIX_ERRORS = 1 << 1,
} BlockCheckFix;
typedef struct BlockCheckResult BlockCheckResult;

/*
 * Control plane, node drained. check: false only when the check itself could
 * not be done; damage is counted in @result and described line by line.
 */
typedef struct BlockCheckOps {
    bool (*check)(BlockDriverState *bs, BlockCheckFix fix,
                  BlockCheckResult *result, GError **error);
} BlockCheckOps;

/*
 * Children that come and go at run time (bdrv_add_child, bdrv_del_child in
 * graph/edge.h). Control plane, the node drained. add_child: attaches
 * @child_bs, of which the caller gives one count, also on failure.
 */
typedef struct BlockChildOps {
    bool (*add_child)(BlockDriverState *bs, BlockDriverState *child_bs,
                      GError **error);
    bool (*del_child)(BlockDriverState *bs, BdrvChild *child, GError **error);
} BlockChildOps;

/*
 * A drive whose medium comes and goes. Control plane; may sleep as long as the
 * drive takes. -errno: -ENOTSUP when the device has no such thing.
 */
typedef struct BlockMediaOps {
    bool (*is_inserted)(BlockDriverState *bs);
    /* @out: gives the medium out, else draws it in. */
    int (*eject)(BlockDriverState *bs, bool out);
    /* While locked, the button of the drive does nothing. */
    int (*lock_medium)(BlockDriverState *bs, bool locked);
} BlockMediaOps;

/* A device's sectors in bytes: what it addresses, what it writes at once. */
typedef struct BlockSizes {
    uint32_t logical;
    uint32_t physical;
} BlockSizes;

/* A disk as its firmware shows it; sectors are a track's. */
typedef struct BlockGeometry {
    uint32_t cylinders;
    uint32_t heads;
    uint32_t sectors;
} BlockGeometry;

/* Internal snapshots: block/image/snapshot.h has the contract. */
typedef struct BlockSnapshotOps BlockSnapshotOps;

/* Dirty bitmaps that the image keeps: block/image/stored_bitmap.h. */
typedef struct BlockBitmapOps BlockBitmapOps;

/* Facts of an image for `info`; -1 or false where a format has no such. */
typedef struct BlockDriverInfo {
    int64_t cluster_bytes;
    int64_t subcluster_bytes;
    int64_t vm_state_offset;
    bool is_dirty;
    bool is_corrupt;
} BlockDriverInfo;

struct BlockDriver {
    /* -- identity -------------------------------------------------------- */
    const char *format_name;   /* what driver= and --format say */
    const char *protocol_name; /* NAME: prefix; protocol drivers only */
    size_t instance_size;      /* of bs->opaque */
    bool is_filter;            /* shows its filtered child unchanged */
    bool is_format;            /* interprets its file child's bytes */
    bool filtered_child_is_backing;
    bool supports_backing;     /* unallocated falls through to bs->backing */
    bool needs_filename;       /* filename option is required (protocols) */
    bool has_variable_length;  /* ask getlength each time */
    bool only_truncate_grows;  /* a write past the end is refused */
    bool flushes_children;     /* co_flush_to_disk does it, not the caller */
    /* Runtime options beside the common ones, ended by a NULL name. */
    const BlockOptionDesc *options;

    /* -- lifecycle: control plane, node drained -------------------------- */
    /*
     * 0 .. 100: how sure is it that @buffer (the file's first @bytes) starts
     * an image of this format? Never does I/O.
     */
    int (*probe)(const uint8_t *buffer, size_t bytes, const char *filename);
    /* Splits "protocol:rest" into @options. Protocol drivers only. */
    bool (*parse_filename)(const char *filename, BlockOptions *options,
                           GError **error);
    /*
     * Takes what it knows out of @options (options.h: what is left over is
     * reported as unknown by the caller), opens children with
     * bdrv_open_child(), sets bs->length unless variable. On failure
     * everything of its own is freed again; the caller detaches children.
     */
    bool (*open)(BlockDriverState *bs, BlockOptions *options,
                 BdrvOpenFlags flags, GError **error);
    /* Everything was flushed (as far as possible) by the caller. */
    void (*close)(BlockDriverState *bs);
    /*
     * Narrows bs->limits, which the caller has set to the merge of the
     * children's. Called after open and whenever a child changes.
     */
    void (*refresh_limits)(BlockDriverState *bs);
    /*
     * Sets bs->exact_filename when one plain name reopens exactly this node,
     * clears it otherwise. NULL: formats and filters take their primary
     * child's when they have no other children and options.
     */
    void (*refresh_filename)(BlockDriverState *bs);
    /*
     * Own sources of requests (timers, read-ahead): stop, go on. drain_poll:
     * is one still at work? Asked until it says no; a source that ends calls
     * bdrv_drain_kick().
     */
    void (*drain_begin)(BlockDriverState *bs);
    bool (*drain_poll)(BlockDriverState *bs);
    void (*drain_end)(BlockDriverState *bs);
    /*
     * Requests that may wait long for somebody else (a peer, a breakpoint):
     * let go of them. Not drained, others are at work; never waits.
     */
    void (*cancel_in_flight)(BlockDriverState *bs);
    /*
     * bdrv_recurse_can_replace() (graph/edge.h) asks it about nodes below.
     * Default: a filter asks its filtered child, others say no.
     */
    bool (*recurse_can_replace)(BlockDriverState *bs,
                                BlockDriverState *to_replace);
    /* May the node change from read-only to read-write and so on? */
    const BlockReopenOps *reopen;
    const BlockPermOps *perm;
    /* Whole-image operations; NULL where a format has none. */
    const BlockCreateOps *create;
    const BlockAmendOps *amend;
    const BlockCheckOps *check;
    const BlockSnapshotOps *snapshots;
    const BlockBitmapOps *bitmaps;
    /*
     * The image's header names @name (NULL: nothing) of @format (NULL: not
     * said) as its backing file from now on, on the medium when it returns;
     * bs->backing_name and backing_format follow. The graph is the caller's
     * business. Control plane, node drained and writable.
     */
    bool (*change_backing_file)(BlockDriverState *bs, const char *name,
                                const char *format, GError **error);
    /*
     * The image gives up all that it has itself: its backing file shows
     * through, or zeros. Length and snapshots stay. On the medium when it
     * returns; a failure leaves any part. Control plane, node drained and
     * writable. NULL: cannot.
     */
    bool (*make_empty)(BlockDriverState *bs, GError **error);
    /* Abilities that few drivers have; NULL: not this one. */
    const BlockChildOps *children;
    const BlockDebugOps *debug;
    const BlockMediaOps *media;
    const BlockSnapshotAccessOps *snapshot_access;
    /* A handing over: flush and touch the file no more; read all anew. */
    int (*inactivate)(BlockDriverState *bs);
    bool (*invalidate_cache)(BlockDriverState *bs, GError **error);

    /* -- I/O: coroutines of any thread ----------------------------------- */
    /*
     * [offset, offset + bytes) is aligned to request_alignment, at most
     * max_transfer long and within the length (rounded up to the alignment).
     * The data is [iov_offset, iov_offset + bytes) of @iov, in parts of any
     * length that satisfy min_mem_alignment. 0 or -errno.
     */
    int coroutine_fn (*co_preadv)(BlockDriverState *bs, int64_t offset,
                                  int64_t bytes, IoVec *iov,
                                  size_t iov_offset, BdrvRequestFlags flags);
    /* flags: only those in bs->supported_write_flags. */
    int coroutine_fn (*co_pwritev)(BlockDriverState *bs, int64_t offset,
                                   int64_t bytes, IoVec *iov,
                                   size_t iov_offset, BdrvRequestFlags flags);
    /*
     * Makes the range read zeros without writing them; aligned to
     * request_alignment only (pwrite_zeroes_alignment is where it is
     * efficient; heads and tails come separately). -ENOTSUP: the caller
     * writes zeros, unless NO_FALLBACK. flags: supported_zero_flags only.
     */
    int coroutine_fn (*co_pwrite_zeroes)(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes,
                                         BdrvRequestFlags flags);
    /* A hint: content becomes undefined or zero. -ENOTSUP is no error. */
    int coroutine_fn (*co_pdiscard)(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes);
    /* Registration sets it: co_pwritev_compressed is the driver's own. */
    bool can_compress;
    /* One cluster (or the image's end), compressed. */
    int coroutine_fn (*co_pwritev_compressed)(BlockDriverState *bs,
                                              int64_t offset, int64_t bytes,
                                              IoVec *iov, size_t iov_offset);
    /*
     * Status of bytes from @offset on, at least 1 and at most @bytes of them.
     * No flag but ALLOCATED-or-nothing is implied: 0 in flags means "ask the
     * backing layer". @want_zero false: zeros need not be told from data, so
     * take the longer run. Default: all DATA (formats), forward (filters).
     */
    int coroutine_fn (*co_block_status)(BlockDriverState *bs, bool want_zero,
                                        int64_t offset, int64_t bytes,
                                        BlockStatus *ret_status);
    /* The format's caches into the children, in crash-safe order. */
    int coroutine_fn (*co_flush_to_os)(BlockDriverState *bs);
    /* Protocols: to the medium. Formats leave it out: children are flushed. */
    int coroutine_fn (*co_flush_to_disk)(BlockDriverState *bs);
    /*
     * New length. Growing reads zeros (or the backing file) there. @exact
     * false: a longer result is fine. The caller has serialised it with
     * requests behind the smaller length and updates bs->length after.
     */
    int coroutine_fn (*co_truncate)(BlockDriverState *bs, int64_t length,
                                    bool exact, BdrvPreallocMode prealloc,
                                    BdrvRequestFlags flags, GError **error);
    /* Bytes, or -errno. Only called when has_variable_length, and at open. */
    int64_t coroutine_fn (*co_getlength)(BlockDriverState *bs);
    /*
     * Map down and copy in the kernel. from is called on the source's
     * driver, which calls bdrv_co_copy_range_from() on its child or, at the
     * bottom, bdrv_co_copy_range_to() on @dst, whose driver's to then runs.
     * -ENOTSUP makes the caller copy through memory.
     */
    int coroutine_fn (*co_copy_range_from)(BlockDriverState *bs,
                                           BdrvChild *src, int64_t src_offset,
                                           BdrvChild *dst, int64_t dst_offset,
                                           int64_t bytes,
                                           BdrvRequestFlags flags);
    int coroutine_fn (*co_copy_range_to)(BlockDriverState *bs,
                                         BdrvChild *src, int64_t src_offset,
                                         BdrvChild *dst, int64_t dst_offset,
                                         int64_t bytes,
                                         BdrvRequestFlags flags);
    /* Bytes really used on the medium; -errno. Default: sum of children. */
    int64_t coroutine_fn (*co_get_allocated_file_size)(BlockDriverState *bs);
    /*
     * ioctl(2) on the device, @argument as @request wants it. Its result, or
     * -errno; -ENOTSUP from what is no device. Default: filters forward.
     */
    int coroutine_fn (*co_ioctl)(BlockDriverState *bs, unsigned long request,
                                 void *argument);
    /*
     * There is no plugging: a context hands all requests of one turn of its
     * loop to the kernel together anyway (block/rt/engine.h).
     */

    /* -- facts ----------------------------------------------------------- */
    bool (*get_info)(BlockDriverState *bs, BlockDriverInfo *info);
    /* A JSON object with the format's details for `info`; NULL when none. */
    JsonNode *(*get_specific_info)(BlockDriverState *bs);
    /* A JSON object with figures of its caches, now; NULL when none. */
    JsonNode *(*get_cache_figures)(BlockDriverState *bs);
    /*
     * The device's own facts (graph/device.h). 0, or -ENOTSUP from what is no
     * device or does not know. Default: filters forward.
     */
    int (*probe_blocksizes)(BlockDriverState *bs, BlockSizes *ret_sizes);
    int (*probe_geometry)(BlockDriverState *bs, BlockGeometry *ret_geometry);
    /* A fresh image of this kind reads zeros. Default: false. */
    bool (*has_zero_init)(BlockDriverState *bs);
};

/*
 * bdrv_register:
 * Adds a completed copy of @driver to the list. Aborts on a table that
 * contradicts itself (two kinds at once, no name, a name twice). At start-up.
 */
void bdrv_register(const BlockDriver *driver);

/*
 * A co_copy_range_from or _to for filters that must see the data (the default
 * of a filter passes it by): -ENOTSUP, so that the caller reads and writes.
 */
int coroutine_fn bdrv_refuse_copy_range(BlockDriverState *bs, BdrvChild *src,
                                        int64_t src_offset, BdrvChild *dst,
                                        int64_t dst_offset, int64_t bytes,
                                        BdrvRequestFlags flags);

/* By format name (or protocol name); NULL when there is none. */
const BlockDriver *bdrv_find_format(const char *name);
const BlockDriver *bdrv_find_protocol(const char *protocol_name);

/* Calls @visit for each registered driver, in order of registration. */
void bdrv_foreach_driver(void (*visit)(const BlockDriver *driver,
                                       void *opaque),
                         void *opaque);

#endif
