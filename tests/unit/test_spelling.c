/* SPDX-License-Identifier: MIT */
/*
 * how far a word is from a known one
 */
#include "fuse/spelling.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_each_changed_letter_counts(void **state)
{
    static const struct {
        const char *word;
        const char *known;
        unsigned distance;
    } rows[] = {
        { "info", "info", 0 },      { "inf", "info", 1 },
        { "infoo", "info", 1 },     { "into", "info", 1 },
        { "inof", "info", 2 },      { "", "map", 3 },
        { "map", "", 3 },           { "covert", "convert", 1 },
        { "resize", "rebase", 3 },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(spelling_distance(rows[i].word, rows[i].known),
                         rows[i].distance);
    }
}

static void test_a_long_known_word_is_far_from_all(void **state)
{
    assert_int_equal(
        spelling_distance("a", "abcdefghijklmnopqrstuvwxyzabcdefghij"),
        UINT_MAX);
    assert_int_equal(
        spelling_distance("abcdefghijklmnopqrstuvwxyzabcdefghij", "a"), 35);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_changed_letter_counts),
        cmocka_unit_test(test_a_long_known_word_is_far_from_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
