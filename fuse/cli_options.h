/* SPDX-License-Identifier: MIT */
/*
 * the command line of a mount
 *
 *   imgfuse [OPTIONS] IMAGE... MOUNTPOINT
 *
 * Every long option has a twin of the same name for -o, so that a line of
 * fstab can say all of it; -o also takes the kernel's mount options, and
 * ignores those that are for mount(8). Parsing opens nothing and asks nobody:
 * what can only be known by looking is checked later.
 */
#ifndef FUSE_CLI_OPTIONS_H
#define FUSE_CLI_OPTIONS_H

#include "block/types.h"

/* One image to show. */
typedef struct CliImage {
    char *reference; /* file name, json:{...}, or options (--image-opts) */
    char *name;      /* in the mount; NULL: made from the reference */
    char *format;    /* NULL: probed */
} CliImage;

typedef enum CliCache {
    CLI_CACHE_WRITEBACK,
    CLI_CACHE_NONE,
    CLI_CACHE_WRITETHROUGH,
    CLI_CACHE_DIRECTSYNC,
    CLI_CACHE_UNSAFE,
} CliCache;

typedef struct CliOptions {
    GPtrArray *images; /* of CliImage * */
    char *mount_point;
    bool read_write;     /* also because of overlay */
    bool wants_read_only; /* said so, and last */
    bool overlay;        /* writes go elsewhere */
    char *overlay_file;  /* NULL: to a file that goes with the mount */
    bool snapshots;      /* shown as files */
    bool layers;         /* likewise */
    unsigned uid, gid;   /* of all files; CLI_NO_ID: whoever mounts */
    int file_mode;       /* permission bits, -1: by allow_other */
    bool image_opts;
    bool growable;
    bool unmap;          /* --discard=unmap */
    char *detect_zeroes; /* NULL: off */
    CliCache cache;
    char *aio;           /* NULL: auto */
    bool writeback;
    char *transport;     /* NULL: auto */
    unsigned threads;    /* 0: as many as suit */
    GPtrArray *allow_paths; /* of char * */
    bool allow_remote;
    bool force_share;
    GPtrArray *objects; /* of char *: secrets (block/crypto/secret.h) */
    char *key;          /* where the images' key comes from; NULL: no key */
    bool foreground;
    bool verbose;
    bool debug;
    bool show_help;
    bool show_version;
    char *pid_file;
    GString *mount_options; /* for the kernel, separated by commas */
    bool others;            /* allow_other or allow_root is among them */
} CliOptions;

#define CLI_THREADS_MAX 32
#define CLI_NO_ID UINT32_MAX

/*
 * cli_options_parse:
 * NULL with an OPTION error (exit code 2) that shows the argument and what
 * would be right. With show_help or show_version the rest may be missing.
 */
CliOptions *cli_options_parse(int argc, char **argv, GError **error);

void cli_options_free(CliOptions *options);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CliOptions, cli_options_free)

/* What bdrv_open() is to be told: flags of the cache mode and all others. */
BdrvOpenFlags cli_options_open_flags(const CliOptions *options);

/* The text of --help, made from the table of options; the caller frees. */
char *cli_options_help(void);

#endif
