/* SPDX-License-Identifier: MIT */
/*
 * option tree: what is parsed, what is refused, what taking leaves behind
 */
#include "graph_test_driver.h"

static void assert_refused(BlockOptions *options, GError **error,
                           const char *part)
{
    assert_null(options);
    assert_true(g_error_matches(*error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION));
    if (strstr((*error)->message, part) == NULL) {
        fail_msg("'%s' lacks '%s'", (*error)->message, part);
    }
    g_clear_error(error);
}

static void test_json_becomes_dotted_paths(void **state)
{
    g_autoptr(BlockOptions) options = block_options_from_json(
        "{\"driver\":\"q\",\"file\":{\"filename\":\"a\",\"n\":[1,{\"x\":2}]}}",
        NULL);

    assert_non_null(options);
    assert_string_equal(block_options_peek(options, "file.filename"), "a");
    assert_string_equal(block_options_peek(options, "file.n.0"), "1");
    assert_string_equal(block_options_peek(options, "file.n.1.x"), "2");
    assert_true(block_options_has_subtree(options, "file"));
    assert_false(block_options_has(options, "file"));
    assert_false(block_options_has_subtree(options, "fil"));
}

static void test_json_survives_a_round_trip_with_types(void **state)
{
    static const char json[] =
        "{\"a\":{\"list\":[1,\"2\",true],\"z\":null},\"b\":\"on\"}";
    g_autoptr(BlockOptions) options = block_options_from_json(json, NULL);
    g_autofree char *printed = block_options_to_json(options);

    assert_string_equal(printed, json);
}

static void test_bad_json_is_refused_with_the_place(void **state)
{
    g_autofree char *deep = g_strnfill(100000, '[');
    g_autoptr(GError) error = NULL;

    assert_refused(block_options_from_json("{\"a\":", &error), &error, "json");
    assert_refused(block_options_from_json("[1]", &error), &error, "object");
    assert_refused(block_options_from_json("", &error), &error, "object");
    assert_refused(block_options_from_json(deep, &error), &error, "deep");
    assert_refused(block_options_from_json("{\"a\":1,\"a.b\":2}", &error),
                   &error, "'a'");
    assert_refused(block_options_from_json("{\"a.b\":1,\"a\":2}", &error),
                   &error, "'a'");
    assert_refused(block_options_from_json("{\"a\":1.5}", &error), &error,
                   "fraction");
    assert_refused(block_options_from_json("{\"a..b\":1}", &error), &error,
                   "empty");
}

static void test_string_form_splits_at_single_commas(void **state)
{
    g_autoptr(BlockOptions) options = block_options_from_string(
        "driver=raw,file.filename=a,,b=c,x=", NULL);

    assert_non_null(options);
    assert_string_equal(block_options_peek(options, "file.filename"),
                        "a,b=c");
    assert_string_equal(block_options_peek(options, "x"), "");
}

static void test_string_form_refuses_what_it_cannot_mean(void **state)
{
    g_autoptr(GError) error = NULL;

    assert_refused(block_options_from_string("driver", &error), &error,
                   "'driver'");
    assert_refused(block_options_from_string("a=1,a=2", &error), &error,
                   "twice");
    assert_refused(block_options_from_string("=1", &error), &error, "empty");
}

static void test_taking_removes_and_absent_leaves_the_default(void **state)
{
    g_autoptr(BlockOptions) options = block_options_from_string(
        "b=yes,n=0x10,s=2k,e=two", NULL);
    static const char *const values[] = {"one", "two", NULL};
    bool b = false, absent = true;
    uint64_t n = 0;
    int64_t s = 0;
    int e = 0;

    assert_true(block_options_take_bool(options, "b", &b, NULL));
    assert_true(block_options_take_bool(options, "none", &absent, NULL));
    assert_true(block_options_take_number(options, "n", &n, NULL));
    assert_true(block_options_take_size(options, "s", &s, NULL));
    assert_true(block_options_take_enum(options, "e", values, &e, NULL));

    assert_true(b && absent);
    assert_int_equal(n, 16);
    assert_int_equal(s, 2048);
    assert_int_equal(e, 1);
    assert_null(block_options_first_key(options));
}

static void test_a_wrong_type_is_an_error_and_stays(void **state)
{
    g_autoptr(BlockOptions) options = block_options_from_json(
        "{\"n\":\"-1\",\"b\":\"maybe\"}", NULL);
    g_autoptr(GError) error = NULL;
    uint64_t n = 7;
    bool b = false;

    assert_false(block_options_take_number(options, "n", &n, &error));
    assert_non_null(strstr(error->message, "'n' is '-1'"));
    g_clear_error(&error);
    assert_false(block_options_take_bool(options, "b", &b, &error));
    assert_int_equal(n, 7);
    assert_true(block_options_has(options, "b"));
}

static void test_sizes_have_suffixes_and_limits(void **state)
{
    static const struct {
        const char *text;
        int64_t bytes; /* -1: refused */
    } cases[] = {
        {"0", 0}, {"512", 512}, {"64k", 65536}, {"1M", 1 << 20},
        {"7E", INT64_C(7) << 60}, {"8E", -1}, {"9223372036854775807",
        INT64_MAX}, {"9223372036854775808", -1}, {"", -1}, {"k", -1},
        {"1kk", -1}, {"-1", -1}, {" 1", -1}, {"0x200", 512}, {"0x1E", 30},
        {"1.5M", -1}, {"18446744073709551616", -1},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        int64_t bytes = -1;
        bool ok = parse_size(cases[i].text, &bytes);

        if (ok != (cases[i].bytes >= 0) || bytes != cases[i].bytes) {
            fail_msg("'%s' gave %ld", cases[i].text, (long)bytes);
        }
    }
}

static void test_a_subtree_moves_out_and_join_keeps_what_is_there(void **state)
{
    g_autoptr(BlockOptions) options = block_options_from_string(
        "file.a=1,file.b=2,filex=3", NULL);
    g_autoptr(BlockOptions) subtree = block_options_take_subtree(options,
                                                                 "file");

    assert_string_equal(block_options_first_key(options), "filex");
    assert_string_equal(block_options_peek(subtree, "b"), "2");
    block_options_set_string(options, "a", "mine");
    block_options_join(options, subtree);
    assert_string_equal(block_options_peek(options, "a"), "mine");
    assert_string_equal(block_options_peek(options, "b"), "2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_becomes_dotted_paths),
        cmocka_unit_test(test_json_survives_a_round_trip_with_types),
        cmocka_unit_test(test_bad_json_is_refused_with_the_place),
        cmocka_unit_test(test_string_form_splits_at_single_commas),
        cmocka_unit_test(test_string_form_refuses_what_it_cannot_mean),
        cmocka_unit_test(test_taking_removes_and_absent_leaves_the_default),
        cmocka_unit_test(test_a_wrong_type_is_an_error_and_stays),
        cmocka_unit_test(test_sizes_have_suffixes_and_limits),
        cmocka_unit_test(
            test_a_subtree_moves_out_and_join_keeps_what_is_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
