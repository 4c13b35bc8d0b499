/*
 * fs_gate.h: the real file system behind a gate: syncs of files wait while it is closed, and making files
 * whose path contains a word can fail. Thread: any.
 */
#ifndef LORAD_TESTS_SUPPORT_FS_GATE_H
#define LORAD_TESTS_SUPPORT_FS_GATE_H

#include <stdbool.h>

#include "base/fs.h"

struct fs_gate;
/* Open, and failing nothing. Owns: *out. */
enum status fs_gate_create(struct fs_gate **out) LORAD_WARN_UNUSED;
void fs_gate_destroy(struct fs_gate *gate);
struct fs *fs_gate_fs(struct fs_gate *gate); /* borrowed */

void fs_gate_close(struct fs_gate *gate);
void fs_gate_open(struct fs_gate *gate);
/* Blocks until a sync waits at the closed gate. */
void fs_gate_wait(struct fs_gate *gate);
/* ENOSPC for a new file whose path contains `word`; NULL: for none. Borrows: word. */
void fs_gate_fail(struct fs_gate *gate, const char *word);

#endif
