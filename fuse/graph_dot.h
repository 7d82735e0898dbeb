/* SPDX-License-Identifier: MIT */
/*
 * the graph of a mounted image as a picture: text for dot(1)
 */
#ifndef FUSE_GRAPH_DOT_H
#define FUSE_GRAPH_DOT_H

#include "fuse/export.h"

/*
 * graph_dot_write:
 * A digraph: the file, the node behind it and all below, with drivers, names,
 * lengths and what each edge may do. The caller frees. Control plane.
 */
char *graph_dot_write(const Export *export);

#endif
