/* SPDX-License-Identifier: MIT */
/*
 * accounting: what a backend or node has done so far
 *
 * Counters are kept per context and summed when read, so counting costs a few
 * plain additions in a thread's own cache line. Latency is only measured
 * (two clock reads a request) when a histogram is configured. What every
 * request needs is inline: a small read costs some fifty nanoseconds in all.
 */
#ifndef BLOCK_IO_ACCOUNTING_H
#define BLOCK_IO_ACCOUNTING_H

#include "block/rt/aio_context.h"
#include "block/types.h"

typedef enum AccountingType {
    ACCOUNTING_READ,
    ACCOUNTING_WRITE,
    ACCOUNTING_ZEROES,
    ACCOUNTING_UNMAP,
    ACCOUNTING_FLUSH,
    ACCOUNTING_TYPES,
} AccountingType;

#define ACCOUNTING_HISTOGRAM_MAX 32

typedef struct AccountingTotals {
    uint64_t operations;
    uint64_t bytes;
    uint64_t merged;
    uint64_t failed;
    uint64_t invalid; /* refused before they began: range, permission */
    uint64_t total_time_ns;
    uint64_t bins[ACCOUNTING_HISTOGRAM_MAX + 1];
} AccountingTotals;

/* One context's counters. */
typedef struct AccountingSlot {
    AccountingTotals totals[ACCOUNTING_TYPES];
    uint64_t highest_end; /* of a node's writes */
} __attribute__((aligned(64))) AccountingSlot;

typedef struct AccountingHistogram {
    int count; /* boundaries; 0: latency is not measured */
    uint64_t boundary_ns[ACCOUNTING_HISTOGRAM_MAX];
} AccountingHistogram;

/* For the inline functions below and accounting.c only. */
struct Accounting {
    bool measured[ACCOUNTING_TYPES];
    AccountingSlot *slot[AIO_CONTEXTS_MAX]; /* made by its context, once */
    AccountingHistogram histogram[ACCOUNTING_TYPES];
};

/* One running request; on its stack. */
typedef struct AccountingCookie {
    AccountingType type;
    int64_t bytes;
    int64_t start_ns; /* 0 when latency is not measured */
} AccountingCookie;

Accounting *accounting_new(void);
void accounting_free(Accounting *accounting);

/*
 * @boundaries_ns: rising, @count of them (1 .. ACCOUNTING_HISTOGRAM_MAX); bin
 * i counts latencies below boundary i. @count 0 switches it off. Control
 * plane. OPTION error when not rising or too many.
 */
bool accounting_set_histogram(Accounting *accounting, AccountingType type,
                              const uint64_t *boundaries_ns, int count,
                              GError **error);

/* Now, for a request of a measured type; not 0. */
int64_t accounting_start_ns(void);

/* Coroutine's thread, begin and end on the same one. */
static inline void accounting_begin(Accounting *accounting,
                                    AccountingCookie *cookie,
                                    AccountingType type, int64_t bytes)
{
    cookie->type = type;
    cookie->bytes = bytes;
    cookie->start_ns =
        G_UNLIKELY(accounting->measured[type]) ? accounting_start_ns() : 0;
}

/* @ret < 0 counts as failed. */
void accounting_end(Accounting *accounting, const AccountingCookie *cookie,
                    int ret);

/* A counter has a single writer: a load and a store do. */
static inline void accounting_add(uint64_t *counter, uint64_t amount)
{
    __atomic_store_n(counter,
                     __atomic_load_n(counter, __ATOMIC_RELAXED) + amount,
                     __ATOMIC_RELAXED);
}

/* The same for who has the index of the thread's context at hand. */
static inline void accounting_end_at(Accounting *accounting,
                                     const AccountingCookie *cookie,
                                     unsigned context_index, int ret)
{
    AccountingSlot *slot = accounting->slot[context_index];

    if (G_UNLIKELY(slot == NULL || ret < 0 || cookie->start_ns != 0)) {
        accounting_end(accounting, cookie, ret);
        return;
    }
    accounting_add(&slot->totals[cookie->type].operations, 1);
    accounting_add(&slot->totals[cookie->type].bytes,
                   (uint64_t)cookie->bytes);
}

/* Refused before it began. */
void accounting_invalid(Accounting *accounting, AccountingType type);
void accounting_merged(Accounting *accounting, AccountingType type,
                       int requests);

/*
 * A write, zero-write or copy that ends at @end has been made, or has failed
 * and may have got so far; discards take no space and do not count. Any
 * thread that has a context.
 */
void accounting_wrote(Accounting *accounting, int64_t end);

/*
 * Behind the last byte that was ever written while it was counted, 0 when
 * none was: how long the medium below must be at least. Any thread.
 */
int64_t accounting_highest_end(Accounting *accounting);

/*
 * bdrv_enable_accounting:
 * Backends always count; a node only from here to its end, because few want
 * to know and all would pay. Its requests are those of all its parents.
 * Control plane; drains @bs. Result: the node's, as bs->accounting.
 */
Accounting *bdrv_enable_accounting(BlockDriverState *bs);

/* Any thread; a snapshot that may be a request or two behind. */
void accounting_totals(Accounting *accounting, AccountingType type,
                       AccountingTotals *ret_totals);

#endif
