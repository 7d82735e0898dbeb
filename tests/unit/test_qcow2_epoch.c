/* SPDX-License-Identifier: MIT */
/*
 * tests of drivers/qcow2/epoch.c: nothing passes before its readers
 */
#include "drivers/qcow2/epoch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static Qcow2Epoch *epoch_new(void)
{
    void *epoch = NULL;

    assert_int_equal(posix_memalign(&epoch, 64, sizeof(Qcow2Epoch)), 0);
    return memset(epoch, 0, sizeof(Qcow2Epoch));
}

static void test_without_readers_a_ticket_passes_at_the_next_poll(void **state)
{
    Qcow2Epoch *epoch = epoch_new();
    uint64_t ticket = qcow2_epoch_retire(epoch);

    assert_false(qcow2_epoch_passed(epoch, ticket));
    qcow2_epoch_poll(epoch);
    assert_true(qcow2_epoch_passed(epoch, ticket));
    free(epoch);
}

static void test_a_reader_from_before_holds_a_ticket_back(void **state)
{
    /* Whichever side the reader is on. */
    for (int polls = 0; polls < 3; polls++) {
        Qcow2Epoch *epoch = epoch_new();
        unsigned side;
        uint64_t ticket;

        for (int i = 0; i < polls; i++) {
            qcow2_epoch_poll(epoch);
        }
        if (polls == 2) {
            epoch->generation++;
        }
        side = qcow2_epoch_enter(epoch);
        ticket = qcow2_epoch_retire(epoch);
        for (int i = 0; i < 10; i++) {
            qcow2_epoch_poll(epoch);
        }
        assert_false(qcow2_epoch_passed(epoch, ticket));

        qcow2_epoch_leave(epoch, side);
        qcow2_epoch_poll(epoch);
        assert_true(qcow2_epoch_passed(epoch, ticket));
        free(epoch);
    }
}

static void test_newcomers_do_not_hold_a_ticket_back(void **state)
{
    Qcow2Epoch *epoch = epoch_new();
    unsigned old = qcow2_epoch_enter(epoch);
    uint64_t ticket = qcow2_epoch_retire(epoch);
    unsigned newer;

    qcow2_epoch_poll(epoch);
    newer = qcow2_epoch_enter(epoch);
    qcow2_epoch_leave(epoch, old);
    qcow2_epoch_poll(epoch);

    assert_true(qcow2_epoch_passed(epoch, ticket));
    qcow2_epoch_leave(epoch, newer);
    free(epoch);
}

int main(void)
{
    AioContext *ctx = aio_context_new(NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            test_without_readers_a_ticket_passes_at_the_next_poll),
        cmocka_unit_test(test_a_reader_from_before_holds_a_ticket_back),
        cmocka_unit_test(test_newcomers_do_not_hold_a_ticket_back),
    };
    int failures = cmocka_run_group_tests(tests, NULL, NULL);

    aio_context_free(ctx);
    return failures;
}
