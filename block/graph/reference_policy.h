/* SPDX-License-Identifier: MIT */
/*
 * what other files an image may name: backing files, data files, extents
 *
 * Names in an image are the image author's, not the operator's. By default an
 * image may name regular files (and block devices the operator allowed) in
 * its own folder and below, after symbolic links are resolved; no network, no
 * json:, no protocol prefix. The operator widens it with --allow-path and
 * --allow-remote. Names given by the operator are not subject to it.
 * Constant after setting up: any thread may ask.
 */
#ifndef BLOCK_GRAPH_REFERENCE_POLICY_H
#define BLOCK_GRAPH_REFERENCE_POLICY_H

#include "block/types.h"

ReferencePolicy *reference_policy_new(void);
ReferencePolicy *reference_policy_ref(ReferencePolicy *policy);
void reference_policy_unref(ReferencePolicy *policy);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ReferencePolicy, reference_policy_unref)

/* @directory and everything below may be named. NOT_FOUND when missing. */
bool reference_policy_allow_path(ReferencePolicy *policy,
                                 const char *directory, GError **error);
void reference_policy_allow_remote(ReferencePolicy *policy);

/*
 * reference_policy_resolve:
 * @name as it stands in the image whose real folder is @directory -> the
 * absolute real path to open; the caller frees. NULL with FORBIDDEN (and what
 * option would allow it), NOT_FOUND (naming the folder searched) or
 * UNSUPPORTED (a prefix nobody may use, "json:" ...). The message is a
 * predicate, "not found in /srv": the caller puts before it what names what.
 * A relative name that is not there is also looked for in the directories
 * the operator allowed, in their order. Block devices need such a directory.
 */
char *reference_policy_resolve(const ReferencePolicy *policy,
                               const char *directory, const char *name,
                               GError **error);

/*
 * reference_policy_resolve_below:
 * The same for a lower layer of a chain: @name is relative to the layer's own
 * @directory, but what lies in @root, the folder of the image that the
 * operator named, and below it may be reached. @policy may be NULL.
 */
char *reference_policy_resolve_below(const ReferencePolicy *policy,
                                     const char *root, const char *directory,
                                     const char *name, GError **error);

#endif
