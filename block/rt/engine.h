/* SPDX-License-Identifier: MIT */
/*
 * I/O engines: how one context submits I/O to the kernel and reaps it
 *
 * Each context makes its own instance on first use. Requests queue up during a
 * turn of the loop and are submitted together at its end (submit), so that
 * many requests cost one system call. Only aio_context.c and aio_file.c know
 * this header.
 */
#ifndef BLOCK_RT_ENGINE_H
#define BLOCK_RT_ENGINE_H

#include "block/rt/aio_file.h"
#include "block/rt/thread_pool.h"

typedef enum AioOp {
    AIO_OP_READV,
    AIO_OP_WRITEV,
    AIO_OP_FDATASYNC,
} AioOp;

/* Lives on the sleeping coroutine's stack until its result is there. */
typedef struct AioRequest AioRequest;
struct AioRequest {
    AioOp op;
    int fd;
    const struct iovec *iov;
    int niov;
    int64_t offset;
    Coroutine *co; /* woken when @result is set */
    ssize_t result; /* as the system call: bytes or -errno */
    AioRequest *next;    /* the engine's own */
    ThreadPoolTask task; /* the engine's own */
};

typedef struct AioEngine AioEngine;

typedef struct AioEngineOps {
    const char *name;
    /*
     * NULL with *ret_errno when the kernel has no such engine. @ctx is NULL
     * for a trial: the engine is closed at once.
     */
    AioEngine *(*open)(AioContext *ctx, int *ret_errno);
    void (*close)(AioEngine *engine);
    /* Queues @request; the coroutine yields afterwards. */
    void (*queue)(AioEngine *engine, AioRequest *request);
    /* Hands what is queued to the kernel. */
    void (*submit)(AioEngine *engine);
    /* Completes all that has finished; returns how many. Never sleeps. */
    unsigned (*reap)(AioEngine *engine);
    /*
     * Becomes readable when reap() has something to do; the context watches
     * it edge-triggered. -1: the engine wakes the coroutines by itself.
     */
    int (*poll_fd)(AioEngine *engine);
} AioEngineOps;

extern const AioEngineOps aio_engine_uring;
extern const AioEngineOps aio_engine_libaio;
extern const AioEngineOps aio_engine_threads;

/*
 * aio_context_engine:
 * @ctx's instance of the engine for @kind (not AUTO), opened on first use.
 * NULL when it cannot be had. Home thread only.
 */
typedef struct AioEngineSlot {
    const AioEngineOps *ops;
    AioEngine *engine;
} AioEngineSlot;
AioEngineSlot *aio_context_engine(AioContext *ctx, AioEngineKind kind);

/* Can this process open an engine of @kind at all? Cached. Any thread. */
bool aio_engine_available(AioEngineKind kind);

#endif
