/* SPDX-License-Identifier: MIT */
/*
 * the debug events of qcow2: each is announced by the work that its name says,
 * and not by a read in place
 */
#include "block/driver.h"
#include "block/image/snapshot.h"
#include "drivers/qcow2/qcow2.h"
#include "tests/unit/qcow2_disk.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CLUSTER_BITS 9
#define CLUSTER (1 << CLUSTER_BITS)
/* One L2 table maps 64 clusters, one cluster of L1 64 tables: 2 MiB. */
#define TABLE_REACH (64 * CLUSTER)
#define SIZE (64 * TABLE_REACH)

typedef void Work(BlockBackend *blk);

static void coroutine_fn discard_entry(void *opaque)
{
    assert_int_equal(blk_co_pdiscard(opaque, 0, CLUSTER), 0);
}

typedef struct Resize {
    BlockBackend *blk;
    int64_t length;
} Resize;

static void coroutine_fn resize_entry(void *opaque)
{
    const Resize *r = opaque;

    assert_int_equal(blk_co_truncate(r->blk, r->length, /* exact= */ true,
                                     PREALLOC_OFF, NULL), 0);
}

static void resize(BlockBackend *blk, int64_t length)
{
    Resize r = { blk, length };

    aio_run_sync(resize_entry, &r);
}

static void coroutine_fn compressed_entry(void *opaque)
{
    uint8_t data[CLUSTER] = { 0 };
    IoVec iov;

    iovec_init_buffer(&iov, data, sizeof(data));
    assert_int_equal(blk_co_pwritev(opaque, 2 * CLUSTER, CLUSTER, &iov,
                                    BDRV_REQ_WRITE_COMPRESSED), 0);
}

static void commit(BlockBackend *blk)
{
    assert_int_equal(qcow2_commit_all(blk_bs(blk)), 0);
}

static void put(BlockBackend *blk, int64_t offset, int64_t bytes)
{
    g_autofree uint8_t *data = g_malloc(bytes);

    memset(data, 'x', bytes);
    assert_int_equal(blk_pwrite(blk, offset, bytes, data), 0);
}

static void get(BlockBackend *blk, int64_t offset)
{
    uint8_t byte;

    assert_int_equal(blk_pread(blk, offset, 1, &byte), 0);
}

/* -- kinds of work; each finds cluster 0 mapped and on disk --------------- */

static void nothing(BlockBackend *blk)
{
}

static void read_data(BlockBackend *blk)
{
    get(blk, 0);
}

static void write_data(BlockBackend *blk)
{
    put(blk, 0, CLUSTER);
}

static void write_new_cluster(BlockBackend *blk)
{
    put(blk, CLUSTER, CLUSTER);
    commit(blk);
}

static void write_new_table(BlockBackend *blk)
{
    put(blk, TABLE_REACH, CLUSTER);
    commit(blk);
}

static void write_and_read_compressed(BlockBackend *blk)
{
    aio_run_sync(compressed_entry, blk);
    get(blk, 2 * CLUSTER);
}

static void write_part_of_shared(BlockBackend *blk)
{
    assert_true(bdrv_snapshot_create(blk_bs(blk), "s", NULL));
    put(blk, 10, 10);
}

static void discard(BlockBackend *blk)
{
    aio_run_sync(discard_entry, blk);
    commit(blk);
}

static void remove_snapshot(BlockBackend *blk)
{
    assert_true(bdrv_snapshot_create(blk_bs(blk), "s", NULL));
    test_disk.announced[BLOCK_DEBUG_CLUSTER_FREE] = 0;
    assert_true(bdrv_snapshot_remove(blk_bs(blk), "s", NULL));
}

/* A refcount block counts 256 clusters, the table has 64 of them. */
static void fill_a_block(BlockBackend *blk)
{
    put(blk, CLUSTER, 300 * CLUSTER);
    commit(blk);
}

static void fill_the_table(BlockBackend *blk)
{
    resize(blk, 16 * MIB);
    for (int64_t i = 0; i < 9; i++) {
        put(blk, i * MIB, MIB);
    }
    commit(blk);
}

static void grow(BlockBackend *blk)
{
    resize(blk, 2 * SIZE);
}

static void shrink(BlockBackend *blk)
{
    put(blk, SIZE - CLUSTER, CLUSTER);
    resize(blk, SIZE / 2);
    commit(blk);
}

static void make_empty(BlockBackend *blk)
{
    assert_true(blk_bs(blk)->drv->make_empty(blk_bs(blk), NULL));
}

#define E(name) (UINT64_C(1) << BLOCK_DEBUG_##name)
static_assert(BLOCK_DEBUG_EVENTS <= 64, "a bit for each event");

static const struct {
    const char *name;
    Work *work;
    uint64_t events;
} rows[] = {
    { "open", nothing, E(REFTABLE_LOAD) },
    { "read", read_data, E(L2_LOAD) | E(READ_AIO) },
    { "write in place", write_data, E(L2_LOAD) | E(REFBLOCK_LOAD) |
      E(WRITE_AIO) },
    { "new cluster", write_new_cluster, E(CLUSTER_ALLOC) |
      E(CLUSTER_ALLOC_SPACE) | E(WRITE_AIO) | E(REFBLOCK_UPDATE) |
      E(L2_UPDATE) },
    { "new table", write_new_table, E(CLUSTER_ALLOC) | E(L2_ALLOC_WRITE) |
      E(L1_UPDATE) },
    { "compressed", write_and_read_compressed, E(CLUSTER_ALLOC_BYTES) |
      E(WRITE_COMPRESSED) | E(L2_UPDATE_COMPRESSED) | E(READ_COMPRESSED) },
    { "copy on write", write_part_of_shared, E(L2_ALLOC_COW_READ) |
      E(COW_READ) | E(COW_WRITE) },
    { "discard", discard, E(L2_UPDATE) | E(CLUSTER_FREE) },
    { "snapshot removed", remove_snapshot, E(CLUSTER_FREE) },
    { "new refcount block", fill_a_block, E(REFBLOCK_ALLOC) |
      E(REFBLOCK_ALLOC_WRITE) | E(REFTABLE_UPDATE) |
      E(REFBLOCK_ALLOC_HOOKUP) },
    { "new refcount table", fill_the_table, E(REFTABLE_GROW) |
      E(REFBLOCK_ALLOC) | E(REFBLOCK_ALLOC_WRITE_BLOCKS) |
      E(REFBLOCK_ALLOC_WRITE_TABLE) | E(REFBLOCK_ALLOC_SWITCH_TABLE) },
    { "grow", grow, E(L1_GROW_ALLOC_TABLE) | E(L1_GROW_WRITE_TABLE) |
      E(L1_GROW_ACTIVATE_TABLE) },
    { "shrink", shrink, E(L1_SHRINK_WRITE_TABLE) |
      E(L1_SHRINK_FREE_L2_CLUSTERS) | E(CLUSTER_FREE) },
    { "make empty", make_empty, E(EMPTY_IMAGE_PREPARE) | E(CLUSTER_FREE) },
};

static BlockBackend *open_disk(void)
{
    GError *error = NULL;
    BlockBackend *blk = test_disk_open(
        BDRV_O_RDWR | BDRV_O_RESIZE | BDRV_O_UNMAP, "", &error);

    if (!blk) {
        fail_msg("%s", error->message);
    }
    return blk;
}

/* Cluster 0 is mapped; nobody has told of that. */
static void load_written(void)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, CLUSTER_BITS, SIZE);
    BlockBackend *blk;

    test_disk_load(image->data, image->bytes);
    blk = open_disk();
    put(blk, 0, CLUSTER);
    blk_free(blk);
    test_disk.watch = true;
}

static void test_every_event_is_announced_by_its_work(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        BlockBackend *blk;

        load_written();
        blk = open_disk();
        rows[i].work(blk);
        for (int event = 0; event < BLOCK_DEBUG_EVENTS; event++) {
            if ((rows[i].events & UINT64_C(1) << event) &&
                test_disk.announced[event] == 0) {
                fail_msg("%s: %s was not announced", rows[i].name,
                         block_debug_event_name(event));
            }
        }
        blk_free(blk);
    }
}

static void test_a_backing_file_is_announced(void **state)
{
    g_autoptr(GError) error = NULL;
    BlockBackend *blk;

    load_written();
    be64_set((be64 *)(test_disk.data + 8), 200); /* the name, "b" */
    be32_set((be32 *)(test_disk.data + 16), 1);
    test_disk.data[200] = 'b';
    blk = test_disk_open(BDRV_O_RDONLY,
                         "\"backing\":{\"driver\":\"null\","
                         "\"size\":1048576},", &error);
    if (!blk) {
        fail_msg("%s", error->message);
    }
    get(blk, CLUSTER);
    assert_int_not_equal(test_disk.announced[BLOCK_DEBUG_READ_BACKING_AIO],
                         0);
    blk_free(blk);
}

/* Only what happens is announced. */
static void test_a_read_in_place_announces_nothing_else(void **state)
{
    BlockBackend *blk;

    load_written();
    blk = open_disk();
    get(blk, 0);
    memset(test_disk.announced, 0, sizeof(test_disk.announced));
    get(blk, 0);

    for (int event = 0; event < BLOCK_DEBUG_EVENTS; event++) {
        assert_int_equal(test_disk.announced[event],
                         event == BLOCK_DEBUG_READ_AIO);
    }
    blk_free(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_event_is_announced_by_its_work),
        cmocka_unit_test(test_a_backing_file_is_announced),
        cmocka_unit_test(test_a_read_in_place_announces_nothing_else),
    };
    int failures;

    test_disk_setup();
    failures = cmocka_run_group_tests(tests, NULL, NULL);
    test_disk_teardown();
    return failures;
}
