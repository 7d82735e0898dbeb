/* SPDX-License-Identifier: MIT */
/*
 * tests of drivers/qcow2/refcount.c: counts of every width, and who may be
 * given a cluster
 */
#include "drivers/qcow2/qcow2.h"
#include "tests/unit/qcow2_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CLUSTER 4096
#define SIZE (8 * MIB)
#define REFTABLE_AT (1 * CLUSTER)
#define REFBLOCK_AT (2 * CLUSTER)

typedef struct Alloc {
    BlockDriverState *bs;
    int64_t wanted, needed;
    int64_t host_offset, clusters;
    int ret;
} Alloc;

static void coroutine_fn alloc_entry(void *opaque)
{
    Alloc *a = opaque;
    Qcow2State *q = qcow2_state(a->bs);

    co_mutex_lock(&q->lock);
    a->ret = qcow2_alloc_clusters(a->bs, a->wanted, a->needed,
                                  &a->host_offset, &a->clusters);
    co_mutex_unlock(&q->lock);
}

static int alloc(BlockBackend *blk, int64_t wanted, int64_t needed,
                 int64_t *host_offset, int64_t *clusters)
{
    Alloc a = { blk_bs(blk), wanted, needed, -1, -1, 0 };

    aio_run_sync(alloc_entry, &a);
    *host_offset = a.host_offset;
    *clusters = a.clusters;
    return a.ret;
}

static BlockBackend *open_image(const Qcow2Image *image)
{
    GError *error = NULL;
    BlockBackend *blk;

    test_disk_load(image->data, image->bytes);
    blk = test_disk_open(BDRV_O_RDWR, "", &error);
    if (!blk) {
        fail_msg("%s", error->message);
    }
    return blk;
}

static void test_counts_of_every_width_keep_to_themselves(void **state)
{
    for (unsigned order = 0; order <= 6; order++) {
        uint8_t block[512];
        uint64_t max = order == 6 ? UINT64_MAX : (1ull << (1u << order)) - 1;
        int64_t counts = sizeof(block) * 8 >> order;

        memset(block, 0, sizeof(block));
        for (int64_t i = 0; i < counts; i++) {
            qcow2_refcount_set(block, order, i, i % 2 ? max : 0);
        }
        for (int64_t i = 0; i < counts; i++) {
            assert_true(qcow2_refcount_get(block, order, i) ==
                        (i % 2 ? max : 0));
        }
    }
}

/* qcow2 spec: of counts below 8 bits the first is in the low bits. */
static void test_small_counts_start_with_the_low_bits(void **state)
{
    uint8_t block[1] = { 0 };

    qcow2_refcount_set(block, /* order= */ 0, 0, 1);
    assert_int_equal(block[0], 0x01);
    qcow2_refcount_set(block, /* order= */ 2, 1, 0xa);
    assert_int_equal(block[0], 0xa1);
}

static void test_allocation_skips_what_is_counted(void **state)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, 12, SIZE);
    BlockBackend *blk;
    int64_t host, clusters;

    qcow2_image_set16(image, REFBLOCK_AT + 2 * 6, 1);
    blk = open_image(image);

    assert_int_equal(alloc(blk, 5, 1, &host, &clusters), 0);
    assert_int_equal(host, 4 * CLUSTER);
    assert_int_equal(clusters, 2);
    assert_int_equal(alloc(blk, 5, 5, &host, &clusters), 0);
    assert_int_equal(host, 7 * CLUSTER);
    assert_int_equal(clusters, 5);
    blk_free(blk);
}

/* Refcounts of all structures are 0: nothing may be given out. */
static void test_uncounted_structures_stop_allocation(void **state)
{
    static const struct {
        const char *name;
        int64_t at;
    } damages[] = {
        { "header", REFBLOCK_AT },
        { "refcount table", REFBLOCK_AT + 2 },
        { "refcount block", REFBLOCK_AT + 4 },
        { "L1", REFBLOCK_AT + 6 },
        { "L2", REFBLOCK_AT + 8 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(damages); i++) {
        g_autoptr(Qcow2Image) image = qcow2_image_new(3, 12, SIZE);
        int64_t l2 = qcow2_image_append(image, 1);
        uint8_t data[CLUSTER] = "x";
        BlockBackend *blk;

        qcow2_image_set64(image, 3 * CLUSTER, l2 | QCOW2_ENTRY_COPIED);
        qcow2_image_set16(image, damages[i].at, 0);
        blk = open_image(image);

        if (blk_pwrite(blk, 0, sizeof(data), data) != -EIO) {
            fail_msg("an uncounted %s did not stop a write",
                     damages[i].name);
        }
        blk_free(blk);
    }
}

/*
 * A lie that no structure shows: the cluster of a guest is free. The first
 * look at its entry ends allocation, or the guest's data would be lost.
 */
static void test_a_guests_free_cluster_stops_allocation(void **state)
{
    static const struct {
        uint64_t flags;
        const char *what;
    } kinds[] = {
        { QCOW2_ENTRY_COPIED, "own" }, { 0, "shared" },
        { QCOW2_L2_COMPRESSED, "compressed" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autoptr(Qcow2Image) image = qcow2_image_new(3, 12, SIZE);
        int64_t l2 = qcow2_image_append(image, 1);
        int64_t data = qcow2_image_append(image, 1);
        uint8_t byte = 'n';
        BlockBackend *blk;

        memset(image->data + data, 'o', CLUSTER);
        qcow2_image_set64(image, 3 * CLUSTER, QCOW2_ENTRY_COPIED | l2);
        qcow2_image_set64(image, l2 + 8, kinds[i].flags | data);
        qcow2_image_set16(image, REFBLOCK_AT + data / CLUSTER * 2, 0);
        blk = open_image(image);

        /* Another guest cluster, even of another table. */
        assert_int_equal(blk_pwrite(blk, 5 * CLUSTER, 1, &byte), -EIO);
        assert_int_equal(blk_pwrite(blk, 3 * MIB, 1, &byte), -EIO);
        assert_int_equal(test_disk.data[data], 'o');
        assert_true(be64_get((be64 *)(test_disk.data + 72)) &
                    QCOW2_INCOMPAT_CORRUPT);
        blk_free(blk);
    }
}

static void test_a_missing_block_over_structures_stops_allocation(void **s)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, 12, SIZE);
    uint8_t data[CLUSTER] = "x";
    BlockBackend *blk;

    qcow2_image_set64(image, REFTABLE_AT, 0);
    blk = open_image(image);

    assert_int_equal(blk_pwrite(blk, 0, sizeof(data), data), -EIO);
    blk_free(blk);
}

/* One block of 512-byte clusters counts 256 of them, one table 8 MiB. */
static void test_blocks_and_table_grow_with_the_file(void **state)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, 9, MIB / 2);
    BlockBackend *blk = open_image(image);
    Qcow2State *q = qcow2_state(blk_bs(blk));
    int64_t table_entries = q->refcounts.table_entries;
    int64_t host, clusters, last = 0, total = 0;

    while (total < 40000) {
        assert_int_equal(alloc(blk, 128, 1, &host, &clusters), 0);
        assert_true(host > last);
        last = host;
        total += clusters;
    }

    assert_true(q->refcounts.table_entries > table_entries);
    assert_int_equal(qcow2_commit_all(blk_bs(blk)), 0);
    assert_int_equal(q->header.reftable_offset, q->refcounts.table_offset);
    blk_free(blk);
}

static void test_a_long_run_crosses_blocks(void **state)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(3, 9, MIB / 2);
    BlockBackend *blk = open_image(image);
    int64_t host, clusters;

    assert_int_equal(alloc(blk, 1000, 1000, &host, &clusters), 0);
    assert_int_equal(clusters, 1000);
    blk_free(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_of_every_width_keep_to_themselves),
        cmocka_unit_test(test_small_counts_start_with_the_low_bits),
        cmocka_unit_test(test_allocation_skips_what_is_counted),
        cmocka_unit_test(test_uncounted_structures_stop_allocation),
        cmocka_unit_test(test_a_guests_free_cluster_stops_allocation),
        cmocka_unit_test(
            test_a_missing_block_over_structures_stops_allocation),
        cmocka_unit_test(test_blocks_and_table_grow_with_the_file),
        cmocka_unit_test(test_a_long_run_crosses_blocks),
    };
    int failures;

    test_disk_setup();
    failures = cmocka_run_group_tests(tests, NULL, NULL);
    test_disk_teardown();
    return failures;
}
