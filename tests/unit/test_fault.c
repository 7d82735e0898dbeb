/* SPDX-License-Identifier: MIT */
/*
 * faults of whole-image work: the first one is kept and told as one line
 */
#include "block/image/fault.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void test_what_succeeds_is_no_fault(void **state)
{
    g_auto(ImageFault) fault = { 0 };
    g_autoptr(GError) error = NULL;

    assert_int_equal(image_fault_note(&fault, 0, "read", "a", 0, 1), 0);
    assert_int_equal(image_fault_note(&fault, 7, "read", "a", 0, 1), 7);

    assert_false(image_fault_tell(&fault, &error));
    assert_null(error);
}

static void test_the_first_fault_is_told_with_its_own_reason(void **state)
{
    g_auto(ImageFault) fault = { 0 };
    g_autoptr(GError) error = NULL;
    char name[] = "disk.qcow2";

    assert_int_equal(image_fault_note(&fault, -ENOSPC, "write", name, 65536,
                                      512), -ENOSPC);
    assert_int_equal(image_fault_note(&fault, -EIO, "read", "other", 0, 1),
                     -EIO);
    memset(name, 'x', sizeof(name) - 1); /* it was copied */

    assert_true(image_fault_tell(&fault, &error));
    assert_string_equal(error->message,
                        "disk.qcow2: cannot write 512 bytes at offset 65536: "
                        "No space left on device");
    assert_int_equal(error->code, IMGFUSE_ERROR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_succeeds_is_no_fault),
        cmocka_unit_test(test_the_first_fault_is_told_with_its_own_reason),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
