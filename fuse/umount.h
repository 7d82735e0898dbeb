/* SPDX-License-Identifier: MIT */
/*
 * 'imgfuse umount MOUNTPOINT': unmount, and wait until the image is closed
 */
#ifndef FUSE_UMOUNT_H
#define FUSE_UMOUNT_H

/*
 * umount_main:
 * The whole command; argv[0] is its name. Also what umount(8) runs as
 * umount.fuse.imgfuse. Returns the exit code: 0 unmounted, flushed, closed;
 * 1 error; 2 wrong usage.
 */
int umount_main(int argc, char **argv);

/* What --help prints. */
void umount_show_help(void);

#endif
