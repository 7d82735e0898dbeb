/* SPDX-License-Identifier: MIT */
/*
 * image locks: telling other processes what we do with an image file
 *
 * Permission n (bit n of BdrvPerm) in use is a shared lock on byte 100 + n of
 * the file, permission n not granted to others is one on byte 200 + n. Whoever
 * wants permission n takes its byte and then looks whether anybody has locked
 * 200 + n, and the other way round. QEMU does the same with the same bytes, so
 * imgfuse and a virtual machine keep out of each other's way. The bytes need
 * not exist in the file.
 *
 * The locks are "open file description" locks: they belong to the descriptor,
 * not to the process, so that closing another descriptor of the same file
 * keeps them and two nodes of one process see each other's.
 *
 * Context: control plane.
 */
#ifndef DRIVERS_FILE_LOCKS_H
#define DRIVERS_FILE_LOCKS_H

#include "block/types.h"

typedef enum FileLocking {
    FILE_LOCKING_AUTO, /* without locks where the file system has none */
    FILE_LOCKING_ON,   /* fail there */
    FILE_LOCKING_OFF,
} FileLocking;

/* The locks of one open image file. Embed; file_locks_init() before use. */
typedef struct FileLocks {
    int fd;           /* somebody else's; readable */
    char *filename;   /* for messages */
    FileLocking mode; /* AUTO becomes OFF when locks turn out unsupported */
    uint32_t held;    /* permissions whose byte 100 + n we have locked */
    uint32_t denied;  /* those whose byte 200 + n we have locked */
    uint32_t added_held;   /* what of these an open check has added */
    uint32_t added_denied;
} FileLocks;

/*
 * file_locks_init, file_locks_destroy:
 * @fd is open for reading and stays the caller's; the locks end with its
 * last close. destroy frees memory only.
 */
void file_locks_init(FileLocks *locks, int fd, const char *filename,
                     FileLocking mode);
void file_locks_destroy(FileLocks *locks);

/*
 * file_locks_check:
 * Takes what @perm (in use) and @shared (granted to others) ask for beside
 * what is already held, and looks for conflicts; retries for a moment, because
 * other tools hold locks briefly. LOCKED, naming the lock and, where /proc
 * tells, the other process; UNSUPPORTED with FILE_LOCKING_ON on a file system
 * without locks. On failure nothing has changed. After success exactly one of
 * the next two follows.
 */
bool file_locks_check(FileLocks *locks, uint32_t perm, uint32_t shared,
                      GError **error);

/* Gives up what @perm and @shared do not ask for. */
void file_locks_set(FileLocks *locks, uint32_t perm, uint32_t shared);

/* Gives up what the last check has added. */
void file_locks_abort(FileLocks *locks);

#endif
