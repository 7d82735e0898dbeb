/* SPDX-License-Identifier: MIT */
/*
 * documents: what a mount says of an image in files of text, most of it JSON
 *
 * A document is written anew for each open and stays as it is until the
 * close: its reader sees one moment. The handle in the kernel's open file
 * names it.
 */
#ifndef FUSE_DOCUMENTS_H
#define FUSE_DOCUMENTS_H

#include "fuse/export.h"

typedef enum DocumentKind {
    DOCUMENT_INFO,  /* as imgfuse info --output=json */
    DOCUMENT_MAP,   /* as imgfuse map --output=json */
    DOCUMENT_STATS, /* counters of the requests so far */
    DOCUMENT_GRAPH, /* nodes and edges, for dot(1) */
    DOCUMENT_KINDS,
} DocumentKind;

/* "info.json", ... */
const char *document_name(DocumentKind kind);

/*
 * document_write:
 * The text of the moment; NULL with @error. Latencies are measured from the
 * first DOCUMENT_STATS of @export on. Control plane; may do I/O and drain.
 */
GBytes *document_write(Export *export, DocumentKind kind, GError **error);

/* Documents that are open. */
typedef struct Documents Documents;

Documents *documents_new(void);
void documents_free(Documents *documents);

/* Keeps @text (taken over) under the handle that is returned; never 0. */
uint64_t documents_open(Documents *documents, GBytes *text);
/* A count of the text, or NULL: no such handle. Any thread. */
GBytes *documents_get(Documents *documents, uint64_t handle);
void documents_close(Documents *documents, uint64_t handle);

#endif
