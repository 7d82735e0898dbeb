/* SPDX-License-Identifier: MIT */
/*
 * numbers as they stand on disk: typed by their endianness, so that a raw
 * field cannot be used by mistake; and overflow-proof range arithmetic
 */
#ifndef BLOCK_RT_BYTES_H
#define BLOCK_RT_BYTES_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef struct { uint8_t b[2]; } be16;
typedef struct { uint8_t b[4]; } be32;
typedef struct { uint8_t b[8]; } be64;
typedef struct { uint8_t b[2]; } le16;
typedef struct { uint8_t b[4]; } le32;
typedef struct { uint8_t b[8]; } le64;

#define BYTES_DEFINE(type, bits, from, to)                          \
    static inline uint##bits##_t type##_get(const type *field)      \
    {                                                               \
        uint##bits##_t raw;                                         \
        memcpy(&raw, field->b, sizeof(raw));                        \
        return from(raw);                                           \
    }                                                               \
    static inline void type##_set(type *field, uint##bits##_t value) \
    {                                                               \
        uint##bits##_t raw = to(value);                             \
        memcpy(field->b, &raw, sizeof(raw));                        \
    }

BYTES_DEFINE(be16, 16, be16toh, htobe16)
BYTES_DEFINE(be32, 32, be32toh, htobe32)
BYTES_DEFINE(be64, 64, be64toh, htobe64)
BYTES_DEFINE(le16, 16, le16toh, htole16)
BYTES_DEFINE(le32, 32, le32toh, htole32)
BYTES_DEFINE(le64, 64, le64toh, htole64)

#undef BYTES_DEFINE

#define KIB ((int64_t)1 << 10)
#define MIB ((int64_t)1 << 20)
#define GIB ((int64_t)1 << 30)
#define TIB ((int64_t)1 << 40)

/* @alignment is a power of two in these three. */
static inline int64_t align_down(int64_t value, int64_t alignment)
{
    return value & -alignment;
}

static inline int64_t align_up(int64_t value, int64_t alignment)
{
    return (value + alignment - 1) & -alignment;
}

static inline bool is_aligned(int64_t value, int64_t alignment)
{
    return (value & (alignment - 1)) == 0;
}

static inline int64_t div_round_up(int64_t value, int64_t divisor)
{
    return value / divisor + (value % divisor != 0);
}

/* Does [@offset, @offset + @bytes) lie within [0, @limit)? No overflow. */
static inline bool range_within(uint64_t offset, uint64_t bytes,
                                uint64_t limit)
{
    return offset <= limit && bytes <= limit - offset;
}

/* Do [@a, @a + @a_bytes) and [@b, @b + @b_bytes) share a byte? */
static inline bool ranges_overlap(int64_t a, int64_t a_bytes, int64_t b,
                                  int64_t b_bytes)
{
    return a < b + b_bytes && b < a + a_bytes;
}

#endif
