/* SPDX-License-Identifier: MIT */
/*
 * difftest: many threads change a file at random, a model says what it holds
 *
 *   difftest [--seed N] [--threads N] [--ops N] [--direct off|on|mixed]
 *            [--align N] FILE MODEL
 *
 * MODEL is an ordinary file with the content that FILE has now; it is changed
 * along with FILE, so that whatever FILE is a view of can be compared with it
 * afterwards by other means. Every read is compared at once, the whole file at
 * the start and at the end.
 *
 * The work is cut into rounds. In a round the file is divided at boundaries of
 * random, odd positions, and the pieces are dealt to the threads in turn:
 *
 *   | t0  | t1 | t2   | t0 |  t1  | t2 ...    next round: other boundaries
 *
 * So no two threads ever touch the same byte at a time, and their requests
 * still share sectors, pages and clusters all the time. Pieces are between
 * some hundred bytes and some hundred KiB on average, by round. With "mixed",
 * rounds of direct and of cached I/O take turns; within a round all threads do
 * the same, because the kernel promises nothing about mixing them in a page.
 *
 * Offsets, lengths and data come from the seed alone; only how the threads'
 * requests interleave differs from run to run.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_REQUEST (1024 * 1024)
#define MAX_THREADS 64
#define ROUND_OPS 64 /* of each thread */
#define BUFFER_ALIGN 4096

typedef enum DirectMode {
    DIRECT_OFF,
    DIRECT_ON,
    DIRECT_MIXED,
} DirectMode;

typedef enum Op {
    OP_READ,
    OP_READ_FOREIGN, /* a range of others, only to disturb */
    OP_WRITE,
    OP_WRITE_ZEROS,
    OP_PUNCH,
    OP_ZERO_RANGE,
    OP_SYNC,
    OP_COUNT,
} Op;

static const char *const op_names[OP_COUNT] = {
    "read", "read-foreign", "write", "write-zeros", "punch", "zero-range",
    "fsync",
};

/* What one request does, by a roll of 0 .. 99: below the limit. */
static const unsigned op_limits[OP_COUNT] = { 35, 40, 78, 82, 89, 96, 100 };

typedef struct Options {
    uint64_t seed;
    unsigned threads;
    unsigned ops; /* in total */
    DirectMode direct;
    int64_t align; /* of direct requests */
    const char *path;
    const char *model_path;
} Options;

static Options options = {
    .seed = 1,
    .threads = 8,
    .ops = 20000,
    .align = 1,
};

static int cached_fd, direct_fd = -1;
static uint8_t *model; /* each byte is its owner's in the round */
static int64_t length;
static pthread_barrier_t round_barrier;
static uint64_t done_ops[OP_COUNT]; /* atomic */

typedef struct Worker {
    pthread_t thread;
    unsigned index;
    uint64_t random;
    uint8_t *buffer; /* 2 * MAX_REQUEST: write or read, scratch */
    unsigned op_number;
} Worker;

/* ---- random numbers ---- */

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t next_random(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u;
    return mix(*state);
}

static int64_t below(uint64_t *state, int64_t limit)
{
    return (int64_t)(next_random(state) % (uint64_t)limit);
}

/* 1 .. @limit, every order of magnitude equally likely. */
static int64_t random_size(uint64_t *state, int64_t limit)
{
    int64_t top = (int64_t)1 << below(state, 21);

    top = top > limit ? limit : top;
    return 1 + below(state, top);
}

/* ---- who owns what ---- */

static int64_t piece_bytes(unsigned round)
{
    static const int64_t sizes[] = { 700, 5000, 70000, 300000 };

    return sizes[mix(options.seed + round) % 4];
}

/* Where piece @index of @round begins. */
static int64_t boundary(unsigned round, int64_t index)
{
    int64_t size = piece_bytes(round);
    int64_t at = index * size;

    if (index > 0) {
        at += mix(options.seed * 31 + round * 7919u + index) % (size / 2);
    }
    return at < length ? at : length;
}

/* A random range that @worker owns. */
static void choose_range(Worker *worker, unsigned round, int64_t *ret_offset,
                         int64_t *ret_bytes)
{
    int64_t pieces = length / piece_bytes(round) + 1;
    int64_t start, end;

    do {
        int64_t turns = (pieces + options.threads - 1) / options.threads;
        int64_t index = below(&worker->random, turns) * options.threads +
                        (worker->index + round) % options.threads;

        start = boundary(round, index);
        end = boundary(round, index + 1);
    } while (start >= end);

    *ret_bytes = random_size(&worker->random, end - start);
    if (*ret_bytes > MAX_REQUEST) {
        *ret_bytes = MAX_REQUEST;
    }
    *ret_offset = start;
    if (end - start > *ret_bytes) {
        *ret_offset += below(&worker->random, end - start - *ret_bytes + 1);
    }
}

/* Shrinks to whole blocks; false when none is left. */
static bool align_range(int64_t *offset, int64_t *bytes)
{
    int64_t align = options.align;
    int64_t start = (*offset + align - 1) / align * align;
    int64_t end = (*offset + *bytes) / align * align;

    *offset = start;
    *bytes = end - start;
    return *bytes > 0;
}

/* ---- doing it ---- */

static void die(const Worker *worker, const char *what, int64_t offset,
                int64_t bytes)
{
    fprintf(stderr, "difftest: %s, offset %" PRId64 ", %" PRId64 " bytes: %s",
            what, offset, bytes, strerror(errno));
    if (worker != NULL) {
        fprintf(stderr, " (thread %u, request %u)", worker->index,
                worker->op_number);
    }
    fprintf(stderr, "; seed %" PRIu64 "\n", options.seed);
    exit(1);
}

static void read_all(const Worker *worker, int fd, uint8_t *buffer,
                     int64_t offset, int64_t bytes)
{
    int64_t done = 0;

    while (done < bytes) {
        ssize_t ret = pread(fd, buffer + done, bytes - done, offset + done);

        if (ret == 0) {
            errno = ENODATA;
        }
        if (ret <= 0 && errno != EINTR) {
            die(worker, "read failed", offset + done, bytes - done);
        }
        done += ret > 0 ? ret : 0;
    }
}

static void write_all(const Worker *worker, int fd, const uint8_t *buffer,
                      int64_t offset, int64_t bytes)
{
    int64_t done = 0;

    while (done < bytes) {
        ssize_t ret = pwrite(fd, buffer + done, bytes - done, offset + done);

        if (ret < 0 && errno != EINTR) {
            die(worker, "write failed", offset + done, bytes - done);
        }
        done += ret > 0 ? ret : 0;
    }
}

static void compare(const Worker *worker, const uint8_t *buffer,
                    int64_t offset, int64_t bytes, const char *when)
{
    int64_t at = 0;

    if (memcmp(buffer, model + offset, bytes) == 0) {
        return;
    }
    while (buffer[at] == model[offset + at]) {
        at++;
    }
    fprintf(stderr, "difftest: %s: byte %" PRId64 " is 0x%02x, not 0x%02x; "
            "read of %" PRId64 " at %" PRId64, when, offset + at, buffer[at],
            model[offset + at], bytes, offset);
    if (worker != NULL) {
        fprintf(stderr, ", thread %u, request %u", worker->index,
                worker->op_number);
    }
    fprintf(stderr, "; seed %" PRIu64 "\n", options.seed);
    exit(1);
}

static void fill_random(Worker *worker, uint8_t *buffer, int64_t bytes)
{
    for (int64_t at = 0; at < bytes; at += 8) {
        uint64_t word = next_random(&worker->random);

        memcpy(buffer + at, &word, bytes - at < 8 ? bytes - at : 8);
    }
}

static void do_write(Worker *worker, int fd, bool zeros, int64_t offset,
                     int64_t bytes)
{
    if (zeros) {
        memset(worker->buffer, 0, bytes);
    } else {
        fill_random(worker, worker->buffer, bytes);
    }
    memcpy(model + offset, worker->buffer, bytes);
    write_all(worker, fd, worker->buffer, offset, bytes);
}

static void do_fallocate(Worker *worker, int fd, int mode, int64_t offset,
                         int64_t bytes)
{
    memset(model + offset, 0, bytes);
    while (fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, offset, bytes) < 0) {
        if (errno != EINTR) {
            die(worker, mode == FALLOC_FL_PUNCH_HOLE ? "punch failed"
                                                     : "zero-range failed",
                offset, bytes);
        }
    }
}

static void do_op(Worker *worker, Op op, int fd, int64_t offset, int64_t bytes)
{
    switch (op) {
    case OP_READ:
        read_all(worker, fd, worker->buffer, offset, bytes);
        compare(worker, worker->buffer, offset, bytes, "while running");
        break;
    case OP_READ_FOREIGN:
        offset = below(&worker->random, length) / options.align *
                 options.align;
        bytes = bytes < length - offset ? bytes : options.align;
        if (offset + bytes <= length) {
            read_all(worker, fd, worker->buffer, offset, bytes);
        }
        break;
    case OP_WRITE:
    case OP_WRITE_ZEROS:
        do_write(worker, fd, op == OP_WRITE_ZEROS, offset, bytes);
        break;
    case OP_PUNCH:
        do_fallocate(worker, fd, FALLOC_FL_PUNCH_HOLE, offset, bytes);
        break;
    case OP_ZERO_RANGE:
        do_fallocate(worker, fd, FALLOC_FL_ZERO_RANGE, offset, bytes);
        break;
    default:
        /* slow: not each time */
        if (below(&worker->random, 4) == 0 && fsync(fd) < 0) {
            die(worker, "fsync failed", 0, 0);
        }
    }
    __atomic_add_fetch(&done_ops[op], 1, __ATOMIC_RELAXED);
}

static Op choose_op(Worker *worker)
{
    unsigned roll = below(&worker->random, 100);
    Op op = OP_READ;

    while (roll >= op_limits[op]) {
        op++;
    }
    return op;
}

static void *run_worker(void *opaque)
{
    Worker *worker = opaque;
    unsigned own_ops = options.ops / options.threads + 1;
    unsigned rounds = (own_ops + ROUND_OPS - 1) / ROUND_OPS;

    for (unsigned round = 0; round < rounds; round++) {
        bool direct = options.direct == DIRECT_ON ||
                      (options.direct == DIRECT_MIXED && round % 2 == 1);

        for (unsigned i = 0; i < ROUND_OPS; i++) {
            int64_t offset, bytes;
            Op op = choose_op(worker);

            worker->op_number++;
            choose_range(worker, round, &offset, &bytes);
            if (direct && !align_range(&offset, &bytes)) {
                continue;
            }
            do_op(worker, op, direct ? direct_fd : cached_fd, offset, bytes);
        }
        (void) pthread_barrier_wait(&round_barrier);
    }
    return NULL;
}

static void compare_whole_file(int fd, uint8_t *buffer, const char *when)
{
    for (int64_t at = 0; at < length; at += MAX_REQUEST) {
        int64_t bytes = length - at < MAX_REQUEST ? length - at : MAX_REQUEST;

        read_all(/* worker= */ NULL, fd, buffer, at, bytes);
        compare(/* worker= */ NULL, buffer, at, bytes, when);
    }
}

/* ---- the frame ---- */

static void parse_options(int argc, char **argv)
{
    static const struct option names[] = {
        { "seed", required_argument, NULL, 's' },
        { "threads", required_argument, NULL, 't' },
        { "ops", required_argument, NULL, 'o' },
        { "direct", required_argument, NULL, 'd' },
        { "align", required_argument, NULL, 'a' },
        { NULL, 0, NULL, 0 },
    };
    int letter;

    while ((letter = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (letter) {
        case 's': options.seed = strtoull(optarg, NULL, 0); break;
        case 't': options.threads = strtoul(optarg, NULL, 0); break;
        case 'o': options.ops = strtoul(optarg, NULL, 0); break;
        case 'a': options.align = strtoll(optarg, NULL, 0); break;
        case 'd':
            options.direct = strcmp(optarg, "on") == 0 ? DIRECT_ON
                             : strcmp(optarg, "mixed") == 0 ? DIRECT_MIXED
                                                            : DIRECT_OFF;
            break;
        default: exit(2);
        }
    }
    if (argc - optind != 2 || options.threads == 0 ||
        options.threads > MAX_THREADS || options.align < 1) {
        fprintf(stderr, "usage: difftest [OPTIONS] FILE MODEL\n");
        exit(2);
    }
    options.path = argv[optind];
    options.model_path = argv[optind + 1];
}

static void open_files(void)
{
    struct stat st;
    int model_fd = open(options.model_path, O_RDWR);

    cached_fd = open(options.path, O_RDWR);
    if (options.direct != DIRECT_OFF) {
        direct_fd = open(options.path, O_RDWR | O_DIRECT);
    }
    if (model_fd < 0 || cached_fd < 0 ||
        (options.direct != DIRECT_OFF && direct_fd < 0) ||
        fstat(model_fd, &st) < 0) {
        die(NULL, "cannot open the files", 0, 0);
    }
    length = st.st_size;
    if (fstat(cached_fd, &st) < 0 || st.st_size != length || length == 0) {
        fprintf(stderr, "difftest: %s has %" PRId64 " bytes, the model %"
                PRId64 "\n", options.path, (int64_t)st.st_size, length);
        exit(1);
    }
    model = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, model_fd,
                 0);
    if (model == MAP_FAILED) {
        die(NULL, "cannot map the model", 0, length);
    }
}

static void start_worker(Worker *worker, unsigned index)
{
    worker->index = index;
    worker->random = mix(options.seed ^ ((uint64_t)index << 32));
    if (posix_memalign((void **)&worker->buffer, BUFFER_ALIGN,
                       2 * MAX_REQUEST) != 0 ||
        pthread_create(&worker->thread, NULL, run_worker, worker) != 0) {
        die(worker, "cannot start a thread", 0, 0);
    }
}

int main(int argc, char **argv)
{
    static Worker workers[MAX_THREADS];
    static uint8_t buffer[MAX_REQUEST];

    parse_options(argc, argv);
    open_files();
    compare_whole_file(cached_fd, buffer, "at the start");
    (void) pthread_barrier_init(&round_barrier, NULL, options.threads);

    for (unsigned i = 0; i < options.threads; i++) {
        start_worker(&workers[i], i);
    }
    for (unsigned i = 0; i < options.threads; i++) {
        (void) pthread_join(workers[i].thread, NULL);
        free(workers[i].buffer);
    }

    compare_whole_file(cached_fd, buffer, "at the end");
    if (fsync(cached_fd) < 0 || close(cached_fd) < 0) {
        die(NULL, "fsync at the end failed", 0, 0);
    }
    printf("difftest: equal;");
    for (unsigned op = 0; op < OP_COUNT; op++) {
        printf(" %" PRIu64 " %s", done_ops[op], op_names[op]);
    }
    printf("; seed %" PRIu64 "\n", options.seed);
    return 0;
}
