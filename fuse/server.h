/* SPDX-License-Identifier: MIT */
/*
 * the life of a mount: open images, mount, serve, unmount, close
 */
#ifndef FUSE_SERVER_H
#define FUSE_SERVER_H

/*
 * server_main:
 * imgfuse [OPTIONS] IMAGE... MOUNTPOINT. Returns the exit code: 0 done, 1
 * error (one line was printed), 2 wrong usage. Drivers are registered, no
 * thread exists yet.
 */
int server_main(int argc, char **argv);

#endif
