/* SPDX-License-Identifier: MIT */
/*
 * filters that keep several requests apart, under load from several threads
 *
 *   snapshot   guests write above copy-before-write while others read the
 *              snapshot, and a backup's requests keep it
 *   quorum     guests above a quorum that rewrites what is corrupt; meanwhile
 *              data of a child is spoiled, children are added and taken away
 *   fifo       the same with read-pattern=fifo, where nothing may be spoiled
 *   users      guests above a filter whose permissions below change, because
 *              another user comes and goes
 *
 * Block n belongs to worker n modulo their number: only that one writes it,
 * and so knows what it holds. Memory nodes do not lock their content, so a
 * request that should have been kept out shows as a race to ThreadSanitizer,
 * and else as wrong data.
 *
 * Exit status: 0 all as the model says, 1 not so, 2 usage.
 */
#include "tests/unit/memory_driver.h"

#include "block/backend.h"
#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/graph/open.h"
#include "block/graph/perm.h"
#include "block/io/snapshot_access.h"
#include "block/rt/buffer_pool.h"
#include "block/rt/io_thread.h"
#include "block/rt/thread_pool.h"
#include "block/rt/timer.h"
#include "drivers/registry.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BLOCK 4096
#define CLUSTER 65536 /* of copy-before-write */
#define LENGTH (4 * MIB)
#define BLOCKS (LENGTH / BLOCK)
#define OLD 0x0d      /* every byte in the beginning */
#define HANG_SECONDS 120 /* longer than --seconds: something is stuck */

/* A reader of another's block races with the writer, as guests may. */
#ifdef __SANITIZE_THREAD__
#define MAY_READ_OTHERS false
#else
#define MAY_READ_OTHERS true
#endif

static int arg_seconds = 2, arg_seed = 1, arg_threads = 3;
static int arg_coroutines = 8;
static char *arg_only;

static const GOptionEntry entries[] = {
    { "seconds", 0, 0, G_OPTION_ARG_INT, &arg_seconds, "of each part", "N" },
    { "seed", 0, 0, G_OPTION_ARG_INT, &arg_seed, "of all randomness", "N" },
    { "threads", 0, 0, G_OPTION_ARG_INT, &arg_threads, "I/O threads", "N" },
    { "coroutines", 0, 0, G_OPTION_ARG_INT, &arg_coroutines,
      "coroutines per thread", "N" },
    { "only", 0, 0, G_OPTION_ARG_STRING, &arg_only, "one part", "NAME" },
    { NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL },
};

typedef struct Worker {
    unsigned number;
    uint64_t random;
    uint64_t requests;
    bool done; /* atomic */
    uint8_t buffer[CLUSTER];
} Worker;

static BlockBackend *guest;    /* what the workers write to */
static BlockBackend *snapshot; /* NULL: there is none */
static bool reads_others;      /* a vote among versions must give one */
static uint8_t model[BLOCKS];  /* each entry its owner's */
static unsigned workers_count;
static int stop;               /* atomic */
static int failures;           /* atomic */

static int64_t random_below(uint64_t *state, int64_t limit)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((*state >> 33) % (uint64_t)limit);
}

static void expect(bool ok, const char *what, int64_t offset)
{
    if (!ok && __atomic_fetch_add(&failures, 1, __ATOMIC_SEQ_CST) < 10) {
        fprintf(stderr, "%s at %" PRId64 "; repeat with --seed %d\n", what,
                offset, arg_seed);
        __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    }
}

/* ---- workers ------------------------------------------------------------- */

static bool is_all(const uint8_t *buffer, int64_t bytes, uint8_t byte)
{
    return buffer[0] == byte && memcmp(buffer, buffer + 1, bytes - 1) == 0;
}

static int coroutine_fn read_block(Worker *w, BlockBackend *blk,
                                   int64_t offset, int64_t bytes)
{
    IoVec iov;

    iovec_init_buffer(&iov, w->buffer, (size_t)bytes);
    return blk_co_preadv(blk, offset, bytes, &iov, 0);
}

static void coroutine_fn write_own(Worker *w, int64_t block)
{
    uint8_t byte = (uint8_t)(1 + random_below(&w->random, 255));
    IoVec iov;
    int ret;

    if (random_below(&w->random, 8) == 0) {
        byte = 0;
        ret = blk_co_pwrite_zeroes(guest, block * BLOCK, BLOCK, 0);
    } else {
        memset(w->buffer, byte, BLOCK);
        iovec_init_buffer(&iov, w->buffer, BLOCK);
        ret = blk_co_pwritev(guest, block * BLOCK, BLOCK, &iov, 0);
    }
    expect(ret == 0, "write", block * BLOCK);
    model[block] = byte;
}

static void coroutine_fn use_snapshot(Worker *w)
{
    int64_t bytes = BLOCK * (1 + random_below(&w->random, CLUSTER / BLOCK));
    int64_t offset = random_below(&w->random, LENGTH - bytes);

    if (random_below(&w->random, 4) == 0) {
        expect(blk_co_keep_snapshot(guest, offset, bytes) == 0, "keep",
               offset);
    } else {
        expect(read_block(w, snapshot, offset, bytes) == 0 &&
               is_all(w->buffer, bytes, OLD), "read of the snapshot", offset);
    }
}

static void coroutine_fn one_request(Worker *w)
{
    int64_t turn = random_below(&w->random, BLOCKS / workers_count);
    int64_t block = turn * workers_count + w->number;

    switch (random_below(&w->random, 8)) {
    case 0: case 1: case 2:
        write_own(w, block);
        break;
    case 3: case 4:
        if (snapshot != NULL) {
            use_snapshot(w);
        } else if (reads_others) {
            block = random_below(&w->random, BLOCKS);
            expect(read_block(w, guest, block * BLOCK, BLOCK) == 0,
                   "read of another's block", block * BLOCK);
        }
        break;
    default:
        expect(read_block(w, guest, block * BLOCK, BLOCK) == 0 &&
               is_all(w->buffer, BLOCK, model[block]), "read",
               block * BLOCK);
    }
}

static void coroutine_fn worker_entry(void *opaque)
{
    Worker *w = opaque;

    while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        one_request(w);
        w->requests++;
    }
    __atomic_store_n(&w->done, true, __ATOMIC_RELEASE);
}

static void start_worker(void *opaque)
{
    co_enter(co_create(worker_entry, opaque));
}

/* ---- a run ----------------------------------------------------------------- */

static void poll_for_us(int64_t us)
{
    int64_t end = clock_now_ns() + us * 1000;

    do {
        while (aio_poll(aio_context_current(), /* may_sleep= */ false)) {
        }
        g_usleep(100);
    } while (clock_now_ns() < end);
}

/* All workers work; @change(@opaque) happens now and then. */
static void run_workers(const char *name,
                        void (*change)(void *opaque, uint64_t *random),
                        void *opaque)
{
    g_autofree Worker *workers = g_new0(Worker, workers_count);
    g_autofree IoThread **threads = g_new0(IoThread *, arg_threads);
    int64_t end = clock_now_ns() + arg_seconds * INT64_C(1000000000);
    uint64_t random = (uint64_t)arg_seed, requests = 0, changes = 0;

    __atomic_store_n(&stop, 0, __ATOMIC_SEQ_CST);
    memset(model, OLD, sizeof(model));
    for (int i = 0; i < arg_threads; i++) {
        threads[i] = io_thread_new("stress", NULL);
    }
    for (unsigned i = 0; i < workers_count; i++) {
        workers[i].number = i;
        workers[i].random = (uint64_t)arg_seed * 1000003 + i;
        aio_schedule(io_thread_context(threads[i % arg_threads]),
                     start_worker, &workers[i]);
    }
    while (clock_now_ns() < end && !__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
        poll_for_us(2000);
        change(opaque, &random);
        changes++;
    }
    __atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < workers_count; i++) {
        while (!__atomic_load_n(&workers[i].done, __ATOMIC_ACQUIRE)) {
            poll_for_us(100);
        }
        requests += workers[i].requests;
    }
    for (int i = 0; i < arg_threads; i++) {
        io_thread_free(threads[i]);
    }
    printf("%s: %" PRIu64 " requests, %" PRIu64 " changes, %d failures\n",
           name, requests, changes, failures);
}

/* What @data holds must be what the guests know. */
static void expect_model(const uint8_t *data, const char *what)
{
    for (int64_t i = 0; i < BLOCKS; i++) {
        expect(is_all(data + i * BLOCK, BLOCK, model[i]), what, i * BLOCK);
    }
}

/* ---- graphs ------------------------------------------------------------------ */

/* A memory node that others may use, filled with OLD. */
static BdrvChild *memory_node(void)
{
    BdrvChild *child = memory_open(&(MemoryConfig) {
        .length = LENGTH, .yields = true,
        .write_flags = BDRV_REQ_WRITE_UNCHANGED,
        .zero_flags = BDRV_REQ_WRITE_UNCHANGED | BDRV_REQ_MAY_UNMAP });

    g_assert(bdrv_child_set_perm(child, 0, BLK_PERM_ALL, NULL));
    memset(memory_data(child), OLD, LENGTH);
    return child;
}

static BlockBackend *open_user(uint32_t perm, const char *json)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(BlockDriverState) bs =
        bdrv_open(NULL, block_options_from_json(json, NULL),
                  BDRV_O_RDWR | BDRV_O_UNMAP, /* policy= */ NULL, &error);
    BlockBackend *blk = blk_new(perm, BLK_PERM_ALL, "stress");

    if (bs == NULL || !blk_insert_node(blk, bs, &error)) {
        g_error("%s: %s", json, error->message);
    }
    return blk;
}

#define GUEST_PERM (BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE)

static void drain_and_go_on(void *opaque, uint64_t *random)
{
    blk_drain_begin(guest);
    blk_drain_end(guest);
}

static void run_snapshot(void)
{
    BdrvChild *file = memory_node(), *target = memory_node();
    g_autofree char *json = g_strdup_printf(
        "{\"driver\":\"copy-before-write\",\"node-name\":\"cbw\","
        "\"file\":\"%s\",\"target\":\"%s\"}", file->bs->node_name,
        target->bs->node_name);

    memset(memory_data(target), 'x', LENGTH);
    guest = open_user(GUEST_PERM, json);
    snapshot = open_user(BLK_PERM_CONSISTENT_READ,
                         "{\"driver\":\"snapshot-access\",\"file\":\"cbw\"}");
    run_workers("snapshot", drain_and_go_on, NULL);
    expect_model(memory_data(file), "content of the file");
    blk_free(g_steal_pointer(&snapshot));
    blk_free(guest);
    memory_close(file);
    memory_close(target);
}

/* -- quorum -- */

typedef struct Copies {
    BdrvChild *memory[4]; /* the last one comes and goes */
    BdrvChild *added;     /* its edge in the quorum, or NULL */
    bool spoils;
} Copies;

/*
 * A copy that was away does not have what was written meanwhile. The first
 * one is never spoiled: it is right unless a rewrite spoils it.
 */
static void add_copy(Copies *copies)
{
    BlockDriverState *quorum = blk_bs(guest);
    BdrvChild *newcomer = copies->memory[3];

    memcpy(memory_data(newcomer), memory_data(copies->memory[0]), LENGTH);
    expect(bdrv_add_child(quorum, newcomer->bs, NULL), "adding a child", 0);
    copies->added = quorum->children->pdata[quorum->children->len - 1];
}

static void change_copies(void *opaque, uint64_t *random)
{
    Copies *copies = opaque;
    int64_t block = random_below(random, BLOCKS);
    int victim = 1 + (int)(block % 2); /* two bad copies would win */

    blk_drain_begin(guest);
    if (copies->spoils && random_below(random, 2) == 0) {
        memset(memory_data(copies->memory[victim]) + block * BLOCK, 0xee,
               BLOCK);
    } else if (copies->added == NULL) {
        add_copy(copies);
    } else {
        expect(bdrv_del_child(blk_bs(guest), copies->added, NULL),
               "taking a child away", 0);
        copies->added = NULL;
    }
    blk_drain_end(guest);
}

static void run_quorum(const char *name, const char *options, bool spoils)
{
    Copies copies = { .spoils = spoils };
    g_autofree char *json = NULL;

    for (int i = 0; i < 4; i++) {
        copies.memory[i] = memory_node();
    }
    json = g_strdup_printf(
        "{\"driver\":\"quorum\",\"vote-threshold\":2,\"children\":"
        "[\"%s\",\"%s\",\"%s\"]%s}", copies.memory[0]->bs->node_name,
        copies.memory[1]->bs->node_name, copies.memory[2]->bs->node_name,
        options);
    guest = open_user(GUEST_PERM, json);
    reads_others = MAY_READ_OTHERS && spoils;
    run_workers(name, change_copies, &copies);
    reads_others = false;
    for (int i = 0; i < (spoils ? 1 : 3); i++) {
        expect_model(memory_data(copies.memory[i]), "content of a copy");
    }
    blk_free(guest);
    for (int i = 0; i < 4; i++) {
        memory_close(copies.memory[i]);
    }
}

/* -- users -- */

/* Over its own filter it needs to resize what all use: nobody is drained. */
static void another_user(void *opaque, uint64_t *random)
{
    BlockBackend *user = open_user(
        BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE,
        "{\"driver\":\"throttle\",\"file\":\"shared\"}");

    poll_for_us(200);
    blk_free(user);
}

static void run_users(void)
{
    BdrvChild *file = memory_node();
    g_autofree char *json = g_strdup_printf(
        "{\"driver\":\"throttle\",\"file\":{\"driver\":\"throttle\","
        "\"node-name\":\"shared\",\"file\":\"%s\"}}", file->bs->node_name);

    guest = open_user(GUEST_PERM, json);
    run_workers("users", another_user, NULL);
    expect_model(memory_data(file), "content of the file");
    blk_free(guest);
    memory_close(file);
}

/* Spoiled data is told of each time. */
static void ignore_message(const char *domain, GLogLevelFlags level,
                           const char *message, void *opaque)
{
}

static bool is_wanted(const char *name)
{
    return arg_only == NULL || strcmp(arg_only, name) == 0;
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) options = g_option_context_new(NULL);

    g_option_context_add_main_entries(options, entries, NULL);
    if (!g_option_context_parse(options, &argc, &argv, NULL) || argc > 1 ||
        arg_threads < 1 || arg_coroutines < 1) {
        fprintf(stderr, "bad options, see --help\n");
        return 2;
    }
    workers_count = (unsigned)(arg_threads * arg_coroutines);
    alarm(HANG_SECONDS + 4 * (unsigned)arg_seconds);
    g_log_set_handler("imgfuse-quorum", G_LOG_LEVEL_WARNING, ignore_message,
                      NULL);
    drivers_register_all();
    g_assert(aio_context_new(NULL) != NULL);
    if (is_wanted("snapshot")) {
        run_snapshot();
    }
    if (is_wanted("quorum")) {
        run_quorum("quorum", ",\"rewrite-corrupted\":true", true);
    }
    if (is_wanted("fifo")) {
        run_quorum("fifo", ",\"read-pattern\":\"fifo\"", false);
    }
    if (is_wanted("users")) {
        run_users();
    }
    thread_pool_shutdown();
    aio_context_free(aio_context_current());
    buffer_pool_drain();
    g_free(arg_only);
    return failures ? 1 : 0;
}
