/* SPDX-License-Identifier: MIT */
/*
 * memory for keys: wiped, not in core dumps; and no key is anywhere else
 */
#include "block/crypto/secret_memory.h"

#include "block/crypto/sector_cipher.h"

#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define KEY_BYTES 32
#define MASK 0xa5

/* A key, masked: so that the test itself has it nowhere. */
static uint8_t masked[KEY_BYTES];

static void test_pieces_are_zeros_and_apart(void **state)
{
    uint8_t *pieces[20];

    for (size_t i = 0; i < G_N_ELEMENTS(pieces); i++) {
        pieces[i] = secret_memory_get(1 + i * 1000);
        assert_true(secret_memory_has(pieces[i]));
        for (size_t at = 0; at < 1 + i * 1000; at++) {
            assert_int_equal(pieces[i][at], 0);
        }
        memset(pieces[i], (int)i + 1, 1 + i * 1000);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(pieces); i++) {
        assert_int_equal(pieces[i][0], i + 1);
        assert_int_equal(pieces[i][i * 1000], i + 1);
        secret_memory_put(pieces[i]);
    }
    assert_false(secret_memory_has(masked));
    secret_memory_put(NULL);
}

static void test_a_piece_is_wiped_when_given_back(void **state)
{
    uint8_t *piece = secret_memory_get(5000);
    uint8_t *again;

    memset(piece, 0x77, 5000);
    secret_memory_put(piece);
    again = secret_memory_get(5000);

    assert_ptr_equal(piece, again);
    for (size_t i = 0; i < 5000; i++) {
        assert_int_equal(again[i], 0);
    }
    secret_memory_put(again);
}

static void test_more_than_there_is_is_refused(void **state)
{
    assert_null(secret_memory_try_get(SIZE_MAX));
    assert_null(secret_memory_try_get((size_t)1 << 40));
}

/* Is the masked key at @data? */
static bool is_key(const uint8_t *data)
{
    for (size_t i = 0; i < KEY_BYTES; i++) {
        if ((data[i] ^ MASK) != masked[i]) {
            return false;
        }
    }
    return true;
}

static size_t count_keys(const uint8_t *data, size_t bytes)
{
    size_t found = 0;

    for (size_t i = 0; i + KEY_BYTES <= bytes; i++) {
        found += is_key(data + i);
    }
    return found;
}

/* In place: what allocates memory changes what there is to look through. */
static char *read_smaps(void)
{
    static char text[4 * 1024 * 1024];
    int fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
    size_t bytes = 0;
    ssize_t part;

    assert_true(fd >= 0);
    while ((part = read(fd, text + bytes, sizeof(text) - 1 - bytes)) > 0) {
        bytes += part;
    }
    close(fd);
    assert_int_equal(part, 0);
    text[bytes] = '\0';
    return text;
}

/*
 * How often the key is in this process, where a core dump would (not) be. The
 * stack is left out: dead frames have what registers held, until the next call.
 */
static void count_in_process(size_t *ret_dumped, size_t *ret_hidden)
{
    char *rest = read_smaps();
    char *line;
    uint64_t start = 0;
    uint64_t end = 0;
    bool readable = false;

    *ret_dumped = *ret_hidden = 0;
    while ((line = strsep(&rest, "\n"))) {
        uint64_t from;
        uint64_t to;
        char rights[5];

        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &from, &to,
                   rights) == 3) {
            start = from;
            end = to;
            readable = rights[0] == 'r' && rights[1] == 'w' &&
                       !strstr(line, "[stack]");
        } else if (readable && g_str_has_prefix(line, "VmFlags:")) {
            size_t found = count_keys((const uint8_t *)(uintptr_t)start,
                                      end - start);

            *(strstr(line, " dd") ? ret_hidden : ret_dumped) += found;
        }
    }
}

static SectorCipher *cipher_of_masked_key(void)
{
    CipherSpec spec = { crypto_cipher_find("aes-128"), CRYPTO_MODE_XTS,
                        CRYPTO_IVGEN_PLAIN64, NULL };
    uint8_t *key = secret_memory_get(KEY_BYTES);
    SectorCipher *cipher;

    for (size_t i = 0; i < KEY_BYTES; i++) {
        key[i] = masked[i] ^ MASK;
    }
    cipher = sector_cipher_new(&spec, key, NULL);
    secret_memory_put(key);
    return cipher;
}

static void test_a_key_in_use_is_in_no_core_dump(void **state)
{
    uint8_t data[4096] = { 0 };
    SectorCipher *cipher;
    size_t dumped;
    size_t hidden;

#ifdef __SANITIZE_ADDRESS__
    skip(); /* its shadow of all memory cannot be walked through */
#endif
#ifdef __SANITIZE_THREAD__
    skip();
#endif
    for (size_t i = 0; i < KEY_BYTES; i++) {
        masked[i] = (uint8_t)(i * 37 + 11);
    }
    cipher = cipher_of_masked_key();
    assert_non_null(cipher);
    assert_int_equal(sector_cipher_encrypt(cipher, 0, data, sizeof(data)), 0);

    count_in_process(&dumped, &hidden);
    assert_int_equal(dumped, 0);
    assert_true(hidden > 0);

    sector_cipher_free(cipher);
    count_in_process(&dumped, &hidden);
    assert_int_equal(dumped, 0);
    assert_int_equal(hidden, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_are_zeros_and_apart),
        cmocka_unit_test(test_a_piece_is_wiped_when_given_back),
        cmocka_unit_test(test_more_than_there_is_is_refused),
        cmocka_unit_test(test_a_key_in_use_is_in_no_core_dump),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
