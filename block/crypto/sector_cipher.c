/* SPDX-License-Identifier: MIT */
/*
 * encrypting and decrypting sectors of 512 bytes
 *
 * A library handle has a key schedule and an IV, so it serves one thread at a
 * time. There is a fixed row of places for handles; a thread starts to look
 * for a free one at its own place, so that in peace each thread has one to
 * itself, in its own cache lines. Handles are made at first use.
 *
 * Locking: a place belongs to whoever has turned `busy` from 0 to 1. Nobody
 * yields or sleeps while holding one.
 */
#include "block/crypto/sector_cipher.h"

#include "block/crypto/secret_memory.h"

#include <endian.h>
#include <errno.h>
#include <gcrypt.h>
#include <sched.h>
#include <string.h>

/* More than I/O threads and workers together: looking always succeeds. */
#define PLACES 64

typedef struct Place {
    int busy; /* atomic */
    gcry_cipher_hd_t data;
    gcry_cipher_hd_t essiv; /* NULL: not that generator */
} __attribute__((aligned(64))) Place;

struct SectorCipher {
    CipherSpec spec;
    const CryptoCipher *essiv_cipher; /* NULL: not that generator */
    uint8_t key[CRYPTO_KEY_MAX];
    uint8_t essiv_key[CRYPTO_HASH_MAX];
    Place places[PLACES];
};

static const int library_modes[] = {
    [CRYPTO_MODE_ECB] = GCRY_CIPHER_MODE_ECB,
    [CRYPTO_MODE_CBC] = GCRY_CIPHER_MODE_CBC,
    [CRYPTO_MODE_XTS] = GCRY_CIPHER_MODE_XTS,
    [CRYPTO_MODE_CTR] = GCRY_CIPHER_MODE_CTR,
};

/* -- handles ------------------------------------------------------------- */

static gcry_error_t open_handle(gcry_cipher_hd_t *handle, int id, int mode,
                                const uint8_t *key, size_t key_bytes)
{
    gcry_error_t failure = gcry_cipher_open(handle, id, mode,
                                            GCRY_CIPHER_SECURE);

    if (!failure) {
        failure = gcry_cipher_setkey(*handle, key, key_bytes);
    }
    if (failure) {
        gcry_cipher_close(*handle); /* NULL is fine */
        *handle = NULL;
    }
    return failure;
}

/* Makes the handles of a place that has none. */
static gcry_error_t fill_place(SectorCipher *cipher, Place *place)
{
    const CipherSpec *spec = &cipher->spec;
    gcry_error_t failure =
        open_handle(&place->data, spec->cipher->id, library_modes[spec->mode],
                    cipher->key, cipher_spec_key_bytes(spec));

    if (!failure && cipher->essiv_cipher) {
        failure = open_handle(&place->essiv, cipher->essiv_cipher->id,
                              GCRY_CIPHER_MODE_ECB, cipher->essiv_key,
                              cipher->essiv_cipher->key_bytes);
        if (failure) {
            gcry_cipher_close(place->data);
            place->data = NULL;
        }
    }
    return failure;
}

/* Where the calling thread starts to look. */
static unsigned own_place(void)
{
    static unsigned threads;
    static __thread unsigned number;

    if (number == 0) {
        number = __atomic_add_fetch(&threads, 1, __ATOMIC_RELAXED);
    }
    return number;
}

static Place *take_place(SectorCipher *cipher)
{
    for (unsigned i = own_place();; i++) {
        Place *place = &cipher->places[i % PLACES];

        if (!__atomic_exchange_n(&place->busy, 1, __ATOMIC_ACQUIRE)) {
            return place;
        }
        if (i % PLACES == 0) {
            sched_yield();
        }
    }
}

static void give_place(Place *place)
{
    __atomic_store_n(&place->busy, 0, __ATOMIC_RELEASE);
}

SectorCipher *sector_cipher_new(const CipherSpec *spec, const uint8_t *key,
                                GError **error)
{
    g_autoptr(SectorCipher) cipher = NULL;
    gcry_error_t failure;

    crypto_init();
    cipher = secret_memory_get(sizeof(SectorCipher));
    cipher->spec = *spec;
    memcpy(cipher->key, key, cipher_spec_key_bytes(spec));
    if (spec->ivgen == CRYPTO_IVGEN_ESSIV && spec->mode != CRYPTO_MODE_ECB) {
        cipher->essiv_cipher = crypto_cipher_of_family(
            spec->cipher->luks_name, spec->ivgen_hash->bytes);
        g_assert(cipher->essiv_cipher); /* cipher_spec_check() */
        gcry_md_hash_buffer(spec->ivgen_hash->id, cipher->essiv_key, key,
                            cipher_spec_key_bytes(spec));
    }
    failure = fill_place(cipher, &cipher->places[own_place() % PLACES]);
    if (failure) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "cipher %s in mode %s does not take the key: %s",
                    spec->cipher->name, crypto_mode_names[spec->mode],
                    gcry_strerror(failure));
        return NULL;
    }
    return g_steal_pointer(&cipher);
}

void sector_cipher_free(SectorCipher *cipher)
{
    if (!cipher) {
        return;
    }
    for (unsigned i = 0; i < PLACES; i++) {
        gcry_cipher_close(cipher->places[i].data); /* they wipe themselves */
        gcry_cipher_close(cipher->places[i].essiv);
    }
    secret_memory_put(cipher);
}

/* -- sectors ------------------------------------------------------------- */

static gcry_error_t set_iv(const SectorCipher *cipher, Place *place,
                           uint64_t sector)
{
    unsigned block = cipher->spec.cipher->block_bytes;
    uint8_t iv[CRYPTO_BLOCK_MAX] = { 0 };
    gcry_error_t failure = 0;

    if (cipher->spec.mode == CRYPTO_MODE_ECB) {
        return 0;
    }
    if (cipher->spec.ivgen == CRYPTO_IVGEN_PLAIN) {
        sector &= UINT32_MAX;
    }
    sector = htole64(sector);
    memcpy(iv, &sector, sizeof(sector));
    if (place->essiv) {
        failure = gcry_cipher_encrypt(place->essiv, iv, block, NULL, 0);
    }
    if (failure) {
        return failure;
    }
    return cipher->spec.mode == CRYPTO_MODE_CTR
               ? gcry_cipher_setctr(place->data, iv, block)
               : gcry_cipher_setiv(place->data, iv, block);
}

/* A run of sectors with one handle, in place. */
static gcry_error_t crypt_sectors(const SectorCipher *cipher, Place *place,
                                  bool encrypt, uint64_t sector,
                                  uint8_t *buffer, size_t bytes)
{
    gcry_error_t failure = 0;

    for (size_t i = 0; i < bytes && !failure; i += CRYPTO_SECTOR_BYTES) {
        failure = set_iv(cipher, place, sector++);
        if (!failure && encrypt) {
            failure = gcry_cipher_encrypt(place->data, buffer + i,
                                          CRYPTO_SECTOR_BYTES, NULL, 0);
        } else if (!failure) {
            failure = gcry_cipher_decrypt(place->data, buffer + i,
                                          CRYPTO_SECTOR_BYTES, NULL, 0);
        }
    }
    return failure;
}

/* A sector that lies in several parts of the vector goes by way of a copy. */
static gcry_error_t decrypt_vec(const SectorCipher *cipher, Place *place,
                                uint64_t sector, const IoVec *vec)
{
    gcry_error_t failure = 0;
    size_t at = 0;     /* in the vector */
    size_t inside = 0; /* in element i */

    for (int i = 0; i < vec->niov && at < vec->size && !failure;) {
        const struct iovec *part = &vec->iov[i];
        size_t run = (part->iov_len - inside) &
                     ~(size_t)(CRYPTO_SECTOR_BYTES - 1);

        if (run > 0) {
            failure = crypt_sectors(cipher, place, /* encrypt= */ false,
                                    sector, (uint8_t *)part->iov_base + inside,
                                    run);
        } else if (inside < part->iov_len) {
            uint8_t copy[CRYPTO_SECTOR_BYTES];

            run = CRYPTO_SECTOR_BYTES;
            iovec_to_buffer(vec, at, copy, run);
            failure = crypt_sectors(cipher, place, /* encrypt= */ false,
                                    sector, copy, run);
            iovec_from_buffer(vec, at, copy, run);
        }
        at += run;
        inside += run;
        sector += run / CRYPTO_SECTOR_BYTES;
        while (i < vec->niov && inside >= vec->iov[i].iov_len) {
            inside -= vec->iov[i++].iov_len;
        }
    }
    return failure;
}

/* A place with handles; NULL with *@ret_error. */
static Place *take_filled(SectorCipher *cipher, int *ret_error)
{
    Place *place = take_place(cipher);

    if (!place->data && fill_place(cipher, place)) {
        give_place(place);
        *ret_error = -ENOMEM; /* the key itself was taken before */
        return NULL;
    }
    return place;
}

static int crypt_buffer(SectorCipher *cipher, bool encrypt,
                        uint64_t first_sector, void *buffer, size_t bytes)
{
    int ret = 0;
    Place *place = take_filled(cipher, &ret);

    if (place) {
        ret = crypt_sectors(cipher, place, encrypt, first_sector, buffer,
                            bytes) ? -EIO : 0;
        give_place(place);
    }
    return ret;
}

int sector_cipher_encrypt(SectorCipher *cipher, uint64_t first_sector,
                          void *buffer, size_t bytes)
{
    return crypt_buffer(cipher, /* encrypt= */ true, first_sector, buffer,
                        bytes);
}

int sector_cipher_decrypt(SectorCipher *cipher, uint64_t first_sector,
                          void *buffer, size_t bytes)
{
    return crypt_buffer(cipher, /* encrypt= */ false, first_sector, buffer,
                        bytes);
}

int sector_cipher_decrypt_iov(SectorCipher *cipher, uint64_t first_sector,
                              const IoVec *iov, size_t at, size_t bytes)
{
    int ret = 0;
    Place *place = take_filled(cipher, &ret);

    if (place) {
        IoVec slice;

        iovec_init(&slice);
        iovec_add_slice(&slice, iov, at, bytes);
        ret = decrypt_vec(cipher, place, first_sector, &slice) ? -EIO : 0;
        iovec_destroy(&slice);
        give_place(place);
    }
    return ret;
}
