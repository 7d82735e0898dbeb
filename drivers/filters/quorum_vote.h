/* SPDX-License-Identifier: MIT */
/*
 * voting: which of several answers has the most voices
 *
 * An answer is what one child of a quorum said: a result and, when that is 0
 * and the request was a read, its data. Answers agree when both are the same.
 * Knows nothing of nodes or requests.
 */
#ifndef DRIVERS_FILTERS_QUORUM_VOTE_H
#define DRIVERS_FILTERS_QUORUM_VOTE_H

#include <stddef.h>
#include <stdint.h>

typedef struct QuorumAnswer {
    int ret;             /* 0 or -errno */
    const uint8_t *data; /* of @bytes; NULL when there is none */
} QuorumAnswer;

/*
 * quorum_vote:
 * The index of an answer that most of the @n agree with (the first of them;
 * between equals, a success before an error, then the first), and how many
 * they are. @n is at least 1.
 */
size_t quorum_vote(const QuorumAnswer *answers, size_t n, size_t bytes,
                   unsigned *ret_votes);

/* Do two answers agree? */
int quorum_agree(const QuorumAnswer *a, const QuorumAnswer *b, size_t bytes);

#endif
