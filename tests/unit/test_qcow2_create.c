/* SPDX-License-Identifier: MIT */
/*
 * new qcow2 images: sound whatever the options, and all or nothing
 */
#include "tests/unit/qcow2_image.h"

#include "block/image/check.h"
#include "block/image/create.h"

#include <sys/stat.h>

static bool create(TestImage *image, const char *options_text, int64_t length,
                   bool replace, GError **error)
{
    g_autoptr(BlockOptions) options = block_options_from_string(options_text,
                                                                NULL);
    ImageCreateRequest request = {
        .filename = image->path, .format = "qcow2", .length = length,
        .options = options, .replace = replace,
    };

    return image_create(&request, /* ret_length= */ NULL, error);
}

static void assert_sound(TestImage *image, int64_t length)
{
    BlockCheckResult result = { 0 };
    BlockBackend *blk = image_open(image, BDRV_O_RDONLY);
    uint8_t part[512] = { 1 };

    assert_int_equal(blk_length(blk), length);
    assert_true(bdrv_check(blk_bs(blk), BLOCK_CHECK_FIX_NONE, &result, NULL));
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    if (length > 0) {
        assert_int_equal(blk_pread(blk, length - 512, 512, part), 0);
        assert_int_equal(part[0], 0);
    }
    blk_free(blk);
}

static void assert_no_file_left(TestImage *image)
{
    GDir *directory = g_dir_open(image->directory, 0, NULL);

    assert_null(g_dir_read_name(directory));
    g_dir_close(directory);
}

static void test_every_combination_makes_a_sound_image(void **state)
{
    TestImage *image = *state;
    static const struct {
        const char *options;
        int64_t length;
    } rows[] = {
        { "compat=1.1", 1 << 30 },
        { "compat=0.10", 1 << 30 },
        { "compat=v3", 0 },
        { "cluster_size=512", 100 << 20 },
        { "cluster_size=2M", (int64_t)8 << 40 },
        { "refcount_bits=1", 1 << 20 },
        { "refcount_bits=64,cluster_size=512,preallocation=metadata",
          20 << 20 },
        { "preallocation=metadata", 1 << 30 },
        { "preallocation=falloc", 3 << 20 },
        { "preallocation=full,cluster_size=4k", 3 << 20 },
        { "lazy_refcounts=on,compression_type=zstd", 1 << 20 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        GError *error = NULL;

        if (!create(image, rows[i].options, rows[i].length,
                    /* replace= */ true, &error)) {
            fail_msg("%s: %s", rows[i].options, error->message);
        }
        assert_sound(image, rows[i].length);
    }
}

static void test_bad_options_leave_nothing_behind(void **state)
{
    TestImage *image = *state;
    static const char *const rows[] = {
        "cluster_size=3k", "cluster_size=4M", "refcount_bits=17",
        "refcount_bits=128", "compat=0.10,lazy_refcounts=on",
        "compat=0.10,refcount_bits=32", "compat=2", "unknown=1",
        "compat=0.10,extended_l2=on", "cluster_size=8k,extended_l2=on",
        "compat=0.10,data_file=x", "compression_type=lz4",
        "data_file_raw=on", "data_file=nbd://localhost/x",
        "data_file=",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;

        assert_false(create(image, rows[i], 1 << 20, false, &error));
        assert_non_null(error);
        assert_no_file_left(image);
    }
}

static void test_sizes_that_the_l1_cannot_map_are_refused(void **state)
{
    TestImage *image = *state;
    g_autoptr(GError) error = NULL;

    assert_false(create(image, "cluster_size=512", (int64_t)1 << 40, false,
                        &error));

    assert_no_file_left(image);
}

static void test_an_existing_file_is_not_touched(void **state)
{
    TestImage *image = *state;
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;

    assert_true(g_file_set_contents(image->path, "precious", 8, NULL));

    assert_false(create(image, "compat=1.1", 1 << 20, false, &error));

    assert_true(g_file_get_contents(image->path, &text, NULL, NULL));
    assert_string_equal(text, "precious");
}

static void test_a_failed_replacement_keeps_the_old_file(void **state)
{
    TestImage *image = *state;
    g_autoptr(GError) error = NULL;
    g_autofree char *text = NULL;

    assert_true(g_file_set_contents(image->path, "precious", 8, NULL));

    assert_false(create(image, "unknown=1", 1 << 20, true, &error));

    assert_true(g_file_get_contents(image->path, &text, NULL, NULL));
    assert_string_equal(text, "precious");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        image_test(test_every_combination_makes_a_sound_image),
        image_test(test_bad_options_leave_nothing_behind),
        image_test(test_sizes_that_the_l1_cannot_map_are_refused),
        image_test(test_an_existing_file_is_not_touched),
        image_test(test_a_failed_replacement_keeps_the_old_file),
    };

    drivers_register_all();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
