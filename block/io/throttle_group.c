/* SPDX-License-Identifier: MIT */
/*
 * throttle groups: leaky buckets shared fairly by their members
 *
 * Each limit is a bucket that requests fill and that leaks at the average
 * rate. Without a burst rate a request may go while the level is at most what
 * leaks in a tenth of a second, so that short hiccups even out. With one, the
 * level may rise to max * burst_length, and a second bucket, which leaks at
 * the burst rate, keeps the burst itself at max.
 *
 * The first request that is over a level arms one timer (a deadline) for its
 * direction and becomes its direction's head; others queue behind it. When a
 * request goes, the head's place passes to the next member in the ring that
 * has one waiting: so each member gets one request a turn, however many it
 * has queued.
 *
 * Always true while the group's lock is free:
 *  T1  per direction at most one waiter is the head, and a head exists
 *      whenever anyone waits;
 *  T2  only the head sleeps with a deadline; the others sleep until they
 *      become head or their member drains.
 *
 * Locking: group->lock protects everything in the group and its members. It is
 * innermost and never held across a yield. The list of groups is the control
 * plane's.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "block/io/throttle_group.h"

#include "block/rt/timer.h"

#define NS_PER_SECOND 1000000000.0
/* Rates above it would overflow the arithmetic (and mean nothing). */
#define RATE_MAX UINT64_C(1000000000000000)
#define BURST_LENGTH_MAX 3600

typedef struct Bucket {
    double level;       /* leaks at average */
    double burst_level; /* leaks at max */
} Bucket;

/* One waiting request; on its coroutine's stack. */
typedef struct Waiter {
    ThrottleGroup *group;
    Coroutine *co;
    AioTimer timer; /* armed while it is the head */
    bool woken; /* a wake for the current sleep is under way */
    struct Waiter *next;
} Waiter;

typedef struct WaiterQueue {
    Waiter *first, *last;
} WaiterQueue;

struct ThrottleMember {
    ThrottleGroup *group;
    WaiterQueue queue[2]; /* by direction */
    unsigned drained;
};

struct ThrottleGroup {
    unsigned ref_count;
    char *name;
    GMutex lock;
    ThrottleConfig config;
    Bucket bucket[THROTTLE_BUCKETS];
    int64_t leaked_ns;  /* the buckets' levels are as of then */
    GPtrArray *members; /* the ring, in order of joining */
    guint turn[2];      /* index of the member served last */
    Waiter *head[2];
    bool active[2]; /* any limit for the direction? atomic */
};

static GHashTable *groups; /* name -> ThrottleGroup, control plane */

/* The buckets that a direction counts in. */
static const ThrottleBucket direction_buckets[2][4] = {
    { THROTTLE_BPS_TOTAL, THROTTLE_BPS_READ, THROTTLE_OPS_TOTAL,
      THROTTLE_OPS_READ },
    { THROTTLE_BPS_TOTAL, THROTTLE_BPS_WRITE, THROTTLE_OPS_TOTAL,
      THROTTLE_OPS_WRITE },
};

static const char *const bucket_names[THROTTLE_BUCKETS] = {
    "bps-total", "bps-read", "bps-write", "iops-total", "iops-read",
    "iops-write",
};

/* -- configuration ------------------------------------------------------- */

void throttle_config_init(ThrottleConfig *config)
{
    *config = (ThrottleConfig){ 0 };
    for (int i = 0; i < THROTTLE_BUCKETS; i++) {
        config->limit[i].burst_length = 1;
    }
}

static bool check_limit(const ThrottleLimit *limit, const char *name,
                        GError **error)
{
    const char *problem = NULL;

    if (limit->average > RATE_MAX || limit->max > RATE_MAX) {
        problem = "is above 10^15 per second";
    } else if (limit->max > 0 && limit->average == 0) {
        problem = "has a burst rate but no average rate";
    } else if (limit->max > 0 && limit->max < limit->average) {
        problem = "has a burst rate below its average rate";
    } else if (limit->burst_length < 1 ||
               limit->burst_length > BURST_LENGTH_MAX) {
        problem = "needs a burst length of 1 to 3600 seconds";
    } else if (limit->burst_length > 1 && limit->max == 0) {
        problem = "has a burst length but no burst rate";
    }
    if (problem != NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "limit %s %s", name, problem);
        return false;
    }
    return true;
}

bool throttle_config_check(const ThrottleConfig *config, GError **error)
{
    for (int kind = 0; kind < THROTTLE_BUCKETS; kind += 3) {
        const ThrottleLimit *total = &config->limit[kind];

        if ((total[0].average || total[0].max) &&
            (total[1].average || total[1].max || total[2].average ||
             total[2].max)) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                        "limit %s cannot stand beside %s or %s",
                        bucket_names[kind], bucket_names[kind + 1],
                        bucket_names[kind + 2]);
            return false;
        }
    }
    for (int i = 0; i < THROTTLE_BUCKETS; i++) {
        if (!check_limit(&config->limit[i], bucket_names[i], error)) {
            return false;
        }
    }
    return true;
}

/* -- buckets (group->lock held) ------------------------------------------ */

static void leak(ThrottleGroup *group, int64_t now_ns)
{
    double seconds = (now_ns - group->leaked_ns) / NS_PER_SECOND;

    if (seconds <= 0) {
        return;
    }
    group->leaked_ns = now_ns;
    for (int i = 0; i < THROTTLE_BUCKETS; i++) {
        Bucket *bucket = &group->bucket[i];
        const ThrottleLimit *limit = &group->config.limit[i];

        bucket->level = MAX(bucket->level - limit->average * seconds, 0);
        bucket->burst_level =
            MAX(bucket->burst_level - limit->max * seconds, 0);
    }
}

/* Seconds until the level, leaking at @rate, is down to @allowed. */
static double excess_seconds(double level, double allowed, double rate)
{
    return level > allowed ? (level - allowed) / rate : 0;
}

static double bucket_wait_seconds(const Bucket *bucket,
                                  const ThrottleLimit *limit)
{
    double wait, burst_wait = 0;

    if (limit->average == 0) {
        return 0;
    }
    if (limit->max == 0) {
        return excess_seconds(bucket->level, limit->average / 10.0,
                              limit->average);
    }
    wait = excess_seconds(bucket->level,
                          (double) limit->max * limit->burst_length,
                          limit->average);
    if (limit->burst_length > 1) {
        burst_wait = excess_seconds(bucket->burst_level, limit->max / 10.0,
                                    limit->max);
    }
    return MAX(wait, burst_wait);
}

/* How long a request of the direction must wait still; 0: it may go. */
static int64_t wait_ns(ThrottleGroup *group, bool is_write, int64_t now_ns)
{
    double wait = 0;

    leak(group, now_ns);
    for (int i = 0; i < 4; i++) {
        ThrottleBucket which = direction_buckets[is_write][i];

        wait = MAX(wait, bucket_wait_seconds(&group->bucket[which],
                                             &group->config.limit[which]));
    }
    /* Round up: waking a nanosecond early would only wait again. */
    return wait > 0 ? (int64_t) (wait * NS_PER_SECOND) + 1 : 0;
}

static void account(ThrottleGroup *group, bool is_write, int64_t bytes)
{
    double operations = 1;

    if (group->config.op_size > 0 &&
        (uint64_t) bytes > group->config.op_size) {
        operations = (double) bytes / group->config.op_size;
    }
    for (int i = 0; i < 4; i++) {
        ThrottleBucket which = direction_buckets[is_write][i];
        double amount = which < THROTTLE_OPS_TOTAL ? bytes : operations;

        group->bucket[which].level += amount;
        group->bucket[which].burst_level += amount;
    }
}

/* -- waiting (group->lock held unless said otherwise) -------------------- */

static void queue_push(WaiterQueue *queue, Waiter *waiter)
{
    waiter->next = NULL;
    if (queue->last != NULL) {
        queue->last->next = waiter;
    } else {
        queue->first = waiter;
    }
    queue->last = waiter;
}

static Waiter *queue_pop(WaiterQueue *queue)
{
    Waiter *waiter = queue->first;

    if (waiter != NULL) {
        queue->first = waiter->next;
        if (queue->first == NULL) {
            queue->last = NULL;
        }
    }
    return waiter;
}

static void wake(Waiter *waiter)
{
    if (!waiter->woken) {
        waiter->woken = true;
        co_wake(waiter->co);
    }
}

/* T1: gives the head's place to the next member's first waiter. */
static void pass_turn(ThrottleGroup *group, bool is_write)
{
    guint count = group->members->len;

    group->head[is_write] = NULL;
    for (guint i = 1; i <= count; i++) {
        guint index = (group->turn[is_write] + i) % count;
        ThrottleMember *member = g_ptr_array_index(group->members, index);
        Waiter *waiter = queue_pop(&member->queue[is_write]);

        if (waiter != NULL) {
            group->turn[is_write] = index;
            group->head[is_write] = waiter;
            wake(waiter);
            return;
        }
    }
}

static void on_deadline(void *opaque)
{
    Waiter *waiter = opaque;

    g_mutex_lock(&waiter->group->lock);
    wake(waiter);
    g_mutex_unlock(&waiter->group->lock);
}

/*
 * Unlocks, sleeps until the deadline (T2: only the head has one) or a wake,
 * locks again. Whoever wakes sets woken under the lock, so one sleep gets
 * exactly one wake.
 */
static void coroutine_fn sleep_as_waiter(ThrottleGroup *group, Waiter *waiter,
                                         int64_t deadline_ns)
{
    waiter->woken = false;
    g_mutex_unlock(&group->lock);
    if (deadline_ns > 0) {
        aio_timer_arm(&waiter->timer, deadline_ns);
    }
    co_yield();
    if (deadline_ns > 0) {
        aio_timer_cancel(&waiter->timer);
    }
    g_mutex_lock(&group->lock);
}

/* As the head: sleeps until the buckets let it go, or its member drains. */
static void coroutine_fn wait_as_head(ThrottleMember *member, Waiter *waiter,
                                      bool is_write)
{
    ThrottleGroup *group = member->group;

    while (member->drained == 0) {
        int64_t now_ns = clock_now_ns();
        int64_t delay_ns = wait_ns(group, is_write, now_ns);

        if (delay_ns == 0) {
            break;
        }
        sleep_as_waiter(group, waiter, now_ns + delay_ns);
    }
}

void coroutine_fn throttle_member_wait(ThrottleMember *member, bool is_write,
                                       int64_t bytes)
{
    ThrottleGroup *group = member->group;
    Waiter waiter = { .group = group, .co = co_self(), .woken = true };

    if (!__atomic_load_n(&group->active[is_write], __ATOMIC_ACQUIRE)) {
        return;
    }
    g_mutex_lock(&group->lock);
    if (member->drained == 0) {
        aio_timer_init(&waiter.timer, co_context(waiter.co), on_deadline,
                       &waiter);
        if (group->head[is_write] != NULL) {
            queue_push(&member->queue[is_write], &waiter);
            sleep_as_waiter(group, &waiter, /* deadline_ns= */ 0);
        } else {
            group->head[is_write] = &waiter;
        }
        if (group->head[is_write] == &waiter) {
            wait_as_head(member, &waiter, is_write);
        }
    }
    leak(group, clock_now_ns());
    account(group, is_write, bytes);
    if (group->head[is_write] == &waiter) {
        pass_turn(group, is_write);
    }
    g_mutex_unlock(&group->lock);
}

/* -- groups and members (control plane) ---------------------------------- */

ThrottleGroup *throttle_group_get(const char *name)
{
    ThrottleGroup *group;

    if (groups == NULL) {
        groups = g_hash_table_new(g_str_hash, g_str_equal);
    }
    group = g_hash_table_lookup(groups, name);
    if (group != NULL) {
        return throttle_group_ref(group);
    }

    group = g_new0(ThrottleGroup, 1);
    group->ref_count = 1;
    group->name = g_strdup(name);
    g_mutex_init(&group->lock);
    throttle_config_init(&group->config);
    group->leaked_ns = clock_now_ns();
    group->members = g_ptr_array_new();
    g_hash_table_insert(groups, group->name, group);
    return group;
}

ThrottleGroup *throttle_group_ref(ThrottleGroup *group)
{
    group->ref_count++;
    return group;
}

void throttle_group_unref(ThrottleGroup *group)
{
    if (group == NULL || --group->ref_count > 0) {
        return;
    }
    g_assert(group->members->len == 0);
    g_hash_table_remove(groups, group->name);
    if (g_hash_table_size(groups) == 0) {
        g_clear_pointer(&groups, g_hash_table_unref);
    }
    g_ptr_array_unref(group->members);
    g_mutex_clear(&group->lock);
    g_free(group->name);
    g_free(group);
}

/* Lets the heads look at the buckets anew. */
static void wake_heads(ThrottleGroup *group)
{
    for (int direction = 0; direction < 2; direction++) {
        if (group->head[direction] != NULL) {
            wake(group->head[direction]);
        }
    }
}

bool throttle_group_set_config(ThrottleGroup *group,
                               const ThrottleConfig *config, GError **error)
{
    if (!throttle_config_check(config, error)) {
        return false;
    }
    g_mutex_lock(&group->lock);
    leak(group, clock_now_ns());
    group->config = *config;
    for (int direction = 0; direction < 2; direction++) {
        bool active = false;

        for (int i = 0; i < 4; i++) {
            ThrottleBucket which = direction_buckets[direction][i];

            active |= config->limit[which].average > 0;
        }
        __atomic_store_n(&group->active[direction], active, __ATOMIC_RELEASE);
    }
    /* What went before under other limits does not count. */
    memset(group->bucket, 0, sizeof(group->bucket));
    wake_heads(group);
    g_mutex_unlock(&group->lock);
    return true;
}

void throttle_group_get_config(ThrottleGroup *group, ThrottleConfig *config)
{
    g_mutex_lock(&group->lock);
    *config = group->config;
    g_mutex_unlock(&group->lock);
}

ThrottleMember *throttle_group_join(ThrottleGroup *group)
{
    ThrottleMember *member = g_new0(ThrottleMember, 1);

    member->group = throttle_group_ref(group);
    g_mutex_lock(&group->lock);
    g_ptr_array_add(group->members, member);
    g_mutex_unlock(&group->lock);
    return member;
}

void throttle_group_leave(ThrottleMember *member)
{
    ThrottleGroup *group;

    if (member == NULL) {
        return;
    }
    group = member->group;
    g_mutex_lock(&group->lock);
    g_assert(member->queue[0].first == NULL && member->queue[1].first == NULL);
    g_ptr_array_remove(group->members, member);
    group->turn[0] = group->turn[1] = 0;
    g_mutex_unlock(&group->lock);
    throttle_group_unref(group);
    g_free(member);
}

void throttle_member_drain_begin(ThrottleMember *member)
{
    ThrottleGroup *group = member->group;

    g_mutex_lock(&group->lock);
    if (member->drained++ == 0) {
        for (int direction = 0; direction < 2; direction++) {
            Waiter *waiter;

            while ((waiter = queue_pop(&member->queue[direction])) != NULL) {
                wake(waiter);
            }
        }
        /* A head may be this member's: it looks for itself. */
        wake_heads(group);
    }
    g_mutex_unlock(&group->lock);
}

void throttle_member_drain_end(ThrottleMember *member)
{
    g_mutex_lock(&member->group->lock);
    g_assert(member->drained > 0);
    member->drained--;
    g_mutex_unlock(&member->group->lock);
}
