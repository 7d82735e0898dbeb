/* SPDX-License-Identifier: MIT */
/*
 * the image commands: the table, and what they share
 *
 * A command parses its arguments first, without touching any file, and then
 * does its work in a body that has an event loop. Only here are errors turned
 * into text for the user.
 *
 * Locking: none; commands run on the main thread.
 */
#include "fuse/cmd/cmd.h"

#include "block/rt/aio_context.h"
#include "block/rt/thread_pool.h"

#include <stdio.h>
#include <string.h>

static const ImageCommand *const commands[] = {
    &image_command_check,
    &image_command_compare,
    &image_command_convert,
    &image_command_create,
    &image_command_info,
    &image_command_map,
    &image_command_measure,
    &image_command_resize,
    &image_command_snapshot,
};

const ImageCommand *image_command_at(size_t index)
{
    return index < G_N_ELEMENTS(commands) ? commands[index] : NULL;
}

const ImageCommand *image_command_find(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (strcmp(commands[i]->name, name) == 0) {
            return commands[i];
        }
    }
    return NULL;
}

int image_command_with_loop(ImageCommandBody *body, void *opaque)
{
    g_autoptr(GError) error = NULL;
    AioContext *ctx = aio_context_new(&error);
    int code = CMD_EXIT_ERROR;

    if (ctx) {
        code = body(opaque, &error);
        thread_pool_shutdown();
        co_pool_drain();
        aio_context_free(ctx);
    }
    if (error) {
        fprintf(stderr, "imgfuse: %s\n", error->message);
    }
    return code;
}

bool image_command_parse_output(const char *text, bool *ret_json)
{
    if (strcmp(text, "json") != 0 && strcmp(text, "human") != 0) {
        fprintf(stderr, "imgfuse: --output is human or json, not '%s'\n",
                text);
        return false;
    }
    *ret_json = strcmp(text, "json") == 0;
    return true;
}

BlockBackend *image_command_open(const char *filename, const char *format,
                                 bool image_opts, BdrvOpenFlags flags,
                                 ReferencePolicy *policy, const char *user,
                                 GError **error)
{
    BlockOptions *options;

    if (image_opts) {
        options = block_options_from_string(filename, error);
        if (!options) {
            return NULL;
        }
        filename = NULL;
    } else {
        options = block_options_new();
    }
    if (format) {
        block_options_set_string(options, "driver", format);
    }
    return blk_open(filename, options, flags, policy, user, error);
}

void image_command_print_json(JsonNode *root)
{
    g_autoptr(JsonGenerator) generator = json_generator_new();
    g_autofree char *text = NULL;

    json_generator_set_pretty(generator, TRUE);
    json_generator_set_indent(generator, 4);
    json_generator_set_root(generator, root);
    text = json_generator_to_data(generator, /* length= */ NULL);
    printf("%s\n", text);
    json_node_unref(root);
}
