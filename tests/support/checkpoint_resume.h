/* checkpoint_resume.h: how a run finds what it goes on from, without the run: the same calls in the same
 * order as trainer/restore does, for tests that do it ten thousand times. */
#ifndef LORAD_TESTS_SUPPORT_CHECKPOINT_RESUME_H
#define LORAD_TESTS_SUPPORT_CHECKPOINT_RESUME_H

#include "checkpoint/checkpoint.h"

struct resume_result {
    char name[CHECKPOINT_NAME_BYTES]; /* "": none */
    int quarantined;
};

/* From the newest on, void ones left out: opens with verification, has `read` read everything, and puts a
 * damaged one into quarantine. What `read` or the file system says otherwise ends it. */
enum status resume_newest(struct resume_result *out, struct fs *fs, const char *output_dir,
                          enum status (*read)(struct checkpoint *checkpoint, void *context),
                          void *context) LORAD_WARN_UNUSED;

#endif
