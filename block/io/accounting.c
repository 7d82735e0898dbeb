/* SPDX-License-Identifier: MIT */
/*
 * accounting: what a backend or node has done so far
 *
 * One slot per context, written by that context's thread only with relaxed
 * atomics and in cache lines of its own; a reader sums the slots. A sum may
 * miss what happens while it is made, but no count is ever lost.
 *
 * A histogram's boundaries are replaced on the control plane while its node is
 * drained, so that no request counts into half of an old one.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "block/io/accounting.h"

#include "block/graph/drain.h"
#include "block/graph/node.h"
#include "block/rt/aio_context.h"
#include "block/rt/timer.h"

Accounting *accounting_new(void)
{
    return g_new0(Accounting, 1);
}

void accounting_free(Accounting *accounting)
{
    if (accounting == NULL) {
        return;
    }
    for (int i = 0; i < AIO_CONTEXTS_MAX; i++) {
        g_aligned_free(accounting->slot[i]);
    }
    g_free(accounting);
}

Accounting *bdrv_enable_accounting(BlockDriverState *bs)
{
    if (bs->accounting == NULL) {
        /* A request under way has not begun to be counted: it must not end. */
        bdrv_drained_begin(bs);
        bs->accounting = accounting_new();
        bdrv_drained_end(bs);
    }
    return bs->accounting;
}

/*
 * The calling thread's counters. Made at the first use: most of the possible
 * contexts never count for this node.
 */
static AccountingSlot *own_slot(Accounting *accounting)
{
    AccountingSlot **slot =
        &accounting->slot[aio_context_index(aio_context_current())];

    if (G_UNLIKELY(*slot == NULL)) {
        AccountingSlot *made =
            g_aligned_alloc0(1, sizeof(AccountingSlot), 64);

        __atomic_store_n(slot, made, __ATOMIC_RELEASE);
    }
    return *slot;
}

static AccountingTotals *own_totals(Accounting *accounting,
                                    AccountingType type)
{
    return &own_slot(accounting)->totals[type];
}

bool accounting_set_histogram(Accounting *accounting, AccountingType type,
                              const uint64_t *boundaries_ns, int count_of,
                              GError **error)
{
    AccountingHistogram *histogram = &accounting->histogram[type];

    if (count_of < 0 || count_of > ACCOUNTING_HISTOGRAM_MAX) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "a histogram has 1 to %d boundaries, not %d",
                    ACCOUNTING_HISTOGRAM_MAX, count_of);
        return false;
    }
    for (int i = 1; i < count_of; i++) {
        if (boundaries_ns[i] <= boundaries_ns[i - 1]) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                        "histogram boundary %" G_GUINT64_FORMAT
                        " does not rise above %" G_GUINT64_FORMAT,
                        boundaries_ns[i], boundaries_ns[i - 1]);
            return false;
        }
    }
    for (int i = 0; i < count_of; i++) {
        histogram->boundary_ns[i] = boundaries_ns[i];
    }
    histogram->count = count_of;
    accounting->measured[type] = count_of > 0;
    for (int i = 0; i < AIO_CONTEXTS_MAX; i++) {
        if (accounting->slot[i] != NULL) {
            memset(accounting->slot[i]->totals[type].bins, 0,
                   sizeof(accounting->slot[i]->totals[type].bins));
        }
    }
    return true;
}

int64_t accounting_start_ns(void)
{
    return MAX(clock_now_ns(), 1);
}

static void count_latency(const AccountingHistogram *histogram,
                          AccountingTotals *totals, int64_t latency_ns)
{
    int bin = 0;

    while (bin < histogram->count &&
           (uint64_t) latency_ns >= histogram->boundary_ns[bin]) {
        bin++;
    }
    accounting_add(&totals->bins[bin], 1);
    accounting_add(&totals->total_time_ns, latency_ns);
}

void accounting_end(Accounting *accounting, const AccountingCookie *cookie,
                    int ret)
{
    AccountingTotals *totals = own_totals(accounting, cookie->type);

    if (ret < 0) {
        accounting_add(&totals->failed, 1);
    } else {
        accounting_add(&totals->operations, 1);
        accounting_add(&totals->bytes, cookie->bytes);
    }
    if (cookie->start_ns != 0) {
        count_latency(&accounting->histogram[cookie->type], totals,
                      clock_now_ns() - cookie->start_ns);
    }
}

void accounting_invalid(Accounting *accounting, AccountingType type)
{
    accounting_add(&own_totals(accounting, type)->invalid, 1);
}

void accounting_merged(Accounting *accounting, AccountingType type,
                       int requests)
{
    accounting_add(&own_totals(accounting, type)->merged, requests);
}

void accounting_wrote(Accounting *accounting, int64_t end)
{
    AccountingSlot *slot = own_slot(accounting);

    /* Nobody else writes the slot, so this needs no exchange. */
    if ((uint64_t) end > slot->highest_end) {
        __atomic_store_n(&slot->highest_end, end, __ATOMIC_RELAXED);
    }
}

int64_t accounting_highest_end(Accounting *accounting)
{
    uint64_t highest = 0;

    for (int i = 0; i < AIO_CONTEXTS_MAX; i++) {
        AccountingSlot *slot =
            __atomic_load_n(&accounting->slot[i], __ATOMIC_ACQUIRE);

        if (slot != NULL) {
            highest = MAX(highest, __atomic_load_n(&slot->highest_end,
                                                   __ATOMIC_RELAXED));
        }
    }
    return (int64_t) highest;
}

void accounting_totals(Accounting *accounting, AccountingType type,
                       AccountingTotals *ret_totals)
{
    uint64_t *sum = (uint64_t *) ret_totals;

    G_STATIC_ASSERT(sizeof(AccountingTotals) % sizeof(uint64_t) == 0);
    memset(ret_totals, 0, sizeof(*ret_totals));
    for (int i = 0; i < AIO_CONTEXTS_MAX; i++) {
        AccountingSlot *slot =
            __atomic_load_n(&accounting->slot[i], __ATOMIC_ACQUIRE);
        uint64_t *from = slot ? (uint64_t *) &slot->totals[type] : NULL;

        for (size_t j = 0;
             slot != NULL && j < sizeof(*ret_totals) / sizeof(*sum); j++) {
            sum[j] += __atomic_load_n(&from[j], __ATOMIC_RELAXED);
        }
    }
}
