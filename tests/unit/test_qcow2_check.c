/* SPDX-License-Identifier: MIT */
/*
 * checking and repairing: the seed image with one kind of damage each. The
 * numbers are compared with qemu-img's where that program exists.
 */
#include "tests/unit/qcow2_image.h"

#include "block/image/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#define REFCOUNT(cluster) (SEED_REFBLOCK + 2 * (cluster))
#define EXIT_NONE 0
#define EXIT_CORRUPT 2
#define EXIT_LEAK 3

typedef struct Row {
    const char *name;
    int64_t offset;
    int width;
    uint64_t value;
    int verdict;
    bool can_repair;
} Row;

static const Row rows[] = {
    { "sound", 4, 4, 3, EXIT_NONE, true },
    { "refcount too high", REFCOUNT(5), 2, 3, EXIT_CORRUPT, true },
    { "leak", REFCOUNT(7), 2, 2, EXIT_LEAK, true },
    { "refcount 0 of an L2 table", REFCOUNT(4), 2, 0, EXIT_CORRUPT, true },
    { "all refcounts 0", SEED_REFBLOCK, 8, 0, EXIT_CORRUPT, true },
    { "no refcount block", SEED_REFTABLE, 8, 0, EXIT_CORRUPT, true },
    { "refcount block far away", SEED_REFTABLE, 8, 1ull << 40, EXIT_CORRUPT,
      true },
    { "refcount block is the L1", SEED_REFTABLE, 8, SEED_L1, EXIT_CORRUPT,
      true },
    { "COPIED lost", SEED_L2, 8, SEED_DATA, EXIT_CORRUPT, true },
    { "two entries, one cluster", SEED_L2 + 8 * 9, 8,
      QCOW2_ENTRY_COPIED | SEED_DATA, EXIT_CORRUPT, true },
    { "data far away", SEED_L2 + 8 * 9, 8, QCOW2_ENTRY_COPIED | 1ull << 40,
      EXIT_CORRUPT, false },
    { "L2 table far away", SEED_L1, 8, QCOW2_ENTRY_COPIED | 1ull << 40,
      EXIT_CORRUPT, false },
};

static BlockCheckResult check(TestImage *image, BlockCheckFix fix)
{
    BlockCheckResult result = { 0 };
    BlockBackend *blk = image_open(image, BDRV_O_CHECK |
                                   (fix ? BDRV_O_RDWR | BDRV_O_RESIZE : 0));
    GError *error = NULL;

    if (!bdrv_check(blk_bs(blk), fix, &result, &error)) {
        fail_msg("%s", error->message);
    }
    blk_free(blk);
    return result;
}

static int verdict(const BlockCheckResult *result)
{
    return result->corruptions ? EXIT_CORRUPT : result->leaks ? EXIT_LEAK
                                                              : EXIT_NONE;
}

static void damage(TestImage *image, const Row *row)
{
    uint8_t *seed = seed_make();

    seed_put(seed, row->offset, row->width, row->value);
    image_write_file(image, seed, SEED_BYTES);
}

/* qemu-img's exit code, or -1 when there is none. */
static int qemu_verdict(TestImage *image)
{
    g_autofree char *command = NULL;
    int status;

    if (system("command -v qemu-img >/dev/null 2>&1") != 0) {
        return -1;
    }
    command = g_strdup_printf("qemu-img check -f qcow2 '%s' >/dev/null 2>&1",
                              image->path);
    status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_damage_is_found_and_nothing_is_written(void **state)
{
    TestImage *image = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *before = NULL;
        g_autofree char *after = NULL;
        gsize bytes;
        BlockCheckResult result;
        int qemu;

        damage(image, &rows[i]);
        g_file_get_contents(image->path, &before, NULL, NULL);

        result = check(image, BLOCK_CHECK_FIX_NONE);

        g_file_get_contents(image->path, &after, &bytes, NULL);
        print_message("%s: %d corruptions, %d leaks\n", rows[i].name,
                      (int)result.corruptions, (int)result.leaks);
        assert_int_equal(verdict(&result), rows[i].verdict);
        assert_int_equal(bytes, SEED_BYTES);
        assert_memory_equal(before, after, SEED_BYTES);
        qemu = qemu_verdict(image);
        assert_true(qemu < 0 || qemu == rows[i].verdict);
    }
}

static void test_repair_leaves_a_sound_image_with_its_data(void **state)
{
    TestImage *image = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        BlockCheckResult result;
        uint8_t part[512];
        BlockBackend *blk;
        int qemu;

        if (!rows[i].can_repair) {
            continue;
        }
        damage(image, &rows[i]);

        result = check(image, BLOCK_CHECK_FIX_LEAKS | BLOCK_CHECK_FIX_ERRORS);

        print_message("%s: %d corruptions fixed, %d leaks fixed\n",
                      rows[i].name, (int)result.corruptions_fixed,
                      (int)result.leaks_fixed);
        assert_int_equal(verdict(&result), EXIT_NONE);
        assert_int_equal(result.corruptions_fixed + result.leaks_fixed > 0,
                         rows[i].verdict != EXIT_NONE);
        qemu = qemu_verdict(image);
        assert_true(qemu <= 0);
        blk = image_open(image, BDRV_O_RDONLY);
        for (int j = 0; j < 3; j++) {
            assert_int_equal(blk_pread(blk, j * SEED_CLUSTER, 512, part), 0);
            assert_int_equal(part[0], 0x11 * (j + 1));
        }
        blk_free(blk);
    }
}

static void test_fixing_leaks_only_leaves_corruptions(void **state)
{
    TestImage *image = *state;
    uint8_t *seed = seed_make();
    BlockCheckResult result;

    seed_put(seed, REFCOUNT(7), 2, 2);
    seed_put(seed, REFCOUNT(4), 2, 0);
    image_write_file(image, seed, SEED_BYTES);

    result = check(image, BLOCK_CHECK_FIX_LEAKS);

    assert_int_equal(result.leaks_fixed, 1);
    assert_int_equal(result.leaks, 0);
    assert_true(result.corruptions > 0);
}

static void test_repair_clears_the_dirty_and_corrupt_bits(void **state)
{
    TestImage *image = *state;
    uint8_t *seed = seed_make();
    g_autofree char *after = NULL;

    seed_put(seed, 72, 8, QCOW2_INCOMPAT_CORRUPT | QCOW2_INCOMPAT_DIRTY);
    image_write_file(image, seed, SEED_BYTES);

    (void) check(image, BLOCK_CHECK_FIX_LEAKS | BLOCK_CHECK_FIX_ERRORS);

    g_file_get_contents(image->path, &after, NULL, NULL);
    assert_int_equal(after[79], 0);
}

/* 65536 snapshots with large L1 tables must not take hours. */
static void test_hostile_snapshot_table_is_bounded(void **state)
{
    TestImage *image = *state;
    uint8_t *seed = g_realloc(seed_make(), 9 * SEED_CLUSTER);
    BlockCheckResult result;

    memset(seed + SEED_BYTES, 0, SEED_CLUSTER);
    seed_put(seed, 60, 4, 65536);
    seed_put(seed, 64, 8, SEED_BYTES);
    seed_put(seed, SEED_BYTES + 8, 4, 1 << 28);
    image_write_file(image, seed, 9 * SEED_CLUSTER);

    result = check(image, BLOCK_CHECK_FIX_NONE);

    assert_true(result.corruptions > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        image_test(test_damage_is_found_and_nothing_is_written),
        image_test(test_repair_leaves_a_sound_image_with_its_data),
        image_test(test_fixing_leaks_only_leaves_corruptions),
        image_test(test_repair_clears_the_dirty_and_corrupt_bits),
        image_test(test_hostile_snapshot_table_is_bounded),
    };

    drivers_register_all();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
