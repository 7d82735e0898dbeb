/* SPDX-License-Identifier: MIT */
/*
 * names of ciphers, modes, IV generators and hashes
 *
 * Tables only: what an algorithm does is libgcrypt's business.
 *
 * Locking: none. The tables are constant; crypto_init() is the control
 * plane's, before any other thread uses the library.
 */
#include "block/crypto/algorithms.h"

#include "block/crypto/secret_memory.h"

#include <gcrypt.h>
#include <string.h>

/* Nothing in libgcrypt 1.8 or later that we use is younger. */
#define GCRYPT_LEAST_VERSION "1.8.0"

static const CryptoCipher ciphers[] = {
    { "aes-128", "aes", GCRY_CIPHER_AES128, 16, 16 },
    { "aes-192", "aes", GCRY_CIPHER_AES192, 24, 16 },
    { "aes-256", "aes", GCRY_CIPHER_AES256, 32, 16 },
    { "cast5-128", "cast5", GCRY_CIPHER_CAST5, 16, 8 },
    { "serpent-128", "serpent", GCRY_CIPHER_SERPENT128, 16, 16 },
    { "serpent-192", "serpent", GCRY_CIPHER_SERPENT192, 24, 16 },
    { "serpent-256", "serpent", GCRY_CIPHER_SERPENT256, 32, 16 },
    { "twofish-128", "twofish", GCRY_CIPHER_TWOFISH128, 16, 16 },
    { "twofish-256", "twofish", GCRY_CIPHER_TWOFISH, 32, 16 },
};

static const CryptoHash hashes[] = {
    { "sha1", GCRY_MD_SHA1, 20 },
    { "sha224", GCRY_MD_SHA224, 28 },
    { "sha256", GCRY_MD_SHA256, 32 },
    { "sha384", GCRY_MD_SHA384, 48 },
    { "sha512", GCRY_MD_SHA512, 64 },
    { "ripemd160", GCRY_MD_RMD160, 20 },
};

const char *const crypto_mode_names[] = { "ecb", "cbc", "xts", "ctr", NULL };
const char *const crypto_ivgen_names[] = { "plain", "plain64", "essiv",
                                           NULL };

void crypto_init(void)
{
    if (gcry_control(GCRYCTL_INITIALIZATION_FINISHED_P)) {
        return;
    }
    /* Its own locked pool is too small for the handles of many images. */
    secret_memory_serve_gcrypt();
    if (!gcry_check_version(GCRYPT_LEAST_VERSION)) {
        g_error("libgcrypt is older than " GCRYPT_LEAST_VERSION);
    }
    gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
}

static const CryptoCipher *usable(const CryptoCipher *cipher)
{
    crypto_init();
    return gcry_cipher_test_algo(cipher->id) == 0 ? cipher : NULL;
}

const CryptoCipher *crypto_cipher_find(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(ciphers); i++) {
        if (strcmp(ciphers[i].name, name) == 0) {
            return usable(&ciphers[i]);
        }
    }
    return NULL;
}

const CryptoCipher *crypto_cipher_of_family(const char *luks_name,
                                            unsigned key_bytes)
{
    for (size_t i = 0; i < G_N_ELEMENTS(ciphers); i++) {
        if (strcmp(ciphers[i].luks_name, luks_name) == 0 &&
            ciphers[i].key_bytes == key_bytes) {
            return usable(&ciphers[i]);
        }
    }
    return NULL;
}

const CryptoHash *crypto_hash_find(const char *name)
{
    crypto_init();
    for (size_t i = 0; i < G_N_ELEMENTS(hashes); i++) {
        if (strcmp(hashes[i].name, name) == 0) {
            return gcry_md_test_algo(hashes[i].id) == 0 ? &hashes[i] : NULL;
        }
    }
    return NULL;
}

/* -- specifications ------------------------------------------------------ */

unsigned cipher_spec_key_bytes(const CipherSpec *spec)
{
    return spec->cipher->key_bytes * (spec->mode == CRYPTO_MODE_XTS ? 2 : 1);
}

static bool unsupported(GError **error, const char *format, ...)
    G_GNUC_PRINTF(2, 3);

/* Always false, so that a check can be one statement. */
static bool unsupported(GError **error, const char *format, ...)
{
    va_list arguments;
    g_autofree char *message = NULL;

    va_start(arguments, format);
    message = g_strdup_vprintf(format, arguments);
    va_end(arguments);
    g_set_error_literal(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                        message);
    return false;
}

bool cipher_spec_check(const CipherSpec *spec, GError **error)
{
    if (spec->mode == CRYPTO_MODE_XTS && spec->cipher->block_bytes != 16) {
        return unsupported(error, "cipher %s has blocks of %u bytes; mode xts "
                           "needs 16", spec->cipher->name,
                           spec->cipher->block_bytes);
    }
    if (spec->mode == CRYPTO_MODE_ECB || spec->ivgen != CRYPTO_IVGEN_ESSIV) {
        return true;
    }
    if (!spec->ivgen_hash) {
        return unsupported(error, "the IV generator essiv needs a hash");
    }
    if (!crypto_cipher_of_family(spec->cipher->luks_name,
                                 spec->ivgen_hash->bytes)) {
        return unsupported(error, "there is no cipher %s with keys of %u "
                           "bytes, as essiv:%s needs",
                           spec->cipher->luks_name, spec->ivgen_hash->bytes,
                           spec->ivgen_hash->name);
    }
    return true;
}

static int find_name(const char *const *names, const char *name)
{
    for (int i = 0; names[i]; i++) {
        if (strcmp(names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

/* "plain64" or "essiv:sha256" */
static bool parse_ivgen(CipherSpec *spec, const char *text, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(text, ":", 2);
    int ivgen = find_name(crypto_ivgen_names, parts[0]);

    if (ivgen < 0) {
        return unsupported(error, "unknown IV generator '%s'", parts[0]);
    }
    spec->ivgen = (CryptoIvgen)ivgen;
    if ((ivgen == CRYPTO_IVGEN_ESSIV) != (parts[1] != NULL)) {
        return unsupported(error, "the IV generator '%s' %s a hash", text,
                           parts[1] ? "takes no" : "needs");
    }
    if (parts[1]) {
        spec->ivgen_hash = crypto_hash_find(parts[1]);
        if (!spec->ivgen_hash) {
            return unsupported(error, "unknown hash '%s'", parts[1]);
        }
    }
    return true;
}

bool cipher_spec_from_luks(CipherSpec *ret_spec, const char *cipher,
                           const char *mode, unsigned key_bytes,
                           GError **error)
{
    CipherSpec spec = { 0 };
    g_auto(GStrv) parts = g_strsplit(mode, "-", 2);
    int index = parts[0] ? find_name(crypto_mode_names, parts[0]) : -1;
    unsigned keys;

    if (index < 0) {
        return unsupported(error, "unknown cipher mode '%s'", mode);
    }
    spec.mode = (CryptoMode)index;
    keys = spec.mode == CRYPTO_MODE_XTS ? 2 : 1;
    if (!parts[1] && spec.mode != CRYPTO_MODE_ECB) {
        return unsupported(error, "the cipher mode '%s' says no IV generator",
                           mode);
    }
    if (parts[1] && !parse_ivgen(&spec, parts[1], error)) {
        return false;
    }
    spec.cipher = key_bytes % keys == 0
                      ? crypto_cipher_of_family(cipher, key_bytes / keys)
                      : NULL;
    if (!spec.cipher) {
        return unsupported(error, "unknown cipher '%s' with a key of %u bytes "
                           "in mode %s", cipher, key_bytes,
                           crypto_mode_names[spec.mode]);
    }
    if (!cipher_spec_check(&spec, error)) {
        return false;
    }
    *ret_spec = spec;
    return true;
}

char *cipher_spec_luks_mode(const CipherSpec *spec)
{
    return g_strdup_printf("%s-%s%s%s", crypto_mode_names[spec->mode],
                           crypto_ivgen_names[spec->ivgen],
                           spec->ivgen_hash ? ":" : "",
                           spec->ivgen_hash ? spec->ivgen_hash->name : "");
}
