/* SPDX-License-Identifier: MIT */
/*
 * the header of a LUKS volume, version 1: bytes <-> checked native values
 *
 *   0        592      4096                         payload_offset
 *   [header ][        ][slot 0 key material][slot 1]...[payload ...
 *
 * A slot holds the volume key, spread over 4000 stripes and encrypted with a
 * key derived from a passphrase. Nothing here does I/O or cryptography.
 */
#ifndef BLOCK_CRYPTO_LUKS_HEADER_H
#define BLOCK_CRYPTO_LUKS_HEADER_H

#include "block/crypto/algorithms.h"

#define LUKS_HEADER_BYTES 592
#define LUKS_SLOTS 8
#define LUKS_STRIPES 4000
#define LUKS_SALT_BYTES 32
#define LUKS_DIGEST_BYTES 20
#define LUKS_UUID_BYTES 40

typedef struct LuksSlot {
    bool is_active;
    uint32_t iterations;
    uint8_t salt[LUKS_SALT_BYTES];
    int64_t key_offset; /* bytes, from the header's start */
} LuksSlot;

typedef struct LuksHeader {
    CipherSpec spec;
    const CryptoHash *hash; /* of all key derivation */
    unsigned key_bytes;     /* of the volume key */
    int64_t payload_offset; /* bytes, from the header's start */
    uint8_t digest[LUKS_DIGEST_BYTES]; /* of the volume key */
    uint8_t digest_salt[LUKS_SALT_BYTES];
    uint32_t digest_iterations;
    char uuid[LUKS_UUID_BYTES + 1];
    LuksSlot slots[LUKS_SLOTS];
} LuksHeader;

/* Do these bytes start a LUKS volume, of whatever version? */
bool luks_header_is_luks(const uint8_t *raw, size_t bytes);

/*
 * luks_header_parse:
 * @raw has LUKS_HEADER_BYTES; @area_bytes is the room that header and key
 * material have: the payload starts there or before. Every slot lies between
 * header and payload and overlaps no other one. CORRUPT, or UNSUPPORTED for
 * versions and algorithms that are not known.
 */
bool luks_header_parse(LuksHeader *ret_header, const uint8_t *raw,
                       int64_t area_bytes, GError **error);

/* The reverse, into LUKS_HEADER_BYTES. */
void luks_header_format(const LuksHeader *header, uint8_t *ret_raw);

/* Bytes of a slot's key material on disk, in whole sectors. */
int64_t luks_material_bytes(unsigned key_bytes);

/* Places slots and payload where new volumes have them. */
void luks_header_lay_out(LuksHeader *header);

#endif
