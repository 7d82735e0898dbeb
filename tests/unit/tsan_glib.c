/* SPDX-License-Identifier: MIT */
/*
 * GLib's locks as ThreadSanitizer can see them
 *
 * GLib makes GMutex and GCond of futexes, inside a library that is not
 * instrumented, so ThreadSanitizer would report everything they protect.
 * Linked into a test that is built with -fsanitize=thread, these functions
 * take the place of GLib's and use pthreads, which it knows. The object is made
 * on first use and hangs in the first pointer of GMutex or GCond.
 *
 * Only for tests. Mutexes that GLib uses internally stay its own.
 */
#include <glib.h>

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

static pthread_mutex_t *mutex_of(GMutex *mutex)
{
    gpointer *place = &mutex->p;
    gpointer found = __atomic_load_n(place, __ATOMIC_ACQUIRE);
    pthread_mutex_t *made;

    if (found) {
        return found;
    }
    made = malloc(sizeof(*made));
    pthread_mutex_init(made, NULL);
    if (!__atomic_compare_exchange_n(place, &found, made, 0, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE)) {
        pthread_mutex_destroy(made);
        free(made);
        return found;
    }
    return made;
}

static pthread_cond_t *cond_of(GCond *cond)
{
    gpointer *place = &cond->p;
    gpointer found = __atomic_load_n(place, __ATOMIC_ACQUIRE);
    pthread_condattr_t attr;
    pthread_cond_t *made;

    if (found) {
        return found;
    }
    made = malloc(sizeof(*made));
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(made, &attr);
    pthread_condattr_destroy(&attr);
    if (!__atomic_compare_exchange_n(place, &found, made, 0, __ATOMIC_ACQ_REL,
                                     __ATOMIC_ACQUIRE)) {
        pthread_cond_destroy(made);
        free(made);
        return found;
    }
    return made;
}

void (g_mutex_init)(GMutex *mutex)
{
    mutex->p = NULL;
}

void (g_mutex_clear)(GMutex *mutex)
{
    if (mutex->p) {
        pthread_mutex_destroy(mutex->p);
        free(mutex->p);
        mutex->p = NULL;
    }
}

void (g_mutex_lock)(GMutex *mutex)
{
    pthread_mutex_lock(mutex_of(mutex));
}

void (g_mutex_unlock)(GMutex *mutex)
{
    pthread_mutex_unlock(mutex_of(mutex));
}

gboolean (g_mutex_trylock)(GMutex *mutex)
{
    return pthread_mutex_trylock(mutex_of(mutex)) == 0;
}

void (g_cond_init)(GCond *cond)
{
    cond->p = NULL;
}

void (g_cond_clear)(GCond *cond)
{
    if (cond->p) {
        pthread_cond_destroy(cond->p);
        free(cond->p);
        cond->p = NULL;
    }
}

void (g_cond_wait)(GCond *cond, GMutex *mutex)
{
    pthread_cond_wait(cond_of(cond), mutex_of(mutex));
}

gboolean (g_cond_wait_until)(GCond *cond, GMutex *mutex, gint64 end_time)
{
    struct timespec end = {
        .tv_sec = end_time / 1000000,
        .tv_nsec = end_time % 1000000 * 1000,
    };

    return pthread_cond_timedwait(cond_of(cond), mutex_of(mutex), &end) == 0;
}

void (g_cond_signal)(GCond *cond)
{
    pthread_cond_signal(cond_of(cond));
}

void (g_cond_broadcast)(GCond *cond)
{
    pthread_cond_broadcast(cond_of(cond));
}
