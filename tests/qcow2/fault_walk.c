/* SPDX-License-Identifier: MIT */
/*
 * a fixed workload on a qcow2 image, again and again, with another one of its
 * requests to the file failing each time
 *
 * A turn copies the template, opens the copy over blkdebug with inject-at,
 * runs all operations, closes, and looks at what is there without blkdebug:
 *
 *  W1  qemu-img finds no corruption (leaked clusters are no corruption);
 *  W2  each sector holds what the last successful flush covered, or something
 *      that was written later, whether that write failed or not;
 *  W3  a turn in which nobody was told of an error lost nothing: all is as
 *      the last writes left it.
 *
 * The walk ends when not even a sticky error is noticed: then the index is
 * past the last request.
 *
 * usage: fault_walk --template IMAGE --errno N [--first N] [--stride N]
 * Exit status: 0 all turns good, 1 not so, 2 usage.
 */
#include "block/backend.h"
#include "block/rt/aio_context.h"
#include "block/rt/thread_pool.h"
#include "drivers/registry.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SECTOR 512
#define LENGTH (2 * MIB)     /* of the template */
#define GROWN (LENGTH + MIB) /* after the workload's resize */
#define SECTORS (GROWN / SECTOR)
#define BASE_BYTE 0xb5 /* what the template's backing file is full of */
#define OPERATIONS 120
#define WRITE_MAX 24 /* sectors */
#define WALK_MAX 20000

static char *arg_template;
static int arg_errno = EIO, arg_first, arg_stride = 1;

static const GOptionEntry entries[] = {
    { "template", 0, 0, G_OPTION_ARG_FILENAME, &arg_template,
      "image of 2 MiB to start from", "IMAGE" },
    { "errno", 0, 0, G_OPTION_ARG_INT, &arg_errno, "the error", "N" },
    { "first", 0, 0, G_OPTION_ARG_INT, &arg_first, "index to start at", "N" },
    { "stride", 0, 0, G_OPTION_ARG_INT, &arg_stride, "step", "N" },
    { NULL, 0, 0, G_OPTION_ARG_NONE, NULL, NULL, NULL },
};

/*
 * What a sector may hold: values by number, the oldest first. Those before
 * @settled are gone for good when a flush succeeds.
 */
typedef struct Sector {
    uint8_t value[OPERATIONS + 1];
    uint8_t count;
    uint8_t settled; /* the last write that succeeded */
} Sector;

typedef struct Turn {
    BlockBackend *blk;
    Sector *sectors;
    uint64_t random;
    unsigned errors; /* that operations returned */
    char *image;
} Turn;

typedef struct Call {
    BlockBackend *blk;
    int64_t offset, bytes;
    int ret;
} Call;

static uint64_t next_random(uint64_t *state)
{
    /* splitmix64 */
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* ---- the model ---------------------------------------------------------- */

static void note_write(Turn *turn, int64_t offset, int64_t bytes,
                       uint8_t value, int ret)
{
    for (int64_t i = offset / SECTOR; i < (offset + bytes) / SECTOR; i++) {
        Sector *sector = &turn->sectors[i];

        sector->value[sector->count++] = value;
        if (ret >= 0) {
            sector->settled = sector->count - 1;
        }
    }
    turn->errors += ret < 0;
}

static void note_flush(Turn *turn, int ret)
{
    turn->errors += ret < 0;
    for (int64_t i = 0; ret >= 0 && i < SECTORS; i++) {
        Sector *sector = &turn->sectors[i];

        sector->count -= sector->settled;
        memmove(sector->value, sector->value + sector->settled,
                sector->count);
        sector->settled = 0;
    }
}

static void start_model(Turn *turn)
{
    for (int64_t i = 0; i < SECTORS; i++) {
        turn->sectors[i].value[0] = i < LENGTH / SECTOR ? BASE_BYTE : 0;
        turn->sectors[i].count = 1;
        turn->sectors[i].settled = 0;
    }
}

/* ---- the workload ------------------------------------------------------- */

static void coroutine_fn discard_entry(void *opaque)
{
    Call *call = opaque;

    call->ret = blk_co_pdiscard(call->blk, call->offset, call->bytes);
}

static void coroutine_fn truncate_entry(void *opaque)
{
    Call *call = opaque;

    call->ret = blk_co_truncate(call->blk, call->offset, /* exact= */ true,
                                PREALLOC_OFF, /* error= */ NULL);
}

static int run_call(Turn *turn, CoEntry *entry, int64_t offset, int64_t bytes)
{
    Call call = { turn->blk, offset, bytes, 0 };

    aio_run_sync(entry, &call);
    return call.ret;
}

static void operate(Turn *turn, int number)
{
    static uint8_t buffer[WRITE_MAX * SECTOR];
    int64_t end = number > OPERATIONS / 2 ? GROWN : LENGTH;
    int64_t bytes = (1 + (int64_t)(next_random(&turn->random) % WRITE_MAX)) *
                    SECTOR;
    int64_t offset = (int64_t)(next_random(&turn->random) %
                               (uint64_t)((end - bytes) / SECTOR)) * SECTOR;
    uint64_t kind = next_random(&turn->random) % 16;
    int ret;

    /* Half of it lies close together, so that clusters are used again. */
    if (next_random(&turn->random) % 2) {
        offset = offset / 16 / SECTOR * SECTOR;
    }
    if (number == OPERATIONS / 2) {
        turn->errors += run_call(turn, truncate_entry, GROWN, 0) < 0;
    } else if (number % 12 == 11) {
        note_flush(turn, blk_flush(turn->blk));
    } else if (kind < 10) {
        memset(buffer, number + 1, (size_t)bytes);
        ret = blk_pwrite(turn->blk, offset, bytes, buffer);
        note_write(turn, offset, bytes, (uint8_t)(number + 1), ret);
    } else if (kind < 13) {
        ret = blk_pwrite_zeroes(turn->blk, offset, bytes,
                                kind == 10 ? 0 : BDRV_REQ_MAY_UNMAP);
        note_write(turn, offset, bytes, 0, ret);
    } else if (kind == 13) {
        turn->errors += blk_pread(turn->blk, offset, bytes, buffer) < 0;
    } else {
        /* A discarded sector is zero or what it was: both may be. */
        ret = run_call(turn, discard_entry, offset, bytes);
        note_write(turn, offset, bytes, 0, -1);
        turn->errors -= ret >= 0;
    }
}

/* ---- judging ------------------------------------------------------------ */

static bool may_hold(const Sector *sector, const uint8_t *bytes, bool silent)
{
    int first = silent ? sector->settled : 0;

    if (memcmp(bytes, bytes + 1, SECTOR - 1) != 0) {
        return false;
    }
    for (int i = first; i < sector->count; i++) {
        if (sector->value[i] == bytes[0]) {
            return true;
        }
    }
    return false;
}

/* W2, W3 */
static bool is_content_right(const Turn *turn, BlockBackend *blk)
{
    uint8_t bytes[SECTOR];

    if (blk_length(blk) != GROWN &&
        (turn->errors == 0 || blk_length(blk) != LENGTH)) {
        fprintf(stderr, "the length is %" PRId64 "\n", blk_length(blk));
        return false;
    }
    for (int64_t i = 0; i < blk_length(blk) / SECTOR; i++) {
        int ret = blk_pread(blk, i * SECTOR, SECTOR, bytes);

        if (ret < 0 ||
            !may_hold(&turn->sectors[i], bytes, turn->errors == 0)) {
            fprintf(stderr, "sector %" PRId64 " begins with 0x%02x: %s\n", i,
                    bytes[0], ret < 0 ? g_strerror(-ret) : "wrong content");
            return false;
        }
    }
    return true;
}

/* W1 */
static bool is_image_sound(const char *image)
{
    const char *argv[] = { "qemu-img", "check", "-f", "qcow2", image, NULL };
    g_autofree char *output = NULL;
    int status = 0;

    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH |
                      G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, &output, NULL,
                      &status, NULL)) {
        return false;
    }
    if (WIFEXITED(status) &&
        (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3)) {
        return true;
    }
    fprintf(stderr, "qemu-img check: status %d\n%s", status, output);
    return false;
}

static BlockBackend *open_image(const char *format, ...)
{
    g_autofree char *json = NULL;
    g_autoptr(GError) error = NULL;
    BlockBackend *blk;
    va_list args;

    va_start(args, format);
    json = g_strdup_vprintf(format, args);
    va_end(args);
    blk = blk_open(NULL, block_options_from_json(json, NULL),
                   BDRV_O_RDWR | BDRV_O_RESIZE | BDRV_O_UNMAP,
                   /* policy= */ NULL, "fault walk", &error);
    return blk;
}

static bool judge(const Turn *turn)
{
    g_autoptr(BlockBackend) blk = NULL;

    if (!is_image_sound(turn->image)) {
        return false;
    }
    blk = open_image("{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\","
                     "\"filename\":\"%s\"}}", turn->image);
    if (blk == NULL) {
        fprintf(stderr, "the image does not open any more\n");
        return false;
    }
    return is_content_right(turn, blk);
}

/* Failing flushes at close are the plan. */
static void ignore_message(const char *domain, GLogLevelFlags level,
                           const char *message, void *opaque)
{
}

/* ---- the walk ----------------------------------------------------------- */

static bool copy_template(const char *image)
{
    g_autofree char *bytes = NULL;
    size_t length = 0;
    FILE *file = fopen(image, "w");
    bool good = file != NULL &&
                g_file_get_contents(arg_template, &bytes, &length, NULL) &&
                fwrite(bytes, 1, length, file) == length;

    if (file != NULL && fclose(file) != 0) {
        good = false;
    }
    return good;
}

/* True when all is as it should be. *ret_errors: how many were reported. */
static bool run_turn(int64_t index, bool sticky, unsigned *ret_errors)
{
    g_autofree char *image = g_strdup_printf("%s.%d.%d", arg_template,
                                             arg_errno, arg_first);
    g_autofree Sector *sectors = g_new(Sector, SECTORS);
    Turn turn = { .sectors = sectors, .random = 5, .image = image };
    bool good;

    g_assert(copy_template(image));
    start_model(&turn);
    turn.blk = open_image("{\"driver\":\"qcow2\",\"l2-cache-size\":\"2k\","
                          "\"file\":{\"driver\":\"blkdebug\","
                          "\"inject-at\":%" PRId64 ",\"inject-errno\":%d,"
                          "\"inject-sticky\":%s,\"file\":{\"driver\":\"file\","
                          "\"filename\":\"%s\"}}}", index, arg_errno,
                          sticky ? "true" : "false", image);
    turn.errors += turn.blk == NULL;
    for (int i = 0; turn.blk != NULL && i < OPERATIONS; i++) {
        operate(&turn, i);
    }
    if (turn.blk != NULL) {
        note_flush(&turn, blk_flush(turn.blk));
        blk_free(turn.blk);
    }
    good = judge(&turn);
    if (!good) {
        fprintf(stderr, "... with error %d %s request %" PRId64 ", %u errors "
                "reported\n", arg_errno, sticky ? "from" : "at", index,
                turn.errors);
    } else {
        (void) unlink(image);
    }
    *ret_errors = turn.errors;
    return good;
}

static int walk(void)
{
    int turns = 0, reported = 0, bad = 0;
    unsigned errors = 1;

    for (int64_t index = arg_first; index < WALK_MAX && bad < 5;
         index += arg_stride) {
        turns++;
        bad += !run_turn(index, /* sticky= */ false, &errors);
        reported += errors > 0;
        if (errors > 0) {
            continue;
        }
        bad += !run_turn(index, /* sticky= */ true, &errors);
        if (errors == 0) {
            break;
        }
    }
    printf("error %d: %d turns, %d reported it, %d bad\n", arg_errno, turns,
           reported, bad);
    return bad > 0 || reported == 0;
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new(NULL);
    g_autoptr(GError) error = NULL;
    AioContext *ctx;
    int status;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) ||
        arg_template == NULL || arg_stride < 1 || arg_first < 0) {
        fprintf(stderr, "usage: %s --template IMAGE ...: %s\n", argv[0],
                error ? error->message : "see --help");
        return 2;
    }
    ctx = aio_context_new(&error);
    g_assert_no_error(error);
    drivers_register_all();
    g_log_set_default_handler(ignore_message, NULL);
    status = walk();
    thread_pool_shutdown();
    aio_context_free(ctx);
    return status;
}
