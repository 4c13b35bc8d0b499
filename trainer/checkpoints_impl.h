/* checkpoints_impl.h: what the files behind checkpoints.h share. Private. */
#ifndef LORAD_TRAINER_CHECKPOINTS_IMPL_H
#define LORAD_TRAINER_CHECKPOINTS_IMPL_H

#include "checkpoint/checkpoint.h"
#include "trainer/checkpoints.h"

/* "12.3 MB" */
enum { SIZE_TEXT_BYTES = 32 };
const char *size_text(char text[SIZE_TEXT_BYTES], int64_t bytes);

/* The newest checkpoint of an output_dir that is committed, not void and can be opened (verify: and whose
 * files are what was written). Damaged ones before it are counted. LORAD_NOT_FOUND: there is none. */
enum status checkpoints_newest(char name[CHECKPOINT_NAME_BYTES], int *damaged, const char *output_dir,
                               bool verify) LORAD_WARN_UNUSED;

/* The value of a key in the configuration beside a checkpoint. Owns: *out, NULL when there is none. */
enum status checkpoints_config_value(char **out, const char *dir, const char *key) LORAD_WARN_UNUSED;

#endif
