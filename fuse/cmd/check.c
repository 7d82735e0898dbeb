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
#include "fuse/cmd/common.h"

#include "block/image/check.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define EXIT_CORRUPTIONS 2
#define EXIT_LEAKS 3
#define EXIT_NOT_CHECKABLE 63

typedef struct CheckArgs {
    CommonArgs common;
    const char *filename;
    BlockCheckFix fix;
} CheckArgs;

/*
 * On standard error, as qemu-img has it: the counts on standard output are
 * what scripts read.
 */
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

/*
 * The name is the one on the command line, not the one that was opened:
 * whoever checks many images finds the answer by it.
 */
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

/* Repairs come first: what stands below them is what is left. */
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

/*
 * Damage outweighs what could not be looked at, and that outweighs leaks: a
 * script that knows one code acts on the worst.
 */
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

/*
 * Backing files are not this image's structures: a check must work without
 * them. BDRV_O_CHECK opens what is too damaged for anything else.
 */
static int check_body(void *opaque, GError **error)
{
    const CheckArgs *args = opaque;
    BlockCheckResult result = { .report = args->common.quiet ||
                                              args->common.json
                                          ? NULL : print_line };
    BdrvOpenFlags flags = BDRV_O_CHECK | BDRV_O_NO_BACKING;
    g_autoptr(BlockBackend) blk = NULL;
    BlockDriverState *bs;

    flags |= args->fix ? BDRV_O_RDWR | BDRV_O_RESIZE : BDRV_O_RDONLY;
    blk = common_args_open(&args->common, args->filename, args->common.format,
                           flags, "check", error);
    if (!blk) {
        return CMD_EXIT_ERROR;
    }
    bs = bdrv_skip_filters(blk_bs(blk));
    if (!bdrv_check(bs, args->fix, &result, error)) {
        return g_error_matches(*error, IMGFUSE_ERROR,
                               IMGFUSE_ERROR_UNSUPPORTED)
                   ? EXIT_NOT_CHECKABLE : CMD_EXIT_ERROR;
    }
    if (args->common.json) {
        print_json(args, bs->drv->format_name, &result);
    } else if (!args->common.quiet) {
        print_human(&result);
    }
    return verdict(&result);
}

/* "all" includes leaks: after errors are mended there usually are some. */
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

/*
 * -r wants its word, --repair may go without: both are what scripts of qemu-
 * img and of fsck have.
 */
static bool parse_args(int argc, char **argv, CheckArgs *args)
{
    static const struct option long_options[] = {
        COMMON_LONG_OPTIONS,
        { "repair", optional_argument, NULL, 'r' },
        { NULL, 0, NULL, 0 },
    };
    int option;

    optind = 1;
    while ((option = getopt_long(argc, argv, COMMON_LETTERS "r:",
                                 long_options, NULL)) >= 0) {
        bool ok = option == 'r'
                      ? parse_fix(optarg ? optarg : "all", &args->fix)
                      : common_args_take(&args->common, option);

        if (!ok) {
            return false;
        }
    }
    args->filename = argv[optind];
    return optind == argc - 1;
}

static int check_run(int argc, char **argv)
{
    CheckArgs args = { .filename = NULL };
    int code;

    common_args_init(&args.common, &image_command_check);
    if (parse_args(argc, argv, &args)) {
        code = image_command_with_loop(check_body, &args);
    } else {
        code = common_usage(&image_command_check);
    }
    common_args_clear(&args.common);
    return code;
}

const ImageCommand image_command_check = {
    .name = "check",
    .summary = "look for damage in an image's structures, and repair it",
    .usage = "[-f FORMAT] [-r leaks|all] [--output=human|json] [-q] [-U] "
             "[--image-opts] IMAGE",
    .options =
        "  -r leaks|all, --repair[=leaks|all]\n"
        "                             mend leaked clusters, or all that can be\n"
        "Exit status: 0 sound, 1 the check failed, 2 damaged, 3 leaked clusters\n"
        "only, 63 the format has nothing to check.\n",
    .prints_json = true,
    .run = check_run,
};
