#include "support/checkpoint_resume.h"

#include <stdlib.h>
#include <string.h>

#include "comm/coord.h"
#include "base/file.h"

static enum status try_one(const char *output_dir, const char *name,
                           enum status (*read)(struct checkpoint *checkpoint, void *context), void *context)
{
    struct checkpoint *checkpoint;
    char *parent = file_join(output_dir, "ckpt"), *dir = parent ? file_join(parent, name) : NULL;
    enum status status = dir ? checkpoint_open(&checkpoint, dir, true) : LORAD_NOMEM;
    if (status == LORAD_OK) {
        status = read(checkpoint, context);
        checkpoint_close(checkpoint);
    }
    free(parent);
    free(dir);
    return status;
}

enum status resume_newest(struct resume_result *out, struct fs *fs, const char *output_dir,
                          enum status (*read)(struct checkpoint *checkpoint, void *context), void *context)
{
    struct checkpoint_entry *entries;
    struct resume_result result = {{0}, 0};
    size_t n;
    TRY(checkpoint_list(&entries, &n, output_dir));
    enum status status = LORAD_OK;
    for (size_t i = 0; i < n && status == LORAD_OK && !result.name[0]; i++) {
        bool fenced = false;
        if (!entries[i].committed) continue;
        status = coord_is_fenced(&fenced, output_dir, entries[i].id.step, entries[i].id.epoch);
        if (status != LORAD_OK || fenced) continue;
        status = try_one(output_dir, entries[i].name, read, context);
        if (status == LORAD_OK) memcpy(result.name, entries[i].name, CHECKPOINT_NAME_BYTES);
        if (status != LORAD_DATA && status != LORAD_NOT_FOUND) continue;
        status = checkpoint_quarantine(fs, output_dir, entries[i].name, status_message());
        result.quarantined++;
    }
    free(entries);
    if (status == LORAD_OK) *out = result;
    return status;
}
