/* SPDX-License-Identifier: MIT */
/*
 * the image commands: the table, and what they share
 *
 * A command parses its arguments first, without touching any file, and then
 * does its work in a body that has an event loop. Only here are errors turned
 * into text for the user.
 *
 * Locking: commands run on the main thread; warnings_lock is for messages,
 * which come from any.
 */
#include "fuse/cmd/cmd.h"
#include "fuse/image_info.h"

#include "block/crypto/secret.h"
#include "block/rt/aio_context.h"
#include "block/rt/thread_pool.h"

#include <stdio.h>
#include <string.h>

static const ImageCommand *const commands[] = {
    &image_command_amend,
    &image_command_bitmap,
    &image_command_check,
    &image_command_commit,
    &image_command_compare,
    &image_command_convert,
    &image_command_create,
    &image_command_info,
    &image_command_map,
    &image_command_measure,
    &image_command_rebase,
    &image_command_resize,
    &image_command_snapshot,
};

const ImageCommand *image_command_at(size_t index)
{
    return index < G_N_ELEMENTS(commands) ? commands[index] : NULL;
}

/* The word must be whole: "res" could become another command some day. */
const ImageCommand *image_command_find(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (strcmp(commands[i]->name, name) == 0) {
            return commands[i];
        }
    }
    return NULL;
}

/*
 * "--NAME=VALUE", or "--NAME" before its value, which is eaten from argv, too;
 * NULL: another option, or with @error no value.
 */
static char *secret_option(char **argv, int argc, int *at, const char *name,
                           GError **error)
{
    size_t length = strlen(name);
    char *text = argv[*at];

    if (strncmp(text, name, length) != 0) {
        return NULL;
    }
    if (text[length] == '=') {
        return text + length + 1;
    }
    if (text[length] == '\0' && *at + 1 < argc) {
        return argv[++*at];
    }
    if (text[length] == '\0') {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s needs a value; 'imgfuse help %s' says which", name,
                    argv[0]);
    }
    return NULL;
}

/*
 * Takes --object and --key, which every command has, out of the arguments:
 * *argc becomes less. The key may have to be asked for. @error is not NULL.
 */
static bool take_secrets(int *argc, char **argv, GError **error)
{
    bool creates = strcmp(argv[0], "create") == 0;
    const char *key = NULL;
    int kept = 1;
    int i = 1;

    for (; i < *argc && strcmp(argv[i], "--") != 0; i++) {
        char *option = argv[i];
        char *value = secret_option(argv, *argc, &i, "--object", error);

        if (value) {
            bool ok = secret_add_object(value, error);

            secret_hide(value);
            if (!ok) {
                return false;
            }
            continue;
        }
        if (!*error) {
            value = secret_option(argv, *argc, &i, "--key", error);
        }
        if (*error) {
            return false;
        }
        if (value) {
            key = value;
        } else {
            argv[kept++] = option;
        }
    }
    for (; i < *argc; i++) {
        argv[kept++] = argv[i];
    }
    argv[kept] = NULL;
    *argc = kept;
    return !key ||
           secret_add_key(key, creates ? "the new image" : "the image",
                          /* confirm= */ creates, error);
}

/* -- usage --------------------------------------------------------------- */

#define USAGE_COLUMNS 79
#define USAGE_INDENT 11

/* Up to the next space; a group in brackets is one word where it fits. */
static size_t usage_word(const char *text)
{
    size_t length = 0;
    int depth = 0;

    while (text[length] && (depth > 0 || text[length] != ' ')) {
        depth += text[length] == '[' || text[length] == '{';
        depth -= text[length] == ']' || text[length] == '}';
        length++;
    }
    return length <= USAGE_COLUMNS - USAGE_INDENT ? length
                                                  : strcspn(text, " ");
}

char *image_command_usage(const ImageCommand *command)
{
    GString *text = g_string_new(NULL);
    size_t column;
    const char *at = command->usage;

    g_string_printf(text, "usage: imgfuse %s", command->name);
    column = text->len;
    while (*at) {
        size_t length = usage_word(at);

        if (column + 1 + length > USAGE_COLUMNS) {
            g_string_append_printf(text, "\n%*s", USAGE_INDENT, "");
            column = USAGE_INDENT;
        }
        g_string_append_printf(text, " %.*s", (int)length, at);
        column += 1 + length;
        at += length + (at[length] == ' ');
    }
    g_string_append_c(text, '\n');
    return g_string_free(text, /* free_segment= */ FALSE);
}

/* Here is all that common.h and take_secrets() accept, once for all. */
const char image_command_output_option[] =
    "      --output=human|json    print for people (default) or programs\n";
const char image_command_common_options[] =
    "  -f, --format=FORMAT        format of the image (default: probed)\n"
    "      --image-opts           IMAGE is driver=qcow2,file.filename=...\n"
    "      --allow-path=DIR       images may name files in DIR and below\n"
    "  -U, --force-share          read an image although somebody writes it\n"
    "  -T CACHE                   how images that are only read are opened\n"
    "  -p, --progress             show the progress, also off a terminal\n"
    "  -q, --quiet                say no more than errors\n"
    "      --key=SOURCE           key of encrypted images: file:FILE,\n"
    "                             env:NAME, cred:NAME, secret:ID or ask\n"
    "      --object=secret,id=ID,file=FILE\n"
    "                             a secret that images' options may name\n"
    "  -h, --help                 show this text\n";

void image_command_show_help(const ImageCommand *command)
{
    g_autofree char *usage = image_command_usage(command);

    printf("%s\n%s\n\nOptions:\n%s%s\nOf every command:\n%s\n"
           "'man imgfuse' says more.\n", usage, command->summary,
           command->options,
           command->prints_json ? image_command_output_option : "",
           image_command_common_options);
}

/* -- running one --------------------------------------------------------- */

/* Also behind other arguments, where one notices that help is needed. */
static bool wants_help(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "-h") == 0) {
        return true;
    }
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            return true;
        }
    }
    return false;
}

/*
 * Keys are taken out before the command sees its arguments, and forgotten when
 * it has ended: no command can print or keep them by mistake.
 */
int image_command_main(const ImageCommand *command, int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    int code = CMD_EXIT_ERROR;

    if (wants_help(argc, argv)) {
        image_command_show_help(command);
        return CMD_EXIT_OK;
    }
    if (take_secrets(&argc, argv, &error)) {
        g_autofree char *name = g_strdup_printf("imgfuse %s", command->name);

        argv[0] = name; /* getopt puts it in front of its messages */
        code = command->run(argc, argv);
    } else {
        fprintf(stderr, "imgfuse: %s\n", error->message);
        code = error->code == IMGFUSE_ERROR_OPTION ? CMD_EXIT_USAGE
                                                   : CMD_EXIT_ERROR;
    }
    secret_forget_all();
    return code;
}

/*
 * Warnings of the block layer wait until the command has ended: after an error
 * they are only its consequences ("flush at close failed"), and the user gets
 * the one line that tells the cause. Any thread.
 */
static GMutex warnings_lock;
static GPtrArray *warnings; /* of char *; under the lock */

/*
 * Everything but warnings goes on as usual: debug lines must not be reordered.
 */
static void collect_warning(const char *domain, GLogLevelFlags level,
                            const char *message, gpointer opaque)
{
    if ((level & G_LOG_LEVEL_MASK) != G_LOG_LEVEL_WARNING) {
        g_log_default_handler(domain, level, message, opaque);
        return;
    }
    g_mutex_lock(&warnings_lock);
    g_ptr_array_add(warnings, g_strdup(message));
    g_mutex_unlock(&warnings_lock);
}

/*
 * An error makes the warnings before it uninteresting: they are its
 * consequences.
 */
static void tell(const GError *error)
{
    for (guint i = 0; !error && i < warnings->len; i++) {
        fprintf(stderr, "imgfuse: warning: %s\n",
                (const char *)warnings->pdata[i]);
    }
    if (error) {
        fprintf(stderr, "imgfuse: %s\n", error->message);
    }
    g_clear_pointer(&warnings, g_ptr_array_unref);
}

/* Threads end before the loop does: until then they may still wake it. */
int image_command_with_loop(ImageCommandBody *body, void *opaque)
{
    GLogFunc usual = g_log_set_default_handler(collect_warning, NULL);
    g_autoptr(GError) error = NULL;
    AioContext *ctx = aio_context_new(&error);
    int code = CMD_EXIT_ERROR;

    warnings = g_ptr_array_new_with_free_func(g_free);
    if (ctx) {
        code = body(opaque, &error);
        thread_pool_shutdown();
        co_pool_drain();
        aio_context_free(ctx);
    }
    (void) g_log_set_default_handler(usual, NULL);
    tell(error);
    return code;
}

/*
 * With --image-opts the text is the node's options; a format of -f is one
 * more.
 */
BlockBackend *image_command_open(const char *filename, const char *format,
                                 bool image_opts, BdrvOpenFlags flags,
                                 ReferencePolicy *policy, const char *user,
                                 GError **error)
{
    BlockOptions *options;

    if (image_opts) {
        options = block_options_from_string(filename, error);
        if (!options) {
            return NULL;
        }
        filename = NULL;
    } else {
        options = block_options_new();
    }
    if (format) {
        block_options_set_string(options, "driver", format);
    }
    return blk_open(filename, options, flags, policy, user, error);
}

/* To standard output and nowhere else: a program reads it. */
void image_command_print_json(JsonNode *root)
{
    g_autofree char *text = image_info_text(root);

    fputs(text, stdout);
}
