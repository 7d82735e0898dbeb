/* SPDX-License-Identifier: MIT */
/*
 * requests as the kernel sends them, byte by byte, and the answers
 *
 * The images are raw files in a fresh folder, opened by the real drivers; no
 * mount is needed. Each request runs in a coroutine of the test's own context.
 */
#include "drivers/registry.h"

#include "fuse/dispatch.h"

#include "block/graph/options.h"
#include "block/rt/aio_context.h"
#include "block/rt/thread_pool.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include <cmocka.h>

#define LENGTH 65536
#define PAYLOAD_BYTES 131072

typedef struct Fixture {
    AioContext *ctx;
    char *folder;
    char *path;
    FuseMountState mount;
    FuseRequest request;
    uint8_t payload[PAYLOAD_BYTES];
    int result;
} Fixture;

/* The inode of the only file. */
#define FILE_INODE (FUSE_ROOT_ID + 1)

static void open_export(Fixture *fixture, BdrvOpenFlags open_flags,
                        ExportFlags flags)
{
    BlockOptions *options = block_options_new();
    g_autoptr(GError) error = NULL;
    BlockBackend *blk;

    block_options_set_string(options, "driver", "raw");
    blk = blk_open(fixture->path, options, open_flags, /* policy= */ NULL,
                   "test", &error);
    if (!blk) {
        fail_msg("%s", error->message);
    }
    fixture->mount.tree = tree_new();
    assert_true(tree_add(fixture->mount.tree,
                         export_new("disk.raw", blk, flags, 0), NULL));
}

static Fixture *fixture_new(BdrvOpenFlags open_flags, ExportFlags flags)
{
    Fixture *fixture = g_new0(Fixture, 1);
    g_autofree char *content = g_strnfill(LENGTH, 'a');

    fixture->ctx = aio_context_new(NULL);
    fixture->folder = g_dir_make_tmp("imgfuse-XXXXXX", NULL);
    fixture->path = g_build_filename(fixture->folder, "disk.img", NULL);
    assert_true(g_file_set_contents(fixture->path, content, LENGTH, NULL));
    fixture->request.payload = fixture->payload;
    fixture->request.payload_capacity = PAYLOAD_BYTES;
    open_export(fixture, open_flags, flags);
    return fixture;
}

static void fixture_free(Fixture *fixture)
{
    tree_free(fixture->mount.tree);
    thread_pool_shutdown();
    aio_context_free(fixture->ctx);
    (void) g_unlink(fixture->path);
    (void) g_rmdir(fixture->folder);
    g_free(fixture->path);
    g_free(fixture->folder);
    g_free(fixture);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Fixture, fixture_free)

static Fixture *writable(void)
{
    return fixture_new(BDRV_O_RDWR | BDRV_O_UNMAP, EXPORT_UNMAP);
}

static void coroutine_fn run(void *opaque)
{
    Fixture *fixture = opaque;

    fixture->result = fuse_dispatch(&fixture->mount, &fixture->request);
}

/* Sends @opcode with @args and @data behind; returns what dispatch returns. */
static int send(Fixture *fixture, uint32_t opcode, uint64_t inode,
                const void *args, size_t args_bytes, const void *data,
                size_t data_bytes)
{
    FuseRequest *request = &fixture->request;
    g_autofree uint8_t *message = NULL;

    request->bytes = sizeof(request->header) + args_bytes + data_bytes;
    message = g_malloc0(MAX(request->bytes, FUSE_WIRE_HEAD_BYTES));
    *(struct fuse_in_header *)message = (struct fuse_in_header) {
        .len = (uint32_t)request->bytes,
        .opcode = opcode,
        .unique = 7,
        .nodeid = inode,
    };
    memcpy(message + sizeof(request->header), args, args_bytes);
    if (data_bytes) {
        memcpy(message + sizeof(request->header) + args_bytes, data,
               data_bytes);
    }

    /* As a transport reads it: 80 bytes, the rest into the payload. */
    memcpy(request->head, message, FUSE_WIRE_HEAD_BYTES);
    if (request->bytes > FUSE_WIRE_HEAD_BYTES) {
        memcpy(request->payload, message + FUSE_WIRE_HEAD_BYTES,
               request->bytes - FUSE_WIRE_HEAD_BYTES);
    }
    aio_run_sync(run, fixture);
    return fixture->result;
}

static int send_read(Fixture *fixture, uint64_t offset, uint32_t bytes)
{
    struct fuse_read_in in = { .offset = offset, .size = bytes };

    return send(fixture, FUSE_READ, FILE_INODE, &in, sizeof(in), NULL, 0);
}

static int send_write(Fixture *fixture, uint64_t offset, const char *text)
{
    struct fuse_write_in in = {
        .offset = offset,
        .size = (uint32_t)strlen(text),
    };

    return send(fixture, FUSE_WRITE, FILE_INODE, &in, sizeof(in), text,
                strlen(text));
}

static void test_lookup_finds_the_file_and_its_size(void **state)
{
    g_autoptr(Fixture) fixture = writable();
    const struct fuse_entry_out *out = (void *)fixture->request.out;

    assert_int_equal(send(fixture, FUSE_LOOKUP, FUSE_ROOT_ID, "disk.raw", 9,
                          NULL, 0), 0);

    assert_int_equal(fixture->request.out_bytes, sizeof(*out));
    assert_int_equal(out->nodeid, FILE_INODE);
    assert_int_equal(out->attr.size, LENGTH);
    assert_true(out->attr.blocks > 0);
}

static void test_lookup_of_a_long_wrong_name_is_enoent(void **state)
{
    g_autoptr(Fixture) fixture = writable();
    g_autofree char *name = g_strnfill(255, 'x');

    assert_int_equal(send(fixture, FUSE_LOOKUP, FUSE_ROOT_ID, name, 256, NULL,
                          0), -ENOENT);
    assert_int_equal(send(fixture, FUSE_LOOKUP, FILE_INODE, "x", 2, NULL, 0),
                     -ENOTDIR);
}

static void test_read_is_clamped_at_the_end_of_the_file(void **state)
{
    g_autoptr(Fixture) fixture = writable();

    assert_int_equal(send_read(fixture, LENGTH - 10, 4096), 0);
    assert_int_equal(fixture->request.out_payload_bytes, 10);
    assert_memory_equal(fixture->payload, "aaaaaaaaaa", 10);

    assert_int_equal(send_read(fixture, LENGTH, 4096), 0);
    assert_int_equal(fixture->request.out_payload_bytes, 0);
}

static void test_read_of_an_impossible_range_is_einval(void **state)
{
    g_autoptr(Fixture) fixture = writable();

    assert_int_equal(send_read(fixture, UINT64_MAX - 5, 4096), -EINVAL);
    assert_int_equal(send_read(fixture, 0, PAYLOAD_BYTES + 1), -EINVAL);
}

static void test_write_is_read_back(void **state)
{
    g_autoptr(Fixture) fixture = writable();
    const struct fuse_write_out *out = (void *)fixture->request.out;

    assert_int_equal(send_write(fixture, 1001, "hello"), 0);
    assert_int_equal(out->size, 5);

    assert_int_equal(send_read(fixture, 1000, 7), 0);
    assert_memory_equal(fixture->payload, "ahelloa", 7);
}

static void test_write_past_the_end_is_cut_then_enospc(void **state)
{
    g_autoptr(Fixture) fixture = writable();
    const struct fuse_write_out *out = (void *)fixture->request.out;

    assert_int_equal(send_write(fixture, LENGTH - 2, "hello"), 0);
    assert_int_equal(out->size, 2);
    assert_int_equal(send_write(fixture, LENGTH, "hello"), -ENOSPC);
    assert_int_equal(send_write(fixture, LENGTH + 4096, "hello"), -ENOSPC);
}

static void test_write_past_the_end_grows_a_growable_file(void **state)
{
    g_autoptr(Fixture) fixture =
        fixture_new(BDRV_O_RDWR | BDRV_O_RESIZE, EXPORT_GROWABLE);
    const struct fuse_attr_out *out = (void *)fixture->request.out;

    assert_int_equal(send_write(fixture, LENGTH + 100, "hello"), 0);

    assert_int_equal(send(fixture, FUSE_GETATTR, FILE_INODE, "", 0, NULL, 0),
                     0);
    assert_int_equal(out->attr.size, LENGTH + 105);
    assert_int_equal(send_read(fixture, LENGTH + 98, 7), 0);
    assert_memory_equal(fixture->payload, "\0\0hello", 7);
}

static void test_read_only_image_is_not_written_or_opened_so(void **state)
{
    g_autoptr(Fixture) fixture = fixture_new(BDRV_O_RDONLY, EXPORT_GROWABLE);
    struct fuse_open_in open_in = { .flags = O_RDWR };
    struct fuse_fallocate_in zero = { .length = 4096,
                                      .mode = FALLOC_FL_ZERO_RANGE };

    assert_int_equal(send(fixture, FUSE_OPEN, FILE_INODE, &open_in,
                          sizeof(open_in), NULL, 0), -EROFS);
    assert_int_equal(send_write(fixture, 0, "hello"), -EROFS);
    assert_int_equal(send(fixture, FUSE_FALLOCATE, FILE_INODE, &zero,
                          sizeof(zero), NULL, 0), -EROFS);
    assert_int_equal(send_read(fixture, 0, 5), 0);
    assert_memory_equal(fixture->payload, "aaaaa", 5);
}

static void test_open_chooses_the_cache_by_o_direct(void **state)
{
    static const struct {
        uint32_t flags;
        uint32_t open_flags;
    } rows[] = {
        { O_RDONLY, FOPEN_KEEP_CACHE | FOPEN_NOFLUSH },
        { O_RDWR, FOPEN_KEEP_CACHE },
        { O_RDWR | O_DIRECT,
          FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES },
    };
    g_autoptr(Fixture) fixture = writable();
    const struct fuse_open_out *out = (void *)fixture->request.out;

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        struct fuse_open_in in = { .flags = rows[i].flags };

        assert_int_equal(send(fixture, FUSE_OPEN, FILE_INODE, &in, sizeof(in),
                              NULL, 0), 0);
        assert_int_equal(out->open_flags, rows[i].open_flags);
        assert_int_equal(out->fh, 0);
    }
}

static int send_truncate(Fixture *fixture, uint64_t size)
{
    struct fuse_setattr_in in = { .valid = FATTR_SIZE, .size = size };

    return send(fixture, FUSE_SETATTR, FILE_INODE, &in, sizeof(in), NULL, 0);
}

static void test_truncate_needs_growable_but_for_the_same_size(void **state)
{
    g_autoptr(Fixture) fixture = writable();

    assert_int_equal(send_truncate(fixture, LENGTH), 0);
    assert_int_equal(send_truncate(fixture, LENGTH - 1), -EPERM);
    assert_int_equal(send_truncate(fixture, 0), -EPERM);
    assert_int_equal(send_truncate(fixture, UINT64_MAX), -EFBIG);
}

static void test_punched_hole_reads_zeros_and_is_found(void **state)
{
    g_autoptr(Fixture) fixture = writable();
    struct fuse_fallocate_in punch = {
        .offset = 16384,
        .length = 1 << 20, /* past the end: cut there */
        .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
    };
    struct fuse_lseek_in seek = { .offset = 0, .whence = SEEK_HOLE };
    const struct fuse_lseek_out *out = (void *)fixture->request.out;
    const char zeros[100] = { 0 };

    assert_int_equal(send(fixture, FUSE_FALLOCATE, FILE_INODE, &punch,
                          sizeof(punch), NULL, 0), 0);

    assert_int_equal(send_read(fixture, 16384, 100), 0);
    assert_memory_equal(fixture->payload, zeros, 100);
    assert_int_equal(send(fixture, FUSE_LSEEK, FILE_INODE, &seek,
                          sizeof(seek), NULL, 0), 0);
    /* The file system may not tell holes; then the file's end is one. */
    assert_true(out->offset == 16384 || out->offset == LENGTH);
    seek.offset = LENGTH;
    assert_int_equal(send(fixture, FUSE_LSEEK, FILE_INODE, &seek,
                          sizeof(seek), NULL, 0), -ENXIO);
}

static void test_unknown_fallocate_mode_is_refused(void **state)
{
    g_autoptr(Fixture) fixture = writable();
    struct fuse_fallocate_in in = { .length = 4096,
                                    .mode = FALLOC_FL_COLLAPSE_RANGE };

    assert_int_equal(send(fixture, FUSE_FALLOCATE, FILE_INODE, &in,
                          sizeof(in), NULL, 0), -EOPNOTSUPP);
}

static void test_copy_range_copies_and_replies_in_the_opcodes_shape(
    void **state)
{
    g_autoptr(Fixture) fixture = writable();
    struct fuse_copy_file_range_in in = {
        .off_in = 0,
        .nodeid_out = FILE_INODE,
        .off_out = 32768,
        .len = 4096,
    };

    assert_int_equal(send_write(fixture, 0, "hello"), 0);
    assert_int_equal(send(fixture, FUSE_COPY_FILE_RANGE, FILE_INODE, &in,
                          sizeof(in), NULL, 0), 0);
    assert_int_equal(((struct fuse_write_out *)fixture->request.out)->size,
                     4096);
    assert_int_equal(send(fixture, FUSE_COPY_FILE_RANGE_64, FILE_INODE, &in,
                          sizeof(in), NULL, 0), 0);
    assert_int_equal(*(uint64_t *)fixture->request.out, 4096);

    assert_int_equal(send_read(fixture, 32768, 6), 0);
    assert_memory_equal(fixture->payload, "helloa", 6);
}

static void test_readdir_goes_on_where_it_was_cut(void **state)
{
    g_autoptr(Fixture) fixture = writable();
    struct fuse_read_in in = { .offset = 0, .size = 64 };
    const struct fuse_dirent *entry = (void *)fixture->payload;

    assert_int_equal(send(fixture, FUSE_READDIR, FUSE_ROOT_ID, &in,
                          sizeof(in), NULL, 0), 0);
    assert_int_equal(fixture->request.out_payload_bytes, 64); /* "." ".." */

    in.offset = 2;
    assert_int_equal(send(fixture, FUSE_READDIR, FUSE_ROOT_ID, &in,
                          sizeof(in), NULL, 0), 0);
    assert_int_equal(entry->ino, FILE_INODE);
    assert_int_equal(entry->namelen, 8);
    assert_memory_equal(entry->name, "disk.raw", 8);
}

static void test_malformed_messages_are_einval(void **state)
{
    g_autoptr(Fixture) fixture = writable();
    struct fuse_write_in in = { .size = 100 };

    /* Too short for the opcode. */
    assert_int_equal(send(fixture, FUSE_READ, FILE_INODE, &in, 39, NULL, 0),
                     -EINVAL);
    /* More data announced than there is. */
    assert_int_equal(send(fixture, FUSE_WRITE, FILE_INODE, &in, sizeof(in),
                          "x", 1), -EINVAL);
    /* No name at all. */
    assert_int_equal(send(fixture, FUSE_LOOKUP, FUSE_ROOT_ID, "", 0, NULL, 0),
                     -EINVAL);
}

static void test_unknown_opcodes_are_enosys(void **state)
{
    static const uint32_t opcodes[] = {
        0, FUSE_GETXATTR, FUSE_BMAP, FUSE_WIRE_OPCODES, UINT32_MAX,
    };
    g_autoptr(Fixture) fixture = writable();

    for (size_t i = 0; i < G_N_ELEMENTS(opcodes); i++) {
        assert_int_equal(send(fixture, opcodes[i], FILE_INODE, "", 0, NULL,
                              0), -ENOSYS);
    }
    assert_int_equal(send(fixture, FUSE_IOCTL, FILE_INODE, "", 0, NULL, 0),
                     -ENOTTY);
}

static void test_forget_is_not_answered(void **state)
{
    g_autoptr(Fixture) fixture = writable();
    g_autofree char *many = g_malloc0(4096);

    assert_int_equal(send(fixture, FUSE_FORGET, FILE_INODE, many, 8, NULL, 0),
                     0);
    assert_true(fixture->request.no_reply);
    assert_int_equal(send(fixture, FUSE_BATCH_FORGET, 0, many, 4096, NULL, 0),
                     0);
    assert_true(fixture->request.no_reply);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookup_finds_the_file_and_its_size),
        cmocka_unit_test(test_lookup_of_a_long_wrong_name_is_enoent),
        cmocka_unit_test(test_read_is_clamped_at_the_end_of_the_file),
        cmocka_unit_test(test_read_of_an_impossible_range_is_einval),
        cmocka_unit_test(test_write_is_read_back),
        cmocka_unit_test(test_write_past_the_end_is_cut_then_enospc),
        cmocka_unit_test(test_write_past_the_end_grows_a_growable_file),
        cmocka_unit_test(test_read_only_image_is_not_written_or_opened_so),
        cmocka_unit_test(test_open_chooses_the_cache_by_o_direct),
        cmocka_unit_test(test_truncate_needs_growable_but_for_the_same_size),
        cmocka_unit_test(test_punched_hole_reads_zeros_and_is_found),
        cmocka_unit_test(test_unknown_fallocate_mode_is_refused),
        cmocka_unit_test(
            test_copy_range_copies_and_replies_in_the_opcodes_shape),
        cmocka_unit_test(test_readdir_goes_on_where_it_was_cut),
        cmocka_unit_test(test_malformed_messages_are_einval),
        cmocka_unit_test(test_unknown_opcodes_are_enosys),
        cmocka_unit_test(test_forget_is_not_answered),
    };

    drivers_register_all();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
