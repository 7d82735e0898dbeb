/* SPDX-License-Identifier: MIT */
/*
 * what the program tells its user
 *
 * One line for each message, "imgfuse: ...", on standard error; once the
 * daemon has left its terminal (log_to_syslog) to the system log instead.
 * Any thread.
 */
#ifndef FUSE_LOG_H
#define FUSE_LOG_H

#include <glib.h>
#include <stdbool.h>

/* Set by -v and -d, before there are threads. */
extern bool log_verbose;
extern bool log_requests;

/* An error or warning that the user must see. A final full stop is not due. */
void log_error(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* With -v only: what was chosen and why. */
void log_info(const char *format, ...) G_GNUC_PRINTF(1, 2);

/* From here on messages go to the system log. */
void log_to_syslog(void);

/* -d: also shows what the block layer says with g_debug(). */
void log_enable_debug(void);

#endif
