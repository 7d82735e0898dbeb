/* SPDX-License-Identifier: MIT */
/*
 * changing who can open an encrypted image: the key slots of its LUKS header
 *
 * The order of writes is block/crypto/luks.c's: a slot is listed after its
 * material is there, and off the list before that goes. So at every moment
 * each passphrase that shall stay opens the image.
 *
 * Locking: none; control plane, node drained.
 */
#include "block/image/encryption_slots.h"

#include "block/image/encryption_internal.h"

#include <inttypes.h>
#include <string.h>

enum { STATE_ACTIVE, STATE_INACTIVE };

const char *const image_encryption_states[] = { "active", "inactive", NULL };

/* -- options -------------------------------------------------------------- */

static bool refuse(GError **error, const char *prefix, const char *text)
{
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION, "%s%s", prefix,
                text);
    return false;
}

/* Which of the options go together. */
static bool check_wish(const ImageEncryptionSlots *slots, const char *prefix,
                       bool has_time, GError **error)
{
    bool has_others = slots->new_secret || slots->old_secret ||
                      slots->slot >= 0 || has_time;

    switch (slots->state) {
    case STATE_ACTIVE:
        if (slots->old_secret) {
            return refuse(error, prefix, "old-secret is for state=inactive");
        }
        return slots->new_secret ||
               refuse(error, prefix, "new-secret is missing");
    case STATE_INACTIVE:
        if (slots->new_secret || has_time) {
            return refuse(error, prefix, slots->new_secret
                          ? "new-secret is for state=active"
                          : "iter-time is for state=active");
        }
        return (slots->slot >= 0) != (slots->old_secret != NULL) ||
               refuse(error, prefix, "state=inactive takes either keyslot or "
                      "old-secret");
    default:
        return !has_others || refuse(error, prefix, "state is missing");
    }
}

bool image_encryption_slots_take(BlockOptions *options, const char *prefix,
                                 ImageEncryptionSlots *ret_slots,
                                 GError **error)
{
    g_autofree char *state = g_strconcat(prefix, "state", NULL);
    g_autofree char *new_secret = g_strconcat(prefix, "new-secret", NULL);
    g_autofree char *old_secret = g_strconcat(prefix, "old-secret", NULL);
    g_autofree char *keyslot = g_strconcat(prefix, "keyslot", NULL);
    g_autofree char *time = g_strconcat(prefix, "iter-time", NULL);
    bool has_slot = block_options_has(options, keyslot);
    bool has_time = block_options_has(options, time);
    uint64_t slot = 0, time_ms = 2000;

    *ret_slots = (ImageEncryptionSlots){ .state = -1, .slot = -1 };
    if (!block_options_take_enum(options, state, image_encryption_states,
                                 &ret_slots->state, error) ||
        !block_options_take_string(options, new_secret,
                                   &ret_slots->new_secret, error) ||
        !block_options_take_string(options, old_secret,
                                   &ret_slots->old_secret, error) ||
        !block_options_take_number(options, keyslot, &slot, error) ||
        !block_options_take_number(options, time, &time_ms, error)) {
        return false;
    }
    if (slot >= LUKS_SLOTS) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s is %" PRIu64 ", must be 0 to %d", keyslot, slot,
                    LUKS_SLOTS - 1);
        return false;
    }
    if (time_ms == 0 || time_ms > LUKS_ITER_TIME_MAX) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s is %" PRIu64 ", must be 1 to %d milliseconds", time,
                    time_ms, LUKS_ITER_TIME_MAX);
        return false;
    }
    ret_slots->slot = has_slot ? (int)slot : -1;
    ret_slots->iter_time_ms = (uint32_t)time_ms;
    return check_wish(ret_slots, prefix, has_time, error);
}

void image_encryption_slots_clear(ImageEncryptionSlots *slots)
{
    g_clear_pointer(&slots->new_secret, g_free);
    g_clear_pointer(&slots->old_secret, g_free);
}

/* -- slots ---------------------------------------------------------------- */

/* The image's own key, by the secret that it was opened with. */
static bool find_key(const ImageEncryption *encryption, const LuksArea *area,
                     uint8_t ret_key[CRYPTO_KEY_MAX], GError **error)
{
    const Secret *secret = secret_find(encryption->secret, "key-secret",
                                       error);
    int slot;

    return secret && luks_unlock(area, &encryption->luks, secret, ret_key,
                                 &slot, error);
}

static bool fill(ImageEncryption *encryption, const LuksArea *area,
                 const ImageEncryptionSlots *slots, bool force,
                 GError **error)
{
    const Secret *secret = secret_find(slots->new_secret, "new-secret",
                                       error);
    bool is_in_use = slots->slot >= 0 &&
                     encryption->luks.slots[slots->slot].is_active;
    uint8_t key[CRYPTO_KEY_MAX];
    bool ok = secret != NULL;

    if (ok && is_in_use && !force) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "key slot %d is in use; erase it first, or use --force",
                    slots->slot);
        ok = false;
    }
    ok = ok && find_key(encryption, area, key, error) &&
         (is_in_use
              ? luks_replace_key(area, &encryption->luks, key, secret,
                                 slots->slot, slots->iter_time_ms, error)
              : luks_add_key(area, &encryption->luks, key, secret,
                             slots->slot, slots->iter_time_ms, error));
    explicit_bzero(key, sizeof(key));
    return ok;
}

/* Finds all slots that @secret opens. False: none, or an error. */
static bool find_slots(const ImageEncryption *encryption,
                       const LuksArea *area, const Secret *secret,
                       bool ret_found[LUKS_SLOTS], GError **error)
{
    LuksHeader rest = encryption->luks; /* without those found */
    uint8_t key[CRYPTO_KEY_MAX];
    g_autoptr(GError) failure = NULL;
    bool any = false;
    int slot;

    while (luks_unlock(area, &rest, secret, key, &slot, &failure)) {
        rest.slots[slot].is_active = false;
        ret_found[slot] = any = true;
    }
    explicit_bzero(key, sizeof(key));
    if (any && g_error_matches(failure, IMGFUSE_ERROR, IMGFUSE_ERROR_DENIED)) {
        return true; /* the others belong to somebody else */
    }
    g_propagate_error(error, g_steal_pointer(&failure));
    return false;
}

/* Refused before the first is erased, if the last would be among them. */
static bool erase(ImageEncryption *encryption, const LuksArea *area,
                  const ImageEncryptionSlots *slots, bool force,
                  GError **error)
{
    bool chosen[LUKS_SLOTS] = { false };
    bool some_stay = false;

    if (slots->old_secret) {
        const Secret *secret = secret_find(slots->old_secret, "old-secret",
                                           error);

        if (!secret ||
            !find_slots(encryption, area, secret, chosen, error)) {
            return false;
        }
    } else {
        chosen[slots->slot] = true;
    }
    for (int i = 0; i < LUKS_SLOTS; i++) {
        some_stay |= encryption->luks.slots[i].is_active && !chosen[i];
    }
    if (!some_stay && !force) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "no key slot would be left, and nothing opens the image "
                    "without one; if that is meant, use --force");
        return false;
    }
    for (int i = 0; i < LUKS_SLOTS; i++) {
        if (chosen[i] &&
            !luks_erase_key(area, &encryption->luks, i, force, error)) {
            return false;
        }
    }
    return true;
}

bool image_encryption_slots_amend(ImageEncryption *encryption,
                                  BdrvChild *file,
                                  const ImageEncryptionSlots *slots,
                                  bool force, GError **error)
{
    ImageEncryptionPlace place;
    LuksArea area;

    if (slots->state < 0) {
        return true;
    }
    if (!encryption || !encryption->is_luks) {
        g_set_error_literal(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                            "the image has no key slots: it is not encrypted "
                            "by luks");
        return false;
    }
    place = (ImageEncryptionPlace){ .file = file,
                                    .host_offset = encryption->host_offset };
    area = image_encryption_area(&place, encryption->area_bytes);
    return slots->state == STATE_ACTIVE
               ? fill(encryption, &area, slots, force, error)
               : erase(encryption, &area, slots, force, error);
}
