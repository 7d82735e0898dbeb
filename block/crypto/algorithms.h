/* SPDX-License-Identifier: MIT */
/*
 * names of ciphers, modes, IV generators and hashes, and what the library
 * that does the work calls them
 *
 * Two spellings are in use: image tools say "aes-256" and "xts" and "plain64",
 * a LUKS header says "aes" and "xts-plain64" beside a key length. Both become
 * a CipherSpec here. Only what libgcrypt has at run time is ever found.
 */
#ifndef BLOCK_CRYPTO_ALGORITHMS_H
#define BLOCK_CRYPTO_ALGORITHMS_H

#include "block/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CRYPTO_SECTOR_BYTES 512
#define CRYPTO_KEY_MAX 64 /* AES-256 in XTS mode: two keys */
#define CRYPTO_HASH_MAX 64
#define CRYPTO_BLOCK_MAX 16

typedef struct CryptoCipher {
    const char *name;      /* "aes-256" */
    const char *luks_name; /* "aes" */
    int id;                /* libgcrypt's */
    unsigned key_bytes;    /* of one key; XTS takes two */
    unsigned block_bytes;
} CryptoCipher;

typedef struct CryptoHash {
    const char *name;
    int id; /* libgcrypt's */
    unsigned bytes;
} CryptoHash;

typedef enum CryptoMode {
    CRYPTO_MODE_ECB,
    CRYPTO_MODE_CBC,
    CRYPTO_MODE_XTS,
    CRYPTO_MODE_CTR,
} CryptoMode;

/* How a sector's number becomes the IV of its encryption. */
typedef enum CryptoIvgen {
    CRYPTO_IVGEN_PLAIN,   /* 32 bits of it, little-endian, zeros */
    CRYPTO_IVGEN_PLAIN64, /* 64 bits of it */
    CRYPTO_IVGEN_ESSIV,   /* those, encrypted with a hash of the key */
} CryptoIvgen;

/* In the order of the enums; for option tables. */
extern const char *const crypto_mode_names[];
extern const char *const crypto_ivgen_names[];

typedef struct CipherSpec {
    const CryptoCipher *cipher;
    CryptoMode mode;
    CryptoIvgen ivgen;            /* not looked at with ECB */
    const CryptoHash *ivgen_hash; /* ESSIV only, else NULL */
} CipherSpec;

/*
 * crypto_init:
 * Makes the library ready. Every function of block/crypto that needs it has
 * called it; once is enough, more do no harm. Control plane.
 */
void crypto_init(void);

/* NULL when the name is unknown, or the library lacks it. */
const CryptoCipher *crypto_cipher_find(const char *name);
const CryptoHash *crypto_hash_find(const char *name);

/*
 * The cipher of a family ("aes") with keys of @key_bytes; NULL: none. Used
 * also for ESSIV, where the key is a hash.
 */
const CryptoCipher *crypto_cipher_of_family(const char *luks_name,
                                            unsigned key_bytes);

/* Bytes of the key that @spec takes. */
unsigned cipher_spec_key_bytes(const CipherSpec *spec);

/*
 * cipher_spec_check:
 * Do the parts go together (XTS wants blocks of 16 bytes, ESSIV a hash whose
 * length is a key's)? False with UNSUPPORTED.
 */
bool cipher_spec_check(const CipherSpec *spec, GError **error);

/*
 * cipher_spec_from_luks:
 * From the strings of a LUKS header: "aes", "cbc-essiv:sha256", and the
 * header's key length. UNSUPPORTED for what is not known.
 */
bool cipher_spec_from_luks(CipherSpec *ret_spec, const char *cipher,
                           const char *mode, unsigned key_bytes,
                           GError **error);

/* "xts-plain64"; the caller frees. */
char *cipher_spec_luks_mode(const CipherSpec *spec);

#endif
