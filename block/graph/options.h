/* SPDX-License-Identifier: MIT */
/*
 * BlockOptions: the option tree that describes a graph
 *
 * A tree of string, boolean, integer and nested values, written by users as
 * `json:{"driver":"qcow2","file":{"driver":"file","filename":"a"}}` or with
 * dotted keys `driver=qcow2,file.driver=file,file.filename=a` (a comma in a
 * value is doubled). It is kept flat: one entry per leaf, the key is the
 * dotted path; list elements have their index as a path element.
 *
 * Opening consumes: a driver takes what it knows with the take functions,
 * subtrees go to the children, and what is left over at the end is an error
 * that names it. So an unknown option can never pass silently.
 *
 * Values keep their JSON type, and every take function also accepts the
 * string form ("on", "off", "1M") that command lines have.
 *
 * Context: control plane. Not thread-safe.
 */
#ifndef BLOCK_GRAPH_OPTIONS_H
#define BLOCK_GRAPH_OPTIONS_H

#include "block/types.h"

#include <json-glib/json-glib.h>

typedef enum BlockOptionType {
    BLOCK_OPTION_STRING,
    BLOCK_OPTION_BOOL,   /* on/off, true/false, yes/no */
    BLOCK_OPTION_NUMBER, /* unsigned, decimal or 0x */
    BLOCK_OPTION_SIZE,   /* number with k, M, G, T, P, E suffix (1024s) */
    BLOCK_OPTION_ENUM,   /* one of @values */
    BLOCK_OPTION_CHILD,  /* a node name, or a subtree under this key */
} BlockOptionType;

/* Declares one option for help, man page and type checks. */
typedef struct BlockOptionDesc {
    const char *name;
    BlockOptionType type;
    const char *help;          /* one line, no full stop */
    const char *default_value; /* as typed; NULL: none */
    const char *const *values; /* ENUM: NULL-terminated */
    bool is_mutable;           /* may change at reopen */
    bool is_strong;            /* changes the data seen */
} BlockOptionDesc;

BlockOptions *block_options_new(void);
BlockOptions *block_options_copy(const BlockOptions *options);
void block_options_free(BlockOptions *options);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BlockOptions, block_options_free)

/* Parse; NULL with OPTION error that shows the place. */
BlockOptions *block_options_from_json(const char *json, GError **error);
BlockOptions *block_options_from_string(const char *string, GError **error);

/* The tree as compact JSON, keys sorted; the caller frees. */
char *block_options_to_json(const BlockOptions *options);

void block_options_set_string(BlockOptions *options, const char *key,
                              const char *value);
void block_options_set_bool(BlockOptions *options, const char *key,
                            bool value);
void block_options_set_int(BlockOptions *options, const char *key,
                           int64_t value);

/* Is the leaf @key there? Or, for a subtree, any key below "@key."? */
bool block_options_has(const BlockOptions *options, const char *key);
bool block_options_has_subtree(const BlockOptions *options, const char *key);

/* The leaf's value as text, NULL when absent; owned by @options. */
const char *block_options_peek(const BlockOptions *options, const char *key);

/*
 * Take: remove the leaf and store its value; absent leaves *ret as it was and
 * is no error. A value of the wrong type is an OPTION error that names key,
 * value and what was expected. Strings are the caller's to free.
 */
bool block_options_take_string(BlockOptions *options, const char *key,
                               char **ret, GError **error);
bool block_options_take_bool(BlockOptions *options, const char *key, bool *ret,
                             GError **error);
bool block_options_take_number(BlockOptions *options, const char *key,
                               uint64_t *ret, GError **error);
bool block_options_take_size(BlockOptions *options, const char *key,
                             int64_t *ret, GError **error);
/* *ret becomes the index into the NULL-terminated @values. */
bool block_options_take_enum(BlockOptions *options, const char *key,
                             const char *const *values, int *ret,
                             GError **error);
/* Removes all below "@key." and returns it with that prefix cut off. */
BlockOptions *block_options_take_subtree(BlockOptions *options,
                                         const char *key);

/* Adds the entries of @defaults whose keys @options lacks. */
void block_options_join(BlockOptions *options, const BlockOptions *defaults);

/* Any key that is left, NULL when empty; owned by @options. */
const char *block_options_first_key(const BlockOptions *options);

/* "64k" and the like to bytes; false when it is no size or overflows. */
bool parse_size(const char *text, int64_t *ret_bytes);

#endif
