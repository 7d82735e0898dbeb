/* SPDX-License-Identifier: MIT */
/*
 * small qcow2 images in memory, built byte by byte, and a disk to open them on
 *
 *   cluster 0 header   1 refcount table   2 refcount block   3 L1 table
 *
 * The disk is a protocol driver ("test-disk") on one buffer. It can record
 * every write and flush, fail the next ones, and so play the part of a medium
 * that loses power. One disk at a time; the control plane's thread and
 * coroutines on it.
 */
#ifndef TESTS_UNIT_QCOW2_DISK_H
#define TESTS_UNIT_QCOW2_DISK_H

#include "block/backend.h"
#include "block/graph/node.h"
#include "block/io/debug_event.h"
#include "block/rt/aio_context.h"

typedef struct Qcow2Image {
    uint8_t *data;
    int64_t bytes;
    unsigned version;
    unsigned cluster_bits;
    int64_t size;
} Qcow2Image;

/* A valid empty image of at most one cluster of L1 table, 16-bit refcounts. */
Qcow2Image *qcow2_image_new(unsigned version, unsigned cluster_bits,
                            int64_t size);
void qcow2_image_free(Qcow2Image *image);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qcow2Image, qcow2_image_free)

void qcow2_image_set16(Qcow2Image *image, int64_t offset, uint16_t value);
void qcow2_image_set32(Qcow2Image *image, int64_t offset, uint32_t value);
void qcow2_image_set64(Qcow2Image *image, int64_t offset, uint64_t value);

/* Appends @clusters of zeros, counted once; returns their host offset. */
int64_t qcow2_image_append(Qcow2Image *image, int clusters);

/* One thing that happened to the disk. */
typedef enum DiskEventKind {
    DISK_WRITE,
    DISK_FLUSH,
    DISK_TRUNCATE,
} DiskEventKind;

typedef struct DiskEvent {
    DiskEventKind kind;
    int64_t offset; /* TRUNCATE: the new length */
    int64_t bytes;
    uint8_t *data;  /* WRITE: a copy */
} DiskEvent;

typedef struct TestDisk {
    uint8_t *data; /* of capacity bytes */
    int64_t length;
    int64_t capacity;
    bool record;
    GArray *events;     /* of DiskEvent */
    int writes_to_fail; /* fail from the write after this many; -1: none */
    int64_t full_at;    /* -ENOSPC for growing beyond; 0: none */
    unsigned writes, reads, flushes;
    int64_t discarded_bytes;
    bool watch; /* count the events that drivers announce; before opening */
    unsigned announced[BLOCK_DEBUG_EVENTS];
} TestDisk;

extern TestDisk test_disk;

/* Makes the disk hold a copy of @data. Forgets events and counters. */
void test_disk_load(const void *data, int64_t bytes);
void test_disk_unload(void);

/* Applies a recorded event to @data, which has room for @capacity bytes. */
void disk_event_apply(const DiskEvent *event, uint8_t *data, int64_t *length,
                      int64_t capacity);

/* Once for each test program, in main. */
void test_disk_setup(void);
void test_disk_teardown(void);

/* A qcow2 node on the disk; @extra: more options as JSON members, or "". */
BlockBackend *test_disk_open(BdrvOpenFlags flags, const char *extra,
                             GError **error);

#endif
