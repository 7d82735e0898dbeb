/* SPDX-License-Identifier: MIT */
/*
 * where a secret's bytes come from
 *
 * While the terminal is asked, it neither echoes nor turns keys into signals:
 * an interrupt is a byte that we see, so the terminal is put back in order on
 * every way out.
 *
 * Locking: none; control plane.
 */
#include "block/crypto/secret_source.h"

#include "block/crypto/secret_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define TERMINAL_WAIT_MS 120000
#define PIPE_WAIT_MS 30000
#define KEY_INTERRUPT 3
#define KEY_END 4
#define KEY_BACKSPACE 8
#define KEY_KILL_LINE 21
#define KEY_DELETE 127

void secret_bytes_free(SecretBytes *bytes)
{
    if (bytes->data) {
        secret_memory_put(bytes->data);
    }
    *bytes = (SecretBytes) { 0 };
}

static void bytes_alloc(SecretBytes *bytes)
{
    *bytes = (SecretBytes) { .data = secret_memory_get(SECRET_MAX_BYTES + 1) };
}

static bool wait_readable(int fd, int wait_ms)
{
    struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
    int ret;

    do {
        ret = poll(&poll_fd, 1, wait_ms);
    } while (ret < 0 && errno == EINTR);
    return ret > 0;
}

/* -- files ---------------------------------------------------------------- */

/* 0, or the errno of what went wrong. */
static int read_all(int fd, SecretBytes *bytes)
{
    /* One byte more than allowed, to see that there is more. */
    while (bytes->bytes <= SECRET_MAX_BYTES) {
        ssize_t part;

        if (!wait_readable(fd, PIPE_WAIT_MS)) {
            return ETIMEDOUT;
        }
        part = read(fd, bytes->data + bytes->bytes,
                    SECRET_MAX_BYTES + 1 - bytes->bytes);
        if (part == 0) {
            return 0;
        }
        if (part < 0 && errno != EINTR && errno != EAGAIN) {
            return errno;
        }
        bytes->bytes += part > 0 ? (size_t)part : 0;
    }
    return EFBIG;
}

bool secret_read_file(const char *filename, SecretBytes *ret_bytes,
                      GError **error)
{
    SecretBytes bytes;
    int fd = open(filename, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    int failure;

    if (fd < 0) {
        error_set_errno(error, errno, "cannot open the key file '%s'",
                        filename);
        return false;
    }
    bytes_alloc(&bytes);
    failure = read_all(fd, &bytes);
    close(fd);
    if (failure) {
        error_set_errno(error, failure, "cannot read the key file '%s'",
                        filename);
        secret_bytes_free(&bytes);
        return false;
    }
    *ret_bytes = bytes;
    return true;
}

bool secret_read_environment(const char *name, SecretBytes *ret_bytes,
                             GError **error)
{
    char *value = getenv(name);
    size_t length = value ? strlen(value) : 0;

    if (!value || length > SECRET_MAX_BYTES) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_NOT_FOUND,
                    value ? "environment variable '%s' is too long for a key"
                          : "environment variable '%s' is not set", name);
        return false;
    }
    bytes_alloc(ret_bytes);
    memcpy(ret_bytes->data, value, length);
    ret_bytes->bytes = length;
    explicit_bzero(value, length);
    unsetenv(name);
    return true;
}

bool secret_read_credential(const char *name, SecretBytes *ret_bytes,
                            GError **error)
{
    const char *folder = getenv("CREDENTIALS_DIRECTORY");
    g_autofree char *filename = NULL;

    if (!folder || !*name || strchr(name, '/') || strcmp(name, "..") == 0) {
        g_set_error(error, IMGFUSE_ERROR, IMGFUSE_ERROR_NOT_FOUND,
                    folder ? "'%s' is no name of a credential"
                           : "no credential '%s': CREDENTIALS_DIRECTORY is "
                             "not set", name);
        return false;
    }
    filename = g_build_filename(folder, name, NULL);
    return secret_read_file(filename, ret_bytes, error);
}

/* -- the terminal --------------------------------------------------------- */

/* Takes one typed byte. True: the line is complete, or *ret_error is set. */
static bool take_key(SecretBytes *bytes, uint8_t key, int *ret_error)
{
    switch (key) {
    case '\n':
    case '\r':
        return true;
    case KEY_END:
        if (bytes->bytes == 0) {
            *ret_error = ECANCELED;
        }
        return true;
    case KEY_INTERRUPT:
        *ret_error = ECANCELED;
        return true;
    case KEY_BACKSPACE:
    case KEY_DELETE:
        /* A whole character, if it is UTF-8. */
        while (bytes->bytes > 0 &&
               (bytes->data[--bytes->bytes] & 0xc0) == 0x80) {
        }
        break;
    case KEY_KILL_LINE:
        bytes->bytes = 0;
        break;
    default:
        if (bytes->bytes < SECRET_MAX_BYTES) {
            bytes->data[bytes->bytes++] = key;
        }
    }
    return false;
}

static int read_line(int fd, SecretBytes *bytes)
{
    for (;;) {
        int failure = 0;
        uint8_t key;
        ssize_t part;

        if (!wait_readable(fd, TERMINAL_WAIT_MS)) {
            return ETIMEDOUT;
        }
        part = read(fd, &key, 1);
        if (part == 0 || (part < 0 && errno != EINTR)) {
            return part == 0 ? ECANCELED : errno;
        }
        if (part > 0 && take_key(bytes, key, &failure)) {
            memset(bytes->data + bytes->bytes, 0,
                   SECRET_MAX_BYTES + 1 - bytes->bytes);
            return failure;
        }
    }
}

bool secret_read_terminal(const char *prompt, SecretBytes *ret_bytes,
                          GError **error)
{
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    struct termios before;
    struct termios quiet;
    SecretBytes bytes;
    int failure;

    if (fd < 0 || tcgetattr(fd, &before) < 0) {
        error_set_errno(error, errno, "cannot ask for the key on the "
                        "terminal");
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    quiet = before;
    quiet.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG);
    quiet.c_cc[VMIN] = 1;
    quiet.c_cc[VTIME] = 0;
    bytes_alloc(&bytes);
    (void) tcsetattr(fd, TCSAFLUSH, &quiet);
    dprintf(fd, "%s", prompt);
    failure = read_line(fd, &bytes);
    dprintf(fd, "\n");
    (void) tcsetattr(fd, TCSAFLUSH, &before);
    close(fd);
    if (failure) {
        error_set_errno(error, failure, "no key was typed");
        secret_bytes_free(&bytes);
        return false;
    }
    *ret_bytes = bytes;
    return true;
}
