/* SPDX-License-Identifier: MIT */
/*
 * replay_log LOG FILE [ENTRIES]
 *
 * Does what a log of the blklogwrites driver (or dm-log-writes) says to FILE,
 * all of it or its first ENTRIES entries, and prints how many that were: what
 * the image held at that moment. Exits with 1 when the log is damaged.
 */
#include "tests/tools/replay_log.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    uint64_t limit = argc > 3 ? strtoull(argv[3], NULL, 10) : UINT64_MAX;
    uint64_t flushes = 0;
    int64_t done;
    int log_fd, fd;

    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: replay_log LOG FILE [ENTRIES]\n");
        return 2;
    }
    log_fd = open(argv[1], O_RDONLY);
    fd = open(argv[2], O_RDWR);
    if (log_fd < 0 || fd < 0) {
        perror(log_fd < 0 ? argv[1] : argv[2]);
        return 1;
    }
    done = replay_log(log_fd, fd, limit, &flushes);
    if (done < 0) {
        fprintf(stderr, "replay_log: %s is no log, or is damaged\n", argv[1]);
        return 1;
    }
    printf("%" PRId64 " entries, %" PRIu64 " flushes\n", done, flushes);
    return close(fd) < 0 || close(log_fd) < 0;
}
