/* SPDX-License-Identifier: MIT */
/*
 * the header of a LUKS volume, version 1
 *
 * Parse (raw -> native), check numbers, check the slots against each other:
 * each its own function, so that a refusal names one fact. See the LUKS On-Disk
 * Format Specification, version 1.2.3.
 *
 * Locking: none; pure functions.
 */
#include "block/crypto/luks_header.h"

#include "block/rt/bytes.h"

#include <assert.h>
#include <inttypes.h>

#define LUKS_VERSION 1
#define SLOT_ACTIVE 0x00ac71f3u
#define SLOT_INACTIVE 0x0000deadu
#define FIRST_SLOT_OFFSET 4096
#define SLOT_ALIGNMENT 4096

static const uint8_t magic[6] = { 'L', 'U', 'K', 'S', 0xba, 0xbe };

typedef struct RawSlot {
    be32 active;
    be32 iterations;
    uint8_t salt[LUKS_SALT_BYTES];
    be32 key_offset_sectors;
    be32 stripes;
} __attribute__((packed)) RawSlot;
static_assert(sizeof(RawSlot) == 48, "LUKS slot layout");

typedef struct RawHeader {
    uint8_t magic[6];
    be16 version;
    char cipher_name[32]; /* padded with zeros, like the next two */
    char cipher_mode[32];
    char hash_spec[32];
    be32 payload_offset_sectors;
    be32 key_bytes;
    uint8_t digest[LUKS_DIGEST_BYTES];
    uint8_t digest_salt[LUKS_SALT_BYTES];
    be32 digest_iterations;
    char uuid[LUKS_UUID_BYTES];
    RawSlot slots[LUKS_SLOTS];
} __attribute__((packed)) RawHeader;
static_assert(sizeof(RawHeader) == LUKS_HEADER_BYTES, "LUKS header layout");

bool luks_header_is_luks(const uint8_t *raw, size_t bytes)
{
    return bytes >= sizeof(magic) && memcmp(raw, magic, sizeof(magic)) == 0;
}

int64_t luks_material_bytes(unsigned key_bytes)
{
    return align_up((int64_t)key_bytes * LUKS_STRIPES, CRYPTO_SECTOR_BYTES);
}

void luks_header_lay_out(LuksHeader *header)
{
    int64_t step = align_up(luks_material_bytes(header->key_bytes),
                            SLOT_ALIGNMENT);

    for (int i = 0; i < LUKS_SLOTS; i++) {
        header->slots[i].key_offset = FIRST_SLOT_OFFSET + i * step;
    }
    header->payload_offset = FIRST_SLOT_OFFSET + LUKS_SLOTS * step;
}

/* -- parsing ------------------------------------------------------------- */

static bool corrupt(GError **error, const char *format, ...)
    G_GNUC_PRINTF(2, 3);

/* Always false, so that a check can be one statement. */
static bool corrupt(GError **error, const char *format, ...)
{
    va_list arguments;
    g_autofree char *message = NULL;

    va_start(arguments, format);
    message = g_strdup_vprintf(format, arguments);
    va_end(arguments);
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_CORRUPT,
                "LUKS header: %s", message);
    return false;
}

/* A padded string of the header, printable; NULL with an error. */
static char *text_field(const char *field, size_t bytes, const char *what,
                        GError **error)
{
    if (!memchr(field, '\0', bytes)) {
        corrupt(error, "the %s has no end", what);
        return NULL;
    }
    for (size_t i = 0; field[i]; i++) {
        if (!g_ascii_isgraph(field[i])) {
            corrupt(error, "the %s has a byte 0x%02x", what,
                    (uint8_t)field[i]);
            return NULL;
        }
    }
    return g_strdup(field);
}

static bool parse_algorithms(LuksHeader *header, const RawHeader *raw,
                             GError **error)
{
    g_autofree char *cipher = text_field(
        raw->cipher_name, sizeof(raw->cipher_name), "cipher name", error);
    g_autofree char *mode =
        cipher ? text_field(raw->cipher_mode, sizeof(raw->cipher_mode),
                            "cipher mode", error) : NULL;
    g_autofree char *hash =
        mode ? text_field(raw->hash_spec, sizeof(raw->hash_spec), "hash name",
                          error) : NULL;

    if (!hash) {
        return false;
    }
    if (header->key_bytes == 0 || header->key_bytes > CRYPTO_KEY_MAX) {
        return corrupt(error, "the key has %u bytes, must have 1 to %d",
                       header->key_bytes, CRYPTO_KEY_MAX);
    }
    header->hash = crypto_hash_find(hash);
    if (!header->hash) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "LUKS header: unknown hash '%s'", hash);
        return false;
    }
    if (!cipher_spec_from_luks(&header->spec, cipher, mode, header->key_bytes,
                               error)) {
        g_prefix_error(error, "LUKS header: ");
        return false;
    }
    return true;
}

static bool parse_slot(LuksHeader *header, int index, const RawSlot *raw,
                       GError **error)
{
    LuksSlot *slot = &header->slots[index];
    uint32_t active = be32_get(&raw->active);
    uint32_t stripes = be32_get(&raw->stripes);
    int64_t end;

    if (active != SLOT_ACTIVE && active != SLOT_INACTIVE) {
        return corrupt(error, "key slot %d has state 0x%08" PRIx32, index,
                       active);
    }
    slot->is_active = active == SLOT_ACTIVE;
    slot->iterations = be32_get(&raw->iterations);
    slot->key_offset =
        (int64_t)be32_get(&raw->key_offset_sectors) * CRYPTO_SECTOR_BYTES;
    memcpy(slot->salt, raw->salt, sizeof(slot->salt));
    if (stripes != LUKS_STRIPES) {
        return corrupt(error, "key slot %d has %" PRIu32 " stripes, must have "
                       "%d", index, stripes, LUKS_STRIPES);
    }
    if (slot->is_active && slot->iterations == 0) {
        return corrupt(error, "key slot %d has no iterations", index);
    }
    end = slot->key_offset + luks_material_bytes(header->key_bytes);
    if (slot->key_offset < LUKS_HEADER_BYTES) {
        return corrupt(error, "key slot %d at 0x%" PRIx64 " overlaps the "
                       "header", index, slot->key_offset);
    }
    if (end > header->payload_offset) {
        return corrupt(error, "key slot %d ends at 0x%" PRIx64 ", inside the "
                       "payload at 0x%" PRIx64, index, end,
                       header->payload_offset);
    }
    return true;
}

static bool check_overlaps(const LuksHeader *header, GError **error)
{
    int64_t bytes = luks_material_bytes(header->key_bytes);

    for (int i = 0; i < LUKS_SLOTS; i++) {
        for (int j = i + 1; j < LUKS_SLOTS; j++) {
            int64_t a = header->slots[i].key_offset;
            int64_t b = header->slots[j].key_offset;

            if (a < b + bytes && b < a + bytes) {
                return corrupt(error, "key slots %d at 0x%" PRIx64 " and %d at "
                               "0x%" PRIx64 " overlap", i, a, j, b);
            }
        }
    }
    return true;
}

static bool parse_fields(LuksHeader *header, const RawHeader *raw,
                         int64_t area_bytes, GError **error)
{
    unsigned version = be16_get(&raw->version);

    if (!luks_header_is_luks(raw->magic, sizeof(raw->magic))) {
        return corrupt(error, "it does not start with LUKS' magic bytes");
    }
    if (version != LUKS_VERSION) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "LUKS version %u is not supported, only %d", version,
                    LUKS_VERSION);
        return false;
    }
    header->key_bytes = be32_get(&raw->key_bytes);
    header->payload_offset =
        (int64_t)be32_get(&raw->payload_offset_sectors) * CRYPTO_SECTOR_BYTES;
    header->digest_iterations = be32_get(&raw->digest_iterations);
    memcpy(header->digest, raw->digest, sizeof(header->digest));
    memcpy(header->digest_salt, raw->digest_salt,
           sizeof(header->digest_salt));
    if (header->payload_offset < LUKS_HEADER_BYTES ||
        header->payload_offset > area_bytes) {
        return corrupt(error, "the payload is at 0x%" PRIx64 ", not between "
                       "the header and the end at 0x%" PRIx64,
                       header->payload_offset, area_bytes);
    }
    if (header->digest_iterations == 0) {
        return corrupt(error, "the key's digest has no iterations");
    }
    return true;
}

bool luks_header_parse(LuksHeader *ret_header, const uint8_t *raw_bytes,
                       int64_t area_bytes, GError **error)
{
    const RawHeader *raw = (const RawHeader *)raw_bytes;
    LuksHeader header = { 0 };
    g_autofree char *uuid = NULL;

    if (!parse_fields(&header, raw, area_bytes, error) ||
        !parse_algorithms(&header, raw, error)) {
        return false;
    }
    for (int i = 0; i < LUKS_SLOTS; i++) {
        if (!parse_slot(&header, i, &raw->slots[i], error)) {
            return false;
        }
    }
    if (!check_overlaps(&header, error)) {
        return false;
    }
    uuid = text_field(raw->uuid, sizeof(raw->uuid), "UUID", error);
    if (!uuid) {
        return false;
    }
    g_strlcpy(header.uuid, uuid, sizeof(header.uuid));
    *ret_header = header;
    return true;
}

/* -- formatting ---------------------------------------------------------- */

void luks_header_format(const LuksHeader *header, uint8_t *ret_raw)
{
    RawHeader *raw = (RawHeader *)ret_raw;
    g_autofree char *mode = cipher_spec_luks_mode(&header->spec);

    memset(raw, 0, sizeof(*raw));
    memcpy(raw->magic, magic, sizeof(magic));
    be16_set(&raw->version, LUKS_VERSION);
    g_strlcpy(raw->cipher_name, header->spec.cipher->luks_name,
              sizeof(raw->cipher_name));
    g_strlcpy(raw->cipher_mode, mode, sizeof(raw->cipher_mode));
    g_strlcpy(raw->hash_spec, header->hash->name, sizeof(raw->hash_spec));
    be32_set(&raw->payload_offset_sectors,
             header->payload_offset / CRYPTO_SECTOR_BYTES);
    be32_set(&raw->key_bytes, header->key_bytes);
    memcpy(raw->digest, header->digest, sizeof(raw->digest));
    memcpy(raw->digest_salt, header->digest_salt, sizeof(raw->digest_salt));
    be32_set(&raw->digest_iterations, header->digest_iterations);
    memcpy(raw->uuid, header->uuid, strlen(header->uuid));
    for (int i = 0; i < LUKS_SLOTS; i++) {
        const LuksSlot *slot = &header->slots[i];

        be32_set(&raw->slots[i].active,
                 slot->is_active ? SLOT_ACTIVE : SLOT_INACTIVE);
        be32_set(&raw->slots[i].iterations, slot->iterations);
        memcpy(raw->slots[i].salt, slot->salt, sizeof(slot->salt));
        be32_set(&raw->slots[i].key_offset_sectors,
                 slot->key_offset / CRYPTO_SECTOR_BYTES);
        be32_set(&raw->slots[i].stripes, LUKS_STRIPES);
    }
}
