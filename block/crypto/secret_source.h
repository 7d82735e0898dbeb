/* SPDX-License-Identifier: MIT */
/*
 * where a secret's bytes come from: files, the terminal, the environment
 *
 * Every function hands over a buffer that the caller wipes and frees with
 * secret_bytes_free(). Nothing waits longer than a few minutes.
 */
#ifndef BLOCK_CRYPTO_SECRET_SOURCE_H
#define BLOCK_CRYPTO_SECRET_SOURCE_H

#include "block/crypto/secret.h"

/* At most SECRET_MAX_BYTES; a zero byte follows. */
typedef struct SecretBytes {
    uint8_t *data;
    size_t bytes;
} SecretBytes;

void secret_bytes_free(SecretBytes *bytes);

/* All of a file, or of a pipe until its writer closes it. */
bool secret_read_file(const char *filename, SecretBytes *ret_bytes,
                      GError **error);

/* The variable's value; it is overwritten and removed. */
bool secret_read_environment(const char *name, SecretBytes *ret_bytes,
                             GError **error);

/* A file of that name in $CREDENTIALS_DIRECTORY. */
bool secret_read_credential(const char *name, SecretBytes *ret_bytes,
                            GError **error);

/* A line from the controlling terminal, which does not show it. */
bool secret_read_terminal(const char *prompt, SecretBytes *ret_bytes,
                          GError **error);

#endif
