/* SPDX-License-Identifier: MIT */
/*
 * spelling: which known word was meant?
 */
#ifndef FUSE_SPELLING_H
#define FUSE_SPELLING_H

/*
 * spelling_distance:
 * How many single-letter changes (another letter, one more, one less) turn
 * @word into @known. UINT_MAX when @known is too long to tell (31 letters).
 */
unsigned spelling_distance(const char *word, const char *known);

#endif
