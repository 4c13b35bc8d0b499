/* crash_job.h: a job on a folder, done again and again with a fault at each of its calls of the file system
 * in turn. */
#ifndef LORAD_TESTS_SUPPORT_CRASH_JOB_H
#define LORAD_TESTS_SUPPORT_CRASH_JOB_H

#include "base/fs.h"
#include "support/fs_crash.h"

struct crash_job {
    const char *name;
    void (*prepare)(const char *out);
    enum status (*work)(struct fs *fs, const char *out);
    void (*check)(const char *out, bool reported); /* what must be whole; reported: work said LORAD_OK */
    void (*finish)(const char *out);               /* afterwards, without faults, the job can be done */
};

/* Every job with this fault at its first call, at its second, ...; `stays`: and at all later ones. After a
 * power cut the disk is looked at in every way of losing what was not synced. Prints how many calls and disks
 * there were. LORAD_CRASH_LONG: more random disks for each cut. */
void crash_every_call(const struct crash_job *jobs, size_t n, enum fs_fault fault, bool stays);

/* For main: tests of disks that are written in memory. */
void crash_use_memory(void);

#endif
