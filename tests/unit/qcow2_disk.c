/* SPDX-License-Identifier: MIT */
/*
 * small qcow2 images in memory and the disk to open them on: see the header
 *
 * Always true: the disk's data behind its length is zero, so that growing
 * shows zeros, as a file does.
 *
 * Locking: none, one thread.
 */
#include "tests/unit/qcow2_disk.h"

#include "block/driver.h"
#include "block/rt/thread_pool.h"
#include "drivers/qcow2/format.h"
#include "drivers/registry.h"

#include <errno.h>

#define DISK_CAPACITY (64 * MIB)
#define REFTABLE_CLUSTER 1
#define REFBLOCK_CLUSTER 2
#define L1_CLUSTER 3
#define FIRST_FREE 4

TestDisk test_disk;
static AioContext *context;
static int watching; /* 1 while the open disk counts events */

/* -- images --------------------------------------------------------------- */

void qcow2_image_set16(Qcow2Image *image, int64_t offset, uint16_t value)
{
    be16_set((be16 *)(image->data + offset), value);
}

void qcow2_image_set32(Qcow2Image *image, int64_t offset, uint32_t value)
{
    be32_set((be32 *)(image->data + offset), value);
}

void qcow2_image_set64(Qcow2Image *image, int64_t offset, uint64_t value)
{
    be64_set((be64 *)(image->data + offset), value);
}

static int64_t cluster_at(const Qcow2Image *image, int64_t index)
{
    return index << image->cluster_bits;
}

Qcow2Image *qcow2_image_new(unsigned version, unsigned cluster_bits,
                            int64_t size)
{
    Qcow2Image *image = g_new0(Qcow2Image, 1);
    int64_t reach = (int64_t)1 << (2 * cluster_bits - 3);
    Qcow2RawHeader *raw;

    image->version = version;
    image->cluster_bits = cluster_bits;
    image->size = size;
    image->bytes = cluster_at(image, FIRST_FREE);
    image->data = g_malloc0(image->bytes);
    raw = (Qcow2RawHeader *)image->data;
    be32_set(&raw->magic, QCOW2_MAGIC);
    be32_set(&raw->version, version);
    be32_set(&raw->cluster_bits, cluster_bits);
    be64_set(&raw->size, size);
    be32_set(&raw->l1_size, div_round_up(size, reach));
    be64_set(&raw->l1_table_offset, cluster_at(image, L1_CLUSTER));
    be64_set(&raw->refcount_table_offset,
             cluster_at(image, REFTABLE_CLUSTER));
    be32_set(&raw->refcount_table_clusters, 1);
    if (version >= 3) {
        be32_set(&raw->refcount_order, 4);
        be32_set(&raw->header_length, QCOW2_HEADER_V3_BYTES);
    }
    qcow2_image_set64(image, cluster_at(image, REFTABLE_CLUSTER),
                      cluster_at(image, REFBLOCK_CLUSTER));
    for (int i = 0; i < FIRST_FREE; i++) {
        qcow2_image_set16(image, cluster_at(image, REFBLOCK_CLUSTER) + i * 2,
                          1);
    }
    return image;
}

void qcow2_image_free(Qcow2Image *image)
{
    if (image) {
        g_free(image->data);
        g_free(image);
    }
}

int64_t qcow2_image_append(Qcow2Image *image, int clusters)
{
    int64_t at = image->bytes;
    int64_t bytes = cluster_at(image, clusters);

    image->data = g_realloc(image->data, at + bytes);
    memset(image->data + at, 0, bytes);
    image->bytes += bytes;
    for (int i = 0; i < clusters; i++) {
        int64_t index = (at >> image->cluster_bits) + i;

        qcow2_image_set16(
            image, cluster_at(image, REFBLOCK_CLUSTER) + index * 2, 1);
    }
    return at;
}

/* -- the disk ------------------------------------------------------------- */

static void event_clear(void *event)
{
    g_free(((DiskEvent *)event)->data);
}

void test_disk_load(const void *data, int64_t bytes)
{
    test_disk_unload();
    g_assert_cmpint(bytes, <=, DISK_CAPACITY);
    test_disk.data = g_malloc0(DISK_CAPACITY);
    test_disk.capacity = DISK_CAPACITY;
    memcpy(test_disk.data, data, bytes);
    test_disk.length = bytes;
    test_disk.writes_to_fail = -1;
    test_disk.events = g_array_new(FALSE, FALSE, sizeof(DiskEvent));
    g_array_set_clear_func(test_disk.events, event_clear);
}

void test_disk_unload(void)
{
    g_free(test_disk.data);
    g_clear_pointer(&test_disk.events, g_array_unref);
    memset(&test_disk, 0, sizeof(test_disk));
}

static void record(DiskEventKind kind, int64_t offset, int64_t bytes,
                   uint8_t *data)
{
    DiskEvent event = { kind, offset, bytes, data };

    if (test_disk.record) {
        g_array_append_val(test_disk.events, event);
    } else {
        g_free(data);
    }
}

void disk_event_apply(const DiskEvent *event, uint8_t *data, int64_t *length,
                      int64_t capacity)
{
    if (event->kind == DISK_WRITE) {
        memcpy(data + event->offset, event->data, event->bytes);
        *length = MAX(*length, event->offset + event->bytes);
    } else if (event->kind == DISK_TRUNCATE) {
        if (event->offset < *length) {
            memset(data + event->offset, 0, *length - event->offset);
        }
        *length = event->offset;
    }
    g_assert_cmpint(*length, <=, capacity);
}

static bool disk_open(BlockDriverState *bs, BlockOptions *options,
                      BdrvOpenFlags flags, GError **error)
{
    bs->length = test_disk.length;
    watching += test_disk.watch;
    __atomic_fetch_add(&bdrv_debug_nodes, test_disk.watch, __ATOMIC_RELAXED);
    return true;
}

static void disk_close(BlockDriverState *bs)
{
    __atomic_fetch_sub(&bdrv_debug_nodes, watching, __ATOMIC_RELAXED);
    watching = 0;
}

static void coroutine_fn disk_debug_event(BlockDriverState *bs,
                                          BlockDebugEvent event)
{
    test_disk.announced[event]++;
}

static const BlockDebugOps disk_debug = {
    .co_debug_event = disk_debug_event,
};

static int coroutine_fn disk_preadv(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes, IoVec *iov,
                                    size_t iov_offset, BdrvRequestFlags flags)
{
    test_disk.reads++;
    iovec_from_buffer(iov, iov_offset, test_disk.data + offset, bytes);
    return 0;
}

static int coroutine_fn disk_pwritev(BlockDriverState *bs, int64_t offset,
                                     int64_t bytes, IoVec *iov,
                                     size_t iov_offset,
                                     BdrvRequestFlags flags)
{
    uint8_t *copy;

    test_disk.writes++;
    if (test_disk.writes_to_fail == 0) {
        return -EIO;
    }
    test_disk.writes_to_fail -= test_disk.writes_to_fail > 0;
    copy = g_malloc(bytes);
    iovec_to_buffer(iov, iov_offset, copy, bytes);
    memcpy(test_disk.data + offset, copy, bytes);
    test_disk.length = MAX(test_disk.length, offset + bytes);
    record(DISK_WRITE, offset, bytes, copy);
    return 0;
}

/* Only a hint: the data stays. */
static int coroutine_fn disk_pdiscard(BlockDriverState *bs, int64_t offset,
                                      int64_t bytes)
{
    test_disk.discarded_bytes += bytes;
    return 0;
}

static int coroutine_fn disk_flush(BlockDriverState *bs)
{
    test_disk.flushes++;
    record(DISK_FLUSH, 0, 0, NULL);
    return 0;
}

static int coroutine_fn disk_truncate(BlockDriverState *bs, int64_t length,
                                      bool exact, BdrvPreallocMode prealloc,
                                      BdrvRequestFlags flags, GError **error)
{
    DiskEvent event = { DISK_TRUNCATE, length, 0, NULL };

    if (length > test_disk.capacity ||
        (test_disk.full_at && length > test_disk.full_at)) {
        return -ENOSPC;
    }
    disk_event_apply(&event, test_disk.data, &test_disk.length,
                     test_disk.capacity);
    record(DISK_TRUNCATE, length, 0, NULL);
    return 0;
}

static int64_t coroutine_fn disk_getlength(BlockDriverState *bs)
{
    return test_disk.length;
}

static const BlockDriver disk_driver = {
    .format_name = "test-disk",
    .protocol_name = "test-disk",
    .instance_size = 1,
    .open = disk_open,
    .close = disk_close,
    .debug = &disk_debug,
    .co_preadv = disk_preadv,
    .co_pwritev = disk_pwritev,
    .co_pdiscard = disk_pdiscard,
    .co_flush_to_disk = disk_flush,
    .co_truncate = disk_truncate,
    .co_getlength = disk_getlength,
};

void test_disk_setup(void)
{
    context = aio_context_new(NULL);
    g_assert(context);
    drivers_register_all();
    bdrv_register(&disk_driver);
}

void test_disk_teardown(void)
{
    test_disk_unload();
    thread_pool_shutdown();
    co_pool_drain();
    aio_context_free(context);
}

BlockBackend *test_disk_open(BdrvOpenFlags flags, const char *extra,
                             GError **error)
{
    g_autofree char *name =
        g_strdup_printf("json:{\"driver\":\"qcow2\",%s\"file\":"
                        "{\"driver\":\"test-disk\"}}", extra);

    return blk_open(name, NULL, flags, NULL, "test", error);
}
