/* SPDX-License-Identifier: MIT */
/*
 * imgfuse commit: what an overlay has moves down into its backing file
 *
 * The copying is the commit job's, which copies and flushes before anything
 * else changes; only then is the overlay emptied. So a failure or an interrupt
 * at any time leaves the overlay whole: its backing file may hold some of its
 * data by then, which nobody sees through it.
 *
 * Locking: none; main thread.
 */
#include "fuse/cmd/common.h"

#include "block/driver.h"
#include "block/graph/drain.h"
#include "block/graph/edge.h"
#include "block/image/commit.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* How often the progress is looked at. */
#define LOOK_NS (100 * INT64_C(1000000))

typedef struct CommitArgs {
    CommonArgs common;
    const char *filename;
    const char *base_name; /* NULL: the backing file */
    BdrvOpenFlags flags;
    int64_t bytes_per_second; /* 0: as fast as it goes */
    bool keep;                /* the overlay is not emptied */
} CommitArgs;

/* -- finding the base ---------------------------------------------------- */

/*
 * A layer can be called as the header above calls it, as it was opened, or by
 * any other way that leads to the same file.
 */
static bool is_named(const BlockDriverState *bs, const char *header_name,
                     const char *name)
{
    return g_strcmp0(header_name, name) == 0 ||
           g_strcmp0(bs->exact_filename, name) == 0 ||
           common_is_same_file(bs->exact_filename, name);
}

/* The layer that -b names, or the one below @top. NULL with @error. */
static BlockDriverState *find_base(const CommitArgs *args,
                                   BlockDriverState *top, GError **error)
{
    BlockDriverState *bs = top;
    BdrvChild *below = bdrv_cow_child(top);

    if (!below) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                    "%s: has no backing file to commit to", args->filename);
        return NULL;
    }
    if (!args->base_name) {
        return below->bs;
    }
    for (; below; below = bdrv_cow_child(bs)) {
        const char *header_name = bs->backing_name;

        bs = bdrv_skip_filters(below->bs);
        if (is_named(bs, header_name, args->base_name)) {
            return below->bs;
        }
    }
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_OPTION,
                "%s: has no '%s' in its backing chain", args->filename,
                args->base_name);
    return NULL;
}

/* -- the job ------------------------------------------------------------- */

/* The job counts up to a goal that moves while it finds more to copy. */
static void show_progress(const CommitArgs *args, Job *job)
{
    JobProgress progress;

    job_get_progress(job, &progress);
    common_progress(&args->common, progress.done_bytes, progress.total_bytes);
}

/*
 * The job is ready when all is copied: we hold the overlay writable, so it
 * waits for writes that never come.
 */
static bool run_job(const CommitArgs *args, Job *job, GError **error)
{
    JobProgress progress;
    bool is_told = false;
    bool is_done = false;

    job_set_speed(job, args->bytes_per_second);
    job_start(job, /* thread= */ NULL);
    while (!is_done) {
        is_done = job_wait(job, /* until_ready= */ !is_told, LOOK_NS);
        show_progress(args, job);
        if (__atomic_load_n(&common_interrupted, __ATOMIC_RELAXED)) {
            job_cancel(job);
        }
        job_get_progress(job, &progress);
        if (progress.status == JOB_READY && !is_told) {
            is_told = job_complete(job, /* error= */ NULL);
        }
        is_done = progress.status == JOB_DONE;
    }
    common_progress_end(&args->common);
    return job_result(job, error);
}

/*
 * After a failure nothing has been emptied: the overlay still has what the
 * base got only some of.
 */
static bool commit_data(const CommitArgs *args, BlockDriverState *top,
                        BlockDriverState *base, GError **error)
{
    g_autoptr(Job) job = commit_job_new("commit", top, base, error);

    if (!job || !run_job(args, job, error)) {
        g_prefix_error(error, "%s: not committed, it is as before: ",
                       args->filename);
        return false;
    }
    return true;
}

/* -- the command --------------------------------------------------------- */

/*
 * Through a backend of its own, which asks for the permission to write: nobody
 * else may write the overlay while its data goes.
 */
static bool make_empty(const CommitArgs *args, BlockDriverState *top,
                       GError **error)
{
    g_autoptr(BlockBackend) blk =
        blk_new(BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE, BLK_PERM_ALL,
                "commit");
    bool ok;

    if (!blk_insert_node(blk, top, error)) {
        return false;
    }
    bdrv_drained_begin(top);
    ok = top->drv->make_empty(top, error);
    bdrv_drained_end(top);
    if (!ok) {
        g_prefix_error(error, "%s: is committed, but could not be emptied: ",
                       args->filename);
    }
    return ok;
}

/* Asked before the copying: an hour later is too late to hear it. */
static bool can_commit(const CommitArgs *args, const BlockDriverState *top,
                       GError **error)
{
    if (args->keep || top->drv->make_empty) {
        return true;
    }
    g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_UNSUPPORTED,
                "%s: format '%s' cannot be emptied; use -d", args->filename,
                top->drv->format_name);
    return false;
}

/*
 * With -b the layers in between have become useless, but not wrong: the user
 * may have other overlays of them, so nothing is emptied there.
 */
static int commit_body(void *opaque, GError **error)
{
    const CommitArgs *args = opaque;
    g_autoptr(BlockBackend) blk =
        common_args_open(&args->common, args->filename, args->common.format,
                         BDRV_O_RDWR | args->flags, "commit", error);
    g_autoptr(BlockDriverState) top = NULL;
    BlockDriverState *base;

    if (!blk) {
        return CMD_EXIT_ERROR;
    }
    top = bdrv_ref(bdrv_skip_filters(blk_bs(blk)));
    base = find_base(args, top, error);
    if (!base || !can_commit(args, top, error)) {
        return CMD_EXIT_ERROR;
    }
    common_catch_signals();
    if (!commit_data(args, top, base, error)) {
        return CMD_EXIT_ERROR;
    }
    /* The job has let us use the base instead; we are done with that. */
    blk_remove_node(blk);
    if (!args->keep && !make_empty(args, top, error)) {
        return CMD_EXIT_ERROR;
    }
    if (!args->common.quiet) {
        printf("Image committed.\n");
    }
    return CMD_EXIT_OK;
}

static bool parse_letter(void *opaque, int option)
{
    CommitArgs *args = opaque;

    switch (option) {
    case 'b':
        args->base_name = optarg;
        args->keep = true; /* layers in between show the old base through */
        return true;
    case 'd':
        args->keep = true;
        return true;
    case 't':
        return common_parse_cache(optarg, &args->flags);
    case 'r':
        return common_parse_size(optarg, "-r", &args->bytes_per_second);
    default:
        return common_args_take(&args->common, option);
    }
}

static bool parse_args(int argc, char **argv, CommitArgs *args)
{
    static const struct option long_options[] = {
        COMMON_LONG_OPTIONS,
        { NULL, 0, NULL, 0 },
    };
    if (!common_parse(argc, argv, COMMON_LETTERS "b:dt:r:", long_options,
                      parse_letter, args)) {
        return false;
    }
    args->filename = argv[optind];
    return optind == argc - 1;
}

static int commit_run(int argc, char **argv)
{
    CommitArgs args = { .filename = NULL };
    int code;

    common_args_init(&args.common, &image_command_commit);
    if (parse_args(argc, argv, &args)) {
        code = image_command_with_loop(commit_body, &args);
    } else {
        code = common_usage(&image_command_commit);
    }
    common_args_clear(&args.common);
    return code;
}

const ImageCommand image_command_commit = {
    .name = "commit",
    .summary = "move an overlay's data down into its backing file",
    .usage = "[-f FORMAT] [-b BASE] [-d] [-r BYTES_PER_SECOND] "
             "[-t CACHE] [-p] [-q] [--allow-path=DIR] "
             "[--image-opts] IMAGE",
    .options =
        "  -b BASE                    commit to this layer further down\n"
        "  -d                         do not empty the image afterwards\n"
        "  -r BYTES                   bytes a second at the most\n"
        "  -t CACHE                   how images are opened, as --cache of mounts\n",
    .run = commit_run,
};
