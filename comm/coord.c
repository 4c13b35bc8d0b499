/* The functions of coord.h over a backend. The file system decides ownership, so the file backend is always
 * the one in charge; a backend that mirrors it elsewhere is called after it. */
#include "comm/coord.h"
#include "comm/coord_impl.h"
#include "comm/inbox.h"

#include <stdlib.h>

#include "base/memory.h"

struct coord {
    const struct coord_ops *ops;
    void *state;
    struct inbox *inbox;
    int64_t epoch;
};

enum status coord_join(struct coord **out, const struct coord_options *options, int64_t at_least)
{
    struct coord *coord = memory_new(1, sizeof *coord);
    if (!coord) return LORAD_NOMEM;
    coord->ops = &coord_file_ops;
    enum status status = inbox_create(&coord->inbox);
    if (status == LORAD_OK) status = coord->ops->join(&coord->state, &coord->epoch, options, at_least);
    if (status != LORAD_OK) {
        inbox_destroy(coord->inbox);
        free(coord);
        return status;
    }
    *out = coord;
    return LORAD_OK;
}

void coord_leave(struct coord *coord)
{
    if (!coord) return;
    inbox_destroy(coord->inbox);
    coord->ops->leave(coord->state);
    free(coord);
}

int64_t coord_epoch(const struct coord *coord)
{
    return coord->epoch;
}

enum status coord_record_resume(struct coord *coord, int64_t base_step, int64_t base_epoch,
                                const char *manifest_hash)
{
    return coord->ops->record_resume(coord->state, base_step, base_epoch, manifest_hash);
}

enum status coord_is_fenced(bool *out, const char *output_dir, int64_t step, int64_t epoch)
{
    return coord_file_ops.is_fenced(out, output_dir, step, epoch);
}

enum status coord_check_owner(struct coord *coord)
{
    return coord->ops->check_owner(coord->state);
}

void coord_heartbeat(struct coord *coord, int64_t step, const char *phase)
{
    if (coord) coord->ops->heartbeat(coord->state, step, phase);
}

int coord_commands_waiting(struct coord *coord)
{
    return coord ? inbox_waiting(coord->inbox) : 0;
}

bool coord_take_command(struct coord *coord, struct coord_command *out)
{
    return coord && inbox_take(coord->inbox, out);
}

void coord_answer(struct coord *coord, const struct coord_command *command, enum status status,
                  const char *text)
{
    if (coord) inbox_answer(coord->inbox, command->id, status, text);
}

void coord_publish_status(struct coord *coord, const char *json)
{
    (void)coord, (void)json;
}

void coord_tell(struct coord *coord, enum coord_stream stream, const char *json)
{
    (void)coord, (void)stream, (void)json;
}

void coord_note_commit(struct coord *coord, const char *name, int64_t step, const char *record_json,
                       const char *const *receipts_json, int world)
{
    (void)coord, (void)name, (void)step, (void)record_json, (void)receipts_json, (void)world;
}
