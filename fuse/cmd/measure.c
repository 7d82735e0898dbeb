/* SPDX-License-Identifier: MIT */
/*
 * imgfuse measure: how large will the file of a new image be?
 *
 * Locking: none; main thread.
 */
#include "fuse/cmd/source.h"

#include "block/image/measure.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

#define OPTION_SIZE COMMON_FIRST_FREE

typedef struct MeasureArgs {
    CommonArgs common;
    const char *filename; /* NULL: --size */
    const char *snapshot; /* -l */
    const char *target_format;
    int64_t length;
    bool list_options; /* -o help: no more than that */
    GPtrArray *option_strings; /* of every -o */
} MeasureArgs;

/*
 * No member "bitmaps" means that the format keeps none; 0 means that there are
 * none.
 */
static void print_json(const BlockMeasure *measure)
{
    g_autoptr(JsonBuilder) builder = json_builder_new();

    json_builder_begin_object(builder);
    json_builder_set_member_name(builder, "required");
    json_builder_add_int_value(builder, measure->required);
    json_builder_set_member_name(builder, "fully-allocated");
    json_builder_add_int_value(builder, measure->fully_allocated);
    if (measure->bitmaps >= 0) {
        json_builder_set_member_name(builder, "bitmaps");
        json_builder_add_int_value(builder, measure->bitmaps);
    }
    json_builder_end_object(builder);
    image_command_print_json(json_builder_get_root(builder));
}

/*
 * Nothing is made: the format reckons from the options and from what the
 * source has allocated.
 */
static int measure_body(void *opaque, GError **error)
{
    const MeasureArgs *args = opaque;
    g_autoptr(BlockOptions) options =
        common_join_options(args->option_strings, error);
    g_autoptr(BlockBackend) source = NULL;
    BlockMeasure measure;

    if (!options) {
        return CMD_EXIT_ERROR;
    }
    if (args->filename) {
        source = source_open(&(SourceArgs) {
                                 .common = &args->common,
                                 .names = (char *const *)&args->filename,
                                 .count = 1,
                                 .snapshot = args->snapshot,
                             },
                             "measure", error);
        if (!source) {
            return CMD_EXIT_ERROR;
        }
    }
    if (!image_measure(args->target_format, source, args->length, options,
                       &measure, error)) {
        return CMD_EXIT_ERROR;
    }
    if (args->common.json) {
        print_json(&measure);
    } else {
        printf("required size: %" PRId64 "\nfully allocated size: %" PRId64
               "\n", measure.required, measure.fully_allocated);
        if (measure.bitmaps >= 0) {
            printf("bitmaps size: %" PRId64 "\n", measure.bitmaps);
        }
    }
    return CMD_EXIT_OK;
}

/* -l and --size are the source's, -O and -o the target's, as in convert. */
static bool parse_letter(void *opaque, int option)
{
    MeasureArgs *args = opaque;

    switch (option) {
    case 'O':
        args->target_format = optarg;
        return true;
    case 'o':
        args->list_options |= common_wants_list(optarg);
        g_ptr_array_add(args->option_strings, optarg);
        return true;
    case 'l':
        args->snapshot = optarg;
        return true;
    case OPTION_SIZE:
        return common_parse_size(optarg, "--size", &args->length);
    default:
        return common_args_take(&args->common, option);
    }
}

/* With neither an image nor --size, -o size=... has to say how long it is. */
static bool parse_args(int argc, char **argv, MeasureArgs *args)
{
    static const struct option long_options[] = {
        COMMON_LONG_OPTIONS,
        { "target-format", required_argument, NULL, 'O' },
        { "options", required_argument, NULL, 'o' },
        { "size", required_argument, NULL, OPTION_SIZE },
        { NULL, 0, NULL, 0 },
    };
    if (!common_parse(argc, argv, COMMON_LETTERS "O:o:l:", long_options,
                      parse_letter, args)) {
        return false;
    }
    args->filename = argv[optind];
    if (args->filename && args->length >= 0) {
        fprintf(stderr, "imgfuse: --size is for measuring without an image\n");
        return false;
    }
    return optind >= argc - 1 && (args->filename || args->length >= 0 ||
                                  args->option_strings->len > 0);
}

static int measure_run(int argc, char **argv)
{
    g_autoptr(GPtrArray) strings = g_ptr_array_new();
    MeasureArgs args = { .target_format = "raw", .length = -1,
                         .option_strings = strings };
    int code;

    common_args_init(&args.common, &image_command_measure);
    if (!parse_args(argc, argv, &args)) {
        code = common_usage(&image_command_measure);
    } else if (args.list_options) {
        code = common_list_creation_options(args.target_format);
    } else {
        code = image_command_with_loop(measure_body, &args);
    }
    common_args_clear(&args.common);
    return code;
}

const ImageCommand image_command_measure = {
    .name = "measure",
    .summary = "tell how large the file of a new image will be",
    .usage = "[-O FORMAT] [-o OPTIONS] [--output=human|json] [-U] "
             "[-l SNAPSHOT] [--image-opts] {--size SIZE | [-f FORMAT] IMAGE}",
    .options =
        "  -O, --target-format=FORMAT format of the new image (default: raw)\n"
        "  -o, --options=OPTIONS      creation options; '-o help' lists them\n"
        "      --size=SIZE            an empty image of SIZE bytes\n"
        "  -l SNAPSHOT                what this snapshot of IMAGE shows\n",
    .prints_json = true,
    .run = measure_run,
};
