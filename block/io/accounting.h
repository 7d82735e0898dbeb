/* SPDX-License-Identifier: MIT */
/*
 * accounting: what a backend or node has done so far
 *
 * Counters are kept per context and summed when read, so counting costs a few
 * plain additions in a thread's own cache line. Latency is only measured
 * (two clock reads a request) when a histogram is configured.
 */
#ifndef BLOCK_IO_ACCOUNTING_H
#define BLOCK_IO_ACCOUNTING_H

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

typedef struct Accounting Accounting;

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

/* Coroutine's thread, begin and end on the same one. */
void accounting_begin(Accounting *accounting, AccountingCookie *cookie,
                      AccountingType type, int64_t bytes);
/* @ret < 0 counts as failed. */
void accounting_end(Accounting *accounting, const AccountingCookie *cookie,
                    int ret);
void accounting_invalid(Accounting *accounting, AccountingType type);
void accounting_merged(Accounting *accounting, AccountingType type,
                       int requests);

/* Any thread; a snapshot that may be a request or two behind. */
void accounting_totals(Accounting *accounting, AccountingType type,
                       AccountingTotals *ret_totals);

#endif
