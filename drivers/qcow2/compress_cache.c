/* SPDX-License-Identifier: MIT */
/*
 * a cache of decoded clusters: shards of a few entries, the least recently
 * used goes first
 *
 * Always true outside a function of this file:
 *  C1  an entry with users > 0 is neither evicted nor refilled;
 *  C2  an entry in state READY holds the whole decoded cluster and its data
 *      does not change until it is evicted;
 *  C3  one cluster is decoded by one coroutine at a time: others that want it
 *      wait for the LOADING entry.
 *
 * Locking: shard->lock protects the shard's entries but for the data of
 * pinned ones, and touched. It is not held while somebody fills an entry.
 */
#include "drivers/qcow2/compress_cache.h"

#include "block/rt/comutex.h"

#define SHARDS 4
#define SHARD_ENTRIES_MIN 1
#define SHARD_ENTRIES_MAX 32
/* Clusters of which a shard knows that some bytes were wanted. */
#define SHARD_TOUCHED 64

typedef enum EntryState {
    ENTRY_EMPTY,
    ENTRY_LOADING, /* pinned by the coroutine that decodes it */
    ENTRY_READY,
} EntryState;

struct Qcow2CachedCluster {
    uint64_t descriptor;
    uint64_t generation;
    uint64_t last_use; /* of shard->clock */
    EntryState state;
    unsigned users;
    uint8_t *data; /* one cluster, allocated at the first use */
};

typedef struct Shard {
    CoMutex lock;
    CoQueue loaded; /* woken when a LOADING entry changes its state */
    uint64_t clock;
    unsigned entries;
    Qcow2CachedCluster entry[SHARD_ENTRIES_MAX];
    uint64_t touched[SHARD_TOUCHED]; /* descriptors, by hash; 0: none */
} Shard;

struct Qcow2ClusterCache {
    int64_t cluster_bytes;
    uint64_t generation; /* atomic */
    Shard shard[SHARDS];
};

Qcow2ClusterCache *qcow2_cache_new(int64_t bytes, int64_t cluster_bytes)
{
    Qcow2ClusterCache *cache = g_new0(Qcow2ClusterCache, 1);

    cache->cluster_bytes = cluster_bytes;
    for (int i = 0; i < SHARDS; i++) {
        Shard *shard = &cache->shard[i];

        co_mutex_init(&shard->lock);
        co_queue_init(&shard->loaded);
        shard->entries = CLAMP(bytes / SHARDS / cluster_bytes,
                               SHARD_ENTRIES_MIN, SHARD_ENTRIES_MAX);
    }
    return cache;
}

void qcow2_cache_free(Qcow2ClusterCache *cache)
{
    if (!cache) {
        return;
    }
    for (int i = 0; i < SHARDS; i++) {
        Shard *shard = &cache->shard[i];

        for (unsigned j = 0; j < shard->entries; j++) {
            g_assert(shard->entry[j].users == 0);
            g_free(shard->entry[j].data);
        }
        co_queue_destroy(&shard->loaded);
        co_mutex_destroy(&shard->lock);
    }
    g_free(cache);
}

unsigned qcow2_cache_limit(const Qcow2ClusterCache *cache)
{
    return SHARDS * cache->shard[0].entries;
}

void qcow2_cache_invalidate(Qcow2ClusterCache *cache)
{
    __atomic_fetch_add(&cache->generation, 1, __ATOMIC_SEQ_CST);
}

static uint64_t hash_of(uint64_t descriptor)
{
    return descriptor * UINT64_C(0x9e3779b97f4a7c15);
}

static Shard *shard_of(Qcow2ClusterCache *cache, uint64_t descriptor)
{
    return &cache->shard[(hash_of(descriptor) >> 60) % SHARDS];
}

/* Called with the lock held. */
static Qcow2CachedCluster *shard_find(Shard *shard, uint64_t descriptor,
                                      uint64_t generation)
{
    for (unsigned i = 0; i < shard->entries; i++) {
        Qcow2CachedCluster *entry = &shard->entry[i];

        if (entry->state != ENTRY_EMPTY && entry->descriptor == descriptor &&
            entry->generation == generation) {
            return entry;
        }
    }
    return NULL;
}

/*
 * The entry to give up: an empty one or the one unused for longest. NULL when
 * all are pinned (C1) or there is no memory. Called with the lock held.
 */
static Qcow2CachedCluster *shard_victim(Shard *shard, int64_t cluster_bytes)
{
    Qcow2CachedCluster *victim = NULL;

    for (unsigned i = 0; i < shard->entries; i++) {
        Qcow2CachedCluster *entry = &shard->entry[i];

        if (entry->users > 0) {
            continue;
        }
        if (!victim || entry->state == ENTRY_EMPTY ||
            (victim->state != ENTRY_EMPTY &&
             entry->last_use < victim->last_use)) {
            victim = entry;
        }
    }
    if (victim && !victim->data) {
        victim->data = g_try_malloc(cluster_bytes);
    }
    return victim && victim->data ? victim : NULL;
}

/* Was it asked for lately? It is from now on. Called with the lock held. */
static bool touch(Shard *shard, uint64_t descriptor)
{
    uint64_t *slot =
        &shard->touched[(hash_of(descriptor) >> 32) % SHARD_TOUCHED];
    bool is_known = *slot == descriptor;

    *slot = descriptor;
    return is_known;
}

/* Called with the lock held. */
static bool may_make(Shard *shard, uint64_t descriptor, Qcow2CacheWish wish)
{
    switch (wish) {
    case QCOW2_CACHE_PASSING:
        return touch(shard, descriptor);
    case QCOW2_CACHE_MAKE:
        (void) touch(shard, descriptor);
        return true;
    case QCOW2_CACHE_CLAIM:
        return true;
    case QCOW2_CACHE_FIND:
    default:
        return false;
    }
}

Qcow2CachedCluster *coroutine_fn qcow2_cache_get(Qcow2ClusterCache *cache,
                                                 uint64_t descriptor,
                                                 Qcow2CacheWish wish,
                                                 bool *ret_is_new)
{
    Shard *shard = shard_of(cache, descriptor);
    uint64_t generation = __atomic_load_n(&cache->generation,
                                          __ATOMIC_SEQ_CST);
    Qcow2CachedCluster *entry;

    *ret_is_new = false;
    co_mutex_lock(&shard->lock);
    while ((entry = shard_find(shard, descriptor, generation)) &&
           entry->state == ENTRY_LOADING && wish != QCOW2_CACHE_CLAIM) {
        co_queue_wait(&shard->loaded, &shard->lock);
    }
    if (entry && wish == QCOW2_CACHE_CLAIM) {
        entry = NULL;
    } else if (!entry && may_make(shard, descriptor, wish)) {
        entry = shard_victim(shard, cache->cluster_bytes);
        *ret_is_new = entry != NULL;
    }
    if (*ret_is_new) {
        entry->descriptor = descriptor;
        entry->generation = generation;
        entry->state = ENTRY_LOADING;
        g_assert(entry->users == 0);
    }
    if (entry) {
        entry->users++;
        entry->last_use = ++shard->clock;
    }
    co_mutex_unlock(&shard->lock);
    return entry;
}

bool coroutine_fn qcow2_cache_has(Qcow2ClusterCache *cache,
                                  uint64_t descriptor)
{
    Shard *shard = shard_of(cache, descriptor);
    uint64_t generation = __atomic_load_n(&cache->generation,
                                          __ATOMIC_SEQ_CST);
    bool has;

    co_mutex_lock(&shard->lock);
    has = shard_find(shard, descriptor, generation) != NULL;
    co_mutex_unlock(&shard->lock);
    return has;
}

uint8_t *qcow2_cache_data(Qcow2CachedCluster *entry)
{
    return entry->data;
}

void coroutine_fn qcow2_cache_publish(Qcow2ClusterCache *cache,
                                      Qcow2CachedCluster *entry,
                                      bool is_filled)
{
    Shard *shard = shard_of(cache, entry->descriptor);

    co_mutex_lock(&shard->lock);
    entry->state = is_filled ? ENTRY_READY : ENTRY_EMPTY;
    entry->users -= is_filled ? 0 : 1;
    co_queue_wake_all(&shard->loaded);
    co_mutex_unlock(&shard->lock);
}

void coroutine_fn qcow2_cache_put(Qcow2ClusterCache *cache,
                                  Qcow2CachedCluster *entry)
{
    Shard *shard = shard_of(cache, entry->descriptor);

    co_mutex_lock(&shard->lock);
    entry->users--;
    co_mutex_unlock(&shard->lock);
}
