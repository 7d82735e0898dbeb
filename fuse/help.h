/* SPDX-License-Identifier: MIT */
/*
 * 'imgfuse help [DRIVER]': what this build can do, read from its own tables
 */
#ifndef FUSE_HELP_H
#define FUSE_HELP_H

/* The whole command; argv[0] is "help". Exit code 0, or 2: no such driver. */
int help_main(int argc, char **argv);

#endif
