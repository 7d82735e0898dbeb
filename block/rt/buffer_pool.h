/* SPDX-License-Identifier: MIT */
/*
 * page-aligned I/O buffers, recycled per thread
 *
 * Sizes are rounded up to a power of two; each thread keeps a few idle
 * buffers of each size (last in, first out, so that few pages stay touched)
 * and gives the memory of the rest back. A buffer goes back to the pool of
 * the thread that puts it.
 */
#ifndef BLOCK_RT_BUFFER_POOL_H
#define BLOCK_RT_BUFFER_POOL_H

#include <stddef.h>

/* At least @bytes, aligned to 4096; content undefined. NULL: no memory. */
void *buffer_pool_get(size_t bytes);

/* @bytes as given to buffer_pool_get(). NULL is harmless. */
void buffer_pool_put(void *buffer, size_t bytes);

/* Frees the calling thread's idle buffers. */
void buffer_pool_drain(void);

#endif
