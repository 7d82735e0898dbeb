/* SPDX-License-Identifier: MIT */
/*
 * opening: names, options, probing, backing chains and their errors
 */
#include "graph_test_driver.h"

#include "block/graph/reference_policy.h"

/* Each test: a folder with its files, and the error of the last open. */
typedef struct Fixture {
    char *folder;
    GError *error;
} Fixture;

static int set_up(void **state)
{
    Fixture *f = g_new0(Fixture, 1);

    f->folder = test_folder();
    test_write_file(f->folder, "plain", "no magic here");
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;
    int n = test_count_nodes();

    g_clear_error(&f->error);
    test_remove_folder(f->folder);
    g_free(f);
    return n; /* a node left behind fails the test */
}

static BlockDriverState *open_name(Fixture *f, const char *name,
                                   const char *options, BdrvOpenFlags flags)
{
    g_autofree char *path = g_build_filename(f->folder, name, NULL);

    g_clear_error(&f->error);
    return bdrv_open(path, options != NULL
                     ? block_options_from_string(options, NULL) : NULL, flags,
                     NULL, &f->error);
}

static void assert_fails(Fixture *f, BlockDriverState *bs, int code,
                         const char *part)
{
    assert_null(bs);
    assert_non_null(f->error);
    if (strstr(f->error->message, part) == NULL || f->error->code != code) {
        fail_msg("error %d '%s', expected %d with '%s'", f->error->code,
                 f->error->message, code, part);
    }
    assert_int_equal(test_count_nodes(), 0);
}

static void test_a_plain_name_is_probed(void **state)
{
    Fixture *f = *state;
    g_autofree char *path = g_build_filename(f->folder, "plain", NULL);
    g_autoptr(BlockDriverState) bs = open_name(f, "plain", NULL, 0);

    assert_non_null(bs);
    assert_string_equal(bs->drv->format_name, "raw");
    assert_true(bs->probed && (bs->open_flags & BDRV_O_PROBED));
    assert_true(bs->read_only);
    assert_string_equal(bs->file->bs->drv->format_name, "file");
    assert_string_equal(bs->exact_filename, path);
    assert_string_equal(bs->directory, f->folder);
    assert_string_equal(bdrv_name(bs), "plain");
    assert_int_equal(bs->length, strlen("no magic here"));
}

static void test_a_named_driver_is_not_probed(void **state)
{
    Fixture *f = *state;
    g_autoptr(BlockDriverState) bs = NULL;

    test_write_file(f->folder, "a", "TFMT\n");
    bs = open_name(f, "a", "driver=raw", 0);

    assert_non_null(bs);
    assert_string_equal(bs->drv->format_name, "raw");
    assert_false(bs->probed);
}

static void test_a_colon_is_a_prefix_only_for_known_protocols(void **state)
{
    Fixture *f = *state;
    g_autofree char *prefixed = g_strconcat("file:", f->folder, "/plain",
                                            NULL);
    g_autoptr(BlockDriverState) by_prefix = NULL;
    g_autoptr(BlockDriverState) plain = NULL;

    test_write_file(f->folder, "a:b", "x");
    by_prefix = bdrv_open(prefixed, NULL, 0, NULL, &f->error);
    assert_non_null(by_prefix);
    assert_int_equal(chdir(f->folder), 0);
    plain = bdrv_open("a:b", NULL, 0, NULL, &f->error);
    assert_int_equal(chdir("/"), 0);
    assert_non_null(plain);
}

static void test_json_names_and_node_references(void **state)
{
    g_autoptr(BlockDriverState) mem = test_node("m", BDRV_O_RDWR);
    g_autoptr(BlockDriverState) bs = bdrv_open(
        "json:{\"driver\":\"tfilter\",\"file\":\"m\",\"node-name\":\"top\"}",
        NULL, BDRV_O_RDWR, NULL, NULL);

    assert_non_null(bs);
    assert_ptr_equal(bs->file->bs, mem);
    assert_ptr_equal(bdrv_find_node("top"), bs);
    assert_int_equal(bs->length, TMEM_BYTES);
    assert_string_equal(bs->filename, "json:{\"driver\":\"tfilter\","
                        "\"file\":{\"driver\":\"tmem\"}}");
}

static void test_unknown_things_are_named(void **state)
{
    Fixture *f = *state;

    assert_fails(f, open_name(f, "plain", "driver=nosuch", 0),
                 IMGFUSE_ERROR_NOT_FOUND, "unknown format 'nosuch'; known "
                 "formats: file, raw, tfilter, tfmt, tmem");
    assert_fails(f, open_name(f, "plain", "driver=tfmt,clustersize=1", 0),
                 IMGFUSE_ERROR_OPTION,
                 "unknown option 'clustersize' of driver 'tfmt'");
    assert_fails(f, open_name(f, "plain", "file.color=1", 0),
                 IMGFUSE_ERROR_OPTION,
                 "unknown option 'color' of driver 'file'");
    assert_fails(f, open_name(f, "absent", NULL, 0), IMGFUSE_ERROR_NOT_FOUND,
                 "no such file");
    assert_fails(f, open_name(f, "plain", "read-only=perhaps", 0),
                 IMGFUSE_ERROR_OPTION, "'read-only' is 'perhaps'");
    assert_fails(f, open_name(f, "plain", "backing.driver=raw", 0),
                 IMGFUSE_ERROR_OPTION, "unknown option 'backing.driver'");
    g_clear_error(&f->error);
    assert_fails(f, bdrv_open(NULL, NULL, 0, NULL, &f->error),
                 IMGFUSE_ERROR_OPTION, "neither a file name");
}

static void test_a_broken_header_names_the_image(void **state)
{
    Fixture *f = *state;

    test_write_file(f->folder, "a", "TFMT\nbroken\n");
    assert_fails(f, open_name(f, "a", NULL, 0), IMGFUSE_ERROR_CORRUPT,
                 "a: header is broken");
    test_write_file(f->folder, "top", "TFMT\nbacking=mid\n");
    test_write_file(f->folder, "mid", "TFMT\nbacking=a\n");
    assert_fails(f, open_name(f, "top", NULL, 0), IMGFUSE_ERROR_CORRUPT,
                 "backing file of mid: a: header is broken");
    assert_null(strstr(f->error->message, "top"));
}

static void test_common_options_become_flags(void **state)
{
    Fixture *f = *state;
    g_autoptr(BlockDriverState) bs = open_name(
        f, "plain", "read-only=on,cache.direct=on,cache.no-flush=on,"
        "discard=unmap,detect-zeroes=unmap,force-share=on", BDRV_O_RDWR);

    assert_non_null(bs);
    assert_int_equal(bs->open_flags, BDRV_O_NOCACHE | BDRV_O_NO_FLUSH |
                     BDRV_O_UNMAP | BDRV_O_FORCE_SHARE | BDRV_O_PROBED);
    assert_int_equal(bs->detect_zeroes, BDRV_DETECT_ZEROES_UNMAP);
    assert_true(bs->force_share && bs->file->bs->force_share);
    assert_true(bs->file->bs->open_flags & BDRV_O_NOCACHE);
}

static void test_a_node_counts_its_requests_when_asked_to(void **state)
{
    Fixture *f = *state;
    g_autoptr(BlockDriverState) bs =
        open_name(f, "plain", "file.accounting=on", 0);

    assert_non_null(bs);
    assert_null(bs->accounting);
    assert_non_null(bs->file->bs->accounting);
}

static void test_force_share_needs_read_only(void **state)
{
    Fixture *f = *state;

    assert_fails(f, open_name(f, "plain", "force-share=on", BDRV_O_RDWR),
                 IMGFUSE_ERROR_OPTION, "read-only");
}

static void test_auto_read_only_gives_way(void **state)
{
    Fixture *f = *state;
    g_autoptr(BlockDriverState) bs = NULL;

    test_write_file(f->folder, "a.ro", "x");
    assert_fails(f, open_name(f, "a.ro", "driver=file", BDRV_O_RDWR),
                 IMGFUSE_ERROR_DENIED, "read-only");
    bs = open_name(f, "a.ro", "driver=file,auto-read-only=on", BDRV_O_RDWR);
    assert_non_null(bs);
    assert_true(bs->read_only);
}

static void test_a_backing_chain_is_opened_read_only(void **state)
{
    Fixture *f = *state;
    g_autoptr(BlockDriverState) bs = NULL;
    BlockDriverState *mid, *base;

    test_write_file(f->folder, "top", "TFMT\nbacking=mid\nformat=tfmt\n");
    test_write_file(f->folder, "mid", "TFMT\nbacking=plain\n");
    bs = open_name(f, "top", "cache.direct=on",
                   BDRV_O_RDWR | BDRV_O_RESIZE | BDRV_O_UNMAP);

    assert_non_null(bs);
    mid = bs->backing->bs;
    base = mid->backing->bs;
    assert_string_equal(mid->drv->format_name, "tfmt");
    assert_false(mid->probed);
    assert_string_equal(base->drv->format_name, "raw");
    assert_true(base->probed);
    assert_int_equal(mid->open_flags, BDRV_O_NOCACHE);
    assert_true(mid->read_only && mid->file->bs->read_only);
    assert_false(bs->read_only || bs->file->bs->read_only);
    assert_int_equal(bs->chain_depth, 3);
    assert_int_equal(bs->backing->perm, BLK_PERM_CONSISTENT_READ);
}

static void test_a_missing_backing_file_says_what_to_do(void **state)
{
    Fixture *f = *state;
    g_autofree char *expected = g_strdup_printf(
        "disk: backing file 'base' (named in disk's header) not found in %s; "
        "use --allow-path or 'imgfuse rebase -u'", f->folder);

    test_write_file(f->folder, "disk", "TFMT\nbacking=base\n");

    assert_null(open_name(f, "disk", NULL, 0));
    assert_string_equal(f->error->message, expected);
    test_write_file(f->folder, "top", "TFMT\nbacking=disk\n");
    assert_null(open_name(f, "top", NULL, 0));
    assert_string_equal(f->error->message, expected);
}

static void test_names_in_headers_obey_the_policy(void **state)
{
    static const struct {
        const char *name;
        int code;
    } cases[] = {
        {"/etc/passwd", IMGFUSE_ERROR_FORBIDDEN},
        {"../../../../../../etc/passwd", IMGFUSE_ERROR_FORBIDDEN},
        {"json:{\"driver\":\"tmem\"}", IMGFUSE_ERROR_UNSUPPORTED},
        {"tmem:x", IMGFUSE_ERROR_UNSUPPORTED},
        {"tmem://x", IMGFUSE_ERROR_FORBIDDEN},
        {"nbd://host/x", IMGFUSE_ERROR_UNSUPPORTED},
        {"file:/etc/passwd", IMGFUSE_ERROR_FORBIDDEN},
        {"/dev/zero", IMGFUSE_ERROR_FORBIDDEN},
        {"", IMGFUSE_ERROR_FORBIDDEN},
    };
    Fixture *f = *state;

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *header = g_strdup_printf("TFMT\nbacking=%s\n",
                                                  cases[i].name);

        test_write_file(f->folder, "a", header);
        assert_fails(f, open_name(f, "a", NULL, 0), cases[i].code,
                     "a: backing file '");
        g_free(g_steal_pointer(&header));
        header = g_strdup_printf("TFMT\nextent=%s\n", cases[i].name);
        test_write_file(f->folder, "a", header);
        assert_fails(f, open_name(f, "a", NULL, 0), cases[i].code,
                     "a: extent '");
    }
}

static void test_a_format_named_in_a_header_must_be_a_format(void **state)
{
    Fixture *f = *state;

    test_write_file(f->folder, "a", "TFMT\nbacking=plain\nformat=tmem\n");
    assert_fails(f, open_name(f, "a", NULL, 0), IMGFUSE_ERROR_UNSUPPORTED,
                 "backing format 'tmem'");
    test_write_file(f->folder, "a", "TFMT\nbacking=plain\nformat=tfilter\n");
    assert_fails(f, open_name(f, "a", NULL, 0), IMGFUSE_ERROR_UNSUPPORTED,
                 "backing format 'tfilter'");
}

static void test_loops_are_refused_by_identity(void **state)
{
    Fixture *f = *state;
    g_autofree char *link_path = g_build_filename(f->folder, "link", NULL);

    test_write_file(f->folder, "a", "TFMT\nbacking=b\n");
    test_write_file(f->folder, "b", "TFMT\nbacking=link\n");
    assert_int_equal(symlink("a", link_path), 0);

    assert_fails(f, open_name(f, "a", NULL, 0), IMGFUSE_ERROR_CORRUPT,
                 "backing file loop");
    test_write_file(f->folder, "a", "TFMT\nbacking=a\n");
    assert_fails(f, open_name(f, "a", NULL, 0), IMGFUSE_ERROR_CORRUPT,
                 "backing file loop");
}

static void test_a_very_long_chain_is_refused(void **state)
{
    Fixture *f = *state;

    for (int i = 0; i < BDRV_MAX_DEPTH + 2; i++) {
        g_autofree char *name = g_strdup_printf("l%d", i);
        g_autofree char *header = g_strdup_printf("TFMT\nbacking=l%d\n",
                                                  i + 1);

        test_write_file(f->folder, name, header);
    }
    assert_fails(f, open_name(f, "l0", NULL, 0), IMGFUSE_ERROR_UNSUPPORTED,
                 "more than 256 backing files");
}

static void test_the_operator_overrides_the_backing_file(void **state)
{
    Fixture *f = *state;
    g_autoptr(BlockDriverState) none = NULL;
    g_autoptr(BlockDriverState) other = NULL;
    g_autoptr(BlockDriverState) named = NULL;
    g_autofree char *json = g_strdup_printf(
        "json:{\"driver\":\"tfmt\",\"backing\":null,\"file\":{\"driver\":"
        "\"file\",\"filename\":\"%s/a\"}}", f->folder);

    test_write_file(f->folder, "a", "TFMT\nbacking=/nowhere/at/all\n");
    none = bdrv_open(json, NULL, 0, NULL, &f->error);
    assert_non_null(none);
    assert_null(none->backing);
    assert_null(none->exact_filename);

    other = open_name(f, "a", "backing.driver=raw,backing.file.filename="
                      "/etc/passwd", 0);
    assert_non_null(other);
    assert_string_equal(bdrv_name(other->backing->bs), "passwd");

    named = open_name(f, "a", "backing.driver=tmem", 0);
    assert_non_null(named);
    assert_string_equal(named->backing->bs->drv->format_name, "tmem");
}

static void test_a_lower_layer_may_name_what_the_top_may(void **state)
{
    Fixture *f = *state;
    g_autofree char *sub = g_build_filename(f->folder, "sub", NULL);
    g_autoptr(BlockDriverState) bs = NULL;

    assert_int_equal(g_mkdir_with_parents(sub, 0700), 0);
    test_write_file(f->folder, "top", "TFMT\nbacking=sub/mid\n");
    test_write_file(sub, "mid", "TFMT\nbacking=../plain\n");
    bs = open_name(f, "top", NULL, 0);

    assert_non_null(bs);
    assert_string_equal(bs->backing->bs->directory, sub);
    /* Opened by itself, it may not look outside of its own folder. */
    assert_null(open_name(f, "sub/mid", NULL, 0));
    assert_int_equal(f->error->code, IMGFUSE_ERROR_FORBIDDEN);
}

static void test_an_extent_is_opened_with_the_named_driver(void **state)
{
    Fixture *f = *state;
    g_autoptr(BlockDriverState) bs = NULL;

    test_write_file(f->folder, "a", "TFMT\nextent=plain\n");
    bs = open_name(f, "a", NULL, 0);

    assert_non_null(bs);
    assert_int_equal(bs->children->len, 2);
    bdrv_unref(g_steal_pointer(&bs));
    test_write_file(f->folder, "a", "TFMT\nextent=a\n");
    assert_fails(f, open_name(f, "a", NULL, 0), IMGFUSE_ERROR_CORRUPT,
                 "loop");
}

#define OPEN_TEST(name) \
    cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        OPEN_TEST(test_a_plain_name_is_probed),
        OPEN_TEST(test_a_named_driver_is_not_probed),
        OPEN_TEST(test_a_colon_is_a_prefix_only_for_known_protocols),
        OPEN_TEST(test_json_names_and_node_references),
        OPEN_TEST(test_unknown_things_are_named),
        OPEN_TEST(test_a_broken_header_names_the_image),
        OPEN_TEST(test_common_options_become_flags),
        OPEN_TEST(test_a_node_counts_its_requests_when_asked_to),
        OPEN_TEST(test_force_share_needs_read_only),
        OPEN_TEST(test_auto_read_only_gives_way),
        OPEN_TEST(test_a_backing_chain_is_opened_read_only),
        OPEN_TEST(test_a_missing_backing_file_says_what_to_do),
        OPEN_TEST(test_names_in_headers_obey_the_policy),
        OPEN_TEST(test_a_format_named_in_a_header_must_be_a_format),
        OPEN_TEST(test_loops_are_refused_by_identity),
        OPEN_TEST(test_a_very_long_chain_is_refused),
        OPEN_TEST(test_the_operator_overrides_the_backing_file),
        OPEN_TEST(test_a_lower_layer_may_name_what_the_top_may),
        OPEN_TEST(test_an_extent_is_opened_with_the_named_driver),
    };

    return cmocka_run_group_tests(tests, graph_test_setup,
                                  graph_test_teardown);
}
