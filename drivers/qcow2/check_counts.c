/* SPDX-License-Identifier: MIT */
/*
 * counts for sparse cluster numbers
 *
 * An image in a file of many terabytes that is mostly hole may use clusters
 * anywhere, so the counts live in small pages that exist where a count is not
 * 0. A hostile image can make a page for each of its pointers; the limit on
 * pages bounds that.
 */
#include "drivers/qcow2/check_walk.h"

#define PAGE_COUNTS 1024
#define PAGES_MAX (2 * GIB / (PAGE_COUNTS * 4))

typedef struct CountPage {
    int64_t index;
    uint32_t count[PAGE_COUNTS];
} CountPage;

struct Qcow2Counts {
    GHashTable *pages; /* &page->index -> page */
    CountPage *last;   /* most questions are about neighbours */
};

Qcow2Counts *qcow2_counts_new(void)
{
    Qcow2Counts *counts = g_new0(Qcow2Counts, 1);

    counts->pages = g_hash_table_new_full(g_int64_hash, g_int64_equal,
                                          /* key_destroy_func= */ NULL,
                                          g_free);
    return counts;
}

void qcow2_counts_free(Qcow2Counts *counts)
{
    if (counts) {
        g_hash_table_destroy(counts->pages);
        g_free(counts);
    }
}

static CountPage *page_find(Qcow2Counts *counts, int64_t index)
{
    if (!counts->last || counts->last->index != index) {
        CountPage *page = g_hash_table_lookup(counts->pages, &index);

        if (!page) {
            return NULL;
        }
        counts->last = page;
    }
    return counts->last;
}

uint32_t qcow2_counts_get(Qcow2Counts *counts, int64_t cluster)
{
    CountPage *page = page_find(counts, cluster / PAGE_COUNTS);

    return page ? page->count[cluster % PAGE_COUNTS] : 0;
}

const uint32_t *qcow2_counts_span(Qcow2Counts *counts, int64_t first,
                                  int64_t limit, int64_t *ret_clusters)
{
    static const uint32_t zeros[PAGE_COUNTS];
    CountPage *page = page_find(counts, first / PAGE_COUNTS);
    int64_t skipped = first % PAGE_COUNTS;

    *ret_clusters = MIN(limit, PAGE_COUNTS - skipped);
    return (page ? page->count : zeros) + skipped;
}

/* NULL: over the memory limit. */
static CountPage *page_make(Qcow2Counts *counts, int64_t index)
{
    CountPage *page = page_find(counts, index);

    if (!page && g_hash_table_size(counts->pages) < PAGES_MAX) {
        page = g_try_new0(CountPage, 1);
        if (page) {
            page->index = index;
            g_hash_table_insert(counts->pages, &page->index, page);
            counts->last = page;
        }
    }
    return page;
}

bool qcow2_counts_add(Qcow2Counts *counts, int64_t first, int64_t clusters,
                      uint32_t times)
{
    while (clusters > 0) {
        CountPage *page = page_make(counts, first / PAGE_COUNTS);
        int64_t skipped = first % PAGE_COUNTS;
        int64_t here = MIN(clusters, PAGE_COUNTS - skipped);

        if (!page) {
            return false;
        }
        for (int64_t i = skipped; i < skipped + here; i++) {
            uint32_t sum = page->count[i] + times;

            page->count[i] = sum < times ? UINT32_MAX : sum;
        }
        first += here;
        clusters -= here;
    }
    return true;
}

void qcow2_counts_drop(Qcow2Counts *counts, int64_t cluster)
{
    CountPage *page = page_find(counts, cluster / PAGE_COUNTS);

    g_assert(page && page->count[cluster % PAGE_COUNTS] > 0);
    page->count[cluster % PAGE_COUNTS]--;
}

void qcow2_counts_foreach(Qcow2Counts *counts, Qcow2CountsVisit *visit,
                          void *opaque)
{
    GHashTableIter iter;
    gpointer value;

    g_hash_table_iter_init(&iter, counts->pages);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        CountPage *page = value;

        visit(page->index * PAGE_COUNTS, page->count, PAGE_COUNTS, opaque);
    }
}
