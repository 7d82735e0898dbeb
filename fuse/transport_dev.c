/* SPDX-License-Identifier: MIT */
/*
 * one thread's share of /dev/fuse
 *
 * Two clones of the device. While coroutines are suspended (their I/O is on
 * its way) the loop watches the non-blocking one: EPOLLEXCLUSIVE, so that a
 * request wakes one thread only. While nothing is suspended the thread sleeps
 * in a plain read of the blocking one: a request then costs two system calls,
 * the read and the reply's write.
 *
 *     blocking clone ───▶ wait() ──┐                     ┌─▶ same clone
 *                                  ├─▶ coroutine: dispatch, reply
 *     non-blocking clone ▶ epoll ──┘
 *
 * Interrupting wait(). interrupt() sends a signal that nobody else uses to the
 * thread. A read that sleeps ends with EINTR. For one that has not begun yet
 * the handler takes the payload's room out of the iovec that the read will be
 * given: the kernel refuses too small a buffer with EINVAL. So there is no
 * moment at which the signal has no effect. The room is put back when wait()
 * is through; a signal after that makes the next wait() return early, which
 * is harmless.
 *
 * Always true between functions of this file, home thread:
 *  T1  while serving, `next` is a slot with a payload, and wait_iov is it;
 *  T2  in_flight counts slots taken by coroutines; the device is not read
 *      while it is IN_FLIGHT_MAX;
 *  T3  a slot remembers the descriptor it came from and answers there.
 *
 * Locking: none; all but thread_id belongs to the home thread, and the control
 * plane gets there with io_thread_run().
 */
#include "fuse/transport_dev.h"

#include "block/rt/buffer_pool.h"

#include "fuse/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Requests that one thread works on at a time. */
#define IN_FLIGHT_MAX 256

/* Requests taken in a row before suspended coroutines get a turn. */
#define BATCH_MAX 32

/*
 * Idle slots kept: all that fit here, but only few whose payload was touched
 * by more than SLOT_SMALL_BYTES and so holds that much memory.
 */
#define IDLE_SLOTS_MAX 64
#define IDLE_LARGE_MAX 12
#define SLOT_SMALL_BYTES (64 * 1024)

typedef struct Slot Slot;
struct Slot {
    FuseRequest request; /* first: what dispatch sees */
    TransportDev *transport;
    Slot *next_idle;
    int fd;         /* T3 */
    bool is_large;  /* its payload was once used beyond SLOT_SMALL_BYTES */
};

struct TransportDev {
    const FuseMountState *mount;
    IoThread *thread;
    AioContext *ctx;
    size_t payload_bytes;
    AioCallback *on_end;
    void *on_end_opaque;
    int blocking_fd;
    int polled_fd;
    AioIdleSource idle_source;
    pthread_t thread_id;

    struct iovec wait_iov[2]; /* the signal handler writes it */
    Slot *next;
    Slot *idle_slots;
    unsigned n_idle;
    unsigned n_idle_large;
    unsigned in_flight;
    bool serving; /* between start and stop */
    bool watching; /* polled_fd */
};

/* Whom the signal is for: the transport that lives on this thread. */
static _Thread_local TransportDev *transport_of_thread;

/* ---- slots ---- */

static void free_slot(Slot *slot)
{
    if (slot) {
        buffer_pool_put(slot->request.payload,
                        slot->request.payload_capacity);
        g_free(slot);
    }
}

static Slot *take_slot(TransportDev *transport)
{
    Slot *slot = transport->idle_slots;

    if (G_LIKELY(slot)) {
        transport->idle_slots = slot->next_idle;
        transport->n_idle--;
        transport->n_idle_large -= slot->is_large;
        return slot;
    }
    slot = g_new0(Slot, 1);
    slot->transport = transport;
    slot->request.payload_capacity = transport->payload_bytes;
    slot->request.payload = buffer_pool_get(transport->payload_bytes);
    if (!slot->request.payload) {
        g_error("out of memory for a request of %zu bytes",
                transport->payload_bytes);
    }
    return slot;
}

static void give_slot(TransportDev *transport, Slot *slot)
{
    const FuseRequest *request = &slot->request;

    if (MAX(request->bytes, request->out_payload_bytes) > SLOT_SMALL_BYTES) {
        slot->is_large = true;
    }
    if (transport->n_idle >= IDLE_SLOTS_MAX ||
        (slot->is_large && transport->n_idle_large >= IDLE_LARGE_MAX)) {
        free_slot(slot);
        return;
    }
    slot->next_idle = transport->idle_slots;
    transport->idle_slots = slot;
    transport->n_idle++;
    transport->n_idle_large += slot->is_large;
}

/* T1 */
static void prepare_next(TransportDev *transport)
{
    Slot *slot = transport->next;

    if (!slot) {
        slot = take_slot(transport);
        transport->next = slot;
        transport->wait_iov[0].iov_base = slot->request.head;
        transport->wait_iov[0].iov_len = FUSE_WIRE_HEAD_BYTES;
        transport->wait_iov[1].iov_base = slot->request.payload;
    }
    *(volatile size_t *)&transport->wait_iov[1].iov_len =
        transport->payload_bytes;
}

/* ---- one request ---- */

static void on_readable(int fd, uint32_t epoll_events, void *opaque);

/* Watches the device if, and only if, there is room for requests (T2). */
static void update_watch(TransportDev *transport)
{
    bool wanted = transport->serving &&
                  transport->in_flight < IN_FLIGHT_MAX;

    if (wanted == transport->watching) {
        return;
    }
    /* Hysteresis: a watch costs two system calls. */
    if (wanted && transport->in_flight > IN_FLIGHT_MAX / 2) {
        return;
    }
    transport->watching = wanted;
    aio_set_fd_handler(transport->ctx, transport->polled_fd,
                       EPOLLIN | EPOLLEXCLUSIVE,
                       wanted ? on_readable : NULL, transport);
}

static void send_reply(Slot *slot, int result)
{
    FuseRequest *request = &slot->request;
    struct fuse_out_header header = {
        .len = sizeof(header),
        .error = result,
        .unique = request->header.unique,
    };
    struct iovec iov[3] = { { &header, sizeof(header) } };
    int niov = 1;

    if (request->no_reply) {
        return;
    }
    if (result == 0) {
        if (request->out_bytes) {
            iov[niov++] = (struct iovec) { request->out, request->out_bytes };
        }
        if (request->out_payload_bytes) {
            iov[niov++] = (struct iovec) { request->payload,
                                           request->out_payload_bytes };
        }
        header.len += (uint32_t)(request->out_bytes +
                                 request->out_payload_bytes);
    }
    /* ENOENT: who asked was interrupted; ENODEV: unmounted. Nobody listens. */
    if (writev(slot->fd, iov, niov) < 0 && errno != ENOENT &&
        errno != ENODEV) {
        g_debug("reply to %s: %s",
                fuse_opcode_name(request->header.opcode), g_strerror(errno));
    }
}

static void coroutine_fn serve(void *opaque)
{
    Slot *slot = opaque;
    TransportDev *transport = slot->transport;

    send_reply(slot, fuse_dispatch(transport->mount, &slot->request));
    give_slot(transport, slot);
    transport->in_flight--;
    update_watch(transport);
}

/* Hands the slot that was read into, of @bytes bytes, to a coroutine. */
static void start(TransportDev *transport, int fd, size_t bytes)
{
    Slot *slot = transport->next;

    slot->fd = fd;
    slot->request.bytes = bytes;
    if (bytes < sizeof(slot->request.header)) {
        return; /* cannot be; the slot is used again */
    }
    transport->next = NULL;
    transport->in_flight++;
    co_enter(co_create(serve, slot));
}

/* The connection is gone: look at the device no more. */
static void end(TransportDev *transport)
{
    if (!transport->serving) {
        return;
    }
    transport->serving = false;
    update_watch(transport);
    aio_set_idle_source(transport->ctx, NULL);
    transport->on_end(transport->on_end_opaque);
}

static bool means_ended(int errnum)
{
    return errnum == ENODEV || errnum == ECONNABORTED || errnum == EPERM;
}

/* ---- sleeping in the device ---- */

static void wait_for_request(void *opaque)
{
    TransportDev *transport = opaque;
    ssize_t n = readv(transport->blocking_fd, transport->wait_iov, 2);
    int errnum = errno;

    aio_idle_source_awake(transport->ctx);
    if (n > 0) {
        start(transport, transport->blocking_fd, (size_t)n);
    } else if (n < 0 && means_ended(errnum)) {
        end(transport);
    }
    /* The rest (EINTR, EINVAL, ENOENT) ends the wait, as it should. */
    prepare_next(transport);
    update_watch(transport);
}

static void interrupt_wait(void *opaque)
{
    TransportDev *transport = opaque;

    (void) pthread_kill(transport->thread_id, SIGURG);
}

/* Async-signal-safe: one store to this thread's own transport. */
static void on_signal(int signal_number)
{
    TransportDev *transport = transport_of_thread;

    if (transport) {
        *(volatile size_t *)&transport->wait_iov[1].iov_len = 0;
    }
}

/* ---- watching the device ---- */

static void on_readable(int fd, uint32_t epoll_events, void *opaque)
{
    TransportDev *transport = opaque;

    for (unsigned i = 0; i < BATCH_MAX &&
         transport->in_flight < IN_FLIGHT_MAX; i++) {
        struct iovec iov[2];
        ssize_t n;

        prepare_next(transport);
        iov[0] = transport->wait_iov[0];
        iov[1] = (struct iovec) { transport->next->request.payload,
                                  transport->payload_bytes };
        n = readv(fd, iov, 2);
        if (n > 0) {
            start(transport, fd, (size_t)n);
        } else if (n < 0 && means_ended(errno)) {
            end(transport);
            break;
        } else if (n < 0 && errno != ENOENT && errno != EINTR) {
            break; /* EAGAIN */
        }
    }
    prepare_next(transport);
    update_watch(transport);
}

/* ---- life ---- */

static int clone_device(int fuse_fd, int flags, GError **error)
{
    uint32_t source = (uint32_t)fuse_fd;
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | flags);

    if (fd < 0) {
        error_set_errno(error, errno, "cannot open /dev/fuse");
        return -1;
    }
    if (ioctl(fd, FUSE_DEV_IOC_CLONE, &source) < 0) {
        error_set_errno(error, errno, "cannot clone /dev/fuse");
        close(fd);
        return -1;
    }
    return fd;
}

/* On the home thread. */
static void start_serving(void *opaque)
{
    TransportDev *transport = opaque;
    sigset_t only;

    transport->thread_id = pthread_self();
    transport_of_thread = transport;
    sigemptyset(&only);
    sigaddset(&only, SIGURG);
    pthread_sigmask(SIG_UNBLOCK, &only, NULL);

    transport->serving = true;
    prepare_next(transport);
    update_watch(transport);
    aio_set_idle_source(transport->ctx, &transport->idle_source);
}

static void stop_serving(void *opaque)
{
    TransportDev *transport = opaque;

    if (transport->serving) {
        transport->serving = false;
        update_watch(transport);
        aio_set_idle_source(transport->ctx, NULL);
    }
}

/* On the home thread, because of the pool the payloads come from. */
static void free_slots(void *opaque)
{
    TransportDev *transport = opaque;

    stop_serving(transport);
    transport_of_thread = NULL;
    free_slot(transport->next);
    transport->next = NULL;
    while (transport->idle_slots) {
        Slot *slot = transport->idle_slots;

        transport->idle_slots = slot->next_idle;
        free_slot(slot);
    }
}

/* SIGURG is ignored by default, so a stray one hurts nobody. */
static void install_handler(void)
{
    struct sigaction action = { .sa_handler = on_signal };

    sigemptyset(&action.sa_mask);
    sigaction(SIGURG, &action, NULL); /* no SA_RESTART: the read must end */
}

TransportDev *transport_dev_new(const FuseMountState *mount, int fuse_fd,
                                IoThread *thread, size_t payload_bytes,
                                AioCallback *on_end, void *opaque,
                                GError **error)
{
    TransportDev *transport = g_new0(TransportDev, 1);

    transport->mount = mount;
    transport->thread = thread;
    transport->ctx = io_thread_context(thread);
    transport->payload_bytes = payload_bytes;
    transport->on_end = on_end;
    transport->on_end_opaque = opaque;
    transport->idle_source = (AioIdleSource) {
        .wait = wait_for_request,
        .interrupt = interrupt_wait,
        .opaque = transport,
    };
    transport->polled_fd = -1;
    transport->blocking_fd = clone_device(fuse_fd, /* flags= */ 0, error);
    if (transport->blocking_fd >= 0) {
        transport->polled_fd = clone_device(fuse_fd, O_NONBLOCK, error);
    }
    if (transport->polled_fd < 0) {
        transport_dev_free(transport);
        return NULL;
    }
    install_handler();
    io_thread_run(thread, start_serving, transport);
    return transport;
}

void transport_dev_stop(TransportDev *transport)
{
    io_thread_run(transport->thread, stop_serving, transport);
}

typedef struct IdleQuestion {
    const TransportDev *transport;
    bool is_idle;
} IdleQuestion;

static void ask_whether_idle(void *opaque)
{
    IdleQuestion *question = opaque;

    question->is_idle = question->transport->in_flight == 0;
}

bool transport_dev_is_idle(TransportDev *transport)
{
    IdleQuestion question = { .transport = transport };

    io_thread_run(transport->thread, ask_whether_idle, &question);
    return question.is_idle;
}

void transport_dev_free(TransportDev *transport)
{
    if (!transport) {
        return;
    }
    io_thread_run(transport->thread, free_slots, transport);
    g_assert(transport->in_flight == 0);
    if (transport->blocking_fd >= 0) {
        close(transport->blocking_fd);
    }
    if (transport->polled_fd >= 0) {
        close(transport->polled_fd);
    }
    g_free(transport);
}
