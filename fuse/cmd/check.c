/* SPDX-License-Identifier: MIT */
/*
 * imgfuse check: are the structures of an image sound? Repairs them if asked
 *
 * Without --repair the image is opened read-only and nothing is written.
 * Exit codes: 0 sound (or all repaired), 1 the check failed, 2 corruptions are
 * left, 3 only leaks are left, 63 the format has nothing to check.
 *
 * Locking: none; main thread.
 */
#include "fuse/cmd/cmd.h"

#include "block/image/check.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define EXIT_CORRUPTIONS 2
#define EXIT_LEAKS 3
#define EXIT_NOT_CHECKABLE 63

typedef struct CheckArgs {
    const char *filename;
    const char *format;
    bool image_opts;
    bool force_share;
    bool quiet;
    bool json;
    BlockCheckFix fix;
} CheckArgs;

static void print_line(const char *line, void *opaque)
{
    fprintf(stderr, "%s\n", line);
}

/* Counts of 0 are left out, as scripts know it. */
static void add_count(JsonBuilder *builder, const char *name, int64_t count)
{
    if (count) {
        json_builder_set_member_name(builder, name);
        json_builder_add_int_value(builder, count);
    }
}

static void print_json(const CheckArgs *args, const char *format,
                       const BlockCheckResult *result)
{
    g_autoptr(JsonBuilder) builder = json_builder_new();

    json_builder_begin_object(builder);
    add_count(builder, "image-end-offset", result->image_end_offset);
    add_count(builder, "total-clusters", result->total_clusters);
    json_builder_set_member_name(builder, "check-errors");
    json_builder_add_int_value(builder, result->check_errors);
    json_builder_set_member_name(builder, "filename");
    json_builder_add_string_value(builder, args->filename);
    json_builder_set_member_name(builder, "format");
    json_builder_add_string_value(builder, format);
    add_count(builder, "corruptions", result->corruptions);
    add_count(builder, "leaks", result->leaks);
    add_count(builder, "corruptions-fixed", result->corruptions_fixed);
    add_count(builder, "leaks-fixed", result->leaks_fixed);
    add_count(builder, "allocated-clusters", result->allocated_clusters);
    add_count(builder, "fragmented-clusters", result->fragmented_clusters);
    add_count(builder, "compressed-clusters", result->compressed_clusters);
    json_builder_end_object(builder);
    image_command_print_json(json_builder_get_root(builder));
}

static void print_human(const BlockCheckResult *result)
{
    if (result->corruptions_fixed || result->leaks_fixed) {
        printf("Repaired: %" PRId64 " leaked clusters, %" PRId64
               " corruptions.\n", result->leaks_fixed,
               result->corruptions_fixed);
    }
    if (!result->corruptions && !result->leaks && !result->check_errors) {
        printf("No errors were found on the image.\n");
    }
    if (result->corruptions) {
        printf("\n%" PRId64 " errors were found on the image.\n"
               "Reading may return wrong data, writing may do more damage.\n",
               result->corruptions);
    }
    if (result->leaks) {
        printf("\n%" PRId64 " leaked clusters were found on the image.\n"
               "They waste space, no data is in danger.\n", result->leaks);
    }
    if (result->check_errors) {
        printf("\n%" PRId64 " places could not be checked.\n",
               result->check_errors);
    }
    if (result->allocated_clusters && result->total_clusters) {
        printf("%" PRId64 "/%" PRId64 " = %0.2f%% allocated, "
               "%0.2f%% fragmented, %0.2f%% compressed clusters\n",
               result->allocated_clusters, result->total_clusters,
               result->allocated_clusters * 100.0 / result->total_clusters,
               result->fragmented_clusters * 100.0 /
                   result->allocated_clusters,
               result->compressed_clusters * 100.0 /
                   result->allocated_clusters);
    }
    if (result->image_end_offset) {
        printf("Image end offset: %" PRId64 "\n", result->image_end_offset);
    }
}

static int verdict(const BlockCheckResult *result)
{
    if (result->corruptions) {
        return EXIT_CORRUPTIONS;
    }
    if (result->check_errors) {
        return CMD_EXIT_ERROR;
    }
    return result->leaks ? EXIT_LEAKS : CMD_EXIT_OK;
}

static int check_body(void *opaque, GError **error)
{
    const CheckArgs *args = opaque;
    BlockCheckResult result = { .report = args->quiet || args->json
                                              ? NULL : print_line };
    BdrvOpenFlags flags = BDRV_O_CHECK | BDRV_O_NO_BACKING;
    g_autoptr(BlockBackend) blk = NULL;
    BlockDriverState *bs;

    flags |= args->fix ? BDRV_O_RDWR | BDRV_O_RESIZE : BDRV_O_RDONLY;
    flags |= args->force_share ? BDRV_O_FORCE_SHARE : 0;
    blk = image_command_open(args->filename, args->format, args->image_opts,
                             flags, /* policy= */ NULL, "check", error);
    if (!blk) {
        return CMD_EXIT_ERROR;
    }
    bs = bdrv_skip_filters(blk_bs(blk));
    if (!bdrv_check(bs, args->fix, &result, error)) {
        return g_error_matches(*error, IMGFUSE_ERROR,
                               IMGFUSE_ERROR_UNSUPPORTED)
                   ? EXIT_NOT_CHECKABLE : CMD_EXIT_ERROR;
    }
    if (args->json) {
        print_json(args, bs->drv->format_name, &result);
    } else if (!args->quiet) {
        print_human(&result);
    }
    return verdict(&result);
}

static bool parse_fix(const char *text, BlockCheckFix *ret_fix)
{
    if (strcmp(text, "leaks") == 0) {
        *ret_fix = BLOCK_CHECK_FIX_LEAKS;
    } else if (strcmp(text, "all") == 0) {
        *ret_fix = BLOCK_CHECK_FIX_LEAKS | BLOCK_CHECK_FIX_ERRORS;
    } else {
        fprintf(stderr, "imgfuse: --repair is leaks or all, not '%s'\n", text);
        return false;
    }
    return true;
}

static bool parse_args(int argc, char **argv, CheckArgs *args)
{
    static const struct option long_options[] = {
        { "format", required_argument, NULL, 'f' },
        { "repair", optional_argument, NULL, 'r' },
        { "output", required_argument, NULL, 'O' },
        { "quiet", no_argument, NULL, 'q' },
        { "force-share", no_argument, NULL, 'U' },
        { "image-opts", no_argument, NULL, 'I' },
        { NULL, 0, NULL, 0 },
    };
    int option;

    optind = 1;
    while ((option = getopt_long(argc, argv, "f:r:qUT:", long_options,
                                 NULL)) >= 0) {
        switch (option) {
        case 'f':
            args->format = optarg;
            break;
        case 'r':
            if (!parse_fix(optarg ? optarg : "all", &args->fix)) {
                return false;
            }
            break;
        case 'O':
            if (!image_command_parse_output(optarg, &args->json)) {
                return false;
            }
            break;
        case 'q':
            args->quiet = true;
            break;
        case 'U':
            args->force_share = true;
            break;
        case 'I':
            args->image_opts = true;
            break;
        case 'T': /* a cache mode: a check reads everything once anyway */
            break;
        default:
            return false;
        }
    }
    args->filename = argv[optind];
    return optind == argc - 1;
}

static int check_run(int argc, char **argv)
{
    CheckArgs args = { NULL };

    if (!parse_args(argc, argv, &args)) {
        fprintf(stderr, "usage: imgfuse check [-f FORMAT] [-r leaks|all] "
                "[--output=human|json] [-q] [-U] [--image-opts] IMAGE\n");
        return CMD_EXIT_USAGE;
    }
    return image_command_with_loop(check_body, &args);
}

const ImageCommand image_command_check = {
    .name = "check",
    .summary = "look for damage in an image's structures, and repair it",
    .run = check_run,
};
