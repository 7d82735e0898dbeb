/* SPDX-License-Identifier: MIT */
/*
 * probing: the surest format wins, raw is what is left
 */
#include "graph_test_driver.h"

#include "block/graph/probe.h"

static void test_bytes_decide(void **state)
{
    assert_string_equal(bdrv_probe_bytes((const uint8_t *)"TFMT\n", 5,
                                         NULL)->format_name, "tfmt");
    assert_string_equal(bdrv_probe_bytes((const uint8_t *)"TFMT\n", 4,
                                         NULL)->format_name, "raw");
    assert_string_equal(bdrv_probe_bytes((const uint8_t *)"", 0,
                                         NULL)->format_name, "raw");
}

static void test_a_node_is_probed_without_leaving_traces(void **state)
{
    g_autoptr(BlockDriverState) bs = test_node("m", 0);

    memcpy(test_mem(bs)->bytes, "TFMT\n", 5);
    assert_string_equal(bdrv_probe_node(bs, NULL)->format_name, "tfmt");
    assert_int_equal(bs->parents->len, 0);
    assert_int_equal(bs->perm, 0);
}

static void test_an_empty_node_is_raw(void **state)
{
    g_autoptr(BlockDriverState) bs =
        test_open("{\"driver\":\"tmem\",\"size\":0}", 0);

    assert_string_equal(bdrv_probe_node(bs, NULL)->format_name, "raw");
}

static void test_a_locked_node_cannot_be_probed(void **state)
{
    g_autoptr(BlockDriverState) bs = test_node("m", 0);
    g_autoptr(GError) error = NULL;

    test_mem(bs)->refuse_perms = true;
    assert_null(bdrv_probe_node(bs, &error));
    assert_int_equal(error->code, IMGFUSE_ERROR_LOCKED);
    assert_int_equal(bs->parents->len, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_decide),
        cmocka_unit_test(test_a_node_is_probed_without_leaving_traces),
        cmocka_unit_test(test_an_empty_node_is_raw),
        cmocka_unit_test(test_a_locked_node_cannot_be_probed),
    };

    return cmocka_run_group_tests(tests, graph_test_setup,
                                  graph_test_teardown);
}
