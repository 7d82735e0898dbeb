/* SPDX-License-Identifier: MIT */
/*
 * encryption of a qcow2 image's guest data: opening and making
 *
 * What is done to the data is data_io.c's; how, block/image/encryption's.
 *
 * Locking: none; control plane.
 */
#include "drivers/qcow2/crypto.h"

#include <string.h>

#define KEY_OPTION "encrypt.key-secret"

/* In the order of Qcow2Crypt, from AES on. */
static const char *const format_names[] = { "aes", "luks", NULL };

static bool take_options(const Qcow2State *q, BlockOptions *options,
                         char **ret_secret, GError **error)
{
    int method = (int)q->header.crypt_method - 1;
    int format = method;

    if (!block_options_take_enum(options, "encrypt.format", format_names,
                                 &format, error) ||
        !block_options_take_string(options, KEY_OPTION, ret_secret, error)) {
        return false;
    }
    if (format != method || (method < 0 && *ret_secret)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "the image %s%s, other than its encrypt options say",
                    method < 0 ? "is not encrypted" : "is encrypted by ",
                    method < 0 ? "" : format_names[method]);
        return false;
    }
    return true;
}

bool qcow2_crypto_open(BlockDriverState *bs, BlockOptions *options,
                       BdrvOpenFlags flags, GError **error)
{
    Qcow2State *q = qcow2_state(bs);
    const Qcow2Header *header = &q->header;
    g_autofree char *secret = NULL;
    ImageEncryptionKey key = {
        .option = KEY_OPTION,
        .is_absent = flags & (BDRV_O_NO_IO | BDRV_O_CHECK),
    };

    if (!take_options(q, options, &secret, error)) {
        return false;
    }
    key.secret = secret;
    if (header->crypt_method == QCOW2_CRYPT_LUKS) {
        q->encryption = image_encryption_open_luks(
            bs->file, header->crypto_offset, header->crypto_bytes, &key,
            error);
    } else if (header->crypt_method == QCOW2_CRYPT_AES) {
        q->encryption = image_encryption_open_aes(&key, error);
    }
    bs->encrypted = qcow2_is_encrypted(q);
    return !bs->encrypted || q->encryption;
}

void qcow2_crypto_close(BlockDriverState *bs)
{
    g_clear_pointer(&qcow2_state(bs)->encryption, image_encryption_free);
}

void qcow2_crypto_add_info(BlockDriverState *bs, JsonBuilder *builder)
{
    const Qcow2State *q = qcow2_state(bs);

    if (q->encryption) {
        json_builder_set_member_name(builder, "encrypt");
        json_builder_begin_object(builder);
        image_encryption_add_info(q->encryption,
                                  format_names[q->header.crypt_method - 1],
                                  builder);
        json_builder_end_object(builder);
    }
}

/* -- new images ----------------------------------------------------------- */

/* `encryption=on` is how old programs say encrypt.format=aes. */
static bool take_method(BlockOptions *options, Qcow2Crypt *ret_method,
                        GError **error)
{
    bool old_style = false;
    int format = -1;

    if (!block_options_take_bool(options, "encryption", &old_style, error) ||
        !block_options_take_enum(options, "encrypt.format", format_names,
                                 &format, error)) {
        return false;
    }
    if (old_style && format >= 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "encryption and encrypt.format exclude each other");
        return false;
    }
    *ret_method = old_style ? QCOW2_CRYPT_AES : (Qcow2Crypt)(format + 1);
    return true;
}

bool qcow2_crypto_take_params(BlockOptions *options,
                              Qcow2CryptoParams *ret_params, GError **error)
{
    luks_params_init(&ret_params->luks);
    if (!take_method(options, &ret_params->method, error)) {
        return false;
    }
    if (ret_params->method == QCOW2_CRYPT_NONE) {
        return true; /* other options of encryption are left, and reported */
    }
    if (ret_params->method == QCOW2_CRYPT_AES) {
        return block_options_take_string(options, KEY_OPTION,
                                         &ret_params->secret, error);
    }
    return image_encryption_take_params(options, "encrypt.",
                                        &ret_params->luks,
                                        &ret_params->secret, error);
}

void qcow2_crypto_params_clear(Qcow2CryptoParams *params)
{
    g_clear_pointer(&params->secret, g_free);
}

int64_t qcow2_crypto_header_bytes(const Qcow2CryptoParams *params)
{
    return params->method == QCOW2_CRYPT_LUKS
               ? luks_params_header_bytes(&params->luks) : 0;
}

bool qcow2_crypto_create(BlockBackend *file, int64_t host_offset,
                         const Qcow2CryptoParams *params, GError **error)
{
    ImageEncryptionKey key = {
        .secret = params->secret,
        .option = KEY_OPTION,
    };

    switch (params->method) {
    case QCOW2_CRYPT_LUKS:
        return image_encryption_create_luks(file, host_offset, &params->luks,
                                            &key, error);
    case QCOW2_CRYPT_AES:
        g_warning("encrypt.format=aes is weak, and here for old programs "
                  "only; use encrypt.format=luks");
        return secret_find(key.secret, key.option, error) != NULL;
    case QCOW2_CRYPT_NONE:
        break;
    }
    return true;
}
