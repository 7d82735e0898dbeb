/* SPDX-License-Identifier: MIT */
/*
 * a cache of decoded clusters
 *
 * Found by descriptor and by the generation in which they were decoded;
 * raising the generation forgets all at once. The cache knows nothing of
 * decoding: who gets a new entry fills its data and publishes it.
 *
 * Context: coroutine, any I/O thread, but for new, free and invalidate.
 */
#ifndef DRIVERS_QCOW2_COMPRESS_CACHE_H
#define DRIVERS_QCOW2_COMPRESS_CACHE_H

#include "block/rt/coroutine.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Qcow2ClusterCache Qcow2ClusterCache;
typedef struct Qcow2CachedCluster Qcow2CachedCluster;

/* What to do about a cluster. The first three wait while it is loading. */
typedef enum Qcow2CacheWish {
    QCOW2_CACHE_FIND,    /* only one that is there */
    QCOW2_CACHE_PASSING, /* or a new one, when somebody asked for it lately */
    QCOW2_CACHE_MAKE,    /* or a new one */
    QCOW2_CACHE_CLAIM,   /* only a new one, when nobody has or loads it */
} Qcow2CacheWish;

/* Keeps about @bytes of clusters of @cluster_bytes. Control plane. */
Qcow2ClusterCache *qcow2_cache_new(int64_t bytes, int64_t cluster_bytes);
/* Nothing may be pinned. NULL is harmless. Control plane. */
void qcow2_cache_free(Qcow2ClusterCache *cache);

/* How many clusters there may be. */
unsigned qcow2_cache_limit(const Qcow2ClusterCache *cache);

/* Forgets every cluster. Any thread. */
void qcow2_cache_invalidate(Qcow2ClusterCache *cache);

/*
 * qcow2_cache_get:
 * The cluster of @descriptor, pinned. *ret_is_new: its data is to be filled,
 * then to be published. NULL: not to be had, or no room.
 */
Qcow2CachedCluster *coroutine_fn qcow2_cache_get(Qcow2ClusterCache *cache,
                                                 uint64_t descriptor,
                                                 Qcow2CacheWish wish,
                                                 bool *ret_is_new);

/* Is it there, or being loaded? */
bool coroutine_fn qcow2_cache_has(Qcow2ClusterCache *cache,
                                  uint64_t descriptor);

/* The decoded cluster; as long as the entry is pinned. */
uint8_t *qcow2_cache_data(Qcow2CachedCluster *entry);

/* Ends the loading of a new entry: it stays pinned if @is_filled, or goes. */
void coroutine_fn qcow2_cache_publish(Qcow2ClusterCache *cache,
                                      Qcow2CachedCluster *entry,
                                      bool is_filled);

/* Unpins. */
void coroutine_fn qcow2_cache_put(Qcow2ClusterCache *cache,
                                  Qcow2CachedCluster *entry);

#endif
