/* SPDX-License-Identifier: MIT */
/*
 * what `convert` and `measure` read
 *
 *   image ─┐
 *   image ─┼─▶ concat (several only) ─▶ salvage (if wanted) ─▶ the command
 *   image ─┘
 *
 * The nodes above the images are named by our options only: no image can ask
 * for them.
 *
 * Locking: none; main thread.
 */
#include "fuse/cmd/source.h"

#include "block/driver.h"
#include "block/image/snapshot.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* -- snapshots ----------------------------------------------------------- */

/*
 * "snapshot.id=ID,snapshot.name=NAME", one of the two, or an ID or name by
 * itself; false with @error. Absent ones are NULL; the caller frees.
 */
static bool parse_snapshot(const char *text, char **ret_id, char **ret_name,
                           GError **error)
{
    g_autoptr(BlockOptions) options = NULL;
    const char *unknown;

    *ret_id = *ret_name = NULL;
    if (!g_str_has_prefix(text, "snapshot.")) {
        return true;
    }
    options = block_options_from_string(text, error);
    if (!options ||
        !block_options_take_string(options, "snapshot.id", ret_id, error) ||
        !block_options_take_string(options, "snapshot.name", ret_name,
                                   error)) {
        return false;
    }
    unknown = block_options_first_key(options);
    if (unknown) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "-l has no '%s', only snapshot.id and snapshot.name",
                    unknown);
    }
    return !unknown;
}

/* The id of the one that is both; NULL: none. */
static const char *find_snapshot(BlockDriverState *bs, const char *id,
                                 const char *name)
{
    const GPtrArray *list = bdrv_snapshot_list(bs);

    for (guint i = 0; list && i < list->len; i++) {
        const BlockSnapshot *one = g_ptr_array_index(list, i);

        if ((!id || strcmp(one->id, id) == 0) &&
            (!name || strcmp(one->name, name) == 0)) {
            return one->id;
        }
    }
    return NULL;
}

/* @source shows the snapshot from now on. */
static bool load_snapshot(const SourceArgs *args, BlockBackend *source,
                          GError **error)
{
    BlockDriverState *bs = blk_bs(source);
    g_autofree char *id = NULL;
    g_autofree char *name = NULL;
    const char *found = args->snapshot;

    if (!parse_snapshot(args->snapshot, &id, &name, error)) {
        return false;
    }
    if (id || name) {
        found = find_snapshot(bs, id, name);
    }
    if (!found) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: there is no snapshot '%s'", args->names[0],
                    args->snapshot);
        return false;
    }
    return bdrv_snapshot_load_tmp(bs, found, error);
}

/* -- nodes above the images ---------------------------------------------- */

/* Options of ours only, so there is no policy about names in images. */
static BlockBackend *open_above(BlockOptions *options, const char *driver,
                                const char *user, GError **error)
{
    block_options_set_string(options, "driver", driver);
    return blk_open(/* filename= */ NULL, options, BDRV_O_RDONLY,
                    /* policy= */ NULL, user, error);
}

/*
 * All sources have the same -f: several formats in one go are for --image-
 * opts.
 */
static BlockBackend *open_one(const SourceArgs *args, unsigned index,
                              const char *user, GError **error)
{
    return common_args_open(args->common, args->names[index],
                            args->common->format, BDRV_O_RDONLY, user, error);
}

/* The node above keeps the images open. */
static BlockBackend *open_several(const SourceArgs *args, const char *user,
                                  GError **error)
{
    g_autoptr(GPtrArray) parts =
        g_ptr_array_new_with_free_func((GDestroyNotify)blk_free);
    g_autoptr(BlockOptions) options = block_options_new();

    if (args->snapshot) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "-l is for one source");
        return NULL;
    }
    for (unsigned i = 0; i < args->count; i++) {
        g_autofree char *key = g_strdup_printf("children.%u", i);
        BlockBackend *one = open_one(args, i, user, error);

        if (!one) {
            return NULL;
        }
        g_ptr_array_add(parts, one);
        block_options_set_string(options, key, blk_bs(one)->node_name);
    }
    return open_above(g_steal_pointer(&options), "concat", user, error);
}

/*
 * The caller gets one backend, whatever is below: it need not know of
 * snapshots, several files or bad sectors.
 */
BlockBackend *source_open(const SourceArgs *args, const char *user,
                          GError **error)
{
    g_autoptr(BlockBackend) blk =
        args->count == 1 ? open_one(args, 0, user, error)
                         : open_several(args, user, error);
    BlockOptions *options;

    if (!blk || (args->snapshot && !load_snapshot(args, blk, error))) {
        return NULL;
    }
    if (!args->salvage) {
        return g_steal_pointer(&blk);
    }
    options = block_options_new();
    block_options_set_string(options, "file", blk_bs(blk)->node_name);
    return open_above(options, "salvage", user, error);
}

/* The driver keeps only so many ranges; what is beyond is one number. */
void source_tell_lost(const SourceArgs *args, BlockBackend *source)
{
    BlockDriverState *bs = blk_bs(source);
    g_autoptr(JsonNode) info =
        args->salvage ? bs->drv->get_specific_info(bs) : NULL;
    JsonObject *object = info ? json_node_get_object(info) : NULL;
    JsonArray *lost =
        object ? json_object_get_array_member(object, "lost") : NULL;
    int64_t left =
        object ? json_object_get_int_member(object, "lost-bytes") : 0;

    for (guint i = 0; lost && i < json_array_get_length(lost); i++) {
        JsonObject *range = json_array_get_object_element(lost, i);
        int64_t bytes = json_object_get_int_member(range, "length");

        fprintf(stderr, "imgfuse: warning: %s: %" PRId64 " bytes at offset %"
                PRId64 " cannot be read and are zeros in the copy\n",
                args->names[0], bytes,
                json_object_get_int_member(range, "offset"));
        left -= bytes;
    }
    if (left > 0) {
        fprintf(stderr, "imgfuse: warning: %s: %" PRId64 " bytes more, "
                "elsewhere\n", args->names[0], left);
    }
}
