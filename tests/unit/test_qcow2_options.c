/* SPDX-License-Identifier: MIT */
/*
 * runtime options of qcow2 images: what they come to together, what is
 * refused, and what they do, also when they change while the image is in use
 */
#include "block/driver.h"
#include "block/graph/options.h"
#include "block/graph/reopen.h"
#include "block/image/snapshot.h"
#include "block/image/stored_bitmap.h"
#include "drivers/qcow2/overlap.h"
#include "drivers/qcow2/qcow2.h"
#include "tests/unit/qcow2_disk.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define CLUSTER_BITS 10
#define CLUSTER (1 << CLUSTER_BITS)
/* One L2 table maps 128 clusters. */
#define TABLE_REACH (128 * CLUSTER)
#define SIZE (100 * TABLE_REACH)
#define RDWR (BDRV_O_RDWR | BDRV_O_RESIZE)

static void load_empty(unsigned version)
{
    g_autoptr(Qcow2Image) image = qcow2_image_new(version, CLUSTER_BITS, SIZE);

    test_disk_load(image->data, image->bytes);
}

static BlockBackend *open_disk(BdrvOpenFlags flags, const char *extra)
{
    GError *error = NULL;
    BlockBackend *blk = test_disk_open(flags, extra, &error);

    if (!blk) {
        fail_msg("%s: %s", extra, error->message);
    }
    return blk;
}

static void fill(BlockBackend *blk, int cluster, int value)
{
    uint8_t data[CLUSTER];

    memset(data, value, sizeof(data));
    assert_int_equal(blk_pwrite(blk, (int64_t)cluster * CLUSTER, CLUSTER,
                                data), 0);
}

static void assert_filled(BlockBackend *blk, int cluster, int value)
{
    uint8_t data[CLUSTER], back[CLUSTER];

    memset(data, value, sizeof(data));
    assert_int_equal(blk_pread(blk, (int64_t)cluster * CLUSTER, CLUSTER,
                               back), 0);
    assert_memory_equal(back, data, CLUSTER);
}

static bool reopen(BlockBackend *blk, const char *options, GError **error)
{
    return bdrv_reopen_options(blk_bs(blk),
                               block_options_from_string(options, NULL),
                               error);
}

/* -- values --------------------------------------------------------------- */

/* 12800 L2 entries of 8 bytes: 100k. */
static void test_cache_sizes_share_what_there_is(void **state)
{
    static const struct {
        const char *options;
        int64_t l2_bytes, refcount_bytes;
    } rows[] = {
        { "", 32 * MIB, 4 * MIB },
        { "\"l2-cache-size\":\"1M\",", MIB, 4 * MIB },
        { "\"refcount-cache-size\":\"1M\",", 32 * MIB, MIB },
        { "\"cache-size\":\"1M\",\"l2-cache-size\":\"768k\",", 768 * KIB,
          256 * KIB },
        { "\"cache-size\":\"1M\",\"refcount-cache-size\":\"64k\",", 960 * KIB,
          64 * KIB },
        { "\"cache-size\":\"1M\",", 100 * KIB, 924 * KIB },
        { "\"cache-size\":\"50k\",", 46 * KIB, 4 * KIB },
        { "\"cache-size\":\"2k\",", 0, 2 * KIB },
    };

    load_empty(3);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        BlockBackend *blk = open_disk(BDRV_O_RDWR, rows[i].options);
        const Qcow2Options *opts = &qcow2_state(blk_bs(blk))->options;

        assert_int_equal(opts->l2_cache_bytes, rows[i].l2_bytes);
        assert_int_equal(opts->refcount_cache_bytes, rows[i].refcount_bytes);
        blk_free(blk);
    }
}

static void test_bad_values_are_refused_by_name(void **state)
{
    static const struct {
        unsigned version;
        const char *options, *message;
    } rows[] = {
        { 3, "\"cache-size\":\"1M\",\"l2-cache-size\":\"2M\",",
          "l2-cache-size is more than cache-size" },
        { 3, "\"cache-size\":\"1M\",\"refcount-cache-size\":\"2M\",",
          "refcount-cache-size is more than cache-size" },
        { 3, "\"cache-size\":\"3M\",\"l2-cache-size\":\"1M\","
             "\"refcount-cache-size\":\"2M\",", "cannot be given together" },
        { 3, "\"l2-cache-entry-size\":256,", "is 256, must be a power of" },
        { 3, "\"l2-cache-entry-size\":768,", "is 768, must be a power of" },
        { 3, "\"l2-cache-entry-size\":2048,", "the cluster size, 1024" },
        { 3, "\"cache-clean-interval\":4294967296,", "at most 4294967295" },
        { 3, "\"overlap-check\":\"some\",", "none, constant, cached, all" },
        { 3, "\"overlap-check.main-header\":\"perhaps\",", "main-header" },
        { 2, "\"lazy-refcounts\":true,", "lazy-refcounts needs" },
        { 2, "\"discard-no-unref\":true,", "discard-no-unref needs" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;

        load_empty(rows[i].version);
        assert_null(test_disk_open(BDRV_O_RDWR, rows[i].options, &error));
        if (error->code != IMGFUSE_ERROR_OPTION ||
            !strstr(error->message, rows[i].message)) {
            fail_msg("%s: %s", rows[i].options, error->message);
        }
    }
}

/* Entries from one sector up to a whole table, written, evicted and reread. */
static void test_every_l2_entry_size_keeps_the_data(void **state)
{
    for (int bytes = 512; bytes <= 8192; bytes *= 2) {
        g_autoptr(Qcow2Image) image = qcow2_image_new(3, 13, 256 * MIB);
        g_autofree char *options = g_strdup_printf(
            "\"l2-cache-entry-size\":%d,\"l2-cache-size\":\"16k\",", bytes);
        uint8_t data[100], back[100];

        test_disk_load(image->data, image->bytes);
        for (int turn = 0; turn < 2; turn++) {
            BlockBackend *blk = open_disk(RDWR, options);

            assert_int_equal(qcow2_state(blk_bs(blk))->l2.slice_words * 8,
                             bytes);
            for (int64_t i = 0; i < 150; i++) {
                int64_t at = i * 1664 * KIB; /* 208 entries on */

                memset(data, (int)(i + 1), sizeof(data));
                if (turn == 0) {
                    assert_int_equal(blk_pwrite(blk, at, 100, data), 0);
                }
                assert_int_equal(blk_pread(blk, at, 100, back), 0);
                assert_memory_equal(back, data, 100);
            }
            blk_free(blk);
        }
    }
}

/* -- discards ------------------------------------------------------------- */

static void coroutine_fn discard_first(void *opaque)
{
    assert_int_equal(blk_co_pdiscard(opaque, 0, CLUSTER), 0);
}

static void coroutine_fn double_size(void *opaque)
{
    assert_int_equal(blk_co_truncate(opaque, 2 * SIZE, /* exact= */ true,
                                     PREALLOC_OFF, NULL), 0);
}

/* What of a cluster given up in each way gets to the file. */
static void test_freed_clusters_are_punched_by_why(void **state)
{
    static const struct {
        BdrvOpenFlags flags;
        const char *options;
        bool request, snapshot, other;
    } rows[] = {
        { BDRV_O_UNMAP, "", true, true, false },
        { BDRV_O_UNMAP, "\"pass-discard-request\":false,", false, true,
          false },
        { BDRV_O_UNMAP, "\"pass-discard-snapshot\":false,", true, false,
          false },
        { BDRV_O_UNMAP, "\"pass-discard-other\":true,", true, true, true },
        { 0, "\"file.discard\":\"unmap\",", false, true, false },
        { 0, "\"file.discard\":\"unmap\",\"pass-discard-request\":true,"
             "\"discard\":\"unmap\",", true, true, false },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        BlockBackend *blk;
        int64_t before;

        load_empty(3);
        blk = open_disk(RDWR | rows[i].flags, rows[i].options);
        fill(blk, 0, 1);
        fill(blk, 1, 2);
        assert_int_equal(blk_flush(blk), 0);

        before = test_disk.discarded_bytes;
        aio_run_sync(discard_first, blk);
        assert_int_equal(qcow2_commit_all(blk_bs(blk)), 0);
        assert_int_equal(test_disk.discarded_bytes - before,
                         rows[i].request ? CLUSTER : 0);

        /* The snapshot's cluster, L2 and L1 table are its own then; the
         * table of snapshots goes, too. */
        assert_true(bdrv_snapshot_create(blk_bs(blk), "s", NULL));
        fill(blk, 1, 3);
        assert_int_equal(qcow2_commit_all(blk_bs(blk)), 0);
        before = test_disk.discarded_bytes;
        assert_true(bdrv_snapshot_remove(blk_bs(blk), "s", NULL));
        assert_int_equal(test_disk.discarded_bytes - before,
                         (rows[i].snapshot ? 3 * CLUSTER : 0) +
                             (rows[i].other ? CLUSTER : 0));

        /* A longer L1 table takes the place of a cluster. */
        before = test_disk.discarded_bytes;
        aio_run_sync(double_size, blk);
        assert_int_equal(qcow2_commit_all(blk_bs(blk)), 0);
        assert_int_equal(test_disk.discarded_bytes - before,
                         rows[i].other ? CLUSTER : 0);
        blk_free(blk);
    }
}

/* -- overlaps ------------------------------------------------------------- */

/* The guest cluster whose L2 entry is made to point at a structure. */
#define LIAR 5

static const struct {
    Qcow2OverlapClass class;
    const char *name;
} classes[] = {
    { QCOW2_OVERLAP_MAIN_HEADER, "main-header" },
    { QCOW2_OVERLAP_ACTIVE_L1, "active-l1" },
    { QCOW2_OVERLAP_ACTIVE_L2, "active-l2" },
    { QCOW2_OVERLAP_REFCOUNT_TABLE, "refcount-table" },
    { QCOW2_OVERLAP_REFCOUNT_BLOCK, "refcount-block" },
    { QCOW2_OVERLAP_SNAPSHOT_TABLE, "snapshot-table" },
    { QCOW2_OVERLAP_INACTIVE_L1, "inactive-l1" },
    { QCOW2_OVERLAP_INACTIVE_L2, "inactive-l2" },
    { QCOW2_OVERLAP_BITMAP_DIRECTORY, "bitmap-directory" },
};
static_assert(G_N_ELEMENTS(classes) == QCOW2_OVERLAP_CLASSES, "all classes");

static uint64_t disk64(int64_t offset)
{
    return be64_get((const be64 *)(test_disk.data + offset)) &
           QCOW2_OFFSET_MASK;
}

/* Loads an image that has each structure; they are at @ret_at[class]. */
static void load_with_everything(int64_t *ret_at)
{
    BlockBackend *blk;
    const Qcow2Header *header;

    load_empty(3);
    blk = open_disk(RDWR, "");
    assert_true(bdrv_bitmap_add(blk_bs(blk), "b", CLUSTER, false, NULL));
    fill(blk, 0, 1);
    assert_true(bdrv_snapshot_create(blk_bs(blk), "s", NULL));
    fill(blk, 0, 2);
    blk_free(blk);

    blk = open_disk(0, "");
    header = &qcow2_state(blk_bs(blk))->header;
    ret_at[0] = 0;
    ret_at[1] = header->l1_offset;
    ret_at[2] = disk64(header->l1_offset);
    ret_at[3] = header->reftable_offset;
    ret_at[4] = disk64(header->reftable_offset);
    ret_at[5] = header->snapshots_offset;
    ret_at[6] = disk64(header->snapshots_offset);
    ret_at[7] = disk64(ret_at[6]);
    ret_at[8] = header->bitmap_directory_offset;
    blk_free(blk);
}

/* Has a write to the liar reached @target? */
static bool write_gets_through(const char *options, int64_t l2, int64_t target)
{
    g_autofree uint8_t *before = g_memdup2(test_disk.data, test_disk.length);
    int64_t length = test_disk.length;
    uint8_t data[CLUSTER];
    BlockBackend *blk;
    bool is_there, is_marked;
    int ret;

    be64_set((be64 *)(test_disk.data + l2 + LIAR * 8),
             target | QCOW2_ENTRY_COPIED);
    blk = open_disk(RDWR, options);
    memset(data, 'x', sizeof(data));
    ret = blk_pwrite(blk, LIAR * CLUSTER, CLUSTER, data);
    is_there = memcmp(test_disk.data + target, data, CLUSTER) == 0;
    is_marked = be64_get((be64 *)(test_disk.data + 72)) &
                QCOW2_INCOMPAT_CORRUPT;

    if (ret != (is_there ? 0 : -EIO)) {
        fail_msg("%s 0x%" PRIx64 ": %d", options, target, ret);
    }
    assert_true(is_there || is_marked);
    blk_free(blk);
    test_disk_load(before, length);
    return is_there;
}

static void test_each_overlap_class_is_checked_by_itself(void **state)
{
    int64_t at[QCOW2_OVERLAP_CLASSES];

    load_with_everything(at);
    /* No L2 entry can name the header's cluster: see test_qcow2_overlap. */
    for (size_t i = 1; i < G_N_ELEMENTS(classes); i++) {
        g_autofree char *alone = g_strdup_printf(
            "\"overlap-check\":{\"template\":\"none\",\"%s\":true},",
            classes[i].name);
        g_autofree char *all_but = g_strdup_printf(
            "\"overlap-check\":{\"template\":\"all\",\"%s\":false},",
            classes[i].name);

        assert_int_equal(classes[i].class, 1u << i);
        for (size_t k = i; k-- > 0;) {
            assert_int_not_equal(at[i], at[k]);
        }
        assert_false(write_gets_through("", at[2], at[i]));
        assert_false(write_gets_through(alone, at[2], at[i]));
        assert_true(write_gets_through(all_but, at[2], at[i]));
        assert_true(write_gets_through("\"overlap-check\":\"none\",", at[2],
                                       at[i]));
    }
}

static void test_overlap_templates_are_sets_of_classes(void **state)
{
    static const struct {
        const char *options;
        unsigned classes;
    } rows[] = {
        { "\"overlap-check\":\"none\",", 0 },
        { "\"overlap-check\":\"constant\",",
          QCOW2_OVERLAP_MAIN_HEADER | QCOW2_OVERLAP_REFCOUNT_TABLE |
          QCOW2_OVERLAP_SNAPSHOT_TABLE | QCOW2_OVERLAP_BITMAP_DIRECTORY },
        { "\"overlap-check\":\"cached\",",
          QCOW2_OVERLAP_ALL & ~QCOW2_OVERLAP_INACTIVE_L2 },
        { "\"overlap-check\":\"all\",", QCOW2_OVERLAP_ALL },
        { "\"overlap-check.template\":\"none\","
          "\"overlap-check.active-l1\":\"on\",", QCOW2_OVERLAP_ACTIVE_L1 },
    };

    load_empty(3);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        BlockBackend *blk = open_disk(BDRV_O_RDWR, rows[i].options);

        assert_int_equal(qcow2_state(blk_bs(blk))->options.overlap_classes,
                         rows[i].classes);
        blk_free(blk);
    }
}

/* -- while in use --------------------------------------------------------- */

static void test_caches_change_while_in_use(void **state)
{
    const Qcow2State *q;
    BlockBackend *blk;

    load_empty(3);
    blk = open_disk(RDWR, "");
    q = qcow2_state(blk_bs(blk));
    for (int i = 0; i < 100; i++) {
        fill(blk, i * 128, i + 1);
    }
    assert_int_equal(q->l2.slices->len, 100);

    assert_true(reopen(blk, "l2-cache-size=20k,refcount-cache-size=16k",
                       NULL));
    assert_int_equal(q->l2.slice_limit, 20);
    assert_int_equal(q->refcounts.block_limit, 16);
    for (int i = 0; i < 100; i++) {
        assert_filled(blk, i * 128, i + 1);
        assert_true(q->l2.slices->len <= 20);
    }
    assert_true(reopen(blk, "l2-cache-entry-size=512", NULL));
    assert_int_equal(q->l2.slice_limit, 40);
    for (int i = 0; i < 100; i++) {
        assert_filled(blk, i * 128, i + 1);
    }
    fill(blk, 0, 'z');
    assert_true(reopen(blk, "cache-clean-interval=0", NULL));
    assert_int_equal(q->options.clean_interval_s, 0);
    assert_int_equal(q->l2.slice_limit, 40);
    assert_filled(blk, 0, 'z');
    blk_free(blk);
}

static void test_a_refused_change_changes_nothing(void **state)
{
    g_autoptr(GError) error = NULL;
    Qcow2Options before;
    BlockBackend *blk;

    load_empty(3);
    blk = open_disk(RDWR, "\"l2-cache-size\":\"1M\",");
    fill(blk, 7, 7);
    before = qcow2_state(blk_bs(blk))->options;

    /* Together with what was said at open. */
    assert_false(reopen(blk, "overlap-check=none,cache-size=64k", &error));

    assert_non_null(strstr(error->message, "more than cache-size"));
    assert_memory_equal(&qcow2_state(blk_bs(blk))->options, &before,
                        sizeof(before));
    assert_filled(blk, 7, 7);
    blk_free(blk);
}

/* What was loaded unguarded is guarded from then on. */
static void test_a_stronger_overlap_check_sees_what_is_in_memory(void **state)
{
    int64_t at[QCOW2_OVERLAP_CLASSES];
    uint8_t data[CLUSTER] = { 0 };
    BlockBackend *blk;

    load_with_everything(at);
    be64_set((be64 *)(test_disk.data + at[2] + LIAR * 8),
             at[7] | QCOW2_ENTRY_COPIED);
    blk = open_disk(RDWR, "\"overlap-check\":\"none\",");
    assert_int_equal(blk_pread(blk, LIAR * CLUSTER, CLUSTER, data), 0);

    assert_true(reopen(blk, "overlap-check=all", NULL));
    assert_int_equal(blk_pwrite(blk, LIAR * CLUSTER, CLUSTER, data), -EIO);
    blk_free(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cache_sizes_share_what_there_is),
        cmocka_unit_test(test_bad_values_are_refused_by_name),
        cmocka_unit_test(test_every_l2_entry_size_keeps_the_data),
        cmocka_unit_test(test_freed_clusters_are_punched_by_why),
        cmocka_unit_test(test_each_overlap_class_is_checked_by_itself),
        cmocka_unit_test(test_overlap_templates_are_sets_of_classes),
        cmocka_unit_test(test_caches_change_while_in_use),
        cmocka_unit_test(test_a_refused_change_changes_nothing),
        cmocka_unit_test(test_a_stronger_overlap_check_sees_what_is_in_memory),
    };
    int failures;

    test_disk_setup();
    failures = cmocka_run_group_tests(tests, NULL, NULL);
    test_disk_teardown();
    return failures;
}
