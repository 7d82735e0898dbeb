/* SPDX-License-Identifier: MIT */
/*
 * the kernel's FUSE protocol, as far as the distribution's header lacks it
 *
 * Everything here is part of the kernel's stable user interface. Each value is
 * guarded by the protocol version that brought it (in brackets: the kernel),
 * so that a newer <linux/fuse.h> takes over by itself. What has no macro of
 * its own (enumerators, structures) is guarded by the header's minor version.
 */
#ifndef FUSE_WIRE_H
#define FUSE_WIRE_H

#include <linux/fuse.h>
#include <stdint.h>

/* 7.39 (Linux 6.6): shared mmap of files opened with FOPEN_DIRECT_IO. */
#ifndef FUSE_DIRECT_IO_ALLOW_MMAP
#define FUSE_DIRECT_IO_ALLOW_MMAP (1ULL << 36)
#endif

/* 7.40 (Linux 6.9): file handles of the NFS kind are not to be made. */
#ifndef FUSE_NO_EXPORT_SUPPORT
#define FUSE_NO_EXPORT_SUPPORT (1ULL << 38)
#endif

/* 7.39 (Linux 6.6): statx, which comes only when a birth time is asked for. */
#if FUSE_KERNEL_MINOR_VERSION < 39
#define FUSE_STATX 52

struct fuse_sx_time {
    int64_t tv_sec;
    uint32_t tv_nsec;
    int32_t __reserved;
};

struct fuse_statx {
    uint32_t mask;
    uint32_t blksize;
    uint64_t attributes;
    uint32_t nlink;
    uint32_t uid;
    uint32_t gid;
    uint16_t mode;
    uint16_t __spare0[1];
    uint64_t ino;
    uint64_t size;
    uint64_t blocks;
    uint64_t attributes_mask;
    struct fuse_sx_time atime;
    struct fuse_sx_time btime;
    struct fuse_sx_time ctime;
    struct fuse_sx_time mtime;
    uint32_t rdev_major;
    uint32_t rdev_minor;
    uint32_t dev_major;
    uint32_t dev_minor;
    uint64_t __spare2[14];
};

struct fuse_statx_in {
    uint32_t getattr_flags;
    uint32_t reserved;
    uint64_t fh;
    uint32_t sx_flags;
    uint32_t sx_mask;
};

struct fuse_statx_out {
    uint64_t attr_valid;
    uint32_t attr_valid_nsec;
    uint32_t flags;
    uint64_t spare[2];
    struct fuse_statx stat;
};
#endif

/* 7.45 (Linux 6.18): copy_file_range with a 64-bit result. */
#if FUSE_KERNEL_MINOR_VERSION < 45
#define FUSE_COPY_FILE_RANGE_64 53

struct fuse_copy_file_range_out {
    uint64_t bytes_copied;
};
#endif

/* One more than the highest opcode that we have a name for. */
#define FUSE_WIRE_OPCODES 54

/* A request's header and its first 40 bytes; WRITE data starts behind. */
#define FUSE_WIRE_HEAD_BYTES \
    (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))

_Static_assert(FUSE_WIRE_HEAD_BYTES == 80, "WRITE data starts at byte 80");
_Static_assert(sizeof(struct fuse_statx_out) == 288, "kernel's layout");
_Static_assert(sizeof(struct fuse_init_out) == 64, "kernel's layout");

#endif
