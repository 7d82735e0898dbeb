/* SPDX-License-Identifier: MIT */
/*
 * the header extension that names the directory of bitmaps
 *
 *   [header][extension]...[bitmaps: count, bytes, offset][END][backing name]
 *
 * Whether the extension is believed is said by the autoclear bit in the
 * header's first sector. A medium may tear a write between two sectors, never
 * within one, and so a change is a chain of steps:
 *
 *   another directory   24 bytes in one sector: one write. In two sectors: bit
 *                       off ── the 24 bytes ── bit on
 *   the first bitmap    behind the last extension: data and a new END ── the
 *                       old END becomes the extension's first 8 bytes ── bit
 *                       on. A backing file's name that is in the way is copied
 *                       behind all that before
 *   none any more       bit off ── the extension becomes END if it is last
 *
 * Always true:
 *  X1  after each step and between them the header is whole, and names the old
 *      directory, the new one or none.
 *
 * Locking: commit_lock is the caller's: nobody else writes the header.
 */
#include "drivers/qcow2/bitmaps.h"

#include "block/io/io.h"
#include "drivers/qcow2/qcow2.h"

#include <errno.h>
#include <string.h>

#define SECTOR_BYTES 512
#define EXTENSION_BYTES \
    ((int64_t)(sizeof(Qcow2RawExtension) + sizeof(Qcow2RawBitmapsExtension)))

/* Positions in the first cluster. */
typedef struct Layout {
    uint8_t *cluster;
    int64_t bytes;     /* of the cluster */
    int64_t extension; /* of the bitmaps, 0: there is none */
    int64_t extension_length;
    int64_t end;       /* END, or where it would be */
    int64_t name;      /* of the backing file, 0: none */
    int64_t name_bytes;
} Layout;

/* The header was checked when it was opened. */
static void scan(const Qcow2State *q, Layout *layout)
{
    const Qcow2RawHeader *raw = (const Qcow2RawHeader *)layout->cluster;
    int64_t limit;

    layout->name = (int64_t)be64_get(&raw->backing_file_offset);
    layout->name_bytes = be32_get(&raw->backing_file_size);
    limit = layout->name ? layout->name : layout->bytes;
    layout->end = q->header.header_length;
    while (limit - layout->end >= (int64_t)sizeof(Qcow2RawExtension)) {
        const Qcow2RawExtension *extension =
            (const Qcow2RawExtension *)(layout->cluster + layout->end);
        uint32_t type = be32_get(&extension->type);
        int64_t length = be32_get(&extension->length);
        int64_t data = layout->end + (int64_t)sizeof(*extension);

        if (type == QCOW2_EXTENSION_END || length > limit - data) {
            return;
        }
        if (type == QCOW2_EXTENSION_BITMAPS) {
            layout->extension = layout->end;
            layout->extension_length = length;
        }
        layout->end = data + align_up(length, 8);
    }
}

static int coroutine_fn read_layout(BlockDriverState *bs, Layout *layout)
{
    Qcow2State *q = qcow2_state(bs);
    int ret;

    layout->bytes = q->cluster_bytes;
    layout->cluster = g_malloc0(layout->bytes);
    ret = bdrv_co_pread(bs->file, 0,
                        MIN(layout->bytes, qcow2_file_length(q)),
                        layout->cluster, 0);
    if (ret >= 0) {
        scan(q, layout);
    }
    return ret;
}

static int coroutine_fn write_flush(BlockDriverState *bs, int64_t at,
                                    int64_t bytes, const void *data)
{
    int ret = bdrv_co_pwrite(bs->file, at, bytes, data, 0);

    return ret < 0 ? ret : bdrv_co_flush(bs->file->bs);
}

/* The bit on or off; unknown bits go, because we do not keep them up. */
static int coroutine_fn set_bit(BlockDriverState *bs, bool on)
{
    Qcow2Header *header = &qcow2_state(bs)->header;
    uint64_t autoclear = header->autoclear & QCOW2_KNOWN_AUTOCLEAR;
    int ret;

    autoclear = on ? autoclear | QCOW2_AUTOCLEAR_BITMAPS
                   : autoclear & ~(uint64_t)QCOW2_AUTOCLEAR_BITMAPS;
    if (autoclear == header->autoclear) {
        return 0;
    }
    ret = qcow2_header_co_write_features(bs, header->incompatible,
                                         header->compatible, autoclear);
    if (ret >= 0) {
        header->autoclear = autoclear;
    }
    return ret;
}

/* The last step. If it fails the bit must be off, or nobody knows. */
static int coroutine_fn switch_on(BlockDriverState *bs)
{
    Qcow2Header *header = &qcow2_state(bs)->header;
    uint64_t off = header->autoclear & ~(uint64_t)QCOW2_AUTOCLEAR_BITMAPS;
    int ret = set_bit(bs, /* on= */ true);

    if (ret < 0) {
        if (qcow2_header_co_write_features(bs, header->incompatible,
                                           header->compatible, off) < 0) {
            return -ENOTRECOVERABLE;
        }
        header->autoclear = off;
    }
    return ret;
}

/* A backing file's name in [.., @end) gets another place. */
static int coroutine_fn move_name(BlockDriverState *bs, Layout *layout,
                                  int64_t end)
{
    int64_t place = align_up(MAX(end, layout->name + layout->name_bytes), 8);
    Qcow2RawHeader raw;
    int ret;

    if (layout->name == 0 || layout->name >= end) {
        return 0;
    }
    if (layout->name_bytes > layout->bytes - place) {
        return -ENOSPC;
    }
    ret = write_flush(bs, place, layout->name_bytes,
                      layout->cluster + layout->name);
    if (ret >= 0) {
        be64_set(&raw.backing_file_offset, (uint64_t)place);
        ret = write_flush(bs, offsetof(Qcow2RawHeader, backing_file_offset), 8,
                          &raw.backing_file_offset);
    }
    return ret;
}

/* A first extension: see the opening comment. */
static int coroutine_fn append(BlockDriverState *bs, Layout *layout,
                               const Qcow2RawBitmapsExtension *data)
{
    struct {
        Qcow2RawBitmapsExtension data;
        Qcow2RawExtension end;
    } __attribute__((packed)) behind = { .data = *data };
    Qcow2RawExtension first;
    int64_t end = layout->end + (int64_t)(sizeof(first) + sizeof(behind));
    int ret;

    if (end > layout->bytes) {
        return -ENOSPC;
    }
    ret = move_name(bs, layout, end);
    if (ret >= 0) {
        ret = write_flush(bs, layout->end + (int64_t)sizeof(first),
                          sizeof(behind), &behind);
    }
    if (ret >= 0) {
        be32_set(&first.type, QCOW2_EXTENSION_BITMAPS);
        be32_set(&first.length, sizeof(*data));
        ret = write_flush(bs, layout->end, sizeof(first), &first);
    }
    return ret < 0 ? ret : switch_on(bs);
}

static int coroutine_fn replace(BlockDriverState *bs, const Layout *layout,
                                const Qcow2RawBitmapsExtension *data)
{
    Qcow2State *q = qcow2_state(bs);
    int64_t at = layout->extension + (int64_t)sizeof(Qcow2RawExtension);
    bool in_one_sector = at / SECTOR_BYTES ==
                         (at + (int64_t)sizeof(*data) - 1) / SECTOR_BYTES;
    uint8_t old[sizeof(*data)];
    int ret = 0;

    if (layout->extension_length != sizeof(*data)) {
        return -EUCLEAN; /* a stale one that is none of ours */
    }
    memcpy(old, layout->cluster + at, sizeof(old));
    if (!in_one_sector) {
        ret = set_bit(bs, /* on= */ false);
    }
    if (ret >= 0) {
        ret = write_flush(bs, at, sizeof(*data), data);
    }
    if (ret < 0) {
        /* Whatever arrived must not be believed: the old one again. */
        return !(q->header.autoclear & QCOW2_AUTOCLEAR_BITMAPS) ||
                       write_flush(bs, at, sizeof(old), old) >= 0
                   ? ret : -ENOTRECOVERABLE;
    }
    return switch_on(bs);
}

static int coroutine_fn drop(BlockDriverState *bs, const Layout *layout)
{
    static const Qcow2RawExtension end; /* type 0, length 0 */
    int ret = set_bit(bs, /* on= */ false);

    if (ret >= 0 && layout->extension &&
        layout->extension + EXTENSION_BYTES == layout->end) {
        /* Without the bit nobody looks at it: no matter if this fails. */
        (void) write_flush(bs, layout->extension, sizeof(end), &end);
    }
    return ret;
}

int coroutine_fn qcow2_bitmap_extension_co_write(BlockDriverState *bs,
                                                 uint32_t count,
                                                 int64_t bytes,
                                                 int64_t host_offset)
{
    Qcow2Header *header = &qcow2_state(bs)->header;
    Qcow2RawBitmapsExtension raw = { 0 };
    Layout layout = { NULL };
    int ret = read_layout(bs, &layout);

    be32_set(&raw.nb_bitmaps, count);
    be64_set(&raw.directory_size, (uint64_t)bytes);
    be64_set(&raw.directory_offset, (uint64_t)host_offset);
    if (ret >= 0) {
        ret = count == 0 ? drop(bs, &layout)
              : layout.extension ? replace(bs, &layout, &raw)
                                 : append(bs, &layout, &raw);
    }
    g_free(layout.cluster);
    if (ret >= 0) {
        header->has_bitmaps = count > 0;
        header->bitmaps = count;
        header->bitmap_directory_bytes = bytes;
        header->bitmap_directory_offset = host_offset;
    }
    return ret;
}
