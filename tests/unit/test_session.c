/* SPDX-License-Identifier: MIT */
/*
 * negotiation with kernels old and new, over a socket in the kernel's place
 */
#include "fuse/session.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static const SessionWish plain = { .writeback = false };

/* What Linux 6.18 sends. */
static const struct fuse_init_in linux_6_18 = {
    .major = 7,
    .minor = 45,
    .max_readahead = 131072,
    .flags = 0x73fffffb,
    .flags2 = 0x7fd,
};

static void test_a_new_kernel_gets_large_parallel_requests(void **state)
{
    struct fuse_init_out out;
    SessionTerms terms;

    assert_int_equal(session_negotiate(&plain, &linux_6_18,
                                       sizeof(linux_6_18), &out, &terms), 0);

    assert_int_equal(out.major, 7);
    assert_int_equal(out.max_write, 1 << 20);
    assert_int_equal(out.max_pages, 256);
    assert_int_equal(out.max_background, 1024);
    assert_true(terms.flags & FUSE_ASYNC_DIO);
    assert_true(terms.flags & FUSE_DIRECT_IO_ALLOW_MMAP);
    assert_true(terms.flags & FUSE_ATOMIC_O_TRUNC);
    assert_false(terms.flags & FUSE_WRITEBACK_CACHE);
    assert_false(terms.flags & FUSE_AUTO_INVAL_DATA);
}

static void test_writeback_is_taken_when_wished(void **state)
{
    const SessionWish wish = { .writeback = true };
    struct fuse_init_out out;
    SessionTerms terms;

    assert_int_equal(session_negotiate(&wish, &linux_6_18, sizeof(linux_6_18),
                                       &out, &terms), 0);

    assert_true(out.flags & FUSE_WRITEBACK_CACHE);
    assert_false(out.flags & FUSE_ATOMIC_O_TRUNC);
}

static void test_flags_not_offered_are_not_answered(void **state)
{
    struct fuse_init_in in = linux_6_18;
    struct fuse_init_out out;
    SessionTerms terms;

    in.flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES;
    assert_int_equal(session_negotiate(&plain, &in, sizeof(in), &out, &terms),
                     0);

    assert_int_equal(out.flags, FUSE_ASYNC_READ | FUSE_BIG_WRITES);
    assert_int_equal(out.flags2, 0);
}

/* Before 7.36 the message had no second word of flags. */
static void test_a_short_message_has_no_second_flags(void **state)
{
    struct fuse_init_out out;
    SessionTerms terms;

    assert_int_equal(session_negotiate(&plain, &linux_6_18,
                                       offsetof(struct fuse_init_in, flags2),
                                       &out, &terms), 0);

    assert_int_equal(out.flags2, 0);
    assert_false(out.flags & FUSE_INIT_EXT);
}

static void test_old_and_broken_kernels_are_refused(void **state)
{
    struct fuse_init_in in = linux_6_18;
    struct fuse_init_out out;
    SessionTerms terms;

    assert_int_equal(session_negotiate(&plain, &in, 8, &out, &terms),
                     -EPROTO);
    in.minor = SESSION_MINOR_MIN - 1;
    assert_int_equal(session_negotiate(&plain, &in, sizeof(in), &out, &terms),
                     -EPROTO);
    in.major = 6;
    assert_int_equal(session_negotiate(&plain, &in, sizeof(in), &out, &terms),
                     -EPROTO);
}

typedef struct InitMessage {
    struct fuse_in_header header;
    struct fuse_init_in in;
} InitMessage;

static void test_handshake_answers_the_request_it_has_read(void **state)
{
    InitMessage message = {
        .header = { .len = sizeof(message), .opcode = FUSE_INIT,
                    .unique = 42 },
        .in = linux_6_18,
    };
    struct {
        struct fuse_out_header header;
        struct fuse_init_out out;
    } answer;
    SessionTerms terms;
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds), 0);
    assert_int_equal(write(fds[0], &message, sizeof(message)),
                     sizeof(message));

    assert_true(session_handshake(&plain, fds[1], &terms, NULL));

    assert_int_equal(read(fds[0], &answer, sizeof(answer)), sizeof(answer));
    assert_int_equal(answer.header.len, sizeof(answer));
    assert_int_equal(answer.header.error, 0);
    assert_int_equal(answer.header.unique, 42);
    assert_int_equal(answer.out.major, 7);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_new_kernel_gets_large_parallel_requests),
        cmocka_unit_test(test_writeback_is_taken_when_wished),
        cmocka_unit_test(test_flags_not_offered_are_not_answered),
        cmocka_unit_test(test_a_short_message_has_no_second_flags),
        cmocka_unit_test(test_old_and_broken_kernels_are_refused),
        cmocka_unit_test(test_handshake_answers_the_request_it_has_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
