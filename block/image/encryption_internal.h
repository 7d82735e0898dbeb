/* SPDX-License-Identifier: MIT */
/*
 * what the files about encrypted images share: for encryption*.c only
 */
#ifndef BLOCK_IMAGE_ENCRYPTION_INTERNAL_H
#define BLOCK_IMAGE_ENCRYPTION_INTERNAL_H

#include "block/crypto/sector_cipher.h"
#include "block/image/encryption.h"

struct ImageEncryption {
    bool is_luks;
    LuksHeader luks;      /* is_luks */
    int64_t host_offset;  /* is_luks: of the header */
    int64_t area_bytes;   /* is_luks: with the key material */
    char *secret;         /* that opened it; NULL: the key for all images */
    SectorCipher *cipher; /* NULL: opened without a key */
};

/* Where a header lies: in a node, or in the file of a new image. */
typedef struct ImageEncryptionPlace {
    BdrvChild *file;
    BlockBackend *blk; /* if not @file */
    int64_t host_offset;
} ImageEncryptionPlace;

/* For block/crypto/luks.h. Each write is durable when it returns. */
LuksArea image_encryption_area(ImageEncryptionPlace *place, int64_t bytes);

#endif
