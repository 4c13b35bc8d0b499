/* checkpoint_state.h: a small run's state to save and to compare, for the tests of checkpoint/. */
#ifndef LORAD_TESTS_SUPPORT_CHECKPOINT_STATE_H
#define LORAD_TESTS_SUPPORT_CHECKPOINT_STATE_H

#include "checkpoint/checkpoint.h"

/* Tensors "w" F32 [12, 10], "m" F32 [12, 10] replicated on all ranks, "t" I64 [1, 3]. Values depend on the
 * step. */
enum { STATE_ROWS = 12, STATE_COLS = 10, STATE_COUNTS = 3 };

/* A folder of this test program, by name (borrowed until the next call), and the first try of step n. */
const char *state_folder(const char *name);
struct checkpoint_id state_id(int64_t n);

/* Saves with `world` ranks, one after the other in this process; "w" is cut by rows, or by columns. A
 * file "notes.txt" and a PEFT adapter go into the folder. On failure everything is abandoned, as a run
 * would do. */
enum status state_save(struct fs *fs, const char *output_dir, struct checkpoint_id id, int world,
                       bool by_columns) LORAD_WARN_UNUSED;

/* Opens OUT/ckpt/<id> with verification and compares every value. LORAD_DATA when it is damaged in any way.
 */
enum status state_verify(const char *output_dir, struct checkpoint_id id) LORAD_WARN_UNUSED;

/* Compares every value of one that is open. */
enum status state_compare(struct checkpoint *checkpoint) LORAD_WARN_UNUSED;

/* The same for a folder. */
enum status state_verify_dir(const char *dir) LORAD_WARN_UNUSED;

/* checkpoint_collect that keeps `keep`, and those of step `best` (< 0: none). */
enum status state_collect(struct fs *fs, const char *output_dir, int32_t keep,
                          int64_t best) LORAD_WARN_UNUSED;

/* The digits of the steps of all checkpoints, or of the committed ones, oldest first: 134; -1: cannot list.
 */
int64_t state_left(const char *output_dir, bool committed_only);

#endif
