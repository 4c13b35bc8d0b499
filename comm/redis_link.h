/*
 * redis_link.h: one connection to a Redis server: commands go out in batches, each batch has one deadline,
 * and a breaker says when the next try is due. redis_link.c owns hiredis.h; it speaks RESP2. Private to
 * comm/.
 *
 * A server is not trusted: replies are bounded in bytes, elements and depth, and a batch ends at its deadline
 * however slowly bytes trickle in. Only looking up a host name may take longer.
 * Thread: a link and its batches belong to one thread at a time.
 */
#ifndef LORAD_COMM_REDIS_LINK_H
#define LORAD_COMM_REDIS_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"
#include "comm/redis_url.h"

/* Whether hiredis here can do TLS. */
bool redis_link_has_tls(void);

/* ---- replies: borrowed from their batch ---- */

struct redis_reply;

/* What an error reply says ("OOM command not allowed ..."), at most 300 bytes without control characters;
 * NULL: it is none. */
const char *redis_reply_error(const struct redis_reply *reply);
/* A string or status, NUL-terminated; NULL: the reply is no text. *length may be NULL. */
const char *redis_reply_text(const struct redis_reply *reply, size_t *length);
/* An integer, or a text that is one. */
int64_t redis_reply_int(const struct redis_reply *reply, int64_t otherwise);
/* Elements of an array; 0 and NULL when it is none. NULL replies are fine. */
size_t redis_reply_length(const struct redis_reply *reply);
const struct redis_reply *redis_reply_at(const struct redis_reply *reply, size_t i);
/* The value behind `key` in an array of keys and values (HGETALL); NULL: not there. */
const struct redis_reply *redis_reply_get(const struct redis_reply *reply, const char *key);

/* ---- batches ---- */

enum { REDIS_BATCH_COMMANDS = 256 };

struct redis_batch {
    struct strbuf bytes; /* the commands as sent */
    size_t n;
    struct redis_reply *replies[REDIS_BATCH_COMMANDS]; /* [n] after an exchange; NULL: none came */
    const char *keys[REDIS_BATCH_COMMANDS];            /* [n] redis_batch_key; borrowed */
    bool failed;                                       /* a command was left out: no memory, too many */
};
#define REDIS_BATCH_EMPTY                                                                                    \
    {                                                                                                        \
        .n = 0                                                                                               \
    }

/* Appends a command: words separated by spaces, each %s, %d or %lld inside one word whatever it holds.
 * Returns its number, the place of its reply. */
size_t redis_batch_add(struct redis_batch *batch, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
size_t redis_batch_add_words(struct redis_batch *batch, size_t n, const char *const *words);
/* Notes which key a command is about, one that may be dropped when it is of another type. */
void redis_batch_key(struct redis_batch *batch, size_t command, const char *key);
void redis_batch_clear(struct redis_batch *batch); /* commands and replies */
void redis_batch_free(struct redis_batch *batch);
const struct redis_reply *redis_batch_reply(const struct redis_batch *batch, size_t i);

/* Fills batch->replies from bytes as a server would send them; LORAD_DATA when they are none, or too few. */
enum status redis_batch_parse(struct redis_batch *batch, const char *bytes, size_t length) LORAD_WARN_UNUSED;

/* ---- the connection ---- */

struct redis_link;

/* Connects to nothing yet. address: copied. Owns: *out. */
enum status redis_link_create(struct redis_link **out, const struct redis_address *address) LORAD_WARN_UNUSED;
void redis_link_destroy(struct redis_link *link); /* NULL ok */

/* Sends the batch and reads a reply for each command, connecting and logging in before when needed: all
 * within timeout_ms, and another timeout_ms for connecting. LORAD_IO says what failed, with the server's name
 * and without its password; the connection is closed then, the replies that came are kept. Error replies to
 * single commands are no failure of the exchange. Blocks: see above. */
enum status redis_link_exchange(struct redis_link *link, struct redis_batch *batch,
                                int timeout_ms) LORAD_WARN_UNUSED;
/* Closes it; the next exchange connects anew. */
void redis_link_close(struct redis_link *link);

/* ---- when to try again ---- */

enum { REDIS_BREAKER_FIRST_MS = 1000, REDIS_BREAKER_MOST_MS = 30000 };

/* Zeros: closed. */
struct redis_breaker {
    int wait_ms;      /* the last wait; 0: closed */
    int64_t until_ns; /* monotonic: no try before */
};
bool redis_breaker_allows(const struct redis_breaker *breaker, int64_t now_ns);
void redis_breaker_note(struct redis_breaker *breaker, bool ok, int64_t now_ns);

#endif
