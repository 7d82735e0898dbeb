/* SPDX-License-Identifier: MIT */
/*
 * spelling: which known word was meant?
 *
 * The usual table of distances between all beginnings of two words, of which
 * only one row is kept: words of a command line are short.
 *
 * Locking: none; pure.
 */
#include "fuse/spelling.h"

#include <glib.h>
#include <limits.h>
#include <string.h>

/* Longer words than any option has are not worth a heap. */
#define KNOWN_MAX 32

unsigned spelling_distance(const char *word, const char *known)
{
    size_t length = strlen(known);
    unsigned row[KNOWN_MAX];

    if (length >= KNOWN_MAX) {
        return UINT_MAX;
    }
    /* From nothing to the first j letters: j more of them. */
    for (size_t j = 0; j <= length; j++) {
        row[j] = (unsigned)j;
    }
    for (size_t i = 0; word[i]; i++) {
        unsigned diagonal = row[0];

        row[0] = (unsigned)i + 1;
        for (size_t j = 0; j < length; j++) {
            unsigned above = row[j + 1];
            unsigned change = diagonal + (word[i] != known[j]);

            row[j + 1] = MIN(change, MIN(above, row[j]) + 1);
            diagonal = above;
        }
    }
    return row[length];
}
