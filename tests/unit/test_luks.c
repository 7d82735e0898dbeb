/* SPDX-License-Identifier: MIT */
/*
 * LUKS volumes in memory: vectors, keys and their slots, hostile headers
 */
#include "block/crypto/luks.h"

#include "block/crypto/kdf.h"
#include "block/crypto/sector_cipher.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define AREA_BYTES (2 * 1024 * 1024)

static uint8_t memory[AREA_BYTES];

static bool memory_read(void *opaque, int64_t offset, int64_t bytes,
                        void *buffer, GError **error)
{
    memcpy(buffer, memory + offset, bytes);
    return true;
}

/* What a power cut would have left, one state for each sector of a header. */
static GPtrArray *states; /* NULL: not kept */

static void keep_state(void)
{
    if (states) {
        g_ptr_array_add(states, g_memdup2(memory, AREA_BYTES));
    }
}

static bool memory_write(void *opaque, int64_t offset, int64_t bytes,
                         const void *buffer, GError **error)
{
    int64_t part = MIN(bytes, CRYPTO_SECTOR_BYTES);

    memcpy(memory + offset, buffer, part);
    keep_state();
    memcpy(memory + offset + part, (const uint8_t *)buffer + part,
           bytes - part);
    keep_state();
    return true;
}

static const LuksArea area = { memory_read, memory_write, NULL, AREA_BYTES };

static Secret secret_of(const char *text)
{
    return (Secret) { NULL, (uint8_t *)text, strlen(text) };
}

static void make_volume(void)
{
    Secret secret = secret_of("first");
    LuksParams params;

    luks_params_init(&params);
    params.iter_time_ms = 1;
    assert_true(luks_create(&area, &params, &secret, NULL));
}

static bool opens(const char *text, uint8_t *ret_key, int *ret_slot)
{
    Secret secret = secret_of(text);
    LuksHeader header;

    return luks_load(&area, &header, NULL) &&
           luks_unlock(&area, &header, &secret, ret_key, ret_slot, NULL);
}

/* IEEE 1619, vector 4; and the same by way of a vector in odd parts. */
static void test_xts_is_that_of_the_standard(void **state)
{
    static const uint8_t start[16] = { 0x27, 0xa7, 0x47, 0x9b, 0xef, 0xa1,
                                       0xd4, 0x76, 0x48, 0x9f, 0x30, 0x8c,
                                       0xd4, 0xcf, 0xa6, 0xe2 };
    static const uint8_t key[32] = {
        0x27, 0x18, 0x28, 0x18, 0x28, 0x45, 0x90, 0x45, 0x23, 0x53, 0x60,
        0x28, 0x74, 0x71, 0x35, 0x26, 0x31, 0x41, 0x59, 0x26, 0x53, 0x58,
        0x97, 0x93, 0x23, 0x84, 0x62, 0x64, 0x33, 0x83, 0x27, 0x95 };
    CipherSpec spec = { crypto_cipher_find("aes-128"), CRYPTO_MODE_XTS,
                        CRYPTO_IVGEN_PLAIN64, NULL };
    g_autoptr(SectorCipher) cipher = sector_cipher_new(&spec, key, NULL);
    uint8_t data[2048];
    IoVec vec;

    for (unsigned i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)i;
    }
    assert_int_equal(sector_cipher_encrypt(cipher, 0, data, sizeof(data)), 0);
    assert_memory_equal(data, start, sizeof(start));

    iovec_init(&vec);
    iovec_add(&vec, data, 100);
    iovec_add(&vec, data + 100, 1000);
    iovec_add(&vec, data + 1100, 948);
    assert_int_equal(sector_cipher_decrypt_iov(cipher, 0, &vec, 0,
                                               sizeof(data)), 0);
    iovec_destroy(&vec);
    for (unsigned i = 0; i < sizeof(data); i++) {
        assert_int_equal(data[i], (uint8_t)i);
    }
}

/* RFC 6070. */
static void test_pbkdf2_is_that_of_the_standard(void **state)
{
    static const uint8_t wanted[20] = { 0x4b, 0x00, 0x79, 0x01, 0xb7, 0x65,
                                        0x48, 0x9a, 0xbe, 0xad, 0x49, 0xd9,
                                        0x26, 0xf7, 0x21, 0xd0, 0x65, 0xa4,
                                        0x29, 0xc1 };
    uint8_t key[20];

    assert_true(kdf_pbkdf2(crypto_hash_find("sha1"), "password", 8,
                           (const uint8_t *)"salt", 4, 4096, key, 20, NULL));
    assert_memory_equal(key, wanted, 20);
}

static void test_a_wrong_passphrase_opens_nothing(void **state)
{
    uint8_t key[CRYPTO_KEY_MAX];
    int slot;

    make_volume();

    assert_true(opens("first", key, &slot));
    assert_int_equal(slot, 0);
    assert_false(opens("firs", key, &slot));
    assert_false(opens("", key, &slot));
}

static void test_slots_come_and_go(void **state)
{
    Secret second = secret_of("second");
    uint8_t key[CRYPTO_KEY_MAX];
    uint8_t again[CRYPTO_KEY_MAX];
    LuksHeader header;
    int slot;

    make_volume();
    assert_true(opens("first", key, &slot));
    assert_true(luks_load(&area, &header, NULL));

    assert_true(luks_add_key(&area, &header, key, &second, -1, 1, NULL));
    assert_true(opens("second", again, &slot));
    assert_int_equal(slot, 1);
    assert_memory_equal(key, again, header.key_bytes);

    assert_true(luks_erase_key(&area, &header, 0, /* force= */ false, NULL));
    assert_false(opens("first", key, &slot));
    assert_true(opens("second", again, &slot));
    assert_false(luks_erase_key(&area, &header, 1, /* force= */ false, NULL));
}

/* In each state that the writes go through, one of the two opens it. */
static void assert_always_opens(const char *one, const char *other)
{
    g_autofree uint8_t *last = g_memdup2(memory, AREA_BYTES);
    uint8_t key[CRYPTO_KEY_MAX];
    int slot;

    assert_true(states->len > 0);
    for (guint i = 0; i < states->len; i++) {
        memcpy(memory, g_ptr_array_index(states, i), AREA_BYTES);
        assert_true(opens(one, key, &slot) || opens(other, key, &slot));
    }
    memcpy(memory, last, AREA_BYTES);
    g_clear_pointer(&states, g_ptr_array_unref);
}

/* Slot 6's entry lies across two sectors of the header. */
static void test_a_power_cut_locks_nobody_out(void **state)
{
    Secret second = secret_of("second");
    uint8_t key[CRYPTO_KEY_MAX];
    LuksHeader header;
    int slot;

    make_volume();
    assert_true(opens("first", key, &slot));
    assert_true(luks_load(&area, &header, NULL));

    states = g_ptr_array_new_with_free_func(g_free);
    assert_true(luks_add_key(&area, &header, key, &second, 6, 1, NULL));
    assert_always_opens("first", "first");

    states = g_ptr_array_new_with_free_func(g_free);
    assert_true(luks_erase_key(&area, &header, 0, /* force= */ false, NULL));
    assert_always_opens("second", "second");
}

static void test_the_only_passphrase_is_replaced_safely(void **state)
{
    Secret second = secret_of("second");
    uint8_t key[CRYPTO_KEY_MAX];
    LuksHeader header;
    int slot;

    make_volume();
    assert_true(opens("first", key, &slot));
    assert_true(luks_load(&area, &header, NULL));
    assert_false(luks_replace_key(&area, &header, key, &second, 3, 1, NULL));
    assert_true(opens("first", key, &slot));

    states = g_ptr_array_new_with_free_func(g_free);
    assert_true(luks_replace_key(&area, &header, key, &second, 0, 1, NULL));

    assert_always_opens("first", "second");
    assert_false(opens("first", key, &slot));
    assert_true(opens("second", key, &slot));
    assert_int_equal(slot, 0);
    for (int i = 1; i < LUKS_SLOTS; i++) {
        assert_false(header.slots[i].is_active);
    }
}

typedef struct Hostile {
    const char *name;
    unsigned offset;
    uint8_t bytes[4];
} Hostile;

/* Each is refused, at once. */
static void test_hostile_headers_are_refused(void **state)
{
    static const Hostile rows[] = {
        { "magic", 0, { 'X', 'U', 'K', 'S' } },
        { "version", 6, { 0, 2, 'a', 'e' } },
        { "cipher", 8, { 'x', 'y', 'z', 0 } },
        { "mode", 40, { 'x', 'x', 'x', '-' } },
        { "hash", 72, { 'm', 'd', '2', 0 } },
        { "payload in the header", 104, { 0, 0, 0, 1 } },
        { "payload past the end", 104, { 0xff, 0xff, 0xff, 0xff } },
        { "no key bytes", 108, { 0, 0, 0, 0 } },
        { "many key bytes", 108, { 0xff, 0xff, 0xff, 0xff } },
        { "odd key bytes", 108, { 0, 0, 0, 33 } },
        { "no digest iterations", 164, { 0, 0, 0, 0 } },
        { "endless digest", 164, { 0xff, 0xff, 0xff, 0xff } },
        { "slot state", 208, { 1, 2, 3, 4 } },
        { "no slot iterations", 212, { 0, 0, 0, 0 } },
        { "slot in the header", 248, { 0, 0, 0, 0 } },
        { "slot in the payload", 248, { 0, 0, 0x0f, 0xc0 } },
        { "slots overlap", 248 + 48, { 0, 0, 0, 9 } },
        { "no stripes", 252, { 0, 0, 0, 0 } },
        { "many stripes", 252, { 0xff, 0xff, 0xff, 0xff } },
        { "endless slot", 212, { 0xff, 0xff, 0xff, 0xff } },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        uint8_t key[CRYPTO_KEY_MAX];
        int slot;

        make_volume();
        memcpy(memory + rows[i].offset, rows[i].bytes, 4);
        print_message("%s\n", rows[i].name);
        assert_false(opens("first", key, &slot));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_xts_is_that_of_the_standard),
        cmocka_unit_test(test_pbkdf2_is_that_of_the_standard),
        cmocka_unit_test(test_a_wrong_passphrase_opens_nothing),
        cmocka_unit_test(test_slots_come_and_go),
        cmocka_unit_test(test_a_power_cut_locks_nobody_out),
        cmocka_unit_test(test_the_only_passphrase_is_replaced_safely),
        cmocka_unit_test(test_hostile_headers_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
