/* SPDX-License-Identifier: MIT */
/*
 * one mount from beginning to end
 *
 *   fork ─▶ open images ─▶ check mount point ─▶ mount ─▶ INIT ─▶ I/O threads
 *        ─▶ the mount answers a stat: ready ─▶ serve until unmounted or
 *           signalled ─▶ stop ─▶ flush ─▶ close ─▶ farewell
 *
 * Everything that can go wrong with an image goes wrong before anything is
 * mounted. From the mount on, whatever fails takes the mount away again.
 *
 * The main thread is the control plane: it opens and closes, waits for signals
 * and for the word that the connection has ended, and does no I/O for
 * requests. Those are the I/O threads' alone, each with its TransportDev.
 *
 * Locking: none. Server belongs to the main thread; I/O threads reach it by
 * aio_schedule() on its context only.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif

#include "fuse/server.h"

#include "block/graph/drain.h"
#include "block/crypto/secret.h"
#include "block/graph/edge.h"
#include "block/graph/node.h"
#include "block/graph/options.h"
#include "block/graph/reference_policy.h"
#include "block/image/job.h"
#include "block/rt/io_thread.h"
#include "block/rt/thread_pool.h"
#include "block/rt/timer.h"

#include "fuse/cli_options.h"
#include "fuse/daemon.h"
#include "fuse/log.h"
#include "fuse/mount.h"
#include "fuse/notify.h"
#include "fuse/overlay.h"
#include "fuse/session.h"
#include "fuse/transport_dev.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "unknown"
#endif

#define THREADS_DEFAULT_MAX 8

/*
 * How long files that are still open may be used after a signal has asked us
 * to end; then their users see the connection break.
 */
#define GRACE_NS ((int64_t)2000000000)

typedef struct Worker {
    IoThread *thread;
    TransportDev *transport;
} Worker;

typedef struct Server {
    const CliOptions *options;
    DaemonReady *ready; /* NULL: in the foreground, or the parent is gone */
    AioContext *ctx;
    int signal_fd;
    int farewell_fd;
    char *mount_point; /* real name */
    char *pid_file;    /* absolute; NULL: none was written */
    Mount *mount;
    FuseMountState state;
    SessionTerms terms;
    Worker workers[CLI_THREADS_MAX];
    unsigned n_workers;
    bool quit; /* the main loop's end */
    bool was_signalled;
    AioTimer grace_timer;
} Server;

/* ---- opening ---- */

static ReferencePolicy *make_policy(const CliOptions *options, GError **error)
{
    g_autoptr(ReferencePolicy) policy = reference_policy_new();

    for (guint i = 0; i < options->allow_paths->len; i++) {
        if (!reference_policy_allow_path(
                policy, g_ptr_array_index(options->allow_paths, i), error)) {
            return NULL;
        }
    }
    if (options->allow_remote) {
        reference_policy_allow_remote(policy);
    }
    return g_steal_pointer(&policy);
}

/* The option tree that opens @image; NULL with an error. */
static BlockOptions *image_options(const CliOptions *options,
                                   const CliImage *image, GError **error)
{
    BlockOptions *tree = options->image_opts
                         ? block_options_from_string(image->reference, error)
                         : block_options_new();

    if (!tree) {
        return NULL;
    }
    if (image->format) {
        block_options_set_string(tree, "driver", image->format);
    }
    if (options->detect_zeroes) {
        block_options_set_string(tree, "detect-zeroes",
                                 options->detect_zeroes);
    }
    if (options->aio && strcmp(options->aio, "auto") != 0) {
        block_options_set_string(tree, "file.aio", options->aio);
    }
    return tree;
}

/* Filters above a format: the file is some nodes further down. */
#define NAME_DEPTH_MAX 8

/* The file name among the options of a tree, NULL when there is none. */
static const char *file_in_tree(const BlockOptions *tree)
{
    g_autoptr(GString) key = g_string_new("filename");
    const char *file = NULL;

    for (int i = 0; i < NAME_DEPTH_MAX && !file; i++) {
        g_string_prepend(key, "file.");
        file = block_options_peek(tree, key->str);
    }
    return file ? file : block_options_peek(tree, "filename");
}

/* The name in the mount when the user gave none; the caller frees. */
static char *image_name(const CliImage *image, const BlockOptions *tree)
{
    bool is_json = g_str_has_prefix(image->reference, "json:");
    g_autoptr(BlockOptions) json =
        is_json ? block_options_from_json(image->reference + strlen("json:"),
                                          /* error= */ NULL) : NULL;
    const char *file;

    if (image->name) {
        return g_strdup(image->name);
    }
    tree = json ? json : tree;
    file = file_in_tree(tree);
    if (!file) {
        file = is_json ? "disk" : image->reference;
    }
    return tree_default_name(file);
}

/* When the image's file changed last; now for what is no plain name. */
static int64_t image_mtime_ns(const CliImage *image)
{
    struct stat st;

    if (stat(image->reference, &st) < 0) {
        return g_get_real_time() * 1000;
    }
    return (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
}

static Export *open_image(const CliOptions *options, const CliImage *image,
                          ReferencePolicy *policy, GError **error)
{
    g_autoptr(BlockOptions) tree = image_options(options, image, error);
    BdrvOpenFlags flags = cli_options_open_flags(options);
    g_autofree char *name = NULL;
    g_autofree char *user = NULL;
    BlockBackend *blk;
    Export *export;

    if (!tree) {
        return NULL;
    }
    name = image_name(image, tree);
    user = g_strdup_printf("mount of %s", name);
    if (!tree_check_name(name, error)) {
        return NULL;
    }
    if (options->overlay_file) {
        blk = overlay_open(options->overlay_file, image->reference,
                           image->format, g_steal_pointer(&tree), flags,
                           policy, user, error);
    } else {
        if (options->overlay) {
            block_options_set_string(tree, "snapshot", "on");
        }
        blk = blk_open(options->image_opts ? NULL : image->reference,
                       g_steal_pointer(&tree), flags, policy, user, error);
    }
    if (!blk) {
        return NULL;
    }
    if (flags & BDRV_O_WRITETHROUGH) {
        blk_set_write_through(blk, true);
    }
    export = export_new(name, blk,
                        (options->growable ? EXPORT_GROWABLE : 0) |
                        (options->unmap ? EXPORT_UNMAP : 0),
                        image_mtime_ns(image));
    export->reference = g_strdup(options->overlay_file
                                 ? options->overlay_file : image->reference);
    return export;
}

static bool open_images(Server *server, GError **error)
{
    const CliOptions *options = server->options;
    g_autoptr(ReferencePolicy) policy = make_policy(options, error);

    if (!policy) {
        return false;
    }
    if (options->force_share) {
        log_error("warning: force-share: if somebody writes the image, what "
                  "is read may be torn");
    }
    server->state.tree = tree_new();
    server->state.tree->others_may_read = options->others;
    server->state.tree->file_mode = options->file_mode;
    if (options->uid != CLI_NO_ID) {
        server->state.tree->uid = options->uid;
    }
    if (options->gid != CLI_NO_ID) {
        server->state.tree->gid = options->gid;
    }
    for (guint i = 0; i < options->images->len; i++) {
        const CliImage *image = g_ptr_array_index(options->images, i);
        Export *export = open_image(options, image, policy, error);

        if (!export || !tree_add(server->state.tree, export, error)) {
            return false;
        }
    }
    return true;
}

/* ---- what stands beside the images ---- */

/* One layer as a file: what the image would be without those above. */
static Export *open_layer(const Export *image, BlockDriverState *layer,
                          guint depth, GError **error)
{
    g_autofree char *user = g_strdup_printf("layer %u of %s", depth,
                                            image->name);
    g_autofree char *name = g_strdup_printf("%u.raw", depth);
    g_autoptr(BlockBackend) blk = blk_new(BLK_PERM_CONSISTENT_READ,
                                          BLK_PERM_ALL, user);

    if (!blk_insert_node(blk, layer, error)) {
        return NULL;
    }
    return export_new(name, g_steal_pointer(&blk), /* flags= */ 0,
                      image->mtime_ns);
}

/*
 * From the image down. A layer is one more user of a node that is open anyway:
 * it asks for consistent reads and lets the others do all they want.
 */
static bool show_layers(const Export *image, TreeExtras *extras,
                        GError **error)
{
    BlockDriverState *layer = bdrv_skip_filters(blk_bs(image->blk));

    extras->layers = g_ptr_array_new_with_free_func(
        (GDestroyNotify)export_free);
    while (layer) {
        BdrvChild *below = bdrv_cow_child(layer);
        Export *export = open_layer(image, layer, extras->layers->len,
                                    error);

        if (!export) {
            return false;
        }
        g_ptr_array_add(extras->layers, export);
        layer = below ? bdrv_skip_filters(below->bs) : NULL;
    }
    return true;
}

/* The kernel's pages and size of a file are no longer true. */
typedef struct Stale {
    int fd;
    uint64_t inode;
} Stale;

static int tell_kernel(void *opaque)
{
    Stale *stale = opaque;

    notify_content(stale->fd, stale->inode);
    g_free(stale);
    return 0;
}

/* Any thread: the length of @export has changed by other ways than ours. */
static void on_stale(Export *export, void *opaque)
{
    Server *server = opaque;
    Stale *stale = g_new(Stale, 1);
    guint index;

    g_ptr_array_find(server->state.tree->exports, export, &index);
    *stale = (Stale) { server->state.notify_fd,
                       tree_inode(server->state.tree, index) };
    control_post(server->state.control, tell_kernel, stale);
}

/* Once the kind of mount point is known: a file has nothing beside it. */
static bool show_extras(Server *server, GError **error)
{
    const CliOptions *options = server->options;
    Tree *tree = server->state.tree;

    if (tree->root_is_file && (options->snapshots || options->layers)) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "--%s needs a folder to mount at: '%s' is a file",
                    options->snapshots ? "snapshots" : "layers",
                    options->mount_point);
        return false;
    }
    tree->has_meta = !tree->root_is_file;
    tree->show_snapshots = options->snapshots;
    for (guint i = 0; i < tree->exports->len && tree->has_meta; i++) {
        Export *export = g_ptr_array_index(tree->exports, i);
        TreeExtras *extras = tree_extras(tree, i);

        extras->snapshots = snapshot_files_new(export);
        if (options->layers && !show_layers(export, extras, error)) {
            return false;
        }
    }
    for (guint i = 0; i < tree->exports->len; i++) {
        export_watch_length(g_ptr_array_index(tree->exports, i), on_stale,
                            server);
    }
    return true;
}

/* ---- mounting ---- */

/* Looked at before anything is mounted, and what cannot be there is refused. */
static bool check_mount_point(Server *server, GError **error)
{
    const CliOptions *options = server->options;
    bool is_file;

    if (!mount_check_point(options->mount_point, &server->mount_point,
                           &is_file, error)) {
        return false;
    }
    if (is_file && options->images->len != 1) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "mount point '%s' is a file, so it can show one image "
                    "only; use a folder for %u", options->mount_point,
                    options->images->len);
        return false;
    }
    if (is_file && options->writeback) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "--writeback cannot be used over a file, mount at a "
                    "folder: '%s'", options->mount_point);
        return false;
    }
    server->state.tree->root_is_file = is_file;
    return true;
}

static bool mount_and_negotiate(Server *server, GError **error)
{
    const CliOptions *options = server->options;
    const CliImage *first = g_ptr_array_index(options->images, 0);
    const SessionWish wish = { .writeback = options->writeback };

    server->mount = mount_new(server->mount_point, first->reference,
                              options->mount_options->str,
                              !options->read_write, error);
    if (!server->mount ||
        !session_handshake(&wish, mount_fd(server->mount), &server->terms,
                           error)) {
        return false;
    }
    server->state.notify_fd = mount_fd(server->mount);
    server->state.writeback = server->terms.flags & FUSE_WRITEBACK_CACHE;
    return true;
}

/* On the main thread; more than one transport may say it. */
static void on_unmounted(void *opaque)
{
    Server *server = opaque;

    server->quit = true;
}

/* On an I/O thread. */
static void on_connection_end(void *opaque)
{
    Server *server = opaque;

    aio_schedule(server->ctx, on_unmounted, server);
}

static bool start_workers(Server *server, GError **error)
{
    unsigned n = server->options->threads;

    if (n == 0) {
        n = MIN(g_get_num_processors(), THREADS_DEFAULT_MAX);
    }
    for (unsigned i = 0; i < n; i++) {
        Worker *worker = &server->workers[i];
        g_autofree char *name = g_strdup_printf("imgfuse-io-%u", i);

        worker->thread = io_thread_new(name, error);
        if (!worker->thread) {
            return false;
        }
        server->n_workers = i + 1;
        worker->transport = transport_dev_new(
            &server->state, mount_fd(server->mount), worker->thread,
            server->terms.max_bytes, on_connection_end, server, error);
        if (!worker->transport) {
            return false;
        }
    }
    log_info("%u I/O threads", n);
    return true;
}

/* Asks the mount a question that only the I/O threads can answer. */
static bool wait_until_it_answers(Server *server, GError **error)
{
    struct stat st;

    if (stat(server->mount_point, &st) < 0) {
        error_set_errno(error, errno, "the new mount at '%s' does not answer",
                        server->mount_point);
        return false;
    }
    return true;
}

/* ---- signals ---- */

/* Files still open after the grace: their users see an error. */
static void on_grace_over(void *opaque)
{
    Server *server = opaque;

    log_error("%s: some files are still open, their users lose them",
              server->mount_point);
    server->quit = true;
}

static void on_signal(int fd, uint32_t epoll_events, void *opaque)
{
    Server *server = opaque;
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof(info)) != sizeof(info)) {
        return;
    }
    if (server->was_signalled) {
        server->quit = true; /* the user has no patience */
        return;
    }
    log_info("signal %u, unmounting", info.ssi_signo);
    server->was_signalled = true;
    aio_timer_arm(&server->grace_timer, clock_now_ns() + GRACE_NS);
    mount_unmount(server->mount);
}

/* ---- start and end ---- */

static bool write_pid_file(Server *server, GError **error)
{
    g_autofree char *path = NULL;

    if (!server->options->pid_file) {
        return true;
    }
    path = g_canonicalize_filename(server->options->pid_file, NULL);
    if (!daemon_write_pid_file(path, error)) {
        return false;
    }
    server->pid_file = g_steal_pointer(&path);
    return true;
}

/* The address is made from the mount's device, which umount knows, too. */
static void listen_for_farewell(Server *server)
{
    dev_t device;

    if (mount_find(server->mount_point, &device, /* ret_fstype= */ NULL)) {
        server->farewell_fd = daemon_farewell_listen(device);
    }
}

static bool start(Server *server, GError **error)
{
    server->signal_fd = daemon_signals(error);
    if (server->signal_fd < 0) {
        return false;
    }
    server->ctx = aio_context_new(error);
    if (!server->ctx) {
        return false;
    }
    aio_timer_init(&server->grace_timer, server->ctx, on_grace_over, server);

    server->state.control = control_new(server->ctx);
    server->state.documents = documents_new();

    if (!open_images(server, error) || !check_mount_point(server, error) ||
        !show_extras(server, error) || !mount_and_negotiate(server, error) ||
        !start_workers(server, error) ||
        !wait_until_it_answers(server, error) ||
        !write_pid_file(server, error)) {
        return false;
    }
    listen_for_farewell(server);
    aio_set_fd_handler(server->ctx, server->signal_fd, EPOLLIN, on_signal,
                       server);
    return true;
}

/* Requests that were taken are answered before their thread ends. */
static void stop_workers(Server *server)
{
    for (unsigned i = 0; i < server->n_workers; i++) {
        if (server->workers[i].transport) {
            transport_dev_stop(server->workers[i].transport);
        }
    }
    for (unsigned i = 0; i < server->n_workers; i++) {
        Worker *worker = &server->workers[i];

        while (worker->transport &&
               !transport_dev_is_idle(worker->transport)) {
            aio_poll(server->ctx, /* may_sleep= */ false);
            control_run_pending(server->state.control);
            g_usleep(1000);
        }
        transport_dev_free(worker->transport);
        io_thread_free(worker->thread);
    }
    server->n_workers = 0;
}

/* 0, or 1 after a message when an image could not be flushed. */
static int flush_images(Server *server)
{
    GPtrArray *exports = server->state.tree->exports;
    int exit_code = 0;

    for (guint i = 0; i < exports->len; i++) {
        Export *export = g_ptr_array_index(exports, i);
        int result = export->read_only ? 0 : blk_flush(export->blk);

        if (result < 0) {
            log_error("%s: the last flush failed, written data may be lost: "
                      "%s", export->name, g_strerror(-result));
            exit_code = 1;
        }
    }
    return exit_code;
}

static int stop(Server *server)
{
    int exit_code = 0;

    if (server->mount) {
        mount_unmount(server->mount);
    }
    bdrv_cancel_all_in_flight(); /* the workers wait for their requests */
    stop_workers(server);
    if (server->state.tree) {
        exit_code = flush_images(server);
        tree_free(server->state.tree);
    }
    documents_free(server->state.documents);
    mount_free(server->mount);
    if (server->pid_file) {
        (void) unlink(server->pid_file); /* somebody may have been quicker */
        g_free(server->pid_file);
    }
    thread_pool_shutdown();
    if (server->ctx) {
        aio_timer_cancel(&server->grace_timer);
        aio_set_fd_handler(server->ctx, server->signal_fd, 0, NULL, NULL);
        while (aio_poll(server->ctx, /* may_sleep= */ false)) {
            /* what was scheduled last */
        }
        control_run_pending(server->state.control);
        control_free(server->state.control);
        aio_context_free(server->ctx);
    }
    if (server->signal_fd >= 0) {
        close(server->signal_fd);
    }
    free(server->mount_point); /* realpath()'s */
    daemon_farewell_say(server->farewell_fd, exit_code);
    return exit_code;
}

static int run(const CliOptions *options, DaemonReady *ready)
{
    Server server = {
        .options = options,
        .ready = ready,
        .signal_fd = -1,
        .farewell_fd = -1,
    };
    g_autoptr(GError) error = NULL;
    bool started = start(&server, &error);

    secret_forget_all(); /* every image that needs one has it */
    if (!started) {
        log_error("%s", error->message);
        (void) stop(&server);
        g_free(server.ready); /* our end tells the parent */
        return error->domain == IMGFUSE_ERROR &&
               error->code == IMGFUSE_ERROR_OPTION ? 2 : 1;
    }
    if (server.ready) {
        daemon_ready(g_steal_pointer(&server.ready));
    }
    while (!server.quit) {
        aio_poll(server.ctx, /* may_sleep= */ true);
        control_run_pending(server.state.control);
        while (jobs_finish()) {
            /* what the end of one has let begin */
        }
    }
    return stop(&server);
}

/* Before there is a daemon: it has no terminal and another folder. */
static bool take_secrets(const CliOptions *options, GError **error)
{
    const CliImage *first = g_ptr_array_index(options->images, 0);

    for (guint i = 0; i < options->objects->len; i++) {
        char *object = g_ptr_array_index(options->objects, i);
        bool ok = secret_add_object(object, error);

        secret_hide(object); /* the options stay as long as the mount */
        if (!ok) {
            return false;
        }
    }
    return !options->key ||
           secret_add_key(options->key, first->reference,
                          /* confirm= */ false, error);
}

int server_main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(CliOptions) options = cli_options_parse(argc, argv, &error);
    DaemonReady *ready = NULL;

    if (!options) {
        log_error("%s", error->message);
        return 2;
    }
    if (options->show_help) {
        g_autofree char *text = cli_options_help();

        fputs(text, stdout);
        return 0;
    }
    if (options->show_version) {
        printf("imgfuse %s\n", PACKAGE_VERSION);
        return 0;
    }
    log_verbose = options->verbose;
    if (options->debug) {
        log_enable_debug();
    }
    if (!take_secrets(options, &error)) {
        log_error("%s", error->message);
        secret_forget_all();
        return error->code == IMGFUSE_ERROR_OPTION ? 2 : 1;
    }
    if (!options->foreground) {
        ready = daemon_fork(&error);
        if (!ready) {
            log_error("%s", error->message);
            return 1;
        }
    }
    return run(options, ready);
}
