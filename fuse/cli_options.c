/* SPDX-License-Identifier: MIT */
/*
 * parsing the command line of a mount
 *
 * One table names each option with its short form, its kind, where its value
 * goes and its help; the long form, the -o twin, the help text and the hint
 * for a misspelt name are all made from it. Splitting a list of -o options
 * (commas, escaped ones) is libfuse's.
 *
 * Always true: a value that is stored was checked; unknown options are errors
 * in either form; a later option overrides an earlier one.
 *
 * Locking: none, main thread.
 */
#define FUSE_USE_VERSION 314

#include "fuse/cli_options.h"
#include "fuse/spelling.h"

#include "block/crypto/secret.h"
#include "block/graph/options.h"

#include <fuse_opt.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef enum OptionKind {
    KIND_ON,     /* bool: becomes true */
    KIND_OFF,    /* bool: becomes false */
    KIND_STRING, /* char * */
    KIND_OVERLAY, /* overlay, with a file or without */
    KIND_ID,     /* unsigned, of a user or group */
    KIND_MODE,   /* int, octal permission bits */
    KIND_ENUM,   /* char *, one of the values in ->value_help */
    KIND_CACHE,  /* CliCache, likewise */
    KIND_UNMAP,  /* bool, likewise */
    KIND_LIST,   /* GPtrArray * of strings */
    KIND_SECRET, /* likewise, and out of everybody's sight */
    KIND_NAME,   /* the last image's name */
    KIND_FORMAT, /* the last image's format */
    KIND_NUMBER, /* unsigned, 1 to CLI_THREADS_MAX */
    KIND_MOUNT,  /* -o: a list of options */
} OptionKind;

typedef struct OptionSpec {
    const char *name;
    char short_name;
    OptionKind kind;
    size_t offset;          /* in CliOptions, where the kind has one */
    const char *value_help; /* NULL: takes no value */
    const char *help;
} OptionSpec;

#define FIELD(member) offsetof(CliOptions, member)

static const OptionSpec specs[] = {
    { "read-only", 'r', KIND_OFF, FIELD(read_write), NULL,
      "the images cannot be written (default)" },
    { "read-write", 'w', KIND_ON, FIELD(read_write), NULL,
      "the images can be written" },
    { "overlay", 0, KIND_OVERLAY, 0, "FILE",
      "what is written goes to FILE (made if missing), or away at unmount" },
    { "format", 't', KIND_FORMAT, 0, "FMT",
      "format of the (last) image (default: probed)" },
    { "name", 0, KIND_NAME, 0, "NAME",
      "name of the (last) image's file in the mount" },
    { "image-opts", 0, KIND_ON, FIELD(image_opts), NULL,
      "IMAGE is driver=qcow2,file.filename=... instead of a name" },
    { "snapshots", 0, KIND_ON, FIELD(snapshots), NULL,
      "show internal snapshots as files, too" },
    { "layers", 0, KIND_ON, FIELD(layers), NULL,
      "show each layer of backing files, too (below .imgfuse)" },
    { "growable", 0, KIND_ON, FIELD(growable), NULL,
      "writes past the end and truncate may change the size" },
    { "discard", 0, KIND_UNMAP, FIELD(unmap), "unmap|ignore",
      "do punched holes give clusters back (default: unmap)" },
    { "detect-zeroes", 0, KIND_ENUM, FIELD(detect_zeroes), "off|on|unmap",
      "turn written zeros into zero clusters, or holes (default: off)" },
    { "cache", 0, KIND_CACHE, FIELD(cache),
      "writeback|none|writethrough|directsync|unsafe",
      "how the image files are opened (default: writeback)" },
    { "aio", 0, KIND_ENUM, FIELD(aio), "auto|io_uring|native|threads",
      "I/O engine for the image files (default: auto)" },
    { "writeback", 0, KIND_ON, FIELD(writeback), NULL,
      "let the kernel gather small writes (folder mounts only)" },
    { "transport", 0, KIND_ENUM, FIELD(transport), "auto|dev",
      "how the kernel's requests reach us (default: auto)" },
    { "threads", 0, KIND_NUMBER, FIELD(threads), "N",
      "I/O threads (default: one per CPU, at most 8)" },
    { "allow-path", 0, KIND_LIST, FIELD(allow_paths), "DIR",
      "images may name files in DIR and below (repeatable)" },
    { "allow-remote", 0, KIND_ON, FIELD(allow_remote), NULL,
      "images may name files over the network" },
    { "uid", 0, KIND_ID, FIELD(uid), "N",
      "owner of the files (default: who mounts)" },
    { "gid", 0, KIND_ID, FIELD(gid), "N",
      "group of the files (default: who mounts)" },
    { "mode", 0, KIND_MODE, FIELD(file_mode), "OCTAL",
      "permission bits of the files (default: 600, or 644 for others)" },
    { "force-share", 0, KIND_ON, FIELD(force_share), NULL,
      "open although somebody else writes (the view may tear)" },
    { "key", 0, KIND_STRING, FIELD(key), "file:F|env:N|cred:N|secret:ID|ask",
      "the key of encrypted images: a file, environment variable,\n"
      "                                systemd credential, object, or typed" },
    { "object", 0, KIND_SECRET, FIELD(objects),
      "secret,id=ID,file=F|data=TEXT[,format=raw|base64]",
      "a secret that options of images may name (repeatable)" },
    { "foreground", 'f', KIND_ON, FIELD(foreground), NULL,
      "stay in the foreground" },
    { "pid-file", 0, KIND_STRING, FIELD(pid_file), "FILE",
      "write the daemon's process id to FILE" },
    { "verbose", 'v', KIND_ON, FIELD(verbose), NULL,
      "say what was chosen" },
    { "debug", 'd', KIND_ON, FIELD(debug), NULL,
      "show every request; implies -f" },
    { "version", 'V', KIND_ON, FIELD(show_version), NULL,
      "show the version" },
    { "help", 'h', KIND_ON, FIELD(show_help), NULL, "show this text" },
    { "options", 'o', KIND_MOUNT, 0, "OPT[,OPT...]",
      "mount options: all of the above, ro, rw, allow_other, ..." },
};

/* For mount(8) and its kin; not for us. */
static const char *const ignored_options[] = {
    "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail",
    "_netdev", "defaults", "loop", "nonempty", NULL,
};

/* For the kernel, as they are. */
static const char *const kernel_options[] = {
    "allow_other", "allow_root", "default_permissions", "suid", "nosuid",
    "dev", "nodev", "exec", "noexec", "atime", "noatime", "diratime",
    "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime",
    "lazytime", "nolazytime", "sync", "async", "dirsync", NULL,
};

/* What is on its way while arguments are read. */
/* Which of -r and -w were given; -o ro and rw come from mount(8) as well. */
enum { ACCESS_READ = 1 << 0, ACCESS_WRITE = 1 << 1 };

typedef struct Parser {
    unsigned access; /* of ACCESS_* */
    CliOptions *options;
    char *name;   /* of the last image */
    char *format; /* likewise */
    GPtrArray *positional; /* of const char * */
    GError **error;
} Parser;

static void image_free(CliImage *image)
{
    g_free(image->reference);
    g_free(image->name);
    g_free(image->format);
    g_free(image);
}

void cli_options_free(CliOptions *options)
{
    if (!options) {
        return;
    }
    g_ptr_array_unref(options->images);
    g_ptr_array_unref(options->allow_paths);
    g_ptr_array_unref(options->objects);
    g_free(options->key);
    g_string_free(options->mount_options, TRUE);
    g_free(options->mount_point);
    g_free(options->detect_zeroes);
    g_free(options->aio);
    g_free(options->transport);
    g_free(options->pid_file);
    g_free(options->overlay_file);
    g_free(options);
}

/* May be the last copy of a key. */
static void object_free(char *text)
{
    explicit_bzero(text, strlen(text));
    g_free(text);
}

static CliOptions *cli_options_new(void)
{
    CliOptions *options = g_new0(CliOptions, 1);

    options->images = g_ptr_array_new_with_free_func(
        (GDestroyNotify)image_free);
    options->allow_paths = g_ptr_array_new_with_free_func(g_free);
    options->objects = g_ptr_array_new_with_free_func(
        (GDestroyNotify)object_free);
    options->mount_options = g_string_new(NULL);
    options->unmap = true;
    options->uid = options->gid = CLI_NO_ID;
    options->file_mode = -1;
    return options;
}

/* ---- finding an option ---- */

/* "_" may stand for "-", as mount options usually have it. */
static bool same_name(const char *spec_name, const char *name, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        char c = name[i] == '_' ? '-' : name[i];

        if (spec_name[i] != c) {
            return false;
        }
    }
    return spec_name[length] == '\0';
}

/* By the whole name: an abbreviation of today may be ambiguous tomorrow. */
static const OptionSpec *find_long(const char *name, size_t length)
{
    for (size_t i = 0; i < G_N_ELEMENTS(specs); i++) {
        if (same_name(specs[i].name, name, length)) {
            return &specs[i];
        }
    }
    return NULL;
}

static const OptionSpec *find_short(char letter)
{
    for (size_t i = 0; i < G_N_ELEMENTS(specs); i++) {
        if (specs[i].short_name == letter) {
            return &specs[i];
        }
    }
    return NULL;
}

/* A slip of the keyboard is most often one or two letters away. */
static bool unknown_option(Parser *parser, const char *dashes,
                           const char *name)
{
    const char *closest = NULL;
    unsigned closest_distance = 4; /* further away is no misspelling */

    for (size_t i = 0; i < G_N_ELEMENTS(specs); i++) {
        unsigned distance = spelling_distance(name, specs[i].name);

        if (distance < closest_distance) {
            closest_distance = distance;
            closest = specs[i].name;
        }
    }
    if (closest) {
        g_set_error(parser->error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "unknown option '%s%s'; did you mean '%s%s'?", dashes,
                    name, dashes, closest);
    } else {
        g_set_error(parser->error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "unknown option '%s%s'; 'imgfuse --help' lists them",
                    dashes, name);
    }
    return false;
}

/* ---- storing a value ---- */

static void set_string(char **field, const char *value)
{
    g_free(*field);
    *field = g_strdup(value);
}

/* The index of @value among the alternatives of @spec, -1 with an error. */
static int alternative(Parser *parser, const OptionSpec *spec,
                       const char *value)
{
    g_auto(GStrv) values = g_strsplit(spec->value_help, "|", -1);

    for (int i = 0; values[i]; i++) {
        if (strcmp(values[i], value) == 0) {
            return i;
        }
    }
    g_set_error(parser->error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                "'%s' is no value for '%s', which takes %s", value,
                spec->name, spec->value_help);
    return -1;
}

/* A bound keeps a slip like --threads=800 from making 800 threads. */
static bool set_number(Parser *parser, const OptionSpec *spec,
                       const char *value)
{
    unsigned *field = (unsigned *)((char *)parser->options + spec->offset);
    guint64 number;

    if (!g_ascii_string_to_unsigned(value, 10, 1, CLI_THREADS_MAX, &number,
                                    NULL)) {
        g_set_error(parser->error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "'%s' is no value for '%s', which takes 1 to %d", value,
                    spec->name, CLI_THREADS_MAX);
        return false;
    }
    *field = (unsigned)number;
    return true;
}

/* Numbers only: names would be looked up in the wrong place in a container. */
static bool set_id(Parser *parser, const OptionSpec *spec, const char *value)
{
    unsigned *field = (unsigned *)((char *)parser->options + spec->offset);
    guint64 number;

    if (!g_ascii_string_to_unsigned(value, 10, 0, CLI_NO_ID - 1, &number,
                                    NULL)) {
        g_set_error(parser->error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "'%s' is no value for '%s', which takes a number", value,
                    spec->name);
        return false;
    }
    *field = (unsigned)number;
    return true;
}

/* Execute bits would mean nothing on a disk, so they are a slip. */
static bool set_mode(Parser *parser, const OptionSpec *spec,
                     const char *value)
{
    guint64 number;

    if (!g_ascii_string_to_unsigned(value, 8, 0, 0666, &number, NULL) ||
        (number & 0111)) {
        g_set_error(parser->error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "'%s' is no value for '%s', which takes read and write "
                    "bits in octal, as 640", value, spec->name);
        return false;
    }
    parser->options->file_mode = (int)number;
    return true;
}

static bool parse_mount_options(Parser *parser, const char *list);

/* Checked here and never again: whoever uses an option need not doubt it. */
static bool store(Parser *parser, const OptionSpec *spec, const char *value)
{
    void *field = (char *)parser->options + spec->offset;
    int index;

    switch (spec->kind) {
    case KIND_ON:
    case KIND_OFF:
        if (spec->offset == FIELD(read_write)) {
            parser->access |= spec->kind == KIND_ON ? ACCESS_WRITE
                                                    : ACCESS_READ;
        }
        *(bool *)field = spec->kind == KIND_ON;
        return true;
    case KIND_OVERLAY:
        parser->options->overlay = true;
        set_string(&parser->options->overlay_file, value);
        return true;
    case KIND_ID:
        return set_id(parser, spec, value);
    case KIND_MODE:
        return set_mode(parser, spec, value);
    case KIND_STRING:
        set_string(field, value);
        return true;
    case KIND_LIST:
        g_ptr_array_add(*(GPtrArray **)field, g_strdup(value));
        return true;
    case KIND_SECRET:
        g_ptr_array_add(*(GPtrArray **)field, g_strdup(value));
        secret_hide((char *)value); /* argv's, or a copy's */
        return true;
    case KIND_NAME:
        set_string(&parser->name, value);
        return true;
    case KIND_FORMAT:
        set_string(&parser->format, value);
        return true;
    case KIND_NUMBER:
        return set_number(parser, spec, value);
    case KIND_MOUNT:
        return parse_mount_options(parser, value);
    case KIND_ENUM:
    case KIND_CACHE:
    case KIND_UNMAP:
        break;
    }

    index = alternative(parser, spec, value);
    if (index < 0) {
        return false;
    }
    if (spec->kind == KIND_ENUM) {
        set_string(field, value);
    } else if (spec->kind == KIND_CACHE) {
        *(CliCache *)field = (CliCache)index; /* the help has their order */
    } else {
        *(bool *)field = index == 0;
    }
    return true;
}

/* @value NULL: none was given. */
static bool apply(Parser *parser, const OptionSpec *spec, const char *value)
{
    if (!value != !spec->value_help && spec->kind != KIND_OVERLAY) {
        g_set_error(parser->error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    value ? "option '%s' takes no value%s"
                    : "option '%s' needs a value: %s", spec->name,
                    value ? "" : spec->value_help);
        return false;
    }
    return store(parser, spec, value);
}

/* ---- -o ---- */

static bool apply_mount_option(Parser *parser, const char *text)
{
    size_t length = strcspn(text, "=");
    const char *value = text[length] ? text + length + 1 : NULL;
    CliOptions *options = parser->options;
    const OptionSpec *spec;

    if (!*text || g_strv_contains(ignored_options, text) ||
        g_str_has_prefix(text, "x-") || g_str_has_prefix(text, "comment=")) {
        return true;
    }
    if (strcmp(text, "ro") == 0 || strcmp(text, "rw") == 0) {
        options->read_write = text[1] == 'w';
        options->wants_read_only = !options->read_write;
        return true;
    }
    if (g_strv_contains(kernel_options, text)) {
        options->others |= g_str_has_prefix(text, "allow_");
        g_string_append_printf(options->mount_options, "%s%s",
                               options->mount_options->len ? "," : "", text);
        return true;
    }
    spec = find_long(text, length);
    if (!spec || spec->kind == KIND_MOUNT) {
        return unknown_option(parser, "-o ", text);
    }
    if (spec->kind == KIND_SECRET && value && strstr(value, "data=")) {
        g_set_error(parser->error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "-o %s: lists of mount options are for everybody to see; "
                    "give the secret by file=", spec->name);
        return false;
    }
    return apply(parser, spec, value);
}

/* libfuse calls it for each part of the list; -1 ends the parsing. */
static int on_mount_option(void *opaque, const char *argument, int key,
                           struct fuse_args *rest)
{
    Parser *parser = opaque;

    if (key != FUSE_OPT_KEY_OPT) {
        return 0;
    }
    return apply_mount_option(parser, argument) ? 0 : -1;
}

static bool parse_mount_options(Parser *parser, const char *list)
{
    static const struct fuse_opt none[] = { FUSE_OPT_END };
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    bool ok;

    fuse_opt_add_arg(&args, "imgfuse");
    fuse_opt_add_arg(&args, "-o");
    fuse_opt_add_arg(&args, list);
    ok = fuse_opt_parse(&args, parser, none, on_mount_option) == 0;
    fuse_opt_free_args(&args);
    return ok;
}

/* ---- arguments ---- */

/* "--name", "--name=value" or "--name" "value"; *index is moved on. */
static bool parse_long(Parser *parser, int argc, char **argv, int *index)
{
    const char *text = argv[*index] + 2;
    size_t length = strcspn(text, "=");
    const char *value = text[length] ? text + length + 1 : NULL;
    const OptionSpec *spec = find_long(text, length);

    if (!spec) {
        g_autofree char *name = g_strndup(text, length);

        return unknown_option(parser, "--", name);
    }
    if (spec->value_help && !value && spec->kind != KIND_OVERLAY &&
        *index + 1 < argc) {
        value = argv[++*index];
    }
    return apply(parser, spec, value);
}

/* "-fv", "-ofoo", "-o" "foo". */
static bool parse_short(Parser *parser, int argc, char **argv, int *index)
{
    for (const char *letter = argv[*index] + 1; *letter; letter++) {
        const OptionSpec *spec = find_short(*letter);
        const char *value = NULL;

        if (!spec) {
            const char name[] = { *letter, '\0' };

            return unknown_option(parser, "-", name);
        }
        if (spec->value_help) {
            if (letter[1]) {
                value = letter + 1;
            } else if (*index + 1 < argc) {
                value = argv[++*index];
            }
        }
        if (!apply(parser, spec, value)) {
            return false;
        }
        if (spec->value_help) {
            break;
        }
    }
    return true;
}

/* name=evidence,file=c.E01[,format=ewf] */
static CliImage *parse_named_image(const char *text, GError **error)
{
    g_autoptr(BlockOptions) tree = block_options_from_string(text, error);
    CliImage *image;
    const char *rest;

    if (!tree) {
        return NULL;
    }
    image = g_new0(CliImage, 1);
    if (!block_options_take_string(tree, "name", &image->name, error) ||
        !block_options_take_string(tree, "file", &image->reference, error) ||
        !block_options_take_string(tree, "format", &image->format, error)) {
        image_free(image);
        return NULL;
    }
    rest = block_options_first_key(tree);
    if (rest || !image->reference) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "'%s': %s%s%s; it is name=NAME,file=IMAGE[,format=FMT]",
                    text, rest ? "'" : "", rest ? rest : "file= is missing",
                    rest ? "' is unknown" : "");
        image_free(image);
        return NULL;
    }
    return image;
}

static bool add_image(Parser *parser, const char *text)
{
    CliImage *image;

    if (g_str_has_prefix(text, "name=") && strstr(text, ",file=")) {
        image = parse_named_image(text, parser->error);
        if (!image) {
            return false;
        }
    } else {
        image = g_new0(CliImage, 1);
        image->reference = g_strdup(text);
    }
    g_ptr_array_add(parser->options->images, image);
    return true;
}

/* All but the last positional argument are images. */
static bool take_positional(Parser *parser)
{
    CliOptions *options = parser->options;
    guint n = parser->positional->len;
    CliImage *last;

    if (n < 2) {
        g_set_error(parser->error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s; usage: imgfuse [OPTIONS] IMAGE... MOUNTPOINT, or "
                    "imgfuse COMMAND ...; 'imgfuse --help' says more",
                    n == 0 ? "the image is missing"
                    : "the mount point is missing");
        return false;
    }
    for (guint i = 0; i < n - 1; i++) {
        if (!add_image(parser, g_ptr_array_index(parser->positional, i))) {
            return false;
        }
    }
    options->mount_point = g_strdup(g_ptr_array_index(parser->positional,
                                                      n - 1));
    last = g_ptr_array_index(options->images, options->images->len - 1);
    if (parser->name) {
        set_string(&last->name, parser->name);
    }
    if (parser->format) {
        set_string(&last->format, parser->format);
    }
    return true;
}

static bool check_overlay(const Parser *parser, GError **error)
{
    CliOptions *options = parser->options;
    const char *file = options->overlay_file;
    const char *problem = NULL;

    if (!options->overlay) {
        return true;
    }
    if (options->wants_read_only || parser->access == ACCESS_READ) {
        problem = " is for writing; it cannot be combined with read-only";
    } else if (file && !*file) {
        problem = "= lacks a file name; leave out '=' for a file that goes "
                  "away";
    } else if (file && options->images->len != 1) {
        problem = "=FILE is for one image; mount several one by one";
    } else if (file && options->image_opts) {
        problem = "=FILE needs an image with a file name; it cannot be "
                  "combined with image-opts";
    }
    if (problem) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION, "overlay%s",
                    problem);
        return false;
    }
    options->read_write = true;
    return true;
}

static bool check_together(const Parser *parser, GError **error)
{
    const CliOptions *options = parser->options;
    bool direct = options->cache == CLI_CACHE_NONE ||
                  options->cache == CLI_CACHE_DIRECTSYNC;

    if (parser->access == (ACCESS_READ | ACCESS_WRITE)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "read-only (-r) and read-write (-w) exclude each other");
        return false;
    }
    if (g_strcmp0(options->aio, "native") == 0 && !direct) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "aio=native needs cache=none or cache=directsync");
        return false;
    }
    if (options->force_share && options->read_write) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "force-share is for reading; it cannot be combined with "
                    "read-write");
        return false;
    }
    if (options->growable && !options->read_write) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "growable needs read-write (-w)");
        return false;
    }
    return true;
}

static bool parse_all(Parser *parser, int argc, char **argv)
{
    CliOptions *options = parser->options;
    bool only_names = false;

    for (int i = 1; i < argc; i++) {
        const char *text = argv[i];
        bool ok = true;

        if (only_names || text[0] != '-' || !text[1]) {
            g_ptr_array_add(parser->positional, (char *)text);
        } else if (strcmp(text, "--") == 0) {
            only_names = true;
        } else if (text[1] == '-') {
            ok = parse_long(parser, argc, argv, &i);
        } else {
            ok = parse_short(parser, argc, argv, &i);
        }
        if (!ok) {
            return false;
        }
    }
    options->foreground |= options->debug;
    if (options->show_help || options->show_version) {
        return true;
    }
    return take_positional(parser) && check_overlay(parser, parser->error) &&
           check_together(parser, parser->error);
}

CliOptions *cli_options_parse(int argc, char **argv, GError **error)
{
    g_autoptr(CliOptions) options = cli_options_new();
    g_autoptr(GPtrArray) positional = g_ptr_array_new();
    Parser parser = {
        .options = options,
        .positional = positional,
        .error = error,
    };
    bool ok = parse_all(&parser, argc, argv);

    g_free(parser.name);
    g_free(parser.format);
    return ok ? g_steal_pointer(&options) : NULL;
}

/* What becomes of each image; reading is what happens when nothing is said. */
BdrvOpenFlags cli_options_open_flags(const CliOptions *options)
{
    static const BdrvOpenFlags cache_flags[] = {
        [CLI_CACHE_WRITEBACK] = 0,
        [CLI_CACHE_NONE] = BDRV_O_NOCACHE,
        [CLI_CACHE_WRITETHROUGH] = BDRV_O_WRITETHROUGH,
        [CLI_CACHE_DIRECTSYNC] = BDRV_O_NOCACHE | BDRV_O_WRITETHROUGH,
        [CLI_CACHE_UNSAFE] = BDRV_O_NO_FLUSH,
    };
    BdrvOpenFlags flags = cache_flags[options->cache];

    flags |= options->read_write ? BDRV_O_RDWR : BDRV_O_RDONLY;
    flags |= options->unmap ? BDRV_O_UNMAP : 0;
    flags |= options->growable ? BDRV_O_RESIZE : 0;
    flags |= options->force_share ? BDRV_O_FORCE_SHARE : 0;
    return flags;
}

/* From the table, so that it cannot be out of date. */
char *cli_options_help(void)
{
    GString *text = g_string_new(
        "usage: imgfuse [OPTIONS] IMAGE... MOUNTPOINT\n"
        "       imgfuse umount MOUNTPOINT\n"
        "       imgfuse COMMAND [ARGUMENTS]   (imgfuse help lists them)\n\n"
        "Shows disk images as plain files in a mount. IMAGE is a file name,\n"
        "json:{...}, or name=NAME,file=IMAGE[,format=FMT]. MOUNTPOINT is a\n"
        "folder, or a regular file to mount a single image over.\n"
        "Each long option is a mount option, too: -o growable,cache=none\n\n");

    for (size_t i = 0; i < G_N_ELEMENTS(specs); i++) {
        const OptionSpec *spec = &specs[i];
        g_autofree char *left =
            g_strdup_printf(spec->kind == KIND_OVERLAY ? "--%s[%s%s]"
                                                       : "--%s%s%s",
                            spec->name, spec->value_help ? "=" : "",
                            spec->value_help ? spec->value_help : "");

        if (spec->short_name) {
            g_string_append_printf(text, "  -%c, ", spec->short_name);
        } else {
            g_string_append(text, "      ");
        }
        g_string_append_printf(text, "%-26s%s%s\n", left,
                               strlen(left) > 25
                               ? "\n                                " : "",
                               spec->help);
    }
    return g_string_free(text, FALSE);
}
