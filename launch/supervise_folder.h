/*
 * supervise_folder.h: what a supervisor keeps on disk: a scratch folder for what MPI would leave behind, and
 * the claim that this output_dir is its own.
 */
#ifndef LORAD_LAUNCH_SUPERVISE_FOLDER_H
#define LORAD_LAUNCH_SUPERVISE_FOLDER_H

#include <stdint.h>

#include "base/status.h"

/* MPI's session folders and shared-memory files of this job, and of no other, lie in it. Locked while its
 * supervisor lives, so that the next one on the same host can remove what a killed one left. */
struct scratch {
    char *path;
    int fd;
};

/* Owns: *out. In TMPDIR, else /tmp. LORAD_CANNOT_CREATE. */
enum status scratch_open(struct scratch *out) LORAD_WARN_UNUSED;
/* Removes what killed supervisors of this host left, when older than that. scratch_open does it. */
void scratch_clear(int young_seconds);
void scratch_empty(const struct scratch *scratch); /* nothing of the job may run */
void scratch_close(struct scratch *scratch);       /* removes it */

enum { CLAIM_JOB_BYTES = 40 };

/*
 * OUT/SUPERVISOR: locked while a supervisor works on the folder; holds its job and how often it has started.
 * A supervisor that was killed leaves the text and no lock: the next one goes on as the same job, so that its
 * ranks take over from any that still live. One that ends properly leaves it empty.
 */
struct claim {
    int fd;
    char *path;
    char job[CLAIM_JOB_BYTES];
    int start;           /* of the job, from 0 */
    int64_t first_epoch; /* of the newest checkpoint that lay there before the job; -1: not looked yet */
};

/* Owns: *out. Creates the folder. LORAD_CANNOT_CREATE: another supervisor has it, or it cannot be written. */
enum status claim_open(struct claim *out, const char *output_dir) LORAD_WARN_UNUSED;
/* Notes claim->start before the ranks of it start. */
enum status claim_write(const struct claim *claim) LORAD_WARN_UNUSED;
void claim_close(struct claim *claim); /* ended properly */

#endif
