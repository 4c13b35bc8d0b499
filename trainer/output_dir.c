#include "trainer/output_dir.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"

enum status output_dir_prepare(const struct run_options *options)
{
    TRY(file_make_dirs(options->output_dir));
    if (access(options->output_dir, W_OK | X_OK) != 0)
        return FAIL(LORAD_CANNOT_CREATE, "output_dir: %s cannot be written: %s", options->output_dir,
                    strerror(errno));
    return LORAD_OK;
}

int64_t output_dir_last_epoch(const struct run_options *options)
{
    struct checkpoint_entry *entries;
    size_t n;
    int64_t last = 0;
    if (checkpoint_list(&entries, &n, options->output_dir) != LORAD_OK) return 0;
    for (size_t i = 0; i < n; i++)
        if (entries[i].id.epoch > last) last = entries[i].id.epoch;
    free(entries);
    return last;
}

static enum status move_to_trash(const char *dir, const char *name)
{
    char from[4096], to[4096], stamp[21];
    clock_utc(stamp);
    snprintf(from, sizeof from, "%s/%s", dir, name);
    if (!file_exists(from)) return LORAD_OK;
    snprintf(to, sizeof to, "%s/trash/%s-%s", dir, stamp, name);
    for (int again = 2; file_exists(to); again++) /* runs follow each other within a second */
        snprintf(to, sizeof to, "%s/trash/%s-%s.%d", dir, stamp, name, again);
    if (rename(from, to) != 0)
        return FAIL(LORAD_CANNOT_CREATE, "cannot move %s to %s: %s", from, to, strerror(errno));
    return LORAD_OK;
}

/* The checkpoints of a run that is not continued; *committed 0: there is no such run. */
static enum status list_old(struct checkpoint_entry **entries, size_t *n, size_t *committed,
                            const struct run_options *options, bool is_restart)
{
    *committed = 0;
    TRY(checkpoint_list(entries, n, options->output_dir));
    bool again = options->resume_from_checkpoint || is_restart;
    for (size_t i = 0; i < *n && !again; i++) *committed += (*entries)[i].committed;
    return LORAD_OK;
}

enum status output_dir_check(const struct run_options *options, bool is_restart)
{
    struct checkpoint_entry *entries;
    size_t n, committed;
    TRY(list_old(&entries, &n, &committed, options, is_restart));
    free(entries);
    if (committed == 0 || options->overwrite_output_dir) return LORAD_OK;
    return FAIL(LORAD_CANNOT_CREATE,
                "output_dir %s already holds a run with %zu checkpoints; set resume_from_checkpoint: auto to "
                "continue "
                "it, overwrite_output_dir: true to move it to trash, or choose another output_dir",
                options->output_dir, committed);
}

enum status output_dir_clear(const struct run_options *options, bool is_restart)
{
    struct checkpoint_entry *entries;
    size_t n, committed;
    TRY(list_old(&entries, &n, &committed, options, is_restart));
    if (committed == 0) {
        free(entries);
        return LORAD_OK;
    }
    char trash[4096];
    snprintf(trash, sizeof trash, "%s/trash", options->output_dir);
    enum status status = file_make_dirs(trash);
    static const char *const old[] = {"ckpt", "logs", "adapter_model.safetensors", "adapter_config.json"};
    for (size_t i = 0; status == LORAD_OK && i < sizeof old / sizeof *old; i++)
        status = move_to_trash(options->output_dir, old[i]);
    for (size_t i = 0; status == LORAD_OK && i < n; i++) {
        char link[4096];
        snprintf(link, sizeof link, "%s/checkpoint-%lld", options->output_dir, (long long)entries[i].id.step);
        unlink(link);
    }
    free(entries);
    if (status == LORAD_OK) log_info("the old run in %s was moved to its trash folder", options->output_dir);
    return status;
}
