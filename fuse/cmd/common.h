/* SPDX-License-Identifier: MIT */
/*
 * options that several image commands have, with one meaning everywhere
 *
 * A command puts COMMON_LETTERS and COMMON_LONG_OPTIONS into its own lists,
 * hands every letter that it does not know itself to common_args_take(), and
 * opens its images with common_args_open(). Wrong usage is shown by
 * common_usage(). Long work shows common_progress(), and ends early when
 * common_interrupted says so.
 */
#ifndef FUSE_CMD_COMMON_H
#define FUSE_CMD_COMMON_H

#include "fuse/cmd/cmd.h"

#include <getopt.h>

typedef struct CommonArgs {
    const ImageCommand *command; /* whose they are */
    const char *format;   /* -f */
    bool image_opts;      /* --image-opts */
    bool force_share;     /* -U, --force-share */
    BdrvOpenFlags source_flags; /* -T: how images that are read are opened */
    bool json;            /* --output */
    bool quiet;           /* -q */
    bool show_progress;   /* -p */
    GPtrArray *allowed;   /* --allow-path, each */
} CommonArgs;

/* Long options without a letter; a command's own ones start at FIRST_FREE. */
enum {
    COMMON_OUTPUT = 256,
    COMMON_IMAGE_OPTS,
    COMMON_ALLOW_PATH,
    COMMON_FIRST_FREE,
};

#define COMMON_LETTERS "f:UqpT:"
#define COMMON_LONG_OPTIONS \
    { "format", required_argument, NULL, 'f' }, \
    { "force-share", no_argument, NULL, 'U' }, \
    { "quiet", no_argument, NULL, 'q' }, \
    { "progress", no_argument, NULL, 'p' }, \
    { "output", required_argument, NULL, COMMON_OUTPUT }, \
    { "image-opts", no_argument, NULL, COMMON_IMAGE_OPTS }, \
    { "allow-path", required_argument, NULL, COMMON_ALLOW_PATH }

void common_args_init(CommonArgs *args, const ImageCommand *command);
void common_args_clear(CommonArgs *args);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(CommonArgs, common_args_clear)

/*
 * common_args_take:
 * What getopt_long() found as @option, with optarg. False when it is none of
 * the common ones, or has a bad value (which a line says).
 */
bool common_args_take(CommonArgs *args, int option);

/*
 * common_parse:
 * Hands each option of argv to @take, with optarg, until none is left or one
 * is refused; then optind is where the arguments begin. False: wrong usage.
 */
bool common_parse(int argc, char **argv, const char *letters,
                  const struct option *long_options,
                  bool (*take)(void *opaque, int option), void *opaque);

/* The command's usage on standard error; the exit code for it. */
int common_usage(const ImageCommand *command);

/* What the user allows images to name, as --allow-path says. NULL: @error. */
ReferencePolicy *common_args_policy(const CommonArgs *args, GError **error);

/*
 * common_args_open:
 * The image @filename of @format (NULL: probed), as the options say. -T counts
 * for images that are only read. NULL with @error.
 */
BlockBackend *common_args_open(const CommonArgs *args, const char *filename,
                               const char *format, BdrvOpenFlags flags,
                               const char *user, GError **error);

/* All the -o strings as one set of options; a later one wins. */
BlockOptions *common_join_options(const GPtrArray *strings, GError **error);

/* Is it "-o help"? */
bool common_wants_list(const char *text);

/* Prints names and meanings. */
void common_list_options(const BlockOptionDesc *options);

/* What `create -o` takes for @format; the exit code. */
int common_list_creation_options(const char *format);

/* A cache mode of -t or -T; false with a line on standard error. */
bool common_parse_cache(const char *text, BdrvOpenFlags *ret_flags);

/*
 * "1M" and the like; false with a line that names @what: an option, or what an
 * argument stands for.
 */
bool common_parse_size(const char *text, const char *what,
                       int64_t *ret_bytes);

/* Do both names lead to one file? False when one leads nowhere, or is NULL. */
bool common_is_same_file(const char *one, const char *other);

/* As qemu-img shows sizes: "1.5 GiB". The caller frees. */
char *common_human_size(int64_t bytes);

/* 0 until a signal asks the command to end; atomic. */
extern int common_interrupted;

/*
 * common_catch_signals:
 * From now on SIGINT, SIGTERM and SIGHUP set common_interrupted and do no
 * more: the work ends at its next step and leaves images whole. Also the
 * second one: timeout(1) sends two, and temporary files must go.
 */
void common_catch_signals(void);

/*
 * Shows that @done of @total bytes are done when the user wants to see it
 * (-p, or a terminal and no -q); common_progress_end() ends the line. After a
 * SIGUSR1 it is shown once on standard error, wanted or not.
 */
void common_progress(const CommonArgs *args, int64_t done, int64_t total);
void common_progress_end(const CommonArgs *args);

#endif
