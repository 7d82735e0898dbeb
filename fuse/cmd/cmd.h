/* SPDX-License-Identifier: MIT */
/*
 * the image commands: `imgfuse create`, `check`, `info`, ...
 *
 * A command is a function of its own arguments. The table of all is in cmd.c.
 * Options and output follow qemu-img where it has the same command.
 */
#ifndef FUSE_CMD_CMD_H
#define FUSE_CMD_CMD_H

#include "block/backend.h"
#include "block/graph/options.h"

/* What every command may end with; check has more (check.c). */
typedef enum CmdExit {
    CMD_EXIT_OK = 0,
    CMD_EXIT_ERROR = 1,
    CMD_EXIT_USAGE = 2,
} CmdExit;

typedef struct ImageCommand {
    const char *name;
    const char *summary; /* one line for `help` */
    const char *usage;   /* what may stand behind the name */
    bool prints_json;    /* takes --output=json */
    const char *options; /* of its own, a line each, for --help */
    /* argv[0] is the command's name. Returns the exit code. */
    int (*run)(int argc, char **argv);
} ImageCommand;

/* NULL: not a command's name. */
const ImageCommand *image_command_find(const char *name);

/*
 * image_command_main:
 * Runs @command with its own arguments, argv[0] being its name; or shows its
 * usage when -h or --help is the first of them. The secrets that --object and
 * --key give (block/crypto/secret.h) are taken out of the arguments before.
 * Returns the exit code.
 */
int image_command_main(const ImageCommand *command, int argc, char **argv);

/* "usage: ...", folded to 80 columns; ends in a newline. The caller frees. */
char *image_command_usage(const ImageCommand *command);

/* What --help prints: usage, what it does, its options and the common ones. */
void image_command_show_help(const ImageCommand *command);

/* The options of every command, a line each; and that of prints_json. */
extern const char image_command_output_option[];
extern const char image_command_common_options[];

/* The @index-th command, NULL behind the last. */
const ImageCommand *image_command_at(size_t index);

/*
 * image_command_with_loop:
 * Calls @body with an event loop for the control plane's I/O and prints its
 * error, if any, as the one line that a user sees; else warnings that came up
 * meanwhile. Returns what @body did.
 */
typedef int ImageCommandBody(void *opaque, GError **error);
int image_command_with_loop(ImageCommandBody *body, void *opaque);

/*
 * image_command_open:
 * The image @filename; @format NULL: probed. With @image_opts the name is an
 * option string. NULL with @error.
 */
BlockBackend *image_command_open(const char *filename, const char *format,
                                 bool image_opts, BdrvOpenFlags flags,
                                 ReferencePolicy *policy, const char *user,
                                 GError **error);

/* Prints @root, consumed, indented as qemu-img does. */
void image_command_print_json(JsonNode *root);

/* As qemu-img does; nothing when there are none. */
void image_command_print_snapshots(const GPtrArray *list);

extern const ImageCommand image_command_amend;
extern const ImageCommand image_command_bitmap;
extern const ImageCommand image_command_check;
extern const ImageCommand image_command_commit;
extern const ImageCommand image_command_compare;
extern const ImageCommand image_command_convert;
extern const ImageCommand image_command_create;
extern const ImageCommand image_command_info;
extern const ImageCommand image_command_map;
extern const ImageCommand image_command_measure;
extern const ImageCommand image_command_rebase;
extern const ImageCommand image_command_resize;
extern const ImageCommand image_command_snapshot;

#endif
