/* SPDX-License-Identifier: MIT */
/*
 * imgfuse compare: does a reader of two images see the same bytes?
 *
 * Exit codes: 0 the same, 1 different, 2 an image cannot be opened, 3 an image
 * does not say what is allocated, 4 an image cannot be read; wrong usage is 2.
 *
 * Locking: none; main thread.
 */
#include "fuse/cmd/common.h"

#include "block/image/compare.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

#define EXIT_DIFFERENT 1
#define EXIT_NOT_OPEN 2
#define EXIT_NO_STATUS 3
#define EXIT_UNREADABLE 4

typedef struct CompareArgs {
    CommonArgs common;
    const char *filenames[2];
    const char *second_format;
    bool is_strict;
} CompareArgs;

/* Between braces of JSON there is no place for it. */
static void show_progress(void *opaque, int64_t done, int64_t total)
{
    const CompareArgs *args = opaque;

    if (!args->common.json) {
        common_progress(&args->common, done, total);
    }
}

/* Ours, as qemu-img has no such output: tests/schema/compare.json. */
static int print_json(const ImageCompare *compare)
{
    static const char *const kinds[] = {
        [IMAGE_DIFFERS_CONTENT] = "content",
        [IMAGE_DIFFERS_STATUS] = "allocation",
        [IMAGE_DIFFERS_LENGTH] = "length",
    };
    bool is_same = compare->difference == IMAGE_SAME;
    g_autoptr(JsonBuilder) builder = json_builder_new();

    json_builder_begin_object(builder);
    json_builder_set_member_name(builder, "identical");
    json_builder_add_boolean_value(builder, is_same);
    if (!is_same) {
        json_builder_set_member_name(builder, "difference");
        json_builder_add_string_value(builder, kinds[compare->difference]);
    }
    if (!is_same && compare->difference != IMAGE_DIFFERS_LENGTH) {
        json_builder_set_member_name(builder, "offset");
        json_builder_add_int_value(builder, compare->offset);
    }
    json_builder_end_object(builder);
    image_command_print_json(json_builder_get_root(builder));
    return is_same ? CMD_EXIT_OK : EXIT_DIFFERENT;
}

/* Words and exit codes are qemu-img's: scripts look for them. */
static int print_result(const CompareArgs *args, const ImageCompare *compare)
{
    bool loud = !args->common.quiet;

    switch (compare->difference) {
    case IMAGE_DIFFERS_CONTENT:
        if (loud) {
            printf("Content mismatch at offset %" PRId64 "!\n",
                   compare->offset);
        }
        return EXIT_DIFFERENT;
    case IMAGE_DIFFERS_STATUS:
        if (loud) {
            printf("Strict mode: Offset %" PRId64 " block status mismatch!\n",
                   compare->offset);
        }
        return EXIT_DIFFERENT;
    case IMAGE_DIFFERS_LENGTH:
        if (loud) {
            printf("Strict mode: Image size mismatch!\n");
        }
        return EXIT_DIFFERENT;
    case IMAGE_SAME:
        break;
    }
    if (loud) {
        printf("Images are identical.\n");
    }
    return CMD_EXIT_OK;
}

/*
 * Images of different length can still show the same: zeros behind the shorter
 * one's end do not count, unless -s says that they do.
 */
static int compare_images(const CompareArgs *args, BlockBackend *first,
                          BlockBackend *second, GError **error)
{
    ImageCompare compare = {
        .images = { first, second },
        .names = { args->filenames[0], args->filenames[1] },
        .is_strict = args->is_strict,
        .progress = show_progress,
        .opaque = (void *)args,
    };
    bool ok;

    if (!args->common.quiet && !args->common.json && !args->is_strict &&
        blk_length(first) != blk_length(second)) {
        printf("Warning: Image size mismatch!\n");
    }
    ok = image_compare(&compare, error);
    if (!args->common.json) {
        common_progress_end(&args->common);
    }
    if (!ok) {
        return compare.failed_stage == IMAGE_COMPARE_STATUS ? EXIT_NO_STATUS
                                                            : EXIT_UNREADABLE;
    }
    return args->common.json ? print_json(&compare)
                             : print_result(args, &compare);
}

/*
 * Each of the two has a code of its own for what goes wrong: 1 means that both
 * could be read and differ.
 */
static int compare_body(void *opaque, GError **error)
{
    const CompareArgs *args = opaque;
    g_autoptr(BlockBackend) first =
        common_args_open(&args->common, args->filenames[0],
                         args->common.format, BDRV_O_RDONLY, "compare", error);
    g_autoptr(BlockBackend) second = NULL;

    if (!first) {
        return EXIT_NOT_OPEN;
    }
    second = common_args_open(&args->common, args->filenames[1],
                              args->second_format, BDRV_O_RDONLY, "compare",
                              error);
    return second ? compare_images(args, first, second, error)
                  : EXIT_NOT_OPEN;
}

/* -f is the first image's format, so the second one's is -F. */
static bool parse_letter(void *opaque, int option)
{
    CompareArgs *args = opaque;

    switch (option) {
    case 'F':
        args->second_format = optarg;
        return true;
    case 's':
        args->is_strict = true;
        return true;
    default:
        return common_args_take(&args->common, option);
    }
}

static bool parse_args(int argc, char **argv, CompareArgs *args)
{
    static const struct option long_options[] = {
        COMMON_LONG_OPTIONS,
        { NULL, 0, NULL, 0 },
    };
    if (!common_parse(argc, argv, COMMON_LETTERS "F:s", long_options,
                      parse_letter, args)) {
        return false;
    }
    if (argc - optind != 2) {
        return false;
    }
    args->filenames[0] = argv[optind];
    args->filenames[1] = argv[optind + 1];
    return true;
}

static int compare_run(int argc, char **argv)
{
    CompareArgs args = { .is_strict = false };
    int code;

    common_args_init(&args.common, &image_command_compare);
    if (parse_args(argc, argv, &args)) {
        code = image_command_with_loop(compare_body, &args);
    } else {
        code = common_usage(&image_command_compare);
    }
    common_args_clear(&args.common);
    return code;
}

const ImageCommand image_command_compare = {
    .name = "compare",
    .summary = "tell whether two images have the same content",
    .usage = "[-f FORMAT] [-F FORMAT] [-s] [--output=human|json] [-p] [-q] "
             "[-T CACHE] [-U] [--image-opts] IMAGE IMAGE",
    .prints_json = true,
    .options =
        "  -F FORMAT                  format of the second image (-f: the first)\n"
        "  -s                         strict: same length and allocation, too\n"
        "Exit status: 0 the same, 1 different, 2 one cannot be opened, 3 or 4 one\n"
        "cannot be read.\n",
    .run = compare_run,
};
