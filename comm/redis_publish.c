#include "comm/redis_publish.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

enum { MOST_LISTED = 4000 };

void redis_publish_beat(struct redis_batch *batch, const struct redis_keys *keys,
                        const struct redis_beat *beat)
{
    struct strbuf text = STRBUF_EMPTY;
    char now[32];
    clock_utc(now);
    strbuf_printf(&text, "{\"step\": %lld, \"time\": \"%s\", \"phase\": ", (long long)beat->step, now);
    js_write_string(&text, beat->phase, strlen(beat->phase));
    strbuf_putc(&text, '}');
    redis_batch_key(batch, redis_batch_add(batch, "HSET %s 0 %s", keys->beats, strbuf_text(&text)),
                    keys->beats);
    strbuf_free(&text);
}

void redis_publish_info(struct redis_batch *batch, const struct redis_keys *keys,
                        const struct redis_owner *me, const struct redis_beat *beat)
{
    char now[32];
    long long seconds = (long long)clock_unix_seconds();
    clock_utc(now);
    redis_batch_key(
        batch,
        redis_batch_add(
            batch,
            "HSET %s output_dir %s host %s pid %lld job %s epoch %lld since %s state %s step %lld time %s",
            keys->info, me->output_dir, me->host, (long long)me->pid, me->job, (long long)me->epoch,
            me->since, beat->phase, (long long)beat->step, now),
        keys->info);
    redis_batch_key(batch, redis_batch_add(batch, "ZADD %s %lld %s", keys->runs, seconds, keys->run),
                    keys->runs);
    redis_batch_add(batch, "ZREMRANGEBYSCORE %s -inf %lld", keys->runs, seconds - REDIS_KEEP_S);
}

/* "STEP\0NAME\0" for each committed checkpoint; returns how many. */
static size_t list_committed(struct strbuf *out, const char *output_dir)
{
    char folder[REDIS_DIR_BYTES + 16], manifest[REDIS_DIR_BYTES + 320];
    snprintf(folder, sizeof folder, "%s/ckpt", output_dir);
    DIR *entries = opendir(folder);
    size_t n = 0;
    for (struct dirent *entry; entries && n < MOST_LISTED && (entry = readdir(entries));) {
        const char *name = entry->d_name;
        size_t digits = name[0] == 's' ? strspn(name + 1, "0123456789") : 0;
        if (digits == 0 || digits > 18 || strlen(name) > 250) continue;
        snprintf(manifest, sizeof manifest, "%s/%.250s/MANIFEST.json", folder, name);
        if (!file_exists(manifest)) continue;
        strbuf_printf(out, "%lld%c%s%c", strtoll(name + 1, NULL, 10), '\0', name, '\0');
        n++;
    }
    if (entries) closedir(entries);
    return n;
}

void redis_publish_list(struct redis_batch *batch, const struct redis_keys *keys, const char *output_dir)
{
    struct strbuf texts = STRBUF_EMPTY;
    redis_batch_add(batch, "DEL %s", keys->checkpoints);
    size_t n = list_committed(&texts, output_dir);
    const char **words = n > 0 && !texts.failed ? memory_new(2 + 2 * n, sizeof *words) : NULL;
    if (words) {
        words[0] = "ZADD";
        words[1] = keys->checkpoints;
        const char *at = texts.data;
        for (size_t i = 0; i < 2 * n; i++, at += strlen(at) + 1) words[2 + i] = at;
        redis_batch_add_words(batch, 2 + 2 * n, words);
        redis_batch_add(batch, "EXPIRE %s %d", keys->checkpoints, REDIS_KEEP_S);
    }
    strbuf_free(&texts);
    free(words);
}

static void publish_commit(struct redis_batch *batch, const struct redis_keys *keys,
                           const struct outbox_entry *entry)
{
    char key[2 * REDIS_KEY_BYTES];
    snprintf(key, sizeof key, "%s%.256s", keys->checkpoint, entry->name);
    const char **words = memory_new(4 + 2 * (size_t)entry->n, sizeof *words);
    char(*ranks)[12] = memory_new((size_t)entry->n + 1, sizeof *ranks);
    if (words && ranks) {
        size_t n = 0;
        words[n++] = "HSET";
        words[n++] = key;
        words[n++] = "commit";
        words[n++] = entry->json;
        for (int i = 0; i < entry->n; i++) {
            snprintf(ranks[i], sizeof ranks[i], "%d", i);
            words[n++] = ranks[i];
            words[n++] = entry->more[i];
        }
        redis_batch_add_words(batch, n, words);
        redis_batch_add(batch, "EXPIRE %s %d", key, REDIS_RECEIPT_S);
    }
    free(words);
    free(ranks);
}

static void publish_to_stream(struct redis_batch *batch, const char *stream, int most,
                              const struct outbox_entry *entry)
{
    redis_batch_key(batch,
                    redis_batch_add(batch, "XADD %s MAXLEN ~ %d * n %lld json %s", stream, most,
                                    (long long)entry->number, entry->json),
                    stream);
}

void redis_publish_entry(struct redis_batch *batch, const struct redis_keys *keys,
                         const struct outbox_entry *entry)
{
    switch (entry->kind) {
    case OUTBOX_EVENT:
        publish_to_stream(batch, keys->events, REDIS_EVENTS, entry);
        break;
    case OUTBOX_METRIC:
        publish_to_stream(batch, keys->metrics, REDIS_METRICS, entry);
        break;
    case OUTBOX_COMMIT:
        publish_commit(batch, keys, entry);
        break;
    case OUTBOX_ANSWER:
        redis_batch_add(batch, "RPUSH %s%s %s", keys->reply, entry->name, entry->json);
        redis_batch_add(batch, "EXPIRE %s%s %d", keys->reply, entry->name, REDIS_REPLY_S);
        break;
    }
}
