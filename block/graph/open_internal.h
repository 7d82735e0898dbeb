/* SPDX-License-Identifier: MIT */
/*
 * what open.c and open_child.c share; nobody else includes it
 *
 * Opening recurses: a node opens its children, an overlay its backing file.
 * What all levels of one bdrv_open() have in common is in the context, which
 * is reached through a variable because drivers stand in between.
 */
#ifndef BLOCK_GRAPH_OPEN_INTERNAL_H
#define BLOCK_GRAPH_OPEN_INTERNAL_H

#include "block/graph/node.h"
#include "block/types.h"

typedef struct OpenContext {
    ReferencePolicy *policy; /* the operator's; borrowed, may be NULL */
    char *root;        /* folder of the image the operator named; NULL: the
                        * next layer that names a file sets it */
    GPtrArray *layers; /* nodes whose backing file is being opened */
    bool layer_named;  /* the error already says which layer it is about */
    struct OpenContext *outer;
} OpenContext;

/* The innermost; NULL when nothing is being opened. */
extern OpenContext *open_context;

void open_context_enter(OpenContext *context, ReferencePolicy *policy);
void open_context_leave(OpenContext *context);

/*
 * open_tree:
 * bdrv_open() within the context there is. Takes over @options (may be NULL).
 * @error must not be NULL: levels add to the message.
 */
BlockDriverState *open_tree(const char *filename, BlockOptions *options,
                            BdrvOpenFlags flags, GError **error);

/*
 * Takes the common options that may also change while a node is in use:
 * read-only, cache.*, discard (all in @flags) and detect-zeroes.
 */
bool open_take_mutable(BlockOptions *options, BdrvOpenFlags *flags,
                       BdrvDetectZeroes *detect_zeroes, GError **error);

/* The node that option or subtree @name means; the caller gets a count. */
BlockDriverState *open_reference(const char *name, BlockOptions *options,
                                 BdrvOpenFlags flags, GError **error);

/*
 * open_temporary_overlay (temporary_overlay.c):
 * As open_tree(), but the image is opened read-only, and what comes back is
 * an overlay of it in a file without a name, which is gone when it is closed.
 */
BlockDriverState *open_temporary_overlay(const char *filename,
                                         BlockOptions *options,
                                         BdrvOpenFlags flags, GError **error);

/* Is there an option or subtree @name? */
bool options_name_child(const BlockOptions *options, const char *name);

#endif
