/* SPDX-License-Identifier: MIT */
/*
 * keys from passphrases (PBKDF2), and spreading a key over many bytes so that
 * it can be destroyed (anti-forensic splitting, as LUKS defines it)
 */
#ifndef BLOCK_CRYPTO_KDF_H
#define BLOCK_CRYPTO_KDF_H

#include "block/crypto/algorithms.h"

/* PBKDF2 with HMAC of @hash. False: the library failed. Control plane. */
bool kdf_pbkdf2(const CryptoHash *hash, const void *passphrase,
                size_t passphrase_bytes, const uint8_t *salt,
                size_t salt_bytes, uint32_t iterations, uint8_t *ret_key,
                size_t key_bytes, GError **error);

/*
 * Iterations per second for a key of that length on this machine, measured
 * for some 20 ms. At least 1.
 */
uint64_t kdf_speed(const CryptoHash *hash, size_t key_bytes);

/* Strong random bytes. */
void crypto_random(void *buffer, size_t bytes);

/*
 * af_split:
 * @ret_material (@key_bytes * @stripes) becomes random bytes from which
 * af_merge() makes @key again, and of which every one is needed.
 */
void af_split(const CryptoHash *hash, const uint8_t *key, size_t key_bytes,
              uint32_t stripes, uint8_t *ret_material);
void af_merge(const CryptoHash *hash, const uint8_t *material,
              size_t key_bytes, uint32_t stripes, uint8_t *ret_key);

#endif
