/* SPDX-License-Identifier: MIT */
/*
 * rules of the blkdebug filter: from options and files
 *
 * A file has a section for each rule, with the keys that options have:
 *
 *   [inject-error]
 *   event = "l2_load"
 *   errno = "5"
 *
 * Both ways end in an option tree of one rule, of which everything must be
 * known and used: a rule with a misspelt key would test nothing, and nobody
 * would notice. Lines that start with '#' are comments.
 *
 * Values are checked for range here, once; the filter trusts them. What an
 * event, a state or a tag means is the filter's business.
 *
 * Locking: none, control plane.
 */
#include "drivers/filters/blkdebug_rules.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define SECTOR_BYTES 512 /* the unit of `sector`, whatever the image's is */

const char *const blkdebug_io_names[] = {
    "read", "write", "write-zeroes", "discard", "flush", "block-status", NULL,
};

/* Asking for the status is no I/O that a rule without iotype means. */
#define IO_TYPES_DEFAULT ((1u << BLKDEBUG_BLOCK_STATUS) - 1)

static const char *const rule_kind_names[BLKDEBUG_KINDS] = {
    "inject-error", "set-state", "suspend",
};

/* ---- rules from options ------------------------------------------------- */

static void rule_free(void *opaque)
{
    BlkdebugRule *rule = opaque;

    g_free(rule->tag);
    g_free(rule);
}

/* Every rule hangs on an event; "none" is one, too. */
static bool take_event(BlockOptions *options, BlockDebugEvent *ret_event,
                       GError **error)
{
    g_autofree char *name = NULL;

    if (!block_options_take_string(options, "event", &name, error)) {
        return false;
    }
    if (name == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "a rule has no event");
        return false;
    }
    *ret_event = block_debug_event_from_name(name);
    if (*ret_event == BLOCK_DEBUG_EVENTS) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "unknown event '%s'", name);
        return false;
    }
    return true;
}

/* -1 or absent: anywhere. */
static bool take_sector(BlockOptions *options, int64_t *ret_offset,
                        GError **error)
{
    const char *text = block_options_peek(options, "sector");
    g_autofree char *ignored = NULL;
    uint64_t sector;

    *ret_offset = -1;
    if (text == NULL || strcmp(text, "-1") == 0) {
        return block_options_take_string(options, "sector", &ignored, error);
    }
    if (!block_options_take_number(options, "sector", &sector, error)) {
        return false;
    }
    if (sector > BDRV_MAX_LENGTH / SECTOR_BYTES) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "sector %" PRIu64 " is too large", sector);
        return false;
    }
    *ret_offset = sector * SECTOR_BYTES;
    return true;
}

/* As the kernel does: -1 to -4095 are errors, anything else may be data. */
bool blkdebug_check_errno(uint64_t errnum, GError **error)
{
    if (errnum == 0 || errnum >= 4096) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%" PRIu64 " is no error number", errnum);
        return false;
    }
    return true;
}

/*
 * What is not given is as wide as possible: any sector, any request but one
 * for the block status, as often as it comes.
 */
static bool take_inject_error(BlkdebugRule *rule, BlockOptions *options,
                              GError **error)
{
    int io_type = -1;
    uint64_t errnum = EIO;

    if (!block_options_take_enum(options, "iotype", blkdebug_io_names,
                                 &io_type, error) ||
        !block_options_take_number(options, "errno", &errnum, error) ||
        !blkdebug_check_errno(errnum, error) ||
        !take_sector(options, &rule->offset, error) ||
        !block_options_take_bool(options, "once", &rule->once, error) ||
        !block_options_take_bool(options, "immediately", &rule->immediately,
                                 error)) {
        return false;
    }
    rule->io_types = io_type < 0 ? IO_TYPES_DEFAULT : 1u << io_type;
    rule->errnum = errnum;
    return true;
}

/*
 * The keys of one kind only: those of another stay in the tree, and so are
 * reported as unknown by the caller.
 */
static bool take_by_kind(BlkdebugRule *rule, BlockOptions *options,
                         GError **error)
{
    switch (rule->kind) {
    case BLKDEBUG_INJECT_ERROR:
        return take_inject_error(rule, options, error);
    case BLKDEBUG_SET_STATE:
        if (!block_options_has(options, "new_state")) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                        "a set-state rule has no new_state");
            return false;
        }
        return block_options_take_number(options, "new_state",
                                         &rule->new_state, error);
    default:
        if (!block_options_has(options, "tag")) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                        "a suspend rule has no tag");
            return false;
        }
        return block_options_take_string(options, "tag", &rule->tag, error);
    }
}

/* Makes a rule of all that is in @options. */
bool blkdebug_add_rule(GPtrArray *rules, BlkdebugKind kind,
                       BlockOptions *options, GError **error)
{
    BlkdebugRule *rule = g_new0(BlkdebugRule, 1);

    rule->kind = kind;
    g_ptr_array_add(rules, rule); /* freed with it, also on failure */
    if (!take_event(options, &rule->event, error) ||
        !block_options_take_number(options, "state", &rule->state, error) ||
        !take_by_kind(rule, options, error)) {
        return false;
    }
    if (block_options_first_key(options) != NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "unknown key '%s' in a rule",
                    block_options_first_key(options));
        return false;
    }
    return true;
}

/*
 * "inject-error.0", "inject-error.1", ... of each kind up to the first number
 * that is missing: what comes after a gap stays in the tree, for the caller of
 * the filter's open to report.
 */
static bool take_rules(GPtrArray *rules, BlockOptions *options,
                       GError **error)
{
    for (int kind = 0; kind < BLKDEBUG_KINDS; kind++) {
        for (unsigned n = 0;; n++) {
            g_autofree char *key =
                g_strdup_printf("%s.%u", rule_kind_names[kind], n);
            g_autoptr(BlockOptions) rule_options = NULL;

            if (!block_options_has_subtree(options, key)) {
                break;
            }
            rule_options = block_options_take_subtree(options, key);
            if (!blkdebug_add_rule(rules, kind, rule_options, error)) {
                g_prefix_error(error, "%s: ", key);
                return false;
            }
        }
    }
    return true;
}

/* ---- rules from a file -------------------------------------------------- */

/* "[name]" to the kind; BLKDEBUG_KINDS when it is none. */
static BlkdebugKind section_kind(const char *line)
{
    for (int kind = 0; kind < BLKDEBUG_KINDS; kind++) {
        g_autofree char *section =
            g_strdup_printf("[%s]", rule_kind_names[kind]);

        if (strcmp(line, section) == 0) {
            return kind;
        }
    }
    return BLKDEBUG_KINDS;
}

/*
 * key = value, or key = "value". The value goes into the tree as a string:
 * what it has to be is known where it is taken out.
 */
static bool parse_assignment(char *line, BlockOptions *options,
                             GError **error)
{
    char *equals = strchr(line, '=');
    char *value;
    size_t length;

    if (equals == NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "'%s' is neither a known section nor 'key = value'",
                    line);
        return false;
    }
    *equals = '\0';
    value = g_strstrip(equals + 1);
    length = strlen(value);
    if (length >= 2 && value[0] == '"' && value[length - 1] == '"') {
        value[length - 1] = '\0';
        value++;
    }
    block_options_set_string(options, g_strstrip(line), value);
    return true;
}

/* Sections are rules: each ends where the next one, or the file, does. */
static bool parse_lines(GPtrArray *rules, char **lines, GError **error)
{
    g_autoptr(BlockOptions) options = block_options_new();
    BlkdebugKind kind = BLKDEBUG_KINDS;

    for (size_t i = 0; lines[i] != NULL; i++) {
        char *line = g_strstrip(lines[i]);
        BlkdebugKind next = section_kind(line);

        if (line[0] == '\0' || line[0] == '#') {
            continue;
        }
        if (next == BLKDEBUG_KINDS) {
            if (kind == BLKDEBUG_KINDS) {
                g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                            "'%s' is no section of rules", line);
                return false;
            }
            if (!parse_assignment(line, options, error)) {
                return false;
            }
            continue;
        }
        if (kind != BLKDEBUG_KINDS &&
            !blkdebug_add_rule(rules, kind, options, error)) {
            return false;
        }
        kind = next;
    }
    if (kind == BLKDEBUG_KINDS) {
        return true;
    }
    return blkdebug_add_rule(rules, kind, options, error);
}

/* A file of the tester's own: it may be of any size and is read at once. */
static bool read_config(GPtrArray *rules, const char *path, GError **error)
{
    g_autoptr(GError) file_error = NULL;
    g_autofree char *content = NULL;
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents(path, &content, NULL, &file_error)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "cannot read rules: %s", file_error->message);
        return false;
    }
    lines = g_strsplit(content, "\n", /* max_tokens= */ -1);
    if (!parse_lines(rules, lines, error)) {
        g_prefix_error(error, "%s: ", path);
        return false;
    }
    return true;
}

/* ---- both --------------------------------------------------------------- */

GPtrArray *blkdebug_rules_new(void)
{
    return g_ptr_array_new_with_free_func(rule_free);
}

/* Rules of the file come first: of two that match, the first one counts. */
bool blkdebug_take_rules(GPtrArray *rules, BlockOptions *options,
                         GError **error)
{
    g_autofree char *config = NULL;

    return block_options_take_string(options, "config", &config, error) &&
           (config == NULL || read_config(rules, config, error)) &&
           take_rules(rules, options, error);
}
