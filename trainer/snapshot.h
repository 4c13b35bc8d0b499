/*
 * snapshot.h: a copy of what a checkpoint keeps of the adapter (masters and both moments), taken while the
 * next forward and backward run. Between optimizer updates nothing of it changes, so only the next update has
 * to wait: snapshot_begin at the step boundary, snapshot_copy on another thread, snapshot_gate before the
 * update.
 *
 * On a device that is not the host the copies go to its copy stream, behind the work enqueued before
 * snapshot_begin; the gate then makes the compute stream wait, not the host. On the host the gate copies what
 * is left itself.
 *
 * Owns: its buffers, reused from one save to the next. Thread: create, begin and gate: the main one; copy:
 * one other.
 */
#ifndef LORAD_TRAINER_SNAPSHOT_H
#define LORAD_TRAINER_SNAPSHOT_H

#include <stddef.h>

#include "base/status.h"
#include "checkpoint/checkpoint.h"
#include "trainer/session.h"

enum { SNAPSHOT_VECTORS = 3, SNAPSHOT_NAME_BYTES = LORA_NAME_BYTES + 16 };

/* What a checkpoint calls a factor's part of a vector: "adam.m.model.layers.0...". vector: ADAPTER_PARAM,
 * ADAPTER_M or ADAPTER_V. */
void snapshot_name(char name[SNAPSHOT_NAME_BYTES], int vector, const struct lora_tensor *tensor);

struct snapshot;
/* What one takes of host memory on a rank. */
size_t snapshot_bytes(const struct lora *lora, const struct partition *partition);
/* Borrows: the session's adapter. Owns: *out. */
enum status snapshot_create(struct snapshot **out, const struct session *session) LORAD_WARN_UNUSED;
void snapshot_destroy(struct snapshot *snapshot); /* NULL ok */

/* What the adapter holds now is what the snapshot will hold. Cheap. The one before has been copied. */
enum status snapshot_begin(struct snapshot *snapshot) LORAD_WARN_UNUSED;
/* Returns when all of it is in host memory. Blocks. */
enum status snapshot_copy(struct snapshot *snapshot) LORAD_WARN_UNUSED;
/* Returns when the adapter may change. Blocks. */
enum status snapshot_gate(struct snapshot *snapshot) LORAD_WARN_UNUSED;

/* The pieces that this rank writes; none when another rank holds the same ones. Borrowed. */
const struct checkpoint_piece *snapshot_pieces(const struct snapshot *snapshot, size_t *n);
/* The masters, laid out as in lora.h. Borrowed; NULL on a rank that writes nothing. */
const float *snapshot_masters(const struct snapshot *snapshot);

#endif
