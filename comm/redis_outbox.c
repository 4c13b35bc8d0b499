#include "comm/redis_outbox.h"

#include <stdlib.h>
#include <string.h>

static const char *put_text(char **at, const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = memcpy(*at, text, bytes);
    *at += bytes;
    return copy;
}

static struct outbox_entry *make(const char *name, const char *json, const char *const *more, int n)
{
    if (!name) name = "";
    size_t bytes =
        sizeof(struct outbox_entry) + (size_t)n * sizeof(char *) + strlen(name) + 1 + strlen(json) + 1;
    for (int i = 0; i < n; i++) bytes += strlen(more[i]) + 1;
    struct outbox_entry *entry = bytes <= OUTBOX_BYTES ? malloc(bytes) : NULL;
    if (!entry) return NULL;
    *entry = (struct outbox_entry){.bytes = bytes, .n = n, .more = (const char **)(entry + 1)};
    char *at = (char *)(entry->more + n);
    entry->name = put_text(&at, name);
    entry->json = put_text(&at, json);
    for (int i = 0; i < n; i++) entry->more[i] = put_text(&at, more[i]);
    return entry;
}

struct outbox_entry *outbox_take(struct outbox *box)
{
    struct outbox_entry *entry = box->first;
    if (!entry) return NULL;
    box->first = entry->next;
    if (!box->first) box->last = NULL;
    box->n--;
    box->bytes -= entry->bytes;
    entry->next = NULL;
    return entry;
}

void outbox_put(struct outbox *box, enum outbox_kind kind, int64_t number_or_step, const char *name,
                const char *json, const char *const *more, int n)
{
    struct outbox_entry *entry = make(name, json, more, n);
    if (!entry) {
        box->dropped++;
        return;
    }
    entry->kind = kind;
    entry->number = entry->step = number_or_step;
    while (box->n > 0 && (box->n >= OUTBOX_ENTRIES || box->bytes + entry->bytes > OUTBOX_BYTES)) {
        free(outbox_take(box));
        box->dropped++;
    }
    if (box->last)
        box->last->next = entry;
    else
        box->first = entry;
    box->last = entry;
    box->n++;
    box->bytes += entry->bytes;
}

void outbox_clear(struct outbox *box)
{
    for (struct outbox_entry *entry; (entry = outbox_take(box));) free(entry);
}
