/* SPDX-License-Identifier: MIT */
/*
 * LUKS volumes, version 1: unlocking, making, and changing their key slots
 *
 * Where the header lies is the caller's business: it hands over two functions
 * that read and write there. Everything is control plane and may take seconds:
 * that is what key derivation is for. Volume keys are the caller's to wipe.
 */
#ifndef BLOCK_CRYPTO_LUKS_H
#define BLOCK_CRYPTO_LUKS_H

#include "block/crypto/luks_header.h"
#include "block/crypto/secret.h"

/* The host bytes that hold header and key material. Offsets start at 0. */
typedef struct LuksArea {
    bool (*read)(void *opaque, int64_t offset, int64_t bytes, void *buffer,
                 GError **error);
    /* NULL: only reading. */
    bool (*write)(void *opaque, int64_t offset, int64_t bytes,
                  const void *buffer, GError **error);
    void *opaque;
    int64_t bytes; /* the payload starts there at the latest */
} LuksArea;

/* What a new volume is to be. */
typedef struct LuksParams {
    CipherSpec spec;
    const CryptoHash *hash;
    uint32_t iter_time_ms; /* of each passphrase's derivation */
} LuksParams;

/* AES-256 in XTS mode, plain64, SHA-256, 2 seconds. */
void luks_params_init(LuksParams *params);

/* Bytes of header and key material of a new volume. */
int64_t luks_params_header_bytes(const LuksParams *params);

bool luks_load(const LuksArea *area, LuksHeader *ret_header, GError **error);

/*
 * luks_unlock:
 * The volume key by the first slot that @secret opens. DENIED: it opens none.
 * CORRUPT: the header asks for more than LUKS_UNLOCK_SECONDS_MAX of key
 * derivation on this machine; that is said before any of it is done.
 */
#define LUKS_UNLOCK_SECONDS_MAX 120
/* Milliseconds for a new passphrase, so that slower machines open it, too. */
#define LUKS_ITER_TIME_MAX (LUKS_UNLOCK_SECONDS_MAX * 1000 / 4)
bool luks_unlock(const LuksArea *area, const LuksHeader *header,
                 const Secret *secret, uint8_t ret_key[CRYPTO_KEY_MAX],
                 int *ret_slot, GError **error);

/*
 * luks_create:
 * A new volume key, which @secret opens by slot 0. The header is written last.
 */
bool luks_create(const LuksArea *area, const LuksParams *params,
                 const Secret *secret, GError **error);

/*
 * luks_add_key:
 * One more passphrase for @key, the volume key. @slot -1: the first that is
 * free; one in use is refused (OPTION). @header follows.
 */
bool luks_add_key(const LuksArea *area, LuksHeader *header,
                  const uint8_t *key, const Secret *secret, int slot,
                  uint32_t iter_time_ms, GError **error);

/*
 * luks_erase_key:
 * The slot's key material is overwritten, the slot free. The last one in use
 * only with @force: nothing opens the volume afterwards. @header follows.
 */
bool luks_erase_key(const LuksArea *area, LuksHeader *header, int slot,
                    bool force, GError **error);

/*
 * luks_replace_key:
 * Another passphrase for @key in @slot, which is in use. Where no other slot
 * is, a free one has the new passphrase meanwhile: at every moment something
 * opens the volume. OPTION: @slot is not in use. @header follows.
 */
bool luks_replace_key(const LuksArea *area, LuksHeader *header,
                      const uint8_t *key, const Secret *secret, int slot,
                      uint32_t iter_time_ms, GError **error);

#endif
