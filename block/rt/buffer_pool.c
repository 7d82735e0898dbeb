/* SPDX-License-Identifier: MIT */
/*
 * recycled I/O buffers
 *
 * One list of idle buffers per power of two from 4 KiB to 2 MiB; the link to
 * the next stands in the buffer's first bytes. Larger buffers come from the
 * system each time: their copying costs more than their making.
 *
 * Always true outside a function of this file:
 *  P1  idle_bytes is the sum of the sizes on the lists, at most IDLE_BYTES_MAX;
 *  P2  an idle buffer is poisoned for ASan.
 *
 * Locking: none, all state is the thread's own.
 */
#include "block/rt/buffer_pool.h"

#include "block/rt/sanitize.h"

#include <glib.h>
#include <stdlib.h>

#define ALIGNMENT 4096
#define SMALLEST_BITS 12
#define CLASSES 10 /* 4 KiB << 9 is 2 MiB */
#define IDLE_BYTES_MAX (8 * 1024 * 1024)

typedef struct IdleBuffer {
    struct IdleBuffer *next;
} IdleBuffer;

static _Thread_local IdleBuffer *idle[CLASSES];
static _Thread_local size_t idle_bytes;

/* The class that holds @bytes; CLASSES or more: not pooled. */
static inline unsigned class_of(size_t bytes)
{
    if (bytes <= (size_t)1 << SMALLEST_BITS) {
        return 0;
    }
    return 64 - (unsigned)__builtin_clzll(bytes - 1) - SMALLEST_BITS;
}

static inline size_t class_bytes(unsigned class)
{
    return (size_t)1 << (class + SMALLEST_BITS);
}

static void *allocate(size_t bytes)
{
    void *buffer;

    return posix_memalign(&buffer, ALIGNMENT, bytes) == 0 ? buffer : NULL;
}

void *buffer_pool_get(size_t bytes)
{
    unsigned class = class_of(bytes);
    IdleBuffer *buffer;

    if (class >= CLASSES) {
        return allocate(bytes);
    }
    buffer = idle[class];
    if (!buffer) {
        return allocate(class_bytes(class));
    }
    san_unpoison(buffer, class_bytes(class)); /* P2 */
    idle[class] = buffer->next;
    idle_bytes -= class_bytes(class);
    return buffer;
}

void buffer_pool_put(void *buffer, size_t bytes)
{
    unsigned class = class_of(bytes);
    IdleBuffer *link = buffer;

    if (!buffer) {
        return;
    }
    if (class >= CLASSES ||
        idle_bytes + class_bytes(class) > IDLE_BYTES_MAX) { /* P1 */
        free(buffer);
        return;
    }
    link->next = idle[class];
    idle[class] = link;
    idle_bytes += class_bytes(class);
    san_poison(buffer, class_bytes(class)); /* P2 */
}

void buffer_pool_drain(void)
{
    for (unsigned class = 0; class < CLASSES; class++) {
        while (idle[class]) {
            IdleBuffer *buffer = idle[class];

            san_unpoison(buffer, class_bytes(class));
            idle[class] = buffer->next;
            free(buffer);
        }
    }
    idle_bytes = 0;
}
