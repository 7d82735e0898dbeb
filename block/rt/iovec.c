/* SPDX-License-Identifier: MIT */
/*
 * scattered buffers
 *
 * All functions that take a part [at, at + bytes) walk it with a Cursor, run
 * by run. A part outside of the vector is a caller's bug.
 *
 * Always true outside a function of this file:
 *  V1  size is the sum of the elements' lengths;
 *  V2  capacity 0 means that iov is somebody else's and is not
 *      written through; else iov is local or on the heap, with that capacity.
 *
 * Locking: none; a vector has one user.
 */
#include "block/rt/iovec.h"

#include <glib.h>
#include <string.h>

typedef struct Cursor {
    const struct iovec *element;
    size_t skip; /* into *element */
    size_t left; /* bytes of the part still to come */
} Cursor;

static Cursor cursor_at(const IoVec *vec, size_t at, size_t bytes)
{
    Cursor cursor = { .element = vec->iov, .left = bytes };

    g_assert(at <= vec->size && bytes <= vec->size - at);
    if (bytes == 0) {
        return cursor;
    }
    while (at >= cursor.element->iov_len) {
        at -= cursor.element->iov_len;
        cursor.element++;
    }
    cursor.skip = at;
    return cursor;
}

/* The next run of the part; false at its end. */
static bool cursor_next(Cursor *cursor, char **ret_base, size_t *ret_bytes)
{
    size_t bytes;

    if (!cursor->left) {
        return false;
    }
    while (cursor->skip == cursor->element->iov_len) {
        cursor->element++; /* an empty one */
        cursor->skip = 0;
    }
    bytes = MIN(cursor->left, cursor->element->iov_len - cursor->skip);
    *ret_base = (char *)cursor->element->iov_base + cursor->skip;
    *ret_bytes = bytes;
    cursor->left -= bytes;
    cursor->element++;
    cursor->skip = 0;
    return true;
}

void iovec_init(IoVec *vec)
{
    vec->iov = vec->local;
    vec->niov = 0;
    vec->capacity = IOVEC_LOCAL;
    vec->size = 0;
}

void iovec_init_buffer(IoVec *vec, void *buffer, size_t bytes)
{
    iovec_init(vec);
    iovec_add(vec, buffer, bytes);
}

void iovec_init_external(IoVec *vec, struct iovec *iov, int niov)
{
    vec->iov = iov;
    vec->niov = niov;
    vec->capacity = 0;
    vec->size = 0;
    for (int i = 0; i < niov; i++) {
        vec->size += iov[i].iov_len;
    }
}

void iovec_destroy(IoVec *vec)
{
    if (vec->capacity && vec->iov != vec->local) {
        g_free(vec->iov);
    }
    vec->iov = NULL;
    vec->niov = 0;
    vec->capacity = 0;
    vec->size = 0;
}

void iovec_reset(IoVec *vec)
{
    g_assert(vec->capacity);
    vec->niov = 0;
    vec->size = 0;
}

void iovec_add(IoVec *vec, void *base, size_t bytes)
{
    g_assert(vec->capacity);
    if (vec->niov == vec->capacity) {
        struct iovec *larger = g_new(struct iovec, 2 * vec->capacity);

        memcpy(larger, vec->iov, vec->niov * sizeof(*larger));
        if (vec->iov != vec->local) {
            g_free(vec->iov);
        }
        vec->iov = larger;
        vec->capacity *= 2;
    }
    vec->iov[vec->niov].iov_base = base;
    vec->iov[vec->niov].iov_len = bytes;
    vec->niov++;
    vec->size += bytes;
}

void iovec_add_slice(IoVec *vec, const IoVec *source, size_t at, size_t bytes)
{
    Cursor cursor = cursor_at(source, at, bytes);
    char *base;
    size_t run_bytes;

    g_assert(vec != source);
    while (cursor_next(&cursor, &base, &run_bytes)) {
        iovec_add(vec, base, run_bytes);
    }
}

int iovec_slice_count(const IoVec *vec, size_t at, size_t bytes)
{
    Cursor cursor = cursor_at(vec, at, bytes);
    char *base;
    size_t run_bytes;
    int count = 0;

    while (cursor_next(&cursor, &base, &run_bytes)) {
        count++;
    }
    return count;
}

void iovec_memset(const IoVec *vec, size_t at, int byte, size_t bytes)
{
    Cursor cursor = cursor_at(vec, at, bytes);
    char *base;
    size_t run_bytes;

    while (cursor_next(&cursor, &base, &run_bytes)) {
        memset(base, byte, run_bytes);
    }
}

void iovec_from_buffer(const IoVec *vec, size_t at, const void *buffer,
                       size_t bytes)
{
    Cursor cursor = cursor_at(vec, at, bytes);
    const char *from = buffer;
    char *base;
    size_t run_bytes;

    while (cursor_next(&cursor, &base, &run_bytes)) {
        memcpy(base, from, run_bytes);
        from += run_bytes;
    }
}

void iovec_to_buffer(const IoVec *vec, size_t at, void *buffer, size_t bytes)
{
    Cursor cursor = cursor_at(vec, at, bytes);
    char *to = buffer;
    char *base;
    size_t run_bytes;

    while (cursor_next(&cursor, &base, &run_bytes)) {
        memcpy(to, base, run_bytes);
        to += run_bytes;
    }
}

bool iovec_is_zero(const IoVec *vec, size_t at, size_t bytes)
{
    Cursor cursor = cursor_at(vec, at, bytes);
    char *base;
    size_t run_bytes;

    while (cursor_next(&cursor, &base, &run_bytes)) {
        if (!buffer_is_zero(base, run_bytes)) {
            return false;
        }
    }
    return true;
}

void *iovec_contiguous(const IoVec *vec, size_t at, size_t bytes)
{
    Cursor cursor = cursor_at(vec, at, bytes);
    char *first, *base;
    size_t first_bytes, run_bytes;

    if (!cursor_next(&cursor, &first, &first_bytes)) {
        return NULL;
    }
    while (cursor_next(&cursor, &base, &run_bytes)) {
        if (base != first + first_bytes) {
            return NULL;
        }
        first_bytes += run_bytes;
    }
    return first;
}

bool iovec_is_aligned(const IoVec *vec, size_t at, size_t bytes,
                      size_t alignment)
{
    Cursor cursor = cursor_at(vec, at, bytes);
    char *base;
    size_t run_bytes;

    while (cursor_next(&cursor, &base, &run_bytes)) {
        if (((uintptr_t)base | run_bytes) & (alignment - 1)) {
            return false;
        }
    }
    return true;
}

/* A vector register's worth, at any address. */
typedef uint64_t ZeroWord __attribute__((vector_size(16), aligned(1),
                                         may_alias));

static inline bool block_is_zero(const unsigned char *block)
{
    const ZeroWord *words = (const ZeroWord *)block;
    ZeroWord any = (words[0] | words[1]) | (words[2] | words[3]);

    return (any[0] | any[1]) == 0;
}

/*
 * 64 bytes a step, without a branch inside. Data that is not zero mostly shows
 * it in the first block.
 */
bool buffer_is_zero(const void *buffer, size_t bytes)
{
    const unsigned char *data = buffer;
    size_t at = 0;

    for (; bytes - at >= 64; at += 64) {
        if (!block_is_zero(data + at)) {
            return false;
        }
    }
    for (; at < bytes; at++) {
        if (data[at]) {
            return false;
        }
    }
    return true;
}
