/* SPDX-License-Identifier: MIT */
/*
 * the backing file's name in a qcow2 header changes
 *
 *   [header][extensions ... END][backing file name][zeros]
 *    kept    kept but for        new
 *            the format
 *
 * Everything hangs off the first cluster: it is built anew in memory and
 * written at once, between two flushes. A crash leaves the old or the new
 * name, as far as the medium writes a cluster as a whole.
 *
 * Locking: control plane, node drained: nobody else writes the header.
 */
#include "drivers/qcow2/qcow2.h"

#include "block/io/io.h"

#include <errno.h>
#include <string.h>

/* The first cluster while it is put together. */
typedef struct Builder {
    uint8_t *cluster;
    int64_t bytes; /* of it that are used */
    int64_t limit;
} Builder;

static bool append(Builder *builder, const void *data, int64_t bytes,
                   int64_t alignment)
{
    int64_t end = builder->bytes + bytes;

    if (bytes > builder->limit || align_up(end, alignment) > builder->limit) {
        return false;
    }
    if (bytes > 0) {
        memcpy(builder->cluster + builder->bytes, data, bytes);
    }
    builder->bytes = align_up(end, alignment);
    return true;
}

static bool append_extension(Builder *builder, uint32_t type,
                             const void *data, uint32_t bytes)
{
    Qcow2RawExtension raw;

    be32_set(&raw.type, type);
    be32_set(&raw.length, bytes);
    return append(builder, &raw, sizeof(raw), 8) &&
           append(builder, data, bytes, 8);
}

/* The extensions of @old but for the backing file's format. */
static bool copy_extensions(Builder *builder, const uint8_t *old,
                            int64_t offset, int64_t end)
{
    while (end - offset >= (int64_t)sizeof(Qcow2RawExtension)) {
        const Qcow2RawExtension *raw =
            (const Qcow2RawExtension *)(old + offset);
        uint32_t type = be32_get(&raw->type);
        int64_t length = be32_get(&raw->length);

        offset += sizeof(*raw);
        if (type == QCOW2_EXTENSION_END || length > end - offset) {
            return true;
        }
        if (type != QCOW2_EXTENSION_BACKING_FORMAT &&
            !append_extension(builder, type, old + offset, length)) {
            return false;
        }
        offset += align_up(length, 8);
    }
    return true;
}

/* @old, a cluster, with the new name, in @builder. False: no room. */
static bool build(const Qcow2State *q, const uint8_t *old, const char *name,
                  const char *format, Builder *builder)
{
    const Qcow2RawHeader *raw = (const Qcow2RawHeader *)old;
    Qcow2RawHeader *new_raw = (Qcow2RawHeader *)builder->cluster;
    int64_t name_offset = (int64_t)be64_get(&raw->backing_file_offset);
    int64_t header_length = q->header.header_length;
    int64_t name_bytes = name ? (int64_t)strlen(name) : 0;
    /* Both were checked against the cluster when the image was opened. */
    int64_t end = name_offset ? name_offset : q->cluster_bytes;

    if (!append(builder, old, header_length, 8) ||
        !copy_extensions(builder, old, header_length, end) ||
        (name && format &&
         !append_extension(builder, QCOW2_EXTENSION_BACKING_FORMAT, format,
                           strlen(format))) ||
        !append_extension(builder, QCOW2_EXTENSION_END, NULL, 0)) {
        return false;
    }
    be64_set(&new_raw->backing_file_offset, name ? builder->bytes : 0);
    be32_set(&new_raw->backing_file_size, name_bytes);
    if (q->header.version >= 3) {
        /* What a writer does not understand it must clear. */
        be64_set(&new_raw->autoclear_features,
                 q->header.autoclear & QCOW2_AUTOCLEAR_BITMAPS);
    }
    return append(builder, name, name_bytes, 1);
}

static int write_cluster(BlockDriverState *bs, const uint8_t *cluster)
{
    int ret = bdrv_pwrite(bs->file, 0, qcow2_state(bs)->cluster_bytes,
                          cluster);

    return ret < 0 ? ret : bdrv_flush(bs->file->bs);
}

static void remember(BlockDriverState *bs, const char *name,
                     const char *format)
{
    Qcow2Header *header = &qcow2_state(bs)->header;
    char *new_name = g_strdup(name);
    char *new_format = g_strdup(name ? format : NULL);

    /* @name may be one of those that go. */
    g_free(header->backing_name);
    g_free(header->backing_format);
    g_free(bs->backing_name);
    g_free(bs->backing_format);
    header->backing_name = new_name;
    header->backing_format = new_format;
    bs->backing_name = g_strdup(new_name);
    bs->backing_format = g_strdup(new_format);
    if (header->version >= 3) {
        header->autoclear &= QCOW2_AUTOCLEAR_BITMAPS;
    }
}

bool qcow2_change_backing_file(BlockDriverState *bs, const char *name,
                               const char *format, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    g_autofree uint8_t *old = g_malloc0(q->cluster_bytes);
    g_autofree uint8_t *cluster = g_malloc0(q->cluster_bytes);
    Builder builder = { cluster, 0, q->cluster_bytes };
    int ret = bs->read_only ? -EROFS : bdrv_flush(bs);

    if (ret == 0) {
        ret = bdrv_pread(bs->file, 0,
                         MIN(q->cluster_bytes, qcow2_file_length(q)), old);
    }
    if (ret == 0 && ((name && strlen(name) > QCOW2_BACKING_NAME_MAX) ||
                     !build(q, old, name, format, &builder))) {
        ret = -ENAMETOOLONG;
    }
    if (ret == 0) {
        ret = write_cluster(bs, cluster);
    }
    if (ret < 0) {
        error_set_errno(error, -ret, "%s: changing the backing file's name "
                        "to '%s'", bdrv_name(bs), name ? name : "");
        return false;
    }
    remember(bs, name, format);
    return true;
}
