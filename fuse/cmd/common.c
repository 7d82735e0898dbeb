/* SPDX-License-Identifier: MIT */
/*
 * options that several image commands have, with one meaning everywhere
 *
 * Nothing here opens a file before common_args_open(): a wrong command line
 * costs nothing.
 *
 * Locking: none; main thread. Signal handlers only set flags.
 */
#include "fuse/cmd/common.h"

#include "block/driver.h"
#include "block/graph/reference_policy.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int common_interrupted;
static int progress_asked; /* by SIGUSR1; atomic */

/* -- signals ------------------------------------------------------------- */

/*
 * No more than a flag: the rest happens where the work is, between two pieces.
 */
static void on_interrupt(int number)
{
    __atomic_store_n(&common_interrupted, 1, __ATOMIC_RELAXED);
}

/* Asked by dd's custom: the answer comes with the next step of progress. */
static void on_usr1(int number)
{
    __atomic_store_n(&progress_asked, 1, __ATOMIC_RELAXED);
}

void common_catch_signals(void)
{
    struct sigaction action = { .sa_handler = on_interrupt };

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

/* -- arguments ----------------------------------------------------------- */

/* Also where SIGUSR1 begins to be harmless. */
void common_args_init(CommonArgs *args, const ImageCommand *command)
{
    struct sigaction action = { .sa_handler = on_usr1,
                                .sa_flags = SA_RESTART };

    sigaction(SIGUSR1, &action, NULL);
    *args = (CommonArgs) { .command = command,
                           .allowed = g_ptr_array_new() };
}

void common_args_clear(CommonArgs *args)
{
    g_clear_pointer(&args->allowed, g_ptr_array_unref);
}

/* JSON that nobody prints is worse than none: a script would wait for it. */
static bool parse_output(CommonArgs *args, const char *text)
{
    args->json = strcmp(text, "json") == 0;
    if (!args->json && strcmp(text, "human") != 0) {
        fprintf(stderr, "imgfuse: --output is human or json, not '%s'\n",
                text);
        return false;
    }
    if (args->json && !args->command->prints_json) {
        fprintf(stderr, "imgfuse: '%s' prints nothing for programs: no "
                "--output=json\n", args->command->name);
        return false;
    }
    return true;
}

/*
 * Letters mean the same in every command that has them; one that has another
 * use for a letter takes it before it comes here.
 */
bool common_args_take(CommonArgs *args, int option)
{
    switch (option) {
    case 'f':
        args->format = optarg;
        return true;
    case 'U':
        args->force_share = true;
        return true;
    case 'q':
        args->quiet = true;
        return true;
    case 'p':
        args->show_progress = true;
        return true;
    case 'T':
        return common_parse_cache(optarg, &args->source_flags);
    case COMMON_OUTPUT:
        return parse_output(args, optarg);
    case COMMON_IMAGE_OPTS:
        args->image_opts = true;
        return true;
    case COMMON_ALLOW_PATH:
        g_ptr_array_add(args->allowed, optarg);
        return true;
    default:
        return false;
    }
}

bool common_parse(int argc, char **argv, const char *letters,
                  const struct option *long_options,
                  bool (*take)(void *opaque, int option), void *opaque)
{
    int option;

    optind = 1;
    while ((option = getopt_long(argc, argv, letters, long_options, NULL)) >=
           0) {
        if (!take(opaque, option)) {
            return false;
        }
    }
    return true;
}

/* To standard error, and exit code 2, so that scripts tell it from failure. */
int common_usage(const ImageCommand *command)
{
    g_autofree char *usage = image_command_usage(command);

    fputs(usage, stderr);
    return CMD_EXIT_USAGE;
}

ReferencePolicy *common_args_policy(const CommonArgs *args, GError **error)
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

/*
 * A shared view of an image that is being written would let two writers in: so
 * -U is refused for writing rather than ignored.
 */
BlockBackend *common_args_open(const CommonArgs *args, const char *filename,
                               const char *format, BdrvOpenFlags flags,
                               const char *user, GError **error)
{
    g_autoptr(ReferencePolicy) policy = common_args_policy(args, error);

    if (!policy) {
        return NULL;
    }
    if (args->force_share && (flags & BDRV_O_RDWR)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: -U (--force-share) is for images that are only read",
                    filename);
        return NULL;
    }
    flags |= args->force_share ? BDRV_O_FORCE_SHARE : 0;
    flags |= flags & BDRV_O_RDWR ? 0 : args->source_flags;
    return image_command_open(filename, format, args->image_opts, flags,
                              policy, user, error);
}

BlockOptions *common_join_options(const GPtrArray *strings, GError **error)
{
    g_autoptr(BlockOptions) all = block_options_new();

    /* From the last to the first: a later -o wins. */
    for (guint i = strings->len; i > 0; i--) {
        g_autoptr(BlockOptions) one =
            block_options_from_string(g_ptr_array_index(strings, i - 1),
                                      error);

        if (!one) {
            return NULL;
        }
        block_options_join(all, one);
    }
    return g_steal_pointer(&all);
}

/* "?" is qemu-img's older word for it. */
bool common_wants_list(const char *text)
{
    return strcmp(text, "help") == 0 || strcmp(text, "?") == 0;
}

/* One line each, names first, so that grep finds them. */
void common_list_options(const BlockOptionDesc *options)
{
    for (const BlockOptionDesc *desc = options; desc && desc->name; desc++) {
        printf("  %-24s %s%s%s%s\n", desc->name, desc->help,
               desc->default_value ? " (default: " : "",
               desc->default_value ? desc->default_value : "",
               desc->default_value ? ")" : "");
    }
}

/* By the format's own table, which is what checks them later. */
int common_list_creation_options(const char *format)
{
    const BlockDriver *driver = bdrv_find_format(format);

    if (!driver || !driver->create) {
        fprintf(stderr, "imgfuse: images of format '%s' cannot be created\n",
                format);
        return CMD_EXIT_ERROR;
    }
    common_list_options(driver->create->options);
    return CMD_EXIT_OK;
}

bool common_parse_cache(const char *text, BdrvOpenFlags *ret_flags)
{
    static const struct {
        const char *name;
        BdrvOpenFlags flags;
    } modes[] = {
        { "writeback", 0 },
        { "none", BDRV_O_NOCACHE },
        { "writethrough", BDRV_O_WRITETHROUGH },
        { "directsync", BDRV_O_NOCACHE | BDRV_O_WRITETHROUGH },
        { "unsafe", BDRV_O_NO_FLUSH },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        if (strcmp(modes[i].name, text) == 0) {
            *ret_flags = modes[i].flags;
            return true;
        }
    }
    fprintf(stderr, "imgfuse: '%s' is no cache mode; use writeback, none, "
            "writethrough, directsync or unsafe\n", text);
    return false;
}

bool common_parse_size(const char *text, const char *what, int64_t *ret_bytes)
{
    if (!parse_size(text, ret_bytes)) {
        fprintf(stderr, "imgfuse: %s: '%s' is not a size\n", what, text);
        return false;
    }
    return true;
}

bool common_is_same_file(const char *one, const char *other)
{
    struct stat first;
    struct stat second;

    return one && other && stat(one, &first) == 0 &&
           stat(other, &second) == 0 && first.st_dev == second.st_dev &&
           first.st_ino == second.st_ino;
}

/* Three digits, as qemu-img: 999 B, but 1000 B is 0.977 KiB. */
char *common_human_size(int64_t bytes)
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

/* -- progress ------------------------------------------------------------ */

/* In a log a progress bar is a mess, unless somebody asks for it. */
static bool progress_is_wanted(const CommonArgs *args)
{
    return !args->quiet && (args->show_progress || isatty(STDOUT_FILENO));
}

/*
 * One line that overwrites itself; without -p only where a terminal can do
 * that.
 */
void common_progress(const CommonArgs *args, int64_t done, int64_t total)
{
    double percent = total > 0 ? done * 100.0 / total : 100.0;

    if (progress_is_wanted(args)) {
        printf("    (%3.2f/100%%)\r", percent);
        fflush(stdout);
    }
    if (__atomic_exchange_n(&progress_asked, 0, __ATOMIC_RELAXED)) {
        fprintf(stderr, "    (%3.2f/100%%)\n", percent);
    }
}

void common_progress_end(const CommonArgs *args)
{
    if (progress_is_wanted(args)) {
        printf("\n");
    }
}
