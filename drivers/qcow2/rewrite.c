/* SPDX-License-Identifier: MIT */
/*
 * the first cluster of a qcow2 image, written anew
 *
 *   [header][extensions ... END][backing file name][zeros]
 *    fields  ours anew, others
 *    set     as they were
 *
 * Everything of variable length hangs off the first cluster: it is built in
 * memory and written at once, between two flushes. A crash leaves the old or
 * the new one, as far as the medium writes a cluster as a whole; what differs
 * is in its first sectors.
 *
 * Locking: control plane, node drained: nobody else writes the header.
 */
#include "drivers/qcow2/rewrite.h"

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

Qcow2Header qcow2_header_copy(const Qcow2Header *header)
{
    Qcow2Header copy = *header;

    copy.backing_name = g_strdup(header->backing_name);
    copy.backing_format = g_strdup(header->backing_format);
    copy.data_file = g_strdup(header->data_file);
    return copy;
}

/* Do we write this extension ourselves, or does @version not have it? */
static bool is_left_out(uint32_t type, unsigned version)
{
    switch (type) {
    case QCOW2_EXTENSION_BACKING_FORMAT:
    case QCOW2_EXTENSION_DATA_FILE:
        return true;
    case QCOW2_EXTENSION_FEATURE_NAMES:
    case QCOW2_EXTENSION_BITMAPS:
        return version < 3;
    default:
        return false;
    }
}

static bool copy_extensions(Builder *builder, const uint8_t *old,
                            int64_t offset, int64_t end, unsigned version)
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
        if (!is_left_out(type, version) &&
            !append_extension(builder, type, old + offset, length)) {
            return false;
        }
        offset += align_up(length, 8);
    }
    return true;
}

/* An extension with a text; none is fine. */
static bool append_text(Builder *builder, uint32_t type, const char *text)
{
    return !text || append_extension(builder, type, text, strlen(text));
}

/* The fixed fields: those of @old, then what @wanted says. */
static bool append_fields(Builder *builder, const Qcow2State *q,
                          const uint8_t *old, const Qcow2Header *wanted)
{
    static const uint8_t zeros[sizeof(Qcow2RawHeader)];
    Qcow2RawHeader *raw = (Qcow2RawHeader *)builder->cluster;
    int64_t kept = q->header.header_length;

    if (wanted->version < 3) {
        kept = QCOW2_HEADER_V2_BYTES;
    }
    if (!append(builder, old, kept, 8) ||
        (wanted->version >= 3 && kept < (int64_t)sizeof(*raw) &&
         !append(builder, zeros, (int64_t)sizeof(*raw) - kept, 8))) {
        return false;
    }
    be32_set(&raw->version, wanted->version);
    if (wanted->version >= 3) {
        be64_set(&raw->incompatible_features, wanted->incompatible);
        be64_set(&raw->compatible_features, wanted->compatible);
        be64_set(&raw->autoclear_features, wanted->autoclear);
        be32_set(&raw->refcount_order, wanted->refcount_order);
        be32_set(&raw->header_length, builder->bytes);
    }
    return true;
}

/* @old, a cluster, as @wanted, in @builder. False: no room. */
static bool build(const Qcow2State *q, const uint8_t *old,
                  const Qcow2Header *wanted, Builder *builder)
{
    const Qcow2RawHeader *raw = (const Qcow2RawHeader *)old;
    Qcow2RawHeader *new_raw = (Qcow2RawHeader *)builder->cluster;
    int64_t name_offset = (int64_t)be64_get(&raw->backing_file_offset);
    const char *name = wanted->backing_name;
    int64_t name_bytes = name ? (int64_t)strlen(name) : 0;
    /* Both were checked against the cluster when the image was opened. */
    int64_t end = name_offset ? name_offset : q->cluster_bytes;

    if (!append_fields(builder, q, old, wanted) ||
        (name && !append_text(builder, QCOW2_EXTENSION_BACKING_FORMAT,
                              wanted->backing_format)) ||
        !append_text(builder, QCOW2_EXTENSION_DATA_FILE, wanted->data_file) ||
        !copy_extensions(builder, old, q->header.header_length, end,
                         wanted->version) ||
        !append_extension(builder, QCOW2_EXTENSION_END, NULL, 0)) {
        return false;
    }
    be64_set(&new_raw->backing_file_offset, name ? builder->bytes : 0);
    be32_set(&new_raw->backing_file_size, name_bytes);
    return append(builder, name, name_bytes, 1);
}

static int read_cluster(BlockDriverState *bs, uint8_t *cluster)
{
    Qcow2State *q = qcow2_state(bs);

    return bdrv_pread(bs->file, 0,
                      MIN(q->cluster_bytes, qcow2_file_length(q)), cluster);
}

bool qcow2_header_has_room(BlockDriverState *bs, const Qcow2Header *wanted)
{
    Qcow2State *q = qcow2_state(bs);
    g_autofree uint8_t *old = g_malloc0(q->cluster_bytes);
    g_autofree uint8_t *cluster = g_malloc0(q->cluster_bytes);
    Builder builder = { cluster, 0, q->cluster_bytes };

    return read_cluster(bs, old) == 0 && build(q, old, wanted, &builder);
}

/* Memory follows; @wanted may point into what goes. */
static void remember(BlockDriverState *bs, const Qcow2Header *wanted,
                     int64_t header_length)
{
    Qcow2Header *header = &qcow2_state(bs)->header;
    Qcow2Header copy = qcow2_header_copy(wanted);

    copy.header_length = header_length;
    if (!copy.backing_name) {
        g_clear_pointer(&copy.backing_format, g_free);
    }
    qcow2_header_clear(header);
    *header = copy;
    g_free(bs->backing_name);
    g_free(bs->backing_format);
    bs->backing_name = g_strdup(header->backing_name);
    bs->backing_format = g_strdup(header->backing_format);
}

bool qcow2_header_rewrite(BlockDriverState *bs, const Qcow2Header *wanted,
                          GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    g_autofree uint8_t *old = g_malloc0(q->cluster_bytes);
    g_autofree uint8_t *cluster = g_malloc0(q->cluster_bytes);
    Builder builder = { cluster, 0, q->cluster_bytes };
    const char *name = wanted->backing_name;
    int ret = read_cluster(bs, old);

    if (ret == 0 && ((name && strlen(name) > QCOW2_BACKING_NAME_MAX) ||
                     !build(q, old, wanted, &builder))) {
        ret = -ENAMETOOLONG;
    }
    if (ret == 0) {
        ret = bdrv_pwrite(bs->file, 0, q->cluster_bytes, cluster);
    }
    if (ret == 0) {
        ret = bdrv_flush(bs->file->bs);
    }
    if (ret < 0) {
        error_set_errno(error, -ret, "writing the header anew");
        return false;
    }
    remember(bs, wanted,
             wanted->version < 3
                 ? QCOW2_HEADER_V2_BYTES
                 : (int64_t)be32_get(
                       &((Qcow2RawHeader *)cluster)->header_length));
    return true;
}
