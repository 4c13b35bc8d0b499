/*
 * redis_keys.h: what of a run stands in Redis: the names of its keys, the two scripts that guard its lease,
 * and how what comes back is read. docs/redis.md describes every key for people. Private to comm/.
 *
 * P is the prefix, R the run's name; the braces keep a run's keys together where keys are spread by hash tag.
 *   P:runs        zset    run -> unix time of its last sign of life
 *   P:{R}:owner   hash    the lease: struct redis_owner; ends 30 s after it was last renewed
 *   P:{R}:epoch   string  the highest epoch seen; never lowered
 *   P:{R}:info    hash    output_dir, host, pid, epoch, since, state, step, time
 *   P:{R}:status  string  JSON
 *   P:{R}:hb      hash    0 (the rank that tells) -> {"step", "time", "phase"}
 *   P:{R}:ck:DIR  hash    rank -> receipt, "commit" -> the commit record; ends after a day
 *   P:{R}:ckpts   zset    checkpoint folder -> step
 *   P:{R}:events, P:{R}:metrics   streams of {n, json}, bounded
 *   P:{R}:control                 stream of {request}, bounded; JSON as in control_message.h
 *   P:{R}:reply:ID                list of one answer; ends after a minute
 */
#ifndef LORAD_COMM_REDIS_KEYS_H
#define LORAD_COMM_REDIS_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "comm/coord.h"
#include "comm/redis_link.h"

enum {
    REDIS_LEASE_MS = 30000,
    REDIS_RENEW_MS = 5000,
    REDIS_KEEP_S = 7 * 24 * 3600, /* a run's keys, after its last sign of life */
    REDIS_RECEIPT_S = 24 * 3600,
    REDIS_REPLY_S = 60,
    REDIS_REQUEST_S = 60, /* an older request is not done any more: who sent it has given up */
    REDIS_EVENTS = 1000,
    REDIS_METRICS = 10000,
    REDIS_REQUESTS = 100,
};

enum { REDIS_RUN_BYTES = 128, REDIS_KEY_BYTES = 320 };

struct redis_keys {
    char run[REDIS_RUN_BYTES];
    char runs[REDIS_KEY_BYTES], owner[REDIS_KEY_BYTES], epoch[REDIS_KEY_BYTES], info[REDIS_KEY_BYTES],
        status[REDIS_KEY_BYTES], beats[REDIS_KEY_BYTES], checkpoints[REDIS_KEY_BYTES],
        events[REDIS_KEY_BYTES], metrics[REDIS_KEY_BYTES], control[REDIS_KEY_BYTES];
    char checkpoint[REDIS_KEY_BYTES], reply[REDIS_KEY_BYTES]; /* with a name behind it: the key of one */
};

/* A run's name as it stands in keys: run_name, else the last part of output_dir; what would end a hash tag or
 * a line becomes _. */
void redis_run_name(char out[REDIS_RUN_BYTES], const char *run_name, const char *output_dir);
/* prefix NULL: "lorad". */
void redis_keys_make(struct redis_keys *out, const char *prefix, const char *run);

/* ---- the lease ---- */

enum { REDIS_WORD_BYTES = 160, REDIS_DIR_BYTES = 4096 };

struct redis_owner {
    char id[40]; /* of the process: random */
    char host[REDIS_WORD_BYTES], boot[64], job[64], since[32];
    char output_dir[REDIS_DIR_BYTES];
    char place[32]; /* the folder's inode: with output_dir it tells whether two hosts mean the same folder */
    int64_t epoch, pid, restart;
    int64_t ttl_ms; /* of the lease; <= 0: nobody holds it */
};

/* This process in output_dir. */
enum status redis_owner_me(struct redis_owner *out, const struct coord_options *options) LORAD_WARN_UNUSED;
/* From HGETALL. false: there is no owner, or none that makes sense. Anything may stand there. */
bool redis_owner_read(struct redis_owner *out, const struct redis_reply *fields, int64_t ttl_ms);
bool redis_owner_same_folder(const struct redis_owner *a, const struct redis_owner *b);
/* "run on host H, process P, since T, in DIR" */
void redis_owner_describe(char *text, size_t bytes, const struct redis_owner *owner);

/* Appends the script that takes or renews the lease for `me`, unless somebody else holds it: a run in another
 * folder, or one in ours with a higher epoch. */
size_t redis_lease_renew(struct redis_batch *batch, const struct redis_keys *keys,
                         const struct redis_owner *me);
/* Appends the one that gives it back when it is ours. */
size_t redis_lease_release(struct redis_batch *batch, const struct redis_keys *keys,
                           const struct redis_owner *me);

enum redis_lease { LEASE_UNKNOWN, LEASE_HELD, LEASE_TAKEN, LEASE_OTHERS };
/* The reply to redis_lease_renew. LEASE_TAKEN: nobody held it before (a first start, a flushed server).
 * LEASE_OTHERS: *other holds it. */
enum redis_lease redis_lease_read(struct redis_owner *other, const struct redis_reply *reply);

/* ---- requests ---- */

struct redis_request {
    char position[48]; /* in the stream */
    int64_t sent_ms;   /* by the server's clock */
    const char *text;  /* borrowed from the reply; NULL: the entry holds none */
};
/* Entry i of the reply to XREAD of one stream; false: there is none. */
bool redis_request_read(struct redis_request *out, const struct redis_reply *reply, size_t i);
/* Whether it can stand in a key and between others in the inbox: digits, small letters and -. */
enum { REDIS_ID_LENGTH = 48 };
bool redis_is_request_id(const char *id);
/* Whether `text` is a position in a stream ("1700000000000-0"). */
bool redis_is_position(const char *text);
/* The server's clock from TIME; -1. */
int64_t redis_time_ms(const struct redis_reply *reply);

#endif
