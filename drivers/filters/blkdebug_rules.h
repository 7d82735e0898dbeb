/* SPDX-License-Identifier: MIT */
/*
 * rules of the blkdebug filter: what they are, and how they are written
 *
 * A rule hangs on an event. Its text form is a set of keys: options
 * `inject-error.N.KEY`, `set-state.N.KEY` and `suspend.N.KEY`, or sections of
 * a file. What happens with rules is blkdebug.c. Control plane, but for the
 * members of a rule, which change under that file's lock.
 */
#ifndef DRIVERS_FILTERS_BLKDEBUG_RULES_H
#define DRIVERS_FILTERS_BLKDEBUG_RULES_H

#include "block/graph/options.h"
#include "block/io/debug_event.h"

/* Kinds of requests, as `iotype` names them. */
typedef enum BlkdebugIo {
    BLKDEBUG_READ,
    BLKDEBUG_WRITE,
    BLKDEBUG_WRITE_ZEROES,
    BLKDEBUG_DISCARD,
    BLKDEBUG_FLUSH,
    BLKDEBUG_BLOCK_STATUS,
} BlkdebugIo;

/* By BlkdebugIo, ended by NULL. */
extern const char *const blkdebug_io_names[];

/* What a rule does when its event comes. */
typedef enum BlkdebugKind {
    BLKDEBUG_INJECT_ERROR,
    BLKDEBUG_SET_STATE,
    BLKDEBUG_SUSPEND,
    BLKDEBUG_KINDS,
} BlkdebugKind;

/* One rule; members that its kind does not have are zero. */
typedef struct BlkdebugRule {
    BlkdebugKind kind;
    BlockDebugEvent event;
    uint64_t state; /* 0: any */
    /* inject-error */
    bool armed;
    bool once;
    bool immediately;
    unsigned io_types; /* bits 1 << BlkdebugIo */
    int errnum;
    int64_t offset;    /* -1: anywhere */
    /* set-state */
    uint64_t new_state;
    /* suspend */
    char *tag;
} BlkdebugRule;

/* An empty list of rules, which frees them. */
GPtrArray *blkdebug_rules_new(void);

/*
 * Makes a rule of all that is in @options and adds it to @rules (also a
 * broken one). OPTION error that says which key is wrong.
 */
bool blkdebug_add_rule(GPtrArray *rules, BlkdebugKind kind,
                       BlockOptions *options, GError **error);

/* The rules of `config` and of the options, in this order. */
bool blkdebug_take_rules(GPtrArray *rules, BlockOptions *options,
                         GError **error);

/* Is @errnum one that a request can fail with? OPTION error if not. */
bool blkdebug_check_errno(uint64_t errnum, GError **error);

#endif
