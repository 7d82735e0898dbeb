/* SPDX-License-Identifier: MIT */
/*
 * opening children: those that options name, and those that images name
 *
 * The operator may name anything. A name that stands in an image goes through
 * the reference policy, seen from the folder of the layer it stands in, and
 * is compared with the files of all layers above, so that a chain cannot bite
 * its own tail.
 *
 * Always true outside a function of this file:
 *  C1  a name from an image is opened only after the policy resolved it, and
 *      then as a path: never as options, never with a prefix of its own;
 *  C2  what lies below a backing edge is opened read-only.
 *
 * Locking: none, control plane.
 */
#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/graph/filename.h"
#include "block/graph/node.h"
#include "block/graph/open.h"
#include "block/graph/open_internal.h"
#include "block/graph/reference_policy.h"

#include <string.h>
#include <sys/stat.h>

/* ---- children that options name ----------------------------------------- */

static BdrvOpenFlags child_flags(const BlockDriverState *parent,
                                 BdrvChildRole role)
{
    BdrvOpenFlags flags;

    bdrv_child_of_bs.inherit_options(role, parent->drv->is_format,
                                     parent->open_flags, parent->options,
                                     &flags, NULL);
    return flags;
}

static bool open_child(BlockDriverState *parent, BlockOptions *options,
                       const char *name, BdrvChildRole role, bool required,
                       BdrvChild **ret_child, GError **error)
{
    BlockDriverState *bs;
    BdrvChild *child;

    if (!options_name_child(options, name)) {
        if (required) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                        "driver '%s' needs the option '%s'",
                        parent->drv->format_name, name);
            return false;
        }
        *ret_child = NULL;
        return true;
    }
    bs = open_reference(name, options, child_flags(parent, role), error);
    if (bs == NULL) {
        return false;
    }
    child = bdrv_attach_child(parent, bs, name, role, error);
    if (child == NULL) {
        return false;
    }
    *ret_child = child;
    return true;
}

bool bdrv_open_child(BlockDriverState *parent, BlockOptions *options,
                     const char *name, BdrvChildRole role, bool required,
                     BdrvChild **ret_child, GError **error)
{
    g_autoptr(GError) local_error = NULL;
    OpenContext context;
    bool is_outermost = open_context == NULL;
    bool ok;

    /* Also at run time, when no open is under way. */
    if (is_outermost) {
        open_context_enter(&context, /* policy= */ NULL);
    }
    ok = open_child(parent, options, name, role, required, ret_child,
                    &local_error);
    if (is_outermost) {
        open_context_leave(&context);
    }
    if (!ok) {
        g_propagate_error(error, g_steal_pointer(&local_error));
    }
    return ok;
}

bool bdrv_open_file_child(BlockDriverState *parent, BlockOptions *options,
                          GError **error)
{
    BdrvChildRole role = parent->drv->is_filter
        ? BDRV_CHILD_FILTERED | BDRV_CHILD_PRIMARY : BDRV_CHILD_IMAGE;
    BdrvChild *child;

    return bdrv_open_child(parent, options, "file", role, /* required= */ true,
                           &child, error);
}

/* ---- whose file is it? -------------------------------------------------- */

/* Same device and inode: the same file, whatever its names. */
static bool is_same_file(const struct stat *a, const struct stat *b)
{
    if (S_ISBLK(a->st_mode) && S_ISBLK(b->st_mode)) {
        return a->st_rdev == b->st_rdev;
    }
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static bool stat_node(const BlockDriverState *bs, struct stat *st)
{
    const char *path;

    while (bs->file != NULL) {
        bs = bs->file->bs;
    }
    path = bs->exact_filename;
    if (path != NULL) {
        (void) filename_protocol(path, &path); /* "file:a:b" is the file a:b */
    }
    return path != NULL && stat(path, st) == 0;
}

/* The layer above, or @bs itself, that is the file @st; NULL when none is. */
static BlockDriverState *find_layer(BlockDriverState *bs,
                                    const struct stat *st)
{
    GPtrArray *layers = open_context->layers;
    struct stat other;

    if (stat_node(bs, &other) && is_same_file(&other, st)) {
        return bs;
    }
    for (guint i = 0; i < layers->len; i++) {
        if (stat_node(layers->pdata[i], &other) && is_same_file(&other, st)) {
            return layers->pdata[i];
        }
    }
    return NULL;
}

/* @path is about to be opened below @bs. */
static bool check_loop(BlockDriverState *bs, const char *path, GError **error)
{
    BlockDriverState *layer;
    struct stat st;

    if (stat(path, &st) < 0) {
        return true; /* opening it will say why */
    }
    layer = find_layer(bs, &st);
    if (layer != NULL) {
        g_autofree char *shown = filename_for_message(path);

        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                    "%s: backing file loop: it names %s, which is %s",
                    bdrv_name(bs), shown, layer == bs
                    ? "the image itself" : "a layer above it");
        return false;
    }
    return true;
}

/* ---- names that an image contains --------------------------------------- */

static const char *node_directory(const BlockDriverState *bs)
{
    if (bs->directory == NULL && bs->file != NULL) {
        return bs->file->bs->directory;
    }
    return bs->directory;
}

/* "disk.qcow2: backing file 'x' (named in disk.qcow2's header) ..." */
static void prefix_reference(const BlockDriverState *bs, const char *what,
                             const char *name, GError **error)
{
    g_autofree char *shown = filename_for_message(name);
    bool not_found = g_error_matches(*error, IMGFUSE_ERROR,
                                     IMGFUSE_ERROR_NOT_FOUND);

    g_prefix_error(error, "%s: %s '%s' (named in %s's header) ",
                   bdrv_name(bs), what, shown, bdrv_name(bs));
    if (not_found) {
        bool is_backing = strcmp(what, "backing file") == 0;
        char *message = g_strconcat((*error)->message, "; use --allow-path",
                                    is_backing
                                    ? " or 'imgfuse rebase -u'" : "", NULL);

        g_free((*error)->message);
        (*error)->message = message;
    }
}

/* C1: the path (or permitted address) that @name in @bs's header means. */
static char *resolve(BlockDriverState *bs, const char *what, const char *name,
                     GError **error)
{
    OpenContext *context = open_context;
    const char *directory = node_directory(bs);
    char *path = NULL;

    if (directory == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "cannot be looked for: the image lies in no folder");
    } else {
        if (context->root == NULL) {
            context->root = g_strdup(directory);
        }
        path = reference_policy_resolve_below(context->policy, context->root,
                                              directory, name, error);
    }
    if (path == NULL) {
        prefix_reference(bs, what, name, error);
        context->layer_named = true;
        return NULL;
    }
    if (!check_loop(bs, path, error)) {
        context->layer_named = true;
        g_clear_pointer(&path, g_free);
    }
    return path;
}

/* Only formats: a header that says "blkdebug" or "nbd" gets no such thing. */
static bool use_format_of_header(BlockDriverState *bs, const char *format,
                                 BlockOptions *child_options, GError **error)
{
    const BlockDriver *driver = bdrv_find_format(format);

    if (g_strcmp0(format, "file") == 0 ||
        g_strcmp0(format, "host_device") == 0) {
        driver = bdrv_find_format("raw"); /* as it was written long ago */
    }
    if (driver == NULL || !driver->is_format) {
        g_autofree char *shown = filename_for_message(format);

        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: backing format '%s' (named in %s's header) is not "
                    "supported", bdrv_name(bs), shown, bdrv_name(bs));
        open_context->layer_named = true;
        return false;
    }
    block_options_set_string(child_options, "driver", driver->format_name);
    return true;
}

/* Adds "file.driver" and "file.filename" (or without "file."). */
static bool set_resolved(const char *path, const char *prefix,
                         BlockOptions *child_options, GError **error)
{
    g_autofree char *driver_key = g_strconcat(prefix, "driver", NULL);

    /* An absolute path has no prefix, whatever colons are in it. */
    if (path[0] == '/' && !block_options_has(child_options, driver_key)) {
        block_options_set_string(child_options, driver_key, "file");
    }
    return filename_to_options(path, prefix, child_options, error);
}

/* Did the operator say what the child is, so that the header is not asked? */
static bool operator_names(const BlockOptions *child_options)
{
    const char *name = block_options_peek(child_options, "driver");
    const BlockDriver *driver = name != NULL ? bdrv_find_format(name) : NULL;

    return options_name_child(child_options, "file") ||
           block_options_has(child_options, "filename") ||
           (driver != NULL && !driver->is_format);
}

static bool open_referenced(BlockDriverState *parent, BlockOptions *options,
                            const char *name, const char *image_name,
                            const char *driver_name, BdrvChildRole role,
                            BdrvChild **ret_child, GError **error)
{
    g_autoptr(BlockOptions) child_options = NULL;
    const BlockDriver *driver = bdrv_find_format(driver_name);
    g_autofree char *path = NULL;
    g_autofree char *prefix = g_strconcat(name, ".", NULL);
    BlockDriverState *bs;

    g_assert(driver != NULL);
    path = resolve(parent, name, image_name, error);
    if (path == NULL) {
        return false;
    }
    child_options = block_options_take_subtree(options, name);
    block_options_set_string(child_options, "driver", driver_name);
    if (!set_resolved(path, driver->is_format || driver->is_filter
                      ? "file." : "", child_options, error)) {
        return false;
    }
    bs = open_tree(NULL, g_steal_pointer(&child_options),
                   child_flags(parent, role), error);
    if (bs == NULL) {
        return false;
    }
    *ret_child = bdrv_attach_child(parent, bs, name, role, error);
    return *ret_child != NULL;
}

bool bdrv_open_referenced_child(BlockDriverState *parent,
                                BlockOptions *options, const char *name,
                                const char *image_name, const char *driver,
                                BdrvChildRole role, BdrvChild **ret_child,
                                GError **error)
{
    g_autoptr(GError) local_error = NULL;
    g_autoptr(BlockOptions) copy = NULL;
    g_autoptr(BlockOptions) subtree = NULL;

    g_assert(open_context != NULL);
    if (block_options_has(options, name)) {
        return bdrv_open_child(parent, options, name, role, true, ret_child,
                               error);
    }
    /* A look at the subtree; it stays in @options. */
    copy = block_options_copy(options);
    subtree = block_options_take_subtree(copy, name);
    if (image_name == NULL || operator_names(subtree)) {
        return bdrv_open_child(parent, options, name, role, image_name != NULL,
                               ret_child, error);
    }
    if (!open_referenced(parent, options, name, image_name, driver, role,
                         ret_child, &local_error)) {
        g_propagate_error(error, g_steal_pointer(&local_error));
        return false;
    }
    return true;
}

/* ---- backing files ------------------------------------------------------ */

/* What the header says becomes options; false with the policy's answer. */
static bool options_from_header(BlockDriverState *bs,
                                BlockOptions *child_options, GError **error)
{
    g_autofree char *path = resolve(bs, "backing file", bs->backing_name,
                                    error);

    if (path == NULL) {
        return false;
    }
    if (bs->backing_format != NULL &&
        !block_options_has(child_options, "driver") &&
        !use_format_of_header(bs, bs->backing_format, child_options, error)) {
        return false;
    }
    return set_resolved(path, "file.", child_options, error);
}

static bool check_layer(BlockDriverState *bs, GError **error)
{
    GPtrArray *layers = open_context->layers;
    struct stat st, other;

    if (layers->len >= BDRV_MAX_DEPTH) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: more than %d backing files below each other",
                    bdrv_name(layers->pdata[0]), BDRV_MAX_DEPTH);
        open_context->layer_named = true;
        return false;
    }
    /* Names the operator gave can form a loop, too. */
    for (guint i = 0; stat_node(bs, &st) && i < layers->len; i++) {
        if (stat_node(layers->pdata[i], &other) && is_same_file(&st, &other)) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                        "backing file loop: %s is a layer above itself",
                        bdrv_name(bs));
            open_context->layer_named = true;
            return false;
        }
    }
    return true;
}

/* Opens the chain below with @bs noted as the layer above. */
static BlockDriverState *open_layer(BlockDriverState *bs,
                                    BlockOptions *child_options,
                                    bool named_by_operator, GError **error)
{
    OpenContext *context = open_context;
    char *root = context->root;
    BlockDriverState *backing;

    g_ptr_array_add(context->layers, bs);
    if (named_by_operator) {
        context->root = NULL; /* its own folder counts from here on */
    }
    backing = open_tree(NULL, child_options, child_flags(bs, BDRV_CHILD_COW),
                        error); /* C2 */
    if (named_by_operator) {
        g_free(context->root);
        context->root = root;
    }
    g_ptr_array_remove_index(context->layers, context->layers->len - 1);
    if (backing == NULL && !context->layer_named) {
        g_prefix_error(error, "backing file of %s: ", bdrv_name(bs));
        context->layer_named = true;
    }
    return backing;
}

static bool attach_backing(BlockDriverState *bs, BlockDriverState *backing,
                           GError **error)
{
    return backing != NULL &&
           bdrv_attach_child(bs, backing, "backing", BDRV_CHILD_COW,
                             error) != NULL;
}

static bool open_backing(BlockDriverState *bs, BlockOptions *options,
                         GError **error)
{
    g_autoptr(BlockOptions) child_options =
        block_options_take_subtree(options, "backing");
    bool named_by_operator = operator_names(child_options);

    if (!named_by_operator && bs->backing_name == NULL) {
        if (block_options_first_key(child_options) == NULL) {
            return true; /* no backing file */
        }
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "option 'backing.%s' is given, but the image has no "
                    "backing file", block_options_first_key(child_options));
        return false;
    }
    if (!check_layer(bs, error)) {
        return false;
    }
    if (!named_by_operator && !options_from_header(bs, child_options, error)) {
        return false;
    }
    return attach_backing(bs, open_layer(bs, g_steal_pointer(&child_options),
                                         named_by_operator, error), error);
}

/* `backing` is no subtree: a node's name, or "" or null for none. */
static bool open_backing_reference(BlockDriverState *bs, BlockOptions *options,
                                   GError **error)
{
    if (block_options_peek(options, "backing")[0] == '\0') {
        g_autofree char *nothing = NULL;

        return block_options_take_string(options, "backing", &nothing, error);
    }
    return attach_backing(bs, open_reference("backing", options,
                                             child_flags(bs, BDRV_CHILD_COW),
                                             error), error);
}

bool bdrv_open_backing(BlockDriverState *bs, BlockOptions *options,
                       GError **error)
{
    g_autoptr(GError) local_error = NULL;
    bool ok;

    g_assert(open_context != NULL);
    if (!bs->drv->supports_backing) {
        return true; /* an option `backing` is left over, and so unknown */
    }
    if (block_options_has(options, "backing")) {
        ok = open_backing_reference(bs, options, &local_error);
    } else if (bs->open_flags & BDRV_O_NO_BACKING) {
        block_options_free(block_options_take_subtree(options, "backing"));
        ok = true;
    } else {
        ok = open_backing(bs, options, &local_error);
    }
    if (!ok) {
        g_propagate_error(error, g_steal_pointer(&local_error));
    }
    return ok;
}
