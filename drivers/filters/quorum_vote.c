/* SPDX-License-Identifier: MIT */
/*
 * voting among the answers of a quorum's children
 *
 * Compares bytes: children are few and mostly agree, so one pass over each is
 * all it takes.
 *
 * Locking: none, no state.
 */
#include "drivers/filters/quorum_vote.h"

#include <glib.h>
#include <string.h>

int quorum_agree(const QuorumAnswer *a, const QuorumAnswer *b, size_t bytes)
{
    if (a->ret != b->ret) {
        return 0;
    }
    return a->ret < 0 || a->data == NULL || b->data == NULL ||
           memcmp(a->data, b->data, bytes) == 0;
}

/* Voices for answers[first], none when an earlier one is the same. */
static unsigned count_votes(const QuorumAnswer *answers, size_t n,
                            size_t first, size_t bytes)
{
    unsigned votes = 1;

    for (size_t i = 0; i < first; i++) {
        if (quorum_agree(&answers[i], &answers[first], bytes)) {
            return 0;
        }
    }
    for (size_t i = first + 1; i < n; i++) {
        votes += quorum_agree(&answers[i], &answers[first], bytes);
    }
    return votes;
}

size_t quorum_vote(const QuorumAnswer *answers, size_t n, size_t bytes,
                   unsigned *ret_votes)
{
    size_t winner = 0;
    unsigned most = 0;

    g_assert(n > 0);
    for (size_t i = 0; i < n; i++) {
        unsigned votes = count_votes(answers, n, i, bytes);

        if (votes > most || (votes == most && answers[winner].ret < 0 &&
                             answers[i].ret == 0)) {
            winner = i;
            most = votes;
        }
    }
    *ret_votes = most;
    return winner;
}
