/* SPDX-License-Identifier: MIT */
/*
 * secrets, by name
 *
 * Always true: bytes of a secret are in the list's own buffers only, and those
 * are secret memory (secret_memory.h). What the command line had of them is
 * overwritten when it has been read.
 *
 * Locking: none; control plane.
 */
#include "block/crypto/secret.h"

#include "block/crypto/secret_memory.h"
#include "block/crypto/secret_source.h"

#include <string.h>

/* The id of the key for images that name none: no user can spell it. */
#define DEFAULT_ID ""

static GPtrArray *secrets; /* of Secret *; NULL: none yet */

static void secret_free(Secret *secret)
{
    secret_memory_put(secret->data);
    g_free(secret->id);
    g_free(secret);
}

static Secret *find(const char *id)
{
    for (guint i = 0; secrets && i < secrets->len; i++) {
        Secret *secret = g_ptr_array_index(secrets, i);

        if (strcmp(secret->id, id) == 0) {
            return secret;
        }
    }
    return NULL;
}

/* Takes @bytes over. */
static bool add(const char *id, SecretBytes *bytes, GError **error)
{
    Secret *secret;

    if (find(id)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    *id ? "there are two secrets with the id '%s'"
                        : "only one key can be given%s", id);
        secret_bytes_free(bytes);
        return false;
    }
    if (!secrets) {
        secrets = g_ptr_array_new_with_free_func(
            (GDestroyNotify)secret_free);
    }
    secret = g_new0(Secret, 1);
    secret->id = g_strdup(id);
    secret->data = bytes->data;
    secret->bytes = bytes->bytes;
    g_ptr_array_add(secrets, secret);
    return true;
}

/* -- objects -------------------------------------------------------------- */

typedef struct ObjectText {
    char *id;
    char *file;
    SecretBytes data;
    bool has_data;
    bool is_base64;
} ObjectText;

static bool object_error(GError **error, const char *text)
{
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                "--object: %s; it is secret,id=ID,data=TEXT|file=FILE"
                "[,format=raw|base64]", text);
    return false;
}

/* The end of the value at @text: a single comma, or the text's. */
static const char *value_end(const char *text)
{
    while (*text && !(text[0] == ',' && text[1] != ',')) {
        text += text[0] == ',' ? 2 : 1;
    }
    return text;
}

/* [@text, @end) with single commas, at @to, which has room. Its length. */
static size_t copy_value(const char *text, const char *end, char *to)
{
    size_t bytes = 0;

    for (; text < end; text += text[0] == ',' ? 2 : 1) {
        to[bytes++] = *text;
    }
    to[bytes] = '\0';
    return bytes;
}

static bool take_data(ObjectText *object, const char *value,
                      const char *end, GError **error)
{
    if (end - value > SECRET_MAX_BYTES || object->has_data) {
        return object_error(error, object->has_data ? "data is there twice"
                                                    : "data is too long");
    }
    object->data.data = secret_memory_get(SECRET_MAX_BYTES + 1);
    object->data.bytes = copy_value(value, end, (char *)object->data.data);
    object->has_data = true;
    return true;
}

static bool take_text(ObjectText *object, const char *name, const char *value,
                      GError **error)
{
    if (strcmp(name, "id") == 0) {
        g_free(object->id);
        object->id = g_strdup(value);
    } else if (strcmp(name, "file") == 0) {
        g_free(object->file);
        object->file = g_strdup(value);
    } else if (strcmp(name, "format") == 0 &&
               (strcmp(value, "raw") == 0 || strcmp(value, "base64") == 0)) {
        object->is_base64 = *value == 'b';
    } else if (strcmp(name, "format") == 0) {
        return object_error(error, "the format is raw or base64");
    } else {
        return object_error(error, "it has an option that is not known");
    }
    return true;
}

static bool parse_object(const char *text, ObjectText *object,
                         GError **error)
{
    if (!g_str_has_prefix(text, "secret,")) {
        return object_error(error, "secrets are the only objects there are");
    }
    for (text += strlen("secret,"); *text;) {
        const char *end = value_end(text);
        const char *equals = memchr(text, '=', end - text);
        g_autofree char *name = NULL;
        g_autofree char *value = NULL;

        if (!equals) {
            return object_error(error, "an option has no value");
        }
        name = g_strndup(text, equals - text);
        if (strcmp(name, "data") == 0) {
            if (!take_data(object, equals + 1, end, error)) {
                return false;
            }
        } else {
            value = g_malloc(end - equals);
            (void) copy_value(equals + 1, end, value);
            if (!take_text(object, name, value, error)) {
                return false;
            }
        }
        text = *end ? end + 1 : end;
    }
    return true;
}

/* In place: the result is shorter. GLib's decoder skips what is no base64. */
static bool decode(SecretBytes *bytes, GError **error)
{
    gsize length;

    for (size_t i = 0; i < bytes->bytes; i++) {
        char c = (char)bytes->data[i];

        if (!g_ascii_isalnum(c) && !strchr("+/=\r\n", c)) {
            return object_error(error, "the secret is not base64");
        }
    }
    if (bytes->bytes > 0) {
        g_base64_decode_inplace((char *)bytes->data, &length);
        memset(bytes->data + length, 0, SECRET_MAX_BYTES + 1 - length);
        bytes->bytes = length;
    }
    return true;
}

static bool add_parsed(ObjectText *object, GError **error)
{
    if (!object->id || !*object->id) {
        return object_error(error, "id= is missing");
    }
    if (object->has_data == (object->file != NULL)) {
        return object_error(error, "one of data= and file= is needed");
    }
    if (object->file &&
        !secret_read_file(object->file, &object->data, error)) {
        return false;
    }
    if (object->is_base64 && !decode(&object->data, error)) {
        return false;
    }
    return add(object->id,
               &(SecretBytes) { g_steal_pointer(&object->data.data),
                                object->data.bytes },
               error);
}

void secret_hide(char *text)
{
    for (char *at = text; *at;) {
        char *end = at + (value_end(at) - at);

        if (g_str_has_prefix(at, "data=")) {
            memset(at + strlen("data="), '.', end - at - strlen("data="));
        }
        at = *end ? end + 1 : end;
    }
}

bool secret_add_object(const char *text, GError **error)
{
    ObjectText object = { 0 };
    bool ok = parse_object(text, &object, error) &&
              add_parsed(&object, error);

    secret_bytes_free(&object.data);
    g_free(object.id);
    g_free(object.file);
    return ok;
}

/* -- the key for all ------------------------------------------------------ */

static bool ask(const char *description, bool confirm, SecretBytes *ret_bytes,
                GError **error)
{
    g_autofree char *prompt = g_strdup_printf("Key for %s: ", description);
    SecretBytes again;
    bool same;

    if (!secret_read_terminal(prompt, ret_bytes, error)) {
        return false;
    }
    if (!confirm) {
        return true;
    }
    if (!secret_read_terminal("The same once more: ", &again, error)) {
        secret_bytes_free(ret_bytes);
        return false;
    }
    same = again.bytes == ret_bytes->bytes &&
           memcmp(again.data, ret_bytes->data, again.bytes) == 0;
    secret_bytes_free(&again);
    if (!same) {
        secret_bytes_free(ret_bytes);
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "the two keys differ");
    }
    return same;
}

static bool copy_secret(const char *id, SecretBytes *ret_bytes,
                        GError **error)
{
    const Secret *secret = secret_find(id, "--key", error);

    if (!secret) {
        return false;
    }
    ret_bytes->data = secret_memory_get(SECRET_MAX_BYTES + 1);
    memcpy(ret_bytes->data, secret->data, SECRET_MAX_BYTES + 1);
    ret_bytes->bytes = secret->bytes;
    return true;
}

bool secret_add_key(const char *source, const char *description, bool confirm,
                    GError **error)
{
    const char *colon = strchr(source, ':');
    size_t length = colon ? (size_t)(colon - source) : strlen(source);
    g_autofree char *kind = g_strndup(source, length);
    const char *rest = colon ? colon + 1 : "";
    SecretBytes bytes = { 0 };
    bool ok;

    if (strcmp(source, "ask") == 0) {
        ok = ask(description, confirm, &bytes, error);
    } else if (colon && strcmp(kind, "file") == 0) {
        ok = secret_read_file(rest, &bytes, error);
    } else if (colon && strcmp(kind, "env") == 0) {
        ok = secret_read_environment(rest, &bytes, error);
    } else if (colon && strcmp(kind, "cred") == 0) {
        ok = secret_read_credential(rest, &bytes, error);
    } else if (colon && strcmp(kind, "secret") == 0) {
        ok = copy_secret(rest, &bytes, error);
    } else {
        /* It may be the key itself: say nothing of it. */
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "--key takes file:NAME, env:NAME, cred:NAME, secret:ID "
                    "or ask, never the key itself");
        return false;
    }
    return ok && add(DEFAULT_ID, &bytes, error);
}

/* -- looking up ----------------------------------------------------------- */

const Secret *secret_find(const char *id, const char *option, GError **error)
{
    const Secret *secret = find(id ? id : DEFAULT_ID);

    if (!secret && id) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_NOT_FOUND,
                    "%s: there is no secret '%s'; give it with --object "
                    "secret,id=%s,file=FILE", option, id, id);
    } else if (!secret) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_DENIED,
                    "the image is encrypted and needs a key: give it with "
                    "--key=file:FILE (or --key=ask), or with --object "
                    "secret,id=ID,file=FILE and the image's option %s=ID",
                    option);
    }
    return secret;
}

bool secret_ends_line(const Secret *secret)
{
    return secret->bytes > 0 && secret->data[secret->bytes - 1] == '\n';
}

void secret_forget_all(void)
{
    g_clear_pointer(&secrets, g_ptr_array_unref);
}
