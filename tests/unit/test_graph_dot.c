/* SPDX-License-Identifier: MIT */
/*
 * the graph of an image as text for dot(1): nodes once, names quoted
 */
#include "drivers/registry.h"

#include "fuse/graph_dot.h"

#include "block/graph/options.h"
#include "block/rt/aio_context.h"
#include "block/rt/thread_pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* The picture of @json, shown as @name. The caller frees. */
static char *picture_of(const char *json, const char *name)
{
    AioContext *ctx = aio_context_new(NULL);
    g_autoptr(GError) error = NULL;
    BlockBackend *blk = blk_open(NULL, block_options_from_json(json, NULL),
                                 BDRV_O_RDONLY, NULL, "test", &error);
    Export *export;
    char *text;

    assert_non_null(blk);
    export = export_new(name, blk, /* flags= */ 0, /* mtime_ns= */ 0);
    text = graph_dot_write(export);
    export_free(export);
    thread_pool_shutdown();
    aio_context_free(ctx);
    return text;
}

static unsigned count(const char *text, const char *word)
{
    unsigned found = 0;

    for (; (text = strstr(text, word)) != NULL; text++) {
        found++;
    }
    return found;
}

static void test_nodes_and_edges_are_drawn(void **state)
{
    g_autofree char *text = picture_of(
        "{\"driver\":\"raw\",\"file\":{\"driver\":\"null\",\"size\":4096}}",
        "disk.raw");

    assert_true(g_str_has_prefix(text, "digraph \"disk.raw\" {\n"));
    assert_true(g_str_has_suffix(text, "}\n"));
    assert_non_null(strstr(text, "image -> n0;"));
    assert_non_null(strstr(text, "n0 [label=\"raw\\n"));
    assert_non_null(strstr(text, "4096 bytes, read-only\"];"));
    assert_non_null(strstr(text, "n0 -> n1 [label=\"file\\n"));
    assert_non_null(strstr(text, "n1 [label=\"null\\n"));
}

static void test_a_node_with_two_parents_is_drawn_once(void **state)
{
    g_autofree char *text = picture_of(
        "{\"driver\":\"quorum\",\"vote-threshold\":1,\"children\":["
        "{\"driver\":\"raw\",\"file\":{\"driver\":\"null\",\"size\":4096,"
        "\"node-name\":\"low\"}},{\"driver\":\"raw\",\"file\":\"low\"}]}",
        "twice");

    assert_int_equal(count(text, "[label=\"raw\\n"), 2);
    assert_int_equal(count(text, "[label=\"null\\n"), 1);
    assert_int_equal(count(text, "-> n3 "), 2);
}

static void test_no_name_ends_its_label(void **state)
{
    g_autofree char *text = picture_of(
        "{\"driver\":\"null\",\"size\":4096}", "a\"];\nb\\");

    assert_non_null(strstr(text, "digraph \"a\\\"];%0Ab\\\\\" {\n"));
    assert_non_null(strstr(text, "label=\"a\\\"];%0Ab\\\\\"];\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nodes_and_edges_are_drawn),
        cmocka_unit_test(test_a_node_with_two_parents_is_drawn_once),
        cmocka_unit_test(test_no_name_ends_its_label),
    };

    drivers_register_all();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
