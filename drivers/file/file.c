/* SPDX-License-Identifier: MIT */
/*
 * the bottom of most graphs: a posix file or a block device
 *
 * Opens, locks, reopens and closes; how bytes move is file_io.c, holes are
 * file_zero.c. Two drivers share all of it: "file" for regular files (a block
 * device will do, its length is then taken once), "host_device" for block
 * devices whose length may change.
 *
 * Always true of an open node:
 *  F1  only regular files and block devices are ever open: looking at a FIFO,
 *      a terminal or a directory neither hangs nor has side effects;
 *  F2  a read-only node never changes the file, nor its times where the
 *      system lets us say so (O_NOATIME);
 *  F3  lock_fd stays open from open to close, so no moment of a reopen is
 *      without locks;
 *  F4  after a reopen the descriptor is of the same file as before.
 *
 * Locking: see file.h; all of this file is control plane.
 */
#include "drivers/file/file.h"
#include "drivers/registry.h"

#include "block/rt/buffer_pool.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR_BYTES 512
#define PAGE_BYTES 4096

/* In the order of AioEngineKind and FileLocking. */
static const char *const engine_names[] = { "auto", "io_uring", "native",
                                            "threads", NULL };
static const char *const locking_names[] = { "auto", "on", "off", NULL };

static const BlockOptionDesc file_options[] = {
    {
        .name = "filename",
        .type = BLOCK_OPTION_STRING,
        .help = "path of the file or device",
        .is_strong = true,
    },
    {
        .name = "aio",
        .type = BLOCK_OPTION_ENUM,
        .help = "how requests reach the kernel; native needs direct I/O",
        .default_value = "auto",
        .values = engine_names,
        .is_mutable = true,
    },
    {
        .name = "locking",
        .type = BLOCK_OPTION_ENUM,
        .help = "image locks that keep other programs out; auto: where the "
                "file system has them",
        .default_value = "auto",
        .values = locking_names,
    },
    { .name = NULL },
};

/* ---- descriptors ---- */

/* Devices have st_size 0; lseek() would move an offset that threads share. */
int64_t file_fd_length(int fd, bool is_device)
{
    struct stat st;
    uint64_t bytes;

    if (is_device) {
        return ioctl(fd, BLKGETSIZE64, &bytes) < 0 ? -errno : (int64_t)bytes;
    }
    return fstat(fd, &st) < 0 ? -errno : st.st_size;
}

/* Signals are common here: fusermount's end, timers. */
static int open_retrying(const char *filename, int flags)
{
    int fd;

    do {
        fd = open(filename, flags);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* F1. O_NONBLOCK, which open() needed, is off again afterwards. */
static bool check_kind(int fd, const char *filename, struct stat *ret_st,
                       GError **error)
{
    const char *kind = NULL;
    int flags;

    if (fstat(fd, ret_st) < 0) {
        error_set_errno(error, errno, "%s: cannot look at the file", filename);
        return false;
    }
    if (S_ISDIR(ret_st->st_mode)) {
        kind = "a directory";
    } else if (S_ISFIFO(ret_st->st_mode)) {
        kind = "a FIFO";
    } else if (S_ISCHR(ret_st->st_mode)) {
        kind = "a character device";
    } else if (!S_ISREG(ret_st->st_mode) && !S_ISBLK(ret_st->st_mode)) {
        kind = "a special file";
    }
    if (kind != NULL) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: is %s; an image must be a regular file or a block "
                    "device", filename, kind);
        return false;
    }

    /* io_uring would answer -EAGAIN instead of waiting */
    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0) {
        error_set_errno(error, errno, "%s: cannot set descriptor flags",
                        filename);
        return false;
    }
    return true;
}

/* A read-only device may be opened for writing; only its writes would fail. */
static bool check_writable(int fd, const char *filename,
                           const struct stat *st, GError **error)
{
    int read_only = 0;

    if (S_ISBLK(st->st_mode) && ioctl(fd, BLKROGET, &read_only) == 0 &&
        read_only) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_DENIED,
                    "%s: cannot open for writing, the device is read-only",
                    filename);
        return false;
    }
    return true;
}

/* Opens @filename as @flags ask, with F1 and F2. -1 with @error. */
static int open_descriptor(const char *filename, BdrvOpenFlags flags,
                           struct stat *ret_st, GError **error)
{
    bool writable = flags & BDRV_O_RDWR;
    int mode = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK |
               O_NOCTTY | (flags & BDRV_O_NOCACHE ? O_DIRECT : 0);
    int fd = -1;

    if (!writable) {
        fd = open_retrying(filename, mode | O_NOATIME);
    }
    if (fd < 0 && (writable || errno == EPERM)) {
        fd = open_retrying(filename, mode);
    }
    if (fd < 0 && errno == EINVAL && (mode & O_DIRECT)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: the file system has no direct I/O (O_DIRECT); use "
                    "another cache mode than none", filename);
        return -1;
    }
    if (fd < 0) {
        error_set_errno(error, errno, "%s: cannot open%s", filename,
                        writable ? " for writing" : "");
        return -1;
    }
    if (!check_kind(fd, filename, ret_st, error) ||
        (writable && !check_writable(fd, filename, ret_st, error))) {
        (void) close(fd);
        return -1;
    }
    return fd;
}

/* ---- alignment of direct I/O ---- */

/* Does a direct read of @bytes at 0 into so aligned memory work? */
static bool direct_read_works(int fd, uint8_t *buffer, size_t bytes)
{
    ssize_t ret;

    do {
        ret = pread(fd, buffer, bytes, 0);
    } while (ret < 0 && errno == EINTR);
    return ret >= 0;
}

/* The first size that the file takes; a page when none can be read at all. */
static FileAlignment try_alignment(int fd, int64_t at_least)
{
    FileAlignment result = { PAGE_BYTES, PAGE_BYTES };
    uint8_t *buffer = buffer_pool_get(2 * PAGE_BYTES);

    if (buffer == NULL) {
        return result;
    }
    for (int64_t bytes = at_least; bytes < PAGE_BYTES; bytes *= 2) {
        if (direct_read_works(fd, buffer, bytes)) {
            result.request = bytes;
            break;
        }
    }
    for (size_t memory = SECTOR_BYTES; memory < PAGE_BYTES; memory *= 2) {
        if (direct_read_works(fd, buffer + memory, result.request)) {
            result.memory = memory;
            break;
        }
    }
    buffer_pool_put(buffer, 2 * PAGE_BYTES);
    return result;
}

/* The kernel's word, but it becomes a divisor and the size of buffers. */
static bool is_sane_alignment(uint32_t value)
{
    return value != 0 && value <= (1u << 20) && (value & (value - 1)) == 0;
}

/* What @aio's descriptor demands; 1 and 1 unless it is direct. */
static FileAlignment find_alignment(const AioFile *aio, int64_t block_bytes)
{
    FileAlignment none = { 1, 1 };

    if (!aio->direct || aio->memory) {
        return none;
    }
#ifdef STATX_DIOALIGN
    {
        struct statx stx;

        if (statx(aio->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
            (stx.stx_mask & STATX_DIOALIGN) &&
            is_sane_alignment(stx.stx_dio_mem_align) &&
            is_sane_alignment(stx.stx_dio_offset_align)) {
            return (FileAlignment) { stx.stx_dio_offset_align,
                                     stx.stx_dio_mem_align };
        }
    }
#endif
    return try_alignment(aio->fd, MAX(block_bytes, SECTOR_BYTES));
}

/* ---- open, close ---- */

/* "file:NAME" is NAME, so that names with a colon can be written. */
static bool file_parse_filename(const char *filename, BlockOptions *options,
                                GError **error)
{
    static const char *const prefixes[] = { "file:", "host_device:" };
    const char *rest = filename;

    for (size_t i = 0; i < G_N_ELEMENTS(prefixes); i++) {
        if (g_str_has_prefix(filename, prefixes[i])) {
            rest = filename + strlen(prefixes[i]);
            break;
        }
    }
    block_options_set_string(options, "filename", rest);
    return true;
}

/* Takes what is ours; the caller refuses what is left as unknown. */
static bool take_options(FileState *s, BlockOptions *options,
                         FileLocking *ret_locking, GError **error)
{
    int engine = AIO_ENGINE_AUTO;
    int locking = FILE_LOCKING_AUTO;

    if (!block_options_take_string(options, "filename", &s->filename,
                                   error) ||
        !block_options_take_enum(options, "aio", engine_names, &engine,
                                 error) ||
        !block_options_take_enum(options, "locking", locking_names, &locking,
                                 error)) {
        return false;
    }
    if (s->filename == NULL || s->filename[0] == '\0') {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "the 'filename' of the image file is missing");
        return false;
    }
    s->engine = engine;
    *ret_locking = locking;
    return true;
}

/* A second descriptor of the file that lock_fd is of (F4). */
static int open_same_file(const FileState *s, BdrvOpenFlags flags,
                          GError **error)
{
    struct stat st;
    int fd = open_descriptor(s->filename, flags, &st, error);

    if (fd >= 0 && (st.st_dev != s->device || st.st_ino != s->inode)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_FAILED,
                    "%s: was replaced by another file while we opened it",
                    s->filename);
        (void) close(fd);
        return -1;
    }
    return fd;
}

/* Is @fd the one for @flags, or must another be opened? */
static bool needs_own_descriptor(BdrvOpenFlags flags)
{
    return flags & (BDRV_O_RDWR | BDRV_O_NOCACHE);
}

/* Fills @aio with a descriptor for @flags; lock_fd where that will do. */
static bool open_data(const FileState *s, BdrvOpenFlags flags,
                      AioEngineKind engine, AioFile *aio, GError **error)
{
    int fd = s->lock_fd;

    if (needs_own_descriptor(flags)) {
        fd = open_same_file(s, flags, error);
        if (fd < 0) {
            return false;
        }
    }
    if (!aio_file_init(aio, fd, engine, error)) {
        g_prefix_error(error, "%s: ", s->filename);
        if (fd != s->lock_fd) {
            (void) close(fd);
        }
        return false;
    }
    return true;
}

/*
 * lock_fd stays (F3): its locks would end with it, while those of an open file
 * description outlast the closing of other descriptors of the file.
 */
static void close_data(const FileState *s, const AioFile *aio)
{
    if (aio->fd >= 0 && aio->fd != s->lock_fd) {
        (void) close(aio->fd); /* errors were flush's to find */
    }
}

/*
 * Also undoes half an open: each member is either set or still as file_open()
 * prepared it.
 */
static void file_close(BlockDriverState *bs)
{
    FileState *s = bs->opaque;

    close_data(s, &s->aio);
    if (s->lock_fd >= 0) {
        (void) close(s->lock_fd);
    }
    s->lock_fd = -1;
    s->aio.fd = -1;
    file_locks_destroy(&s->locks);
    g_clear_pointer(&s->filename, g_free);
}

/* What kind of file it is and how long. */
static bool learn_file(BlockDriverState *bs, const struct stat *st,
                       GError **error)
{
    FileState *s = bs->opaque;
    int sector_bytes = 0;
    int64_t length;

    s->device = st->st_dev;
    s->inode = st->st_ino;
    s->is_device = S_ISBLK(st->st_mode);
    s->device_block_bytes = 1;
    if (s->is_device) {
        bool known = ioctl(s->lock_fd, BLKSSZGET, &sector_bytes) == 0 &&
                     is_sane_alignment(sector_bytes);

        s->device_block_bytes = known ? sector_bytes : SECTOR_BYTES;
    }
    length = file_fd_length(s->lock_fd, s->is_device);
    if (length < 0) {
        error_set_errno(error, -length, "%s: cannot find out the length",
                        s->filename);
        return false;
    }
    if (length > BDRV_MAX_LENGTH) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: the file is too long", s->filename);
        return false;
    }
    bs->length = length;
    return true;
}

/*
 * The lock descriptor first, always read-only: it is what permissions are
 * checked on before anything opens for writing. With force-share nothing is
 * locked, since the user says that others may have the file open.
 */
static bool open_all(BlockDriverState *bs, BlockOptions *options,
                     BdrvOpenFlags flags, GError **error)
{
    FileState *s = bs->opaque;
    FileLocking locking;
    struct stat st;

    if (!take_options(s, options, &locking, error)) {
        return false;
    }
    s->lock_fd = open_descriptor(s->filename, BDRV_O_RDONLY, &st, error);
    if (s->lock_fd < 0 || !learn_file(bs, &st, error) ||
        !open_data(s, flags, s->engine, &s->aio, error)) {
        return false;
    }
    s->alignment = find_alignment(&s->aio, s->device_block_bytes);
    file_locks_init(&s->locks, s->lock_fd, s->filename,
                    flags & BDRV_O_FORCE_SHARE ? FILE_LOCKING_OFF : locking);
    return true;
}

static bool file_open(BlockDriverState *bs, BlockOptions *options,
                      BdrvOpenFlags flags, GError **error)
{
    FileState *s = bs->opaque;

    s->lock_fd = -1;
    s->aio.fd = -1;
    if (!open_all(bs, options, flags, error)) {
        file_close(bs);
        return false;
    }
    bs->supported_zero_flags = BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    bs->supported_write_flags = BDRV_REQ_WRITE_UNCHANGED;
    return true;
}

/* A regular file would do, but who names the driver wants to be told. */
static bool host_device_open(BlockDriverState *bs, BlockOptions *options,
                             BdrvOpenFlags flags, GError **error)
{
    FileState *s = bs->opaque;

    if (!file_open(bs, options, flags, error)) {
        return false;
    }
    if (!s->is_device) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                    "%s: is not a block device; use driver=file", s->filename);
        file_close(bs);
        return false;
    }
    return true;
}

/*
 * Without O_DIRECT both alignments are 1, and the block layer never pads.
 * Zeroes and discards of a device go by its logical blocks all the same: the
 * ioctls refuse anything else with -EINVAL.
 */
static void file_refresh_limits(BlockDriverState *bs)
{
    FileState *s = bs->opaque;
    BlockLimits *limits = &bs->limits;

    limits->request_alignment = s->alignment.request;
    limits->min_mem_alignment = s->alignment.memory;
    limits->opt_mem_alignment = MAX(s->alignment.memory, PAGE_BYTES);
    limits->max_iov = IOV_MAX;
    if (s->is_device) {
        limits->pwrite_zeroes_alignment = s->device_block_bytes;
        limits->pdiscard_alignment = s->device_block_bytes;
    }
}

/* A name with a colon in its first part needs the prefix to be read back. */
static void file_refresh_filename(BlockDriverState *bs)
{
    FileState *s = bs->opaque;
    const char *colon = strchr(s->filename, ':');
    const char *slash = strchr(s->filename, '/');
    bool ambiguous = colon != NULL && (slash == NULL || colon < slash);

    g_free(bs->exact_filename);
    bs->exact_filename = g_strconcat(ambiguous ? "file:" : "", s->filename,
                                     NULL);
    if (bs->directory == NULL) {
        g_autofree char *real = realpath(s->filename, NULL);

        bs->directory = real != NULL ? g_path_get_dirname(real) : NULL;
    }
}

/* A device keeps what its last user wrote. */
static bool file_has_zero_init(BlockDriverState *bs)
{
    FileState *s = bs->opaque;

    return !s->is_device;
}

/* ---- permissions ---- */

/*
 * Check takes the locks that are new, set gives up those not needed any more,
 * abort goes back: so there is no moment in which what we use is not locked.
 */
static bool file_check_perm(BlockDriverState *bs, uint32_t perm,
                            uint32_t shared, GError **error)
{
    FileState *s = bs->opaque;

    return file_locks_check(&s->locks, perm, shared, error);
}

static void file_set_perm(BlockDriverState *bs, uint32_t perm, uint32_t shared)
{
    FileState *s = bs->opaque;

    file_locks_set(&s->locks, perm, shared);
}

static void file_abort_perm_update(BlockDriverState *bs)
{
    FileState *s = bs->opaque;

    file_locks_abort(&s->locks);
}

static const BlockPermOps file_perm = {
    .check_perm = file_check_perm,
    .set_perm = file_set_perm,
    .abort_perm_update = file_abort_perm_update,
};

/* ---- reopen ---- */

typedef struct FileReopen {
    AioFile aio;
    AioEngineKind engine;
} FileReopen;

/*
 * Opens beside the descriptor in use, which serves until commit; nothing that
 * could fail is left for then.
 */
static bool file_reopen_prepare(BlockReopenState *state, GError **error)
{
    FileState *s = state->bs->opaque;
    g_autofree FileReopen *reopen = g_new0(FileReopen, 1);
    int engine = s->engine;

    if (state->options != NULL &&
        !block_options_take_enum(state->options, "aio", engine_names, &engine,
                                 error)) {
        return false;
    }
    reopen->engine = engine;
    if (!open_data(s, state->flags, reopen->engine, &reopen->aio, error)) {
        return false;
    }
    state->opaque = g_steal_pointer(&reopen);
    return true;
}

/*
 * The node is drained: nobody is in the old descriptor. A new one begins
 * without the failed flush of the old one, as F6 (file_io.c) promises.
 */
static void file_reopen_commit(BlockReopenState *state)
{
    FileState *s = state->bs->opaque;
    FileReopen *reopen = state->opaque;

    close_data(s, &s->aio);
    s->aio = reopen->aio;
    s->engine = reopen->engine;
    s->alignment = find_alignment(&s->aio, s->device_block_bytes);
    __atomic_store_n(&s->flush_error, 0, __ATOMIC_RELEASE);
    g_clear_pointer(&state->opaque, g_free);
}

static void file_reopen_abort(BlockReopenState *state)
{
    FileReopen *reopen = state->opaque;

    if (reopen != NULL) {
        close_data(state->bs->opaque, &reopen->aio);
    }
    g_clear_pointer(&state->opaque, g_free);
}

static const BlockReopenOps file_reopen = {
    .prepare = file_reopen_prepare,
    .commit = file_reopen_commit,
    .abort = file_reopen_abort,
};

/* ---- the tables ---- */

#define FILE_MEMBERS                                              \
    .instance_size = sizeof(FileState),                           \
    .needs_filename = true,                                       \
    .options = file_options,                                      \
    .parse_filename = file_parse_filename,                        \
    .close = file_close,                                          \
    .refresh_limits = file_refresh_limits,                        \
    .refresh_filename = file_refresh_filename,                    \
    .reopen = &file_reopen,                                       \
    .perm = &file_perm,                                           \
    .co_preadv = file_co_preadv,                                  \
    .co_pwritev = file_co_pwritev,                                \
    .co_pwrite_zeroes = file_co_pwrite_zeroes,                    \
    .co_pdiscard = file_co_pdiscard,                              \
    .co_block_status = file_co_block_status,                      \
    .co_flush_to_disk = file_co_flush_to_disk,                    \
    .co_truncate = file_co_truncate,                              \
    .co_getlength = file_co_getlength,                            \
    .co_copy_range_from = file_co_copy_range_from,                \
    .co_copy_range_to = file_co_copy_range_to,                    \
    .co_get_allocated_file_size = file_co_get_allocated_file_size, \
    .co_ioctl = file_co_ioctl,                                    \
    .media = &file_media,                                         \
    .probe_blocksizes = file_probe_blocksizes,                    \
    .probe_geometry = file_probe_geometry,                        \
    .has_zero_init = file_has_zero_init

const BlockDriver bdrv_file = {
    .format_name = "file",
    .protocol_name = "file",
    .open = file_open,
    FILE_MEMBERS,
};

const BlockDriver bdrv_host_device = {
    .format_name = "host_device",
    .protocol_name = "host_device",
    .has_variable_length = true,
    .open = host_device_open,
    FILE_MEMBERS,
};
