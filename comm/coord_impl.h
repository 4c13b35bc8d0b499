/*
 * coord_impl.h: what stands behind coord.h: the coordinator that decides (files), and outlets beside it,
 * through which a run is heard and told. Only files of this folder include it. Contracts: coord.h.
 */
#ifndef LORAD_COMM_COORD_IMPL_H
#define LORAD_COMM_COORD_IMPL_H

#include "base/strbuf.h"
#include "comm/coord.h"
#include "comm/inbox.h"

struct coord_ops {
    const char *kind;
    enum status (*join)(void **out, int64_t *epoch, const struct coord_options *options, int64_t at_least);
    void (*leave)(void *state);
    enum status (*record_resume)(void *state, int64_t base_step, int64_t base_epoch,
                                 const char *manifest_hash);
    enum status (*is_fenced)(bool *out, const char *output_dir, int64_t step, int64_t epoch);
    enum status (*job_began)(int64_t *epoch, void *state);
    enum status (*check_owner)(void *state);
    bool (*in_doubt)(void *state); /* whether check_owner may find what it did not find before. Cheap */
    void (*heartbeat)(void *state, int64_t step, const char *phase);
    void (*note_exit)(void *state, int exit_code); /* what the last heartbeat says */
    void (*last_beat)(void *state); /* now, since the process ends without leaving. Thread: any */
};

extern const struct coord_ops coord_file_ops;
/* Whether the files show that the run with this epoch ended, or that a later one took over. */
bool coord_file_is_over(const char *output_dir, int64_t epoch);

/*
 * An outlet holds nobody up: it copies what it is given and leaves the work to a thread of its own, and what
 * it cannot do it logs, once. NULL where it has nothing to do. coord.c has the list: outlets are looked at
 * and started in its order and left in the reverse one.
 */
struct coord_outlet {
    const char *kind; /* its member of the status object, when it describes itself */
    /* Before output_dir is claimed. *out NULL: the options do not ask for it. *at_least: may be raised. A
     * failure refuses the start. Owns: *out, until leave. */
    enum status (*look)(void **out, const struct coord_options *options, int64_t *at_least);
    /* The run has its epoch now, and requests go into coord_inbox. A failure ends the start. */
    enum status (*start)(void *state, struct coord *coord);
    /* No request goes into the inbox any more; those in it are answered next. */
    void (*close_requests)(void *state);
    /* Sends what is left; blocks 2 s at most. Also when it was never started. */
    void (*leave)(void *state);
    enum status (*check_owner)(void *state);
    void (*heartbeat)(void *state, int64_t step, const char *phase);
    void (*publish_status)(void *state, const char *json);
    void (*tell)(void *state, enum coord_stream stream, const char *json);
    void (*note_commit)(void *state, const char *name, int64_t step, const char *record_json,
                        const char *const *receipts_json, int world);
    void (*describe)(struct strbuf *out, void *state); /* appends one JSON value. Thread: any */
};

extern const struct coord_outlet coord_events_outlet; /* coord_events.c: OUT/logs/events.jsonl */
extern const struct coord_outlet coord_redis_outlet;  /* coord_redis.c: when there is a redis_url */
extern const struct coord_outlet coord_socket_outlet; /* control_socket.c: OUT/control.sock */

/* ---- for outlets; Thread: any ---- */

struct inbox *coord_inbox(struct coord *coord); /* borrowed until leave */
/* Appends what coord_publish_status was given last, with the members of the outlets: one JSON object. */
void coord_write_status(struct strbuf *out, struct coord *coord);
/* `lorad stop --now`, once the sender was answered: ends every rank with exit 80, saving nothing. */
void coord_stop_now(struct coord *coord) __attribute__((noreturn));

#endif
