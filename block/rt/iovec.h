/* SPDX-License-Identifier: MIT */
/*
 * IoVec: a scattered buffer with its total size
 *
 * A view: it owns the element array at most, never the bytes. Small vectors
 * keep their elements inside. Functions take a position @at in bytes from the
 * vector's start.
 */
#ifndef BLOCK_RT_IOVEC_H
#define BLOCK_RT_IOVEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define IOVEC_LOCAL 4

typedef struct IoVec {
    struct iovec *iov;
    int niov;
    int capacity; /* elements @iov can hold; 0: @iov belongs to somebody else */
    size_t size;  /* sum of the elements' lengths */
    struct iovec local[IOVEC_LOCAL];
} IoVec;

/* An empty vector that grows by iovec_add(). End with iovec_destroy(). */
void iovec_init(IoVec *vec);

/* A vector of one buffer. Needs no destroy. */
void iovec_init_buffer(IoVec *vec, void *buffer, size_t bytes);

/* A view of somebody's array. Needs no destroy. */
void iovec_init_external(IoVec *vec, struct iovec *iov, int niov);

void iovec_destroy(IoVec *vec);
void iovec_reset(IoVec *vec);
void iovec_add(IoVec *vec, void *base, size_t bytes);

/* Appends to @vec the part of @source from @at, @bytes long. */
void iovec_add_slice(IoVec *vec, const IoVec *source, size_t at, size_t bytes);

/* How many elements the part [@at, @at + @bytes) touches. */
int iovec_slice_count(const IoVec *vec, size_t at, size_t bytes);

void iovec_memset(const IoVec *vec, size_t at, int byte, size_t bytes);
void iovec_from_buffer(const IoVec *vec, size_t at, const void *buffer,
                       size_t bytes);
void iovec_to_buffer(const IoVec *vec, size_t at, void *buffer, size_t bytes);
bool iovec_is_zero(const IoVec *vec, size_t at, size_t bytes);

/* The address of [@at, @at + @bytes) if it is one run, else NULL. */
void *iovec_contiguous(const IoVec *vec, size_t at, size_t bytes);

/* Are all addresses and lengths of the part multiples of @alignment? */
bool iovec_is_aligned(const IoVec *vec, size_t at, size_t bytes,
                      size_t alignment);

/* Is the buffer all zero bytes? At memory speed. */
bool buffer_is_zero(const void *buffer, size_t bytes);

#endif
