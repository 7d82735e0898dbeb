/* SPDX-License-Identifier: MIT */
/*
 * image locks: byte-range locks that QEMU understands
 *
 *   byte  100 + n   a shared lock: "I use permission n"
 *   byte  200 + n   a shared lock: "nobody else may use permission n"
 *           n       0 consistent read, 1 write, 2 write unchanged, 3 resize
 *
 * Invariants:
 *  L1  first lock, then look: of two that come at the same time at least one
 *      sees the other (perhaps both do, hence the retries);
 *  L2  between check and set or abort the descriptor holds the union of the
 *      old locks and the new ones, so a permission never goes unlocked.
 *
 * Which process holds a lock the kernel does not say (F_OFD_GETLK answers -1);
 * lock_owner() looks through /proc/PID/fdinfo, for the message only.
 *
 * Locking: none; control plane.
 */
#include "drivers/file/locks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#undef G_LOG_DOMAIN
#define G_LOG_DOMAIN "imgfuse-file"

#define LOCK_BYTE_HELD 100
#define LOCK_BYTE_DENIED 200
#define LOCK_PERMISSIONS 4

/* Others' short visits (info, check) are waited for this often. */
#define LOCK_ATTEMPTS 5
#define LOCK_RETRY_MAX_US 12000

static const char *const lock_names[LOCK_PERMISSIONS] = {
    "consistent read",
    "write",
    "write unchanged",
    "resize",
};

void file_locks_init(FileLocks *locks, int fd, const char *filename,
                     FileLocking mode)
{
    *locks = (FileLocks) {
        .fd = fd,
        .filename = g_strdup(filename),
        .mode = mode,
    };
}

void file_locks_destroy(FileLocks *locks)
{
    g_clear_pointer(&locks->filename, g_free);
}

/* 0 or -errno. @type: F_RDLCK or F_UNLCK. */
static int lock_byte(int fd, off_t byte, short type)
{
    struct flock lock = {
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = byte,
        .l_len = 1,
    };

    while (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

/* Has another descriptor locked @byte? 1, 0 or -errno. */
static int lock_byte_is_taken(int fd, off_t byte)
{
    struct flock lock = {
        .l_type = F_WRLCK,
        .l_whence = SEEK_SET,
        .l_start = byte,
        .l_len = 1,
    };

    if (fcntl(fd, F_OFD_GETLK, &lock) < 0) {
        return -errno;
    }
    return lock.l_type != F_UNLCK;
}

/* Unlocks @mask's bytes from @base on. It cannot fail on a good descriptor. */
static void unlock_mask(FileLocks *locks, off_t base, uint32_t mask)
{
    for (int n = 0; n < LOCK_PERMISSIONS; n++) {
        if (mask & (1u << n)) {
            (void) lock_byte(locks->fd, base + n, F_UNLCK);
        }
    }
}

/* Does a line of fdinfo tell of an OFD lock on @byte of the file @st? */
static bool fdinfo_line_matches(const char *line, const struct stat *st,
                                off_t byte)
{
    unsigned major_id, minor_id;
    unsigned long long inode, first;
    char last_text[32] = "";
    unsigned long long last = G_MAXUINT64;

    if (!g_str_has_prefix(line, "lock:") || strstr(line, "OFDLCK") == NULL ||
        sscanf(line, "lock: %*s %*s %*s %*s %*s %x:%x:%llu %llu %31s",
               &major_id, &minor_id, &inode, &first, last_text) != 5) {
        return false;
    }
    if (g_ascii_isdigit(last_text[0])) {
        last = g_ascii_strtoull(last_text, NULL, 10);
    }
    return inode == st->st_ino && major_id == major(st->st_dev) &&
           minor_id == minor(st->st_dev) &&
           first <= (unsigned long long)byte &&
           (unsigned long long)byte <= last;
}

/* Does one of the descriptors of process @pid hold the lock? */
static bool process_holds_lock(const char *pid, const struct stat *st,
                               off_t byte)
{
    g_autofree char *folder = g_build_filename("/proc", pid, "fdinfo", NULL);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *fd_name;

    while (dir != NULL && (fd_name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *path = g_build_filename(folder, fd_name, NULL);
        g_autofree char *text = NULL;
        g_auto(GStrv) lines = NULL;

        if (!g_file_get_contents(path, &text, NULL, NULL)) {
            continue;
        }
        lines = g_strsplit(text, "\n", -1);
        for (char **line = lines; *line != NULL; line++) {
            if (fdinfo_line_matches(*line, st, byte)) {
                return true;
            }
        }
    }
    return false;
}

/* "qemu-io, process 4711", or "another process" when nobody tells. */
static char *lock_owner(int fd, off_t byte)
{
    g_autoptr(GDir) dir = g_dir_open("/proc", 0, NULL);
    g_autofree char *self = g_strdup_printf("%d", (int)getpid());
    struct stat st;
    const char *pid;

    if (fstat(fd, &st) < 0) {
        return g_strdup("another process");
    }
    while (dir != NULL && (pid = g_dir_read_name(dir)) != NULL) {
        g_autofree char *path = NULL;
        g_autofree char *comm = NULL;

        /* our own descriptors hold the same shared lock */
        if (!g_ascii_isdigit(pid[0]) || g_str_equal(pid, self) ||
            !process_holds_lock(pid, &st, byte)) {
            continue;
        }
        path = g_build_filename("/proc", pid, "comm", NULL);
        if (!g_file_get_contents(path, &comm, NULL, NULL)) {
            return g_strdup_printf("process %s", pid);
        }
        return g_strdup_printf("%s, process %s", g_strstrip(comm), pid);
    }
    return g_strdup("another process");
}

/* @byte is locked by somebody else. */
static void set_conflict_error(FileLocks *locks, off_t byte, GError **error)
{
    g_autofree char *owner = lock_owner(locks->fd, byte);
    bool denied = byte >= LOCK_BYTE_DENIED;
    const char *name =
        lock_names[byte - (denied ? LOCK_BYTE_DENIED : LOCK_BYTE_HELD)];

    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_LOCKED,
                "%s: is in use by %s, which %s ('%s' lock); is a virtual "
                "machine using the image? Stop it, or use --force-share to "
                "read it all the same",
                locks->filename, owner,
                denied ? "does not share that" : "has the image open for it",
                name);
}

/* Looks for locks of others on @mask's bytes from @base on. */
static int find_conflict(FileLocks *locks, off_t base, uint32_t mask,
                         off_t *ret_byte)
{
    for (int n = 0; n < LOCK_PERMISSIONS; n++) {
        int taken = (mask & (1u << n)) == 0
                        ? 0
                        : lock_byte_is_taken(locks->fd, base + n);

        if (taken != 0) {
            *ret_byte = base + n;
            return taken < 0 ? taken : -EAGAIN;
        }
    }
    return 0;
}

/* Locks @mask's bytes from @base on, noting each in *@added. */
static int lock_mask(FileLocks *locks, off_t base, uint32_t mask,
                     uint32_t *added, off_t *ret_byte)
{
    for (int n = 0; n < LOCK_PERMISSIONS; n++) {
        uint32_t bit = 1u << n;
        int ret;

        if ((mask & bit) == 0) {
            continue;
        }
        ret = lock_byte(locks->fd, base + n, F_RDLCK);
        if (ret < 0) {
            *ret_byte = base + n;
            return ret == -EACCES ? -EAGAIN : ret;
        }
        *added |= bit;
    }
    return 0;
}

/* One try (L1). -EAGAIN: *ret_byte is somebody else's. */
static int try_locks(FileLocks *locks, uint32_t perm, uint32_t denied,
                     off_t *ret_byte)
{
    int ret = lock_mask(locks, LOCK_BYTE_HELD, perm & ~locks->held,
                        &locks->added_held, ret_byte);

    if (ret == 0) {
        ret = lock_mask(locks, LOCK_BYTE_DENIED, denied & ~locks->denied,
                        &locks->added_denied, ret_byte);
    }
    if (ret == 0) {
        ret = find_conflict(locks, LOCK_BYTE_DENIED, locks->added_held,
                            ret_byte);
    }
    if (ret == 0) {
        ret = find_conflict(locks, LOCK_BYTE_HELD, locks->added_denied,
                            ret_byte);
    }
    if (ret < 0) {
        file_locks_abort(locks);
    }
    return ret;
}

/* The file system cannot lock, or says so in one of the usual ways. */
static bool means_unsupported(int ret)
{
    return ret == -ENOLCK || ret == -EOPNOTSUPP || ret == -ENOSYS ||
           ret == -EINVAL;
}

bool file_locks_check(FileLocks *locks, uint32_t perm, uint32_t shared,
                      GError **error)
{
    uint32_t denied = ~shared & BLK_PERM_ALL;
    off_t byte = 0;
    int ret = 0;

    g_assert(locks->added_held == 0 && locks->added_denied == 0);
    if (locks->mode == FILE_LOCKING_OFF) {
        return true;
    }

    for (int attempt = 0; attempt < LOCK_ATTEMPTS; attempt++) {
        if (attempt > 0) {
            /* of two that saw each other, one should come back first */
            g_usleep(g_random_int_range(1, LOCK_RETRY_MAX_US));
        }
        ret = try_locks(locks, perm & BLK_PERM_ALL, denied, &byte);
        if (ret != -EAGAIN) {
            break;
        }
    }

    if (ret == 0) {
        locks->held |= locks->added_held;
        locks->denied |= locks->added_denied;
        return true;
    }
    if (means_unsupported(ret) && locks->mode == FILE_LOCKING_AUTO) {
        g_debug("%s: no image locks here: %s", locks->filename,
                g_strerror(-ret));
        locks->mode = FILE_LOCKING_OFF;
        return true;
    }
    if (ret == -EAGAIN) {
        set_conflict_error(locks, byte, error);
    } else {
        error_set_errno(error, means_unsupported(ret) ? ENOTSUP : -ret,
                        "%s: cannot lock byte %d (locking=on)",
                        locks->filename, (int)byte);
    }
    return false;
}

void file_locks_set(FileLocks *locks, uint32_t perm, uint32_t shared)
{
    uint32_t denied = ~shared & BLK_PERM_ALL;

    unlock_mask(locks, LOCK_BYTE_HELD, locks->held & ~perm);
    unlock_mask(locks, LOCK_BYTE_DENIED, locks->denied & ~denied);
    locks->held &= perm;
    locks->denied &= denied;
    locks->added_held = 0;
    locks->added_denied = 0;
}

void file_locks_abort(FileLocks *locks)
{
    unlock_mask(locks, LOCK_BYTE_HELD, locks->added_held);
    unlock_mask(locks, LOCK_BYTE_DENIED, locks->added_denied);
    locks->held &= ~locks->added_held;
    locks->denied &= ~locks->added_denied;
    locks->added_held = 0;
    locks->added_denied = 0;
}
