/* SPDX-License-Identifier: MIT */
/*
 * encrypted image formats: what their drivers share
 *
 * A driver says where the LUKS header lies (or that there is none, with the
 * AES of old qcow2 images) and gets an ImageEncryption, through which it moves
 * guest data. The data plane's functions may be called from any thread; the
 * rest is control plane. Options are spelt alike everywhere but for a prefix:
 * "encrypt." in qcow2, none in luks.
 */
#ifndef BLOCK_IMAGE_ENCRYPTION_H
#define BLOCK_IMAGE_ENCRYPTION_H

#include "block/crypto/luks.h"
#include "block/driver.h"

/* Every request on such a node is made of these. */
#define IMAGE_ENCRYPTION_ALIGNMENT CRYPTO_SECTOR_BYTES

typedef struct ImageEncryption ImageEncryption;

/* How an image is opened. */
typedef struct ImageEncryptionKey {
    const char *secret; /* its id; NULL: the key for all images */
    const char *option; /* by which the user would name it, for messages */
    bool is_absent;     /* nobody will do I/O: no key is looked for */
} ImageEncryptionKey;

/*
 * image_encryption_open_luks:
 * The LUKS header at @host_offset of @file has @bytes, key material included.
 * NULL with OPTION (no such secret), DENIED (wrong passphrase), CORRUPT,
 * UNSUPPORTED or IO.
 */
ImageEncryption *image_encryption_open_luks(BdrvChild *file,
                                            int64_t host_offset, int64_t bytes,
                                            const ImageEncryptionKey *key,
                                            GError **error);

/*
 * AES-128 in CBC mode with plain64, as qcow2 images without a LUKS header
 * have it. Any passphrase will do: a wrong one shows garbage.
 */
ImageEncryption *image_encryption_open_aes(const ImageEncryptionKey *key,
                                           GError **error);

void image_encryption_free(ImageEncryption *encryption);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ImageEncryption, image_encryption_free)

/* Where a LUKS header says that the payload starts; 0 with AES. */
int64_t image_encryption_payload_offset(const ImageEncryption *encryption);

/*
 * Its facts as members of the object that @builder is in; @format is one of
 * them where the image may have one of several (else NULL).
 */
void image_encryption_add_info(const ImageEncryption *encryption,
                               const char *format, JsonBuilder *builder);

/*
 * image_encryption_co_decrypt:
 * [@at, + @bytes) of @iov, in place. @position, in bytes, is what the IVs are
 * counted from: the place in the payload (LUKS), of the guest (AES), or what
 * else the format says. 0, -ENOMEM, -EIO (also: opened without a key).
 * Coroutine; may yield: much data is a worker's task.
 */
int coroutine_fn image_encryption_co_decrypt(ImageEncryption *encryption,
                                             int64_t position,
                                             const IoVec *iov, size_t at,
                                             int64_t bytes);

/*
 * image_encryption_co_pwritev:
 * Writes [@iov_offset, + @bytes) of @iov, encrypted, to @child at
 * @host_offset, by way of a buffer; @iov is not changed. 0 or -errno.
 */
int coroutine_fn image_encryption_co_pwritev(ImageEncryption *encryption,
                                             BdrvChild *child,
                                             int64_t host_offset,
                                             int64_t position, int64_t bytes,
                                             const IoVec *iov,
                                             size_t iov_offset,
                                             BdrvRequestFlags flags);

/* -- new images ----------------------------------------------------------- */

/* Rows of a format's table of creation options. */
#define IMAGE_ENCRYPTION_OPTIONS(prefix) \
    { .name = prefix "key-secret", .type = BLOCK_OPTION_STRING, \
      .help = "id of the secret that opens the image" }, \
    { .name = prefix "cipher-alg", .type = BLOCK_OPTION_STRING, \
      .default_value = "aes-256", .help = "cipher and length of its key" }, \
    { .name = prefix "cipher-mode", .type = BLOCK_OPTION_ENUM, \
      .default_value = "xts", .values = crypto_mode_names, \
      .help = "mode of the cipher" }, \
    { .name = prefix "ivgen-alg", .type = BLOCK_OPTION_ENUM, \
      .default_value = "plain64", .values = crypto_ivgen_names, \
      .help = "how a sector's number becomes its IV" }, \
    { .name = prefix "ivgen-hash-alg", .type = BLOCK_OPTION_STRING, \
      .help = "hash of the key for essiv (default: sha256)" }, \
    { .name = prefix "hash-alg", .type = BLOCK_OPTION_STRING, \
      .default_value = "sha256", .help = "hash of the key derivation" }, \
    { .name = prefix "iter-time", .type = BLOCK_OPTION_NUMBER, \
      .default_value = "2000", \
      .help = "milliseconds that trying a passphrase takes" }

/*
 * image_encryption_take_params:
 * Takes these options out of @options, each behind @prefix; what is not there
 * has its default. *@ret_secret (NULL: not said) is the caller's to free.
 * @ret_params was initialised by luks_params_init().
 */
bool image_encryption_take_params(BlockOptions *options, const char *prefix,
                                  LuksParams *ret_params, char **ret_secret,
                                  GError **error);

/*
 * Writes a LUKS header with its key material, luks_params_header_bytes(), to
 * @host_offset of @file.
 */
bool image_encryption_create_luks(BlockBackend *file, int64_t host_offset,
                                  const LuksParams *params,
                                  const ImageEncryptionKey *key,
                                  GError **error);

#endif
