/* SPDX-License-Identifier: MIT */
/*
 * BdrvChild: an edge from a parent (a node, a backend or a job) to a node
 *
 * The edge belongs to the parent; through it the parent sends requests, and
 * by its class the node tells the parent things. All of it is control plane,
 * with the node drained.
 */
#ifndef BLOCK_GRAPH_EDGE_H
#define BLOCK_GRAPH_EDGE_H

#include "block/types.h"

/* How a kind of parent is told. Members may be NULL: nothing to do. */
struct BdrvChildClass {
    bool parent_is_bs;       /* child->parent is a BlockDriverState */
    bool stay_at_node;       /* bdrv_replace_node() leaves this edge alone */
    /* Who uses the node, for messages: "mount of disk.raw". Caller frees. */
    char *(*get_parent_desc)(BdrvChild *child);
    /* Flags and options that the child gets from the parent's. */
    void (*inherit_options)(BdrvChildRole role, bool parent_is_format,
                            BdrvOpenFlags parent_flags,
                            const BlockOptions *parent_options,
                            BdrvOpenFlags *ret_flags,
                            BlockOptions *child_options);
    void (*attach)(BdrvChild *child);
    void (*detach)(BdrvChild *child);
    void (*change_media)(BdrvChild *child);
    void (*resize)(BdrvChild *child);
    /* begin: send no new requests. polled: are some still in flight? */
    void (*drained_begin)(BdrvChild *child);
    bool (*drained_poll)(BdrvChild *child);
    void (*drained_end)(BdrvChild *child);
};

struct BdrvChild {
    BlockDriverState *bs; /* the node it ends at */
    char *name;           /* "file", "backing", "data-file", "root", ... */
    const BdrvChildClass *klass;
    BdrvChildRole role;
    void *parent; /* a BlockDriverState when klass->parent_is_bs */
    uint32_t perm;   /* requests look by bdrv_child_perm() */
    uint32_t shared;
    uint32_t granted; /* shared beyond that, for as long as a job says so */
    bool frozen;    /* may be neither replaced nor detached */
    char *frozen_reason; /* "commit 'job0' works on it"; NULL: not said */
    bool quiesced;  /* the parent has been told to drain over this edge */
};

/*
 * What the parent may do, for requests. Any thread: another user may come or
 * go meanwhile, which changes the bits, but never those of who is at work.
 */
static inline uint32_t bdrv_child_perm(const BdrvChild *child)
{
    return __atomic_load_n(&child->perm, __ATOMIC_RELAXED);
}

/* The class of edges between two nodes. */
extern const BdrvChildClass bdrv_child_of_bs;

/*
 * bdrv_attach_child:
 * Makes an edge from node @parent to @child_bs (takes over the caller's count
 * of it, also on failure) and updates permissions. CONFLICT when another
 * user's permissions clash, or a job keeps new users away
 * (BDRV_OP_NEW_USER); FAILED when it would close a circle or get deeper than
 * BDRV_MAX_DEPTH.
 */
BdrvChild *bdrv_attach_child(BlockDriverState *parent,
                             BlockDriverState *child_bs, const char *name,
                             BdrvChildRole role, GError **error);

/* The same for a parent that is not a node; @perm, @shared are its wishes. */
BdrvChild *bdrv_root_attach_child(BlockDriverState *child_bs, const char *name,
                                  const BdrvChildClass *klass, void *parent,
                                  uint32_t perm, uint32_t shared,
                                  GError **error);

/*
 * Removes the edge and gives up its count. NULL is harmless. The edge is not
 * frozen: callers that cannot know ask bdrv_child_check_not_frozen().
 */
void bdrv_detach_child(BdrvChild *child);

/*
 * bdrv_add_child, bdrv_del_child:
 * Gives @parent one more child, or takes @child from it, while it is in use;
 * it is drained meanwhile. UNSUPPORTED when its driver has no such children.
 */
bool bdrv_add_child(BlockDriverState *parent, BlockDriverState *child_bs,
                    GError **error);
bool bdrv_del_child(BlockDriverState *parent, BdrvChild *child,
                    GError **error);

/*
 * bdrv_child_freeze:
 * Until bdrv_child_unfreeze() whoever wants to replace or detach the edge gets
 * CONFLICT with @reason ("a job works on it"; may be NULL). CONFLICT when it
 * is frozen already.
 */
bool bdrv_child_freeze(BdrvChild *child, const char *reason, GError **error);
void bdrv_child_unfreeze(BdrvChild *child);

/* CONFLICT with the reason when @child is frozen. */
bool bdrv_child_check_not_frozen(const BdrvChild *child, GError **error);

/*
 * bdrv_set_backing:
 * @backing (NULL: none) becomes what @bs reads where it has nothing; whatever
 * was there is let go. Images' headers are not touched: that is
 * block/image/chain.h. UNSUPPORTED for nodes without backing files.
 */
bool bdrv_set_backing(BlockDriverState *bs, BlockDriverState *backing,
                      GError **error);

/* Lets the edge end at @new_bs; both are drained meanwhile. */
bool bdrv_replace_child(BdrvChild *child, BlockDriverState *new_bs,
                        GError **error);

/* Moves every parent edge of @from (but stay_at_node ones) to @to. */
bool bdrv_replace_node(BlockDriverState *from, BlockDriverState *to,
                       GError **error);

/* Does a path of edges lead from @from to @to? */
bool bdrv_reaches(const BlockDriverState *from, const BlockDriverState *to);

/*
 * May @to_replace, which is @bs or a node below, be replaced by one that holds
 * what @bs shows, without that any user of either sees a difference? True for
 * @bs itself, through filters, and for children that are outvoted (quorum)
 * and have no other user.
 */
bool bdrv_recurse_can_replace(BlockDriverState *bs,
                              BlockDriverState *to_replace);

/* The user at the other end, for messages; the caller frees. */
char *bdrv_child_parent_desc(BdrvChild *child);

#endif
