/* SPDX-License-Identifier: MIT */
/*
 * image locks, against themselves and against QEMU
 *
 * Two FileLocks on two descriptors of one file stand for two programs: the
 * locks belong to descriptors. Where qemu-io is installed it is the opponent,
 * too, so that we agree with the real thing and not with our idea of it.
 */
#include "drivers/file/locks.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define READ_ONLY_PERM BLK_PERM_CONSISTENT_READ
#define READ_WRITE_PERM \
    (BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE | BLK_PERM_RESIZE)
/* What a format shares of its file: not writing, not resizing. */
#define EXCLUSIVE_SHARED (BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE_UNCHANGED)

typedef struct Fixture {
    char path[64];
    int fd[2];
    FileLocks locks[2];
} Fixture;

static int open_image(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static int setup(void **state)
{
    Fixture *f = g_new0(Fixture, 1);
    int fd;

    g_strlcpy(f->path, "/tmp/test-locks-XXXXXX", sizeof(f->path));
    fd = mkstemp(f->path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    (void) close(fd);
    for (int i = 0; i < 2; i++) {
        f->fd[i] = open_image(f->path);
        file_locks_init(&f->locks[i], f->fd[i], f->path, FILE_LOCKING_ON);
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    Fixture *f = *state;

    for (int i = 0; i < 2; i++) {
        file_locks_destroy(&f->locks[i]);
        (void) close(f->fd[i]);
    }
    (void) unlink(f->path);
    g_free(f);
    return 0;
}

static void take(FileLocks *locks, uint32_t perm, uint32_t shared)
{
    g_autoptr(GError) error = NULL;

    if (!file_locks_check(locks, perm, shared, &error)) {
        fail_msg("%s", error->message);
    }
    file_locks_set(locks, perm, shared);
}

/* The locked ones of bytes 100 .. 103 and 200 .. 203, as seen by a third. */
static char *locked_bytes(const char *path)
{
    GString *list = g_string_new("");
    int fd = open_image(path);

    for (int n = 0; n < 8; n++) {
        struct flock lock = {
            .l_type = F_WRLCK,
            .l_whence = SEEK_SET,
            .l_start = n < 4 ? 100 + n : 200 + n - 4,
            .l_len = 1,
        };
        long byte = lock.l_start;

        assert_int_equal(fcntl(fd, F_OFD_GETLK, &lock), 0);
        if (lock.l_type != F_UNLCK) {
            g_string_append_printf(list, "%s%ld", list->len ? " " : "", byte);
        }
    }
    (void) close(fd);
    return g_string_free(list, FALSE);
}

static void assert_locked(Fixture *f, const char *expected)
{
    g_autofree char *bytes = locked_bytes(f->path);

    assert_string_equal(bytes, expected);
}

static void assert_refused(FileLocks *locks, uint32_t perm, uint32_t shared,
                           const char *word)
{
    g_autoptr(GError) error = NULL;

    assert_false(file_locks_check(locks, perm, shared, &error));
    assert_true(g_error_matches(error, IMGFUSE_ERROR, IMGFUSE_ERROR_LOCKED));
    if (strstr(error->message, word) == NULL) {
        fail_msg("no '%s' in: %s", word, error->message);
    }
}

/* ---- which bytes ---- */

static void test_read_write_locks_the_bytes_that_qemu_locks(void **state)
{
    Fixture *f = *state;

    take(&f->locks[0], READ_WRITE_PERM, EXCLUSIVE_SHARED);

    assert_locked(f, "100 101 103 201 203");
}

static void test_read_only_locks_the_bytes_that_qemu_locks(void **state)
{
    Fixture *f = *state;

    take(&f->locks[0], READ_ONLY_PERM, EXCLUSIVE_SHARED);

    assert_locked(f, "100 201 203");
}

static void test_off_locks_nothing(void **state)
{
    Fixture *f = *state;

    f->locks[0].mode = FILE_LOCKING_OFF;
    take(&f->locks[0], READ_WRITE_PERM, EXCLUSIVE_SHARED);

    assert_locked(f, "");
}

static void test_set_gives_up_what_is_no_longer_needed(void **state)
{
    Fixture *f = *state;

    take(&f->locks[0], READ_WRITE_PERM, EXCLUSIVE_SHARED);
    take(&f->locks[0], READ_ONLY_PERM, BLK_PERM_ALL);

    assert_locked(f, "100");
}

static void test_abort_restores_what_was_held(void **state)
{
    Fixture *f = *state;

    take(&f->locks[0], READ_ONLY_PERM, BLK_PERM_ALL);
    assert_true(file_locks_check(&f->locks[0], READ_WRITE_PERM,
                                 EXCLUSIVE_SHARED, NULL));
    assert_locked(f, "100 101 103 201 203");
    file_locks_abort(&f->locks[0]);

    assert_locked(f, "100");
    take(&f->locks[0], READ_WRITE_PERM, EXCLUSIVE_SHARED);
    assert_locked(f, "100 101 103 201 203");
}

/* ---- who may come in ---- */

static void test_second_writer_is_refused_and_leaves_no_lock(void **state)
{
    Fixture *f = *state;

    take(&f->locks[0], READ_WRITE_PERM, EXCLUSIVE_SHARED);

    assert_refused(&f->locks[1], READ_WRITE_PERM, EXCLUSIVE_SHARED,
                   "'write' lock");
    assert_int_equal(f->locks[1].held, 0);
    assert_int_equal(f->locks[1].denied, 0);
    file_locks_set(&f->locks[0], 0, BLK_PERM_ALL);
    assert_locked(f, "");
}

static void test_reader_is_refused_while_somebody_writes(void **state)
{
    Fixture *f = *state;

    take(&f->locks[0], READ_WRITE_PERM, EXCLUSIVE_SHARED);

    assert_refused(&f->locks[1], READ_ONLY_PERM, EXCLUSIVE_SHARED,
                   "has the image open for it");
}

static void test_writer_is_refused_while_somebody_reads(void **state)
{
    Fixture *f = *state;

    take(&f->locks[0], READ_ONLY_PERM, EXCLUSIVE_SHARED);

    assert_refused(&f->locks[1], READ_WRITE_PERM, EXCLUSIVE_SHARED,
                   "does not share that");
}

static void test_two_readers_agree(void **state)
{
    Fixture *f = *state;

    take(&f->locks[0], READ_ONLY_PERM, EXCLUSIVE_SHARED);
    take(&f->locks[1], READ_ONLY_PERM, EXCLUSIVE_SHARED);

    assert_locked(f, "100 201 203");
}

static void test_writer_comes_in_when_the_other_has_gone(void **state)
{
    Fixture *f = *state;

    take(&f->locks[0], READ_WRITE_PERM, EXCLUSIVE_SHARED);
    file_locks_set(&f->locks[0], 0, BLK_PERM_ALL);

    take(&f->locks[1], READ_WRITE_PERM, EXCLUSIVE_SHARED);
}

static gpointer release_soon(gpointer opaque)
{
    g_usleep(2000);
    file_locks_set(opaque, 0, BLK_PERM_ALL);
    return NULL;
}

static void test_a_short_visit_is_waited_for(void **state)
{
    Fixture *f = *state;
    int refused = 0;

    /* random pauses: at least one of a few tries must outlast 2 ms */
    for (int i = 0; i < 5; i++) {
        GThread *thread;

        take(&f->locks[0], READ_WRITE_PERM, EXCLUSIVE_SHARED);
        thread = g_thread_new("release", release_soon, &f->locks[0]);
        refused += !file_locks_check(&f->locks[1], READ_WRITE_PERM,
                                     EXCLUSIVE_SHARED, NULL);
        g_thread_join(thread);
        file_locks_set(&f->locks[1], 0, BLK_PERM_ALL);
    }
    assert_true(refused < 5);
}

typedef struct Racer {
    FileLocks *locks;
    int *writers;
    int *seen_two;
    int *granted;
} Racer;

static gpointer race(gpointer opaque)
{
    Racer *racer = opaque;

    for (int i = 0; i < 200; i++) {
        if (file_locks_check(racer->locks, READ_WRITE_PERM, EXCLUSIVE_SHARED,
                             NULL)) {
            if (__atomic_add_fetch(racer->writers, 1, __ATOMIC_SEQ_CST) > 1) {
                __atomic_store_n(racer->seen_two, 1, __ATOMIC_SEQ_CST);
            }
            __atomic_add_fetch(racer->granted, 1, __ATOMIC_SEQ_CST);
            __atomic_sub_fetch(racer->writers, 1, __ATOMIC_SEQ_CST);
            file_locks_set(racer->locks, 0, BLK_PERM_ALL);
        }
    }
    return NULL;
}

/* Both may be refused (L1), never both let in. */
static void test_racing_writers_are_never_two(void **state)
{
    Fixture *f = *state;
    int writers = 0, seen_two = 0, granted = 0;
    Racer racers[2];
    GThread *threads[2];

    for (int i = 0; i < 2; i++) {
        racers[i] = (Racer) { &f->locks[i], &writers, &seen_two, &granted };
        threads[i] = g_thread_new("racer", race, &racers[i]);
    }
    for (int i = 0; i < 2; i++) {
        g_thread_join(threads[i]);
    }
    assert_int_equal(seen_two, 0);
    assert_true(granted > 0);
}

/* ---- QEMU ---- */

typedef struct Opponent {
    pid_t pid;
    FILE *commands;
} Opponent;

static bool have_qemu_io(void)
{
    g_autofree char *path = g_find_program_in_path("qemu-io");

    if (path == NULL) {
        print_message("skipped: qemu-io is not installed\n");
    }
    return path != NULL;
}

/* qemu-io with the image open until quit_qemu_io(). */
static Opponent start_qemu_io(Fixture *f, const char *option)
{
    Opponent opponent;
    int pipe_fd[2];

    assert_int_equal(pipe(pipe_fd), 0);
    opponent.pid = fork();
    assert_true(opponent.pid >= 0);
    if (opponent.pid == 0) {
        int null = open("/dev/null", O_WRONLY);

        (void) dup2(pipe_fd[0], STDIN_FILENO);
        (void) dup2(null, STDOUT_FILENO);
        (void) close(pipe_fd[1]);
        (void) execlp("qemu-io", "qemu-io", option, "-f", "raw", f->path,
                      (char *)NULL);
        _exit(127);
    }
    (void) close(pipe_fd[0]);
    opponent.commands = fdopen(pipe_fd[1], "w");
    for (int i = 0; i < 500; i++) {
        g_autofree char *bytes = locked_bytes(f->path);

        if (bytes[0] != '\0') {
            g_usleep(20000); /* it takes its locks one by one */
            return opponent;
        }
        g_usleep(10000);
    }
    fail_msg("qemu-io took no lock in 5 s");
    return opponent;
}

static void quit_qemu_io(Opponent opponent)
{
    (void) fclose(opponent.commands); /* end of input: it quits */
    assert_int_equal(waitpid(opponent.pid, NULL, 0), opponent.pid);
}

/* Runs qemu-io once on the image; what it said on both outputs. */
static char *run_qemu_io(Fixture *f, const char *option, const char *command)
{
    const char *argv[] = { "timeout", "20", "qemu-io", option, "-f", "raw",
                           "-c", command, f->path, NULL };
    g_autofree char *out = NULL;
    g_autofree char *err = NULL;

    assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH,
                             NULL, NULL, &out, &err, NULL, NULL));
    return g_strconcat(out, err, NULL);
}

static void test_writer_is_refused_while_qemu_writes(void **state)
{
    Fixture *f = *state;
    Opponent qemu;
    g_autofree char *pid = NULL;

    if (!have_qemu_io()) {
        skip();
    }
    qemu = start_qemu_io(f, "-n");
    pid = g_strdup_printf("qemu-io, process %d", (int)qemu.pid);

    assert_refused(&f->locks[0], READ_WRITE_PERM, EXCLUSIVE_SHARED, pid);
    quit_qemu_io(qemu);

    take(&f->locks[0], READ_WRITE_PERM, EXCLUSIVE_SHARED);
}

static void test_reader_comes_in_while_qemu_reads(void **state)
{
    Fixture *f = *state;
    Opponent qemu;

    if (!have_qemu_io()) {
        skip();
    }
    qemu = start_qemu_io(f, "-r");

    take(&f->locks[0], READ_ONLY_PERM, EXCLUSIVE_SHARED);
    quit_qemu_io(qemu);
}

static void test_qemu_is_refused_while_we_write(void **state)
{
    Fixture *f = *state;
    g_autofree char *said = NULL;

    if (!have_qemu_io()) {
        skip();
    }
    take(&f->locks[0], READ_WRITE_PERM, EXCLUSIVE_SHARED);

    said = run_qemu_io(f, "-n", "write 0 512");

    assert_non_null(strstr(said, "lock"));
    assert_null(strstr(said, "wrote 512/512"));
}

static void test_qemu_reads_but_does_not_write_while_we_read(void **state)
{
    Fixture *f = *state;
    g_autofree char *reading = NULL;
    g_autofree char *writing = NULL;

    if (!have_qemu_io()) {
        skip();
    }
    take(&f->locks[0], READ_ONLY_PERM, EXCLUSIVE_SHARED);

    reading = run_qemu_io(f, "-r", "read 0 512");
    writing = run_qemu_io(f, "-n", "write 0 512");

    assert_non_null(strstr(reading, "read 512/512"));
    assert_null(strstr(writing, "wrote 512/512"));
}

#define LOCK_TEST(function) \
    cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOCK_TEST(test_read_write_locks_the_bytes_that_qemu_locks),
        LOCK_TEST(test_read_only_locks_the_bytes_that_qemu_locks),
        LOCK_TEST(test_off_locks_nothing),
        LOCK_TEST(test_set_gives_up_what_is_no_longer_needed),
        LOCK_TEST(test_abort_restores_what_was_held),
        LOCK_TEST(test_second_writer_is_refused_and_leaves_no_lock),
        LOCK_TEST(test_reader_is_refused_while_somebody_writes),
        LOCK_TEST(test_writer_is_refused_while_somebody_reads),
        LOCK_TEST(test_two_readers_agree),
        LOCK_TEST(test_writer_comes_in_when_the_other_has_gone),
        LOCK_TEST(test_a_short_visit_is_waited_for),
        LOCK_TEST(test_racing_writers_are_never_two),
        LOCK_TEST(test_writer_is_refused_while_qemu_writes),
        LOCK_TEST(test_reader_comes_in_while_qemu_reads),
        LOCK_TEST(test_qemu_is_refused_while_we_write),
        LOCK_TEST(test_qemu_reads_but_does_not_write_while_we_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
