/* SPDX-License-Identifier: MIT */
/*
 * tests of jobs: states, speed, cancelling, waking, finishing
 */
#include "tests/unit/job_test.h"

/* A job that counts. */
typedef struct CountState {
    int64_t steps;  /* to make */
    int64_t bytes;  /* of each */
    int ret;
    bool gets_ready;
    bool refuses;   /* in prepare */
    char *calls;    /* "PCc" and so on; the test's */
    int64_t woken_after_ns;
} CountState;

static int coroutine_fn count_run(Job *job)
{
    CountState *s = job_state(job);

    job_set_total(job, s->steps * s->bytes);
    for (int64_t i = 0; i < s->steps; i++) {
        int ret = job_co_pause_point(job, s->bytes);

        if (ret < 0) {
            return ret;
        }
        job_progress(job, s->bytes);
    }
    if (s->gets_ready) {
        int64_t start_ns = clock_now_ns();

        job_set_ready(job);
        while (!job_should_complete(job) && !job_is_cancelled(job)) {
            job_co_sleep_ns(job, WAIT_NS);
        }
        s->woken_after_ns = clock_now_ns() - start_ns;
    }
    return s->ret;
}

static void note(Job *job, char call)
{
    CountState *s = job_state(job);

    if (s->calls != NULL) {
        s->calls[strlen(s->calls)] = call;
    }
}

static bool count_prepare(Job *job, GError **error)
{
    CountState *s = job_state(job);

    note(job, 'P');
    if (s->refuses) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CONFLICT, "no");
    }
    return !s->refuses;
}

static void count_commit(Job *job)
{
    note(job, 'C');
}

static void count_abort(Job *job)
{
    note(job, 'A');
}

static void count_clean(Job *job)
{
    note(job, 'c');
}

static const JobDriver count_driver = {
    .name = "count",
    .instance_size = sizeof(CountState),
    .run = count_run,
    .prepare = count_prepare,
    .commit = count_commit,
    .abort = count_abort,
    .clean = count_clean,
};

static Job *count_new(int64_t steps, int64_t bytes, char *calls)
{
    Job *job = job_new(&count_driver, "count", NULL);
    CountState *s;

    assert_non_null(job);
    s = job_state(job);
    s->steps = steps;
    s->bytes = bytes;
    s->calls = calls;
    return job;
}

static void test_success_prepares_commits_and_cleans(void **state)
{
    char calls[8] = "";
    JobProgress progress;
    Job *job = count_new(10, 100, calls);

    job_start(job, /* thread= */ NULL);
    assert_true(job_wait(job, false, WAIT_NS));

    job_get_progress(job, &progress);
    assert_int_equal(progress.status, JOB_DONE);
    assert_int_equal(progress.done_bytes, 1000);
    assert_int_equal(progress.total_bytes, 1000);
    assert_true(job_result(job, NULL));
    assert_string_equal(calls, "PCc");
    job_free(job);
}

static void test_failure_of_the_work_aborts_without_preparing(void **state)
{
    char calls[8] = "";
    Job *job = count_new(1, 1, calls);

    ((CountState *)job_state(job))->ret = -EIO;
    job_start(job, NULL);

    assert_int_equal(job_end(job), IMGFUSE_ERROR_IO + 1);
    assert_string_equal(calls, "Ac");
}

static void test_failure_to_prepare_aborts_with_its_error(void **state)
{
    char calls[8] = "";
    Job *job = count_new(1, 1, calls);

    ((CountState *)job_state(job))->refuses = true;
    job_start(job, NULL);

    assert_int_equal(job_end(job), IMGFUSE_ERROR_CONFLICT + 1);
    assert_string_equal(calls, "PAc");
}

static void test_job_that_never_started_is_only_cleaned(void **state)
{
    char calls[8] = "";

    job_free(count_new(1, 1, calls));

    assert_string_equal(calls, "c");
}

static void test_two_jobs_cannot_have_one_id(void **state)
{
    Job *job = count_new(1, 1, NULL);

    assert_null(job_new(&count_driver, "count", NULL));

    job_free(job);
}

static void test_speed_limits_the_rate(void **state)
{
    Job *job = count_new(11, 100000, NULL);
    int64_t start_ns = clock_now_ns();

    job_set_speed(job, 4000000);
    job_start(job, NULL);
    assert_job_succeeds(job);

    /* 1.1 MB at 4 MB/s. */
    assert_true(clock_now_ns() - start_ns > 200000000);
}

static void test_cancel_wakes_a_slow_job(void **state)
{
    char calls[8] = "";
    IoThread *thread = io_thread_new("job", NULL);
    Job *job = count_new(1000, 1000, calls);
    int64_t start_ns;

    job_set_speed(job, 1);
    job_start(job, thread);
    assert_false(job_wait(job, false, 50000000));
    start_ns = clock_now_ns();
    job_cancel(job);

    assert_int_not_equal(job_end(job), 0);
    assert_true(clock_now_ns() - start_ns < 400000000);
    assert_string_equal(calls, "Ac");
    io_thread_free(thread);
}

static void test_raising_the_speed_takes_effect_at_once(void **state)
{
    IoThread *thread = io_thread_new("job", NULL);
    Job *job = count_new(1000, 1000, NULL);
    int64_t start_ns;

    job_set_speed(job, 1);
    job_start(job, thread);
    assert_false(job_wait(job, false, 50000000));
    start_ns = clock_now_ns();
    job_set_speed(job, 0);

    assert_job_succeeds(job);
    assert_true(clock_now_ns() - start_ns < 400000000);
    io_thread_free(thread);
}

static void test_complete_needs_a_ready_job_and_wakes_it(void **state)
{
    IoThread *thread = io_thread_new("job", NULL);

    /* Many times: the wake must not be lost whenever it comes. */
    for (int i = 0; i < 200; i++) {
        Job *job = count_new(0, 1, NULL);

        ((CountState *)job_state(job))->gets_ready = true;
        assert_false(job_complete(job, NULL));
        job_start(job, thread);
        assert_true(job_wait(job, /* until_ready= */ true, WAIT_NS));
        assert_true(job_complete(job, NULL));
        assert_true(job_wait(job, false, WAIT_NS));
        assert_true(((CountState *)job_state(job))->woken_after_ns <
                    WAIT_NS / 10);
        assert_true(job_result(job, NULL));
        job_free(job);
    }
    io_thread_free(thread);
}

static void test_freeing_a_running_job_cancels_it(void **state)
{
    char calls[8] = "";
    IoThread *thread = io_thread_new("job", NULL);
    Job *job = count_new(1000, 1000, calls);

    job_set_speed(job, 1);
    job_start(job, thread);
    job_free(job);

    assert_string_equal(calls, "Ac");
    io_thread_free(thread);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_success_prepares_commits_and_cleans),
        cmocka_unit_test(test_failure_of_the_work_aborts_without_preparing),
        cmocka_unit_test(test_failure_to_prepare_aborts_with_its_error),
        cmocka_unit_test(test_job_that_never_started_is_only_cleaned),
        cmocka_unit_test(test_two_jobs_cannot_have_one_id),
        cmocka_unit_test(test_speed_limits_the_rate),
        cmocka_unit_test(test_cancel_wakes_a_slow_job),
        cmocka_unit_test(test_raising_the_speed_takes_effect_at_once),
        cmocka_unit_test(test_complete_needs_a_ready_job_and_wakes_it),
        cmocka_unit_test(test_freeing_a_running_job_cancels_it),
    };

    return cmocka_run_group_tests(tests, job_test_setup, job_test_teardown);
}
