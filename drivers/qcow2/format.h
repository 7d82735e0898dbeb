/* SPDX-License-Identifier: MIT */
/*
 * qcow2 as it stands on disk, versions 2 and 3: layout, bits and limits
 *
 * Everything is big-endian. Host offsets of tables are multiples of the
 * cluster size. Only header.c, commit.c, check.c and the loaders of tables
 * look at raw structures; all other code sees native values.
 *
 *   cluster 0: header, extensions, backing file name
 *   header.l1_table_offset ──▶ [L1: 8 bytes an entry] ──▶ [L2: one cluster]
 *       ──▶ data cluster, or compressed data, or nothing
 *   header.refcount_table_offset ──▶ [8 bytes an entry] ──▶ [refcount block]
 *   header.snapshots_offset ──▶ entries of variable length, each with an L1
 */
#ifndef DRIVERS_QCOW2_FORMAT_H
#define DRIVERS_QCOW2_FORMAT_H

#include "block/rt/bytes.h"

#include <assert.h>

#define QCOW2_MAGIC 0x514649fbu /* "QFI" 0xfb */

#define QCOW2_CLUSTER_BITS_MIN 9
#define QCOW2_CLUSTER_BITS_MAX 21
#define QCOW2_REFCOUNT_ORDER_MAX 6
#define QCOW2_L1_MAX_BYTES (32 * MIB)
#define QCOW2_REFTABLE_MAX_BYTES (8 * MIB)
#define QCOW2_SNAPSHOTS_MAX 65536
#define QCOW2_SNAPSHOT_TABLE_MAX_BYTES (64 * MIB)
#define QCOW2_SNAPSHOT_EXTRA_MAX_BYTES 1024
#define QCOW2_BACKING_NAME_MAX 1023
#define QCOW2_DATA_FILE_NAME_MAX 4095 /* ours: the longest path there is */
#define QCOW2_BITMAPS_MAX 65535
#define QCOW2_CRYPTO_HEADER_MAX_BYTES (64 * MIB)
#define QCOW2_BITMAP_NAME_MAX 1023

typedef struct Qcow2RawHeader {
    be32 magic;
    be32 version;
    be64 backing_file_offset;
    be32 backing_file_size;
    be32 cluster_bits;
    be64 size;
    be32 crypt_method;
    be32 l1_size; /* entries */
    be64 l1_table_offset;
    be64 refcount_table_offset;
    be32 refcount_table_clusters;
    be32 nb_snapshots;
    be64 snapshots_offset;
    /* Version 3 from here on. */
    be64 incompatible_features;
    be64 compatible_features;
    be64 autoclear_features;
    be32 refcount_order;
    be32 header_length;
    /* With header_length > 104. */
    uint8_t compression_type;
    uint8_t padding[7];
} __attribute__((packed)) Qcow2RawHeader;
static_assert(sizeof(Qcow2RawHeader) == 112, "qcow2 header layout");

#define QCOW2_HEADER_V2_BYTES 72
#define QCOW2_HEADER_V3_BYTES 104 /* the least */

typedef enum Qcow2Incompatible {
    QCOW2_INCOMPAT_DIRTY = 1 << 0,       /* refcounts may be wrong */
    QCOW2_INCOMPAT_CORRUPT = 1 << 1,     /* do not write before a repair */
    QCOW2_INCOMPAT_DATA_FILE = 1 << 2,   /* guest data in another file */
    QCOW2_INCOMPAT_COMPRESSION = 1 << 3, /* compression_type is not zlib */
    QCOW2_INCOMPAT_EXTENDED_L2 = 1 << 4, /* subclusters */
} Qcow2Incompatible;

typedef enum Qcow2Compatible {
    QCOW2_COMPAT_LAZY_REFCOUNTS = 1 << 0,
} Qcow2Compatible;

typedef enum Qcow2Autoclear {
    QCOW2_AUTOCLEAR_BITMAPS = 1 << 0, /* the bitmaps extension is current */
    QCOW2_AUTOCLEAR_DATA_FILE_RAW = 1 << 1,
} Qcow2Autoclear;
/* Those whose meaning we keep up; others go at the first write. */
#define QCOW2_KNOWN_AUTOCLEAR \
    ((uint64_t)(QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_DATA_FILE_RAW))

typedef enum Qcow2Compression {
    QCOW2_COMPRESSION_ZLIB = 0,
    QCOW2_COMPRESSION_ZSTD = 1,
} Qcow2Compression;

typedef enum Qcow2Crypt {
    QCOW2_CRYPT_NONE = 0,
    QCOW2_CRYPT_AES = 1, /* AES-128-CBC, the guest's sectors make the IV */
    QCOW2_CRYPT_LUKS = 2,
} Qcow2Crypt;

/* A header extension; its data is padded to 8 bytes. */
typedef struct Qcow2RawExtension {
    be32 type;
    be32 length;
} __attribute__((packed)) Qcow2RawExtension;
static_assert(sizeof(Qcow2RawExtension) == 8, "qcow2 extension layout");

typedef enum Qcow2ExtensionType {
    QCOW2_EXTENSION_END = 0,
    QCOW2_EXTENSION_BACKING_FORMAT = 0xe2792aca,
    QCOW2_EXTENSION_FEATURE_NAMES = 0x6803f857,
    QCOW2_EXTENSION_CRYPTO_HEADER = 0x0537be77,
    QCOW2_EXTENSION_BITMAPS = 0x23852875,
    QCOW2_EXTENSION_DATA_FILE = 0x44415441,
} Qcow2ExtensionType;

typedef struct Qcow2RawCryptoExtension {
    be64 offset; /* of the LUKS header, cluster-aligned */
    be64 length; /* up to where its payload would start */
} __attribute__((packed)) Qcow2RawCryptoExtension;
static_assert(sizeof(Qcow2RawCryptoExtension) == 16, "crypto layout");

typedef struct Qcow2RawFeatureName {
    uint8_t type; /* 0 incompatible, 1 compatible, 2 autoclear */
    uint8_t bit;
    char name[46]; /* padded with zeros, perhaps not terminated */
} __attribute__((packed)) Qcow2RawFeatureName;
static_assert(sizeof(Qcow2RawFeatureName) == 48, "feature name layout");

typedef struct Qcow2RawBitmapsExtension {
    be32 nb_bitmaps;
    be32 reserved;
    be64 directory_size;
    be64 directory_offset;
} __attribute__((packed)) Qcow2RawBitmapsExtension;
static_assert(sizeof(Qcow2RawBitmapsExtension) == 24, "bitmaps layout");

/* Followed by extra data, name, padding to 8 bytes. */
typedef struct Qcow2RawBitmapEntry {
    be64 table_offset;
    be32 table_entries;
    be32 flags;
    uint8_t type; /* 1: dirty tracking */
    uint8_t granularity_bits;
    be16 name_size;
    be32 extra_data_size;
} __attribute__((packed)) Qcow2RawBitmapEntry;
static_assert(sizeof(Qcow2RawBitmapEntry) == 24, "bitmap entry layout");

#define QCOW2_BITMAP_IN_USE (1u << 0)
#define QCOW2_BITMAP_AUTO (1u << 1)
#define QCOW2_BITMAP_EXTRA_COMPATIBLE (1u << 2)

/* Followed by extra data, id, name, padding to 8 bytes. */
typedef struct Qcow2RawSnapshot {
    be64 l1_table_offset;
    be32 l1_size;
    be16 id_size;
    be16 name_size;
    be32 date_sec;
    be32 date_nsec;
    be64 vm_clock_nsec;
    be32 vm_state_size;
    be32 extra_data_size;
} __attribute__((packed)) Qcow2RawSnapshot;
static_assert(sizeof(Qcow2RawSnapshot) == 40, "snapshot layout");

/* L1 and L2 entries. */
#define QCOW2_ENTRY_COPIED (1ull << 63) /* refcount is exactly 1 */
#define QCOW2_L2_COMPRESSED (1ull << 62)
#define QCOW2_L2_ZERO (1ull << 0) /* version 3 */
#define QCOW2_OFFSET_MASK 0x00fffffffffffe00ull
#define QCOW2_L1_RESERVED 0x7f000000000001ffull
#define QCOW2_L2_RESERVED 0x3f000000000001feull /* standard clusters */
#define QCOW2_L2_RESERVED_EXTENDED 0x3f000000000001ffull
#define QCOW2_REFTABLE_OFFSET_MASK 0xfffffffffffffe00ull

/*
 * Extended L2 entries (QCOW2_INCOMPAT_EXTENDED_L2) have 16 bytes: the word
 * above and a bitmap of the cluster's 32 subclusters, the first one in bit 0
 * of each half:
 *
 *   63 ...... 32  reads zeros    31 ...... 0  allocated
 *
 * Neither: the backing file, or zeros. Both: damage. A cluster without a host
 * offset has no allocated ones; that of a compressed cluster is 0.
 */
#define QCOW2_SUBCLUSTERS 32
#define QCOW2_EXTENDED_CLUSTER_BITS_MIN 14
#define QCOW2_BITMAP_ALL_ALLOC 0x00000000ffffffffull
#define QCOW2_BITMAP_ALL_ZERO 0xffffffff00000000ull

/* Host offsets from here on cannot be told in an L2 entry. */
#define QCOW2_HOST_OFFSET_LIMIT ((int64_t)1 << 56)

#define QCOW2_COMPRESSED_SECTOR_BYTES 512

/* In a compressed entry, offset and sector count share the 62 low bits. */
static inline int qcow2_compressed_offset_bits(unsigned cluster_bits)
{
    return 62 - ((int)cluster_bits - 8);
}

static inline int64_t qcow2_compressed_offset(uint64_t entry,
                                              unsigned cluster_bits)
{
    return entry &
           ((1ull << qcow2_compressed_offset_bits(cluster_bits)) - 1);
}

/* Bytes from the offset to the end of the last sector that may hold data. */
static inline int64_t qcow2_compressed_bytes(uint64_t entry,
                                             unsigned cluster_bits)
{
    int bits = qcow2_compressed_offset_bits(cluster_bits);
    uint64_t more = (entry >> bits) & ((1ull << (cluster_bits - 8)) - 1);
    int64_t offset = qcow2_compressed_offset(entry, cluster_bits);

    return (int64_t)(more + 1) * QCOW2_COMPRESSED_SECTOR_BYTES -
           (offset & (QCOW2_COMPRESSED_SECTOR_BYTES - 1));
}

#endif
