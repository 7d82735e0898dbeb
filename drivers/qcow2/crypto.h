/* SPDX-License-Identifier: MIT */
/*
 * encryption of a qcow2 image's guest data
 *
 * Guest clusters are encrypted by sectors of 512 bytes; metadata and
 * compressed clusters are not. With LUKS the IVs are counted from the place
 * on the host, so that a cluster that is shared by snapshots is the same for
 * all of them; with the old AES from the guest's offset.
 *
 * q->encryption is NULL in images that are not encrypted; constant after
 * opening.
 */
#ifndef DRIVERS_QCOW2_CRYPTO_H
#define DRIVERS_QCOW2_CRYPTO_H

#include "block/image/encryption.h"
#include "drivers/qcow2/qcow2.h"

static inline bool qcow2_is_encrypted(const Qcow2State *q)
{
    return q->header.crypt_method != QCOW2_CRYPT_NONE;
}

/* What the IVs of data at @host_offset, the guest's @offset, count from. */
static inline int64_t qcow2_crypto_position(const Qcow2State *q,
                                            int64_t host_offset,
                                            int64_t offset)
{
    return q->header.crypt_method == QCOW2_CRYPT_LUKS ? host_offset : offset;
}

/*
 * qcow2_crypto_open:
 * Takes `encrypt.format` and `encrypt.key-secret` out of @options and sets
 * q->encryption. The header was loaded. Without I/O to come (BDRV_O_NO_IO,
 * BDRV_O_CHECK) no key is needed. Control plane.
 */
bool qcow2_crypto_open(BlockDriverState *bs, BlockOptions *options,
                       BdrvOpenFlags flags, GError **error);

void qcow2_crypto_close(BlockDriverState *bs);

/* The member "encrypt" of an encrypted image's facts. */
void qcow2_crypto_add_info(BlockDriverState *bs, JsonBuilder *builder);

/* -- new images ----------------------------------------------------------- */

/* What the creation options say. */
typedef struct Qcow2CryptoParams {
    Qcow2Crypt method;
    LuksParams luks;
    char *secret; /* NULL: not said */
} Qcow2CryptoParams;

/* Takes encrypt.* and `encryption`. */
bool qcow2_crypto_take_params(BlockOptions *options,
                              Qcow2CryptoParams *ret_params, GError **error);
void qcow2_crypto_params_clear(Qcow2CryptoParams *params);

/* Bytes of the LUKS header; 0: there is none. */
int64_t qcow2_crypto_header_bytes(const Qcow2CryptoParams *params);

/* Writes it; or finds out whether there is a key at all. */
bool qcow2_crypto_create(BlockBackend *file, int64_t host_offset,
                         const Qcow2CryptoParams *params, GError **error);

#endif
