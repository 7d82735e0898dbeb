/* SPDX-License-Identifier: MIT */
/*
 * what a power loss may leave of a qcow2 image under parallel requests
 *
 * The image lies on a disk in memory that takes its time: each call yields
 * before it starts and before it ends, so that requests of several jobs mix.
 * The disk keeps a log with two moments for each write: taken and ended. A
 * crash at a moment leaves what a flush has covered, and of the rest any
 * sectors. From the log such media are made, opened and read again; the
 * driver's own check, and qemu-img for the samples in --judge, look for damage.
 *
 * Always true:
 *  K1  two operations that run at once touch different sectors (but share
 *      clusters and tables), so that each sector has a sequence of contents;
 *  K2  a content is durable once a flush has ended that began after the
 *      operation had ended.
 *
 * Everything follows from --seed. Exit status: 0 sound, 1 not, 2 usage.
 *
 * Locking: none, one thread.
 */
#include "block/backend.h"
#include "block/driver.h"
#include "block/graph/node.h"
#include "block/image/check.h"
#include "block/rt/aio_context.h"
#include "block/rt/coroutine.h"
#include "block/rt/thread_pool.h"
#include "drivers/registry.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define SECTOR 512
#define CAPACITY (64 * MIB)
#define JOBS 8
#define OP_SECTORS_MAX 96
#define NEVER G_MAXUINT

static char *arg_image, *arg_judge, *arg_extra;
static int arg_seed = 1, arg_ops = 300, arg_states = 400, arg_samples = 4;
static int arg_full_kib;

static const GOptionEntry entries[] = {
    { "image", 0, 0, G_OPTION_ARG_FILENAME, &arg_image, "to begin with",
      "FILE" },
    { "judge", 0, 0, G_OPTION_ARG_FILENAME, &arg_judge, "samples go there",
      "FOLDER" },
    { "options", 0, 0, G_OPTION_ARG_STRING, &arg_extra, "JSON members, each "
      "followed by a comma", "TEXT" },
    { "seed", 0, 0, G_OPTION_ARG_INT, &arg_seed, "of all randomness", "N" },
    { "ops", 0, 0, G_OPTION_ARG_INT, &arg_ops, "operations", "N" },
    { "states", 0, 0, G_OPTION_ARG_INT, &arg_states, "crashes", "N" },
    { "samples", 0, 0, G_OPTION_ARG_INT, &arg_samples, "for --judge", "N" },
    { "full", 0, 0, G_OPTION_ARG_INT, &arg_full_kib,
      "the disk is full at this length", "KIB" },
    { NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL },
};

static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state >> 11;
}

/* Moments: grows with everything that begins or ends. */
static guint now = 1;

/* -- the disk ------------------------------------------------------------- */

typedef enum { LOG_DATA, LOG_BARRIER, LOG_LENGTH } LogKind;

typedef struct LogEntry {
    LogKind kind;
    guint taken, ended;
    int64_t offset, bytes; /* LENGTH: offset is the new one */
    uint8_t *data;
} LogEntry;

typedef struct Medium {
    uint8_t *data;
    int64_t length;
} Medium;

static Medium disk;
static bool disk_is_slow; /* yields and logs */
static GPtrArray *disk_log;

static void log_entry_free(void *opaque)
{
    LogEntry *entry = opaque;

    g_free(entry->data);
    g_free(entry);
}

static void medium_apply(Medium *m, const LogEntry *entry, int64_t from,
                         int64_t to)
{
    if (entry->kind == LOG_LENGTH) {
        if (entry->offset < m->length) {
            memset(m->data + entry->offset, 0, m->length - entry->offset);
        }
        m->length = entry->offset;
    } else if (entry->kind == LOG_DATA && from < to) {
        memcpy(m->data + from, entry->data + (from - entry->offset),
               to - from);
        m->length = MAX(m->length, to);
    }
}

static void coroutine_fn linger(void)
{
    for (uint64_t turns = disk_is_slow ? next_random() % 4 : 0; turns > 0;
         turns--) {
        co_wake(co_self());
        co_yield();
    }
}

static LogEntry *log_begin(LogKind kind, int64_t offset, int64_t bytes)
{
    LogEntry *entry = g_new0(LogEntry, 1);

    *entry = (LogEntry){ kind, now++, NEVER, offset, bytes, NULL };
    g_ptr_array_add(disk_log, entry);
    return entry;
}

static bool disk_open(BlockDriverState *bs, BlockOptions *options,
                      BdrvOpenFlags flags, GError **error)
{
    bs->length = disk.length;
    return true;
}

static void disk_close(BlockDriverState *bs)
{
}

static int coroutine_fn disk_preadv(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes, IoVec *iov,
                                    size_t iov_offset, BdrvRequestFlags flags)
{
    linger();
    iovec_from_buffer(iov, iov_offset, disk.data + offset, bytes);
    linger();
    return 0;
}

/* What is within the file has its place. */
static bool disk_is_full(int64_t end)
{
    return end > CAPACITY ||
           (disk_is_slow && arg_full_kib &&
            end > MAX(arg_full_kib * KIB, disk.length));
}

static int coroutine_fn disk_pwritev(BlockDriverState *bs, int64_t offset,
                                     int64_t bytes, IoVec *iov,
                                     size_t iov_offset,
                                     BdrvRequestFlags flags)
{
    LogEntry *entry;

    linger();
    if (disk_is_full(offset + bytes)) {
        return -ENOSPC;
    }
    if (!disk_is_slow) {
        iovec_to_buffer(iov, iov_offset, disk.data + offset, bytes);
        disk.length = MAX(disk.length, offset + bytes);
        return 0;
    }
    entry = log_begin(LOG_DATA, offset, bytes);
    entry->data = g_malloc(bytes);
    iovec_to_buffer(iov, iov_offset, entry->data, bytes);
    medium_apply(&disk, entry, offset, offset + bytes);
    linger();
    entry->ended = now++;
    return 0;
}

static int coroutine_fn disk_flush(BlockDriverState *bs)
{
    LogEntry *entry;

    if (!disk_is_slow) {
        return 0;
    }
    linger();
    entry = log_begin(LOG_BARRIER, 0, 0);
    linger();
    entry->ended = now++;
    return 0;
}

static int coroutine_fn disk_truncate(BlockDriverState *bs, int64_t length,
                                      bool exact, BdrvPreallocMode prealloc,
                                      BdrvRequestFlags flags, GError **error)
{
    LogEntry whole = { LOG_LENGTH, 0, 0, length, 0, NULL };

    if (disk_is_full(length)) {
        return -ENOSPC;
    }
    medium_apply(&disk, &whole, 0, 0);
    if (disk_is_slow) {
        LogEntry *entry = log_begin(LOG_LENGTH, length, 0);

        entry->ended = now++;
    }
    return 0;
}

static int64_t coroutine_fn disk_getlength(BlockDriverState *bs)
{
    return disk.length;
}

static const BlockDriver disk_driver = {
    .format_name = "slow-disk",
    .protocol_name = "slow-disk",
    .instance_size = 1,
    .open = disk_open,
    .close = disk_close,
    .co_preadv = disk_preadv,
    .co_pwritev = disk_pwritev,
    .co_flush_to_disk = disk_flush,
    .co_truncate = disk_truncate,
    .co_getlength = disk_getlength,
};

static BlockBackend *open_image(BdrvOpenFlags flags)
{
    g_autofree char *name =
        g_strdup_printf("json:{\"driver\":\"qcow2\",%s\"file\":"
                        "{\"driver\":\"slow-disk\"}}",
                        arg_extra ? arg_extra : "");
    g_autoptr(GError) error = NULL;
    BlockBackend *blk = blk_open(name, NULL, flags, NULL, "test", &error);

    if (!blk) {
        fprintf(stderr, "cannot open: %s\n", error->message);
    }
    return blk;
}

/* -- the workload --------------------------------------------------------- */

typedef enum { OP_WRITE, OP_ZERO, OP_DISCARD, OP_FLUSH } OpKind;

typedef struct Op {
    OpKind kind;
    int64_t first, count; /* sectors */
    guint began, ended, durable;
    bool failed;
} Op;

static BlockBackend *blk;
static Op *ops;
static int ops_begun, jobs_left;
static int64_t sectors;
static uint8_t *initial;

static uint64_t stamp(int op, int64_t sector)
{
    return ((uint64_t)op + 1) << 32 | (uint64_t)(sector + 1);
}

/* K1 */
static bool is_busy(const Op *op)
{
    for (int i = 0; i < ops_begun; i++) {
        if (&ops[i] != op && ops[i].ended == NEVER &&
            ranges_overlap(ops[i].first, ops[i].count, op->first,
                           op->count)) {
            return true;
        }
    }
    return false;
}

static void choose(Op *op)
{
    static const OpKind kinds[] = { OP_WRITE, OP_WRITE, OP_WRITE, OP_WRITE,
                                    OP_WRITE, OP_WRITE, OP_ZERO, OP_DISCARD,
                                    OP_DISCARD, OP_FLUSH };

    op->kind = kinds[next_random() % G_N_ELEMENTS(kinds)];
    op->ended = op->durable = NEVER;
    op->count = 0;
    do {
        if (op->kind != OP_FLUSH) {
            /* Mostly short, at few places: that is where races are. */
            op->count = 1 + next_random() % (next_random() % 4 ? 8 :
                                             OP_SECTORS_MAX);
            op->first = next_random() % (sectors - op->count + 1);
            if (next_random() % 2) {
                op->first %= MIN(sectors - op->count, 2048) + 1;
            }
            if (op->kind != OP_WRITE && next_random() % 4) {
                int64_t unit = MIN(blk_cluster_bytes(blk) / SECTOR, sectors);

                op->first -= op->first % unit;
                op->count = MIN(unit, sectors - op->first);
            }
        }
    } while (op->count && is_busy(op));
}

static int coroutine_fn run_op(const Op *op, uint8_t *buffer)
{
    int64_t offset = op->first * SECTOR;
    int64_t bytes = op->count * SECTOR;
    IoVec iov;
    int ret;

    switch (op->kind) {
    case OP_FLUSH:
        return blk_co_flush(blk);
    case OP_ZERO:
        return blk_co_pwrite_zeroes(blk, offset, bytes, next_random() % 2 ?
                                    BDRV_REQ_MAY_UNMAP : 0);
    case OP_DISCARD:
        return blk_co_pdiscard(blk, offset, bytes);
    default:
        for (int64_t i = 0; i < bytes / 8; i++) {
            ((uint64_t *)buffer)[i] =
                stamp(op - ops, op->first + i / (SECTOR / 8));
        }
        iovec_init_buffer(&iov, buffer, bytes);
        ret = blk_co_pwritev(blk, offset, bytes, &iov, 0);
        iovec_destroy(&iov);
        return ret;
    }
}

static void end_op(Op *op, int ret)
{
    op->failed = ret < 0;
    op->ended = now++;
    if (ret < 0 && !(ret == -ENOSPC && arg_full_kib)) {
        fprintf(stderr, "op %d: %s\n", (int)(op - ops), g_strerror(-ret));
        exit(1);
    }
    if (op->kind == OP_FLUSH && ret >= 0) { /* K2 */
        for (int i = 0; i < ops_begun; i++) {
            if (ops[i].ended < op->began && !ops[i].failed) {
                ops[i].durable = MIN(ops[i].durable, op->ended);
            }
        }
    }
}

static void coroutine_fn job(void *opaque)
{
    uint8_t *buffer = g_malloc(OP_SECTORS_MAX * SECTOR);

    while (ops_begun < arg_ops) {
        Op *op = &ops[ops_begun++];

        choose(op);
        op->began = now++;
        end_op(op, run_op(op, buffer));
    }
    g_free(buffer);
    jobs_left--;
}

static void work(AioContext *ctx)
{
    disk_is_slow = true;
    jobs_left = JOBS;
    for (int i = 0; i < JOBS; i++) {
        co_enter(co_create(job, NULL));
    }
    while (jobs_left > 0) {
        aio_poll(ctx, /* may_sleep= */ true);
    }
}

/* -- crashes -------------------------------------------------------------- */

/* May a discarded sector keep its content? Yes; so it only adds zeros. */
static bool is_allowed(int64_t sector, const uint64_t *words, guint moment)
{
    bool is_zero = words[0] == 0;
    bool ok = memcmp(words, initial + sector * SECTOR, SECTOR) == 0;

    for (int k = 1; k < SECTOR / 8; k++) {
        if (words[k] != words[0]) {
            /* No stamp of ours is mixed. */
            return ok;
        }
    }
    for (int i = 0; i < ops_begun && ops[i].began <= moment; i++) {
        const Op *op = &ops[i];
        bool holds;

        if (op->kind == OP_FLUSH || sector < op->first ||
            sector >= op->first + op->count) {
            continue;
        }
        holds = op->kind == OP_WRITE ? words[0] == stamp(i, sector)
                                     : is_zero;
        if (op->failed || op->kind == OP_DISCARD || op->durable > moment) {
            holds |= ok;
        }
        ok = holds;
    }
    return ok;
}

static bool reads_well(guint moment, const char *how)
{
    BlockBackend *reader = open_image(BDRV_O_RDONLY);
    g_autofree uint64_t *content = g_malloc(sectors * SECTOR);
    BlockCheckResult result = { 0 };
    bool ok = reader &&
              blk_pread(reader, 0, sectors * SECTOR, content) >= 0;

    if (!ok) {
        fprintf(stderr, "%s at %u: cannot be read\n", how, moment);
    }
    for (int64_t i = 0; ok && i < sectors; i++) {
        const uint64_t *words = content + i * SECTOR / 8;

        if (!is_allowed(i, words, moment)) {
            fprintf(stderr, "%s at %u: sector %" PRId64 " holds 0x%" PRIx64
                    "\n", how, moment, i, words[0]);
            ok = false;
        }
    }
    if (ok && (!bdrv_check(blk_bs(reader), 0, &result, NULL) ||
               result.corruptions || result.check_errors)) {
        fprintf(stderr, "%s at %u: %" PRId64 " corruptions\n", how, moment,
                result.corruptions + result.check_errors);
        ok = false;
    }
    if (reader) {
        blk_free(reader);
    }
    return ok;
}

/* Did a flush cover it before @moment? */
static bool is_durable(const LogEntry *entry, guint moment)
{
    for (guint i = 0; i < disk_log->len; i++) {
        const LogEntry *flush = g_ptr_array_index(disk_log, i);

        if (flush->kind == LOG_BARRIER && flush->ended <= moment &&
            entry->ended < flush->taken) {
            return true;
        }
    }
    return false;
}

/* The disk as a crash at @moment may leave it; @all: as it is at best. */
static void make_state(const Medium *base, guint moment, bool all)
{
    memcpy(disk.data, base->data, CAPACITY);
    disk.length = base->length;
    for (guint i = 0; i < disk_log->len; i++) {
        const LogEntry *entry = g_ptr_array_index(disk_log, i);
        int64_t end = entry->offset + entry->bytes;

        if (entry->taken > moment) {
            break;
        }
        if (all || entry->kind != LOG_DATA || is_durable(entry, moment)) {
            medium_apply(&disk, entry, entry->offset, end);
            continue;
        }
        switch (next_random() % 4) {
        case 0:
            break;
        case 1: /* torn: any sectors */
            for (int64_t at = entry->offset; at < end; at += SECTOR) {
                if (next_random() % 2) {
                    medium_apply(&disk, entry, at, MIN(at + SECTOR, end));
                }
            }
            break;
        default:
            medium_apply(&disk, entry, entry->offset, end);
        }
    }
}

static void save_sample(int number)
{
    g_autofree char *name = g_strdup_printf("%s/state-%d.qcow2", arg_judge,
                                            number);

    if (!g_file_set_contents(name, (char *)disk.data, disk.length, NULL)) {
        fprintf(stderr, "cannot write %s\n", name);
        exit(2);
    }
}

static int crash(const Medium *base)
{
    guint last = now;
    int every = MAX(arg_states / MAX(arg_samples, 1), 1);

    for (int i = 0; i < arg_states; i++) {
        guint moment = next_random() % last;
        bool all = next_random() % 4 == 0;

        make_state(base, moment, all);
        if (arg_judge && i % every == 0) {
            save_sample(i / every);
        }
        if (!reads_well(moment, all ? "prefix" : "subset")) {
            if (arg_judge) {
                save_sample(-1);
            }
            return 1;
        }
    }
    return 0;
}

static Medium load_base(void)
{
    Medium base = { g_malloc0(CAPACITY), 0 };
    g_autofree char *content = NULL;
    gsize bytes;

    if (!g_file_get_contents(arg_image, &content, &bytes, NULL) ||
        (int64_t)bytes > CAPACITY) {
        fprintf(stderr, "cannot read %s\n", arg_image);
        exit(2);
    }
    memcpy(base.data, content, bytes);
    base.length = bytes;
    return base;
}

static int run(AioContext *ctx)
{
    Medium base = load_base();
    int status;

    disk = (Medium){ g_memdup2(base.data, CAPACITY), base.length };
    disk_log = g_ptr_array_new_with_free_func(log_entry_free);
    ops = g_new0(Op, arg_ops);
    blk = open_image(BDRV_O_RDWR | BDRV_O_UNMAP);
    if (!blk) {
        return 1;
    }
    sectors = blk_length(blk) / SECTOR;
    initial = g_malloc(sectors * SECTOR);
    if (blk_pread(blk, 0, sectors * SECTOR, initial) < 0) {
        fprintf(stderr, "cannot read the image\n");
        return 1;
    }
    work(ctx);
    blk_free(blk);
    disk_is_slow = false;
    status = reads_well(NEVER, "after closing") ? crash(&base) : 1;
    printf("seed %d: %d operations, %u disk calls, %d states: %s\n", arg_seed,
           arg_ops, disk_log->len, arg_states, status ? "DAMAGE" : "sound");
    g_ptr_array_unref(disk_log);
    g_free(ops);
    g_free(initial);
    g_free(disk.data);
    g_free(base.data);
    return status;
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new("- crashes");
    g_autoptr(GError) error = NULL;
    AioContext *ctx;
    int status;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) ||
        !arg_image) {
        fprintf(stderr, "%s\n", error ? error->message : "no --image");
        return 2;
    }
    random_state = 88172645463325252u + (uint64_t)arg_seed * 7919;
    ctx = aio_context_new(/* error= */ NULL);
    drivers_register_all();
    bdrv_register(&disk_driver);
    status = run(ctx);
    thread_pool_shutdown();
    co_pool_drain();
    aio_context_free(ctx);
    return status;
}
