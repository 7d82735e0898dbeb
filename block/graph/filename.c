/* SPDX-License-Identifier: MIT */
/*
 * names of nodes
 *
 * Reads what users type and writes what would open a node again. A node has
 * an exact name when one plain name is enough: its file has one, its driver
 * was given no option that changes the data seen, and its backing file is the
 * one that the image itself names.
 *
 * Locking: none, control plane.
 */
#include "block/graph/filename.h"

#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"

#include <stdlib.h>
#include <string.h>

/* ---- what users type ---------------------------------------------------- */

const BlockDriver *filename_protocol(const char *name, const char **ret_rest)
{
    size_t prefix_bytes = strcspn(name, ":/");
    g_autofree char *prefix = NULL;
    const BlockDriver *driver;

    if (name[prefix_bytes] != ':') {
        return NULL;
    }
    prefix = g_strndup(name, prefix_bytes);
    driver = bdrv_find_protocol(prefix);
    if (driver != NULL && ret_rest != NULL) {
        *ret_rest = name + prefix_bytes + 1;
    }
    return driver;
}

bool filename_is_json(const char *name)
{
    return g_str_has_prefix(name, "json:");
}

const char *filename_json(const char *name)
{
    return name + strlen("json:");
}

/* What @name means to @driver, without prefixes of keys. */
static BlockOptions *split_name(const BlockDriver *driver, const char *name,
                                GError **error)
{
    g_autoptr(BlockOptions) split = block_options_new();

    if (filename_protocol(name, NULL) != driver) {
        block_options_set_string(split, "filename", name);
    } else if (!driver->parse_filename(name, split, error)) {
        return NULL;
    }
    return g_steal_pointer(&split);
}

/* Puts @prefix before each key of @from and adds what @to lacks. */
static void add_with_prefix(BlockOptions *to, const char *prefix,
                            BlockOptions *from)
{
    const char *key;

    while ((key = block_options_first_key(from)) != NULL) {
        g_autofree char *short_key = g_strdup(key);
        g_autofree char *full_key = g_strconcat(prefix, key, NULL);
        g_autofree char *value = NULL;

        /* A string value always can be taken. */
        (void) block_options_take_string(from, short_key, &value, NULL);
        if (!block_options_has(to, full_key)) {
            block_options_set_string(to, full_key, value);
        }
    }
}

bool filename_to_options(const char *name, const char *prefix,
                         BlockOptions *options, GError **error)
{
    g_autofree char *driver_key = g_strconcat(prefix, "driver", NULL);
    const char *driver_name = block_options_peek(options, driver_key);
    const BlockDriver *driver = filename_protocol(name, NULL);
    g_autoptr(BlockOptions) split = NULL;

    if (driver_name != NULL) {
        driver = bdrv_find_format(driver_name);
    } else if (driver == NULL) {
        driver = bdrv_find_protocol("file");
    }
    if (driver == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "no driver opens '%s'", name);
        return false;
    }
    split = split_name(driver, name, error);
    if (split == NULL) {
        return false;
    }
    if (driver_name == NULL) {
        block_options_set_string(options, driver_key, driver->format_name);
    }
    add_with_prefix(options, prefix, split);
    return true;
}

char *filename_combine(const char *directory, const char *name)
{
    if (directory == NULL || g_path_is_absolute(name)) {
        return g_strdup(name);
    }
    return g_build_filename(directory, name, NULL);
}

char *filename_real_directory(const char *name)
{
    char *real = realpath(name, NULL);
    char *directory = NULL;

    if (real != NULL) {
        directory = g_path_get_dirname(real);
    }
    free(real);
    return directory;
}

char *filename_for_message(const char *name)
{
    char *valid = g_utf8_make_valid(name, -1);

    /* Neither line breaks nor escape sequences of terminals. */
    for (char *c = valid; *c != '\0'; c++) {
        if (g_ascii_iscntrl(*c)) {
            *c = '?';
        }
    }
    return valid;
}

/* ---- names of open nodes ------------------------------------------------ */

static bool has_child_options(const BlockOptions *options, const char *name)
{
    return block_options_has(options, name) ||
           block_options_has_subtree(options, name);
}

static bool has_strong_options(const BlockDriverState *bs)
{
    const BlockOptionDesc *desc = bs->drv->options;

    for (; desc != NULL && desc->name != NULL; desc++) {
        if (desc->is_strong && desc->type != BLOCK_OPTION_CHILD &&
            strcmp(desc->name, "filename") != 0 &&
            block_options_has(bs->explicit_options, desc->name)) {
            return true;
        }
    }
    return false;
}

/* One file under two names? Links are followed; missing files are not. */
static bool is_same_path(const char *a, const char *b)
{
    char *real_a = realpath(a, NULL);
    char *real_b = realpath(b, NULL);
    bool same = real_a != NULL && real_b != NULL
        ? strcmp(real_a, real_b) == 0 : strcmp(a, b) == 0;

    free(real_a);
    free(real_b);
    return same;
}

/* The path that a plain name or "file:NAME" means. */
static const char *path_of(const char *name)
{
    const char *rest;

    return g_str_has_prefix(name, "file:") &&
           filename_protocol(name, &rest) != NULL ? rest : name;
}

/* Would the format that @bs's header names (or probing) give this @backing? */
static bool header_means_format(const BlockDriverState *bs,
                                BlockDriverState *backing)
{
    const BlockDriverState *image = bdrv_skip_filters(backing);
    const char *format = bs->backing_format;

    if (image->drv == NULL) {
        return false;
    }
    if (format == NULL) {
        return image->probed || strcmp(image->drv->format_name, "raw") != 0;
    }
    if (strcmp(format, "file") == 0 || strcmp(format, "host_device") == 0) {
        format = "raw"; /* as it was written long ago */
    }
    return strcmp(format, image->drv->format_name) == 0;
}

/* Would @bs, opened by its own name, get another backing file, or none? */
static bool backing_is_overridden(const BlockDriverState *bs)
{
    BlockDriverState *backing;
    g_autofree char *path = NULL;

    if (!bs->drv->supports_backing) {
        return false;
    }
    if (bs->backing == NULL || bs->backing_name == NULL) {
        return bs->backing != NULL ||
               (bs->backing_name != NULL &&
                !(bs->open_flags & BDRV_O_NO_BACKING));
    }
    backing = bs->backing->bs;
    if (backing->exact_filename == NULL ||
        !header_means_format(bs, backing)) {
        return true;
    }
    if (filename_protocol(bs->backing_name, NULL) != NULL) {
        path = g_strdup(path_of(bs->backing_name));
    } else {
        path = filename_combine(bs->file != NULL ? bs->file->bs->directory
                                                 : bs->directory,
                                bs->backing_name);
    }
    return !is_same_path(path, path_of(backing->exact_filename));
}

/* Did the user, not the image, say what @child is? */
static bool child_is_overridden(const BlockDriverState *bs,
                                const BdrvChild *child)
{
    if (child == bs->backing && bs->drv->supports_backing) {
        return backing_is_overridden(bs);
    }
    return child != bs->file &&
           (child == bs->backing ||
            has_child_options(bs->explicit_options, child->name));
}

/* The exact name by the rule above; NULL when there is none. */
static const char *default_exact_filename(const BlockDriverState *bs)
{
    const BdrvChild *main_child;

    if (bs->drv == NULL || bs->temporary || has_strong_options(bs)) {
        return NULL;
    }
    main_child = bs->drv->filtered_child_is_backing ? bs->backing : bs->file;
    if (main_child == NULL) {
        return bs->exact_filename != NULL
            ? bs->exact_filename : block_options_peek(bs->options, "filename");
    }
    if (backing_is_overridden(bs)) {
        return NULL;
    }
    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = bs->children->pdata[i];

        if (child != main_child && child_is_overridden(bs, child)) {
            return NULL;
        }
    }
    return main_child->bs->exact_filename;
}

/* Adds the options of @bs that open it, below @prefix. */
static void gather_options(const BlockDriverState *bs, const char *prefix,
                           BlockOptions *all)
{
    static const char *const left_out[] = {
        "node-name", "read-only", "auto-read-only", "force-share", "discard",
        "detect-zeroes", "cache.direct", "cache.no-flush", "driver",
        "accounting", NULL,
    };
    g_autofree char *driver_key = g_strconcat(prefix, "driver", NULL);
    g_autoptr(BlockOptions) own = block_options_copy(bs->options);

    for (unsigned i = 0; left_out[i] != NULL; i++) {
        g_autofree char *value = NULL;

        (void) block_options_take_string(own, left_out[i], &value, NULL);
    }
    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = bs->children->pdata[i];
        g_autofree char *value = NULL;
        g_autofree char *child_prefix = g_strconcat(prefix, child->name, ".",
                                                    NULL);

        (void) block_options_take_string(own, child->name, &value, NULL);
        block_options_free(block_options_take_subtree(own, child->name));
        if (child == bs->file || child_is_overridden(bs, child)) {
            gather_options(child->bs, child_prefix, all);
        }
    }
    if (bs->drv != NULL && bs->backing == NULL && backing_is_overridden(bs)) {
        g_autofree char *backing_key = g_strconcat(prefix, "backing", NULL);

        block_options_set_string(all, backing_key, ""); /* none */
    }
    if (bs->drv != NULL) {
        block_options_set_string(all, driver_key, bs->drv->format_name);
    }
    add_with_prefix(all, prefix, own);
}

char *filename_json_of_node(const BlockDriverState *bs)
{
    g_autoptr(BlockOptions) all = block_options_new();
    g_autofree char *json = NULL;

    gather_options(bs, "", all);
    json = block_options_to_json(all);
    return g_strconcat("json:", json, NULL);
}

static void refresh_directory(BlockDriverState *bs)
{
    char *directory = NULL;

    if (bs->file != NULL) {
        directory = g_strdup(bs->file->bs->directory);
    } else if (bs->exact_filename != NULL) {
        const char *path = bs->exact_filename;

        directory = filename_real_directory(path);
    }
    /* A protocol may have set a folder of its own: it stays. */
    if (directory != NULL) {
        g_free(bs->directory);
        bs->directory = directory;
    }
}

void bdrv_refresh_filename(BlockDriverState *bs)
{
    if (bs->drv != NULL && bs->drv->refresh_filename != NULL) {
        bs->drv->refresh_filename(bs);
    } else {
        char *exact = g_strdup(default_exact_filename(bs));

        g_free(bs->exact_filename);
        bs->exact_filename = exact;
    }
    refresh_directory(bs);
    g_free(bs->filename);
    bs->filename = bs->exact_filename != NULL
        ? g_strdup(bs->exact_filename) : filename_json_of_node(bs);

    for (guint i = 0; i < bs->parents->len; i++) {
        const BdrvChild *edge = bs->parents->pdata[i];
        BlockDriverState *parent = edge->parent;

        /* A parent without a name is being opened and will get to it. */
        if (edge->klass->parent_is_bs && parent->filename != NULL) {
            bdrv_refresh_filename(parent);
        }
    }
}
