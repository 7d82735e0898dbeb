/* SPDX-License-Identifier: MIT */
/*
 * which host ranges are metadata, asked of a state made by hand
 */
#include "tests/unit/qcow2_image.h"

#include "block/graph/node.h"
#include "drivers/qcow2/overlap.h"
#include "drivers/qcow2/qcow2.h"

#define C ((int64_t)SEED_CLUSTER)

typedef struct Fixture {
    BlockDriverState bs;
    Qcow2State q;
    uint64_t l1[3];
    uint64_t reftable[2];
} Fixture;

/* header 0, L1 1, refcount table 2, blocks 3 and 9, L2 tables 20 and 22 */
static int setup(void **state)
{
    Fixture *f = g_new0(Fixture, 1);
    GArray *numbers;
    int64_t number;

    f->bs.opaque = &f->q;
    f->q.bs = &f->bs;
    f->q.cluster_bits = 16;
    f->q.cluster_bytes = C;
    for (int i = 0; i < 3; i++) {
        f->q.main_metadata[i] = (Qcow2HostRange) { i * C, (i + 1) * C };
    }
    f->q.main_metadata[QCOW2_RANGE_SNAPSHOTS] =
        (Qcow2HostRange) { 40 * C, 41 * C };
    f->q.main_metadata[QCOW2_RANGE_BITMAPS] =
        (Qcow2HostRange) { 41 * C, 42 * C };
    f->q.main_metadata[QCOW2_RANGE_CRYPTO] =
        (Qcow2HostRange) { 42 * C, 43 * C };
    numbers = g_array_new(FALSE, FALSE, sizeof(int64_t));
    number = qcow2_overlap_number(51, /* is_l2= */ true);
    g_array_append_val(numbers, number);
    number = qcow2_overlap_number(50, /* is_l2= */ false);
    g_array_append_val(numbers, number);
    qcow2_overlap_set_snapshots(&f->bs, numbers);
    f->reftable[0] = 3 * C;
    f->reftable[1] = 9 * C;
    f->l1[0] = QCOW2_ENTRY_COPIED | 20 * C;
    f->l1[2] = 22 * C;
    f->q.l2.l1 = f->l1;
    f->q.l2.l1_entries = 3;
    f->q.refcounts.table = f->reftable;
    f->q.refcounts.table_entries = 2;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    Fixture *f = *state;

    qcow2_overlap_forget(&f->bs);
    g_free(f);
    return 0;
}

static void test_every_structure_is_found_by_name(void **state)
{
    Fixture *f = *state;
    static const struct {
        int64_t first, clusters;
        unsigned class;
        const char *what;
    } rows[] = {
        { 0, 1, QCOW2_OVERLAP_MAIN_HEADER, "header" },
        { 1, 1, QCOW2_OVERLAP_ACTIVE_L1, "L1 table" },
        { 2, 1, QCOW2_OVERLAP_REFCOUNT_TABLE, "refcount table" },
        { 3, 1, QCOW2_OVERLAP_REFCOUNT_BLOCK, "refcount block" },
        { 9, 1, QCOW2_OVERLAP_REFCOUNT_BLOCK, "refcount block" },
        { 20, 1, QCOW2_OVERLAP_ACTIVE_L2, "L2 table" },
        { 15, 10, QCOW2_OVERLAP_ACTIVE_L2, "L2 table" },
        { 22, 1, QCOW2_OVERLAP_ACTIVE_L2, "L2 table" },
        { 40, 1, QCOW2_OVERLAP_SNAPSHOT_TABLE, "snapshot table" },
        { 41, 1, QCOW2_OVERLAP_BITMAP_DIRECTORY, "bitmap directory" },
        { 42, 1, QCOW2_OVERLAP_MAIN_HEADER, "crypto header" },
        { 50, 1, QCOW2_OVERLAP_INACTIVE_L1, "table of a snapshot" },
        { 51, 1, QCOW2_OVERLAP_INACTIVE_L2, "table of a snapshot" },
        { 4, 5, 0, NULL }, { 10, 10, 0, NULL }, { 21, 1, 0, NULL },
        { 23, 10, 0, NULL }, { 52, 100, 0, NULL },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        int64_t offset = rows[i].first * C;
        int64_t bytes = rows[i].clusters * C;
        unsigned class = rows[i].class;
        const char *what = NULL;

        assert_int_equal(qcow2_overlaps_metadata(&f->bs, QCOW2_OVERLAP_ALL,
                                                 offset, bytes, &what),
                         rows[i].what != NULL);
        if (rows[i].what) {
            assert_string_equal(what, rows[i].what);
        }
        /* Its own class finds it, all the others do not. */
        assert_int_equal(qcow2_overlaps_metadata(&f->bs, class, offset, bytes,
                                                 NULL), class != 0);
        assert_false(qcow2_overlaps_metadata(&f->bs,
                                             QCOW2_OVERLAP_ALL & ~class,
                                             offset, bytes, NULL));
    }
}

/* The index is from before; the tables decide (O2). */
static void test_a_table_that_moved_away_is_no_hit(void **state)
{
    Fixture *f = *state;

    assert_true(qcow2_overlaps_metadata(&f->bs, QCOW2_OVERLAP_ALL, 20 * C,
                                         C, NULL));
    f->l1[0] = QCOW2_ENTRY_COPIED | 30 * C;

    assert_false(qcow2_overlaps_metadata(&f->bs, QCOW2_OVERLAP_ALL, 20 * C,
                                         C, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_structure_is_found_by_name,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_table_that_moved_away_is_no_hit,
                                        setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
