/*
 * table_file.h: a file of entries of one size behind a header of 64 bytes with their hash: places.bin,
 * signatures.bin, rows.idx. Always mapped, so the machine can take its memory back. Byte by byte:
 * docs/formats/tokens.md. Not trusted: an open table has the size and the hash that its header says.
 */
#ifndef LORAD_DATALOADER_TABLE_FILE_H
#define LORAD_DATALOADER_TABLE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { TABLE_HEADER_BYTES = 64 };

struct table_kind {
    const char *name; /* of the file */
    char magic[9];    /* 8 letters */
    uint32_t version, entry_bytes;
};

/* Starts zeroed. */
struct table_file {
    void *entry; /* [n] */
    int64_t n;
    void *map;
    size_t length;
    char *path, *part; /* part: under which name it is being written; NULL: sealed or opened */
};

/* n zeroed entries to be written to. Takes the room on the disk at once, so that a full disk is an error here
 * and no signal later. LORAD_CANNOT_CREATE, LORAD_IO. Owns: *out. */
enum status table_file_create(struct table_file *out, const struct table_kind *kind, const char *folder,
                              int64_t n) LORAD_WARN_UNUSED;
/* The same in a file without a name, which nobody else sees and nobody seals. */
enum status table_file_create_hidden(struct table_file *out, const struct table_kind *kind,
                                     const char *folder, int64_t n) LORAD_WARN_UNUSED;
/* Room for n entries instead, of a table that was created; the new ones are zero. Moves `entry`. */
enum status table_file_resize(struct table_file *table, const struct table_kind *kind,
                              int64_t n) LORAD_WARN_UNUSED;
/* Writes the header and gives the file its name; it is on the disk when this returns. */
enum status table_file_seal(struct table_file *table, const struct table_kind *kind) LORAD_WARN_UNUSED;

/* For reading. n: how many entries there must be; -1: any number. LORAD_NOT_FOUND, LORAD_DATA. Owns: *out. */
enum status table_file_open(struct table_file *out, const struct table_kind *kind, const char *folder,
                            int64_t n) LORAD_WARN_UNUSED;
/* A file that was not sealed is removed. */
void table_file_close(struct table_file *table);

#endif
