/* SPDX-License-Identifier: MIT */
/*
 * the daemon's beginning and end
 *
 * The readiness pipe carries one byte; its end without one means that the
 * child failed, and has said why. One fork is enough: the child is a session
 * leader, but opens every file with O_NOCTTY semantics (it opens no terminal).
 *
 * The farewell socket has an abstract address, "imgfuse-MAJOR:MINOR" after the
 * mount's device number: nothing is left behind in any folder, and the kernel
 * ends the connections even when we are killed. Who listens there is believed
 * only if it is root or the caller's own user (or if the caller is root).
 *
 * Locking: none, main thread only.
 */
#include "fuse/daemon.h"

#include "fuse/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct DaemonReady {
    int pipe_fd;
};

/* The parent's whole remaining life. */
static void G_GNUC_NORETURN wait_for_child(pid_t child, int pipe_fd)
{
    char byte;
    ssize_t n;
    int status;

    do {
        n = read(pipe_fd, &byte, 1);
    } while (n < 0 && errno == EINTR);
    if (n == 1) {
        _exit(0);
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0) {
        _exit(WEXITSTATUS(status));
    }
    if (WIFSIGNALED(status)) {
        log_error("the daemon was ended by signal %d (%s) before the mount "
                  "was ready", WTERMSIG(status),
                  strsignal(WTERMSIG(status)));
    }
    _exit(1);
}

/*
 * The parent stays until the child says that the mount answers, or has died:
 * so the exit code is true, and what follows in a script finds the mount.
 */
DaemonReady *daemon_fork(GError **error)
{
    DaemonReady *ready;
    int pipe_fds[2];
    pid_t child;

    if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
        error_set_errno(error, errno, "no pipe for the daemon");
        return NULL;
    }
    child = fork();
    if (child < 0) {
        error_set_errno(error, errno, "no process for the daemon");
        close(pipe_fds[0]);
        close(pipe_fds[1]);
        return NULL;
    }
    if (child > 0) {
        close(pipe_fds[1]);
        wait_for_child(child, pipe_fds[0]);
    }
    close(pipe_fds[0]);
    (void) setsid(); /* cannot fail: a fresh child leads no group */
    ready = g_new(DaemonReady, 1);
    ready->pipe_fd = pipe_fds[1];
    return ready;
}

/*
 * Standard error is the user's until here, so errors of the start are seen;
 * from now on the system log has them. The last thing is the word to the
 * parent.
 */
void daemon_ready(DaemonReady *ready)
{
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    (void) !chdir("/");
    log_to_syslog();
    if (null_fd >= 0) {
        (void) dup2(null_fd, STDIN_FILENO);
        (void) dup2(null_fd, STDOUT_FILENO);
        (void) dup2(null_fd, STDERR_FILENO);
        if (null_fd > STDERR_FILENO) {
            close(null_fd);
        }
    }
    /* The parent may have been killed meanwhile: nobody minds. */
    (void) !write(ready->pipe_fd, "", 1);
    close(ready->pipe_fd);
    g_free(ready);
}

/*
 * Blocked in all threads that are made later, and read as events: no handler
 * runs at a bad moment.
 */
int daemon_signals(GError **error)
{
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    signal(SIGPIPE, SIG_IGN);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) {
        error_set_errno(error, errno, "no descriptor for signals");
    }
    return fd;
}

/* Before the parent returns: who starts us may read it at once. */
bool daemon_write_pid_file(const char *path, GError **error)
{
    char text[32];
    int length = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    bool ok;

    if (fd < 0) {
        error_set_errno(error, errno, "cannot write the pid file '%s'", path);
        return false;
    }
    ok = write(fd, text, (size_t)length) == length;
    if (!ok) {
        error_set_errno(error, errno, "cannot write the pid file '%s'", path);
    }
    close(fd);
    return ok;
}

/* ---- the farewell ---- */

/*
 * Abstract, so that nothing has to be cleaned up; by device, because a path
 * may be reached by many names.
 */
static socklen_t farewell_address(dev_t device, struct sockaddr_un *address)
{
    int length;

    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    /* The first byte 0 makes it abstract. */
    length = snprintf(address->sun_path + 1, sizeof(address->sun_path) - 1,
                      "imgfuse-%u:%u", major(device), minor(device));
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
                       (size_t)length);
}

/*
 * Not being able to is no reason to refuse the mount: only umount cannot wait.
 */
int daemon_farewell_listen(dev_t device)
{
    struct sockaddr_un address;
    socklen_t length = farewell_address(device, &address);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) < 0 ||
        listen(fd, /* backlog= */ 16) < 0) {
        log_info("'imgfuse umount' cannot wait for this mount: %s",
                 g_strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    return fd;
}

/*
 * Connections that came are in the queue: whoever asked in time gets an
 * answer.
 */
void daemon_farewell_say(int listener, int exit_code)
{
    char byte = (char)exit_code;
    int connection;

    if (listener < 0) {
        return;
    }
    while ((connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        /* Who has left does not hear it; SIGPIPE is ignored. */
        (void) send(connection, &byte, 1, MSG_NOSIGNAL);
        close(connection);
    }
    close(listener);
}

/*
 * Anybody may bind such an address: an ordinary user believes the superuser
 * and himself only.
 */
int daemon_farewell_connect(dev_t device)
{
    struct sockaddr_un address;
    socklen_t length = farewell_address(device, &address);
    struct ucred peer;
    socklen_t peer_bytes = sizeof(peer);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        return -1;
    }
    if (connect(fd, (struct sockaddr *)&address, length) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_bytes) < 0) {
        int errnum = errno;

        close(fd);
        errno = errnum;
        return -1;
    }
    if (geteuid() != 0 && peer.uid != 0 && peer.uid != geteuid()) {
        close(fd);
        errno = EACCES;
        return -1;
    }
    return fd;
}

/* Is @fd readable before @deadline_us (of the monotonic clock)? */
static bool readable_before(int fd, gint64 deadline_us)
{
    struct pollfd watched = { .fd = fd, .events = POLLIN };
    int ready;

    do {
        gint64 left_us = deadline_us - g_get_monotonic_time();

        ready = poll(&watched, 1, (int)MAX(left_us / 1000, 0));
    } while (ready < 0 && errno == EINTR);
    return ready != 0;
}

/* A descriptor that turns readable when the other end's process ends; or -1. */
static int peer_process(int connection)
{
    struct ucred peer;
    socklen_t peer_bytes = sizeof(peer);

    if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer,
                   &peer_bytes) < 0 || peer.pid <= 0) {
        return -1;
    }
    return (int)syscall(SYS_pidfd_open, peer.pid, /* flags= */ 0);
}

/*
 * After the word the process still has to end, which closes what a file system
 * below may be waiting for.
 */
int daemon_farewell_wait(int connection, int seconds)
{
    gint64 deadline_us = g_get_monotonic_time() +
                         (gint64)seconds * G_USEC_PER_SEC;
    int process = peer_process(connection);
    int code = -ECONNRESET;
    char byte;

    if (!readable_before(connection, deadline_us)) {
        code = -ETIMEDOUT;
    } else if (read(connection, &byte, 1) == 1) {
        /* The word comes when all is closed; the end follows at once. */
        code = (unsigned char)byte;
    }
    if (process >= 0) {
        if (code >= 0) {
            (void)readable_before(process, deadline_us);
        }
        close(process);
    }
    return code;
}
