/* SPDX-License-Identifier: MIT */
/*
 * luks: a LUKS volume (version 1) as an image
 *
 *   file   |header, key material|<---- bs->length, encrypted ---->|
 *          0                    payload_offset
 *
 * The header and all cryptography are block/image/encryption's; here is the
 * addition, and what an image format has to answer. Zeros are data like any
 * other: nothing can be said of a range without reading it.
 *
 * Locking: none; the state is constant after open.
 */
#include "drivers/registry.h"

#include "block/backend.h"
#include "block/graph/open.h"
#include "block/image/create.h"
#include "block/image/encryption.h"
#include "block/image/encryption_slots.h"
#include "block/image/measure.h"
#include "block/io/io.h"
#include "block/rt/buffer_pool.h"

#include <errno.h>
#include <inttypes.h>

/* Written at a time where an image grows. */
#define ZEROS_BYTES (1 * MIB)

typedef struct LuksState {
    ImageEncryption *encryption;
    int64_t payload_offset;
} LuksState;

static const BlockOptionDesc luks_options[] = {
    { .name = "key-secret", .type = BLOCK_OPTION_STRING,
      .help = "id of the secret that opens the image (default: --key)" },
    { .name = NULL },
};

/* Any version: a newer one is refused by name, not shown as it is. */
static int luks_probe(const uint8_t *buffer, size_t bytes,
                      const char *filename)
{
    return luks_header_is_luks(buffer, bytes) ? 100 : 0;
}

/* What a file of @file_length shows; a last part of a sector is nobody's. */
static int64_t payload_length(const LuksState *s, int64_t file_length)
{
    return MAX(file_length - s->payload_offset, 0) &
           ~(int64_t)(CRYPTO_SECTOR_BYTES - 1);
}

static bool luks_open(BlockDriverState *bs, BlockOptions *options,
                      BdrvOpenFlags flags, GError **error)
{
    LuksState *s = bs->opaque;
    g_autofree char *secret = NULL;
    ImageEncryptionKey key = {
        .option = "key-secret",
        .is_absent = flags & (BDRV_O_NO_IO | BDRV_O_CHECK),
    };
    int64_t length;

    if (!block_options_take_string(options, "key-secret", &secret, error) ||
        !bdrv_open_file_child(bs, options, error)) {
        return false;
    }
    length = bdrv_node_length(bs->file->bs);
    key.secret = secret;
    s->encryption = image_encryption_open_luks(
        bs->file, /* host_offset= */ 0, length, &key, error);
    if (!s->encryption) {
        return false;
    }
    s->payload_offset = image_encryption_payload_offset(s->encryption);
    bs->encrypted = true;
    bs->length = payload_length(s, length);
    return true;
}

static void luks_close(BlockDriverState *bs)
{
    LuksState *s = bs->opaque;

    g_clear_pointer(&s->encryption, image_encryption_free);
}

static void luks_refresh_limits(BlockDriverState *bs)
{
    bs->limits.request_alignment =
        MAX(bs->limits.request_alignment, IMAGE_ENCRYPTION_ALIGNMENT);
}

/* -- data ----------------------------------------------------------------- */

static int coroutine_fn luks_co_preadv(BlockDriverState *bs, int64_t offset,
                                       int64_t bytes, IoVec *iov,
                                       size_t iov_offset,
                                       BdrvRequestFlags flags)
{
    LuksState *s = bs->opaque;
    int ret = bdrv_co_preadv(bs->file, s->payload_offset + offset, bytes, iov,
                             iov_offset, 0);

    return ret < 0 ? ret
                   : image_encryption_co_decrypt(s->encryption, offset, iov,
                                                 iov_offset, bytes);
}

static int coroutine_fn luks_co_pwritev(BlockDriverState *bs, int64_t offset,
                                        int64_t bytes, IoVec *iov,
                                        size_t iov_offset,
                                        BdrvRequestFlags flags)
{
    LuksState *s = bs->opaque;

    return image_encryption_co_pwritev(s->encryption, bs->file,
                                       s->payload_offset + offset, offset,
                                       bytes, iov, iov_offset, flags);
}

/* What has been added to the file would read as noise. */
static int coroutine_fn write_zeros(BlockDriverState *bs, int64_t offset,
                                    int64_t end)
{
    LuksState *s = bs->opaque;
    void *zeros = buffer_pool_get(ZEROS_BYTES);
    int ret = zeros ? 0 : -ENOMEM;

    for (; offset < end && ret >= 0; offset += ZEROS_BYTES) {
        int64_t bytes = MIN(ZEROS_BYTES, end - offset);
        IoVec vec;

        memset(zeros, 0, bytes);
        iovec_init_buffer(&vec, zeros, bytes);
        ret = image_encryption_co_pwritev(s->encryption, bs->file,
                                          s->payload_offset + offset, offset,
                                          bytes, &vec, 0, 0);
    }
    buffer_pool_put(zeros, ZEROS_BYTES);
    return ret;
}

static int coroutine_fn luks_co_truncate(BlockDriverState *bs, int64_t length,
                                         bool exact, BdrvPreallocMode prealloc,
                                         BdrvRequestFlags flags,
                                         GError **error)
{
    LuksState *s = bs->opaque;
    int64_t old_length = bdrv_node_length(bs);
    int ret;

    if (length > BDRV_MAX_LENGTH - s->payload_offset) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: %" PRId64 " bytes are too long", bdrv_name(bs),
                    length);
        return -EFBIG;
    }
    length = align_up(length, CRYPTO_SECTOR_BYTES);
    ret = bdrv_co_truncate(bs->file, s->payload_offset + length, exact,
                           prealloc, flags, error);
    if (ret < 0) {
        return ret;
    }
    ret = write_zeros(bs, old_length, length);
    if (ret < 0) {
        error_set_errno(error, -ret, "%s: writing zeros from %" PRId64 " on",
                        bdrv_name(bs), old_length);
    }
    return ret;
}

static int64_t coroutine_fn luks_co_getlength(BlockDriverState *bs)
{
    LuksState *s = bs->opaque;
    int64_t length = bdrv_co_getlength(bs->file->bs);

    return length < 0 ? length : payload_length(s, length);
}

static JsonNode *luks_get_specific_info(BlockDriverState *bs)
{
    LuksState *s = bs->opaque;
    g_autoptr(JsonBuilder) builder = json_builder_new();

    json_builder_begin_object(builder);
    image_encryption_add_info(s->encryption, /* format= */ NULL, builder);
    json_builder_end_object(builder);
    return json_builder_get_root(builder);
}

/* -- new images ----------------------------------------------------------- */

/* In the order of BdrvPreallocMode. */
static const char *const prealloc_values[] = { "off", "metadata", "falloc",
                                               "full", NULL };

typedef struct CreateParams {
    LuksParams luks;
    char *secret;
    int prealloc;
} CreateParams;

static bool take_params(BlockOptions *options, CreateParams *params,
                        GError **error)
{
    luks_params_init(&params->luks);
    return image_encryption_take_params(options, "", &params->luks,
                                        &params->secret, error) &&
           block_options_take_enum(options, "preallocation", prealloc_values,
                                   &params->prealloc, error);
}

static bool luks_create_image(BlockBackend *file, int64_t length,
                              BlockOptions *options, GError **error)
{
    CreateParams params = { 0 };
    bool ok = take_params(options, &params, error);
    ImageEncryptionKey key = {
        .secret = params.secret,
        .option = "key-secret",
    };

    /* A guest sees whole sectors. */
    ok = ok &&
         image_create_resize(file,
                             luks_params_header_bytes(&params.luks) +
                                 align_up(length, CRYPTO_SECTOR_BYTES),
                             params.prealloc, error) &&
         image_encryption_create_luks(file, /* host_offset= */ 0, &params.luks,
                                      &key, error);
    g_free(params.secret);
    return ok;
}

static bool luks_measure(BlockBackend *source, int64_t length,
                         BlockOptions *options, BlockMeasure *ret_measure,
                         GError **error)
{
    CreateParams params = { 0 };
    bool ok = take_params(options, &params, error);

    if (ok) {
        ret_measure->required = luks_params_header_bytes(&params.luks) +
                                align_up(length, CRYPTO_SECTOR_BYTES);
        ret_measure->fully_allocated = ret_measure->required;
    }
    g_free(params.secret);
    return ok;
}

static const BlockOptionDesc luks_create_options[] = {
    IMAGE_ENCRYPTION_OPTIONS(""),
    { .name = "preallocation", .type = BLOCK_OPTION_ENUM,
      .help = "off: sparse, falloc: reserved, full: written",
      .default_value = "off", .values = prealloc_values },
    { .name = NULL },
};

static const BlockCreateOps luks_create_ops = {
    .options = luks_create_options,
    .create = luks_create_image,
    .measure = luks_measure,
};

/* -- changing who can open it --------------------------------------------- */

static bool luks_amend(BlockDriverState *bs, BlockOptions *options,
                       const BlockAmendHow *how, GError **error)
{
    LuksState *s = bs->opaque;
    ImageEncryptionSlots slots;
    bool ok = image_encryption_slots_take(options, "", &slots, error);
    const char *unknown = ok ? block_options_first_key(options) : NULL;

    if (unknown) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "option '%s' of format 'luks' cannot be amended",
                    unknown);
        ok = false;
    }
    ok = ok && image_encryption_slots_amend(s->encryption, bs->file, &slots,
                                            how->force, error);
    image_encryption_slots_clear(&slots);
    return ok;
}

static const BlockOptionDesc luks_amend_options[] = {
    IMAGE_ENCRYPTION_AMEND_OPTIONS(""),
    { .name = NULL },
};

static const BlockAmendOps luks_amend_ops = {
    .options = luks_amend_options,
    .amend = luks_amend,
};

const BlockDriver bdrv_luks = {
    .format_name = "luks",
    .instance_size = sizeof(LuksState),
    .is_format = true,
    .options = luks_options,
    .probe = luks_probe,
    .open = luks_open,
    .close = luks_close,
    .refresh_limits = luks_refresh_limits,
    .create = &luks_create_ops,
    .amend = &luks_amend_ops,
    .co_preadv = luks_co_preadv,
    .co_pwritev = luks_co_pwritev,
    .co_truncate = luks_co_truncate,
    .co_getlength = luks_co_getlength,
    .get_specific_info = luks_get_specific_info,
};
