/* SPDX-License-Identifier: MIT */
/*
 * mounting and unmounting with libfuse
 *
 * A libfuse session is made for its mount functions alone: it has no
 * operations and its loop never runs. What libfuse says on failure (and what
 * fusermount3 would) becomes the text of our error.
 *
 * Locking: none, main thread only. libfuse's log hook has no argument, hence
 * the one static string.
 */
#define FUSE_USE_VERSION 314

#include "fuse/mount.h"

#include "fuse/log.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct Mount {
    struct fuse_session *session;
    bool mounted;
};

/* What libfuse said last; see libfuse_says(). */
static char *libfuse_text;

static void libfuse_says(enum fuse_log_level level, const char *format,
                         va_list arguments)
{
    g_free(libfuse_text);
    libfuse_text = g_strstrip(g_strdup_vprintf(format, arguments));
}

/* ---- the mount table ---- */

/* Blank, tab, newline and backslash stand there as \ooo. In place. */
static void unescape(char *text)
{
    char *to = text;

    for (const char *from = text; *from; ) {
        if (from[0] == '\\' && g_ascii_isdigit(from[1]) &&
            g_ascii_isdigit(from[2]) && g_ascii_isdigit(from[3])) {
            *to++ = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 +
                           (from[3] - '0'));
            from += 4;
        } else {
            *to++ = *from++;
        }
    }
    *to = '\0';
}

/*
 * One line: "ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAGS...] - TYPE ...".
 * False when it is not about @real.
 */
static bool parse_line(const char *line, const char *real, dev_t *ret_device,
                       char **ret_fstype)
{
    g_auto(GStrv) fields = g_strsplit(line, " ", -1);
    unsigned major_number, minor_number;

    if (g_strv_length(fields) < 8 ||
        sscanf(fields[2], "%u:%u", &major_number, &minor_number) != 2) {
        return false;
    }
    unescape(fields[4]);
    if (strcmp(fields[4], real) != 0) {
        return false;
    }
    *ret_device = makedev(major_number, minor_number);
    for (char **field = fields + 6; *field; field++) {
        if (strcmp(*field, "-") == 0 && field[1]) {
            g_free(*ret_fstype);
            *ret_fstype = g_strdup(field[1]);
            break;
        }
    }
    return true;
}

bool mount_find(const char *real, dev_t *ret_device, char **ret_fstype)
{
    g_autofree char *table = NULL;
    g_autofree char *fstype = NULL;
    g_auto(GStrv) lines = NULL;
    dev_t device = 0;
    bool found = false;

    if (!g_file_get_contents("/proc/self/mountinfo", &table, NULL, NULL)) {
        return false;
    }
    lines = g_strsplit(table, "\n", -1);
    /* Later lines lie on top of earlier ones. */
    for (char **line = lines; *line; line++) {
        found |= parse_line(*line, real, &device, &fstype);
    }
    if (found && ret_device) {
        *ret_device = device;
    }
    if (found && ret_fstype) {
        *ret_fstype = g_steal_pointer(&fstype);
    }
    return found;
}

/* ---- the mount point ---- */

static bool look_at_point(const char *path, struct stat *ret_stat,
                          GError **error)
{
    if (stat(path, ret_stat) == 0) {
        return true;
    }
    if (errno == ENOENT) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_NOT_FOUND,
                    "mount point '%s' does not exist; make a folder or an "
                    "empty file there first", path);
    } else if (errno == ENOTCONN || errno == ECONNABORTED) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "mount point '%s' has a mount whose server has died; "
                    "remove it with 'fusermount3 -u %s'", path, path);
    } else {
        error_set_errno(error, errno, "mount point '%s'", path);
    }
    return false;
}

bool mount_check_point(const char *path, char **ret_real, bool *ret_is_file,
                       GError **error)
{
    g_autofree char *fstype = NULL;
    struct stat st;
    char *real;

    if (!look_at_point(path, &st, error)) {
        return false;
    }
    if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "mount point '%s' is neither a folder nor a regular file",
                    path);
        return false;
    }
    real = realpath(path, NULL);
    if (!real) {
        error_set_errno(error, errno, "mount point '%s'", path);
        return false;
    }
    if (mount_find(real, /* ret_device= */ NULL, &fstype)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "mount point '%s' is busy: a file system of type %s is "
                    "mounted there; unmount it or choose another", path,
                    fstype ? fstype : "unknown");
        free(real);
        return false;
    }
    *ret_is_file = S_ISREG(st.st_mode);
    *ret_real = real;
    return true;
}

/* ---- mounting ---- */

/* Adds "-o KEY=VALUE", commas and backslashes in VALUE escaped. */
static void add_value(struct fuse_args *args, const char *key,
                      const char *value)
{
    g_autoptr(GString) option = g_string_new(key);

    g_string_append_c(option, '=');
    for (; *value; value++) {
        if (*value == ',' || *value == '\\') {
            g_string_append_c(option, '\\');
        }
        g_string_append_c(option, *value);
    }
    fuse_opt_add_arg(args, "-o");
    fuse_opt_add_arg(args, option->str);
}

/*
 * fsname is what mount(8) and df(1) show; the subtype makes it "fuse.imgfuse".
 */
static void fill_args(struct fuse_args *args, const char *source,
                      const char *options, bool read_only)
{
    fuse_opt_add_arg(args, "imgfuse");
    add_value(args, "fsname", source);
    fuse_opt_add_arg(args, "-o");
    fuse_opt_add_arg(args, read_only
                     ? "subtype=imgfuse,default_permissions,ro"
                     : "subtype=imgfuse,default_permissions,rw");
    if (options && *options) {
        fuse_opt_add_arg(args, "-o");
        fuse_opt_add_arg(args, options);
    }
}

/* libfuse tells reasons only through its log, which libfuse_says() keeps. */
static void set_libfuse_error(GError **error, const char *what)
{
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED, "%s: %s", what,
                libfuse_text && *libfuse_text ? libfuse_text
                : "the reason stands above, or in the system log");
}

/*
 * libfuse mounts, since it knows fusermount3 for ordinary users; its loop is
 * not used: requests are read by transport_dev.c.
 */
Mount *mount_new(const char *point, const char *source, const char *options,
                 bool read_only, GError **error)
{
    static const struct fuse_lowlevel_ops no_operations;
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    g_autoptr(Mount) mount = g_new0(Mount, 1);
    g_autofree char *what = g_strdup_printf("cannot mount at '%s'", point);

    fuse_set_log_func(libfuse_says);
    fill_args(&args, source, options, read_only);
    mount->session = fuse_session_new(&args, &no_operations,
                                      sizeof(no_operations), NULL);
    fuse_opt_free_args(&args);
    if (!mount->session) {
        set_libfuse_error(error, what);
        return NULL;
    }
    if (fuse_session_mount(mount->session, point) != 0) {
        set_libfuse_error(error, what);
        return NULL;
    }
    mount->mounted = true;
    return g_steal_pointer(&mount);
}

int mount_fd(const Mount *mount)
{
    return fuse_session_fd(mount->session);
}

/* Once only: the point may be somebody else's mount by then. */
void mount_unmount(Mount *mount)
{
    if (mount->mounted) {
        fuse_session_unmount(mount->session);
        mount->mounted = false;
    }
}

/* The text of libfuse's last complaint is global, as its log function is. */
void mount_free(Mount *mount)
{
    if (!mount) {
        return;
    }
    mount_unmount(mount);
    if (mount->session) {
        fuse_session_destroy(mount->session);
    }
    g_free(mount);
    g_clear_pointer(&libfuse_text, g_free);
}
