/* SPDX-License-Identifier: MIT */
/*
 * messages to the user: standard error first, the system log later
 *
 * Nothing else in the program writes to standard error, but the image
 * commands. A message is one line however it was put together: newlines in it
 * (file names may have them) become spaces.
 *
 * Locking: none; the flags are set before threads exist, and one message is
 * one write.
 */
#include "fuse/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

bool log_verbose;
bool log_requests;

static bool use_syslog;

static void say(int priority, const char *format, va_list arguments)
    G_GNUC_PRINTF(2, 0);

static void say(int priority, const char *format, va_list arguments)
{
    g_autofree char *text = g_strdup_vprintf(format, arguments);

    g_strdelimit(text, "\n\r", ' ');
    if (use_syslog) {
        syslog(priority, "%s", text);
    } else {
        fprintf(stderr, "imgfuse: %s\n", text);
    }
}

void log_error(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    say(LOG_ERR, format, arguments);
    va_end(arguments);
}

void log_info(const char *format, ...)
{
    va_list arguments;

    if (!log_verbose) {
        return;
    }
    va_start(arguments, format);
    say(LOG_INFO, format, arguments);
    va_end(arguments);
}

void log_to_syslog(void)
{
    openlog("imgfuse", LOG_PID, LOG_DAEMON);
    use_syslog = true;
}

void log_enable_debug(void)
{
    log_verbose = true;
    log_requests = true;
    /* Unless the user has chosen domains; GLib reads it at each message. */
    (void) g_setenv("G_MESSAGES_DEBUG", "all", /* overwrite= */ FALSE);
}
