/* SPDX-License-Identifier: MIT */
/*
 * imgfuse info: what is known about an image, or about each layer of its chain
 *
 * Facts of a node are one JSON object (image_info.c); the human form is made
 * from it.
 *
 * Locking: none; main thread.
 */
#include "fuse/cmd/common.h"
#include "fuse/image_info.h"

#include "block/driver.h"
#include "block/graph/device.h"
#include "block/image/snapshot.h"
#include "block/io/io.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { OPTION_BACKING_CHAIN = COMMON_FIRST_FREE };

typedef struct InfoArgs {
    CommonArgs common;
    const char *filename;
    bool chain;
} InfoArgs;

/* -- the human form ------------------------------------------------------ */

/* Absent members are absent lines: there is no "unknown". */
static void print_member(JsonObject *object, const char *member,
                         const char *label)
{
    if (json_object_has_member(object, member)) {
        printf("%s: %s\n", label,
               json_object_get_string_member(object, member));
    }
}

/* Formats have strings, numbers and booleans in their facts, nothing else. */
static void print_scalar(JsonNode *value)
{
    GType type = json_node_get_value_type(value);

    if (type == G_TYPE_BOOLEAN) {
        printf(" %s\n", json_node_get_boolean(value) ? "true" : "false");
    } else if (type == G_TYPE_INT64) {
        printf(" %" PRId64 "\n", json_node_get_int(value));
    } else {
        printf(" %s\n", json_node_get_string(value));
    }
}

/* The value behind a label: on its line, or indented on the next ones. */
static void print_value(JsonNode *value, int indent)
{
    if (JSON_NODE_HOLDS_VALUE(value)) {
        print_scalar(value);
        return;
    }
    printf("\n");
    if (JSON_NODE_HOLDS_OBJECT(value)) {
        JsonObject *object = json_node_get_object(value);
        g_autoptr(GList) names = json_object_get_members(object);

        for (GList *at = names; at; at = at->next) {
            const char *name = at->data;
            g_autofree char *label =
                g_strdelimit(g_strdup(name), "-", ' ');

            printf("%*s%s:", indent, "", label);
            print_value(json_object_get_member(object, name), indent + 4);
        }
    } else if (JSON_NODE_HOLDS_ARRAY(value)) {
        JsonArray *array = json_node_get_array(value);

        for (guint i = 0; i < json_array_get_length(array); i++) {
            printf("%*s[%u]:", indent, "", i);
            print_value(json_array_get_element(array, i), indent + 4);
        }
    }
}

/*
 * In the order, and with the labels, in which qemu-img has it: people have
 * scripts that look for them, whatever JSON is there for.
 */
static void print_human(JsonObject *object, const GPtrArray *snapshots)
{
    int64_t length = json_object_get_int_member(object, "virtual-size");
    g_autofree char *virtual_size = common_human_size(length);
    JsonObject *specific;

    print_member(object, "filename", "image");
    print_member(object, "format", "file format");
    printf("virtual size: %s (%" PRId64 " bytes)\n", virtual_size, length);
    if (json_object_has_member(object, "actual-size")) {
        g_autofree char *actual =
            common_human_size(json_object_get_int_member(object, "actual-size"));

        printf("disk size: %s\n", actual);
    }
    if (json_object_has_member(object, "encrypted")) {
        printf("encrypted: yes\n");
    }
    if (json_object_has_member(object, "cluster-size")) {
        printf("cluster_size: %" PRId64 "\n",
               json_object_get_int_member(object, "cluster-size"));
    }
    if (json_object_has_member(object, "logical-block-size")) {
        printf("logical block size: %" PRId64 "\n"
               "physical block size: %" PRId64 "\n",
               json_object_get_int_member(object, "logical-block-size"),
               json_object_get_int_member(object, "physical-block-size"));
    }
    if (json_object_has_member(object, "medium-inserted")) {
        printf("medium: not inserted\n");
    }
    if (json_object_get_boolean_member(object, "dirty-flag")) {
        printf("cleanly shut down: no\n");
    }
    print_member(object, "backing-filename", "backing file");
    print_member(object, "backing-filename-format", "backing file format");
    image_command_print_snapshots(snapshots);
    if (json_object_has_member(object, "format-specific")) {
        printf("Format specific information:");
        specific = json_object_get_object_member(object, "format-specific");
        print_value(json_object_get_member(specific, "data"), 4);
    }
}

/* -- the command --------------------------------------------------------- */

/* As the user gave it; for options the name of the file that they mean. */
static char *top_name(const InfoArgs *args, BlockDriverState *bs)
{
    const BlockDriverState *format = bdrv_skip_filters(bs);
    bool is_plain = !args->common.image_opts &&
                    !g_str_has_prefix(args->filename, "json:");

    return g_strdup(is_plain                 ? args->filename
                    : format->exact_filename ? format->exact_filename
                                             : format->filename);
}

/* The backing file @bs of a layer as that layer leads to it. */
static char *name_below(JsonObject *layer, BlockDriverState *bs)
{
    static const char member[] = "full-backing-filename";

    return g_strdup(json_object_has_member(layer, member)
                        ? json_object_get_string_member(layer, member)
                        : bdrv_name(bdrv_skip_filters(bs)));
}

/* What the device below tells of itself; nothing of a regular file. */
static void add_device_facts(JsonObject *layer, BlockDriverState *bs)
{
    BlockSizes sizes;

    if (bdrv_probe_blocksizes(bs, &sizes) == 0) {
        json_object_set_int_member(layer, "logical-block-size",
                                   sizes.logical);
        json_object_set_int_member(layer, "physical-block-size",
                                   sizes.physical);
    }
    if (!bdrv_is_inserted(bs)) {
        json_object_set_boolean_member(layer, "medium-inserted", FALSE);
    }
}

/*
 * Without --backing-chain the output is one object, with it an array, also of
 * one layer: the form must not depend on the image.
 */
static void print_infos(const InfoArgs *args, BlockDriverState *bs)
{
    JsonArray *layers = json_array_new();
    g_autoptr(GPtrArray) lists = g_ptr_array_new(); /* of each layer */
    g_autofree char *filename = top_name(args, bs);

    while (bs) {
        BlockDriverState *format = bdrv_skip_filters(bs);
        BdrvChild *below = bdrv_cow_child(format);

        JsonObject *layer = image_info_of_node(format, filename);

        add_device_facts(layer, format);
        json_array_add_object_element(layers, layer);
        g_ptr_array_add(lists, (void *)bdrv_snapshot_list(format));
        bs = args->chain && below ? below->bs : NULL;
        g_free(filename);
        filename = bs ? name_below(layer, bs) : NULL;
    }
    if (args->common.json && args->chain) {
        JsonNode *root = json_node_new(JSON_NODE_ARRAY);

        json_node_set_array(root, layers);
        image_command_print_json(root);
    } else if (args->common.json) {
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

/*
 * BDRV_O_NO_IO: an encrypted image tells its facts without a key. Without
 * --backing-chain nothing but the image's own file is opened, so that a
 * missing backing file can be found out about.
 */
static int info_body(void *opaque, GError **error)
{
    const InfoArgs *args = opaque;
    BdrvOpenFlags flags = BDRV_O_NO_IO |
                          (args->chain ? 0 : BDRV_O_NO_BACKING);
    g_autoptr(BlockBackend) blk =
        common_args_open(&args->common, args->filename, args->common.format,
                         flags, "info", error);

    if (!blk) {
        return CMD_EXIT_ERROR;
    }
    print_infos(args, blk_bs(blk));
    return CMD_EXIT_OK;
}

static bool parse_args(int argc, char **argv, InfoArgs *args)
{
    static const struct option long_options[] = {
        COMMON_LONG_OPTIONS,
        { "backing-chain", no_argument, NULL, OPTION_BACKING_CHAIN },
        { NULL, 0, NULL, 0 },
    };
    int option;

    optind = 1;
    while ((option = getopt_long(argc, argv, COMMON_LETTERS, long_options,
                                 NULL)) >= 0) {
        if (option == OPTION_BACKING_CHAIN) {
            args->chain = true;
        } else if (!common_args_take(&args->common, option)) {
            return false;
        }
    }
    args->filename = argv[optind];
    return optind == argc - 1;
}

static int info_run(int argc, char **argv)
{
    InfoArgs args = { .filename = NULL };
    int code;

    common_args_init(&args.common, &image_command_info);
    if (parse_args(argc, argv, &args)) {
        code = image_command_with_loop(info_body, &args);
    } else {
        code = common_usage(&image_command_info);
    }
    common_args_clear(&args.common);
    return code;
}

const ImageCommand image_command_info = {
    .name = "info",
    .summary = "show what is known about an image",
    .usage = "[-f FORMAT] [--backing-chain] [--output=human|json] "
             "[--allow-path=DIR] [-U] [--image-opts] IMAGE",
    .options =
        "      --backing-chain        each layer of the chain of backing files\n",
    .prints_json = true,
    .run = info_run,
};
