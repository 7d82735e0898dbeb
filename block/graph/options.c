/* SPDX-License-Identifier: MIT */
/*
 * the option tree: parsing, taking, printing
 *
 * Kept flat, as a sorted map from dotted path to leaf:
 *
 *   {"file": {"driver": "file", "x": [1, 2]}}
 *     file.driver = "file"   file.x.0 = 1   file.x.1 = 2
 *
 * Which options exist is for the drivers and for open.c to say.
 *
 * Always true outside a function of this file:
 *  O1  no key is both a leaf and the beginning of a longer path, unless
 *      block_options_set_... was told so: parsers refuse it;
 *  O2  every leaf has a text; the JSON type is only remembered beside it.
 *
 * Locking: none, control plane.
 */
#include "block/graph/options.h"

#include <errno.h>
#include <string.h>

/* Operators write options; still, a parser must not be led to overflow. */
#define OPTIONS_MAX_NESTING 64

typedef enum LeafType {
    LEAF_STRING,
    LEAF_BOOL,
    LEAF_INT,
    LEAF_NULL,
} LeafType;

typedef struct Leaf {
    LeafType type;
    char *text;
} Leaf;

struct BlockOptions {
    GTree *leaves; /* char * -> Leaf *, sorted */
};

static Leaf *leaf_new(LeafType type, const char *text)
{
    Leaf *leaf = g_new0(Leaf, 1);

    leaf->type = type;
    leaf->text = g_strdup(text);
    return leaf;
}

static void leaf_free(void *opaque)
{
    Leaf *leaf = opaque;

    g_free(leaf->text);
    g_free(leaf);
}

static int compare_keys(const void *a, const void *b, void *opaque)
{
    return strcmp(a, b);
}

BlockOptions *block_options_new(void)
{
    BlockOptions *options = g_new0(BlockOptions, 1);

    options->leaves = g_tree_new_full(compare_keys, NULL, g_free, leaf_free);
    return options;
}

static gboolean copy_leaf(void *key, void *value, void *opaque)
{
    BlockOptions *copy = opaque;
    const Leaf *leaf = value;

    g_tree_insert(copy->leaves, g_strdup(key),
                  leaf_new(leaf->type, leaf->text));
    return FALSE;
}

BlockOptions *block_options_copy(const BlockOptions *options)
{
    BlockOptions *copy = block_options_new();

    if (options != NULL) {
        g_tree_foreach(options->leaves, copy_leaf, copy);
    }
    return copy;
}

void block_options_free(BlockOptions *options)
{
    if (options == NULL) {
        return;
    }
    g_tree_destroy(options->leaves);
    g_free(options);
}

static const Leaf *find_leaf(const BlockOptions *options, const char *key)
{
    return g_tree_lookup(options->leaves, key);
}

static void set_leaf(BlockOptions *options, const char *key, LeafType type,
                     const char *text)
{
    g_tree_insert(options->leaves, g_strdup(key), leaf_new(type, text));
}

/* ---- queries ------------------------------------------------------------ */

/* The first key at or after @prefix, if it begins with @prefix. */
static const char *first_key_with_prefix(const BlockOptions *options,
                                         const char *prefix)
{
    GTreeNode *node = g_tree_lower_bound(options->leaves, prefix);

    if (node == NULL || !g_str_has_prefix(g_tree_node_key(node), prefix)) {
        return NULL;
    }
    return g_tree_node_key(node);
}

bool block_options_has(const BlockOptions *options, const char *key)
{
    return find_leaf(options, key) != NULL;
}

bool block_options_has_subtree(const BlockOptions *options, const char *key)
{
    g_autofree char *prefix = g_strconcat(key, ".", NULL);

    return first_key_with_prefix(options, prefix) != NULL;
}

const char *block_options_peek(const BlockOptions *options, const char *key)
{
    const Leaf *leaf = find_leaf(options, key);

    return leaf == NULL ? NULL : leaf->text;
}

const char *block_options_first_key(const BlockOptions *options)
{
    return first_key_with_prefix(options, "");
}

/* ---- parsing ------------------------------------------------------------ */

/* Adds a leaf that must not clash with what is there (O1). */
static bool add_parsed(BlockOptions *options, const char *key, LeafType type,
                       const char *text, GError **error)
{
    if (key[0] == '\0' || key[0] == '.' || g_str_has_suffix(key, ".") ||
        strstr(key, "..") != NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "option name '%s' has an empty part", key);
        return false;
    }
    if (block_options_has(options, key)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "option '%s' is given twice", key);
        return false;
    }
    if (block_options_has_subtree(options, key)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "option '%s' is given as a value and as a group", key);
        return false;
    }
    for (const char *dot = strchr(key, '.'); dot; dot = strchr(dot + 1, '.')) {
        g_autofree char *parent = g_strndup(key, (size_t)(dot - key));

        if (block_options_has(options, parent)) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                        "option '%s' is given as a value and as a group",
                        parent);
            return false;
        }
    }
    set_leaf(options, key, type, text);
    return true;
}

static bool add_json_value(BlockOptions *options, const char *key,
                           JsonNode *node, GError **error)
{
    GType type = json_node_get_value_type(node);
    g_autofree char *text = NULL;

    if (type == G_TYPE_BOOLEAN) {
        return add_parsed(options, key, LEAF_BOOL,
                          json_node_get_boolean(node) ? "on" : "off", error);
    }
    if (type == G_TYPE_INT64) {
        text = g_strdup_printf("%" G_GINT64_FORMAT, json_node_get_int(node));
        return add_parsed(options, key, LEAF_INT, text, error);
    }
    if (type == G_TYPE_STRING) {
        return add_parsed(options, key, LEAF_STRING,
                          json_node_get_string(node), error);
    }
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                "option '%s' is a fraction; no option takes one", key);
    return false;
}

static bool add_json_node(BlockOptions *options, const char *key,
                          JsonNode *node, GError **error);

static bool add_json_object(BlockOptions *options, const char *prefix,
                            JsonObject *object, GError **error)
{
    JsonObjectIter iter;
    const char *name;
    JsonNode *member;

    json_object_iter_init(&iter, object);
    while (json_object_iter_next(&iter, &name, &member)) {
        g_autofree char *key = *prefix == '\0'
            ? g_strdup(name) : g_strconcat(prefix, ".", name, NULL);

        if (!add_json_node(options, key, member, error)) {
            return false;
        }
    }
    return true;
}

static bool add_json_node(BlockOptions *options, const char *key,
                          JsonNode *node, GError **error)
{
    switch (json_node_get_node_type(node)) {
    case JSON_NODE_OBJECT:
        return add_json_object(options, key, json_node_get_object(node),
                               error);
    case JSON_NODE_ARRAY: {
        JsonArray *array = json_node_get_array(node);

        for (unsigned i = 0; i < json_array_get_length(array); i++) {
            g_autofree char *path = g_strdup_printf("%s.%u", key, i);

            if (!add_json_node(options, path,
                               json_array_get_element(array, i), error)) {
                return false;
            }
        }
        return true;
    }
    case JSON_NODE_NULL:
        return add_parsed(options, key, LEAF_NULL, "", error);
    default:
        return add_json_value(options, key, node, error);
    }
}

/* The parser recurses: bound what it sees. Brackets in strings count, too. */
static bool json_nesting_is_sane(const char *json)
{
    int depth = 0;

    for (; *json != '\0'; json++) {
        if (*json == '{' || *json == '[') {
            if (++depth > OPTIONS_MAX_NESTING) {
                return false;
            }
        } else if (*json == '}' || *json == ']') {
            depth--;
        }
    }
    return true;
}

BlockOptions *block_options_from_json(const char *json, GError **error)
{
    g_autoptr(JsonParser) parser = json_parser_new_immutable();
    g_autoptr(BlockOptions) options = block_options_new();
    g_autoptr(GError) parse_error = NULL;
    JsonNode *root;

    if (!json_nesting_is_sane(json)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "json: more than %d levels deep", OPTIONS_MAX_NESTING);
        return NULL;
    }
    if (!json_parser_load_from_data(parser, json, -1, &parse_error)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION, "json: %s",
                    parse_error->message);
        return NULL;
    }
    root = json_parser_get_root(parser);
    if (root == NULL || !JSON_NODE_HOLDS_OBJECT(root)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "json: an object {...} is expected");
        return NULL;
    }
    if (!add_json_object(options, "", json_node_get_object(root), error)) {
        return NULL;
    }
    return g_steal_pointer(&options);
}

/* Cuts "key=value" off @*string; doubled commas in it become single ones. */
static char *next_assignment(const char **string)
{
    GString *part = g_string_new(NULL);
    const char *c = *string;

    for (; *c != '\0'; c++) {
        if (*c == ',') {
            if (c[1] != ',') {
                c++;
                break;
            }
            c++;
        }
        g_string_append_c(part, *c);
    }
    *string = c;
    return g_string_free(part, /* free_segment= */ FALSE);
}

BlockOptions *block_options_from_string(const char *string, GError **error)
{
    g_autoptr(BlockOptions) options = block_options_new();

    while (*string != '\0') {
        g_autofree char *part = next_assignment(&string);
        char *equals = strchr(part, '=');

        if (equals == NULL) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                        "option '%s' has no value: write %s=VALUE", part,
                        part);
            return NULL;
        }
        *equals = '\0';
        if (!add_parsed(options, part, LEAF_STRING, equals + 1, error)) {
            return NULL;
        }
    }
    return g_steal_pointer(&options);
}

/* ---- printing ----------------------------------------------------------- */

static JsonNode *leaf_to_json(const Leaf *leaf)
{
    JsonNode *node = json_node_alloc();

    switch (leaf->type) {
    case LEAF_BOOL:
        return json_node_init_boolean(node, strcmp(leaf->text, "on") == 0);
    case LEAF_INT:
        return json_node_init_int(node,
                                  g_ascii_strtoll(leaf->text, NULL, 10));
    case LEAF_NULL:
        return json_node_init_null(node);
    default:
        return json_node_init_string(node, leaf->text);
    }
}

static gboolean add_leaf_to_object(void *key, void *value, void *opaque)
{
    JsonObject *object = opaque;
    g_auto(GStrv) path = g_strsplit(key, ".", -1);
    unsigned i = 0;

    for (; path[i + 1] != NULL; i++) {
        JsonNode *member = json_object_get_member(object, path[i]);

        if (member == NULL || !JSON_NODE_HOLDS_OBJECT(member)) {
            json_object_set_object_member(object, path[i], json_object_new());
        }
        object = json_object_get_object_member(object, path[i]);
    }
    json_object_set_member(object, path[i], leaf_to_json(value));
    return FALSE;
}

/* Has @object exactly the members "0" .. "n-1"? Then it was a list. */
static bool object_is_list(JsonObject *object)
{
    unsigned size = json_object_get_size(object);

    for (unsigned i = 0; i < size; i++) {
        g_autofree char *index = g_strdup_printf("%u", i);

        if (!json_object_has_member(object, index)) {
            return false;
        }
    }
    return size > 0;
}

/* A copy of @node with members sorted and lists as arrays. */
static JsonNode *tidy_json(JsonNode *node)
{
    JsonObject *object;
    JsonNode *tidy;

    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        return json_node_copy(node);
    }
    object = json_node_get_object(node);
    if (object_is_list(object)) {
        JsonArray *array = json_array_new();

        for (unsigned i = 0; i < json_object_get_size(object); i++) {
            g_autofree char *index = g_strdup_printf("%u", i);

            json_array_add_element(
                array, tidy_json(json_object_get_member(object, index)));
        }
        tidy = json_node_init_array(json_node_alloc(), array);
        json_array_unref(array);
    } else {
        JsonObject *sorted = json_object_new();
        g_autoptr(GList) names = json_object_get_members(object);

        names = g_list_sort(names, (GCompareFunc)strcmp);
        for (GList *name = names; name != NULL; name = name->next) {
            json_object_set_member(
                sorted, name->data,
                tidy_json(json_object_get_member(object, name->data)));
        }
        tidy = json_node_init_object(json_node_alloc(), sorted);
        json_object_unref(sorted);
    }
    return tidy;
}

char *block_options_to_json(const BlockOptions *options)
{
    g_autoptr(JsonNode) root = json_node_new(JSON_NODE_OBJECT);
    g_autoptr(JsonNode) tidy = NULL;
    JsonObject *object = json_object_new();

    g_tree_foreach(options->leaves, add_leaf_to_object, object);
    json_node_take_object(root, object);
    /* The root is an object even if its members look like a list. */
    tidy = object_is_list(object) ? json_node_copy(root) : tidy_json(root);
    return json_to_string(tidy, /* pretty= */ FALSE);
}

/* ---- setting ------------------------------------------------------------ */

void block_options_set_string(BlockOptions *options, const char *key,
                              const char *value)
{
    set_leaf(options, key, LEAF_STRING, value);
}

void block_options_set_bool(BlockOptions *options, const char *key, bool value)
{
    set_leaf(options, key, LEAF_BOOL, value ? "on" : "off");
}

void block_options_set_int(BlockOptions *options, const char *key,
                           int64_t value)
{
    g_autofree char *text = g_strdup_printf("%" G_GINT64_FORMAT, value);

    set_leaf(options, key, LEAF_INT, text);
}

/* ---- taking ------------------------------------------------------------- */

static bool bad_value(const char *key, const char *text, const char *wanted,
                      GError **error)
{
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                "option '%s' is '%s', must be %s", key, text, wanted);
    return false;
}

bool block_options_take_string(BlockOptions *options, const char *key,
                               char **ret, GError **error)
{
    const Leaf *leaf = find_leaf(options, key);

    if (leaf != NULL) {
        g_free(*ret);
        *ret = g_strdup(leaf->text);
        g_tree_remove(options->leaves, key);
    }
    return true;
}

bool block_options_take_bool(BlockOptions *options, const char *key, bool *ret,
                             GError **error)
{
    static const char *const yes[] = {"on", "true", "yes", NULL};
    static const char *const no[] = {"off", "false", "no", NULL};
    const Leaf *leaf = find_leaf(options, key);

    if (leaf == NULL) {
        return true;
    }
    if (g_strv_contains(yes, leaf->text)) {
        *ret = true;
    } else if (g_strv_contains(no, leaf->text)) {
        *ret = false;
    } else {
        return bad_value(key, leaf->text, "on or off", error);
    }
    g_tree_remove(options->leaves, key);
    return true;
}

static bool parse_number(const char *text, uint64_t *ret)
{
    bool is_hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    const char *digits = is_hex ? text + 2 : text;

    return g_ascii_string_to_unsigned(digits, is_hex ? 16 : 10, 0,
                                      G_MAXUINT64, ret, NULL);
}

bool block_options_take_number(BlockOptions *options, const char *key,
                               uint64_t *ret, GError **error)
{
    const Leaf *leaf = find_leaf(options, key);

    if (leaf == NULL) {
        return true;
    }
    if (!parse_number(leaf->text, ret)) {
        return bad_value(key, leaf->text, "a number (decimal or 0x...)",
                         error);
    }
    g_tree_remove(options->leaves, key);
    return true;
}

bool block_options_take_size(BlockOptions *options, const char *key,
                             int64_t *ret, GError **error)
{
    const Leaf *leaf = find_leaf(options, key);

    if (leaf == NULL) {
        return true;
    }
    if (!parse_size(leaf->text, ret)) {
        return bad_value(key, leaf->text,
                         "a size in bytes, or with k, M, G, T, P or E", error);
    }
    g_tree_remove(options->leaves, key);
    return true;
}

bool block_options_take_enum(BlockOptions *options, const char *key,
                             const char *const *values, int *ret,
                             GError **error)
{
    const Leaf *leaf = find_leaf(options, key);
    g_autofree char *all = NULL;

    if (leaf == NULL) {
        return true;
    }
    for (int i = 0; values[i] != NULL; i++) {
        if (strcmp(values[i], leaf->text) == 0) {
            *ret = i;
            g_tree_remove(options->leaves, key);
            return true;
        }
    }
    all = g_strjoinv(", ", (char **)values);
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                "option '%s' is '%s', must be one of: %s", key, leaf->text,
                all);
    return false;
}

BlockOptions *block_options_take_subtree(BlockOptions *options,
                                         const char *key)
{
    g_autofree char *prefix = g_strconcat(key, ".", NULL);
    BlockOptions *subtree = block_options_new();
    const char *found;

    while ((found = first_key_with_prefix(options, prefix)) != NULL) {
        const Leaf *leaf = find_leaf(options, found);

        set_leaf(subtree, found + strlen(prefix), leaf->type, leaf->text);
        g_tree_remove(options->leaves, found);
    }
    return subtree;
}

static gboolean join_leaf(void *key, void *value, void *opaque)
{
    BlockOptions *options = opaque;

    return block_options_has(options, key)
        ? FALSE : copy_leaf(key, value, opaque);
}

void block_options_join(BlockOptions *options, const BlockOptions *defaults)
{
    g_tree_foreach(defaults->leaves, join_leaf, options);
}

bool parse_size(const char *text, int64_t *ret_bytes)
{
    static const char suffixes[] = "bkmgtpe";
    uint64_t value;
    unsigned shift = 0;
    const char *end = text + strspn(text, "0123456789");
    g_autofree char *digits = NULL;

    /* Hexadecimal has no suffix: "E" would be a digit. */
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
        end = text + strlen(text);
    }
    if (*end != '\0') {
        const char *suffix = strchr(suffixes, g_ascii_tolower(*end));

        if (suffix == NULL || end[1] != '\0') {
            return false;
        }
        shift = 10 * (unsigned)(suffix - suffixes);
    }
    digits = g_strndup(text, (size_t)(end - text));
    if (!parse_number(digits, &value) || value > (uint64_t)INT64_MAX >> shift) {
        return false;
    }
    *ret_bytes = (int64_t)(value << shift);
    return true;
}
