/* SPDX-License-Identifier: MIT */
/*
 * memory for keys and passphrases
 *
 *   arena:    [piece, 3 pages][free][piece, 1 page][free ............]
 *   lengths:   9000  .   .     0     32             0
 *
 * One range of addresses is reserved for all pieces, so that an address alone
 * tells whose it is: libgcrypt asks that without a length. Nothing in it is
 * dumped, nor in the core of a child that the program forks. Pages are not
 * locked: locks end at a fork, and few may be locked by everybody.
 *
 * Always true:
 *  M1  what is in no piece is all zeros;
 *  M2  lengths[i] is not 0 exactly where a piece begins.
 *
 * Key derivation takes and gives back a few bytes in each of its iterations, so
 * that is a table entry and no system call: pages once used stay accessible.
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
static size_t open_pages; /* at the arena's start: those can be accessed */
static uint32_t lengths[ARENA_PAGES]; /* bytes of the piece beginning there */

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

static size_t pages_of(size_t bytes)
{
    return (bytes + page_bytes - 1) / page_bytes;
}

/* Where @pages in a row are free; ARENA_PAGES: nowhere. First fit. */
static size_t find_room(size_t pages)
{
    size_t free_from = 0;

    for (size_t i = 0; i < ARENA_PAGES;) {
        if (lengths[i]) {
            i += pages_of(lengths[i]);
            free_from = i;
        } else if (++i - free_from == pages) {
            return free_from;
        }
    }
    return ARENA_PAGES;
}

/* Makes the arena accessible up to page @end. */
static bool open_up_to(size_t end)
{
    if (end > open_pages) {
        if (mprotect(arena + open_pages * page_bytes,
                     (end - open_pages) * page_bytes,
                     PROT_READ | PROT_WRITE) < 0) {
            return false;
        }
        open_pages = end;
    }
    return true;
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
    bytes = MAX(bytes, 1);
    pages = pages_of(bytes);
    g_mutex_lock(&lock);
    first = find_room(pages);
    if (first < ARENA_PAGES && open_up_to(first + pages)) {
        lengths[first] = (uint32_t)bytes;
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

    if (!memory) {
        return;
    }
    first = ((uint8_t *)memory - arena) / page_bytes;
    g_mutex_lock(&lock);
    g_assert(lengths[first]); /* M2: a piece, and from its start */
    explicit_bzero(memory, lengths[first]); /* M1 */
    lengths[first] = 0;
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

/* What is secret stays so. */
static void *gcrypt_realloc(void *memory, size_t bytes)
{
    void *moved;
    size_t old;

    if (!secret_memory_has(memory)) {
        return realloc(memory, bytes);
    }
    old = lengths[((uint8_t *)memory - arena) / page_bytes];
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
