/* SPDX-License-Identifier: MIT */
/*
 * decoding compressed clusters before they are asked for
 *
 *            position      next                  limit
 *   ─────────────┼───────────┼─────────────────────┼──────▶ guest offset
 *     was read   │ decoded or│ taken in pieces by  │
 *                │ at work   │ the runners         │
 *
 * A reader whose requests follow each other moves the limit before it. Runners
 * are coroutines, each with one worker thread at most; they take a piece of
 * what is left, have its clusters decoded into the cache, and end when there
 * is nothing left. The reader waits for what is at work (compress_cache.h).
 *
 * A runner holds no request of a root. So a drain waits for it by drain_poll.
 *
 * Always true:
 *  A1  runners only grows inside a request that reads the image, and not while
 *      stopped is set;
 *  A2  what a runner maps and decodes it does inside an epoch.
 *
 * Locking: none; all that changes is atomic, and a lost update means only that
 * too much or too little is decoded.
 */
#include "drivers/qcow2/readahead.h"

#include "block/graph/drain.h"
#include "block/graph/node.h"
#include "drivers/qcow2/cluster.h"
#include "drivers/qcow2/compress.h"

/* Smaller clusters are not worth the way to a worker; of larger ones the cache
 * has no room for many. */
#define CLUSTER_BYTES_MIN (16 * KIB)
#define CLUSTER_BYTES_MAX (256 * KIB)
/* How far before the reader, and how much a worker gets at a time. */
#define WINDOW_BYTES (2 * MIB)
#define PIECE_BYTES (128 * KIB)
#define RUNNERS_MAX 4
/* So many requests in order make a sequential reader. */
#define HITS_MIN 3
/* Requests of one reader may come that much out of order. */
#define DISORDER_BYTES (256 * KIB)

struct Qcow2ReadAhead {
    BlockDriverState *bs;
    int64_t position;
    int64_t next;
    int64_t limit;
    unsigned hits;    /* requests that followed each other */
    unsigned readers; /* inside begin and end */
    unsigned runners;
    bool stopped;
};

#define LOAD(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define STORE(field, value) \
    __atomic_store_n(&(field), value, __ATOMIC_RELAXED)

Qcow2ReadAhead *qcow2_readahead_new(BlockDriverState *bs)
{
    int64_t cluster_bytes = qcow2_state(bs)->cluster_bytes;
    Qcow2ReadAhead *ahead;

    if (cluster_bytes < CLUSTER_BYTES_MIN ||
        cluster_bytes > CLUSTER_BYTES_MAX || g_get_num_processors() < 2) {
        return NULL;
    }
    ahead = g_new0(Qcow2ReadAhead, 1);
    ahead->bs = bs;
    return ahead;
}

void qcow2_readahead_free(Qcow2ReadAhead *ahead)
{
    g_assert(!ahead || ahead->runners == 0);
    g_free(ahead);
}

/* -- runners -------------------------------------------------------------- */

/*
 * Decodes what is compressed of [@offset, @offset + @bytes), both aligned to
 * clusters. Errors are not ours to tell: the reader will meet them.
 */
static void coroutine_fn decode_piece(BlockDriverState *bs, int64_t offset,
                                      int64_t bytes)
{
    Qcow2State *q = qcow2_state(bs);
    unsigned side = qcow2_epoch_enter(q->epoch); /* A2 */
    uint64_t l2_entry[PIECE_BYTES / CLUSTER_BYTES_MIN];
    unsigned count = 0;

    for (int64_t at = offset; at < offset + bytes; at += q->cluster_bytes) {
        Qcow2Run run;

        if (qcow2_map(bs, at, q->cluster_bytes, &run) == 0 &&
            run.type == QCOW2_CLUSTER_COMPRESSED) {
            l2_entry[count++] = run.l2_entry;
        }
    }
    qcow2_inflater_co_prefetch(q->inflater, bs->file, qcow2_file_length(q),
                               l2_entry, count);
    qcow2_epoch_leave(q->epoch, side);
}

/* The next piece, aligned to clusters. False: none is left. */
static bool take_piece(Qcow2ReadAhead *ahead, int64_t *ret_offset,
                       int64_t *ret_bytes)
{
    int64_t offset = LOAD(ahead->next);
    int64_t bytes;

    do {
        bytes = MIN(LOAD(ahead->limit) - offset, PIECE_BYTES);
        if (bytes <= 0 ||
            __atomic_load_n(&ahead->stopped, __ATOMIC_SEQ_CST)) {
            return false;
        }
    } while (!__atomic_compare_exchange_n(&ahead->next, &offset,
                                          offset + bytes, /* weak= */ true,
                                          __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    *ret_offset = offset;
    *ret_bytes = bytes;
    return true;
}

static void coroutine_fn runner_entry(void *opaque)
{
    Qcow2ReadAhead *ahead = opaque;
    int64_t offset, bytes;

    while (take_piece(ahead, &offset, &bytes)) {
        decode_piece(ahead->bs, offset, bytes);
    }
    /* Afterwards the image may be closed. */
    __atomic_sub_fetch(&ahead->runners, 1, __ATOMIC_SEQ_CST);
    bdrv_drain_kick();
}

/* -- the reader ----------------------------------------------------------- */

/* Is [@offset, @offset + @bytes) what a lone sequential reader wants? */
static bool is_sequential(Qcow2ReadAhead *ahead, int64_t offset,
                          int64_t bytes)
{
    int64_t distance = offset - __atomic_exchange_n(&ahead->position,
                                                    offset + bytes,
                                                    __ATOMIC_RELAXED);

    if (ABS(distance) > DISORDER_BYTES) {
        STORE(ahead->hits, 0);
        STORE(ahead->limit, 0);
        STORE(ahead->next, 0);
        return false;
    }
    return __atomic_add_fetch(&ahead->hits, 1, __ATOMIC_RELAXED) >= HITS_MIN;
}

/* Moves the window behind @end. How many runners that is work for. */
static int64_t move_window(Qcow2ReadAhead *ahead, int64_t end)
{
    const Qcow2State *q = qcow2_state(ahead->bs);
    int64_t start = align_up(end, q->cluster_bytes);
    int64_t limit = MIN(start + WINDOW_BYTES,
                        align_up(q->header.size, q->cluster_bytes));
    int64_t next = LOAD(ahead->next);

    if (next < start || next > limit) {
        STORE(ahead->next, start);
        next = start;
    }
    /* Little work is not worth a start, unless nothing is left otherwise. */
    if (limit - next < PIECE_BYTES && next > start) {
        return 0;
    }
    STORE(ahead->limit, limit);
    return div_round_up(limit - next, PIECE_BYTES);
}

void coroutine_fn qcow2_readahead_begin(Qcow2ReadAhead *ahead, int64_t offset,
                                        int64_t bytes)
{
    int64_t wanted;

    if (!ahead ||
        __atomic_fetch_add(&ahead->readers, 1, __ATOMIC_RELAXED) > 0 ||
        !is_sequential(ahead, offset, bytes) ||
        __atomic_load_n(&ahead->stopped, __ATOMIC_SEQ_CST)) {
        return;
    }
    wanted = MIN(move_window(ahead, offset + bytes), RUNNERS_MAX);
    while (LOAD(ahead->runners) < wanted) {
        __atomic_add_fetch(&ahead->runners, 1, __ATOMIC_SEQ_CST); /* A1 */
        co_enter(co_create(runner_entry, ahead));
        wanted--;
    }
}

void coroutine_fn qcow2_readahead_end(Qcow2ReadAhead *ahead)
{
    if (ahead) {
        __atomic_sub_fetch(&ahead->readers, 1, __ATOMIC_RELAXED);
    }
}

/* -- drains --------------------------------------------------------------- */

void qcow2_readahead_stop(BlockDriverState *bs)
{
    Qcow2ReadAhead *ahead = qcow2_state(bs)->readahead;

    if (ahead) {
        __atomic_store_n(&ahead->stopped, true, __ATOMIC_SEQ_CST);
    }
}

bool qcow2_readahead_is_running(BlockDriverState *bs)
{
    Qcow2ReadAhead *ahead = qcow2_state(bs)->readahead;

    return ahead && __atomic_load_n(&ahead->runners, __ATOMIC_SEQ_CST) > 0;
}

void qcow2_readahead_resume(BlockDriverState *bs)
{
    Qcow2ReadAhead *ahead = qcow2_state(bs)->readahead;

    if (ahead) {
        __atomic_store_n(&ahead->stopped, false, __ATOMIC_SEQ_CST);
    }
}
