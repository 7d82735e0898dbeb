/* SPDX-License-Identifier: MIT */
/*
 * LUKS volumes: unlocking, making, and changing their key slots
 *
 *   passphrase ─PBKDF2(salt, iterations)─▶ slot key ─decrypts─▶ material
 *       ─af_merge─▶ volume key ─PBKDF2(digest salt)─▶ = header's digest?
 *
 * Always true:
 *  L1  the header on disk never names a slot as active whose key material is
 *      not there completely: material first, header second;
 *  L2  keys, material and derived keys are wiped before the return.
 *
 * Locking: none; control plane.
 */
#include "block/crypto/luks.h"

#include "block/crypto/kdf.h"
#include "block/crypto/sector_cipher.h"

#include <gcrypt.h>
#include <inttypes.h>
#include <string.h>

#define ITER_TIME_DEFAULT_MS 2000
#define ITERATIONS_MIN 1000
#define ERASE_ROUNDS 2 /* random bytes, then again: the medium may remap */

void luks_params_init(LuksParams *params)
{
    *params = (LuksParams) {
        .spec = {
            .cipher = crypto_cipher_find("aes-256"),
            .mode = CRYPTO_MODE_XTS,
            .ivgen = CRYPTO_IVGEN_PLAIN64,
        },
        .hash = crypto_hash_find("sha256"),
        .iter_time_ms = ITER_TIME_DEFAULT_MS,
    };
}

int64_t luks_params_header_bytes(const LuksParams *params)
{
    LuksHeader header = { .key_bytes = cipher_spec_key_bytes(&params->spec) };

    luks_header_lay_out(&header);
    return header.payload_offset;
}

static void wipe_free(void *memory, size_t bytes)
{
    explicit_bzero(memory, bytes);
    g_free(memory);
}

bool luks_load(const LuksArea *area, LuksHeader *ret_header, GError **error)
{
    uint8_t raw[LUKS_HEADER_BYTES];

    if (area->bytes < LUKS_HEADER_BYTES) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                    "a LUKS header has %d bytes, here are %" PRId64,
                    LUKS_HEADER_BYTES, area->bytes);
        return false;
    }
    return area->read(area->opaque, 0, sizeof(raw), raw, error) &&
           luks_header_parse(ret_header, raw, area->bytes, error);
}

static bool store(const LuksArea *area, const LuksHeader *header,
                  GError **error)
{
    uint8_t raw[LUKS_HEADER_BYTES];

    luks_header_format(header, raw);
    return area->write(area->opaque, 0, sizeof(raw), raw, error);
}

/* -- key material -------------------------------------------------------- */

/*
 * The cipher of a slot: the volume's, with a key derived from @secret. NULL
 * with an error.
 */
static SectorCipher *slot_cipher(const LuksHeader *header,
                                 const LuksSlot *slot, const Secret *secret,
                                 GError **error)
{
    uint8_t key[CRYPTO_KEY_MAX];
    SectorCipher *cipher = NULL;

    if (kdf_pbkdf2(header->hash, secret->data, secret->bytes, slot->salt,
                   sizeof(slot->salt), slot->iterations, key,
                   header->key_bytes, error)) {
        cipher = sector_cipher_new(&header->spec, key, error);
    }
    explicit_bzero(key, sizeof(key));
    return cipher;
}

static bool key_digest(const LuksHeader *header, const uint8_t *key,
                       uint8_t ret_digest[LUKS_DIGEST_BYTES], GError **error)
{
    return kdf_pbkdf2(header->hash, key, header->key_bytes,
                      header->digest_salt, sizeof(header->digest_salt),
                      header->digest_iterations, ret_digest,
                      LUKS_DIGEST_BYTES, error);
}

/* Reads the slot's material and makes a key of it, perhaps a wrong one. */
static bool read_material(const LuksArea *area, const LuksHeader *header,
                          const LuksSlot *slot, SectorCipher *cipher,
                          uint8_t *ret_key, GError **error)
{
    int64_t bytes = luks_material_bytes(header->key_bytes);
    uint8_t *material = g_malloc(bytes);
    bool ok = area->read(area->opaque, slot->key_offset, bytes, material,
                         error);

    if (ok && sector_cipher_decrypt(cipher, 0, material, bytes) < 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "decrypting a key slot failed");
        ok = false;
    }
    if (ok) {
        af_merge(header->hash, material, header->key_bytes, LUKS_STRIPES,
                 ret_key);
    }
    wipe_free(material, bytes);
    return ok;
}

static bool write_material(const LuksArea *area, const LuksHeader *header,
                           const LuksSlot *slot, SectorCipher *cipher,
                           const uint8_t *key, GError **error)
{
    int64_t bytes = luks_material_bytes(header->key_bytes);
    uint8_t *material = g_malloc0(bytes);
    bool ok;

    af_split(header->hash, key, header->key_bytes, LUKS_STRIPES, material);
    ok = sector_cipher_encrypt(cipher, 0, material, bytes) == 0;
    if (!ok) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "encrypting a key slot failed");
    }
    ok = ok && area->write(area->opaque, slot->key_offset, bytes, material,
                           error);
    wipe_free(material, bytes);
    return ok;
}

/* -- unlocking ----------------------------------------------------------- */

/* An image decides how many iterations there are, but not how long we wait. */
static bool check_effort(const LuksHeader *header, GError **error)
{
    uint64_t speed = kdf_speed(header->hash, header->key_bytes);
    uint64_t iterations = 0;

    for (int i = 0; i < LUKS_SLOTS; i++) {
        const LuksSlot *slot = &header->slots[i];

        if (slot->is_active) {
            iterations += (uint64_t)slot->iterations +
                          header->digest_iterations;
        }
    }
    if (iterations / speed > LUKS_UNLOCK_SECONDS_MAX) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                    "the LUKS key slots ask for %" PRIu64 " iterations of "
                    "%s, more than %d seconds here", iterations,
                    header->hash->name, LUKS_UNLOCK_SECONDS_MAX);
        return false;
    }
    return true;
}

/* Does @secret open this slot? False with no error set: no. */
static bool try_slot(const LuksArea *area, const LuksHeader *header,
                     const LuksSlot *slot, const Secret *secret,
                     uint8_t *ret_key, GError **error)
{
    g_autoptr(SectorCipher) cipher =
        slot_cipher(header, slot, secret, error);
    uint8_t digest[LUKS_DIGEST_BYTES];

    return cipher &&
           read_material(area, header, slot, cipher, ret_key, error) &&
           key_digest(header, ret_key, digest, error) &&
           memcmp(digest, header->digest, sizeof(digest)) == 0;
}

bool luks_unlock(const LuksArea *area, const LuksHeader *header,
                 const Secret *secret, uint8_t ret_key[CRYPTO_KEY_MAX],
                 int *ret_slot, GError **error)
{
    int active = 0;

    if (!check_effort(header, error)) {
        return false;
    }
    for (int i = 0; i < LUKS_SLOTS; i++) {
        GError *local = NULL;

        if (!header->slots[i].is_active) {
            continue;
        }
        active++;
        if (try_slot(area, header, &header->slots[i], secret, ret_key,
                     &local)) {
            *ret_slot = i;
            return true;
        }
        explicit_bzero(ret_key, CRYPTO_KEY_MAX);
        if (local) {
            g_propagate_prefixed_error(error, local, "key slot %d: ", i);
            return false;
        }
    }
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_DENIED,
                active == 0 ? "no key slot is in use: nothing can open it%s"
                            : "wrong passphrase: it opens no key slot%s",
                active && secret_ends_line(secret)
                    ? " (it ends with a newline; is that part of it?)" : "");
    return false;
}

/* -- key slots ----------------------------------------------------------- */

/* Iterations that take that long here. */
static bool wanted_iterations(const CryptoHash *hash, unsigned key_bytes,
                              uint32_t iter_time_ms, uint32_t *ret_iterations,
                              GError **error)
{
    uint64_t speed = kdf_speed(hash, key_bytes);
    uint64_t iterations = speed * iter_time_ms / 1000;

    if (iter_time_ms == 0 || iterations > UINT32_MAX) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "iter-time is %" PRIu32 " ms, which is %s", iter_time_ms,
                    iter_time_ms ? "too long" : "no time");
        return false;
    }
    *ret_iterations = MAX(iterations, ITERATIONS_MIN);
    return true;
}

static int free_slot(const LuksHeader *header)
{
    for (int i = 0; i < LUKS_SLOTS; i++) {
        if (!header->slots[i].is_active) {
            return i;
        }
    }
    return -1;
}

static bool check_new_slot(const LuksHeader *header, int *slot,
                           GError **error)
{
    if (*slot < 0) {
        *slot = free_slot(header);
    }
    if (*slot < 0 || *slot >= LUKS_SLOTS || header->slots[*slot].is_active) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    *slot < 0 ? "all %d key slots are in use"
                    : *slot >= LUKS_SLOTS ? "there are %d key slots only"
                    : "the key slot is in use (of %d); erase it first",
                    LUKS_SLOTS);
        return false;
    }
    return true;
}

/* Material only; the header in memory follows, not the one on disk. */
static bool fill_slot(const LuksArea *area, LuksHeader *header,
                      const uint8_t *key, const Secret *secret, int index,
                      uint32_t iter_time_ms, GError **error)
{
    LuksSlot slot = header->slots[index];
    g_autoptr(SectorCipher) cipher = NULL;

    if (!wanted_iterations(header->hash, header->key_bytes, iter_time_ms,
                           &slot.iterations, error)) {
        return false;
    }
    crypto_random(slot.salt, sizeof(slot.salt));
    cipher = slot_cipher(header, &slot, secret, error);
    if (!cipher ||
        !write_material(area, header, &slot, cipher, key, error)) {
        return false;
    }
    slot.is_active = true;
    header->slots[index] = slot;
    return true;
}

bool luks_add_key(const LuksArea *area, LuksHeader *header,
                  const uint8_t *key, const Secret *secret, int slot,
                  uint32_t iter_time_ms, GError **error)
{
    LuksHeader changed = *header;

    if (!check_new_slot(header, &slot, error) ||
        !fill_slot(area, &changed, key, secret, slot, iter_time_ms, error) ||
        !store(area, &changed, error)) {
        return false;
    }
    *header = changed;
    return true;
}

/* So that what is left of the key cannot be merged any more. */
static bool destroy_material(const LuksArea *area, const LuksHeader *header,
                             int slot, GError **error)
{
    int64_t bytes = luks_material_bytes(header->key_bytes);
    g_autofree uint8_t *noise = g_malloc(bytes);

    for (int i = 0; i < ERASE_ROUNDS; i++) {
        crypto_random(noise, bytes);
        if (!area->write(area->opaque, header->slots[slot].key_offset, bytes,
                         noise, error)) {
            return false;
        }
    }
    return true;
}

/* Is @slot the only one in use? */
static bool is_alone(const LuksHeader *header, int slot)
{
    for (int i = 0; i < LUKS_SLOTS; i++) {
        if (i != slot && header->slots[i].is_active) {
            return false;
        }
    }
    return true;
}

bool luks_erase_key(const LuksArea *area, LuksHeader *header, int slot,
                    bool force, GError **error)
{
    LuksHeader changed = *header;

    if (slot < 0 || slot >= LUKS_SLOTS || !header->slots[slot].is_active) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "key slot %d is not in use", slot);
        return false;
    }
    if (!force && is_alone(header, slot)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "key slot %d is the last in use: without it nothing opens "
                    "the image any more", slot);
        return false;
    }
    /* First off the list: half destroyed material opens nothing. */
    changed.slots[slot].is_active = false;
    changed.slots[slot].iterations = 0;
    memset(changed.slots[slot].salt, 0, LUKS_SALT_BYTES);
    if (!store(area, &changed, error) ||
        !destroy_material(area, header, slot, error)) {
        return false;
    }
    *header = changed;
    return true;
}

bool luks_replace_key(const LuksArea *area, LuksHeader *header,
                      const uint8_t *key, const Secret *secret, int slot,
                      uint32_t iter_time_ms, GError **error)
{
    int meanwhile = is_alone(header, slot) ? free_slot(header) : -1;

    return (meanwhile < 0 || luks_add_key(area, header, key, secret,
                                          meanwhile, iter_time_ms, error)) &&
           luks_erase_key(area, header, slot, /* force= */ false, error) &&
           luks_add_key(area, header, key, secret, slot, iter_time_ms,
                        error) &&
           (meanwhile < 0 || luks_erase_key(area, header, meanwhile,
                                            /* force= */ false, error));
}

/* -- new volumes --------------------------------------------------------- */

static bool make_digest(LuksHeader *header, const uint8_t *key,
                        uint32_t iter_time_ms, GError **error)
{
    uint32_t iterations;

    if (!wanted_iterations(header->hash, LUKS_DIGEST_BYTES, iter_time_ms,
                           &iterations, error)) {
        return false;
    }
    /* The key is random: nobody guesses it, however fast. */
    header->digest_iterations = MAX(iterations / 8, ITERATIONS_MIN);
    crypto_random(header->digest_salt, sizeof(header->digest_salt));
    return key_digest(header, key, header->digest, error);
}

/* A random key that the cipher takes. */
static bool make_key(const LuksHeader *header, uint8_t *ret_key,
                     GError **error)
{
    SectorCipher *probe;

    crypto_random(ret_key, header->key_bytes);
    probe = sector_cipher_new(&header->spec, ret_key, error);
    sector_cipher_free(probe);
    return probe != NULL;
}

bool luks_create(const LuksArea *area, const LuksParams *params,
                 const Secret *secret, GError **error)
{
    LuksHeader header = {
        .spec = params->spec,
        .hash = params->hash,
        .key_bytes = cipher_spec_key_bytes(&params->spec),
    };
    g_autofree char *uuid = g_uuid_string_random();
    uint8_t key[CRYPTO_KEY_MAX];
    bool ok;

    luks_header_lay_out(&header);
    g_assert(header.payload_offset <= area->bytes);
    g_strlcpy(header.uuid, uuid, sizeof(header.uuid));
    ok = cipher_spec_check(&params->spec, error) &&
         make_key(&header, key, error) &&
         make_digest(&header, key, params->iter_time_ms, error) &&
         fill_slot(area, &header, key, secret, 0, params->iter_time_ms,
                   error) &&
         store(area, &header, error);
    explicit_bzero(key, sizeof(key));
    return ok;
}
