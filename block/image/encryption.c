/* SPDX-License-Identifier: MIT */
/*
 * encrypted image formats: what their drivers share
 *
 * Here block/crypto, which knows no images, meets nodes and requests. Reads
 * are decrypted where they are; writes are encrypted into a buffer, a piece at
 * a time, because the writer's memory is not ours to change.
 *
 * Locking: none. An ImageEncryption is constant after opening; its cipher
 * looks after itself (block/crypto/sector_cipher.h).
 */
#include "block/image/encryption_internal.h"

#include "block/backend.h"
#include "block/image/create.h"
#include "block/io/io.h"
#include "block/rt/buffer_pool.h"
#include "block/rt/thread_pool.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* What one buffer of a write holds. */
#define WRITE_PIECE_BYTES (1 * MIB)

/* From here on a worker does it: some 50 us of AES, a millisecond of others. */
#define WORKER_BYTES (128 * KIB)

#define AES_PASSPHRASE_BYTES 16

/* -- opening -------------------------------------------------------------- */

static bool area_read(void *opaque, int64_t offset, int64_t bytes,
                      void *buffer, GError **error)
{
    const ImageEncryptionPlace *place = opaque;
    int64_t host_offset = place->host_offset + offset;
    int ret = place->file
                  ? bdrv_pread(place->file, host_offset, bytes, buffer)
                  : blk_pread(place->blk, host_offset, bytes, buffer);

    if (ret < 0) {
        error_set_errno(error, -ret, "reading %" PRId64 " bytes of the LUKS "
                        "header at 0x%" PRIx64, bytes, host_offset);
    }
    return ret >= 0;
}

static bool area_write(void *opaque, int64_t offset, int64_t bytes,
                       const void *buffer, GError **error)
{
    const ImageEncryptionPlace *place = opaque;
    int64_t host_offset = place->host_offset + offset;
    int ret;

    if (!place->file) {
        return image_create_write(place->blk, host_offset, bytes, buffer,
                                  error);
    }
    ret = bdrv_pwrite(place->file, host_offset, bytes, buffer);
    if (ret >= 0) {
        ret = bdrv_flush(place->file->bs);
    }
    if (ret < 0) {
        error_set_errno(error, -ret, "writing %" PRId64 " bytes of the LUKS "
                        "header at 0x%" PRIx64, bytes, host_offset);
    }
    return ret >= 0;
}

LuksArea image_encryption_area(ImageEncryptionPlace *place, int64_t bytes)
{
    return (LuksArea){ area_read, area_write, place, bytes };
}

static bool unlock(ImageEncryption *encryption, const LuksArea *area,
                   const ImageEncryptionKey *key, GError **error)
{
    const Secret *secret = secret_find(key->secret, key->option, error);
    uint8_t volume_key[CRYPTO_KEY_MAX];
    int slot;

    if (!secret || !luks_unlock(area, &encryption->luks, secret, volume_key,
                                &slot, error)) {
        return false;
    }
    encryption->cipher =
        sector_cipher_new(&encryption->luks.spec, volume_key, error);
    explicit_bzero(volume_key, sizeof(volume_key));
    return encryption->cipher != NULL;
}

ImageEncryption *image_encryption_open_luks(BdrvChild *file,
                                            int64_t host_offset, int64_t bytes,
                                            const ImageEncryptionKey *key,
                                            GError **error)
{
    g_autoptr(ImageEncryption) encryption = g_new0(ImageEncryption, 1);
    ImageEncryptionPlace place = { .file = file, .host_offset = host_offset };
    LuksArea area = image_encryption_area(&place, bytes);

    encryption->is_luks = true;
    encryption->host_offset = host_offset;
    encryption->area_bytes = bytes;
    encryption->secret = g_strdup(key->secret);
    if (!luks_load(&area, &encryption->luks, error) ||
        (!key->is_absent && !unlock(encryption, &area, key, error))) {
        return NULL;
    }
    return g_steal_pointer(&encryption);
}

ImageEncryption *image_encryption_open_aes(const ImageEncryptionKey *key,
                                           GError **error)
{
    g_autoptr(ImageEncryption) encryption = g_new0(ImageEncryption, 1);
    CipherSpec spec = {
        .cipher = crypto_cipher_find("aes-128"),
        .mode = CRYPTO_MODE_CBC,
        .ivgen = CRYPTO_IVGEN_PLAIN64,
    };
    uint8_t aes_key[AES_PASSPHRASE_BYTES] = { 0 };
    const Secret *secret;

    if (key->is_absent) {
        return g_steal_pointer(&encryption);
    }
    secret = secret_find(key->secret, key->option, error);
    if (!secret) {
        return NULL;
    }
    memcpy(aes_key, secret->data, MIN(secret->bytes, sizeof(aes_key)));
    encryption->cipher = sector_cipher_new(&spec, aes_key, error);
    explicit_bzero(aes_key, sizeof(aes_key));
    return encryption->cipher ? g_steal_pointer(&encryption) : NULL;
}

void image_encryption_free(ImageEncryption *encryption)
{
    if (encryption) {
        sector_cipher_free(encryption->cipher);
        g_free(encryption->secret);
        g_free(encryption);
    }
}

/* -- facts ---------------------------------------------------------------- */

int64_t image_encryption_payload_offset(const ImageEncryption *encryption)
{
    return encryption->luks.payload_offset;
}

static void add_string(JsonBuilder *builder, const char *name,
                       const char *text)
{
    json_builder_set_member_name(builder, name);
    json_builder_add_string_value(builder, text);
}

static void add_int(JsonBuilder *builder, const char *name, int64_t value)
{
    json_builder_set_member_name(builder, name);
    json_builder_add_int_value(builder, value);
}

static void add_slots(const LuksHeader *header, JsonBuilder *builder)
{
    json_builder_set_member_name(builder, "slots");
    json_builder_begin_array(builder);
    for (int i = 0; i < LUKS_SLOTS; i++) {
        const LuksSlot *slot = &header->slots[i];

        json_builder_begin_object(builder);
        json_builder_set_member_name(builder, "active");
        json_builder_add_boolean_value(builder, slot->is_active);
        if (slot->is_active) {
            add_int(builder, "iters", slot->iterations);
        }
        add_int(builder, "key-offset", slot->key_offset);
        if (slot->is_active) {
            add_int(builder, "stripes", LUKS_STRIPES);
        }
        json_builder_end_object(builder);
    }
    json_builder_end_array(builder);
}

void image_encryption_add_info(const ImageEncryption *encryption,
                               const char *format, JsonBuilder *builder)
{
    const LuksHeader *header = &encryption->luks;

    if (!encryption->is_luks) {
        add_string(builder, "format", format);
        return;
    }
    add_string(builder, "ivgen-alg", crypto_ivgen_names[header->spec.ivgen]);
    add_string(builder, "hash-alg", header->hash->name);
    add_string(builder, "cipher-alg", header->spec.cipher->name);
    add_string(builder, "uuid", header->uuid);
    if (header->spec.ivgen_hash) {
        add_string(builder, "ivgen-hash-alg", header->spec.ivgen_hash->name);
    }
    if (format) {
        add_string(builder, "format", format);
    }
    add_string(builder, "cipher-mode", crypto_mode_names[header->spec.mode]);
    add_slots(header, builder);
    add_int(builder, "payload-offset", header->payload_offset);
    add_int(builder, "master-key-iters", header->digest_iterations);
}

/* -- data ----------------------------------------------------------------- */

/* One direction: either @iov is decrypted, or @buffer encrypted. */
typedef struct CipherTask {
    SectorCipher *cipher;
    uint64_t first_sector;
    const IoVec *iov;
    size_t at;
    void *buffer;
    size_t bytes;
} CipherTask;

static int run_task(void *opaque)
{
    CipherTask *task = opaque;

    return task->buffer
               ? sector_cipher_encrypt(task->cipher, task->first_sector,
                                       task->buffer, task->bytes)
               : sector_cipher_decrypt_iov(task->cipher, task->first_sector,
                                           task->iov, task->at, task->bytes);
}

/* Here and now, or on a worker while the coroutine sleeps. */
static int coroutine_fn co_run_task(CipherTask *task)
{
    return task->bytes < WORKER_BYTES ? run_task(task)
                                      : thread_pool_co_run(run_task, task);
}

int coroutine_fn image_encryption_co_decrypt(ImageEncryption *encryption,
                                             int64_t position,
                                             const IoVec *iov, size_t at,
                                             int64_t bytes)
{
    CipherTask task = {
        .cipher = encryption->cipher,
        .first_sector = (uint64_t)position / CRYPTO_SECTOR_BYTES,
        .iov = iov,
        .at = at,
        .bytes = bytes,
    };

    return encryption->cipher ? co_run_task(&task) : -EIO;
}

/* A piece that fits in @buffer. */
static int coroutine_fn co_write_piece(ImageEncryption *encryption,
                                       BdrvChild *child, int64_t host_offset,
                                       int64_t position, int64_t bytes,
                                       void *buffer, BdrvRequestFlags flags)
{
    CipherTask task = {
        .cipher = encryption->cipher,
        .first_sector = (uint64_t)position / CRYPTO_SECTOR_BYTES,
        .buffer = buffer,
        .bytes = bytes,
    };
    int ret = co_run_task(&task);

    return ret < 0 ? ret
                   : bdrv_co_pwrite(child, host_offset, bytes, buffer, flags);
}

int coroutine_fn image_encryption_co_pwritev(ImageEncryption *encryption,
                                             BdrvChild *child,
                                             int64_t host_offset,
                                             int64_t position, int64_t bytes,
                                             const IoVec *iov,
                                             size_t iov_offset,
                                             BdrvRequestFlags flags)
{
    int64_t piece = MIN(bytes, WRITE_PIECE_BYTES);
    void *buffer;
    int ret = 0;

    if (!encryption->cipher) {
        return -EIO;
    }
    buffer = buffer_pool_get(piece);
    if (!buffer) {
        return -ENOMEM;
    }
    for (int64_t done = 0; done < bytes && ret >= 0; done += piece) {
        int64_t part = MIN(piece, bytes - done);

        iovec_to_buffer(iov, iov_offset + done, buffer, part);
        ret = co_write_piece(encryption, child, host_offset + done,
                             position + done, part, buffer, flags);
    }
    buffer_pool_put(buffer, piece);
    return ret;
}

/* -- new images ----------------------------------------------------------- */

/* Takes a name and looks it up with @find, which may be the cipher's. */
static bool take_name(BlockOptions *options, const char *prefix,
                      const char *name, char **ret_text, GError **error)
{
    g_autofree char *key = g_strconcat(prefix, name, NULL);

    return block_options_take_string(options, key, ret_text, error);
}

static bool take_choice(BlockOptions *options, const char *prefix,
                        const char *name, const char *const *values,
                        int *ret_index, GError **error)
{
    g_autofree char *key = g_strconcat(prefix, name, NULL);

    return block_options_take_enum(options, key, values, ret_index, error);
}

static bool take_hash(BlockOptions *options, const char *prefix,
                      const char *name, const CryptoHash **ret_hash,
                      GError **error)
{
    g_autofree char *text = NULL;

    if (!take_name(options, prefix, name, &text, error)) {
        return false;
    }
    if (text) {
        *ret_hash = crypto_hash_find(text);
    }
    if (text && !*ret_hash) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s%s: unknown hash '%s'", prefix, name, text);
        return false;
    }
    return true;
}

static bool take_cipher(BlockOptions *options, const char *prefix,
                        CipherSpec *spec, GError **error)
{
    g_autofree char *text = NULL;
    int mode = (int)spec->mode;
    int ivgen = (int)spec->ivgen;

    if (!take_name(options, prefix, "cipher-alg", &text, error) ||
        !take_choice(options, prefix, "cipher-mode", crypto_mode_names, &mode,
                     error) ||
        !take_choice(options, prefix, "ivgen-alg", crypto_ivgen_names, &ivgen,
                     error) ||
        !take_hash(options, prefix, "ivgen-hash-alg", &spec->ivgen_hash,
                   error)) {
        return false;
    }
    if (text) {
        spec->cipher = crypto_cipher_find(text);
    }
    if (!spec->cipher) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%scipher-alg: unknown cipher '%s'", prefix,
                    text ? text : "aes-256");
        return false;
    }
    spec->mode = (CryptoMode)mode;
    spec->ivgen = (CryptoIvgen)ivgen;
    if (spec->ivgen == CRYPTO_IVGEN_ESSIV && !spec->ivgen_hash) {
        spec->ivgen_hash = crypto_hash_find("sha256");
    } else if (spec->ivgen != CRYPTO_IVGEN_ESSIV && spec->ivgen_hash) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%sivgen-hash-alg is for %sivgen-alg=essiv", prefix,
                    prefix);
        return false;
    }
    return cipher_spec_check(spec, error);
}

bool image_encryption_take_params(BlockOptions *options, const char *prefix,
                                  LuksParams *ret_params, char **ret_secret,
                                  GError **error)
{
    g_autofree char *time_key = g_strconcat(prefix, "iter-time", NULL);
    uint64_t time_ms = ret_params->iter_time_ms;

    if (!take_name(options, prefix, "key-secret", ret_secret, error) ||
        !take_cipher(options, prefix, &ret_params->spec, error) ||
        !take_hash(options, prefix, "hash-alg", &ret_params->hash, error) ||
        !block_options_take_number(options, time_key, &time_ms, error)) {
        return false;
    }
    if (time_ms == 0 || time_ms > LUKS_ITER_TIME_MAX) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s is %" PRIu64 ", must be 1 to %d milliseconds",
                    time_key, time_ms, LUKS_ITER_TIME_MAX);
        return false;
    }
    ret_params->iter_time_ms = time_ms;
    return true;
}

bool image_encryption_create_luks(BlockBackend *file, int64_t host_offset,
                                  const LuksParams *params,
                                  const ImageEncryptionKey *key,
                                  GError **error)
{
    const Secret *secret = secret_find(key->secret, key->option, error);
    ImageEncryptionPlace place = { .blk = file, .host_offset = host_offset };
    LuksArea area =
        image_encryption_area(&place, luks_params_header_bytes(params));

    return secret && luks_create(&area, params, secret, error);
}
