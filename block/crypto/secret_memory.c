/* SPDX-License-Identifier: MIT */
/*
 * memory for keys and passphrases
 *
 *   arena:  [piece, 3 pages][free][piece, 1 page][free ............]
 *   runs:    3  .  .         0     1              0
 *
 * One range of addresses is reserved for all pieces, so that an address alone
 * tells whose it is: libgcrypt asks that without a length. Nothing in it is
 * dumped, nor in the core of a child that the program forks. Pages are not
 * locked: locks end at a fork, and few may be locked by everybody.
 *
 * Always true:
 *  M1  a page of no piece is all zeros, and costs nothing;
 *  M2  runs[i] is not 0 exactly where a piece begins.
 *
 * Locking: `lock` protects the table; nobody sleeps while holding it.
 */
#include "block/crypto/secret_memory.h"

#include <gcrypt.h>
#include <glib.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Of addresses, not of memory: a thousand images with all their threads. */
#define ARENA_PAGES 65536

static GMutex lock;
static uint8_t *arena; /* NULL: not yet reserved, or that failed */
static size_t page_bytes;
static uint32_t runs[ARENA_PAGES]; /* pages of the piece that begins there */

static gpointer reserve(gpointer unused)
{
    size_t bytes;
    void *memory;

    page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    bytes = ARENA_PAGES * page_bytes;
    memory = mmap(NULL, bytes, PROT_NONE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        return NULL;
    }
    (void) madvise(memory, bytes, MADV_DONTDUMP); /* as well as can be */
    arena = memory;
    return NULL;
}

/* Where @pages in a row are free; ARENA_PAGES: nowhere. First fit. */
static size_t find_room(size_t pages)
{
    size_t free_from = 0;

    for (size_t i = 0; i < ARENA_PAGES;) {
        if (runs[i]) {
            i += runs[i];
            free_from = i;
        } else if (++i - free_from == pages) {
            return free_from;
        }
    }
    return ARENA_PAGES;
}

void *secret_memory_try_get(size_t bytes)
{
    static GOnce once = G_ONCE_INIT;
    uint8_t *memory = NULL;
    size_t pages;
    size_t first;

    (void) g_once(&once, reserve, NULL);
    if (!arena || bytes > ARENA_PAGES * page_bytes) {
        return NULL;
    }
    pages = (bytes + page_bytes - 1) / page_bytes;
    g_mutex_lock(&lock);
    first = find_room(pages);
    if (first < ARENA_PAGES &&
        mprotect(arena + first * page_bytes, pages * page_bytes,
                 PROT_READ | PROT_WRITE) == 0) {
        runs[first] = (uint32_t)pages;
        memory = arena + first * page_bytes;
    }
    g_mutex_unlock(&lock);
    return memory;
}

void *secret_memory_get(size_t bytes)
{
    void *memory = secret_memory_try_get(bytes);

    if (!memory) {
        g_error("no memory for %zu bytes of a secret", bytes);
    }
    return memory;
}

void secret_memory_put(void *memory)
{
    size_t first;
    size_t bytes;

    if (!memory) {
        return;
    }
    first = ((uint8_t *)memory - arena) / page_bytes;
    g_mutex_lock(&lock);
    bytes = runs[first] * page_bytes;
    g_assert(bytes); /* M2: a piece, and from its start */
    explicit_bzero(memory, bytes);
    (void) madvise(memory, bytes, MADV_DONTNEED); /* M1 holds anyway */
    (void) mprotect(memory, bytes, PROT_NONE);
    runs[first] = 0;
    g_mutex_unlock(&lock);
}

bool secret_memory_has(const void *memory)
{
    const uint8_t *at = memory;

    return arena && at >= arena && at < arena + ARENA_PAGES * page_bytes;
}

/* -- for libgcrypt -------------------------------------------------------- */

static int gcrypt_is_secret(const void *memory)
{
    return secret_memory_has(memory);
}

static void gcrypt_free(void *memory)
{
    if (secret_memory_has(memory)) {
        secret_memory_put(memory);
    } else {
        free(memory);
    }
}

/* What is secret stays so; the old piece's length is in whole pages. */
static void *gcrypt_realloc(void *memory, size_t bytes)
{
    void *moved;
    size_t old;

    if (!secret_memory_has(memory)) {
        return realloc(memory, bytes);
    }
    old = runs[((uint8_t *)memory - arena) / page_bytes] * page_bytes;
    moved = secret_memory_try_get(bytes);
    if (moved) {
        memcpy(moved, memory, MIN(old, bytes));
        secret_memory_put(memory);
    }
    return moved;
}

void secret_memory_serve_gcrypt(void)
{
    gcry_set_allocation_handler(malloc, secret_memory_try_get,
                                gcrypt_is_secret, gcrypt_realloc, gcrypt_free);
}
