/* SPDX-License-Identifier: MIT */
/*
 * requests of many coroutines while the graph below them changes
 *
 *   backend ─▶ throttle ─▶ copy-on-read ─▶ overlay, blocks of 4 KiB ─▶ base
 *
 * Coroutines of several threads read and write bytes of their own, in blocks
 * that they share with others. Meanwhile the control plane drains, makes the
 * graph read-only and writable again, and puts a filter above the root and
 * takes it away.
 *
 * Two regions. In the mixed one, unit n of 64 bytes belongs to coroutine n
 * modulo their number; it holds one stamp eight times, or zeros. Anybody may
 * read it: a part of a stamp is a torn write. In the private one each has a
 * slice, whose length is no multiple of a block, and knows every byte of it.
 *
 * Everything follows from --seed, but for the order among threads. Exit
 * status: 0 all as the model says, 1 not so, 2 usage.
 */
#include "tests/unit/memory_driver.h"

#include "block/backend.h"
#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/graph/open.h"
#include "block/graph/perm.h"
#include "block/graph/reopen.h"
#include "block/rt/buffer_pool.h"
#include "block/rt/io_thread.h"
#include "block/rt/thread_pool.h"
#include "drivers/registry.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096
#define UNIT 64
#define ROUNDS 16        /* units of the mixed region that a worker owns */
#define SLICE 9001       /* bytes of the private region that it owns */
#define MIXED_READ 16384 /* the longest read there */
#define HANG_SECONDS 120 /* longer than --seconds: something is stuck */

static int arg_seconds = 10, arg_seed = 1, arg_threads = 4;
static int arg_coroutines = 64;

static const GOptionEntry entries[] = {
    { "seconds", 0, 0, G_OPTION_ARG_INT, &arg_seconds, "how long", "N" },
    { "seed", 0, 0, G_OPTION_ARG_INT, &arg_seed, "of all randomness", "N" },
    { "threads", 0, 0, G_OPTION_ARG_INT, &arg_threads, "I/O threads", "N" },
    { "coroutines", 0, 0, G_OPTION_ARG_INT, &arg_coroutines,
      "coroutines per thread", "N" },
    { NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL },
};

typedef struct Worker {
    unsigned number;
    uint64_t random; /* state */
    uint64_t requests;
    uint64_t refused;
    uint64_t serial;         /* of the last stamp */
    uint64_t stamps[ROUNDS]; /* what the own units hold; 0: zeros */
    uint8_t slice[SLICE];
    uint8_t buffer[MIXED_READ];
} Worker;

static BlockBackend *blk;
static unsigned workers_count;
static int stop;     /* atomic */
static int failures; /* atomic */

/* ---- the model ---------------------------------------------------------- */

static uint64_t next_random(uint64_t *state)
{
    /* splitmix64 */
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static int64_t random_below(uint64_t *state, int64_t limit)
{
    return (int64_t)(next_random(state) % (uint64_t)limit);
}

/* Serial 0 is what the base holds. Never 0. */
static uint64_t stamp_of(unsigned owner, uint64_t serial)
{
    return (uint64_t)(owner + 1) << 40 | serial;
}

static int64_t mixed_bytes(void)
{
    return (int64_t)workers_count * ROUNDS * UNIT;
}

static int64_t unit_offset(const Worker *w, int64_t round)
{
    return (round * workers_count + w->number) * UNIT;
}

static int64_t slice_offset(const Worker *w)
{
    return mixed_bytes() + (int64_t)w->number * SLICE;
}

static void fill_unit(uint8_t *unit, uint64_t stamp)
{
    for (int i = 0; i < UNIT; i += 8) {
        memcpy(unit + i, &stamp, 8);
    }
}

static void fail(const Worker *w, const char *what, int64_t offset,
                 int64_t bytes, int ret)
{
    if (__atomic_fetch_add(&failures, 1, __ATOMIC_SEQ_CST) < 10) {
        fprintf(stderr, "worker %u: %s of %" PRId64 " bytes at %" PRId64
                ": %s; repeat with --seed %d\n", w->number, what, bytes,
                offset, ret ? g_strerror(-ret) : "wrong content", arg_seed);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
}

/* Did a write go through? While read-only it is refused as a whole. */
static bool took_effect(Worker *w, const char *what, int64_t offset,
                        int64_t bytes, int ret)
{
    if (ret == -EACCES || ret == -EROFS) {
        w->refused++;
        return false;
    }
    if (ret < 0) {
        fail(w, what, offset, bytes, ret);
    }
    return ret >= 0;
}

/* ---- requests ----------------------------------------------------------- */

static int coroutine_fn read_buffer(Worker *w, int64_t offset, int64_t bytes)
{
    IoVec iov;
    BdrvRequestFlags flags =
        random_below(&w->random, 16) == 0 ? BDRV_REQ_SERIALISING : 0;

    iovec_init_buffer(&iov, w->buffer, (size_t)bytes);
    return blk_co_preadv(blk, offset, bytes, &iov, flags);
}

static int coroutine_fn write_buffer(Worker *w, int64_t offset, int64_t bytes)
{
    static const BdrvRequestFlags choice[] = {
        0, 0, 0, 0, 0, 0, BDRV_REQ_SERIALISING, BDRV_REQ_FUA,
    };
    IoVec iov;

    iovec_init_buffer(&iov, w->buffer, (size_t)bytes);
    return blk_co_pwritev(blk, offset, bytes, &iov,
                          choice[random_below(&w->random, 8)]);
}

static void coroutine_fn write_unit(Worker *w)
{
    int64_t round = random_below(&w->random, ROUNDS);
    uint64_t stamp = stamp_of(w->number, ++w->serial);

    fill_unit(w->buffer, stamp);
    if (took_effect(w, "unit write", unit_offset(w, round), UNIT,
                    write_buffer(w, unit_offset(w, round), UNIT))) {
        w->stamps[round] = stamp;
    }
}

static void coroutine_fn zero_unit(Worker *w)
{
    int64_t round = random_below(&w->random, ROUNDS);
    int64_t offset = unit_offset(w, round);

    if (took_effect(w, "unit zeroes", offset, UNIT,
                    blk_co_pwrite_zeroes(blk, offset, UNIT, 0))) {
        w->stamps[round] = 0;
    }
}

/* Whole units in the buffer, the first of them unit @index: all sound? */
static bool are_units_sound(const Worker *w, const uint8_t *units,
                            int64_t count, int64_t index)
{
    for (int64_t i = 0; i < count; i++, units += UNIT, index++) {
        unsigned owner = (unsigned)(index % workers_count);
        uint64_t stamp;

        memcpy(&stamp, units, 8);
        if (memcmp(units, units + 8, UNIT - 8) != 0 ||
            (stamp != 0 && stamp >> 40 != owner + 1) ||
            (owner == w->number &&
             stamp != w->stamps[index / workers_count])) {
            return false;
        }
    }
    return true;
}

static void coroutine_fn read_mixed(Worker *w)
{
    int64_t bytes = 1 + random_below(&w->random,
                                     MIN(MIXED_READ, mixed_bytes()));
    int64_t offset = random_below(&w->random, mixed_bytes() - bytes + 1);
    int64_t skip = align_up(offset, UNIT) - offset;
    int ret = read_buffer(w, offset, bytes);

    if (ret < 0 ||
        (bytes > skip &&
         !are_units_sound(w, w->buffer + skip, (bytes - skip) / UNIT,
                          (offset + skip) / UNIT))) {
        fail(w, "mixed read", offset, bytes, ret);
    }
}

/* A discarded byte is old or zero; what it is then, it stays. */
static void coroutine_fn discard_slice(Worker *w, int64_t at, int64_t bytes)
{
    int64_t offset = slice_offset(w) + at;
    int ret = blk_co_pdiscard(blk, offset, bytes);

    if (!took_effect(w, "discard", offset, bytes, ret)) {
        return;
    }
    ret = read_buffer(w, offset, bytes);
    for (int64_t i = 0; ret == 0 && i < bytes; i++) {
        if (w->buffer[i] != 0 && w->buffer[i] != w->slice[at + i]) {
            ret = -EILSEQ;
        }
    }
    if (ret < 0) {
        fail(w, "read after discard", offset, bytes, ret);
        return;
    }
    memcpy(w->slice + at, w->buffer, (size_t)bytes);
}

static void coroutine_fn write_slice(Worker *w, int64_t at, int64_t bytes)
{
    int64_t offset = slice_offset(w) + at;

    memset(w->buffer, (int)(1 + random_below(&w->random, 255)), (size_t)bytes);
    if (took_effect(w, "write", offset, bytes,
                    write_buffer(w, offset, bytes))) {
        memcpy(w->slice + at, w->buffer, (size_t)bytes);
    }
}

static void coroutine_fn zero_slice(Worker *w, int64_t at, int64_t bytes)
{
    int64_t offset = slice_offset(w) + at;
    BdrvRequestFlags flags =
        random_below(&w->random, 2) ? BDRV_REQ_MAY_UNMAP : 0;

    if (took_effect(w, "zeroes", offset, bytes,
                    blk_co_pwrite_zeroes(blk, offset, bytes, flags))) {
        memset(w->slice + at, 0, (size_t)bytes);
    }
}

static void coroutine_fn read_slice(Worker *w, int64_t at, int64_t bytes)
{
    int ret = read_buffer(w, slice_offset(w) + at, bytes);

    if (ret < 0 || memcmp(w->buffer, w->slice + at, (size_t)bytes) != 0) {
        fail(w, "read", slice_offset(w) + at, bytes, ret);
    }
}

static void coroutine_fn one_request(Worker *w)
{
    int64_t at = random_below(&w->random, SLICE);
    int64_t bytes = 1 + random_below(&w->random, SLICE - at);
    int ret;

    switch (random_below(&w->random, 16)) {
    case 0: case 1: case 2:
        write_unit(w);
        break;
    case 3:
        zero_unit(w);
        break;
    case 4: case 5: case 6:
        read_mixed(w);
        break;
    case 7: case 8: case 9:
        write_slice(w, at, bytes);
        break;
    case 10:
        zero_slice(w, at, bytes);
        break;
    case 11:
        discard_slice(w, at, bytes);
        break;
    case 12:
        ret = blk_co_flush(blk);
        if (ret < 0) {
            fail(w, "flush", 0, 0, ret);
        }
        break;
    default:
        read_slice(w, at, bytes);
    }
}

static void coroutine_fn worker_entry(void *opaque)
{
    Worker *w = opaque;

    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        one_request(w);
        w->requests++;
    }
}

static void start_worker(void *opaque)
{
    co_enter(co_create(worker_entry, opaque));
}

/* ---- the graph ---------------------------------------------------------- */

static BlockDriverState *open_json(const char *json, const char *file)
{
    g_autofree char *text = g_strdup_printf("{%s,\"file\":\"%s\"}", json, file);
    g_autoptr(GError) error = NULL;
    BlockDriverState *bs =
        bdrv_open(NULL, block_options_from_json(text, NULL),
                  BDRV_O_RDWR | BDRV_O_UNMAP, /* policy= */ NULL, &error);

    if (bs == NULL) {
        g_error("%s: %s", text, error->message);
    }
    return bs;
}

/* What reads find before anything is written. */
static void fill_base(uint8_t *data, Worker *workers)
{
    for (unsigned i = 0; i < workers_count; i++) {
        Worker *w = &workers[i];

        w->number = i;
        w->random = (uint64_t)arg_seed * 1000003 + i;
        for (int64_t round = 0; round < ROUNDS; round++) {
            w->stamps[round] = stamp_of(i, 0);
            fill_unit(data + unit_offset(w, round), w->stamps[round]);
        }
        memset(w->slice, (int)(i % 255 + 1), SLICE);
        memcpy(data + slice_offset(w), w->slice, SLICE);
    }
}

typedef struct Graph {
    BdrvChild *base, *overlay; /* edges of ours, without permissions */
    BlockDriverState *root;
    BlockDriverState *filter; /* above the root, or NULL */
} Graph;

static void open_graph(Graph *g, Worker *workers)
{
    int64_t length = mixed_bytes() + (int64_t)workers_count * SLICE;
    MemoryConfig config = {
        .length = length, .yields = true, .cluster_bytes = BLOCK,
        .limits = { .request_alignment = BLOCK, .max_transfer = 2 * BLOCK },
    };
    BlockDriverState *copy;

    g->base = memory_open(&(MemoryConfig) { .length = length,
                                            .yields = true });
    fill_base(memory_data(g->base), workers);
    config.backing = g->base;
    g->overlay = memory_open(&config);
    g_assert(bdrv_child_set_perm(g->overlay, 0, BLK_PERM_ALL, NULL));
    copy = open_json("\"driver\":\"copy-on-read\"",
                     g->overlay->bs->node_name);
    g->root = open_json("\"driver\":\"throttle\",\"iops-total\":100000000",
                        copy->node_name);
    bdrv_unref(copy);
    blk = blk_new(BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE, BLK_PERM_ALL,
                  "stress");
    g_assert(blk_insert_node(blk, g->root, NULL));
}

static void close_graph(Graph *g)
{
    blk_free(blk);
    g_clear_pointer(&g->filter, bdrv_unref);
    bdrv_unref(g->root);
    memory_close(g->overlay);
    memory_close(g->base);
}

/* ---- what the control plane does meanwhile ------------------------------ */

typedef struct Changes {
    uint64_t random;
    unsigned drains, reopens, replacements;
} Changes;

static void expect(bool ok, const char *what, GError *error)
{
    if (!ok) {
        fprintf(stderr, "%s: %s\n", what, error ? error->message : "failed");
        __atomic_fetch_add(&failures, 1, __ATOMIC_SEQ_CST);
        __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    }
}

static void pause_us(Changes *changes, int64_t limit)
{
    g_usleep((gulong)random_below(&changes->random, limit));
}

/* One of the three ways; nested now and then. */
static void drain(Graph *g, Changes *changes)
{
    bool nested = random_below(&changes->random, 4) == 0;

    switch (random_below(&changes->random, 3)) {
    case 0:
        bdrv_drain_all_begin();
        pause_us(changes, 500);
        bdrv_drain_all_end();
        break;
    case 1:
        bdrv_drained_begin(g->overlay->bs);
        if (nested) {
            bdrv_drain_all_begin();
            bdrv_drain_all_end();
        }
        bdrv_drained_end(g->overlay->bs);
        break;
    default:
        blk_drain_begin(blk);
        pause_us(changes, 500);
        blk_drain_end(blk);
    }
    changes->drains++;
}

/* Writers are refused meanwhile, readers are not. */
static void reopen(Graph *g, Changes *changes)
{
    g_autoptr(GError) error = NULL;
    BlockDriverState *top = blk_bs(blk);

    expect(blk_set_perm(blk, BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL, &error),
           "giving up writing", error);
    expect(bdrv_reopen_set_read_only(top, /* read_only= */ true, &error),
           "reopening read-only", error);
    pause_us(changes, 2000);
    g_clear_error(&error);
    expect(bdrv_reopen_set_read_only(top, /* read_only= */ false, &error),
           "reopening read-write", error);
    expect(blk_set_perm(blk, BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                        BLK_PERM_ALL, &error), "writing again", error);
    changes->reopens++;
}

static void replace(Graph *g, Changes *changes)
{
    g_autoptr(GError) error = NULL;

    if (g->filter == NULL) {
        g->filter = open_json("\"driver\":\"throttle\"", g->root->node_name);
        expect(bdrv_replace_node(g->root, g->filter, &error),
               "putting a filter above the root", error);
        expect(blk_bs(blk) == g->filter, "the backend's new root", NULL);
    } else {
        expect(bdrv_replace_node(g->filter, g->root, &error),
               "taking the filter away", error);
        g_clear_pointer(&g->filter, bdrv_unref);
        expect(blk_bs(blk) == g->root, "the backend's old root", NULL);
    }
    changes->replacements++;
}

static void change_graph(Graph *g, Changes *changes)
{
    int64_t end = g_get_monotonic_time() + arg_seconds * G_USEC_PER_SEC;

    while (g_get_monotonic_time() < end &&
           !__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        switch (random_below(&changes->random, 4)) {
        case 0: case 1:
            drain(g, changes);
            break;
        case 2:
            reopen(g, changes);
            break;
        default:
            replace(g, changes);
        }
        pause_us(changes, 10000);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
}

/* ---- running and judging ------------------------------------------------ */

static void run_workers(Graph *g, Worker *workers, Changes *changes)
{
    g_autofree IoThread **threads = g_new0(IoThread *, arg_threads);

    for (int i = 0; i < arg_threads; i++) {
        threads[i] = io_thread_new("stress", /* error= */ NULL);
        g_assert(threads[i] != NULL);
    }
    for (unsigned i = 0; i < workers_count; i++) {
        aio_schedule(io_thread_context(threads[i % (unsigned)arg_threads]),
                     start_worker, &workers[i]);
    }
    change_graph(g, changes);
    for (int i = 0; i < arg_threads; i++) {
        io_thread_free(threads[i]); /* when its workers have ended */
    }
}

static void compare_all(const Worker *workers)
{
    uint8_t unit[UNIT], expected[UNIT], slice[SLICE];

    for (unsigned i = 0; i < workers_count; i++) {
        const Worker *w = &workers[i];
        int ret = blk_pread(blk, slice_offset(w), SLICE, slice);

        if (ret < 0 || memcmp(slice, w->slice, SLICE) != 0) {
            fail(w, "slice at the end", slice_offset(w), SLICE, ret);
        }
        for (int64_t round = 0; round < ROUNDS; round++) {
            ret = blk_pread(blk, unit_offset(w, round), UNIT, unit);
            fill_unit(expected, w->stamps[round]);
            if (ret < 0 || memcmp(unit, expected, UNIT) != 0) {
                fail(w, "unit at the end", unit_offset(w, round), UNIT, ret);
            }
        }
    }
}

static void report(const Worker *workers, const Changes *changes)
{
    uint64_t requests = 0, refused = 0;

    for (unsigned i = 0; i < workers_count; i++) {
        requests += workers[i].requests;
        refused += workers[i].refused;
    }
    printf("%" PRIu64 " requests (%" PRIu64 " refused while read-only), "
           "%u drains, %u reopens, %u replacements: %s\n", requests, refused,
           changes->drains, changes->reopens, changes->replacements,
           failures ? "FAILED" : "as the model says");
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;
    g_autofree Worker *workers = NULL;
    Changes changes = { 0 };
    Graph graph = { 0 };
    AioContext *ctx;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) ||
        arg_threads < 1 || arg_threads > 32 || arg_coroutines < 1 ||
        arg_coroutines > 1024) {
        fprintf(stderr, "usage: %s: %s\n", argv[0],
                error ? error->message : "see --help");
        return 2;
    }
    (void) alarm((unsigned)arg_seconds + HANG_SECONDS);
    ctx = aio_context_new(&error);
    g_assert_no_error(error);
    drivers_register_all();
    workers_count = (unsigned)(arg_threads * arg_coroutines);
    workers = g_new0(Worker, workers_count);
    changes.random = (uint64_t)arg_seed;
    open_graph(&graph, workers);
    run_workers(&graph, workers, &changes);
    compare_all(workers);
    report(workers, &changes);
    close_graph(&graph);
    thread_pool_shutdown();
    aio_context_free(ctx);
    buffer_pool_drain();
    return failures != 0;
}
