/* SPDX-License-Identifier: MIT */
/*
 * memory for keys and passphrases: never in a core dump, wiped when given back
 *
 * Any thread. Each piece takes whole pages: it is for the few things that stay,
 * not for what a function has on its stack and wipes before it returns.
 */
#ifndef BLOCK_CRYPTO_SECRET_MEMORY_H
#define BLOCK_CRYPTO_SECRET_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* @bytes (not 0) of zeros at the start of a page; NULL: there is no room. */
void *secret_memory_try_get(size_t bytes);

/* The same, but without room the program ends, as with g_malloc(). */
void *secret_memory_get(size_t bytes);

/* Wipes the piece that starts at @memory, and takes it back. NULL is fine. */
void secret_memory_put(void *memory);

/* Is @memory in such a piece? */
bool secret_memory_has(const void *memory);

/*
 * Makes libgcrypt put there what it has been told to keep secret. Before it is
 * initialised; control plane.
 */
void secret_memory_serve_gcrypt(void);

#endif
