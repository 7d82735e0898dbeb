/* SPDX-License-Identifier: MIT */
/*
 * unmounting from outside
 *
 * umount(2) of a FUSE mount returns before the daemon has flushed. So this
 * command first connects to the daemon's farewell address (daemon.h), then
 * unmounts, then waits for the daemon's word. It never touches the file
 * system itself, which may hang.
 *
 * Locking: none, a process of its own.
 */
#include "fuse/umount.h"

#include "fuse/daemon.h"
#include "fuse/log.h"
#include "fuse/mount.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

/* A flush of much dirty data to a slow disk takes its time. */
#define WAIT_SECONDS 600

/* The absolute name of @path without asking the mount itself. */
static char *real_point(const char *path)
{
    g_autofree char *absolute = g_canonicalize_filename(path, NULL);
    g_autofree char *folder = g_path_get_dirname(absolute);
    g_autofree char *base = g_path_get_basename(absolute);
    char *real_folder = realpath(folder, NULL);
    char *real;

    if (!real_folder) {
        return g_steal_pointer(&absolute);
    }
    real = g_build_filename(real_folder, base, NULL);
    free(real_folder);
    return real;
}

/* An ordinary user may not umount(2); fusermount3 may, for its owner. */
static bool unmount_with_helper(const char *point, bool lazy)
{
    const char *arguments[] = { "fusermount3", "-u", lazy ? "-z" : "--",
                                lazy ? "--" : point, lazy ? point : NULL,
                                NULL };
    g_autoptr(GError) error = NULL;
    g_autofree char *said = NULL;
    int status;

    if (!g_spawn_sync(NULL, (char **)arguments, NULL, G_SPAWN_SEARCH_PATH,
                      NULL, NULL, NULL, &said, &status, &error)) {
        log_error("%s: %s", point, error->message);
        return false;
    }
    if (status != 0) {
        log_error("%s", *g_strchomp(said) ? said : "fusermount3 failed");
        return false;
    }
    return true;
}

static bool unmount(const char *point, bool lazy)
{
    if (umount2(point, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0) {
        return true;
    }
    if (errno == EPERM) {
        return unmount_with_helper(point, lazy);
    }
    if (errno == EBUSY) {
        log_error("%s: busy, some process has files open there; end it, or "
                  "use 'imgfuse umount -l'", point);
    } else {
        log_error("%s: cannot unmount: %s", point, g_strerror(errno));
    }
    return false;
}

/* The daemon says whether all data reached the disk: that is the exit code. */
static int say_how_it_ended(const char *point, int code)
{
    if (code == -ETIMEDOUT) {
        log_error("%s: unmounted, but the daemon still works after %d s",
                  point, WAIT_SECONDS);
        return 1;
    }
    if (code == -ECONNRESET) {
        log_error("%s: unmounted, but the daemon died; check the image with "
                  "'imgfuse check'", point);
        return 1;
    }
    if (code != 0) {
        log_error("%s: unmounted, but the last flush failed; see the system "
                  "log", point);
    }
    return code;
}

/*
 * The connection comes before the unmount: afterwards the daemon may be gone
 * before it could be asked.
 */
static int unmount_and_wait(const char *path, bool lazy)
{
    g_autofree char *point = real_point(path);
    g_autofree char *fstype = NULL;
    dev_t device;
    int connection, code = 0;

    if (!mount_find(point, &device, &fstype)) {
        log_error("%s: not a mount point", path);
        return 1;
    }
    if (g_strcmp0(fstype, MOUNT_FSTYPE) != 0) {
        log_error("%s: mounted there is a file system of type %s, not ours",
                  path, fstype ? fstype : "unknown");
        return 1;
    }
    connection = daemon_farewell_connect(device);
    if (!unmount(point, lazy)) {
        code = 1;
    } else if (connection >= 0) {
        code = say_how_it_ended(path,
                                daemon_farewell_wait(connection,
                                                     WAIT_SECONDS));
    }
    if (connection >= 0) {
        close(connection);
    }
    return code;
}

static const char usage[] = "usage: imgfuse umount [-l] MOUNTPOINT";

void umount_show_help(void)
{
    printf("%s\n\n"
           "unmount, and return when the image is flushed and closed\n\n"
           "Options:\n"
           "  -l, --lazy                 also while files are open there, and "
           "wait for them\n"
           "  -h, --help                 show this text\n", usage);
}

int umount_main(int argc, char **argv)
{
    static const struct option long_options[] = {
        { "lazy", no_argument, NULL, 'l' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    bool lazy = false;
    int option;

    /* umount(8) adds -n, -v, -r, -f and so on to its helpers' arguments. */
    argv[0] = (char *)"imgfuse umount"; /* for getopt's messages */
    while ((option = getopt_long(argc, argv, "lhnvrfsN:t:o:", long_options,
                                 NULL)) != -1) {
        if (option == 'l') {
            lazy = true;
        } else if (option == 'h') {
            umount_show_help();
            return 0;
        } else if (option == '?') {
            return 2;
        }
    }
    if (argc - optind != 1) {
        fprintf(stderr, "%s\n", usage);
        return 2;
    }
    return unmount_and_wait(argv[optind], lazy);
}
