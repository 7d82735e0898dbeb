/* SPDX-License-Identifier: MIT */
/*
 * the graph of a mounted image as a picture: text for dot(1)
 *
 *   "disk.raw" ─▶ qcow2 ─ file ─▶ file
 *                   └─ backing ─▶ raw ─ file ─▶ file
 *
 * What a user cannot see otherwise stands in the boxes: which driver, which
 * file, may it be written, and what is wanted from it.
 *
 * Always true: names come from images and users, so every label goes through
 * append_quoted(): no name ends a label or begins a line of its own.
 *
 * Locking: none; control plane, where the graph does not change meanwhile.
 */
#include "fuse/graph_dot.h"

#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/graph/perm.h"

#include <inttypes.h>

typedef struct Picture {
    GString *text;
    GPtrArray *nodes; /* of BlockDriverState *: the index is the number */
} Picture;

/* Within quotes; bytes from 128 on stay as they are (UTF-8, mostly). */
static void append_quoted(GString *text, const char *name)
{
    for (; *name; name++) {
        unsigned char c = (unsigned char)*name;

        if (c == '"' || c == '\\') {
            g_string_append_c(text, '\\');
        }
        if (c < 0x20 || c == 0x7f) {
            g_string_append_printf(text, "%%%02X", c);
        } else {
            g_string_append_c(text, (char)c);
        }
    }
}

/* @bs's number; a node with two parents is drawn once. */
static guint number_of(Picture *picture, BlockDriverState *bs)
{
    guint index;

    if (!g_ptr_array_find(picture->nodes, bs, &index)) {
        index = picture->nodes->len;
        g_ptr_array_add(picture->nodes, bs);
    }
    return index;
}

/*
 * A node's own line: what it is, what it is called, whether it may be written.
 */
static void draw_node(Picture *picture, guint number)
{
    const BlockDriverState *bs = g_ptr_array_index(picture->nodes, number);

    g_string_append_printf(picture->text, "    n%u [label=\"", number);
    append_quoted(picture->text, bs->drv->format_name);
    g_string_append(picture->text, "\\n");
    append_quoted(picture->text, bdrv_name(bs));
    g_string_append_printf(picture->text, "\\n%" PRId64 " bytes, %s",
                           bdrv_node_length(bs),
                           bs->read_only ? "read-only" : "read-write");
    g_string_append(picture->text, "\"];\n");
}

/* Numbers the children that are new: the caller draws them later. */
static void draw_edges(Picture *picture, guint number)
{
    const BlockDriverState *bs = g_ptr_array_index(picture->nodes, number);

    for (guint i = 0; i < bs->children->len; i++) {
        const BdrvChild *child = g_ptr_array_index(bs->children, i);
        g_autofree char *perms = bdrv_perm_names(child->perm);

        g_string_append_printf(picture->text, "    n%u -> n%u [label=\"",
                               number, number_of(picture, child->bs));
        append_quoted(picture->text, child->name);
        g_string_append(picture->text, "\\n");
        append_quoted(picture->text, perms);
        g_string_append(picture->text, "\"];\n");
    }
}

/* Breadth first, so that the text reads from the mount down to the disks. */
char *graph_dot_write(const Export *export)
{
    Picture picture = { g_string_new("digraph \""), g_ptr_array_new() };

    append_quoted(picture.text, export->name);
    g_string_append(picture.text, "\" {\n    node [shape=box];\n"
                                  "    image [shape=ellipse, label=\"");
    append_quoted(picture.text, export->name);
    g_string_append(picture.text, "\"];\n    image -> n0;\n");
    (void) number_of(&picture, blk_bs(export->blk));
    /* The list grows while it is walked: top down, each node once. */
    for (guint i = 0; i < picture.nodes->len; i++) {
        draw_node(&picture, i);
        draw_edges(&picture, i);
    }
    g_string_append(picture.text, "}\n");
    g_ptr_array_unref(picture.nodes);
    return g_string_free(picture.text, /* free_segment= */ FALSE);
}
