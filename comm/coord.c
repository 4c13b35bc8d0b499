/* The functions of coord.h over a backend and the outlets beside it. The file system decides ownership, so
 * the file backend is always the one in charge; outlets come after it. */
#include "comm/coord.h"
#include "comm/coord_impl.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "comm/comm.h"

static const struct coord_outlet *const outlets[] = {
    &coord_events_outlet, /* OUT/logs/events.jsonl */
    &coord_redis_outlet,  /* when there is a redis_url */
    &coord_socket_outlet, /* OUT/control.sock; last, since it shows what the others describe */
};
enum { OUTLETS = sizeof outlets / sizeof *outlets };

struct coord {
    const struct coord_ops *ops;
    void *state;
    void *outlet_states[OUTLETS]; /* NULL: not asked for */
    struct inbox *inbox;
    int64_t epoch;
    pthread_mutex_t lock; /* guards the status */
    struct strbuf status; /* a JSON object */
};

static enum status join_all(struct coord *coord, const struct coord_options *options, int64_t at_least)
{
    TRY(inbox_create(&coord->inbox));
    for (int i = 0; i < OUTLETS; i++)
        if (outlets[i]->look) TRY(outlets[i]->look(&coord->outlet_states[i], options, &at_least));
    TRY(coord->ops->join(&coord->state, &coord->epoch, options, at_least));
    for (int i = 0; i < OUTLETS; i++)
        if (coord->outlet_states[i] && outlets[i]->start)
            TRY(outlets[i]->start(coord->outlet_states[i], coord));
    return LORAD_OK;
}

enum status coord_join(struct coord **out, const struct coord_options *options, int64_t at_least)
{
    struct coord *coord = memory_new(1, sizeof *coord);
    if (!coord) return LORAD_NOMEM;
    pthread_mutex_init(&coord->lock, NULL);
    coord->ops = &coord_file_ops;
    enum status status = join_all(coord, options, at_least);
    if (status != LORAD_OK) {
        coord_leave(coord);
        return status;
    }
    *out = coord;
    return LORAD_OK;
}

void coord_leave(struct coord *coord)
{
    if (!coord) return;
    for (int i = 0; i < OUTLETS; i++)
        if (coord->outlet_states[i] && outlets[i]->close_requests)
            outlets[i]->close_requests(coord->outlet_states[i]);
    if (coord->inbox) inbox_close(coord->inbox);
    for (int i = OUTLETS - 1; i >= 0; i--)
        if (coord->outlet_states[i]) outlets[i]->leave(coord->outlet_states[i]);
    inbox_destroy(coord->inbox);
    if (coord->state) coord->ops->leave(coord->state);
    strbuf_free(&coord->status);
    pthread_mutex_destroy(&coord->lock);
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

enum status coord_job_began(int64_t *epoch, struct coord *coord)
{
    return coord->ops->job_began(epoch, coord->state);
}

enum status coord_check_owner(struct coord *coord)
{
    TRY(coord->ops->check_owner(coord->state));
    for (int i = 0; i < OUTLETS; i++)
        if (coord->outlet_states[i] && outlets[i]->check_owner)
            TRY(outlets[i]->check_owner(coord->outlet_states[i]));
    return LORAD_OK;
}

enum status coord_check_step(struct coord *coord)
{
    return coord->ops->in_doubt(coord->state) ? coord_check_owner(coord) : LORAD_OK;
}

void coord_heartbeat(struct coord *coord, int64_t step, const char *phase)
{
    if (!coord) return;
    coord->ops->heartbeat(coord->state, step, phase);
    for (int i = 0; i < OUTLETS; i++)
        if (coord->outlet_states[i] && outlets[i]->heartbeat)
            outlets[i]->heartbeat(coord->outlet_states[i], step, phase);
}

void coord_note_exit(struct coord *coord, int exit_code)
{
    if (coord) coord->ops->note_exit(coord->state, exit_code);
}

/* ---- what a running job hears ---- */

struct inbox *coord_inbox(struct coord *coord)
{
    return coord->inbox;
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

void coord_stop_now(struct coord *coord)
{
    char time[21];
    struct strbuf event = STRBUF_EMPTY;
    log_info("stopped at once, by request: what was not saved is lost");
    clock_utc(time);
    strbuf_printf(&event, "{\"time\":\"%s\",\"event\":\"stopped\",\"text\":\"at once, by request\"}", time);
    coord_tell(coord, COORD_EVENTS, strbuf_text(&event));
    coord->ops->note_exit(coord->state, status_exit_code(LORAD_STOPPED));
    coord->ops->last_beat(coord->state);
    comm_abort(status_exit_code(LORAD_STOPPED));
}

/* ---- what it tells ---- */

void coord_publish_status(struct coord *coord, const char *json)
{
    if (!coord) return;
    pthread_mutex_lock(&coord->lock);
    strbuf_clear(&coord->status);
    strbuf_puts(&coord->status, json);
    pthread_mutex_unlock(&coord->lock);
    for (int i = 0; i < OUTLETS; i++)
        if (coord->outlet_states[i] && outlets[i]->publish_status)
            outlets[i]->publish_status(coord->outlet_states[i], json);
}

void coord_write_status(struct strbuf *out, struct coord *coord)
{
    pthread_mutex_lock(&coord->lock);
    const char *text = strbuf_text(&coord->status);
    size_t length = strlen(text);
    if (length > 2 && text[length - 1] == '}')
        strbuf_add(out, text, length - 1);
    else
        strbuf_puts(out, "{\"phase\":\"starting\""); /* nothing was published yet */
    pthread_mutex_unlock(&coord->lock);
    for (int i = 0; i < OUTLETS; i++) {
        if (!coord->outlet_states[i] || !outlets[i]->describe) continue;
        strbuf_printf(out, ",\"%s\":", outlets[i]->kind);
        outlets[i]->describe(out, coord->outlet_states[i]);
    }
    strbuf_putc(out, '}');
}

void coord_tell(struct coord *coord, enum coord_stream stream, const char *json)
{
    if (!coord) return;
    for (int i = 0; i < OUTLETS; i++)
        if (coord->outlet_states[i] && outlets[i]->tell)
            outlets[i]->tell(coord->outlet_states[i], stream, json);
}

void coord_note_commit(struct coord *coord, const char *name, int64_t step, const char *record_json,
                       const char *const *receipts_json, int world)
{
    if (!coord) return;
    for (int i = 0; i < OUTLETS; i++)
        if (coord->outlet_states[i] && outlets[i]->note_commit)
            outlets[i]->note_commit(coord->outlet_states[i], name, step, record_json, receipts_json, world);
}
