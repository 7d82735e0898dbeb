/* SPDX-License-Identifier: MIT */
/*
 * what a qcow2 image says of itself: facts for `info` and `stats`
 *
 * Names, values and their order are those of other image tools, so that what
 * reads their output reads ours.
 *
 * Locking: control plane. The header changes there only; what the caches hold
 * is asked under q->lock.
 */
#include "drivers/qcow2/bitmaps.h"
#include "drivers/qcow2/crypto.h"
#include "drivers/qcow2/qcow2.h"

#include "block/rt/aio_context.h"

bool qcow2_get_info(BlockDriverState *bs, BlockDriverInfo *info)
{
    const Qcow2State *q = qcow2_state(bs);
    const Qcow2Header *header = &q->header;

    info->cluster_bytes = q->cluster_bytes;
    info->subcluster_bytes = q->subcluster_bytes;
    info->vm_state_offset = header->l1_entries
                            << (q->cluster_bits + q->l2_bits);
    info->is_dirty = header->incompatible & QCOW2_INCOMPAT_DIRTY;
    info->is_corrupt = header->incompatible & QCOW2_INCOMPAT_CORRUPT;
    return true;
}

static void add_bitmaps(JsonBuilder *builder, BlockDriverState *bs)
{
    const GPtrArray *bitmaps = qcow2_state(bs)->bitmaps;

    if (!bitmaps || bitmaps->len == 0) {
        return;
    }
    json_builder_set_member_name(builder, "bitmaps");
    json_builder_begin_array(builder);
    for (guint i = 0; i < bitmaps->len; i++) {
        const Qcow2Bitmap *bitmap = g_ptr_array_index(bitmaps, i);
        uint32_t flags = __atomic_load_n(&bitmap->flags, __ATOMIC_RELAXED);
        g_autofree char *name = g_utf8_make_valid(bitmap->info.name, -1);

        json_builder_begin_object(builder);
        json_builder_set_member_name(builder, "flags");
        json_builder_begin_array(builder);
        if (flags & QCOW2_BITMAP_IN_USE) {
            json_builder_add_string_value(builder, "in-use");
        }
        if (flags & QCOW2_BITMAP_AUTO) {
            json_builder_add_string_value(builder, "auto");
        }
        json_builder_end_array(builder);
        json_builder_set_member_name(builder, "name");
        json_builder_add_string_value(builder, name);
        json_builder_set_member_name(builder, "granularity");
        json_builder_add_int_value(builder, bitmap->info.granularity);
        json_builder_end_object(builder);
    }
    json_builder_end_array(builder);
}

static void add_flag(JsonBuilder *builder, const char *name, bool value)
{
    json_builder_set_member_name(builder, name);
    json_builder_add_boolean_value(builder, value);
}

static void add_data_file(JsonBuilder *builder, const Qcow2Header *header)
{
    if (!(header->incompatible & QCOW2_INCOMPAT_DATA_FILE)) {
        return;
    }
    if (header->data_file) {
        g_autofree char *name = g_utf8_make_valid(header->data_file, -1);

        json_builder_set_member_name(builder, "data-file");
        json_builder_add_string_value(builder, name);
    }
    add_flag(builder, "data-file-raw",
             header->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW);
}

/* Names, values and their order as image tools print them. */
JsonNode *qcow2_get_specific_info(BlockDriverState *bs)
{
    const Qcow2Header *header = &qcow2_state(bs)->header;
    g_autoptr(JsonBuilder) builder = json_builder_new();

    json_builder_begin_object(builder);
    json_builder_set_member_name(builder, "compat");
    json_builder_add_string_value(builder,
                                  header->version < 3 ? "0.10" : "1.1");
    json_builder_set_member_name(builder, "compression-type");
    json_builder_add_string_value(
        builder, header->compression_type ? "zstd" : "zlib");
    if (header->version >= 3) {
        add_flag(builder, "lazy-refcounts",
                 header->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS);
    }
    add_bitmaps(builder, bs);
    json_builder_set_member_name(builder, "refcount-bits");
    json_builder_add_int_value(builder, 1 << header->refcount_order);
    qcow2_crypto_add_info(bs, builder);
    add_data_file(builder, header);
    if (header->version >= 3) {
        add_flag(builder, "corrupt",
                 header->incompatible & QCOW2_INCOMPAT_CORRUPT);
        add_flag(builder, "extended-l2",
                 header->incompatible & QCOW2_INCOMPAT_EXTENDED_L2);
    }
    json_builder_end_object(builder);
    return json_builder_get_root(builder);
}

/* The number of L2 slices in memory, asked under the lock. */
typedef struct SliceCount {
    Qcow2State *q;
    guint slices;
} SliceCount;

static void coroutine_fn count_slices(void *opaque)
{
    SliceCount *count = opaque;

    co_mutex_lock(&count->q->lock);
    if (count->q->l2.slices) { /* the image could be read */
        count->slices = count->q->l2.slices->len;
    }
    co_mutex_unlock(&count->q->lock);
}

JsonNode *qcow2_get_cache_figures(BlockDriverState *bs)
{
    Qcow2State *q = qcow2_state(bs);
    SliceCount count = { .q = q };
    g_autoptr(JsonBuilder) builder = json_builder_new();

    aio_run_sync(count_slices, &count);
    json_builder_begin_object(builder);
    json_builder_set_member_name(builder, "l2-slice-bytes");
    json_builder_add_int_value(
        builder, (gint64)sizeof(uint64_t) << q->l2.slice_bits);
    json_builder_set_member_name(builder, "l2-slices");
    json_builder_add_int_value(builder, count.slices);
    json_builder_set_member_name(builder, "l2-slices-max");
    json_builder_add_int_value(builder, q->l2.slice_limit);
    json_builder_end_object(builder);
    return json_builder_get_root(builder);
}
