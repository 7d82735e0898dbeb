/* SPDX-License-Identifier: MIT */
/*
 * what other files an image may name
 *
 * A name is made absolute, all symbolic links are resolved, and what comes out
 * must lie in or below an allowed folder and be a regular file, or, in a
 * folder the operator allowed, a block device. Which layer names it and how
 * the file is then opened is for open.c.
 *
 * Always true outside a function of this file:
 *  R1  allowed folders are absolute, real and without a slash at the end
 *      (but for "/" itself);
 *  R2  resolve returns only names for which all of the above holds.
 *
 * Locking: none; constant after setting up, only the count is atomic.
 */
#include "block/graph/reference_policy.h"

#include "block/driver.h"
#include "block/graph/filename.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct ReferencePolicy {
    int ref_count; /* atomic */
    bool allow_remote;
    GPtrArray *directories; /* of char * (R1), the operator's */
};

ReferencePolicy *reference_policy_new(void)
{
    ReferencePolicy *policy = g_new0(ReferencePolicy, 1);

    policy->ref_count = 1;
    policy->directories = g_ptr_array_new_with_free_func(g_free);
    return policy;
}

ReferencePolicy *reference_policy_ref(ReferencePolicy *policy)
{
    g_atomic_int_inc(&policy->ref_count);
    return policy;
}

void reference_policy_unref(ReferencePolicy *policy)
{
    if (policy != NULL && g_atomic_int_dec_and_test(&policy->ref_count)) {
        g_ptr_array_free(policy->directories, /* free_segment= */ TRUE);
        g_free(policy);
    }
}

/* realpath() into GLib's memory; NULL with errno. */
static char *real_path(const char *name)
{
    char *real = realpath(name, NULL);
    char *copy = g_strdup(real);
    int saved_errno = errno;

    free(real);
    errno = saved_errno;
    return copy;
}

bool reference_policy_allow_path(ReferencePolicy *policy,
                                 const char *directory, GError **error)
{
    char *real = real_path(directory);

    if (real == NULL) {
        error_set_errno(error, errno, "--allow-path=%s", directory);
        return false;
    }
    if (!g_file_test(real, G_FILE_TEST_IS_DIR)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "--allow-path=%s: not a folder", directory);
        g_free(real);
        return false;
    }
    g_ptr_array_add(policy->directories, real); /* R1 */
    return true;
}

void reference_policy_allow_remote(ReferencePolicy *policy)
{
    policy->allow_remote = true;
}

/* Both real: is @path in @directory or below? */
static bool lies_in(const char *path, const char *directory)
{
    size_t bytes = strlen(directory);

    if (strcmp(directory, "/") == 0) {
        return true;
    }
    return strncmp(path, directory, bytes) == 0 && path[bytes] == '/';
}

static bool operator_allows(const ReferencePolicy *policy, const char *path)
{
    for (guint i = 0; policy != NULL && i < policy->directories->len; i++) {
        if (lies_in(path, policy->directories->pdata[i])) {
            return true;
        }
    }
    return false;
}

/*
 * Names with a prefix. True: it may be used as it stands, or, with *@name
 * moved behind "file:", as a path.
 */
static bool check_prefix(const ReferencePolicy *policy, const char **name,
                         bool *ret_is_remote, GError **error)
{
    const char *rest;
    const BlockDriver *protocol = filename_protocol(*name, &rest);

    *ret_is_remote = false;
    if (filename_is_json(*name)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "is a json: name, which an image may not use");
        return false;
    }
    if (protocol != NULL && g_str_has_prefix(*name, "file:")) {
        *name = rest;
        return true;
    }
    if (protocol == NULL) {
        size_t scheme = strcspn(*name, ":/");

        if (g_str_has_prefix(*name + scheme, "://")) {
            g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                        "has the prefix of a protocol that is not supported");
            return false;
        }
        return true;
    }
    /* Only addresses: other prefixed names may hide a path of their own. */
    if (!g_str_has_prefix(rest, "//")) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "has the prefix '%s:', which an image may not use",
                    protocol->protocol_name);
        return false;
    }
    if (policy == NULL || !policy->allow_remote) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FORBIDDEN,
                    "is on the network; use --allow-remote to allow it");
        return false;
    }
    *ret_is_remote = true;
    return true;
}

/* The real path of @name as seen from @directory or an allowed folder. */
static char *find_file(const ReferencePolicy *policy, const char *directory,
                       const char *name)
{
    g_autofree char *path = filename_combine(directory, name);
    char *real = real_path(path);

    if (real != NULL || g_path_is_absolute(name)) {
        return real;
    }
    for (guint i = 0; policy != NULL && i < policy->directories->len; i++) {
        g_autofree char *elsewhere =
            g_build_filename(policy->directories->pdata[i], name, NULL);

        real = real_path(elsewhere);
        if (real != NULL) {
            return real;
        }
    }
    return NULL;
}

static bool check_allowed(const ReferencePolicy *policy, const char *root,
                          const char *real, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(real);
    g_autofree char *shown = filename_for_message(folder);
    struct stat st;

    if (!lies_in(real, root) && !operator_allows(policy, real)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FORBIDDEN,
                    "lies outside of %s; use --allow-path=%s to allow it",
                    root, shown);
        return false;
    }
    if (stat(real, &st) < 0) {
        error_set_errno(error, errno, "cannot be looked at");
        return false;
    }
    if (S_ISREG(st.st_mode)) {
        return true;
    }
    if (!S_ISBLK(st.st_mode)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FORBIDDEN,
                    "is no regular file");
        return false;
    }
    if (!operator_allows(policy, real)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FORBIDDEN,
                    "is a block device; use --allow-path=%s to allow it",
                    shown);
        return false;
    }
    return true;
}

static void set_not_found(const char *directory, const char *name,
                          GError **error)
{
    g_autofree char *path = filename_combine(directory, name);
    g_autofree char *folder = g_path_is_absolute(name)
        ? g_path_get_dirname(path) : g_strdup(directory);
    g_autofree char *shown = filename_for_message(folder);

    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_NOT_FOUND,
                "not found in %s", shown);
}

char *reference_policy_resolve_below(const ReferencePolicy *policy,
                                     const char *root, const char *directory,
                                     const char *name, GError **error)
{
    g_autofree char *real = NULL;
    bool is_remote;

    if (!check_prefix(policy, &name, &is_remote, error)) {
        return NULL;
    }
    if (is_remote) {
        return g_strdup(name);
    }
    real = find_file(policy, directory, name);
    if (real == NULL) {
        set_not_found(directory, name, error);
        return NULL;
    }
    if (!check_allowed(policy, root, real, error)) {
        return NULL;
    }
    return g_steal_pointer(&real); /* R2 */
}

char *reference_policy_resolve(const ReferencePolicy *policy,
                               const char *directory, const char *name,
                               GError **error)
{
    return reference_policy_resolve_below(policy, directory, directory, name,
                                          error);
}
