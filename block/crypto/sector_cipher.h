/* SPDX-License-Identifier: MIT */
/*
 * encrypting and decrypting sectors of 512 bytes, each on its own, with an IV
 * made from its number
 *
 * Any number of threads may use one SectorCipher at a time: each use borrows a
 * library handle that nobody else has meanwhile.
 */
#ifndef BLOCK_CRYPTO_SECTOR_CIPHER_H
#define BLOCK_CRYPTO_SECTOR_CIPHER_H

#include "block/crypto/algorithms.h"
#include "block/rt/iovec.h"

typedef struct SectorCipher SectorCipher;

/*
 * sector_cipher_new:
 * @key has cipher_spec_key_bytes(@spec) bytes; it is copied. NULL with FAILED
 * when the library refuses the key (XTS with two equal ones, for example).
 * Control plane.
 */
SectorCipher *sector_cipher_new(const CipherSpec *spec, const uint8_t *key,
                                GError **error);

/* Wipes all that is known of the key. No user may be left. NULL is fine. */
void sector_cipher_free(SectorCipher *cipher);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SectorCipher, sector_cipher_free)

/*
 * In place; @bytes is a multiple of the sector, the first has number
 * @first_sector. 0, -ENOMEM, or -EIO (the library failed). Any thread; takes
 * as long as it takes.
 */
int sector_cipher_encrypt(SectorCipher *cipher, uint64_t first_sector,
                          void *buffer, size_t bytes);
int sector_cipher_decrypt(SectorCipher *cipher, uint64_t first_sector,
                          void *buffer, size_t bytes);

/* The same on [@at, + @bytes) of @iov, whose parts may have any length. */
int sector_cipher_decrypt_iov(SectorCipher *cipher, uint64_t first_sector,
                              const IoVec *iov, size_t at, size_t bytes);

#endif
