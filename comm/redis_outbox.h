/*
 * redis_outbox.h: what waits to be sent to Redis: a queue of bounded length and bytes that gives up its
 * oldest entries, which are counted. Private to comm/. Thread: the caller guards it.
 */
#ifndef LORAD_COMM_REDIS_OUTBOX_H
#define LORAD_COMM_REDIS_OUTBOX_H

#include <stddef.h>
#include <stdint.h>

enum { OUTBOX_ENTRIES = 1024, OUTBOX_BYTES = 8 << 20 };

enum outbox_kind { OUTBOX_EVENT, OUTBOX_METRIC, OUTBOX_COMMIT, OUTBOX_ANSWER };

/* One block of memory with its texts behind it. */
struct outbox_entry {
    struct outbox_entry *next;
    enum outbox_kind kind;
    int64_t number; /* of events and metrics: 1, 2, ...: who reads them finds gaps and repeats */
    int64_t step;   /* of a commit */
    size_t bytes;
    int n;             /* of a commit: receipts */
    const char *name;  /* a commit's folder, an answer's request */
    const char *json;  /* the entry, the commit record, the answer */
    const char **more; /* [n] receipts */
};

/* Zeros: empty. */
struct outbox {
    struct outbox_entry *first, *last;
    size_t n, bytes;
    int64_t dropped;
};

/* Copies what it is given. Without memory the entry counts as dropped. name may be NULL. */
void outbox_put(struct outbox *box, enum outbox_kind kind, int64_t number_or_step, const char *name,
                const char *json, const char *const *more, int n);
/* Takes the oldest; NULL: empty. Owned by the caller (free). */
struct outbox_entry *outbox_take(struct outbox *box);
void outbox_clear(struct outbox *box);

#endif
