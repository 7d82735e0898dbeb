/* SPDX-License-Identifier: MIT */
/*
 * drivers for tests of the graph, and small files for them
 *
 *   tmem     protocol "tmem:": zeros in memory, counts what it is told
 *   tfilter  filter that leaves everything to the defaults
 *   tfmt     format: "TFMT\n", then lines "backing=NAME" and "format=NAME"
 *   raw      format of last resort
 *   file     protocol: a regular file, read only, without locks
 */
#ifndef TESTS_UNIT_GRAPH_TEST_DRIVER_H
#define TESTS_UNIT_GRAPH_TEST_DRIVER_H

#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/graph/edge.h"
#include "block/graph/open.h"
#include "block/graph/options.h"
#include "block/graph/perm.h"
#include "block/io/io.h"
#include "block/rt/aio_context.h"
#include "block/rt/thread_pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define TMEM_BYTES 65536

/* State of a tmem node: bytes, and what the block layer did with it. */
typedef struct TestMem {
    uint8_t *bytes;
    int checks, sets, aborts;
    int drain_begins, drain_ends;
    int flushes;
    bool refuse_perms; /* the next check_perm fails */
    bool refuse_reopen;
    int reopen_commits, reopen_aborts;
    Coroutine *held;   /* a read that waits for test_release_read() */
    bool hold_reads;
} TestMem;

/* Registers the drivers and makes a context; once around all tests. */
int graph_test_setup(void **state);
int graph_test_teardown(void **state);

/* A tmem node named @name without parents; the caller has one count. */
BlockDriverState *test_node(const char *name, BdrvOpenFlags flags);
/* bdrv_open() of JSON options that must succeed. */
BlockDriverState *test_open(const char *json, BdrvOpenFlags flags);
TestMem *test_mem(BlockDriverState *bs);
void test_release_read(BlockDriverState *bs);

/* How many nodes there are: 0 after a test that leaves nothing behind. */
int test_count_nodes(void);

/* A fresh folder, real path; test_remove_folder() removes it and frees. */
char *test_folder(void);
void test_remove_folder(char *folder);
void test_write_file(const char *folder, const char *name,
                     const char *content);

#endif
