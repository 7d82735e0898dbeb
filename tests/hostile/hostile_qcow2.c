/* SPDX-License-Identifier: MIT */
/*
 * hostile qcow2 images: each is the valid seed with a few bytes changed
 *
 * A table says what is changed and what must happen. Each case runs in a
 * child with limits on time and memory, so that a crash, a hang and a memory
 * bomb are verdicts like any other:
 *
 *   REFUSE  a read-only open fails
 *   EIO     it opens (or not), and a read of the marked place fails with -EIO
 *   NO_WRITE a write to the marked place, or its flush, fails
 *   NO_PLACE it opens for writing, a write to the marked place fails with
 *           -EIO and marks the image corrupt, other places can be read
 *   RO      it opens read-only, the file stays as it was; read-write fails
 *   NOFILE  the open fails, because of a name that the image may not use
 *   OK      the seed: it reads, so that the rest means something
 *
 * Usage: hostile_qcow2 [NAME-PREFIX]; hostile_qcow2 --write DIR makes files.
 */
#include "tests/hostile/qcow2_seed.h"

#include "block/backend.h"
#include "block/graph/options.h"
#include "block/rt/aio_context.h"
#include "drivers/registry.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CASE_SECONDS 10
#ifdef __SANITIZE_ADDRESS__
#define CASE_RSS_KIB (512 * 1024) /* what it keeps of freed memory, too */
#else
#define CASE_RSS_KIB (64 * 1024)
#endif
#define CASE_DATA_BYTES (256 * MIB)
#define EDITS 12

typedef enum Expect {
    OK,
    REFUSE,
    EIO_READ,
    NO_WRITE,
    NO_PLACE,
    RO,
    NOFILE,
} Expect;

typedef struct Edit {
    int64_t offset;
    int width; /* 0: no more edits */
    uint64_t value;
} Edit;

typedef struct Case {
    const char *name;
    Expect expect;
    Edit edit[EDITS];
    int64_t at;       /* guest offset of the read or write */
    int64_t length;   /* of the file, 0: as the seed's */
    const char *text; /* goes to @text_offset */
    int64_t text_offset;
} Case;

/* An extension header at the place of the first. */
#define EXT(type, bytes) { SEED_EXTENSIONS, 4, type }, \
                         { SEED_EXTENSIONS + 4, 4, bytes }
/* A backing file name in the first cluster. */
#define BACKING(name)                                                       \
    .edit = { { 8, 8, 4096 }, { 16, 4, sizeof(name) - 1 },                  \
              EXT(QCOW2_EXTENSION_BACKING_FORMAT, 3),                       \
              { SEED_EXTENSIONS + 8, 3, 0x726177 } },                       \
    .text = name, .text_offset = 4096
/* A directory entry: a bitmap without a table, named "b". */
#define SEED_BITMAP(at) { at + 16, 4, 0x01100001 }, { at + 20, 4, 0 }, \
                        { at + 24, 1, 'b' }
/*
 * A table of one snapshot at @at, whose L1 of one entry is at @l1 and names
 * the L2 table at @l2.
 */
#define SEED_SNAPSHOT(at, l1, l2)                                           \
    { 60, 4, 1 }, { 64, 8, at }, { at, 8, l1 }, { at + 8, 4, 1 },           \
    { at + 12, 4, 0x00010001 }, { at + 32, 4, 0 }, { at + 36, 4, 16 },      \
    { at + 48, 8, 0 }, { at + 56, 2, 0x3131 }, { l1, 8, l2 }
#define L2_ENTRY(n) (SEED_L2 + 8 * (n))
#define EXTENDED { 72, 8, QCOW2_INCOMPAT_EXTENDED_L2 }
#define EXTENDED_SECOND                                                     \
    { L2_ENTRY(2), 8, QCOW2_ENTRY_COPIED | (SEED_DATA + SEED_CLUSTER) },    \
    { L2_ENTRY(3), 8, UINT32_MAX }

/* Most members of a case are not given: nothing special. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
static const Case cases[] = {
    { "Q00-seed", OK },
    { "Q01a-cluster_bits-0", REFUSE, { { 20, 4, 0 } } },
    { "Q01b-cluster_bits-8", REFUSE, { { 20, 4, 8 } } },
    { "Q01c-cluster_bits-22", REFUSE, { { 20, 4, 22 } } },
    { "Q01d-cluster_bits-63", REFUSE, { { 20, 4, 63 } } },
    { "Q02a-refcount_order-7", REFUSE, { { 96, 4, 7 } } },
    { "Q02b-refcount_order-64", REFUSE, { { 96, 4, 64 } } },
    { "Q02c-refcount_order-max", REFUSE, { { 96, 4, UINT32_MAX } } },
    { "Q03a-header_length-71", REFUSE, { { 100, 4, 71 } } },
    { "Q03b-header_length-past-cluster", REFUSE, { { 100, 4, 0x10001 } } },
    { "Q03c-header_length-max", REFUSE, { { 100, 4, 0x7fffffff } } },
    { "Q04a-extension-length", REFUSE, { EXT(0x12345678, 0x7fffffff) } },
    { "Q04b-extension-length-max", REFUSE, { EXT(0x12345678, UINT32_MAX) } },
    { "Q05a-l1_size-0", REFUSE, { { 36, 4, 0 } } },
    { "Q05b-l1_size-max", REFUSE, { { 36, 4, 0x7fffffff } } },
    { "Q06a-l1-unaligned", REFUSE, { { 40, 8, SEED_L1 + 512 } } },
    { "Q06b-l1-far", REFUSE, { { 40, 8, 0x7fffffffffff0000 } } },
    { "Q07a-size", REFUSE, { { 24, 8, (1ull << 63) - 512 } } },
    { "Q07b-size", REFUSE, { { 24, 8, 1ull << 63 } } },
    { "Q07c-size", REFUSE, { { 24, 8, UINT64_MAX } } },
    { "Q08a-reftable-0", REFUSE, { { 56, 4, 0 } } },
    { "Q08b-reftable-max", REFUSE, { { 56, 4, 0x7fffffff } } },
    { "Q09-reftable-far", REFUSE, { { 48, 8, 1ull << 62 } } },
    { "Q10a-snapshots-65537", REFUSE, { { 60, 4, 65537 }, { 64, 8, 0x10000 } } },
    { "Q10b-snapshots-max", REFUSE, { { 60, 4, UINT32_MAX } } },
    { "Q12a-backing-length", REFUSE, { { 8, 8, 512 }, { 16, 4, UINT32_MAX } } },
    { "Q12b-backing-offset", REFUSE, { { 8, 8, 70000 }, { 16, 4, 4 } } },
    { "Q12c-backing-1024", REFUSE, { { 8, 8, 512 }, { 16, 4, 1024 } } },
    { "Q13a-backing-passwd", NOFILE, BACKING("/etc/passwd") },
    { "Q13b-backing-json", NOFILE,
      BACKING("json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}") },
    { "Q13c-backing-nbd", NOFILE, BACKING("nbd://localhost/x") },
    { "Q13d-backing-itself", REFUSE,
      .edit = { { 8, 8, 4096 }, { 16, 4, 7 } }, .text = "case.q2",
      .text_offset = 4096 },
    { "Q13e-backing-dots", NOFILE, BACKING("../../../../../../etc/passwd") },
    { "Q13f-backing-fifo", REFUSE, BACKING("fifo") },
    { "Q13g-backing-zero", NOFILE, BACKING("/dev/zero") },
    { "Q14a-data-file-passwd", NOFILE,
      { { 72, 8, QCOW2_INCOMPAT_DATA_FILE },
        EXT(QCOW2_EXTENSION_DATA_FILE, 11) },
      .text = "/etc/passwd", .text_offset = SEED_EXTENSIONS + 8 },
    { "Q14b-data-file-missing", REFUSE,
      { { 72, 8, QCOW2_INCOMPAT_DATA_FILE },
        EXT(QCOW2_EXTENSION_DATA_FILE, 7) },
      .text = "missing", .text_offset = SEED_EXTENSIONS + 8 },
    { "Q14c-data-file-unnamed", REFUSE,
      { { 72, 8, QCOW2_INCOMPAT_DATA_FILE } } },
    { "Q15-incompatible-63", REFUSE, { { 72, 8, 1ull << 63 } } },
    { "Q16a-l2-to-l1", NO_PLACE,
      { { L2_ENTRY(0), 8, QCOW2_ENTRY_COPIED | SEED_L1 } } },
    { "Q16e-l2-to-reftable", NO_PLACE,
      { { L2_ENTRY(0), 8, QCOW2_ENTRY_COPIED | SEED_REFTABLE } } },
    { "Q16h-l2-to-refblock", NO_PLACE,
      { { L2_ENTRY(0), 8, QCOW2_ENTRY_COPIED | SEED_REFBLOCK } } },
    { "Q16i-l2-to-itself", NO_PLACE,
      { { L2_ENTRY(0), 8, QCOW2_ENTRY_COPIED | SEED_L2 } } },
    { "Q16j-l2-shared-refblock", NO_PLACE,
      { { L2_ENTRY(0), 8, SEED_REFBLOCK } } },
    { "Q16k-l2-zero-to-refblock", NO_PLACE,
      { { L2_ENTRY(0), 8, QCOW2_ENTRY_COPIED | QCOW2_L2_ZERO |
                          SEED_REFBLOCK } } },
    { "Q16l-l2-to-free", NO_PLACE,
      { { SEED_REFBLOCK + 10, 2, 0 } } },
    { "Q16m-l2-to-bitmaps", NO_PLACE,
      { EXT(QCOW2_EXTENSION_BITMAPS, 24), { 120, 4, 1 },
        { 128, 8, 48 }, { 136, 8, SEED_DATA }, { 88, 8, 1 },
        SEED_BITMAP(SEED_DATA) } },
    { "Q16n-l2-to-snapshot-l1", NO_PLACE,
      { SEED_SNAPSHOT(SEED_COMPRESSED, SEED_DATA, SEED_L2) } },
    { "Q16o-l2-to-snapshot-l2", NO_PLACE,
      { SEED_SNAPSHOT(SEED_COMPRESSED, SEED_DATA, SEED_DATA + SEED_CLUSTER),
        { L2_ENTRY(0), 8,
          QCOW2_ENTRY_COPIED | (SEED_DATA + SEED_CLUSTER) } } },
    { "Q11-snapshot-l1-far", REFUSE,
      { SEED_SNAPSHOT(SEED_COMPRESSED, SEED_DATA, SEED_L2),
        { SEED_COMPRESSED, 8, 1ull << 50 } } },
    { "Q16b-l2-unaligned", EIO_READ,
      { { L2_ENTRY(0), 8, QCOW2_ENTRY_COPIED | (SEED_DATA + 512) } } },
    { "Q16c-l2-far", EIO_READ,
      { { L2_ENTRY(0), 8, QCOW2_ENTRY_COPIED | 1ull << 55 } } },
    { "Q16f-l2-reserved", EIO_READ,
      { { L2_ENTRY(0), 8, QCOW2_ENTRY_COPIED | SEED_DATA | 1ull << 57 } } },
    { "Q17a-compressed-far", EIO_READ,
      { { L2_ENTRY(2), 8, QCOW2_L2_COMPRESSED | 1ull << 50 } },
      .at = 2 * SEED_CLUSTER },
    { "Q17b-compressed-garbage", EIO_READ,
      { { SEED_COMPRESSED, 8, 0xffffffffffffffff } },
      .at = 2 * SEED_CLUSTER },
    { "Q17c-compressed-all-sectors", EIO_READ,
      { { L2_ENTRY(2), 8, 0x7fffffffffffffff } }, .at = 2 * SEED_CLUSTER },
    { "Q17d-compressed-of-data", EIO_READ,
      { { L2_ENTRY(2), 8, QCOW2_L2_COMPRESSED | SEED_DATA } },
      .at = 2 * SEED_CLUSTER },
    { "Q18a-l1-to-header", EIO_READ,
      { { SEED_L1, 8, QCOW2_ENTRY_COPIED | 512 } } },
    { "Q18b-l1-far", EIO_READ,
      { { SEED_L1, 8, QCOW2_ENTRY_COPIED | 1ull << 50 } } },
    { "Q18c-l1-unaligned", EIO_READ,
      { { SEED_L1, 8, QCOW2_ENTRY_COPIED | (SEED_L2 + 512) } } },
    { "Q18d-l1-to-itself", EIO_READ,
      { { SEED_L1, 8, QCOW2_ENTRY_COPIED | SEED_L1 } } },
    { "Q19a-refcounts-0", NO_WRITE,
      { { SEED_REFBLOCK, 8, 0 }, { SEED_REFBLOCK + 8, 8, 0 } },
      .at = 5 * SEED_CLUSTER },
    { "Q19b-reftable-0", NO_WRITE, { { SEED_REFTABLE, 8, 0 } },
      .at = 5 * SEED_CLUSTER },
    { "Q20a-compression-ff", REFUSE,
      { { 104, 1, 0xff }, { 72, 8, QCOW2_INCOMPAT_COMPRESSION } } },
    { "Q20b-compression-mismatch", REFUSE, { { 104, 1, 1 } } },
    { "Q20c-compression-bit-alone", REFUSE,
      { { 72, 8, QCOW2_INCOMPAT_COMPRESSION } } },
    { "Q21-corrupt", RO, { { 72, 8, QCOW2_INCOMPAT_CORRUPT } } },
    { "Q23a-bitmaps-count", REFUSE,
      { EXT(QCOW2_EXTENSION_BITMAPS, 24), { 120, 4, UINT32_MAX },
        { 128, 8, 0x1000 }, { 136, 8, 0x50000 }, { 88, 8, 1 } } },
    { "Q23b-bitmaps-far", REFUSE,
      { EXT(QCOW2_EXTENSION_BITMAPS, 24), { 120, 4, 1 },
        { 128, 8, 0x1000 }, { 136, 8, 1ull << 62 }, { 88, 8, 1 } } },
    { "Q23c-bitmap-granularity-64", REFUSE,
      { EXT(QCOW2_EXTENSION_BITMAPS, 24), { 120, 4, 1 }, { 128, 8, 0x1000 },
        { 136, 8, SEED_DATA }, { 88, 8, 1 },
        SEED_BITMAP(SEED_DATA), { SEED_DATA + 17, 1, 64 } } },
    { "Q23d-bitmap-extra-data", REFUSE,
      { EXT(QCOW2_EXTENSION_BITMAPS, 24), { 120, 4, 1 }, { 128, 8, 0x1000 },
        { 136, 8, SEED_DATA }, { 88, 8, 1 },
        SEED_BITMAP(SEED_DATA), { SEED_DATA + 20, 4, UINT32_MAX } } },
    { "Q23e-bitmap-name-0", REFUSE,
      { EXT(QCOW2_EXTENSION_BITMAPS, 24), { 120, 4, 1 }, { 128, 8, 0x1000 },
        { 136, 8, SEED_DATA }, { 88, 8, 1 },
        SEED_BITMAP(SEED_DATA), { SEED_DATA + 18, 2, 0 } } },
    { "Q23f-bitmap-name-zero", REFUSE,
      { EXT(QCOW2_EXTENSION_BITMAPS, 24), { 120, 4, 1 }, { 128, 8, 0x1000 },
        { 136, 8, SEED_DATA }, { 88, 8, 1 },
        SEED_BITMAP(SEED_DATA), { SEED_DATA + 24, 1, 0 } } },
    { "Q23g-bitmaps-past-directory", REFUSE,
      { EXT(QCOW2_EXTENSION_BITMAPS, 24), { 120, 4, 2 }, { 128, 8, 48 },
        { 136, 8, SEED_DATA }, { 88, 8, 1 }, SEED_BITMAP(SEED_DATA) } },
    { "Q24a-crypt-99", REFUSE, { { 32, 4, 99 } } },
    { "Q24b-luks-far", REFUSE,
      { { 32, 4, 2 }, EXT(QCOW2_EXTENSION_CRYPTO_HEADER, 16),
        { 120, 8, (1ull << 63) - 512 }, { 128, 8, 1ull << 63 } } },
    { "Q26a-extended-l2-512", REFUSE,
      { { 72, 8, QCOW2_INCOMPAT_EXTENDED_L2 }, { 20, 4, 9 } } },
    /* Entries of two words; the bitmaps stand where entry 1 was. */
    { "Q26b-subcluster-zero-and-allocated", EIO_READ,
      { EXTENDED, { L2_ENTRY(1), 8, 1ull << 32 | UINT32_MAX } } },
    { "Q26c-subcluster-without-cluster", EIO_READ,
      { EXTENDED, { L2_ENTRY(0), 8, 0 }, { L2_ENTRY(1), 8, 1 } } },
    { "Q26d-extended-zero-flag", EIO_READ,
      { EXTENDED, { L2_ENTRY(0), 8, QCOW2_ENTRY_COPIED | SEED_DATA | 1 },
        { L2_ENTRY(1), 8, UINT32_MAX } } },
    { "Q26e-extended-far", EIO_READ,
      { EXTENDED, { L2_ENTRY(0), 8, QCOW2_ENTRY_COPIED | 1ull << 55 },
        { L2_ENTRY(1), 8, UINT32_MAX } } },
    { "Q26f-subcluster-to-refblock", NO_PLACE,
      { EXTENDED, { L2_ENTRY(0), 8, QCOW2_ENTRY_COPIED | SEED_REFBLOCK },
        { L2_ENTRY(1), 8, UINT32_MAX }, EXTENDED_SECOND } },
    { "Q26g-empty-subclusters-to-l1", NO_PLACE,
      { EXTENDED, { L2_ENTRY(0), 8, QCOW2_ENTRY_COPIED | SEED_L1 },
        { L2_ENTRY(1), 8, 0 }, EXTENDED_SECOND } },
    { "Q27a-truncated-3", REFUSE, .length = 3 },
    { "Q27b-truncated-71", REFUSE, .length = 71 },
    { "Q27c-truncated-104", REFUSE, .length = 104 },
    { "Q27d-truncated-511", REFUSE, .length = 511 },
    { "Q27e-truncated-512", REFUSE, .length = 512 },
    { "Q27f-truncated-65535", REFUSE, .length = 65535 },
    { "Q27g-truncated-l1", EIO_READ, .length = SEED_L1 + 1 },
    { "Q27h-truncated-l2", EIO_READ, .length = SEED_L2 + 1 },
};
#pragma GCC diagnostic pop

/* -- making files -------------------------------------------------------- */

static uint8_t *case_make(const Case *one, int64_t *ret_bytes)
{
    uint8_t *image = seed_make();

    for (int i = 0; i < EDITS && one->edit[i].width; i++) {
        seed_put(image, one->edit[i].offset, one->edit[i].width,
                 one->edit[i].value);
    }
    if (one->text) {
        memcpy(image + one->text_offset, one->text, strlen(one->text));
    }
    *ret_bytes = one->length ? one->length : SEED_BYTES;
    return image;
}

static void case_write(const Case *one, const char *path)
{
    int64_t bytes;
    g_autofree uint8_t *image = case_make(one, &bytes);
    GError *error = NULL;

    if (!g_file_set_contents(path, (char *)image, bytes, &error)) {
        fprintf(stderr, "%s\n", error->message);
        exit(1);
    }
}

static bool file_is(const Case *one, const char *path)
{
    int64_t bytes;
    g_autofree uint8_t *image = case_make(one, &bytes);
    g_autofree char *now = NULL;
    gsize now_bytes;

    return g_file_get_contents(path, &now, &now_bytes, NULL) &&
           (int64_t)now_bytes == bytes && memcmp(now, image, bytes) == 0;
}

/* -- the child ----------------------------------------------------------- */

static BlockBackend *open_image(const char *path, BdrvOpenFlags flags,
                                GError **error)
{
    BlockOptions *options = block_options_new();

    block_options_set_string(options, "driver", "qcow2");
    return blk_open(path, options, flags, /* policy= */ NULL, "test", error);
}

/* A failure of the case: the reason goes to the parent's standard error. */
static int wrong(const Case *one, const char *what)
{
    fprintf(stderr, "not ok - %s: %s\n", one->name, what);
    return 1;
}

static int judge_read(const Case *one, BlockBackend *blk)
{
    uint8_t buffer[512];
    int ret;

    if (!blk) {
        return one->expect == OK ? wrong(one, "was refused") : 0;
    }
    ret = blk_pread(blk, one->at, sizeof(buffer), buffer);
    if (one->expect == EIO_READ) {
        return ret == -EIO ? 0 : wrong(one, ret ? "read: other error"
                                                : "was read");
    }
    for (int i = 0; i < 3; i++) {
        if (blk_pread(blk, i * SEED_CLUSTER + 1000, 512, buffer) != 0 ||
            buffer[0] != 0x11 * (i + 1) || buffer[511] != buffer[0]) {
            return wrong(one, "does not read what was written");
        }
    }
    return 0;
}

static int judge_write(const Case *one, const char *path)
{
    BlockBackend *blk = open_image(path, BDRV_O_RDWR, /* error= */ NULL);
    g_autofree uint8_t *buffer = g_malloc0(SEED_CLUSTER);
    int ret;

    if (!blk) {
        return 0;
    }
    ret = blk_pwrite(blk, one->at, SEED_CLUSTER, buffer);
    if (ret == 0) {
        ret = blk_flush(blk);
    }
    blk_free(blk);
    return ret < 0 ? 0 : wrong(one, "was written");
}

/* Is the corrupt bit in the file? */
static bool file_is_marked(const char *path)
{
    g_autofree char *now = NULL;
    gsize bytes;

    return g_file_get_contents(path, &now, &bytes, NULL) && bytes > 80 &&
           (now[79] & QCOW2_INCOMPAT_CORRUPT);
}

static int judge_place(const Case *one, const char *path)
{
    BlockBackend *blk = open_image(path, BDRV_O_RDWR, /* error= */ NULL);
    g_autofree uint8_t *buffer = g_malloc0(SEED_CLUSTER);
    int write, read;

    if (!blk) {
        return wrong(one, "does not open for writing");
    }
    /* Reading first has the entry in memory when the write comes. */
    read = blk_pread(blk, one->at, 512, buffer);
    if (read == 0) {
        read = blk_pread(blk, SEED_CLUSTER, 512, buffer);
    }
    write = blk_pwrite(blk, one->at, SEED_CLUSTER, buffer);
    blk_free(blk);
    if (read < 0 || buffer[0] != 0x22) {
        return wrong(one, "cannot be read");
    }
    if (write != -EIO) {
        return wrong(one, write ? "write: other error" : "was written");
    }
    return file_is_marked(path) ? 0 : wrong(one, "is not marked corrupt");
}

static int judge_read_only(const Case *one, const char *path)
{
    BlockBackend *blk = open_image(path, BDRV_O_RDONLY, /* error= */ NULL);

    if (!blk) {
        return wrong(one, "cannot even be read");
    }
    blk_free(blk);
    if (!file_is(one, path)) {
        return wrong(one, "was changed by a read-only open");
    }
    blk = open_image(path, BDRV_O_RDWR, /* error= */ NULL);
    return blk ? wrong(one, "opens for writing") : 0;
}

static int judge_refused(const Case *one, const char *path)
{
    g_autoptr(GError) error = NULL;
    BlockBackend *blk = open_image(path, BDRV_O_RDONLY, &error);

    if (blk) {
        return wrong(one, "was opened");
    }
    if (!error) {
        return wrong(one, "was refused without a word");
    }
    if (one->expect == NOFILE && error->code != IMGFUSE_ERROR_FORBIDDEN &&
        error->code != IMGFUSE_ERROR_UNSUPPORTED) {
        return wrong(one, error->message);
    }
    return file_is(one, path) ? 0 : wrong(one, "the file was changed");
}

static int case_judge(const Case *one, const char *path)
{
    BlockBackend *blk;
    int code;

    switch (one->expect) {
    case REFUSE:
    case NOFILE:
        return judge_refused(one, path);
    case RO:
        return judge_read_only(one, path);
    case NO_WRITE:
        return judge_write(one, path);
    case NO_PLACE:
        return judge_place(one, path);
    case OK:
    case EIO_READ:
        break;
    }
    blk = open_image(path, BDRV_O_RDONLY, /* error= */ NULL);
    code = judge_read(one, blk);
    blk_free(blk);
    return code;
}

static void child_run(const Case *one, const char *path)
{
    struct rlimit data = { CASE_DATA_BYTES, CASE_DATA_BYTES };
    struct rlimit core = { 0, 0 };
    AioContext *ctx;

    /* AddressSanitizer's shadow memory alone is above any limit. */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    setrlimit(RLIMIT_DATA, &data);
#else
    (void) data;
#endif
    setrlimit(RLIMIT_CORE, &core);
    alarm(CASE_SECONDS);
    drivers_register_all();
    ctx = aio_context_new(/* error= */ NULL);
    _exit(ctx ? case_judge(one, path) : wrong(one, "no event loop"));
}

/* -- the parent ---------------------------------------------------------- */

static bool case_run(const Case *one, const char *path)
{
    struct rusage usage;
    int status;
    pid_t pid;

    case_write(one, path);
    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        child_run(one, path);
    }
    if (pid < 0 || wait4(pid, &status, 0, &usage) != pid) {
        return !wrong(one, "cannot run");
    }
    if (WIFSIGNALED(status)) {
        return !wrong(one, WTERMSIG(status) == SIGALRM ? "takes too long"
                                                       : "crashes");
    }
    if (usage.ru_maxrss > CASE_RSS_KIB) {
        return !wrong(one, "takes too much memory");
    }
    return WEXITSTATUS(status) == 0;
}

static int write_all(const char *directory)
{
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("%s/%s.qcow2", directory,
                                                cases[i].name);

        case_write(&cases[i], path);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *prefix = argc > 1 ? argv[1] : "";
    g_autofree char *directory = NULL;
    g_autofree char *path = NULL;
    g_autofree char *fifo = NULL;
    int failed = 0;
    int run = 0;

    if (argc == 3 && strcmp(argv[1], "--write") == 0) {
        return write_all(argv[2]);
    }
    directory = g_dir_make_tmp("hostile-XXXXXX", NULL);
    path = g_build_filename(directory, "case.q2", NULL);
    fifo = g_build_filename(directory, "fifo", NULL);
    if (mkfifo(fifo, 0600) < 0) {
        perror(fifo);
        return 1;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        if (g_str_has_prefix(cases[i].name, prefix)) {
            run++;
            failed += !case_run(&cases[i], path);
        }
    }
    g_unlink(path);
    g_unlink(fifo);
    g_rmdir(directory);
    printf("%d hostile images, %d wrong\n", run, failed);
    return failed || !run;
}
