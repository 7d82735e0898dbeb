/* SPDX-License-Identifier: MIT */
/*
 * the command line of a mount: every option in both of its forms, and what is
 * refused
 */
#include "fuse/cli_options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* Parses "imgfuse " + @line, split at blanks. */
static CliOptions *parse(const char *line, GError **error)
{
    g_autofree char *whole = g_strconcat("imgfuse ", line, NULL);
    g_auto(GStrv) argv = g_strsplit(whole, " ", -1);

    return cli_options_parse((int)g_strv_length(argv), argv, error);
}

static CliOptions *parse_ok(const char *line)
{
    g_autoptr(GError) error = NULL;
    CliOptions *options = parse(line, &error);

    if (!options) {
        fail_msg("'%s': %s", line, error->message);
    }
    return options;
}

static const CliImage *image(const CliOptions *options, guint index)
{
    assert_true(index < options->images->len);
    return g_ptr_array_index(options->images, index);
}

/* Without options nothing is written, and the kernel caches nothing dirty. */
static void test_defaults_are_read_only_and_write_through(void **state)
{
    g_autoptr(CliOptions) options = parse_ok("a.qcow2 /mnt");

    assert_int_equal(options->images->len, 1);
    assert_string_equal(image(options, 0)->reference, "a.qcow2");
    assert_string_equal(options->mount_point, "/mnt");
    assert_false(options->read_write);
    assert_false(options->writeback);
    assert_int_equal(cli_options_open_flags(options), BDRV_O_UNMAP);
}

static void test_last_argument_is_the_mount_point(void **state)
{
    g_autoptr(CliOptions) options = parse_ok("a b -w c /mnt");

    assert_int_equal(options->images->len, 3);
    assert_string_equal(image(options, 2)->reference, "c");
    assert_string_equal(options->mount_point, "/mnt");
}

static void test_a_missing_mount_point_is_refused(void **state)
{
    g_autoptr(GError) error = NULL;

    assert_null(parse("a.qcow2", &error));

    assert_int_equal(error->code, IMGFUSE_ERROR_OPTION);
    assert_non_null(strstr(error->message, "mount point"));
}

static void test_named_image_form_has_name_file_and_format(void **state)
{
    g_autoptr(CliOptions) options =
        parse_ok("a name=evidence,file=c,,1.E01,format=ewf /mnt");

    assert_null(image(options, 0)->name);
    assert_string_equal(image(options, 1)->name, "evidence");
    assert_string_equal(image(options, 1)->reference, "c,1.E01");
    assert_string_equal(image(options, 1)->format, "ewf");
}

static void test_name_and_format_go_to_the_last_image(void **state)
{
    g_autoptr(CliOptions) options =
        parse_ok("--name=x -t raw a b /mnt");

    assert_null(image(options, 0)->name);
    assert_null(image(options, 0)->format);
    assert_string_equal(image(options, 1)->name, "x");
    assert_string_equal(image(options, 1)->format, "raw");
}

/* The same set of options, as long options and as -o twins. */
static void test_each_long_option_has_a_twin(void **state)
{
    static const char *const lines[] = {
        "--read-write --growable --discard=ignore --detect-zeroes unmap "
        "--cache=none --aio native --threads=3 --allow-path=/x "
        "--allow-remote --pid-file=/p a /mnt",
        "a /mnt -o rw,growable,discard=ignore,detect_zeroes=unmap,cache=none,"
        "aio=native -o threads=3,allow-path=/x,allow-remote,pid-file=/p",
        "-oread-write,growable -o discard=ignore,detect-zeroes=unmap a "
        "-o cache=none,aio=native,threads=3,allow_path=/x,allow_remote,"
        "pid_file=/p /mnt",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(lines); i++) {
        g_autoptr(CliOptions) options = parse_ok(lines[i]);

        assert_true(options->read_write);
        assert_true(options->growable);
        assert_false(options->unmap);
        assert_string_equal(options->detect_zeroes, "unmap");
        assert_int_equal(options->cache, CLI_CACHE_NONE);
        assert_string_equal(options->aio, "native");
        assert_int_equal(options->threads, 3);
        assert_int_equal(options->allow_paths->len, 1);
        assert_string_equal(g_ptr_array_index(options->allow_paths, 0), "/x");
        assert_true(options->allow_remote);
        assert_string_equal(options->pid_file, "/p");
        assert_int_equal(cli_options_open_flags(options),
                         BDRV_O_RDWR | BDRV_O_NOCACHE | BDRV_O_RESIZE);
    }
}

static void test_a_later_option_overrides_an_earlier_one(void **state)
{
    g_autoptr(CliOptions) options = parse_ok("-o rw --cache=none -r a /mnt "
                                             "-o cache=unsafe");

    assert_false(options->read_write);
    assert_int_equal(options->cache, CLI_CACHE_UNSAFE);
}

static void test_short_options_may_stand_together(void **state)
{
    g_autoptr(CliOptions) options = parse_ok("-wfvtraw a /mnt");

    assert_true(options->read_write);
    assert_true(options->foreground);
    assert_true(options->verbose);
    assert_string_equal(image(options, 0)->format, "raw");
}

static void test_kernel_options_are_handed_on_others_dropped(void **state)
{
    g_autoptr(CliOptions) options =
        parse_ok("a /mnt -o noauto,allow_other,nofail,x-systemd.foo,nosuid");

    assert_string_equal(options->mount_options->str, "allow_other,nosuid");
    assert_true(options->others);
}

static void test_two_dashes_end_the_options(void **state)
{
    g_autoptr(CliOptions) options = parse_ok("-w -- -f /mnt");

    assert_false(options->foreground);
    assert_string_equal(image(options, 0)->reference, "-f");
}

/* What is refused, and a piece of the way out that the message shows. */
static void test_wrong_usage_is_refused_with_a_hint(void **state)
{
    static const struct {
        const char *line;
        const char *hint;
    } rows[] = {
        { "--theads=3 a /mnt", "did you mean '--threads'?" },
        { "a /mnt -o growabel,rw", "did you mean '-o growable'?" },
        { "--xyzzyxyzzy a /mnt", "imgfuse --help" },
        { "-x a /mnt", "'-x'" },
        { "--threads=0 a /mnt", "1 to 32" },
        { "--threads=33 a /mnt", "1 to 32" },
        { "--threads=2x a /mnt", "1 to 32" },
        { "--cache=writback a /mnt", "writeback|none" },
        { "--growable=yes a /mnt", "takes no value" },
        { "a /mnt --cache", "needs a value" },
        { "a /mnt -o cache", "needs a value" },
        { "a /mnt -o options=rw", "unknown" },
        { "--aio=native a /mnt", "cache=none" },
        { "--growable a /mnt", "read-write" },
        { "-w --force-share a /mnt", "force-share" },
        { "-w -r a /mnt", "exclude each other" },
        { "-r a /mnt --read-write", "exclude each other" },
        { "a /mnt -o read-only,read-write", "exclude each other" },
        { "name=a,file=b,colour=red /mnt", "'colour' is unknown" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;

        assert_null(parse(rows[i].line, &error));

        assert_non_null(error);
        assert_int_equal(error->code, IMGFUSE_ERROR_OPTION);
        if (!strstr(error->message, rows[i].hint)) {
            fail_msg("'%s': no '%s' in '%s'", rows[i].line, rows[i].hint,
                     error->message);
        }
    }
}

static void test_help_needs_nothing_else_and_names_options(void **state)
{
    g_autoptr(CliOptions) options = parse_ok("--help");
    g_autofree char *text = cli_options_help();

    assert_true(options->show_help);
    assert_non_null(strstr(text, "--detect-zeroes=off|on|unmap"));
    assert_non_null(strstr(text, "-w, --read-write"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_are_read_only_and_write_through),
        cmocka_unit_test(test_last_argument_is_the_mount_point),
        cmocka_unit_test(test_a_missing_mount_point_is_refused),
        cmocka_unit_test(test_named_image_form_has_name_file_and_format),
        cmocka_unit_test(test_name_and_format_go_to_the_last_image),
        cmocka_unit_test(test_each_long_option_has_a_twin),
        cmocka_unit_test(test_a_later_option_overrides_an_earlier_one),
        cmocka_unit_test(test_short_options_may_stand_together),
        cmocka_unit_test(test_kernel_options_are_handed_on_others_dropped),
        cmocka_unit_test(test_two_dashes_end_the_options),
        cmocka_unit_test(test_wrong_usage_is_refused_with_a_hint),
        cmocka_unit_test(test_help_needs_nothing_else_and_names_options),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
