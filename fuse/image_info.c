/* SPDX-License-Identifier: MIT */
/*
 * what 'imgfuse info' and 'imgfuse map' say, as JSON text
 *
 * The commands print it and the mount shows it in files: one source, so that
 * both agree. Member names are those of qemu-img.
 *
 * Locking: none; control plane.
 */
#include "fuse/image_info.h"

#include "block/driver.h"
#include "block/image/snapshot.h"
#include "block/io/io.h"

#include <inttypes.h>
#include <string.h>

static void add_string(JsonObject *object, const char *name, const char *text)
{
    if (text) {
        json_object_set_string_member(object, name, text);
    }
}

/* Where a relative backing name leads, seen from the image's own name. */
static char *full_backing_name(const char *filename, const char *backing)
{
    g_autofree char *folder = NULL;

    if (g_path_is_absolute(backing) || !strchr(filename, '/') ||
        strchr(backing, ':')) {
        return g_strdup(backing);
    }
    folder = g_path_get_dirname(filename);
    return g_build_filename(folder, backing, NULL);
}

static void add_backing(JsonObject *object, BlockDriverState *bs,
                        const char *filename)
{
    g_autofree char *full = NULL;

    if (!bs->backing_name) {
        return;
    }
    full = full_backing_name(filename, bs->backing_name);
    add_string(object, "backing-filename-format", bs->backing_format);
    add_string(object, "full-backing-filename", full);
    add_string(object, "backing-filename", bs->backing_name);
}

/* The driver's own details, as {"type": ..., "data": {...}}. */
static void add_specific(JsonObject *object, BlockDriverState *bs)
{
    JsonNode *data = bs->drv->get_specific_info
                         ? bs->drv->get_specific_info(bs) : NULL;
    JsonObject *specific;

    if (!data) {
        return;
    }
    if (json_object_has_member(json_node_get_object(data), "type")) {
        json_object_set_member(object, "format-specific", data);
        return;
    }
    specific = json_object_new();
    json_object_set_string_member(specific, "type", bs->drv->format_name);
    json_object_set_member(specific, "data", data);
    json_object_set_object_member(object, "format-specific", specific);
}

JsonArray *image_info_snapshots(BlockDriverState *bs)
{
    const GPtrArray *list = bdrv_snapshot_list(bs);
    JsonArray *snapshots = json_array_new();

    for (guint i = 0; list && i < list->len; i++) {
        const BlockSnapshot *one = g_ptr_array_index(list, i);
        JsonObject *entry = json_object_new();

        if (one->icount >= 0) {
            json_object_set_int_member(entry, "icount", one->icount);
        }
        json_object_set_int_member(entry, "vm-clock-nsec",
                                   one->vm_clock_nsec % 1000000000);
        add_string(entry, "name", one->name);
        json_object_set_int_member(entry, "date-sec", one->date_sec);
        json_object_set_int_member(entry, "date-nsec", one->date_nsec);
        json_object_set_int_member(entry, "vm-clock-sec",
                                   one->vm_clock_nsec / 1000000000);
        add_string(entry, "id", one->id);
        json_object_set_int_member(entry, "vm-state-size",
                                   one->vm_state_bytes);
        json_array_add_object_element(snapshots, entry);
    }
    return snapshots;
}

/* Scripts know it so: an image without snapshots has no such member. */
static void add_snapshots(JsonObject *object, BlockDriverState *bs)
{
    JsonArray *snapshots = image_info_snapshots(bs);

    if (json_array_get_length(snapshots) > 0) {
        json_object_set_array_member(object, "snapshots", snapshots);
    } else {
        json_array_unref(snapshots);
    }
}

/* Facts that a format does not have are left out, as qemu-img does. */
JsonObject *image_info_of_node(BlockDriverState *bs, const char *filename)
{
    JsonObject *object = json_object_new();
    BlockDriverInfo info = { 0 };
    int64_t actual = bdrv_get_allocated_file_size(bs);

    add_snapshots(object, bs);
    json_object_set_int_member(object, "virtual-size", bdrv_node_length(bs));
    add_string(object, "filename", filename);
    add_string(object, "format", bs->drv->format_name);
    if (actual >= 0) {
        json_object_set_int_member(object, "actual-size", actual);
    }
    if (bs->drv->get_info && bs->drv->get_info(bs, &info) &&
        info.cluster_bytes > 0) {
        json_object_set_int_member(object, "cluster-size", info.cluster_bytes);
    }
    json_object_set_boolean_member(object, "dirty-flag", info.is_dirty);
    if (bs->encrypted) {
        json_object_set_boolean_member(object, "encrypted", TRUE);
    }
    add_backing(object, bs, filename);
    add_specific(object, bs);
    return object;
}

static const char *text_of(bool value)
{
    return value ? "true" : "false";
}

/*
 * Written by hand: a map of millions of extents as a tree of JSON would take
 * gigabytes.
 */
void image_info_append_extent(GString *text, const ImageMapExtent *extent,
                              bool is_first)
{
    g_string_append_printf(
        text,
        "%s{ \"start\": %" PRId64 ", \"length\": %" PRId64
        ", \"depth\": %d, \"present\": %s, \"zero\": %s, \"data\": %s",
        is_first ? "" : ",\n", extent->start, extent->length,
        extent->depth, text_of(extent->is_present),
        text_of(extent->reads_zeros), text_of(extent->is_data));
    if (extent->has_offset) {
        g_string_append_printf(text, ", \"offset\": %" PRId64,
                               extent->host_offset);
    }
    g_string_append(text, "}");
}

char *image_info_text(JsonNode *root)
{
    g_autoptr(JsonGenerator) generator = json_generator_new();
    g_autofree char *text = NULL;

    json_generator_set_pretty(generator, TRUE);
    json_generator_set_indent(generator, 4);
    json_generator_set_root(generator, root);
    text = json_generator_to_data(generator, /* length= */ NULL);
    json_node_unref(root);
    return g_strconcat(text, "\n", NULL);
}
