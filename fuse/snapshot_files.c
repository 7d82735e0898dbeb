/* SPDX-License-Identifier: MIT */
/*
 * the list of an image's snapshots, their names as files, and opening them
 *
 *   SnapshotFile ─▶ Export ─▶ backend ─▶ snapshot-view node ─▶ image's node
 *
 * The image's own list is the driver's and the control plane's; this copy is
 * what I/O threads may look at.
 *
 * Always true, with the lock not held:
 *  S1  names and keys differ; serials rise along the list;
 *  S2  a file with users is neither closed nor taken out of the list;
 *  S3  export is set before the first user gets to read, and stays.
 *
 * Locking: lock protects the list and all of its entries, for a few
 * instructions; never across I/O. Only the control plane changes the list, so
 * it may look at entries between two locked sections.
 */
#include "fuse/snapshot_files.h"

#include "block/graph/node.h"
#include "block/graph/options.h"
#include "block/image/snapshot.h"

#include "fuse/log.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

typedef struct SnapshotFile {
    SnapshotFileInfo info;
    char *id;
    Export *export; /* NULL: never opened */
    unsigned users;
} SnapshotFile;

struct SnapshotFiles {
    Export *image;
    GMutex lock;
    GPtrArray *files; /* of SnapshotFile * */
    uint64_t next_serial;
    int64_t changed_ns;
};

/* ---- names ---- */

/* What no file name can have, what a terminal would obey, and our own mark. */
static bool must_escape(unsigned char c)
{
    return c < 0x20 || c == 0x7f || c == '/' || c == '%';
}

char *snapshot_name_escape(const char *name)
{
    GString *text = g_string_new(NULL);
    bool is_dots = strcmp(name, ".") == 0 || strcmp(name, "..") == 0;

    for (; *name; name++) {
        if (must_escape((unsigned char)*name) || is_dots) {
            g_string_append_printf(text, "%%%02X", (unsigned char)*name);
        } else {
            g_string_append_c(text, *name);
        }
    }
    return g_string_free(text, FALSE);
}

char *snapshot_name_unescape(const char *escaped)
{
    g_autoptr(GString) name = g_string_new(NULL);
    g_autofree char *again = NULL;

    for (const char *at = escaped; *at; at++) {
        if (*at != '%') {
            g_string_append_c(name, *at);
            continue;
        }
        if (!g_ascii_isxdigit(at[1]) || !g_ascii_isxdigit(at[2])) {
            return NULL;
        }
        g_string_append_c(name, (char)(g_ascii_xdigit_value(at[1]) * 16 +
                                       g_ascii_xdigit_value(at[2])));
        at += 2;
    }
    /* One name, one text: else a folder would not be where it was made. */
    again = snapshot_name_escape(name->str);
    return strcmp(again, escaped) == 0 ? g_strdup(name->str) : NULL;
}

/* How long a name may be so that IMAGE@NAME is one, too. */
static size_t name_bytes_max(const SnapshotFiles *files)
{
    size_t taken = strlen(files->image->name) + 1;

    return SNAPSHOT_NAME_BYTES_MAX - MIN(taken, SNAPSHOT_NAME_BYTES_MAX);
}

/* ---- finding; lock held, or control plane ---- */

static SnapshotFile *find_key(const SnapshotFiles *files, uint64_t key)
{
    for (guint i = 0; i < files->files->len; i++) {
        SnapshotFile *file = g_ptr_array_index(files->files, i);

        if (file->info.key == key) {
            return file;
        }
    }
    return NULL;
}

static SnapshotFile *find_name(const SnapshotFiles *files, const char *name)
{
    for (guint i = 0; i < files->files->len; i++) {
        SnapshotFile *file = g_ptr_array_index(files->files, i);

        if (strcmp(file->info.name, name) == 0) {
            return file;
        }
    }
    return NULL;
}

/* ---- the list ---- */

/* FNV-1a of what tells a snapshot from all others, past ones included. */
static uint64_t key_of(const SnapshotFiles *files, const BlockSnapshot *one)
{
    g_autofree char *text =
        g_strdup_printf("%s/%s/%" G_GINT64_FORMAT ".%" G_GINT64_FORMAT,
                        one->id, one->name, one->date_sec, one->date_nsec);
    const uint64_t mask = ((uint64_t)1 << SNAPSHOT_KEY_BITS) - 1;
    uint64_t hash = 0xcbf29ce484222325;

    for (const char *at = text; *at; at++) {
        hash = (hash ^ (unsigned char)*at) * 0x100000001b3;
    }
    hash = (hash ^ hash >> SNAPSHOT_KEY_BITS) & mask;
    while (hash == 0 || find_key(files, hash)) {
        hash = (hash + 1) & mask; /* S1 */
    }
    return hash;
}

/* Writes a name that no other file has. */
static void choose_name(const SnapshotFiles *files, const BlockSnapshot *one,
                        SnapshotFileInfo *info)
{
    g_autofree char *name = snapshot_name_escape(one->name);
    g_autofree char *id = snapshot_name_escape(one->id);
    g_autofree char *by_id = g_strdup_printf("%%id-%s", id);
    g_autofree char *by_key =
        g_strdup_printf("%%key-%" G_GINT64_MODIFIER "x", info->key);
    const char *const choices[] = { name, by_id, by_key };

    for (size_t i = 0; i < G_N_ELEMENTS(choices); i++) {
        const char *text = choices[i];

        if (*text && strlen(text) <= name_bytes_max(files) &&
            !find_name(files, text)) {
            g_strlcpy(info->name, text, sizeof(info->name));
            return;
        }
    }
    g_strlcpy(info->name, by_key, sizeof(info->name));
}

/* Control plane. */
static void append(SnapshotFiles *files, const BlockSnapshot *one)
{
    SnapshotFile *file = g_new0(SnapshotFile, 1);

    file->id = g_strdup(one->id);
    file->info.key = key_of(files, one);
    file->info.length = one->disk_bytes >= 0 ? one->disk_bytes
                                             : export_length(files->image);
    file->info.time_ns = one->date_sec * 1000000000 + one->date_nsec;
    choose_name(files, one, &file->info);

    g_mutex_lock(&files->lock);
    file->info.serial = files->next_serial++;
    g_ptr_array_add(files->files, file);
    g_mutex_unlock(&files->lock);
}

/* The view is closed with the file's last trace: S2 is the caller's care. */
static void file_free(void *opaque)
{
    SnapshotFile *file = opaque;

    export_free(file->export);
    g_free(file->id);
    g_free(file);
}

SnapshotFiles *snapshot_files_new(Export *image)
{
    const GPtrArray *list = bdrv_snapshot_list(blk_bs(image->blk));
    SnapshotFiles *files;

    if (!list) {
        return NULL;
    }
    files = g_new0(SnapshotFiles, 1);
    files->image = image;
    files->files = g_ptr_array_new_with_free_func(file_free);
    files->changed_ns = image->mtime_ns;
    g_mutex_init(&files->lock);
    for (guint i = 0; i < list->len; i++) {
        append(files, g_ptr_array_index(list, i));
    }
    return files;
}

/* Views are users of the image's node: they go before the image does. */
void snapshot_files_free(SnapshotFiles *files)
{
    if (files) {
        g_ptr_array_unref(files->files);
        g_mutex_clear(&files->lock);
        g_free(files);
    }
}

/* ---- looking ---- */

bool snapshot_files_next(SnapshotFiles *files, uint64_t serial,
                         SnapshotFileInfo *ret_info)
{
    bool found = false;

    g_mutex_lock(&files->lock);
    for (guint i = 0; i < files->files->len && !found; i++) {
        const SnapshotFile *file = g_ptr_array_index(files->files, i);

        if (file->info.serial >= serial) {
            *ret_info = file->info;
            found = true;
        }
    }
    g_mutex_unlock(&files->lock);
    return found;
}

bool snapshot_files_by_key(SnapshotFiles *files, uint64_t key,
                           SnapshotFileInfo *ret_info)
{
    const SnapshotFile *file;

    g_mutex_lock(&files->lock);
    file = find_key(files, key);
    if (file && ret_info) {
        *ret_info = file->info;
    }
    g_mutex_unlock(&files->lock);
    return file != NULL;
}

/* A copy comes back: the entry may go as soon as the lock is left. */
bool snapshot_files_by_name(SnapshotFiles *files, const char *name,
                            SnapshotFileInfo *ret_info)
{
    const SnapshotFile *file;

    g_mutex_lock(&files->lock);
    file = find_name(files, name);
    if (file) {
        *ret_info = file->info;
    }
    g_mutex_unlock(&files->lock);
    return file != NULL;
}

int64_t snapshot_files_changed_ns(SnapshotFiles *files)
{
    return __atomic_load_n(&files->changed_ns, __ATOMIC_RELAXED);
}

/* Only with a user: without one the view may be closed any moment. */
Export *snapshot_files_export(SnapshotFiles *files, uint64_t key)
{
    const SnapshotFile *file;
    Export *export;

    g_mutex_lock(&files->lock);
    file = find_key(files, key);
    export = file && file->users > 0 ? file->export : NULL;
    g_mutex_unlock(&files->lock);
    return export;
}

void snapshot_files_release(SnapshotFiles *files, uint64_t key)
{
    SnapshotFile *file;

    g_mutex_lock(&files->lock);
    file = find_key(files, key);
    if (file && file->users > 0) {
        file->users--;
    }
    g_mutex_unlock(&files->lock);
}

bool snapshot_files_is_open(SnapshotFiles *files, uint64_t key)
{
    const SnapshotFile *file;
    bool is_open;

    g_mutex_lock(&files->lock);
    file = find_key(files, key);
    is_open = file && file->users > 0;
    g_mutex_unlock(&files->lock);
    return is_open;
}

/* ---- control plane ---- */

/* Logs @error and says it as an errno. */
static int tell(const GError *error)
{
    static const int errnos[] = {
        [IMGFUSE_ERROR_UNSUPPORTED] = EOPNOTSUPP,
        [IMGFUSE_ERROR_NOT_FOUND] = ENOENT,
        [IMGFUSE_ERROR_DENIED] = EROFS,
        [IMGFUSE_ERROR_OPTION] = EEXIST, /* the name is some other's id */
        [IMGFUSE_ERROR_CONFLICT] = EBUSY,
    };

    log_error("%s", error->message);
    if (error->domain == IMGFUSE_ERROR &&
        (size_t)error->code < G_N_ELEMENTS(errnos) && errnos[error->code]) {
        return -errnos[error->code];
    }
    return -EIO;
}

/* A view of @file's snapshot; NULL with @error. */
static Export *open_view(SnapshotFiles *files, const SnapshotFile *file,
                         GError **error)
{
    BlockDriverState *node = bdrv_skip_filters(blk_bs(files->image->blk));
    BlockOptions *options = block_options_new();
    g_autofree char *user = g_strdup_printf("mount of %s@%s",
                                            files->image->name,
                                            file->info.name);
    BlockBackend *blk;

    block_options_set_string(options, "driver", "snapshot-view");
    block_options_set_string(options, "snapshot-name", file->id);
    block_options_set_string(options, "file", node->node_name);
    blk = blk_open(/* filename= */ NULL, options, BDRV_O_RDONLY,
                   /* policy= */ NULL, user, error);
    return blk ? export_new(file->info.name, blk, /* flags= */ 0,
                            file->info.time_ns)
               : NULL;
}

/*
 * Only here and in remove do users meet the list on the control plane, one
 * after the other: so nobody can open what is just being removed.
 */
int snapshot_files_open(SnapshotFiles *files, uint64_t key)
{
    g_autoptr(GError) error = NULL;
    SnapshotFile *file = find_key(files, key);
    Export *export;

    if (!file) {
        return -ENOENT;
    }
    export = file->export ? file->export : open_view(files, file, &error);
    if (!export) {
        return tell(error);
    }
    g_mutex_lock(&files->lock);
    file->export = export; /* S3 */
    file->users++;
    g_mutex_unlock(&files->lock);
    return 0;
}

/* For the folder's time; listings are not cached, so it is only for show. */
static void changed(SnapshotFiles *files)
{
    __atomic_store_n(&files->changed_ns, g_get_real_time() * 1000,
                     __ATOMIC_RELAXED);
}

/*
 * What the folder will be called is settled first: a snapshot that is made but
 * not shown could not be removed from the mount.
 */
int snapshot_files_create(SnapshotFiles *files, const char *name)
{
    BlockDriverState *node = blk_bs(files->image->blk);
    g_autofree char *plain = snapshot_name_unescape(name);
    g_autoptr(GError) error = NULL;
    const GPtrArray *list;

    if (strlen(name) > name_bytes_max(files)) {
        return -ENAMETOOLONG;
    }
    if (!plain || !*plain) {
        return -EINVAL;
    }
    if (files->image->read_only) {
        return -EROFS;
    }
    if (find_name(files, name)) {
        return -EEXIST;
    }
    if (!bdrv_snapshot_create(node, plain, &error)) {
        return tell(error);
    }
    /* The list is in order of making: the new one is the last. */
    list = bdrv_snapshot_list(node);
    append(files, g_ptr_array_index(list, list->len - 1));
    changed(files);
    return 0;
}

/*
 * The length is asked before anything changes: a file of fixed size must not
 * shrink below those who look at it.
 */
int snapshot_files_goto(SnapshotFiles *files, const char *name)
{
    Export *image = files->image;
    SnapshotFile *file = find_name(files, name);
    g_autoptr(GError) error = NULL;

    if (image->read_only) {
        return -EROFS;
    }
    if (!file) {
        return -ENOENT;
    }
    if (__atomic_load_n(&image->users, __ATOMIC_SEQ_CST) > 0) {
        return -EBUSY;
    }
    if (file->info.length != export_length(image) && !image->growable) {
        log_error("%s: had %" PRId64 " bytes in snapshot '%s'; to go back to "
                  "it mount with --growable", image->name, file->info.length,
                  name);
        return -EPERM;
    }
    return bdrv_snapshot_goto(blk_bs(image->blk), file->id, &error)
               ? 0 : tell(error);
}

/*
 * The view goes first: as long as one is there, the driver keeps the snapshot.
 */
int snapshot_files_remove(SnapshotFiles *files, uint64_t key)
{
    SnapshotFile *file = find_key(files, key);
    g_autoptr(GError) error = NULL;
    g_autofree char *id = NULL;
    Export *view;

    if (!file) {
        return -ENOENT;
    }
    if (files->image->read_only) {
        return -EROFS;
    }
    if (snapshot_files_is_open(files, key)) {
        return -EBUSY; /* S2; only we could let somebody in meanwhile */
    }
    /* The driver would refuse as long as a view is there, used or not. */
    view = g_steal_pointer(&file->export);
    export_free(view);
    if (!bdrv_snapshot_remove(blk_bs(files->image->blk), file->id, &error)) {
        return tell(error);
    }
    g_mutex_lock(&files->lock);
    g_ptr_array_remove(files->files, file);
    g_mutex_unlock(&files->lock);
    changed(files);
    return 0;
}
