/* SPDX-License-Identifier: MIT */
/*
 * being a daemon: leaving the terminal, being ended, telling that we ended
 *
 * Order of a start: daemon_fork() before there is any thread; the child does
 * all the work with the terminal's standard error still there, so its error
 * line needs no relaying; daemon_ready() lets the parent return 0.
 */
#ifndef FUSE_DAEMON_H
#define FUSE_DAEMON_H

#include "block/error.h"

#include <stdbool.h>
#include <sys/types.h>

typedef struct DaemonReady DaemonReady;

/*
 * daemon_fork:
 * Returns in the child only. The parent waits for daemon_ready() and exits 0,
 * or, when the child ends before, exits with the child's code. NULL with
 * @error when there can be no child.
 */
DaemonReady *daemon_fork(GError **error);

/*
 * daemon_ready:
 * Lets go of parent and terminal: standard streams become /dev/null, messages
 * go to the system log, the folder is "/". Frees @ready.
 */
void daemon_ready(DaemonReady *ready);

/*
 * daemon_signals:
 * A descriptor that is readable when SIGTERM, SIGINT or SIGHUP has come
 * (signalfd); they are blocked in this thread and its future children.
 * SIGPIPE is ignored. Before there is any thread. -1 with @error.
 */
int daemon_signals(GError **error);

/* Writes our process id to @path; false with @error. */
bool daemon_write_pid_file(const char *path, GError **error);

/*
 * The farewell. The daemon that serves the mount on @device listens at an
 * address made from that number; 'imgfuse umount' connects before it unmounts,
 * and learns from what comes how the daemon has ended.
 */

/* A listening socket, or -1: then nobody can wait for us (logged with -v). */
int daemon_farewell_listen(dev_t device);

/* Tells all who wait that we end with @exit_code, and closes. */
void daemon_farewell_say(int listener, int exit_code);

/* A connection to the daemon of @device; -1 with errno. */
int daemon_farewell_connect(dev_t device);

/*
 * Waits up to @seconds for the daemon's end: its exit code; -ETIMEDOUT; or
 * -ECONNRESET when it died without a word.
 */
int daemon_farewell_wait(int connection, int seconds);

#endif
