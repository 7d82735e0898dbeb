/* SPDX-License-Identifier: MIT */
/*
 * throttle groups: leaky buckets shared fairly by their members
 *
 * Six buckets: bytes and operations per second, each as total, read and
 * write. Each has an average rate, and optionally a burst rate (max) that may
 * last burst_length seconds. A request waits while any bucket it counts in is
 * over its level. Members (throttle filter nodes) take turns, per direction,
 * one request each.
 *
 * Locking: a group's mutex protects its buckets, turn and members' queues;
 * never held across a yield. Requests of all threads come here only when the
 * group has a limit for their direction.
 */
#ifndef BLOCK_IO_THROTTLE_GROUP_H
#define BLOCK_IO_THROTTLE_GROUP_H

#include "block/types.h"

typedef enum ThrottleBucket {
    THROTTLE_BPS_TOTAL,
    THROTTLE_BPS_READ,
    THROTTLE_BPS_WRITE,
    THROTTLE_OPS_TOTAL,
    THROTTLE_OPS_READ,
    THROTTLE_OPS_WRITE,
    THROTTLE_BUCKETS,
} ThrottleBucket;

typedef struct ThrottleLimit {
    uint64_t average;      /* units per second; 0: no limit */
    uint64_t max;          /* burst rate; 0: none */
    uint64_t burst_length; /* seconds that max may last; >= 1 */
} ThrottleLimit;

typedef struct ThrottleConfig {
    ThrottleLimit limit[THROTTLE_BUCKETS];
    uint64_t op_size; /* bytes that count as one operation; 0: any size */
} ThrottleConfig;

typedef struct ThrottleGroup ThrottleGroup;
typedef struct ThrottleMember ThrottleMember;

/* All zero limits, burst_length 1. */
void throttle_config_init(ThrottleConfig *config);

/* OPTION error: total beside read/write, max below average, too large, ... */
bool throttle_config_check(const ThrottleConfig *config, GError **error);

/* The group @name, made on first use; counted. Control plane. */
ThrottleGroup *throttle_group_get(const char *name);
ThrottleGroup *throttle_group_ref(ThrottleGroup *group);
void throttle_group_unref(ThrottleGroup *group);

/* Takes effect at once, also for requests that wait. Any thread. */
bool throttle_group_set_config(ThrottleGroup *group,
                               const ThrottleConfig *config, GError **error);
void throttle_group_get_config(ThrottleGroup *group, ThrottleConfig *config);

/* Control plane, drained. leave: no request of the member may wait. */
ThrottleMember *throttle_group_join(ThrottleGroup *group);
void throttle_group_leave(ThrottleMember *member);

/* Sleeps until a request of @bytes may go, and accounts for it. */
void coroutine_fn throttle_member_wait(ThrottleMember *member, bool is_write,
                                       int64_t bytes);

/* While drained, nobody waits: waiters go on at once. Nest. */
void throttle_member_drain_begin(ThrottleMember *member);
void throttle_member_drain_end(ThrottleMember *member);

#endif
