/* SPDX-License-Identifier: MIT */
/*
 * imgfuse convert: all that an image shows, in a new image of another format
 *
 * The new image appears under its name when it is complete, and not before
 * (block/image/create.h): a failure, or an interrupt, leaves what was there.
 * Only with -n, and for devices, is a target written in place.
 *
 * Locking: none; main thread.
 */
#include "fuse/cmd/source.h"

#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/graph/filename.h"
#include "block/graph/node.h"
#include "block/graph/reference_policy.h"
#include "block/image/convert.h"
#include "block/image/create.h"
#include "block/image/stored_bitmap.h"
#include "block/image/workers.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

enum {
    OPTION_TARGET_IS_ZERO = COMMON_FIRST_FREE,
    OPTION_TARGET_IMAGE_OPTS,
    OPTION_SALVAGE,
    OPTION_BITMAPS,
    OPTION_SKIP_BROKEN,
};

typedef struct ConvertArgs {
    CommonArgs common;
    SourceArgs sources;
    const char *target_name;
    const char *target_format;
    GPtrArray *option_strings; /* of every -o */
    char *backing_name;
    char *data_file;
    char *backing_format;
    const char *key_option; /* the one of -o that opens the target */
    char *key_secret;       /* its value; NULL: none */
    BdrvOpenFlags target_flags;
    int64_t sparse_bytes;
    unsigned coroutines;
    bool compress;
    bool copy_range;
    bool no_create;
    bool target_is_zero;
    bool target_image_opts; /* the target's name is an option string */
    int64_t bytes_per_second; /* 0: as fast as it goes */
    bool list_options; /* -o help: no more than that */
    bool bitmaps;
    bool skip_broken_bitmaps;
    /* -- while it works -------------------------------------------------- */
    BlockBackend *source;
    GError *copy_error; /* names its image itself; owned */
} ConvertArgs;

/*
 * What is told is what has been handed out to workers, a little ahead of what
 * is written.
 */
static void show_progress(void *opaque, int64_t done, int64_t total)
{
    const ConvertArgs *args = opaque;

    common_progress(&args->common, done, total);
}

/* -- the target ---------------------------------------------------------- */

/*
 * Sharing extents is worth more than looking for zeros in them. File systems
 * that cannot share copy no faster than we do.
 */
static bool can_share_extents(const char *source, const char *target)
{
    static const unsigned long sharing[] = {
        0x9123683e /* btrfs */, 0x58465342 /* XFS */, 0xca451a4e /* bcachefs */,
    };
    struct statfs fs;
    struct stat first;
    struct stat second;

    if (stat(source, &first) < 0 || stat(target, &second) < 0 ||
        first.st_dev != second.st_dev || statfs(target, &fs) < 0) {
        return false;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(sharing); i++) {
        if ((unsigned long)fs.f_type == sharing[i]) {
            return true;
        }
    }
    return false;
}

static const char *const key_options[] = { "key-secret",
                                           "encrypt.key-secret" };

/* An encrypted target is opened with the secret it is made with. */
static void remember_key(ConvertArgs *args, const BlockOptions *options)
{
    for (size_t i = 0; i < G_N_ELEMENTS(key_options); i++) {
        if (block_options_has(options, key_options[i])) {
            args->key_option = key_options[i];
            args->key_secret =
                g_strdup(block_options_peek(options, key_options[i]));
        }
    }
}

/*
 * Under a rate limit the format is a node further down, and so are its
 * options.
 */
static void add_key_options(const ConvertArgs *args, const char *prefix,
                            BlockOptions *options)
{
    if (args->key_secret) {
        g_autofree char *name = g_strconcat(prefix, args->key_option, NULL);

        block_options_set_string(options, name, args->key_secret);
    }
}

/* As the user says, with a rate below "file". */
static BlockOptions *given_target_options(const ConvertArgs *args,
                                          const char *text, GError **error)
{
    g_autoptr(BlockOptions) own = block_options_from_string(text, error);
    g_autofree char *json = own ? block_options_to_json(own) : NULL;
    g_autofree char *below = json ? g_strdup_printf("{\"file\":%s}", json)
                                  : NULL;

    return own && args->bytes_per_second
               ? block_options_from_json(below, error)
               : g_steal_pointer(&own);
}

/*
 * How the target is opened; NULL with @error. With a rate there is a node in
 * between that lets no more through.
 */
static BlockOptions *target_options(const ConvertArgs *args, const char *path,
                                    GError **error)
{
    const char *prefix = args->bytes_per_second ? "file." : "";
    g_autofree char *driver = g_strdup_printf("%sdriver", prefix);
    g_autofree char *file = g_strdup_printf("%sfile.", prefix);
    g_autoptr(BlockOptions) options = block_options_new();

    if (args->target_image_opts) {
        return given_target_options(args, path, error);
    }
    block_options_set_string(options, driver, args->target_format);
    if (!filename_to_options(path, file, options, error)) {
        return NULL;
    }
    add_key_options(args, prefix, options);
    return g_steal_pointer(&options);
}

/* The target opened for writing, its backing file wherever that lies. */
static BlockBackend *open_target(const ConvertArgs *args, const char *path,
                                 bool is_new, GError **error)
{
    g_autoptr(ReferencePolicy) policy =
        common_args_policy(&args->common, error);
    g_autofree char *folder = NULL;
    BlockOptions *options;

    if (!policy) {
        return NULL;
    }
    if (args->backing_name) {
        folder = g_path_get_dirname(args->backing_name);
        /* Where the name is relative to the target it needs no leave. */
        (void) reference_policy_allow_path(policy, folder, /* error= */ NULL);
    }
    if (args->data_file) {
        g_autofree char *data_folder = g_path_get_dirname(args->data_file);

        (void) reference_policy_allow_path(policy, data_folder,
                                           /* error= */ NULL);
    }
    options = target_options(args, path, error);
    if (!options) {
        return NULL;
    }
    if (args->bytes_per_second) {
        block_options_set_string(options, "driver", "throttle");
        block_options_set_int(options, "bps-write", args->bytes_per_second);
    }
    return blk_open(/* filename= */ NULL, options,
                    BDRV_O_RDWR | args->target_flags, policy, "convert",
                    error);
}

/*
 * Behind the end of a shorter backing file the target shows zeros of its own,
 * so there everything has to be copied.
 */
static int64_t backing_bytes(BlockBackend *target)
{
    BlockDriverState *bs = bdrv_skip_filters(blk_bs(target));
    BdrvChild *below = bdrv_cow_child(bs);

    return below ? bdrv_node_length(below->bs) : -1;
}

/* Said before the work, not after it. */
static bool can_keep_bitmaps(const ConvertArgs *args, BlockDriverState *bs,
                             GError **error)
{
    if (args->bitmaps && !bdrv_bitmaps_supported(bs, /* error= */ NULL)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: the target keeps no bitmaps: that takes qcow2 of version 3 "
                    "(compat=1.1)", args->target_name);
        return false;
    }
    return true;
}

/* Copies into @target, which is @is_new or may hold anything. */
static bool copy_into(const ConvertArgs *args, BlockBackend *target,
                      const char *path, bool is_new, GError **error)
{
    BlockDriverState *bs = blk_bs(target);
    ImageConvert convert = {
        .source = args->source,
        .target = target,
        .source_name = args->sources.count == 1 ? args->sources.names[0]
                                                : "the sources",
        .target_name = args->target_name,
        .target_is_zero = args->target_is_zero ||
                          (is_new && bs->drv->has_zero_init(bs)),
        .backing_bytes = args->backing_name ? backing_bytes(target) : -1,
        .compress = args->compress,
        .copy_range = args->copy_range ||
                      can_share_extents(args->sources.names[0], path),
        .sparse_bytes = args->sparse_bytes,
        .coroutines = args->coroutines,
        .cancel = &common_interrupted,
        .progress = show_progress,
        .opaque = (void *)args,
    };
    bool ok;

    if (!can_keep_bitmaps(args, bs, error) ||
        !image_convert_check(&convert, error)) {
        return false;
    }
    ok = image_convert(&convert, error);
    common_progress_end(&args->common);
    ok = ok && (!args->bitmaps ||
                bdrv_bitmaps_copy(bs, blk_bs(args->source),
                                  args->skip_broken_bitmaps, error));
    if (!ok && !is_new) {
        g_prefix_error(error, "%s: is incomplete now: ", args->target_name);
    }
    return ok;
}

static bool convert_into(const ConvertArgs *args, const char *path,
                         bool is_new, GError **error)
{
    g_autoptr(BlockBackend) target = open_target(args, path, is_new, error);

    return target && copy_into(args, target, path, is_new, error);
}

/*
 * What fails here concerns the source as often as the target, so its message
 * must not get the target's name put in front: it takes a way of its own.
 */
static bool populate(const char *path, void *opaque, GError **error)
{
    ConvertArgs *args = opaque;

    if (convert_into(args, path, /* is_new= */ true, &args->copy_error)) {
        return true;
    }
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED, "not filled");
    return false;
}

/*
 * A file that is to be replaced must not be in use by anybody: holding it
 * open for writing keeps others away meanwhile. *@ret_blk NULL: no such file.
 */
static bool hold_old_target(const ConvertArgs *args, BlockBackend **ret_blk,
                            GError **error)
{
    BlockOptions *options;
    struct stat st;

    *ret_blk = NULL;
    if (stat(args->target_name, &st) < 0 || !S_ISREG(st.st_mode)) {
        return true;
    }
    options = block_options_new();
    block_options_set_string(options, "driver", "file");
    block_options_set_string(options, "filename", args->target_name);
    *ret_blk = blk_open(/* filename= */ NULL, options,
                        BDRV_O_RDWR | BDRV_O_RESIZE, /* policy= */ NULL,
                        "convert", error);
    return *ret_blk != NULL;
}

/* The link's target, when the name is one: links stay what they are. */
static char *real_name(const char *name)
{
    struct stat st;
    bool is_link = lstat(name, &st) == 0 && S_ISLNK(st.st_mode);
    char *real = is_link ? realpath(name, /* resolved= */ NULL) : NULL;
    char *copy = g_strdup(real ? real : name);

    free(real);
    return copy;
}

/* Its locks would say no more than that somebody uses the image. */
static bool is_no_source(const ConvertArgs *args, GError **error)
{
    for (unsigned i = 0; i < args->sources.count; i++) {
        if (common_is_same_file(args->sources.names[i], args->target_name)) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                        "%s: is source and target at the same time",
                        args->target_name);
            return false;
        }
    }
    return true;
}

/*
 * The old file stays open and locked until the new one has its name: nobody
 * gets at the one that is about to vanish.
 */
static bool create_target(ConvertArgs *args, BlockOptions *options,
                          GError **error)
{
    g_autofree char *name = real_name(args->target_name);
    g_autoptr(BlockBackend) old = NULL;
    ImageCreateRequest request = {
        .filename = name,
        .format = args->target_format,
        .length = blk_length(args->source),
        .backing_name = args->backing_name,
        .backing_format = args->backing_format,
        .replace = true,
        .options = options,
        .populate = populate,
        .opaque = args,
    };
    bool ok;

    remember_key(args, options);
    ok = hold_old_target(args, &old, error) &&
         image_create(&request, /* ret_length= */ NULL, error);
    if (args->copy_error) {
        g_clear_error(error);
        g_propagate_error(error, g_steal_pointer(&args->copy_error));
    }
    return ok;
}

/* -- the command --------------------------------------------------------- */

/* -o backing_file is the same as -B, and wins when both are given. */
static bool take_backing(ConvertArgs *args, BlockOptions *options,
                         GError **error)
{
    return block_options_take_string(options, "backing_file",
                                     &args->backing_name, error) &&
           block_options_take_string(options, "backing_fmt",
                                     &args->backing_format, error);
}

/*
 * What can be known to be impossible is said before the target is made: a
 * target that exists keeps its content then.
 */
static int convert_body(void *opaque, GError **error)
{
    ConvertArgs *args = opaque;
    g_autoptr(BlockOptions) options =
        common_join_options(args->option_strings, error);
    g_autoptr(BlockBackend) source = NULL;
    bool ok;

    if (!options || !take_backing(args, options, error)) {
        return CMD_EXIT_ERROR;
    }
    if (args->no_create &&
        (args->backing_name || block_options_first_key(options))) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "-n writes into an image that exists: -o and -B are for "
                    "new ones");
        return CMD_EXIT_ERROR;
    }
    if (args->sources.count > 1 && args->backing_name) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "several sources have no backing file in common: -B is "
                    "for one source");
        return CMD_EXIT_ERROR;
    }
    if (!is_no_source(args, error)) {
        return CMD_EXIT_ERROR;
    }
    source = source_open(&args->sources, "convert", error);
    if (!source) {
        return CMD_EXIT_ERROR;
    }
    args->source = source;
    args->data_file = g_strdup(block_options_peek(options, "data_file"));
    if (args->bitmaps &&
        !bdrv_bitmaps_can_copy(blk_bs(source), args->skip_broken_bitmaps,
                               error)) {
        return CMD_EXIT_ERROR;
    }
    common_catch_signals();
    ok = args->no_create
             ? convert_into(args, args->target_name, /* is_new= */ false,
                            error)
             : create_target(args, options, error);
    if (!args->common.quiet) {
        source_tell_lost(&args->sources, source);
    }
    return ok ? CMD_EXIT_OK : CMD_EXIT_ERROR;
}

/*
 * A run of zeros is looked for in steps of this size, so it is a power of two.
 */
static bool parse_sparse(const char *text, int64_t *ret_bytes)
{
    if (!parse_size(text, ret_bytes) || *ret_bytes > 64 * MIB ||
        (*ret_bytes & (*ret_bytes - 1)) != 0 ||
        (*ret_bytes && *ret_bytes < 512)) {
        fprintf(stderr, "imgfuse: -S is 0, or a power of two from 512 to 64M, "
                "not '%s'\n", text);
        return false;
    }
    return true;
}

/* More than IMAGE_WORKERS_MAX would only share the same threads. */
static bool parse_coroutines(const char *text, unsigned *ret_count)
{
    char *end;
    unsigned long count = strtoul(text, &end, 10);

    if (*end || count < 1 || count > IMAGE_WORKERS_MAX) {
        fprintf(stderr, "imgfuse: -m is 1 to %d, not '%s'\n",
                IMAGE_WORKERS_MAX, text);
        return false;
    }
    *ret_count = count;
    return true;
}

/* The last of several options counts, as with getopt's other letters. */
static void set_text(char **field, const char *text)
{
    g_free(*field);
    *field = g_strdup(text);
}

/* Letters that say where the data goes to. */
static bool parse_target_letter(ConvertArgs *args, int option)
{
    switch (option) {
    case 'O':
        args->target_format = optarg;
        return true;
    case 'o':
        args->list_options |= common_wants_list(optarg);
        g_ptr_array_add(args->option_strings, optarg);
        return true;
    case 'B':
        set_text(&args->backing_name, optarg);
        return true;
    case 'F':
        set_text(&args->backing_format, optarg);
        return true;
    case 'n':
        args->no_create = true;
        return true;
    case 't':
        return common_parse_cache(optarg, &args->target_flags);
    case OPTION_TARGET_IS_ZERO:
        args->target_is_zero = true;
        return true;
    case OPTION_TARGET_IMAGE_OPTS:
        args->target_image_opts = true;
        return true;
    case 'r':
        return common_parse_size(optarg, "-r", &args->bytes_per_second);
    case OPTION_BITMAPS:
        args->bitmaps = true;
        return true;
    case OPTION_SKIP_BROKEN:
        args->skip_broken_bitmaps = true;
        return true;
    default:
        return false;
    }
}

/* -W is taken for scripts that have it: qemu-img writes in order without it. */
static bool parse_letter(void *opaque, int option)
{
    ConvertArgs *args = opaque;

    switch (option) {
    case 'c':
        args->compress = true;
        return true;
    case 'C':
        args->copy_range = true;
        return true;
    case 'S':
        return parse_sparse(optarg, &args->sparse_bytes);
    case 'm':
        return parse_coroutines(optarg, &args->coroutines);
    case 'l':
        args->sources.snapshot = optarg;
        return true;
    case OPTION_SALVAGE:
        args->sources.salvage = true;
        return true;
    case 'W': /* pieces are written in any order anyway */
        return true;
    default:
        return parse_target_letter(args, option) ||
               common_args_take(&args->common, option);
    }
}

/* Combinations that would silently do less than they say. */
static bool check_args(const ConvertArgs *args, int names)
{
    if (args->compress && args->copy_range) {
        fprintf(stderr, "imgfuse: -c and -C exclude each other\n");
        return false;
    }
    if (args->target_is_zero && !args->no_create) {
        fprintf(stderr, "imgfuse: --target-is-zero is for -n\n");
        return false;
    }
    if (args->skip_broken_bitmaps && !args->bitmaps) {
        fprintf(stderr, "imgfuse: --skip-broken-bitmaps is for --bitmaps\n");
        return false;
    }
    if (args->bitmaps && (names > 2 || args->sources.snapshot)) {
        fprintf(stderr, "imgfuse: --bitmaps is for one source, and not for a "
                "snapshot\n");
        return false;
    }
    if (args->target_image_opts && !args->no_create) {
        fprintf(stderr, "imgfuse: --target-image-opts is for -n\n");
        return false;
    }
    if (args->sources.salvage && args->copy_range) {
        fprintf(stderr, "imgfuse: --salvage and -C exclude each other\n");
        return false;
    }
    return names >= 2;
}

static bool parse_args(int argc, char **argv, ConvertArgs *args)
{
    static const struct option long_options[] = {
        COMMON_LONG_OPTIONS,
        { "target-format", required_argument, NULL, 'O' },
        { "options", required_argument, NULL, 'o' },
        { "backing", required_argument, NULL, 'B' },
        { "backing-format", required_argument, NULL, 'F' },
        { "compress", no_argument, NULL, 'c' },
        { "bitmaps", no_argument, NULL, OPTION_BITMAPS },
        { "skip-broken-bitmaps", no_argument, NULL, OPTION_SKIP_BROKEN },
        { "target-is-zero", no_argument, NULL, OPTION_TARGET_IS_ZERO },
        { "target-image-opts", no_argument, NULL, OPTION_TARGET_IMAGE_OPTS },
        { "salvage", no_argument, NULL, OPTION_SALVAGE },
        { NULL, 0, NULL, 0 },
    };
    if (!common_parse(argc, argv, COMMON_LETTERS "O:o:B:F:cCS:m:Wnt:l:r:",
                      long_options, parse_letter, args)) {
        return false;
    }
    if (args->list_options) {
        return true;
    }
    if (!check_args(args, argc - optind)) {
        return false;
    }
    args->sources.names = argv + optind;
    args->sources.count = argc - optind - 1;
    args->target_name = argv[argc - 1];
    return true;
}

static int convert_run(int argc, char **argv)
{
    g_autoptr(GPtrArray) strings = g_ptr_array_new();
    ConvertArgs args = {
        .target_format = "raw",
        .option_strings = strings,
        .sparse_bytes = IMAGE_CONVERT_SPARSE_DEFAULT,
        .coroutines = IMAGE_WORKERS_DEFAULT,
    };
    int code;

    common_args_init(&args.common, &image_command_convert);
    args.sources.common = &args.common;
    if (!parse_args(argc, argv, &args)) {
        code = common_usage(&image_command_convert);
    } else if (args.list_options) {
        code = common_list_creation_options(args.target_format);
    } else {
        code = image_command_with_loop(convert_body, &args);
    }
    g_free(args.key_secret);
    g_free(args.backing_name);
    g_free(args.data_file);
    g_free(args.backing_format);
    common_args_clear(&args.common);
    return code;
}

const ImageCommand image_command_convert = {
    .name = "convert",
    .summary = "copy an image into one of another format",
    .usage = "[-f FORMAT] [-O FORMAT] [-o OPTIONS] "
             "[-B BACKING -F FORMAT] [-l SNAPSHOT] [-c] [-C] [-S SIZE] "
             "[-m COROUTINES] [-W] [-r BYTES_PER_SECOND] [--salvage] "
             "[-n [--target-is-zero] [--target-image-opts]] "
             "[--bitmaps [--skip-broken-bitmaps]] [-T CACHE] "
             "[-t CACHE] [-p] [-q] [-U] [--image-opts] SOURCE... TARGET",
    .options =
        "  -O, --target-format=FORMAT format of the new image (default: raw)\n"
        "  -o, --options=OPTIONS      creation options; '-o help' lists them\n"
        "  -B, --backing=FILE         backing file of the new image: only the\n"
        "                             source's top layer is copied\n"
        "  -F, --backing-format=FMT   format of that one\n"
        "  -l SNAPSHOT                an ID or tag, snapshot.id=ID or\n"
        "                             snapshot.name=TAG: what it shows\n"
        "  -c, --compress             compress clusters\n"
        "  -C                         have the kernel copy where it can\n"
        "  -S SIZE                    runs of zeros this long are left out\n"
        "                             (default: 4k; 0: none)\n"
        "  -m NUMBER                  pieces copied at a time (default: 4)\n"
        "  -W                         accepted: writes are in no order\n"
        "  -r BYTES                   bytes a second at the most\n"
        "      --salvage              zeros for what cannot be read\n"
        "  -n                         write into an image that exists\n"
        "      --target-is-zero       with -n: it reads zeros\n"
        "      --target-image-opts    with -n: TARGET is an option string\n"
        "      --bitmaps              copy dirty bitmaps, too\n"
        "      --skip-broken-bitmaps  but for those that are not usable\n"
        "  -T CACHE, -t CACHE         how source and target are opened, as\n"
        "                             --cache of mounts\n",
    .run = convert_run,
};
