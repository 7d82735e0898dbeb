/* SPDX-License-Identifier: MIT */
/*
 * secrets: passphrases that images are opened with, by name
 *
 * The command line puts them in, drivers look them up. They are never printed,
 * and no longer in memory after secret_forget_all(). Control plane only.
 */
#ifndef BLOCK_CRYPTO_SECRET_H
#define BLOCK_CRYPTO_SECRET_H

#include "block/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECRET_MAX_BYTES 65536

typedef struct Secret {
    char *id;
    uint8_t *data; /* a zero byte follows, not counted */
    size_t bytes;
} Secret;

/*
 * secret_add_object:
 * "secret,id=ID,data=TEXT" or "...,file=NAME", then perhaps
 * ",format=raw|base64"; a comma in a value is doubled. An id that is there
 * already is an OPTION error. No part of @text is in an error message.
 */
bool secret_add_object(const char *text, GError **error);

/*
 * Overwrites the values of data= in an object's @text with dots: a command
 * line is for everybody to see.
 */
void secret_hide(char *text);

/*
 * secret_add_key:
 * The key for every encrypted image that names no secret of its own:
 *
 *   file:NAME    the file's bytes, all of them
 *   env:NAME     an environment variable, which is removed
 *   cred:NAME    a systemd credential
 *   ask          typed on the terminal, unseen (@confirm: twice)
 *   secret:ID    one that was added by that name
 *
 * Waits for a terminal or a pipe for a limited time. @description says in a
 * prompt what the key is for.
 */
bool secret_add_key(const char *source, const char *description, bool confirm,
                    GError **error);

/*
 * secret_find:
 * The secret @id; NULL: that of secret_add_key(). NULL with NOT_FOUND, or
 * DENIED when none was named: the text says how to give one; @option is the
 * image's option for it. Owned by the list.
 */
const Secret *secret_find(const char *id, const char *option,
                          GError **error);

/* Does it end with a newline, which is seldom meant? */
bool secret_ends_line(const Secret *secret);

/* Wipes all of them. */
void secret_forget_all(void);

#endif
