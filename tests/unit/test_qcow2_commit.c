/* SPDX-License-Identifier: MIT */
/*
 * tests of drivers/qcow2/commit.c: the order of writes, and what a loss of
 * power leaves
 *
 * The crash tests record a seeded workload, then rebuild what the medium may
 * hold after each event - everything so far, or what the last flush covered
 * and any part of what came later, in whole writes or torn ones - and demand
 * that a check finds no corruption and that every sector holds what the last
 * flush promised or something newer that was written to that very sector.
 */
#include "drivers/qcow2/check.h"
#include "drivers/qcow2/qcow2.h"
#include "tests/unit/qcow2_disk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define SECTOR 512
#define IMAGE_BYTES (512 * KIB)
#define SECTORS (IMAGE_BYTES / SECTOR)
#define OPS 150

typedef enum OpKind {
    OP_WRITE,
    OP_ZERO,
    OP_DISCARD,
    OP_FLUSH,
} OpKind;

typedef struct Op {
    OpKind kind;
    int64_t first, count; /* sectors */
    guint start, end;     /* events before and after it */
} Op;

typedef struct Range {
    BlockBackend *blk;
    int64_t offset, bytes;
    BdrvRequestFlags flags;
    bool discard;
    BlockStatus status;
    int ret;
} Range;

static uint64_t random_state;

static uint64_t next_random(void)
{
    uint64_t z = (random_state += 0x9e3779b97f4a7c15ull);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static void coroutine_fn clear_entry(void *opaque)
{
    Range *r = opaque;

    r->ret = r->discard
                 ? blk_co_pdiscard(r->blk, r->offset, r->bytes)
                 : blk_co_pwrite_zeroes(r->blk, r->offset, r->bytes, r->flags);
}

static int blk_clear(BlockBackend *blk, int64_t offset, int64_t bytes,
                     BdrvRequestFlags flags, bool discard)
{
    Range r = { .blk = blk, .offset = offset, .bytes = bytes, .flags = flags,
                .discard = discard };

    aio_run_sync(clear_entry, &r);
    return r.ret;
}

static void coroutine_fn status_entry(void *opaque)
{
    Range *r = opaque;

    r->ret = blk_co_block_status(r->blk, true, r->offset, r->bytes,
                                 &r->status);
}

/* Where the guest's byte at @offset lies in the file. */
static int64_t host_offset(BlockBackend *blk, int64_t offset)
{
    Range r = { .blk = blk, .offset = offset, .bytes = 512 };

    aio_run_sync(status_entry, &r);
    assert_int_equal(r.ret, 0);
    assert_true(r.status.flags & BDRV_BLOCK_OFFSET_VALID);
    return r.status.host_offset;
}

static void coroutine_fn commit_entry(void *opaque)
{
    Range *r = opaque;

    r->ret = qcow2_co_commit(blk_bs(r->blk));
}

static int commit(BlockBackend *blk)
{
    Range r = { .blk = blk };

    aio_run_sync(commit_entry, &r);
    return r.ret;
}

static BlockBackend *open_fresh(unsigned version, unsigned cluster_bits,
                                const char *extra)
{
    g_autoptr(Qcow2Image) image =
        qcow2_image_new(version, cluster_bits, IMAGE_BYTES);
    BlockBackend *blk;

    test_disk_load(image->data, image->bytes);
    blk = test_disk_open(BDRV_O_RDWR | BDRV_O_UNMAP, extra, NULL);
    assert_non_null(blk);
    return blk;
}

/* -- order ---------------------------------------------------------------- */

static void test_nothing_dirty_writes_nothing(void **state)
{
    BlockBackend *blk = open_fresh(3, 12, "");

    test_disk.record = true;
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(commit(blk), 0);

    assert_int_equal(test_disk.writes, 0);
    blk_free(blk);
    assert_int_equal(test_disk.writes, 0);
}

/* Index of the first write that touches @offset; -1: none. */
static int find_write(int64_t offset)
{
    for (guint i = 0; i < test_disk.events->len; i++) {
        DiskEvent *event = &g_array_index(test_disk.events, DiskEvent, i);

        if (event->kind == DISK_WRITE && event->offset <= offset &&
            offset < event->offset + event->bytes) {
            return (int)i;
        }
    }
    return -1;
}

static bool flushed_between(int first, int last)
{
    for (int i = first; i < last; i++) {
        if (g_array_index(test_disk.events, DiskEvent, i).kind ==
            DISK_FLUSH) {
            return true;
        }
    }
    return false;
}

static void test_data_and_counts_are_durable_before_pointers(void **state)
{
    BlockBackend *blk = open_fresh(3, 12, "");
    uint8_t data[512] = "data";
    int l1, counts, content;

    test_disk.record = true;
    assert_int_equal(blk_pwrite(blk, 0, sizeof(data), data), 0);
    assert_int_equal(blk_flush(blk), 0);

    content = find_write(host_offset(blk, 0));
    counts = find_write(2 << 12);
    l1 = find_write(3 << 12);
    assert_true(content >= 0 && counts >= 0 && l1 >= 0);
    assert_true(flushed_between(content, l1));
    assert_true(flushed_between(counts, l1));
    assert_true(flushed_between(l1, (int)test_disk.events->len));
    blk_free(blk);
}

/* No new cluster is involved, and yet old content must not show. */
static void test_a_zeroed_cluster_is_durable_before_it_shows(void **state)
{
    BlockBackend *blk = open_fresh(3, 12, "");
    uint8_t data[4096] = "data";
    int64_t host;
    int content, entry;

    assert_int_equal(blk_pwrite(blk, 0, sizeof(data), data), 0);
    host = host_offset(blk, 0);
    assert_int_equal(blk_clear(blk, 0, 4096, 0, /* discard= */ false), 0);
    assert_int_equal(blk_flush(blk), 0);

    test_disk.record = true;
    assert_int_equal(blk_pwrite(blk, 512, 512, data), 0);
    assert_int_equal(host_offset(blk, 0), host);
    assert_int_equal(commit(blk), 0);

    content = find_write(host);
    entry = (int)test_disk.events->len - 1;
    assert_int_equal(content, 0);
    assert_true(entry > content && flushed_between(content, entry));
    blk_free(blk);
}

static void test_a_commit_makes_the_loss_of_pointers_durable(void **state)
{
    BlockBackend *blk = open_fresh(3, 12, "");
    uint8_t data[4096] = "data";
    DiskEvent *last;

    assert_int_equal(blk_pwrite(blk, 0, sizeof(data), data), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(blk_clear(blk, 0, 4096, 0, /* discard= */ true), 0);
    test_disk.record = true;
    assert_int_equal(commit(blk), 0);

    last = &g_array_index(test_disk.events, DiskEvent,
                          test_disk.events->len - 1);
    assert_int_equal(last->kind, DISK_FLUSH);
    blk_free(blk);
}

/* -- quarantine ----------------------------------------------------------- */

static void test_a_freed_cluster_is_not_reused_before_a_flush(void **state)
{
    BlockBackend *blk = open_fresh(3, 12, "");
    uint8_t data[4096] = "old";
    int64_t freed;

    assert_int_equal(blk_pwrite(blk, 0, sizeof(data), data), 0);
    assert_int_equal(blk_flush(blk), 0);
    freed = host_offset(blk, 0);
    assert_int_equal(blk_clear(blk, 0, 4096, 0, /* discard= */ true), 0);

    for (int64_t i = 1; i < 40; i++) {
        assert_int_equal(blk_pwrite(blk, i * 4096, sizeof(data), data), 0);
        assert_int_not_equal(host_offset(blk, i * 4096), freed);
    }
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(blk_pwrite(blk, 50 * 4096, sizeof(data), data), 0);
    assert_int_equal(host_offset(blk, 50 * 4096), freed);
    blk_free(blk);
}

static void test_a_cluster_in_use_by_a_reader_is_not_reused(void **state)
{
    BlockBackend *blk = open_fresh(3, 12, "");
    Qcow2State *q = qcow2_state(blk_bs(blk));
    uint8_t data[4096] = "old";
    unsigned side;
    int64_t freed;

    assert_int_equal(blk_pwrite(blk, 0, sizeof(data), data), 0);
    freed = host_offset(blk, 0);
    side = qcow2_epoch_enter(q->epoch);
    assert_int_equal(blk_clear(blk, 0, 4096, 0, true), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(blk_pwrite(blk, 4096, sizeof(data), data), 0);
    assert_int_not_equal(host_offset(blk, 4096), freed);

    qcow2_epoch_leave(q->epoch, side);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(blk_pwrite(blk, 8192, sizeof(data), data), 0);
    assert_int_equal(host_offset(blk, 8192), freed);
    blk_free(blk);
}

/* -- failures ------------------------------------------------------------- */

static void assert_image_is_sound(void)
{
    BlockBackend *blk =
        test_disk_open(BDRV_O_RDONLY, "", /* error= */ NULL);
    Qcow2CheckResult result = { 0 };

    assert_non_null(blk);
    assert_true(qcow2_check(blk_bs(blk), 0, &result, NULL));
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.check_errors, 0);
    blk_free(blk);
}

static void test_a_failed_commit_is_repeated_whole(void **state)
{
    /* Whichever write of the commit fails. */
    for (int good = 0; good < 6; good++) {
        BlockBackend *blk = open_fresh(3, 12, "");
        uint8_t data[4096] = "kept", back[4096];
        int ret;

        /* The first table is new; the second time it is on disk. */
        for (int64_t at = 0; at <= 4096; at += 4096) {
            assert_int_equal(blk_pwrite(blk, at, sizeof(data), data), 0);
            test_disk.writes_to_fail = good;
            ret = commit(blk);
            assert_true(good >= 2 || ret == -EIO);
            test_disk.writes_to_fail = -1;
            assert_int_equal(commit(blk), 0);
        }
        blk_free(blk);

        assert_image_is_sound();
        blk = test_disk_open(BDRV_O_RDONLY, "", NULL);
        for (int64_t at = 0; at <= 4096; at += 4096) {
            assert_int_equal(blk_pread(blk, at, sizeof(back), back), 0);
            assert_memory_equal(back, data, sizeof(back));
        }
        blk_free(blk);
    }
}

static void test_a_full_disk_leaves_a_sound_image(void **state)
{
    for (int64_t room = 0; room < 16; room++) {
        BlockBackend *blk = open_fresh(3, 12, "");
        uint8_t data[4096] = "data";
        int ret = 0;

        test_disk.full_at = test_disk.length + room * 4096;
        for (int64_t i = 0; i < 20 && ret == 0; i++) {
            ret = blk_pwrite(blk, i * 20480, sizeof(data), data);
        }
        assert_int_equal(ret, -ENOSPC);
        assert_int_equal(blk_flush(blk), 0);
        blk_free(blk);

        assert_image_is_sound();
    }
}

/* -- crashes -------------------------------------------------------------- */

static void fill_sectors(uint8_t *data, int64_t first, int64_t count,
                         uint64_t sequence)
{
    uint64_t *words = (uint64_t *)data;

    for (int64_t i = 0; i < count * SECTOR / 8; i++) {
        words[i] = sequence << 32 | (first + i / (SECTOR / 8) + 1);
    }
}

static void run_op(BlockBackend *blk, Op *op, uint64_t sequence,
                   int64_t cluster_sectors)
{
    static uint8_t data[64 * SECTOR];
    int64_t units = 1 + next_random() % 4;
    uint64_t kind = next_random() % 10;
    int ret;

    op->start = test_disk.events->len;
    op->kind = kind < 5   ? OP_WRITE
               : kind < 7 ? OP_DISCARD
               : kind < 8 ? OP_ZERO
                          : OP_FLUSH;
    op->count = 1 + next_random() % 32;
    op->first = next_random() % (SECTORS - 32);
    if (op->kind == OP_WRITE) {
        fill_sectors(data, op->first, op->count, sequence);
        ret = blk_pwrite(blk, op->first * SECTOR, op->count * SECTOR, data);
    } else if (op->kind == OP_FLUSH) {
        ret = blk_flush(blk);
    } else {
        op->first -= op->first % cluster_sectors;
        op->count = MIN(units * cluster_sectors, SECTORS - op->first);
        ret = blk_clear(blk, op->first * SECTOR, op->count * SECTOR,
                        next_random() % 2 ? BDRV_REQ_MAY_UNMAP : 0,
                        op->kind == OP_DISCARD);
    }
    assert_int_equal(ret, 0);
    op->end = test_disk.events->len;
}

/* The last flush that had ended before @event; -1: none. */
static int last_flush(const Op *ops, guint event)
{
    int flush = -1;

    for (int i = 0; i < OPS; i++) {
        if (ops[i].kind == OP_FLUSH && ops[i].end <= event) {
            flush = i;
        }
    }
    return flush;
}

/* May the sector hold @value after a crash at @event? */
static bool is_allowed(const Op *ops, int flush, guint event, int64_t sector,
                       uint64_t value)
{
    uint64_t flushed = 0;

    for (int i = 0; i < OPS && ops[i].start <= event; i++) {
        bool covers = ops[i].kind != OP_FLUSH && ops[i].first <= sector &&
                      sector < ops[i].first + ops[i].count;
        uint64_t written = ops[i].kind == OP_WRITE
                               ? (uint64_t)(i + 1) << 32 | (sector + 1)
                               : 0;

        if (covers && i < flush) {
            flushed = written;
        } else if (covers && written == value) {
            return true;
        }
    }
    return value == flushed;
}

static void check_state(const Op *ops, guint event, const char *how)
{
    static uint64_t content[IMAGE_BYTES / 8];
    int flush = last_flush(ops, event);
    BlockBackend *blk;

    assert_image_is_sound();
    blk = test_disk_open(BDRV_O_RDONLY, "", NULL);
    assert_non_null(blk);
    assert_int_equal(blk_pread(blk, 0, IMAGE_BYTES, content), 0);
    blk_free(blk);
    for (int64_t i = 0; i < SECTORS; i++) {
        const uint64_t *words = &content[i * (SECTOR / 8)];

        for (int k = 1; k < SECTOR / 8; k++) {
            assert_int_equal(words[k], words[0]);
        }
        if (!is_allowed(ops, flush, event, i, words[0])) {
            fail_msg("%s at event %u: sector %d holds 0x%lx", how, event,
                     (int)i, (unsigned long)words[0]);
        }
    }
}

typedef struct Medium {
    uint8_t *data;
    int64_t length;
} Medium;

/* What was flushed, and of the events behind it those that chance took. */
static void check_subset(const Op *ops, const Medium *durable,
                         const GArray *events, guint first, guint last)
{
    Medium m = { g_malloc0(test_disk.capacity), durable->length };

    memcpy(m.data, durable->data, durable->length);
    for (guint i = first; i < last; i++) {
        DiskEvent event = g_array_index(events, DiskEvent, i);
        uint64_t chance = next_random() % 4;

        if (event.kind == DISK_WRITE && chance == 1 && event.bytes > SECTOR) {
            /* Torn: only its first sectors. */
            int64_t edge = align_up(event.offset, SECTOR) +
                           next_random() % (event.bytes / SECTOR) * SECTOR;

            event.bytes = CLAMP(edge - event.offset, 0, event.bytes);
        }
        if (event.kind == DISK_TRUNCATE || chance != 0) {
            disk_event_apply(&event, m.data, &m.length, test_disk.capacity);
        }
    }
    test_disk_load(m.data, m.length);
    g_free(m.data);
    check_state(ops, last, "subset");
}

static void check_all_states(const Op *ops, const GArray *events,
                             Medium *durable)
{
    Medium now = { g_memdup2(durable->data, test_disk.capacity),
                   durable->length };
    int64_t capacity = test_disk.capacity;
    guint first = 0;

    for (guint i = 0; i <= events->len; i++) {
        test_disk_load(now.data, now.length);
        check_state(ops, i, "prefix");
        check_subset(ops, durable, events, first, i);
        if (i == events->len) {
            break;
        }
        disk_event_apply(&g_array_index(events, DiskEvent, i), now.data,
                         &now.length, capacity);
        if (g_array_index(events, DiskEvent, i).kind == DISK_FLUSH) {
            memcpy(durable->data, now.data, MAX(now.length, durable->length));
            durable->length = now.length;
            first = i + 1;
        }
    }
    g_free(now.data);
}

static void crash_everywhere(unsigned version, unsigned cluster_bits,
                             uint64_t seed, const char *extra)
{
    BlockBackend *blk = open_fresh(version, cluster_bits, extra);
    Medium durable = { g_memdup2(test_disk.data, test_disk.capacity),
                       test_disk.length };
    g_autofree Op *ops = g_new0(Op, OPS);
    GArray *events;

    random_state = seed;
    test_disk.record = true;
    for (int i = 0; i < OPS; i++) {
        run_op(blk, &ops[i], i + 1, (1 << cluster_bits) / SECTOR);
    }
    blk_free(blk);
    events = g_array_ref(test_disk.events);
    check_all_states(ops, events, &durable);
    g_array_unref(events);
    g_free(durable.data);
}

static void test_a_crash_never_corrupts_version_3(void **state)
{
    crash_everywhere(3, 12, 1, "");
    crash_everywhere(3, 12, 2, "");
}

static void test_a_crash_never_corrupts_version_2(void **state)
{
    crash_everywhere(2, 12, 3, "");
}

static void test_a_crash_never_corrupts_tiny_clusters(void **state)
{
    crash_everywhere(3, 10, 4, "\"l2-cache-size\":\"1k\",");
    crash_everywhere(3, 11, 5, "\"l2-cache-size\":\"1k\",");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_dirty_writes_nothing),
        cmocka_unit_test(test_data_and_counts_are_durable_before_pointers),
        cmocka_unit_test(test_a_zeroed_cluster_is_durable_before_it_shows),
        cmocka_unit_test(test_a_commit_makes_the_loss_of_pointers_durable),
        cmocka_unit_test(test_a_freed_cluster_is_not_reused_before_a_flush),
        cmocka_unit_test(test_a_cluster_in_use_by_a_reader_is_not_reused),
        cmocka_unit_test(test_a_failed_commit_is_repeated_whole),
        cmocka_unit_test(test_a_full_disk_leaves_a_sound_image),
        cmocka_unit_test(test_a_crash_never_corrupts_version_3),
        cmocka_unit_test(test_a_crash_never_corrupts_version_2),
        cmocka_unit_test(test_a_crash_never_corrupts_tiny_clusters),
    };
    int failures;

    test_disk_setup();
    failures = cmocka_run_group_tests(tests, NULL, NULL);
    test_disk_teardown();
    return failures;
}
