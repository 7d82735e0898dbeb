/* SPDX-License-Identifier: MIT */
/*
 * keys from passphrases, and anti-forensic splitting
 *
 *   merge:   acc = 0; for each stripe but the last: acc = H(acc ^ stripe)
 *            key = acc ^ last stripe
 *
 * where H hashes the digest-sized pieces of acc one by one, each behind its
 * number. Splitting takes random stripes and computes the last one.
 *
 * Locking: none; control plane.
 */
#include "block/crypto/kdf.h"

#include <endian.h>
#include <gcrypt.h>
#include <string.h>

#define MEASURE_US 20000

bool kdf_pbkdf2(const CryptoHash *hash, const void *passphrase,
                size_t passphrase_bytes, const uint8_t *salt,
                size_t salt_bytes, uint32_t iterations, uint8_t *ret_key,
                size_t key_bytes, GError **error)
{
    gcry_error_t failure;

    crypto_init();
    failure = gcry_kdf_derive(passphrase, passphrase_bytes, GCRY_KDF_PBKDF2,
                              hash->id, salt, salt_bytes, iterations,
                              key_bytes, ret_key);
    if (failure) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "deriving a key with %s failed: %s", hash->name,
                    gcry_strerror(failure));
    }
    return !failure;
}

uint64_t kdf_speed(const CryptoHash *hash, size_t key_bytes)
{
    uint8_t salt[32] = { 0 };
    uint8_t key[CRYPTO_KEY_MAX];

    for (uint32_t iterations = 1 << 8;; iterations *= 2) {
        int64_t start = g_get_monotonic_time();
        int64_t used;

        if (!kdf_pbkdf2(hash, "speed", 5, salt, sizeof(salt), iterations, key,
                        key_bytes, /* error= */ NULL)) {
            return 1;
        }
        used = g_get_monotonic_time() - start;
        if (used >= MEASURE_US || iterations >= 1u << 30) {
            return MAX(iterations * (uint64_t)G_USEC_PER_SEC / MAX(used, 1),
                       1);
        }
    }
}

void crypto_random(void *buffer, size_t bytes)
{
    crypto_init();
    gcry_randomize(buffer, bytes, GCRY_STRONG_RANDOM);
}

/* -- anti-forensic splitting --------------------------------------------- */

/* H of the picture above. */
static void diffuse(const CryptoHash *hash, uint8_t *block, size_t bytes)
{
    uint8_t digest[CRYPTO_HASH_MAX];
    uint32_t number = 0;

    for (size_t at = 0; at < bytes; at += hash->bytes) {
        size_t part = MIN(bytes - at, hash->bytes);
        uint32_t raw = htobe32(number++);
        gcry_buffer_t pieces[] = {
            { .data = &raw, .len = sizeof(raw) },
            { .data = block + at, .len = part },
        };

        /* Only an unknown hash could fail, and it was found before. */
        (void) gcry_md_hash_buffers(hash->id, 0, digest, pieces, 2);
        memcpy(block + at, digest, part);
    }
    explicit_bzero(digest, sizeof(digest));
}

static void xor_into(uint8_t *to, const uint8_t *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        to[i] ^= from[i];
    }
}

/* All stripes but the last, into @acc. */
static void accumulate(const CryptoHash *hash, const uint8_t *material,
                       size_t key_bytes, uint32_t stripes, uint8_t *acc)
{
    memset(acc, 0, key_bytes);
    for (uint32_t i = 0; i + 1 < stripes; i++) {
        xor_into(acc, material + i * key_bytes, key_bytes);
        diffuse(hash, acc, key_bytes);
    }
}

void af_split(const CryptoHash *hash, const uint8_t *key, size_t key_bytes,
              uint32_t stripes, uint8_t *ret_material)
{
    uint8_t *last = ret_material + (stripes - 1) * key_bytes;

    crypto_random(ret_material, (stripes - 1) * key_bytes);
    accumulate(hash, ret_material, key_bytes, stripes, last);
    xor_into(last, key, key_bytes);
}

void af_merge(const CryptoHash *hash, const uint8_t *material,
              size_t key_bytes, uint32_t stripes, uint8_t *ret_key)
{
    accumulate(hash, material, key_bytes, stripes, ret_key);
    xor_into(ret_key, material + (stripes - 1) * key_bytes, key_bytes);
}
