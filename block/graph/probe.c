/* SPDX-License-Identifier: MIT */
/*
 * guessing an image's format
 *
 * Every format looks at the first bytes and says how sure it is; the surest
 * wins, the one registered first among equals. Raw is what is left: any bytes
 * are a raw image, which is why a guessed raw image is protected from writes
 * that make it look like another format (backend.c).
 *
 * Locking: none; the list of drivers is constant.
 */
#include "block/graph/probe.h"

#include "block/driver.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"
#include "block/io/io.h"

typedef struct ProbeState {
    const uint8_t *buffer;
    size_t bytes;
    const char *filename;
    const BlockDriver *best;
    int best_score;
} ProbeState;

static void probe_driver(const BlockDriver *driver, void *opaque)
{
    ProbeState *state = opaque;
    int score;

    if (!driver->is_format) {
        return;
    }
    score = driver->probe(state->buffer, state->bytes, state->filename);
    if (score > state->best_score) {
        state->best = driver;
        state->best_score = score;
    }
}

const BlockDriver *bdrv_probe_bytes(const uint8_t *buffer, size_t bytes,
                                    const char *filename)
{
    ProbeState state = {
        .buffer = buffer,
        .bytes = bytes,
        .filename = filename,
    };

    bdrv_foreach_driver(probe_driver, &state);
    if (state.best == NULL) {
        state.best = bdrv_find_format("raw");
    }
    g_assert(state.best != NULL); /* every build has raw */
    return state.best;
}

static char *probe_parent_desc(BdrvChild *child)
{
    return g_strdup("probing of the format");
}

/* Looks for a moment and lets others do what they want. */
static const BdrvChildClass probe_child_class = {
    .stay_at_node = true,
    .get_parent_desc = probe_parent_desc,
};

const BlockDriver *bdrv_probe_node(BlockDriverState *file, GError **error)
{
    uint8_t buffer[BLOCK_PROBE_BYTES] = {0};
    int64_t bytes = MIN(bdrv_node_length(file), (int64_t)sizeof(buffer));
    BdrvChild *child;
    int ret = 0;

    child = bdrv_root_attach_child(bdrv_ref(file), "probe",
                                   &probe_child_class, /* parent= */ NULL,
                                   BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL,
                                   error);
    if (child == NULL) {
        return NULL;
    }
    if (bytes > 0) {
        ret = bdrv_pread(child, 0, bytes, buffer);
    }
    bdrv_detach_child(child);
    if (ret < 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_IO,
                    "%s: reading the first %d bytes: %s", bdrv_name(file),
                    (int)bytes, g_strerror(-ret));
        return NULL;
    }
    return bdrv_probe_bytes(buffer, (size_t)bytes, file->exact_filename);
}
