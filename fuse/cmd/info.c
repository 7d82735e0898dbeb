/* SPDX-License-Identifier: MIT */
/*
 * imgfuse info: what is known about an image, or about each layer of its chain
 *
 * Facts of a node become one JSON object; the human form is made from it. Both
 * have the member names of qemu-img.
 *
 * Locking: none; main thread.
 */
#include "fuse/cmd/cmd.h"

#include "block/driver.h"
#include "block/graph/reference_policy.h"
#include "block/image/snapshot.h"
#include "block/io/io.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef struct InfoArgs {
    const char *filename;
    const char *format;
    bool image_opts;
    bool force_share;
    bool json;
    bool chain;
    GPtrArray *allowed; /* paths */
} InfoArgs;

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

static void add_snapshots(JsonObject *object, BlockDriverState *bs)
{
    const GPtrArray *list = bdrv_snapshot_list(bs);
    JsonArray *snapshots;

    if (!list || list->len == 0) {
        return;
    }
    snapshots = json_array_new();
    for (guint i = 0; i < list->len; i++) {
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
    json_object_set_array_member(object, "snapshots", snapshots);
}

static JsonObject *node_info(BlockDriverState *bs, const char *filename)
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

/* -- the human form ------------------------------------------------------ */

static char *human_size(int64_t bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB",
                                         "PiB", "EiB" };
    double value = bytes;
    unsigned unit = 0;

    while (value >= 1000 && unit + 1 < G_N_ELEMENTS(units)) {
        value /= 1024;
        unit++;
    }
    return g_strdup_printf("%0.3g %s", value, units[unit]);
}

static void print_member(JsonObject *object, const char *member,
                         const char *label)
{
    if (json_object_has_member(object, member)) {
        printf("%s: %s\n", label,
               json_object_get_string_member(object, member));
    }
}

static void print_specific(JsonObject *object, const char *name,
                           JsonNode *value, gpointer opaque)
{
    g_autofree char *label = g_strdelimit(g_strdup(name), "-", ' ');

    if (JSON_NODE_HOLDS_VALUE(value)) {
        GType type = json_node_get_value_type(value);

        if (type == G_TYPE_BOOLEAN) {
            printf("    %s: %s\n", label,
                   json_node_get_boolean(value) ? "true" : "false");
        } else if (type == G_TYPE_INT64) {
            printf("    %s: %" PRId64 "\n", label, json_node_get_int(value));
        } else {
            printf("    %s: %s\n", label, json_node_get_string(value));
        }
    }
}

static void print_human(JsonObject *object, const GPtrArray *snapshots)
{
    int64_t length = json_object_get_int_member(object, "virtual-size");
    g_autofree char *virtual_size = human_size(length);
    JsonObject *specific;

    print_member(object, "filename", "image");
    print_member(object, "format", "file format");
    printf("virtual size: %s (%" PRId64 " bytes)\n", virtual_size, length);
    if (json_object_has_member(object, "actual-size")) {
        g_autofree char *actual =
            human_size(json_object_get_int_member(object, "actual-size"));

        printf("disk size: %s\n", actual);
    }
    if (json_object_has_member(object, "cluster-size")) {
        printf("cluster_size: %" PRId64 "\n",
               json_object_get_int_member(object, "cluster-size"));
    }
    if (json_object_get_boolean_member(object, "dirty-flag")) {
        printf("cleanly shut down: no\n");
    }
    print_member(object, "backing-filename", "backing file");
    print_member(object, "backing-filename-format", "backing file format");
    image_command_print_snapshots(snapshots);
    if (json_object_has_member(object, "format-specific")) {
        printf("Format specific information:\n");
        specific = json_object_get_object_member(object, "format-specific");
        json_object_foreach_member(
            json_object_get_object_member(specific, "data"), print_specific,
            /* data= */ NULL);
    }
}

/* -- the command --------------------------------------------------------- */

static ReferencePolicy *make_policy(const InfoArgs *args, GError **error)
{
    g_autoptr(ReferencePolicy) policy = reference_policy_new();

    for (guint i = 0; i < args->allowed->len; i++) {
        if (!reference_policy_allow_path(policy,
                                         g_ptr_array_index(args->allowed, i),
                                         error)) {
            return NULL;
        }
    }
    return g_steal_pointer(&policy);
}

static void print_infos(const InfoArgs *args, BlockDriverState *bs)
{
    JsonArray *layers = json_array_new();
    g_autoptr(GPtrArray) lists = g_ptr_array_new(); /* of each layer */
    const char *filename = args->filename;

    while (bs) {
        BlockDriverState *format = bdrv_skip_filters(bs);
        BdrvChild *below = bdrv_cow_child(format);

        json_array_add_object_element(layers, node_info(format, filename));
        g_ptr_array_add(lists, (void *)bdrv_snapshot_list(format));
        bs = args->chain && below ? below->bs : NULL;
        filename = bs ? bdrv_name(bdrv_skip_filters(bs)) : NULL;
    }
    if (args->json && args->chain) {
        JsonNode *root = json_node_new(JSON_NODE_ARRAY);

        json_node_set_array(root, layers);
        image_command_print_json(root);
    } else if (args->json) {
        image_command_print_json(json_array_dup_element(layers, 0));
    } else {
        for (guint i = 0; i < json_array_get_length(layers); i++) {
            printf("%s", i ? "\n" : "");
            print_human(json_array_get_object_element(layers, i),
                        g_ptr_array_index(lists, i));
        }
    }
    json_array_unref(layers);
}

static int info_body(void *opaque, GError **error)
{
    const InfoArgs *args = opaque;
    g_autoptr(ReferencePolicy) policy = make_policy(args, error);
    g_autoptr(BlockBackend) blk = NULL;
    BdrvOpenFlags flags = BDRV_O_NO_IO;

    if (!policy) {
        return CMD_EXIT_ERROR;
    }
    flags |= args->chain ? 0 : BDRV_O_NO_BACKING;
    flags |= args->force_share ? BDRV_O_FORCE_SHARE : 0;
    blk = image_command_open(args->filename, args->format, args->image_opts,
                             flags, policy, "info", error);
    if (!blk) {
        return CMD_EXIT_ERROR;
    }
    print_infos(args, blk_bs(blk));
    return CMD_EXIT_OK;
}

static bool parse_args(int argc, char **argv, InfoArgs *args)
{
    static const struct option long_options[] = {
        { "format", required_argument, NULL, 'f' },
        { "output", required_argument, NULL, 'O' },
        { "backing-chain", no_argument, NULL, 'c' },
        { "force-share", no_argument, NULL, 'U' },
        { "image-opts", no_argument, NULL, 'I' },
        { "allow-path", required_argument, NULL, 'a' },
        { NULL, 0, NULL, 0 },
    };
    int option;

    optind = 1;
    while ((option = getopt_long(argc, argv, "f:U", long_options, NULL)) >=
           0) {
        switch (option) {
        case 'f':
            args->format = optarg;
            break;
        case 'O':
            if (!image_command_parse_output(optarg, &args->json)) {
                return false;
            }
            break;
        case 'c':
            args->chain = true;
            break;
        case 'U':
            args->force_share = true;
            break;
        case 'I':
            args->image_opts = true;
            break;
        case 'a':
            g_ptr_array_add(args->allowed, optarg);
            break;
        default:
            return false;
        }
    }
    args->filename = argv[optind];
    return optind == argc - 1;
}

static int info_run(int argc, char **argv)
{
    g_autoptr(GPtrArray) allowed = g_ptr_array_new();
    InfoArgs args = { .allowed = allowed };

    if (!parse_args(argc, argv, &args)) {
        fprintf(stderr, "usage: imgfuse info [-f FORMAT] [--backing-chain] "
                "[--output=human|json] [--allow-path=DIR] [-U] "
                "[--image-opts] IMAGE\n");
        return CMD_EXIT_USAGE;
    }
    return image_command_with_loop(info_body, &args);
}

const ImageCommand image_command_info = {
    .name = "info",
    .summary = "show what is known about an image",
    .run = info_run,
};
