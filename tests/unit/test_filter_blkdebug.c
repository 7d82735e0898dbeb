/* SPDX-License-Identifier: MIT */
/*
 * the blkdebug filter: rules, events, breakpoints, forced limits
 */
#include "tests/unit/filter_test.h"

#include "block/graph/drain.h"
#include "block/io/debug_event.h"

#define BLKDEBUG_JSON "{\"driver\":\"blkdebug\",\"file\":\"%s\"%s}"

typedef struct Event {
    BdrvChild *child;
    BlockDebugEvent event;
    bool done;
} Event;

static void coroutine_fn event_entry(void *opaque)
{
    Event *event = opaque;

    bdrv_debug_event(event->child, event->event);
    event->done = true;
}

static void announce(BdrvChild *child, BlockDebugEvent event)
{
    Event call = { .child = child, .event = event };

    aio_run_sync(event_entry, &call);
}

static int read_block(BdrvChild *node, int64_t offset)
{
    uint8_t buffer[512];

    return bdrv_pread(node, offset, sizeof(buffer), buffer);
}

static int write_block(BdrvChild *node, int64_t offset)
{
    uint8_t buffer[512] = "block";

    return bdrv_pwrite(node, offset, sizeof(buffer), buffer);
}

static void test_without_rules_requests_pass(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(FILTER_FLAGS, BLKDEBUG_JSON,
                                below_name(below), "");

    node_fill(node, 1000, 5000, 'a');
    assert_node_reads(node, 1000, 5000, 'a');
    assert_int_equal(memory_data(below)[5999], 'a');
    assert_int_equal(node_discard(node, 0, 4096), 0);
    assert_int_equal(memory_count(below, MEMORY_DISCARD), 1);

    bdrv_detach_child(node);
    memory_close(below);
}

static void test_an_event_arms_its_error(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(
        FILTER_FLAGS, BLKDEBUG_JSON, below_name(below),
        ",\"inject-error\":[{\"event\":\"l2_load\",\"errno\":28}]");

    assert_int_equal(read_block(node, 0), 0);
    announce(node, BLOCK_DEBUG_L2_UPDATE);
    assert_int_equal(read_block(node, 0), 0);
    announce(node, BLOCK_DEBUG_L2_LOAD);
    assert_int_equal(read_block(node, 0), -ENOSPC);
    assert_int_equal(read_block(node, 0), -ENOSPC);

    bdrv_detach_child(node);
    memory_close(below);
}

static void test_once_is_once(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(
        FILTER_FLAGS, BLKDEBUG_JSON, below_name(below),
        ",\"inject-error\":[{\"event\":\"none\",\"once\":true,"
        "\"immediately\":true}]");

    assert_int_equal(write_block(node, 0), -EIO);
    assert_int_equal(memory_count(below, MEMORY_WRITE), 0);
    assert_int_equal(write_block(node, 0), 0);

    bdrv_detach_child(node);
    memory_close(below);
}

static void test_only_the_type_and_sector_of_the_rule_fail(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(
        FILTER_FLAGS, BLKDEBUG_JSON, below_name(below),
        ",\"inject-error\":[{\"event\":\"none\",\"iotype\":\"read\","
        "\"sector\":3},{\"event\":\"none\",\"iotype\":\"write\","
        "\"sector\":-1,\"errno\":1}]");

    assert_int_equal(read_block(node, 2 * 512), 0);
    assert_int_equal(read_block(node, 3 * 512), -EIO);
    assert_int_equal(read_block(node, 3 * 512 - 1), -EIO);
    assert_int_equal(read_block(node, 4 * 512), 0);
    assert_int_equal(write_block(node, 0), -EPERM);
    assert_int_equal(bdrv_pwrite_zeroes(node, 0, 512, 0), 0);

    bdrv_detach_child(node);
    memory_close(below);
}

static void test_rules_ask_for_the_state_that_the_event_found(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(
        FILTER_FLAGS, BLKDEBUG_JSON, below_name(below),
        ",\"set-state\":[{\"event\":\"l1_update\",\"state\":1,"
        "\"new_state\":2},{\"event\":\"l1_update\",\"state\":2,"
        "\"new_state\":3}],\"inject-error\":[{\"event\":\"l1_update\","
        "\"state\":2}]");

    assert_int_equal(specific_int(node, "state"), 1);
    announce(node, BLOCK_DEBUG_L1_UPDATE);
    assert_int_equal(specific_int(node, "state"), 2);
    assert_int_equal(read_block(node, 0), 0);
    announce(node, BLOCK_DEBUG_L1_UPDATE);
    assert_int_equal(specific_int(node, "state"), 3);
    assert_int_equal(read_block(node, 0), -EIO);

    bdrv_detach_child(node);
    memory_close(below);
}

static void test_rules_come_from_a_file_too(void **state)
{
    TestFile rules = test_file_new(0, 0);
    BdrvChild *below = below_open_length(MIB);
    g_autofree char *option = g_strdup_printf(",\"config\":\"%s\"",
                                              rules.path);
    BdrvChild *node;

    assert_true(g_file_set_contents(
        rules.path, "# a comment\n[set-state]\nevent = \"cow_read\"\n"
        "new_state = 7\n\n[inject-error]\nevent=cow_read\nerrno = \"28\"\n",
        -1, NULL));
    node = node_open(FILTER_FLAGS, BLKDEBUG_JSON, below_name(below), option);

    announce(node, BLOCK_DEBUG_COW_READ);
    assert_int_equal(read_block(node, 0), -ENOSPC);
    assert_int_equal(specific_int(node, "state"), 7);

    bdrv_detach_child(node);
    memory_close(below);
    test_file_free(&rules);
}

static void test_wrong_rules_are_refused(void **state)
{
    static const struct {
        const char *options;
        const char *word;
    } rows[] = {
        { ",\"inject-error\":[{\"event\":\"l3_load\"}]", "l3_load" },
        { ",\"inject-error\":[{\"errno\":5}]", "no event" },
        { ",\"inject-error\":[{\"event\":\"none\",\"errno\":0}]", "errno" },
        { ",\"inject-error\":[{\"event\":\"none\",\"iotype\":\"eat\"}]",
          "eat" },
        { ",\"inject-error\":[{\"event\":\"none\",\"colour\":1}]", "colour" },
        { ",\"set-state\":[{\"event\":\"none\"}]", "new_state" },
        { ",\"suspend\":[{\"event\":\"none\"}]", "tag" },
        { ",\"align\":513", "align" },
        { ",\"align\":4096,\"max-transfer\":512", "max-transfer" },
        { ",\"config\":\"/nonexistent/rules\"", "/nonexistent/rules" },
    };
    BdrvChild *below = below_open_length(MIB);

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;

        assert_null(node_try_open(FILTER_FLAGS, &error, BLKDEBUG_JSON,
                                  below_name(below), rows[i].options));
        if (strcmp(rows[i].word, "errno") != 0 &&
            strstr(error->message, rows[i].word) == NULL) {
            fail_msg("%s: %s", rows[i].options, error->message);
        }
        assert_int_equal(error->code, IMGFUSE_ERROR_OPTION);
    }
    memory_close(below);
}

static void test_a_suspended_coroutine_waits_for_its_tag(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(FILTER_FLAGS, BLKDEBUG_JSON,
                                below_name(below), "");
    Event first = { .child = node, .event = BLOCK_DEBUG_L2_LOAD };
    Event second = first;

    assert_true(bdrv_debug_set_breakpoint(node->bs, "l2_load", "A", NULL));
    assert_false(bdrv_debug_set_breakpoint(node->bs, "nothing", "A", NULL));
    memory_start(event_entry, &first);
    memory_start(event_entry, &second);
    memory_settle();

    assert_true(second.done); /* a breakpoint holds up one */
    assert_false(first.done);
    assert_true(bdrv_debug_is_suspended(node->bs, "A"));
    assert_false(bdrv_debug_resume(node->bs, "B", NULL));
    assert_true(bdrv_debug_resume(node->bs, "A", NULL));
    memory_wait(&first.done);
    assert_false(bdrv_debug_is_suspended(node->bs, "A"));

    bdrv_detach_child(node);
    memory_close(below);
}

static void test_a_removed_breakpoint_holds_nobody_up(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(
        FILTER_FLAGS, BLKDEBUG_JSON, below_name(below),
        ",\"suspend\":[{\"event\":\"pwritev\",\"tag\":\"A\"}]");

    assert_true(bdrv_debug_remove_breakpoint(node->bs, "A", NULL));
    assert_false(bdrv_debug_remove_breakpoint(node->bs, "A", NULL));
    announce(node, BLOCK_DEBUG_PWRITEV);

    bdrv_detach_child(node);
    memory_close(below);
}

typedef struct LoneWrite {
    BdrvChild *child;
    bool done;
} LoneWrite;

static void coroutine_fn lone_write_entry(void *opaque)
{
    LoneWrite *write = opaque;
    uint8_t byte = 1;

    assert_int_equal(bdrv_co_pwrite(write->child, 0, 1, &byte, 0), 0);
    write->done = true;
}

/* Who was resumed by the drain met the next breakpoint, and both waited. */
static void test_breakpoints_hold_nobody_up_in_a_drain(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(
        FILTER_FLAGS, BLKDEBUG_JSON, below_name(below),
        ",\"suspend\":[{\"event\":\"pwritev\",\"tag\":\"A\"},"
        "{\"event\":\"pwritev_done\",\"tag\":\"B\"}]");
    LoneWrite first = { .child = node };
    LoneWrite second = { .child = node };

    memory_start(lone_write_entry, &first);
    memory_settle();
    assert_true(bdrv_debug_is_suspended(node->bs, "A"));
    bdrv_drained_begin(node->bs);
    memory_settle();
    assert_false(bdrv_debug_is_suspended(node->bs, "B"));
    memory_wait(&first.done);
    bdrv_drained_end(node->bs);

    memory_start(lone_write_entry, &second); /* B is there still */
    memory_settle();
    assert_true(bdrv_debug_is_suspended(node->bs, "B"));
    assert_true(bdrv_debug_resume(node->bs, "B", NULL));
    memory_wait(&second.done);

    bdrv_detach_child(node);
    memory_close(below);
}

static void test_writes_announce_padding_and_themselves(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(
        FILTER_FLAGS, BLKDEBUG_JSON, below_name(below),
        ",\"align\":4096,\"set-state\":["
        "{\"event\":\"pwritev_rmw_head\",\"state\":1,\"new_state\":2},"
        "{\"event\":\"pwritev_rmw_after_head\",\"state\":2,\"new_state\":3},"
        "{\"event\":\"pwritev_rmw_tail\",\"state\":3,\"new_state\":4},"
        "{\"event\":\"pwritev_rmw_after_tail\",\"state\":4,\"new_state\":5},"
        "{\"event\":\"pwritev\",\"state\":5,\"new_state\":6},"
        "{\"event\":\"pwritev_done\",\"state\":6,\"new_state\":7}]");

    node_fill(node, 1, 8192, 'x');
    assert_int_equal(specific_int(node, "state"), 7);
    assert_node_reads(node, 1, 8192, 'x');

    bdrv_detach_child(node);
    memory_close(below);
}

static void test_limits_are_forced(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(
        FILTER_FLAGS, BLKDEBUG_JSON, below_name(below),
        ",\"align\":512,\"max-transfer\":4096,\"opt-write-zero\":8192,"
        "\"max-write-zero\":16384,\"opt-discard\":8192,"
        "\"max-discard\":8192");

    node_fill(node, 0, 65536, 'x');
    assert_int_equal(memory_count(below, MEMORY_WRITE), 16);
    assert_int_equal(bdrv_pwrite_zeroes(node, 0, 32768, 0), 0);
    assert_int_equal(memory_count(below, MEMORY_ZEROES), 2);
    assert_int_equal(node_discard(node, 512, 32768), 0);
    assert_int_equal(memory_count(below, MEMORY_DISCARD), 3);

    bdrv_detach_child(node);
    memory_close(below);
}

/* Every request of an operation can be made to fail, one after the other. */
static void test_inject_at_walks_through_all_requests(void **state)
{
    unsigned index;

    for (index = 0;; index++) {
        BdrvChild *below = below_open_length(MIB);
        g_autofree char *option =
            g_strdup_printf(",\"inject-at\":%u,\"inject-errno\":28", index);
        BdrvChild *node = node_open(FILTER_FLAGS, BLKDEBUG_JSON,
                                    below_name(below), option);
        int failures = write_block(node, 0) == -ENOSPC;

        failures += bdrv_pwrite_zeroes(node, 512, 512, 0) == -ENOSPC;
        failures += read_block(node, 0) == -ENOSPC;
        failures += node_discard(node, 0, 512) == -ENOSPC;
        failures += bdrv_flush(node->bs) == -ENOSPC;
        assert_int_equal(failures, index < specific_int(node, "requests"));
        bdrv_detach_child(node);
        memory_close(below);
        if (failures == 0) {
            break;
        }
    }
    assert_int_equal(index, 5);
}

static void test_a_sticky_error_stays(void **state)
{
    BdrvChild *below = below_open_length(MIB);
    BdrvChild *node = node_open(FILTER_FLAGS, BLKDEBUG_JSON,
                                below_name(below),
                                ",\"inject-at\":1,\"inject-sticky\":true");

    assert_int_equal(write_block(node, 0), 0);
    assert_int_equal(write_block(node, 0), -EIO);
    assert_int_equal(read_block(node, 0), -EIO);

    bdrv_detach_child(node);
    memory_close(below);
}

#define QCOW2_JSON                                                       \
    "{\"driver\":\"qcow2\",\"file\":{\"driver\":\"blkdebug\",\"file\":"    \
    "{\"driver\":\"file\",\"filename\":\"%s\"}%s}}"

/* An image of 4 MiB with one cluster of data; false: no qemu-img. */
static bool make_qcow2(TestFile *file)
{
    g_autofree char *program = g_find_program_in_path("qemu-img");
    g_autofree char *command = NULL;
    BdrvChild *node;

    if (program == NULL) {
        print_message("skipped: no qemu-img\n");
        return false;
    }
    *file = test_file_new(0, 0);
    command = g_strdup_printf("qemu-img create -q -f qcow2 %s 4M",
                              file->path);
    assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
    node = node_open(FILTER_FLAGS, QCOW2_JSON, file->path, "");
    node_fill(node, 0, 65536, 'a');
    bdrv_detach_child(node);
    return true;
}

static void test_qcow2_announces_what_it_does(void **state)
{
    static const char *const reads[] = { "l2_load", "read_aio" };
    static const char *const writes[] = { "write_aio", "l2_update",
                                          "refblock_update" };
    TestFile file;
    uint8_t byte = 'b';

    if (!make_qcow2(&file)) {
        skip();
    }
    for (size_t i = 0; i < G_N_ELEMENTS(reads); i++) {
        g_autofree char *rule = g_strdup_printf(
            ",\"inject-error\":[{\"event\":\"%s\",\"once\":true}]",
            reads[i]);
        BdrvChild *node = node_open(FILTER_FLAGS, QCOW2_JSON, file.path,
                                    rule);

        assert_int_equal(bdrv_pread(node, 0, 1, &byte), -EIO);
        assert_int_equal(bdrv_pread(node, 0, 1, &byte), 0);
        assert_int_equal(byte, 'a');
        bdrv_detach_child(node);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(writes); i++) {
        g_autofree char *rule = g_strdup_printf(
            ",\"inject-error\":[{\"event\":\"%s\",\"once\":true}]",
            writes[i]);
        BdrvChild *node = node_open(FILTER_FLAGS, QCOW2_JSON, file.path,
                                    rule);
        int failures = bdrv_pwrite(node, (i + 1) * MIB, 1, &byte) == -EIO;

        failures += bdrv_flush(node->bs) == -EIO;
        assert_true(failures > 0);
        bdrv_detach_child(node);
    }
    test_file_free(&file);
}

/* Whichever request fails, what was flushed before can be read after. */
static void test_qcow2_survives_a_failure_of_any_request(void **state)
{
    TestFile file;
    uint64_t index = 0;
    bool was_reached = true;

    if (!make_qcow2(&file)) {
        skip();
    }
    for (; was_reached; index++) {
        g_autofree char *option = g_strdup_printf(
            ",\"inject-at\":%" G_GUINT64_FORMAT, index);
        g_autoptr(GError) error = NULL;
        BdrvChild *node = node_try_open(FILTER_FLAGS, &error, QCOW2_JSON,
                                        file.path, option);
        uint8_t byte = 'b';

        if (node != NULL) {
            int failures = bdrv_pwrite(node, MIB, 1, &byte) < 0;

            failures += bdrv_pwrite_zeroes(node, MIB + 65536, 65536, 0) < 0;
            failures += bdrv_flush(node->bs) < 0;
            was_reached = failures > 0 ||
                          specific_int(node->bs->file, "requests") >
                              (int64_t)index;
            bdrv_detach_child(node);
        }
        node = node_open(FILTER_FLAGS, QCOW2_JSON, file.path, "");
        assert_node_reads(node, 0, 65536, 'a');
        bdrv_detach_child(node);
    }
    assert_true(index > 5);
    test_file_free(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_rules_requests_pass),
        cmocka_unit_test(test_an_event_arms_its_error),
        cmocka_unit_test(test_once_is_once),
        cmocka_unit_test(test_only_the_type_and_sector_of_the_rule_fail),
        cmocka_unit_test(test_rules_ask_for_the_state_that_the_event_found),
        cmocka_unit_test(test_rules_come_from_a_file_too),
        cmocka_unit_test(test_wrong_rules_are_refused),
        cmocka_unit_test(test_a_suspended_coroutine_waits_for_its_tag),
        cmocka_unit_test(test_a_removed_breakpoint_holds_nobody_up),
        cmocka_unit_test(test_breakpoints_hold_nobody_up_in_a_drain),
        cmocka_unit_test(test_writes_announce_padding_and_themselves),
        cmocka_unit_test(test_limits_are_forced),
        cmocka_unit_test(test_inject_at_walks_through_all_requests),
        cmocka_unit_test(test_a_sticky_error_stays),
        cmocka_unit_test(test_qcow2_announces_what_it_does),
        cmocka_unit_test(test_qcow2_survives_a_failure_of_any_request),
    };

    return cmocka_run_group_tests(tests, node_test_setup, node_test_teardown);
}
