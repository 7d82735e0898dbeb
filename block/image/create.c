/* SPDX-License-Identifier: MIT */
/*
 * making new image files
 *
 *   settle (format, backing file, size) -> folder/.NAME.XXXXXX -> the driver
 *   fills it -> flush -> close -> rename to NAME
 *
 * Always true: a file under the final name is either what stood there before
 * or the complete new image (rename is atomic; without leave to replace it is
 * the kind of rename that fails when the name is taken).
 *
 * An external data file that the options name is made when the driver has
 * accepted them, under its own name, and removed again when the image fails.
 * An old one, with leave to replace, is emptied.
 *
 * This file and drivers/file are the only ones that name files to the system:
 * here it is about directory entries, there about contents.
 */
#include "block/image/create.h"

#include "block/backend.h"
#include "block/graph/filename.h"
#include "block/graph/open.h"
#include "block/rt/aio_context.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct ResizeJob {
    BlockBackend *file;
    int64_t length;
    BdrvPreallocMode prealloc;
    GError **error;
    int ret;
} ResizeJob;

static void coroutine_fn resize_entry(void *opaque)
{
    ResizeJob *job = opaque;

    job->ret = blk_co_truncate(job->file, job->length, /* exact= */ true,
                               job->prealloc, job->error);
}

bool image_create_resize(BlockBackend *file, int64_t length,
                         BdrvPreallocMode prealloc, GError **error)
{
    ResizeJob job = { file, length, prealloc, error, 0 };

    aio_run_sync(resize_entry, &job);
    if (job.ret < 0 && error && !*error) {
        error_set_errno(error, -job.ret, "cannot grow to %" PRId64 " bytes",
                        length);
    }
    return job.ret == 0;
}

bool image_create_write(BlockBackend *file, int64_t offset, int64_t bytes,
                        const void *buffer, GError **error)
{
    int ret = blk_pwrite(file, offset, bytes, buffer);

    if (ret < 0) {
        error_set_errno(error, -ret, "cannot write %" PRId64 " bytes at 0x%"
                        PRIx64, bytes, offset);
    }
    return ret == 0;
}

/* -- settling ------------------------------------------------------------ */

/* A relative backing name starts from the new image's folder. */
static char *backing_path(const ImageCreateRequest *request)
{
    g_autofree char *folder = NULL;

    if (g_path_is_absolute(request->backing_name) ||
        strchr(request->backing_name, ':')) {
        return g_strdup(request->backing_name);
    }
    folder = g_path_get_dirname(request->filename);
    return g_build_filename(folder, request->backing_name, NULL);
}

/* Opens the backing file: does it exist, is it of that format, how long? */
static bool backing_length(const ImageCreateRequest *request,
                           int64_t *ret_length, GError **error)
{
    g_autofree char *path = backing_path(request);
    BlockOptions *options = block_options_new();
    g_autoptr(BlockBackend) blk = NULL;

    block_options_set_string(options, "driver", request->backing_format);
    blk = blk_open(path, options, BDRV_O_RDONLY, /* policy= */ NULL,
                   "creating an overlay", error);
    if (!blk) {
        g_prefix_error(error, "backing file '%s': ", request->backing_name);
        return false;
    }
    *ret_length = blk_length(blk);
    return true;
}

static bool settle_backing(const ImageCreateRequest *request,
                           int64_t *length, GError **error)
{
    int64_t found = -1;

    if (!request->backing_name) {
        return true;
    }
    if (!request->backing_format) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "backing file '%s' needs its format; name it with -F",
                    request->backing_name);
        return false;
    }
    if (!bdrv_find_format(request->backing_format)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "unknown backing format '%s'", request->backing_format);
        return false;
    }
    if (request->backing_unchecked) {
        return true;
    }
    if (!backing_length(request, &found, error)) {
        return false;
    }
    if (*length < 0) {
        *length = found;
    }
    return true;
}

static bool settle(const ImageCreateRequest *request,
                   const BlockDriver **ret_driver, int64_t *ret_length,
                   GError **error)
{
    const BlockDriver *driver = bdrv_find_format(request->format);
    int64_t length = request->length;

    if (!driver || !driver->create) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    driver ? "images of format '%s' cannot be created"
                           : "unknown format '%s'", request->format);
        return false;
    }
    if (request->backing_name && !driver->supports_backing) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "format '%s' has no backing files", request->format);
        return false;
    }
    if (!settle_backing(request, &length, error)) {
        return false;
    }
    if (length < 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "the image needs a size");
        return false;
    }
    if (length > BDRV_MAX_LENGTH) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "a size of %" PRId64 " bytes is more than %" PRId64,
                    length, BDRV_MAX_LENGTH);
        return false;
    }
    *ret_driver = driver;
    *ret_length = length;
    return true;
}

/* -- external data files ------------------------------------------------- */

/* A data file of the new image's; @path NULL: it has none. */
typedef struct DataFile {
    char *path;
    bool is_new; /* was not there before: a failure removes it */
} DataFile;

/* Where the name that the image will have leads: from its own folder on. */
static char *data_path(const ImageCreateRequest *request, const char *name)
{
    g_autofree char *folder = g_path_get_dirname(request->filename);

    return g_path_is_absolute(name) ? g_strdup(name)
                                    : g_build_filename(folder, name, NULL);
}

/* Takes the place for it: a new file, or with leave an old one's. */
static bool claim_data_file(const ImageCreateRequest *request,
                            const char *name, DataFile *data, GError **error)
{
    g_autofree char *path = data_path(request, name);
    const char *rest;
    struct stat st;
    int fd;

    if (filename_protocol(name, &rest) != NULL || strstr(name, "://") ||
        g_str_has_prefix(name, "json:")) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "data file '%s' must be a plain file name", name);
        return false;
    }
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    data->is_new = fd >= 0;
    if (fd < 0 && errno == EEXIST && request->replace) {
        fd = open(path, O_RDWR | O_CLOEXEC);
    }
    if (fd < 0) {
        error_set_errno(error, errno, "cannot create data file '%s'", path);
        return false;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "data file '%s' is no regular file", path);
        close(fd);
        return false;
    }
    close(fd);
    data->path = g_steal_pointer(&path);
    return true;
}

/* Zeros, as long as the image, with room as `preallocation` says. */
static bool fill_data_file(const DataFile *data, int64_t length,
                           const char *preallocation, GError **error)
{
    BlockOptions *options = block_options_new();
    BdrvPreallocMode prealloc =
        g_strcmp0(preallocation, "falloc") == 0 ? PREALLOC_FALLOC
        : g_strcmp0(preallocation, "full") == 0 ? PREALLOC_FULL
                                                : PREALLOC_OFF;
    g_autoptr(BlockBackend) blk = NULL;
    int ret;

    block_options_set_string(options, "driver", "file");
    block_options_set_string(options, "filename", data->path);
    blk = blk_open(/* filename= */ NULL, options,
                   BDRV_O_RDWR | BDRV_O_RESIZE, /* policy= */ NULL,
                   "creating a data file", error);
    /* What somebody else has open is locked: nothing is lost before. */
    if (!blk ||
        !image_create_resize(blk, 0, PREALLOC_OFF, error) ||
        !image_create_resize(blk, align_up(length, 512), prealloc, error)) {
        g_prefix_error(error, "data file '%s': ", data->path);
        return false;
    }
    ret = blk_flush(blk);
    if (ret < 0) {
        error_set_errno(error, -ret, "data file '%s': cannot flush",
                        data->path);
    }
    return ret >= 0;
}

/* The data file that the options ask for, if they do. */
static bool make_data_file(const ImageCreateRequest *request,
                           const BlockDriver *driver, int64_t length,
                           DataFile *data, GError **error)
{
    const char *name = request->options
                           ? block_options_peek(request->options, "data_file")
                           : NULL;
    const BlockOptionDesc *desc = driver->create->options;

    while (desc && desc->name && strcmp(desc->name, "data_file") != 0) {
        desc++;
    }
    if (!name || !desc || !desc->name) {
        return true; /* another format calls it unknown */
    }
    return claim_data_file(request, name, data, error) &&
           fill_data_file(data, length,
                          block_options_peek(request->options,
                                             "preallocation"), error);
}

static void data_file_clear(DataFile *data, bool ok)
{
    if (!ok && data->path && data->is_new) {
        (void) unlink(data->path); /* the first error is the one to tell */
    }
    g_free(data->path);
}

/* -- filling and publishing ---------------------------------------------- */

/* The format's options with the backing file's name among them. */
static BlockOptions *format_options(const ImageCreateRequest *request)
{
    BlockOptions *options = request->options
                                ? block_options_copy(request->options)
                                : block_options_new();

    if (request->backing_name) {
        block_options_set_string(options, "backing_file",
                                 request->backing_name);
        block_options_set_string(options, "backing_fmt",
                                 request->backing_format);
    }
    return options;
}

/* Has @driver write an image of @length into the file @path. */
static bool fill(const ImageCreateRequest *request, const BlockDriver *driver,
                 const char *path, int64_t length, DataFile *data,
                 GError **error)
{
    g_autoptr(BlockOptions) options = format_options(request);
    BlockOptions *file_options = block_options_new();
    g_autoptr(BlockBackend) file = NULL;
    const char *unknown;
    int ret;

    block_options_set_string(file_options, "driver", "file");
    block_options_set_string(file_options, "filename", path);
    file = blk_open(/* filename= */ NULL, file_options,
                    BDRV_O_RDWR | BDRV_O_RESIZE, /* policy= */ NULL,
                    "creating an image", error);
    if (!file || !driver->create->create(file, length, options, error)) {
        return false;
    }
    unknown = block_options_first_key(options);
    if (unknown) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "format '%s' has no creation option '%s'",
                    request->format, unknown);
        return false;
    }
    ret = blk_flush(file);
    if (ret < 0) {
        error_set_errno(error, -ret, "cannot flush");
        return false;
    }
    blk_free(g_steal_pointer(&file)); /* its locks would be in the way */
    return make_data_file(request, driver, length, data, error) &&
           (!request->populate ||
            request->populate(path, request->opaque, error));
}

/* Gives the finished file its name, and makes the name durable. */
static bool publish(const char *temporary, const ImageCreateRequest *request,
                    const char *folder, GError **error)
{
    unsigned flags = request->replace ? 0 : RENAME_NOREPLACE;
    int fd;

    if (renameat2(AT_FDCWD, temporary, AT_FDCWD, request->filename, flags) <
        0) {
        /* File systems without that flag can still make a second name. */
        if (errno != EINVAL || link(temporary, request->filename) < 0) {
            error_set_errno(error, errno, "cannot create it");
            return false;
        }
        (void) unlink(temporary); /* the image is there already */
    }
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void) fsync(fd); /* some file systems cannot; then it is not needed */
        close(fd);
    }
    return true;
}

/*
 * Who may use the file that is to be replaced may use the new one, from the
 * first byte on. As far as the system lets us: only root gives files away.
 */
static void inherit_access(int fd, const char *filename)
{
    struct stat st;

    if (stat(filename, &st) == 0) {
        if (fchown(fd, st.st_uid, st.st_gid) < 0) {
            g_debug("%s: the owner stays another", filename);
        }
        (void) fchmod(fd, (st.st_mode & 0777) | S_IRUSR | S_IWUSR);
    }
}

/* Nobody has heard of the temporary name: messages do without it. */
static void hide_name(const char *temporary, GError **error)
{
    g_autofree char *prefix = g_strconcat(temporary, ": ", NULL);

    if (error && *error && g_str_has_prefix((*error)->message, prefix)) {
        char *rest = g_strdup((*error)->message + strlen(prefix));

        g_free((*error)->message);
        (*error)->message = rest;
    }
}

static bool create_file(const ImageCreateRequest *request,
                        const BlockDriver *driver, int64_t length,
                        DataFile *data, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(request->filename);
    g_autofree char *base = g_path_get_basename(request->filename);
    g_autofree char *temporary = g_strdup_printf("%s/.%.200s.XXXXXX", folder,
                                                 base);
    int fd = g_mkstemp_full(temporary, O_RDWR | O_CLOEXEC, 0644);

    if (fd < 0) {
        error_set_errno(error, errno, "cannot create a file in '%s'", folder);
        return false;
    }
    if (request->replace) {
        inherit_access(fd, request->filename);
    }
    close(fd);
    if (!fill(request, driver, temporary, length, data, error) ||
        !publish(temporary, request, folder, error)) {
        (void) unlink(temporary); /* the first error is the one to tell */
        hide_name(temporary, error);
        return false;
    }
    return true;
}

bool image_create(const ImageCreateRequest *request, int64_t *ret_length,
                  GError **error)
{
    const BlockDriver *driver;
    DataFile data = { NULL, false };
    struct stat st;
    int64_t length;
    bool exists;
    bool ok;

    exists = stat(request->filename, &st) == 0;
    if (exists && !S_ISBLK(st.st_mode) &&
        !(request->replace && S_ISREG(st.st_mode))) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "%s: exists already%s", request->filename,
                    S_ISDIR(st.st_mode)   ? ", as a folder"
                    : !S_ISREG(st.st_mode) ? ", and is no regular file"
                    : "; remove it first or use --force");
        return false;
    }
    ok = settle(request, &driver, &length, error);
    if (ok && exists && S_ISBLK(st.st_mode)) {
        ok = fill(request, driver, request->filename, length, &data, error);
    } else if (ok) {
        ok = create_file(request, driver, length, &data, error);
    }
    data_file_clear(&data, ok);
    if (!ok) {
        g_prefix_error(error, "%s: ", request->filename);
        return false;
    }
    if (ret_length) {
        *ret_length = length;
    }
    return true;
}
