/* SPDX-License-Identifier: MIT */
/*
 * building a graph from a name and options
 *
 *   bdrv_open ─▶ open_tree ─▶ choose_driver ─▶ open_node ─▶ driver's open
 *                   ▲             │ probe          │            │
 *                   │             ▼                ▼            ▼
 *                   └────────── file node       backing    bdrv_open_child
 *
 * Options are consumed on the way down: the common ones here, then the
 * driver's; whatever is left is an unknown option. What a chain of opens has
 * in common (the policy, the layers above) is in an OpenContext. Children and
 * backing files, and so names that images contain, are open_child.c.
 *
 * Always true outside a function of this file:
 *  P1  a failed open leaves no node behind.
 *
 * Locking: none, control plane.
 */
#include "block/graph/open.h"

#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/graph/filename.h"
#include "block/graph/node.h"
#include "block/graph/open_internal.h"
#include "block/graph/perm.h"
#include "block/graph/probe.h"
#include "block/io/accounting.h"
#include "block/io/io.h"
#include "block/io/limits.h"

#include <string.h>

OpenContext *open_context;

/* In the order of the flag, and of BdrvDetectZeroes. */
static const char *const discard_values[] = {"ignore", "unmap", NULL};
static const char *const zeroes_values[] = {"off", "on", "unmap", NULL};

const BlockOptionDesc bdrv_common_options[] = {
    { .name = "driver", .type = BLOCK_OPTION_STRING,
      .help = "name of the driver; formats are probed without" },
    { .name = "node-name", .type = BLOCK_OPTION_STRING,
      .help = "name by which other nodes' options may refer to this one" },
    { .name = "read-only", .type = BLOCK_OPTION_BOOL, .is_mutable = true,
      .help = "whether it may not be written; default: the user's choice" },
    { .name = "auto-read-only", .type = BLOCK_OPTION_BOOL,
      .default_value = "off",
      .help = "open read-only what the system does not let us write" },
    { .name = "force-share", .type = BLOCK_OPTION_BOOL,
      .default_value = "off",
      .help = "neither take nor respect image locks; needs read-only" },
    { .name = "cache.direct", .type = BLOCK_OPTION_BOOL, .is_mutable = true,
      .help = "bypass the page cache (O_DIRECT); default: by --cache" },
    { .name = "cache.no-flush", .type = BLOCK_OPTION_BOOL,
      .is_mutable = true,
      .help = "drop flush requests; default: by --cache" },
    { .name = "discard", .type = BLOCK_OPTION_ENUM, .is_mutable = true,
      .values = discard_values,
      .help = "what a discard does; default: by --discard" },
    { .name = "detect-zeroes", .type = BLOCK_OPTION_ENUM,
      .is_mutable = true, .values = zeroes_values, .default_value = "off",
      .help = "store written zeros without data" },
    { .name = "accounting", .type = BLOCK_OPTION_BOOL,
      .default_value = "off",
      .help = "count this node's requests, for stats.json of a mount" },
    { .name = "snapshot", .type = BLOCK_OPTION_BOOL, .default_value = "off",
      .help = "of the root only: write to a temporary overlay" },
    { .name = NULL },
};

/* Options that every node has; flags hold the rest of them. */
typedef struct CommonOptions {
    char *node_name;
    bool auto_read_only;
    bool accounting;
    BdrvDetectZeroes detect_zeroes;
} CommonOptions;

void open_context_enter(OpenContext *context, ReferencePolicy *policy)
{
    *context = (OpenContext){
        .policy = policy,
        .layers = g_ptr_array_new(),
        .outer = open_context,
    };
    open_context = context;
}

void open_context_leave(OpenContext *context)
{
    g_assert(open_context == context && context->layers->len == 0);
    open_context = context->outer;
    g_ptr_array_free(context->layers, /* free_segment= */ TRUE);
    g_free(context->root);
}

/* ---- common options ----------------------------------------------------- */

static void set_flag(BdrvOpenFlags *flags, BdrvOpenFlags flag, bool on)
{
    *flags = on ? *flags | flag : *flags & ~flag;
}

static bool take_flag(BlockOptions *options, const char *key,
                      BdrvOpenFlags flag, bool inverted, BdrvOpenFlags *flags,
                      GError **error)
{
    bool value = ((*flags & flag) != 0) != inverted;

    if (!block_options_take_bool(options, key, &value, error)) {
        return false;
    }
    set_flag(flags, flag, value != inverted);
    return true;
}

bool open_take_mutable(BlockOptions *options, BdrvOpenFlags *flags,
                       BdrvDetectZeroes *detect_zeroes, GError **error)
{
    int discard = (*flags & BDRV_O_UNMAP) != 0;
    int zeroes = (int)*detect_zeroes;

    if (!take_flag(options, "read-only", BDRV_O_RDWR, /* inverted= */ true,
                   flags, error) ||
        !take_flag(options, "cache.direct", BDRV_O_NOCACHE, false, flags,
                   error) ||
        !take_flag(options, "cache.no-flush", BDRV_O_NO_FLUSH, false, flags,
                   error) ||
        !block_options_take_enum(options, "discard", discard_values, &discard,
                                 error) ||
        !block_options_take_enum(options, "detect-zeroes", zeroes_values,
                                 &zeroes, error)) {
        return false;
    }
    set_flag(flags, BDRV_O_UNMAP, discard);
    *detect_zeroes = (BdrvDetectZeroes)zeroes;
    return true;
}

static bool take_common(BlockOptions *options, BdrvOpenFlags *flags,
                        CommonOptions *common, GError **error)
{
    if (!block_options_take_string(options, "node-name", &common->node_name,
                                   error) ||
        !take_flag(options, "force-share", BDRV_O_FORCE_SHARE, false, flags,
                   error) ||
        !block_options_take_bool(options, "auto-read-only",
                                 &common->auto_read_only, error) ||
        !block_options_take_bool(options, "accounting", &common->accounting,
                                 error) ||
        !open_take_mutable(options, flags, &common->detect_zeroes, error)) {
        return false;
    }
    if ((*flags & BDRV_O_FORCE_SHARE) && (*flags & BDRV_O_RDWR)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "force-share needs a read-only open");
        return false;
    }
    return true;
}

/* ---- which driver? ------------------------------------------------------ */

static void add_format_name(const BlockDriver *driver, void *opaque)
{
    g_ptr_array_add(opaque, (char *)driver->format_name);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static const BlockDriver *find_driver(const char *name, GError **error)
{
    const BlockDriver *driver = bdrv_find_format(name);
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    g_autofree char *list = NULL;

    if (driver != NULL) {
        return driver;
    }
    bdrv_foreach_driver(add_format_name, names);
    g_ptr_array_sort(names, compare_names);
    g_ptr_array_add(names, NULL);
    list = g_strjoinv(", ", (char **)names->pdata);
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_NOT_FOUND,
                "unknown format '%s'; known formats: %s", name, list);
    return NULL;
}

static bool opens_names(const BlockDriver *driver)
{
    return !driver->is_format && !driver->is_filter;
}

/* `driver` was given: the name is its own, or its file's. */
static const BlockDriver *named_driver(const char *filename,
                                       BlockOptions *options, GError **error)
{
    const BlockDriver *driver =
        find_driver(block_options_peek(options, "driver"), error);

    if (driver == NULL) {
        return NULL;
    }
    if (filename != NULL &&
        !filename_to_options(filename, opens_names(driver) ? "" : "file.",
                             options, error)) {
        return NULL;
    }
    if (driver->needs_filename && !block_options_has(options, "filename")) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "driver '%s' needs the option 'filename'",
                    driver->format_name);
        return NULL;
    }
    return driver;
}

/* The file's own bytes are wanted: the name says the protocol. */
static const BlockDriver *protocol_driver(const char *filename,
                                          BlockOptions *options,
                                          GError **error)
{
    g_autofree char *name = g_strdup(filename);

    if (name == NULL) {
        (void) block_options_take_string(options, "filename", &name, NULL);
    }
    if (name == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "neither a file name nor a driver was given");
        return NULL;
    }
    if (!filename_to_options(name, "", options, error)) {
        return NULL;
    }
    return bdrv_find_format(block_options_peek(options, "driver"));
}

/* The node that option @name means: one there is, or a new one. */
BlockDriverState *open_reference(const char *name, BlockOptions *options,
                                 BdrvOpenFlags flags, GError **error)
{
    g_autofree char *node_name = NULL;
    BlockDriverState *bs;

    (void) block_options_take_string(options, name, &node_name, NULL);
    if (node_name == NULL) {
        return open_tree(NULL, block_options_take_subtree(options, name),
                         flags, error);
    }
    bs = bdrv_find_node(node_name);
    if (bs == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "no node is named '%s'; for a file write %s.filename=%s",
                    node_name, name, node_name);
        return NULL;
    }
    return bdrv_ref(bs);
}

bool options_name_child(const BlockOptions *options, const char *name)
{
    return block_options_has(options, name) ||
           block_options_has_subtree(options, name);
}

/*
 * Nobody said which format: opens the file, looks, and leaves the file node
 * in @options for the format to take. @ret_file keeps it alive until then.
 */
static const BlockDriver *probed_driver(const char *filename,
                                        BlockOptions *options,
                                        BdrvOpenFlags *flags,
                                        BlockDriverState **ret_file,
                                        GError **error)
{
    g_autofree char *name = g_strdup(filename);
    g_autoptr(BlockDriverState) file = NULL;
    const BlockDriver *driver;
    BdrvOpenFlags file_flags;

    if (name == NULL) {
        (void) block_options_take_string(options, "filename", &name, NULL);
    }
    if (name != NULL &&
        !filename_to_options(name, "file.", options, error)) {
        return NULL;
    }
    if (!options_name_child(options, "file")) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "neither a file name, a file nor a driver was given");
        return NULL;
    }
    bdrv_child_of_bs.inherit_options(BDRV_CHILD_IMAGE,
                                     /* parent_is_format= */ true, *flags,
                                     options, &file_flags, NULL);
    file = open_reference("file", options, file_flags, error);
    if (file == NULL) {
        return NULL;
    }
    driver = bdrv_probe_node(file, error);
    if (driver == NULL) {
        return NULL;
    }
    *flags |= BDRV_O_PROBED;
    block_options_set_string(options, "file", file->node_name);
    *ret_file = g_steal_pointer(&file);
    return driver;
}

/* ---- one node ----------------------------------------------------------- */

static void set_open_flags(BlockDriverState *bs, BdrvOpenFlags flags)
{
    bs->open_flags = flags;
    bs->read_only = !(flags & BDRV_O_RDWR);
    bs->force_share = flags & BDRV_O_FORCE_SHARE;
    bs->probed = flags & BDRV_O_PROBED;
}

static void detach_all(BlockDriverState *bs)
{
    while (bs->children->len > 0) {
        bdrv_detach_child(bs->children->pdata[bs->children->len - 1]);
    }
}

/* "disk.qcow2: " before what a driver says about its image, once. */
static void prefix_layer(const BlockDriverState *bs, GError **error)
{
    const char *name = bdrv_name(bs);
    g_autofree char *prefix = g_strconcat(name, ": ", NULL);

    if (error != NULL && *error != NULL && !open_context->layer_named &&
        bs->file != NULL && !g_str_has_prefix((*error)->message, prefix)) {
        g_prefix_error(error, "%s", prefix);
    }
}

/* What a first try took is there again. */
static void restore_options(BlockOptions *options, const BlockOptions *from)
{
    const char *key;

    while ((key = block_options_first_key(options)) != NULL) {
        g_autofree char *name = g_strdup(key);
        g_autofree char *value = NULL;

        (void) block_options_take_string(options, name, &value, NULL);
    }
    block_options_join(options, from);
}

/* The driver's open, read-only at the second try where that is allowed. */
static bool open_driver(BlockDriverState *bs, BlockOptions *options,
                        const CommonOptions *common, GError **error)
{
    g_autoptr(BlockOptions) again = block_options_copy(options);
    g_autoptr(GError) first_error = NULL;

    if (bs->drv->open(bs, options, bs->open_flags, &first_error)) {
        return true;
    }
    prefix_layer(bs, &first_error);
    detach_all(bs);
    if (!common->auto_read_only || bs->read_only ||
        !g_error_matches(first_error, IMGFUSE_ERROR, IMGFUSE_ERROR_DENIED)) {
        g_propagate_error(error, g_steal_pointer(&first_error));
        return false;
    }
    if (bs->opaque != NULL) {
        memset(bs->opaque, 0, bs->drv->instance_size);
    }
    set_open_flags(bs, bs->open_flags & ~(BdrvOpenFlags)BDRV_O_RDWR);
    restore_options(options, again);
    if (!bs->drv->open(bs, options, bs->open_flags, error)) {
        prefix_layer(bs, error);
        detach_all(bs);
        return false;
    }
    return true;
}

static bool set_length(BlockDriverState *bs, GError **error)
{
    int64_t length = bdrv_node_length(bs);

    if (bdrv_filter_child(bs) != NULL) {
        length = bdrv_node_length(bdrv_filter_child(bs)->bs);
    } else if (bs->drv->has_variable_length) {
        length = bdrv_getlength(bs);
    }
    if (length < 0 && length > -4096) {
        error_set_errno(error, (int)-length, "finding out the length");
        return false;
    }
    if (length < 0 || length > BDRV_MAX_LENGTH) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "length of %" G_GINT64_FORMAT " bytes is more than the "
                    "%" G_GINT64_FORMAT " that are supported", length,
                    BDRV_MAX_LENGTH);
        return false;
    }
    __atomic_store_n(&bs->length, length, __ATOMIC_RELEASE);
    return true;
}

static bool check_leftovers(const BlockDriverState *bs,
                            const BlockOptions *options, GError **error)
{
    const char *key = block_options_first_key(options);

    if (key == NULL) {
        return true;
    }
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                "unknown option '%s' of driver '%s'", key,
                bs->drv->format_name);
    return false;
}

/* All that comes after the driver's open. */
static bool finish_node(BlockDriverState *bs, BlockOptions *options,
                        GError **error)
{
    if (!set_length(bs, error) || !bdrv_refresh_limits(bs, error)) {
        return false;
    }
    bdrv_refresh_filename(bs);
    if (!bdrv_open_backing(bs, options, error) ||
        !check_leftovers(bs, options, error)) {
        return false;
    }
    bdrv_refresh_filename(bs); /* whether a plain name does depends on it */
    /* open may have changed its mind about writing. */
    return bdrv_refresh_perms(bs, error);
}

static BlockDriverState *open_node(const BlockDriver *driver,
                                   BlockOptions *options,
                                   const BlockOptions *explicit_options,
                                   const CommonOptions *common,
                                   BdrvOpenFlags flags, GError **error)
{
    BlockDriverState *bs = bdrv_new(driver, common->node_name, error);

    if (bs == NULL) {
        return NULL;
    }
    set_open_flags(bs, flags);
    bs->detect_zeroes = common->detect_zeroes;
    block_options_join(bs->options, options);
    block_options_join(bs->explicit_options, explicit_options);
    block_options_set_string(bs->options, "driver", driver->format_name);

    if (!open_driver(bs, options, common, error)) {
        bs->drv = NULL; /* it has undone itself: no close */
        bdrv_unref(bs); /* P1 */
        return NULL;
    }
    if (!finish_node(bs, options, error)) {
        prefix_layer(bs, error);
        bdrv_unref(bs); /* P1 */
        return NULL;
    }
    if (common->accounting) {
        (void) bdrv_enable_accounting(bs);
    }
    return bs;
}

/* @options is ours; common options are already out of it. */
static BlockDriverState *open_common(const char *filename,
                                     BlockOptions *options,
                                     const BlockOptions *explicit_options,
                                     const CommonOptions *common,
                                     BdrvOpenFlags flags, GError **error)
{
    g_autoptr(BlockDriverState) file = NULL;
    g_autofree char *taken = NULL;
    const BlockDriver *driver;

    if (block_options_has(options, "driver")) {
        driver = named_driver(filename, options, error);
    } else if (flags & BDRV_O_PROTOCOL) {
        driver = protocol_driver(filename, options, error);
    } else {
        driver = probed_driver(filename, options, &flags, &file, error);
    }
    if (driver == NULL) {
        return NULL;
    }
    (void) block_options_take_string(options, "driver", &taken, NULL);
    return open_node(driver, options, explicit_options, common, flags, error);
}

/* What a json: name says joins @options, and *@filename is NULL then. */
static bool join_json_name(const char **filename, BlockOptions *options,
                           GError **error)
{
    g_autoptr(BlockOptions) parsed = NULL;

    if (*filename == NULL || !filename_is_json(*filename)) {
        return true;
    }
    parsed = block_options_from_json(filename_json(*filename), error);
    if (parsed == NULL) {
        return false;
    }
    block_options_join(options, parsed);
    *filename = NULL;
    return true;
}

BlockDriverState *open_tree(const char *filename, BlockOptions *options,
                            BdrvOpenFlags flags, GError **error)
{
    g_autoptr(BlockOptions) own = options;
    g_autoptr(BlockOptions) explicit_options = NULL;
    CommonOptions common = {0};
    BlockDriverState *bs = NULL;

    if (own == NULL) {
        own = block_options_new();
    }
    if (!join_json_name(&filename, own, error)) {
        return NULL;
    }
    explicit_options = block_options_copy(own);
    if (take_common(own, &flags, &common, error)) {
        bs = open_common(filename, own, explicit_options, &common, flags,
                         error);
    }
    g_free(common.node_name);
    return bs;
}

/* The root: below its overlay when `snapshot` says so. */
static BlockDriverState *open_root(const char *filename, BlockOptions *options,
                                   BdrvOpenFlags flags, GError **error)
{
    g_autoptr(BlockOptions) own = options;
    bool snapshot = false;

    if (!join_json_name(&filename, own, error) ||
        !block_options_take_bool(own, "snapshot", &snapshot, error)) {
        return NULL;
    }
    if (snapshot && (flags & BDRV_O_RDWR)) {
        return open_temporary_overlay(filename, g_steal_pointer(&own), flags,
                                      error);
    }
    return open_tree(filename, g_steal_pointer(&own), flags, error);
}

BlockDriverState *bdrv_open(const char *filename, BlockOptions *options,
                            BdrvOpenFlags flags, ReferencePolicy *policy,
                            GError **error)
{
    g_autoptr(GError) local_error = NULL; /* prefixes need a place */
    OpenContext context;
    BlockDriverState *bs;

    open_context_enter(&context, policy);
    bs = open_root(filename, options != NULL ? options : block_options_new(),
                   flags, &local_error);
    open_context_leave(&context);
    if (bs == NULL) {
        g_propagate_error(error, g_steal_pointer(&local_error));
    }
    return bs;
}
