/* SPDX-License-Identifier: MIT */
/*
 * HBitmap: a bitmap of a large range with fast search
 *
 *   level 0   one word (64 bits), each bit: "word i of level 1 is not zero"
 *   level 1   up to 64 words, each bit: "word i of level 2 is not zero"
 *    ...
 *   last      the units themselves, one bit each
 *
 * Always true between two calls:
 *  H1  a bit of an inner level is set if and only if the word below it is not
 *      zero;
 *  H2  bits of the last level behind the last unit are zero;
 *  H3  count is the number of bits set in the last level.
 *
 * A search for a set bit climbs until a word has one at or after the place,
 * then descends: at most two words a level. A search for a clear bit goes
 * along the last level only; set areas are short where that matters.
 *
 * It knows nothing of nodes, names or locks: that is bitmap.c.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "block/io/hbitmap.h"

#include <string.h>

#define WORD_BITS 64
#define WORD_SHIFT 6
/* 64^7 units cover any length that int64_t can say at granularity >= 2^21. */
#define LEVELS_MAX 11

struct HBitmap {
    int64_t bytes;
    int granularity_bits;
    int64_t units;
    int64_t count; /* set units */
    int levels;
    uint64_t *level[LEVELS_MAX]; /* 0 is the single top word */
    int64_t words[LEVELS_MAX];
};

static int64_t units_for(int64_t bytes, int granularity_bits)
{
    int64_t units = bytes >> granularity_bits;

    return units + ((units << granularity_bits) != bytes);
}

static int64_t words_for(int64_t bits)
{
    return div_round_up(bits, WORD_BITS);
}

static void allocate_levels(HBitmap *bitmap)
{
    int64_t words[LEVELS_MAX];
    int levels = 0;
    int64_t bits = MAX(bitmap->units, 1);

    do {
        bits = words_for(bits);
        words[levels++] = bits;
    } while (bits > 1);

    bitmap->levels = levels;
    for (int i = 0; i < levels; i++) {
        bitmap->words[i] = words[levels - 1 - i];
        bitmap->level[i] = g_new0(uint64_t, bitmap->words[i]);
    }
}

HBitmap *hbitmap_new(int64_t bytes, int granularity_bits)
{
    HBitmap *bitmap = g_new0(HBitmap, 1);

    g_assert(bytes >= 0 && granularity_bits >= 0 && granularity_bits < 63);
    bitmap->bytes = bytes;
    bitmap->granularity_bits = granularity_bits;
    bitmap->units = units_for(bytes, granularity_bits);
    allocate_levels(bitmap);
    return bitmap;
}

void hbitmap_free(HBitmap *bitmap)
{
    if (bitmap == NULL) {
        return;
    }
    for (int i = 0; i < bitmap->levels; i++) {
        g_free(bitmap->level[i]);
    }
    g_free(bitmap);
}

int64_t hbitmap_bytes(const HBitmap *bitmap)
{
    return bitmap->bytes;
}

int hbitmap_granularity_bits(const HBitmap *bitmap)
{
    return bitmap->granularity_bits;
}

static uint64_t *last_level(const HBitmap *bitmap)
{
    return bitmap->level[bitmap->levels - 1];
}

/* The bits of @word's number @word_index that lie in units [first, last]. */
static uint64_t word_mask(int64_t word_index, int64_t first, int64_t last)
{
    int64_t base = word_index << WORD_SHIFT;
    int low = first > base ? (int) (first - base) : 0;
    int high = last < base + 63 ? (int) (last - base) : 63;

    return (~UINT64_C(0) >> (63 - high)) & (~UINT64_C(0) << low);
}

/* H1 upwards, after word @index of @level became zero or not zero. */
static void update_summary(HBitmap *bitmap, int level, int64_t index)
{
    while (level > 0) {
        bool is_set = bitmap->level[level][index] != 0;
        int64_t parent = index >> WORD_SHIFT;
        uint64_t bit = UINT64_C(1) << (index & 63);
        uint64_t old = bitmap->level[level - 1][parent];
        uint64_t now = is_set ? old | bit : old & ~bit;

        if (now == old) {
            return;
        }
        bitmap->level[level - 1][parent] = now;
        index = parent;
        level--;
    }
}

static void change_units(HBitmap *bitmap, int64_t first, int64_t last,
                         bool set)
{
    uint64_t *words = last_level(bitmap);

    for (int64_t i = first >> WORD_SHIFT; i <= last >> WORD_SHIFT; i++) {
        uint64_t mask = word_mask(i, first, last);
        uint64_t old = words[i];
        uint64_t now = set ? old | mask : old & ~mask;

        if (now == old) {
            continue;
        }
        bitmap->count += __builtin_popcountll(now) - __builtin_popcountll(old);
        words[i] = now;
        if ((old == 0) != (now == 0)) {
            update_summary(bitmap, bitmap->levels - 1, i);
        }
    }
}

static void assert_range(const HBitmap *bitmap, int64_t offset, int64_t bytes)
{
    g_assert(offset >= 0 && bytes >= 0 &&
             range_within(offset, bytes, bitmap->bytes));
}

void hbitmap_set(HBitmap *bitmap, int64_t offset, int64_t bytes)
{
    assert_range(bitmap, offset, bytes);
    if (bytes > 0) {
        change_units(bitmap, offset >> bitmap->granularity_bits,
                     (offset + bytes - 1) >> bitmap->granularity_bits,
                     /* set= */ true);
    }
}

void hbitmap_reset(HBitmap *bitmap, int64_t offset, int64_t bytes)
{
    int64_t end = offset + bytes;
    int64_t first, limit;

    assert_range(bitmap, offset, bytes);
    first = units_for(offset, bitmap->granularity_bits);
    /* The last unit may be shorter than the granularity. */
    limit = end == bitmap->bytes ? bitmap->units
                                 : end >> bitmap->granularity_bits;
    if (first < limit) {
        change_units(bitmap, first, limit - 1, /* set= */ false);
    }
}

void hbitmap_reset_all(HBitmap *bitmap)
{
    for (int i = 0; i < bitmap->levels; i++) {
        memset(bitmap->level[i], 0, bitmap->words[i] * sizeof(uint64_t));
    }
    bitmap->count = 0;
}

bool hbitmap_get(const HBitmap *bitmap, int64_t offset)
{
    int64_t unit = offset >> bitmap->granularity_bits;

    g_assert(offset >= 0 && offset < bitmap->bytes);
    return last_level(bitmap)[unit >> WORD_SHIFT] >> (unit & 63) & 1;
}

int64_t hbitmap_count(const HBitmap *bitmap)
{
    int64_t bytes;

    if (bitmap->count == 0) {
        return 0;
    }
    bytes = bitmap->count << bitmap->granularity_bits;
    /* A set last unit counts only for what exists of it. */
    if (hbitmap_get(bitmap, bitmap->bytes - 1)) {
        bytes -= (bitmap->units << bitmap->granularity_bits) - bitmap->bytes;
    }
    return bytes;
}

/* The first set unit at or after @unit, or -1. */
static int64_t next_set_unit(const HBitmap *bitmap, int64_t unit)
{
    int level = bitmap->levels - 1;
    int64_t bit = unit; /* a bit number within @level */

    /* Climb: is there one in the rest of this word? */
    for (;;) {
        int64_t index = bit >> WORD_SHIFT;
        uint64_t word;

        if (index >= bitmap->words[level]) {
            return -1;
        }
        word = bitmap->level[level][index] & (~UINT64_C(0) << (bit & 63));
        if (word != 0) {
            bit = (index << WORD_SHIFT) + __builtin_ctzll(word);
            break;
        }
        if (level == 0) {
            return -1;
        }
        level--;
        bit = index + 1;
    }

    /* Descend: by H1 each word below has its first set bit. */
    for (; level < bitmap->levels - 1; level++) {
        uint64_t word = bitmap->level[level + 1][bit];

        bit = (bit << WORD_SHIFT) + __builtin_ctzll(word);
    }
    return bit;
}

/* The first clear unit at or after @unit, or bitmap->units. */
static int64_t next_clear_unit(const HBitmap *bitmap, int64_t unit)
{
    const uint64_t *words = last_level(bitmap);
    int64_t index = unit >> WORD_SHIFT;
    uint64_t from = ~UINT64_C(0) << (unit & 63);

    for (; index < bitmap->words[bitmap->levels - 1]; index++) {
        uint64_t clear = ~words[index] & from;

        if (clear != 0) {
            int64_t found = (index << WORD_SHIFT) + __builtin_ctzll(clear);

            return MIN(found, bitmap->units);
        }
        from = ~UINT64_C(0);
    }
    return bitmap->units;
}

/* Where a search that found @unit lands, if that is before @end. */
static int64_t unit_to_result(const HBitmap *bitmap, int64_t unit,
                              int64_t offset, int64_t end)
{
    int64_t start;

    if (unit < 0 || unit >= bitmap->units) {
        return -1;
    }
    start = MAX(unit << bitmap->granularity_bits, offset);
    return start < end ? start : -1;
}

int64_t hbitmap_next_dirty(const HBitmap *bitmap, int64_t offset,
                           int64_t bytes)
{
    assert_range(bitmap, offset, bytes);
    if (bytes == 0) {
        return -1;
    }
    return unit_to_result(
        bitmap, next_set_unit(bitmap, offset >> bitmap->granularity_bits),
        offset, offset + bytes);
}

int64_t hbitmap_next_clean(const HBitmap *bitmap, int64_t offset,
                           int64_t bytes)
{
    assert_range(bitmap, offset, bytes);
    if (bytes == 0) {
        return -1;
    }
    return unit_to_result(
        bitmap, next_clear_unit(bitmap, offset >> bitmap->granularity_bits),
        offset, offset + bytes);
}

bool hbitmap_next_dirty_area(const HBitmap *bitmap, int64_t offset,
                             int64_t end, int64_t max_bytes,
                             int64_t *ret_offset, int64_t *ret_bytes)
{
    int64_t start, stop;

    end = MIN(end, bitmap->bytes);
    if (offset >= end || max_bytes <= 0) {
        return false;
    }
    start = hbitmap_next_dirty(bitmap, offset, end - offset);
    if (start < 0) {
        return false;
    }
    end = start + MIN(end - start, max_bytes);
    stop = hbitmap_next_clean(bitmap, start, end - start);
    *ret_offset = start;
    *ret_bytes = (stop < 0 ? end : stop) - start;
    return true;
}

void hbitmap_merge(HBitmap *target, const HBitmap *source)
{
    int64_t offset = 0, area_offset, area_bytes;

    g_assert(target->bytes == source->bytes);
    if (target == source) {
        return;
    }
    while (hbitmap_next_dirty_area(source, offset, source->bytes, INT64_MAX,
                                   &area_offset, &area_bytes)) {
        hbitmap_set(target, area_offset, area_bytes);
        offset = area_offset + area_bytes;
    }
}

void hbitmap_truncate(HBitmap *bitmap, int64_t bytes)
{
    HBitmap old = *bitmap;
    int64_t keep_words;

    g_assert(bytes >= 0);
    if (bytes < bitmap->bytes) {
        /* H2 for the units that go: clear them while they exist. */
        int64_t keep = units_for(bytes, bitmap->granularity_bits);

        if (keep < bitmap->units) {
            change_units(bitmap, keep, bitmap->units - 1, /* set= */ false);
        }
        old.count = bitmap->count;
    }

    bitmap->bytes = bytes;
    bitmap->units = units_for(bytes, bitmap->granularity_bits);
    allocate_levels(bitmap);
    keep_words = MIN(bitmap->words[bitmap->levels - 1],
                     old.words[old.levels - 1]);
    memcpy(last_level(bitmap), old.level[old.levels - 1],
           keep_words * sizeof(uint64_t));
    for (int i = 0; i < old.levels; i++) {
        g_free(old.level[i]);
    }
    hbitmap_deserialise_finish(bitmap);
}

int64_t hbitmap_serial_alignment(const HBitmap *bitmap)
{
    g_assert(bitmap->granularity_bits < 63 - WORD_SHIFT);
    return INT64_C(64) << bitmap->granularity_bits;
}

/* [offset, offset + bytes) as word numbers of the last level. */
static void serial_words(const HBitmap *bitmap, int64_t offset, int64_t bytes,
                         int64_t *ret_first, int64_t *ret_count)
{
    int64_t alignment = hbitmap_serial_alignment(bitmap);
    int64_t end = offset + bytes;

    assert_range(bitmap, offset, bytes);
    g_assert(offset % alignment == 0);
    g_assert(end % alignment == 0 || end == bitmap->bytes);
    *ret_first = offset / alignment;
    *ret_count = div_round_up(end, alignment) - *ret_first;
}

size_t hbitmap_serial_size(const HBitmap *bitmap, int64_t offset,
                           int64_t bytes)
{
    int64_t first, count;

    serial_words(bitmap, offset, bytes, &first, &count);
    return count * sizeof(uint64_t);
}

void hbitmap_serialise(const HBitmap *bitmap, uint8_t *buffer, int64_t offset,
                       int64_t bytes)
{
    int64_t first, count;

    serial_words(bitmap, offset, bytes, &first, &count);
    for (int64_t i = 0; i < count; i++) {
        le64_set((le64 *) buffer + i, last_level(bitmap)[first + i]);
    }
}

/* H2: what a serialised word says about units that do not exist. */
static void clear_behind_end(HBitmap *bitmap)
{
    int64_t in_last = bitmap->units & 63;

    if (in_last != 0) {
        last_level(bitmap)[bitmap->units >> WORD_SHIFT] &=
            ~UINT64_C(0) >> (WORD_BITS - in_last);
    }
}

void hbitmap_deserialise(HBitmap *bitmap, const uint8_t *buffer,
                         int64_t offset, int64_t bytes)
{
    int64_t first, count;

    serial_words(bitmap, offset, bytes, &first, &count);
    for (int64_t i = 0; i < count; i++) {
        last_level(bitmap)[first + i] = le64_get((const le64 *) buffer + i);
    }
}

void hbitmap_deserialise_zeroes(HBitmap *bitmap, int64_t offset,
                                int64_t bytes)
{
    int64_t first, count;

    serial_words(bitmap, offset, bytes, &first, &count);
    memset(last_level(bitmap) + first, 0, count * sizeof(uint64_t));
}

void hbitmap_deserialise_ones(HBitmap *bitmap, int64_t offset, int64_t bytes)
{
    int64_t first, count;

    serial_words(bitmap, offset, bytes, &first, &count);
    memset(last_level(bitmap) + first, 0xff, count * sizeof(uint64_t));
}

void hbitmap_deserialise_finish(HBitmap *bitmap)
{
    int last = bitmap->levels - 1;

    clear_behind_end(bitmap);
    bitmap->count = 0;
    for (int64_t i = 0; i < bitmap->words[last]; i++) {
        bitmap->count += __builtin_popcountll(bitmap->level[last][i]);
    }
    for (int level = last; level > 0; level--) {
        memset(bitmap->level[level - 1], 0,
               bitmap->words[level - 1] * sizeof(uint64_t));
        for (int64_t i = 0; i < bitmap->words[level]; i++) {
            if (bitmap->level[level][i] != 0) {
                bitmap->level[level - 1][i >> WORD_SHIFT] |=
                    UINT64_C(1) << (i & 63);
            }
        }
    }
}
