/* SPDX-License-Identifier: MIT */
/*
 * changing who can open an encrypted image: the key slots of its LUKS header
 *
 * A slot holds the image's own key, encrypted by one passphrase. Slots come and
 * go; the image's key and data stay. Control plane, node drained.
 */
#ifndef BLOCK_IMAGE_ENCRYPTION_SLOTS_H
#define BLOCK_IMAGE_ENCRYPTION_SLOTS_H

#include "block/image/encryption.h"

/* In the order of `state`. */
extern const char *const image_encryption_states[];

/* Rows of a format's table of what can be amended. */
#define IMAGE_ENCRYPTION_AMEND_OPTIONS(prefix) \
    { .name = prefix "state", .type = BLOCK_OPTION_ENUM, \
      .values = image_encryption_states, \
      .help = "active: fill a key slot, inactive: erase some" }, \
    { .name = prefix "new-secret", .type = BLOCK_OPTION_STRING, \
      .help = "active: id of the secret that opens the image, too" }, \
    { .name = prefix "old-secret", .type = BLOCK_OPTION_STRING, \
      .help = "inactive: id of the secret that opens it no more" }, \
    { .name = prefix "keyslot", .type = BLOCK_OPTION_NUMBER, \
      .help = "which slot, 0 to 7 (default: a free one; what old-secret " \
              "opens)" }, \
    { .name = prefix "iter-time", .type = BLOCK_OPTION_NUMBER, \
      .default_value = "2000", \
      .help = "active: milliseconds that trying the passphrase takes" }

/* What a user wants. */
typedef struct ImageEncryptionSlots {
    int state;         /* index of image_encryption_states; -1: nothing */
    char *new_secret;
    char *old_secret;
    int slot;          /* -1: not said */
    uint32_t iter_time_ms;
} ImageEncryptionSlots;

/*
 * image_encryption_slots_take:
 * Takes these options out of @options, each behind @prefix. OPTION when they
 * do not belong together. @ret_slots is to be cleared in any case.
 */
bool image_encryption_slots_take(BlockOptions *options, const char *prefix,
                                 ImageEncryptionSlots *ret_slots,
                                 GError **error);
void image_encryption_slots_clear(ImageEncryptionSlots *slots);

/*
 * image_encryption_slots_amend:
 * Does what @slots says to the header in @file. @force allows what may leave
 * an image that nothing opens: erasing the last slot, and filling one that is
 * in use. False with OPTION or DENIED, and then nothing has changed; or IO.
 */
bool image_encryption_slots_amend(ImageEncryption *encryption,
                                  BdrvChild *file,
                                  const ImageEncryptionSlots *slots,
                                  bool force, GError **error);

#endif
