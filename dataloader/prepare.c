/*
 * prepare.c: the cache of prepared data: which folder, and who fills it.
 *
 * Invariants:
 * (1) the key is a hash of everything that decides the rows, so a folder with that name holds them or a part
 *     of them, whoever began it.
 * (2) whoever fills a folder holds its lock; others follow, and one of them takes over when the lock is free
 *     and the folder not complete.
 * (3) rows_known, done, status and message change under `lock`, by the thread; after done the thread touches
 *     nothing.
 */
#include "dataloader/prepare.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/thread.h"
#include "dataloader/prepare_folder.h"
#include "dataloader/prepare_lock.h"

struct preparation {
    struct prepare_options options;
    struct dataset_source *sources; /* a copy; the strings are the caller's */
    struct source_list list;
    char *folder;
    struct prepare_lock held;
    struct prepare_counters counters;
    atomic_bool stop;
    struct prepare_report report;

    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool rows_known, done;
    enum status status;
    char message[2048];
};

/* ---- the key ---- */

static void key_text(struct strbuf *text, const struct prepare_options *o, const struct source_list *list)
{
    char hex[33];
    const char *template = tokenizer_chat_template(o->tokenizer);
    hash128_hex(tokenizer_hash(o->tokenizer), hex);
    strbuf_printf(text, "prepare %d shard %d tokenizer %s template %s %016llx\n", PREPARE_VERSION,
                  SHARD_VERSION, hex, chat_template_name(o->chat),
                  template ? (unsigned long long)hash64(template, strlen(template)) : 0ULL);
    strbuf_printf(
        text, "prompt %d history %d cutoff %d excess %d shard_bytes %lld val %a seed %llu eval %d\n",
        o->chat_options.train_on_prompt, o->chat_options.mask_history, o->cutoff_len, (int)o->excess,
        (long long)o->shard_bytes, o->val_size, (unsigned long long)o->split_seed, o->want_eval_part);
    if (o->inspect) {
        *hex = '\0';
        if (o->inspect->words) hash128_hex(word_list_hash(o->inspect->words), hex);
        strbuf_printf(text, "pii %d answer %d words %s\n", (int)o->inspect->pii, o->inspect->min_answer_chars,
                      hex);
    }
    if (o->signatures) strbuf_printf(text, "signatures %d\n", SIGNATURE_VERSION);
    for (int32_t i = 0; i < o->n_sources; i++)
        strbuf_printf(text, "samples %lld\n", (long long)o->sources[i].max_samples);
    strbuf_printf(text, "split_special_tokens %d\n", o->chat_options.split_special_tokens);
    for (int32_t i = 0; i < list->n; i++) {
        const struct source_file *file = &list->file[i];
        char *real = realpath(file->path, NULL);
        strbuf_printf(text, "%d %lld %lld %s\n%s\n", file->source, (long long)file->size_bytes,
                      (long long)file->mtime_ns, file->name, real ? real : file->path);
        source_file_key(text, file);
        strbuf_putc(text, '\n');
        free(real);
    }
}

static enum status find_folder(struct preparation *p)
{
    struct strbuf text = STRBUF_EMPTY;
    char hex[33];
    key_text(&text, &p->options, &p->list);
    enum status status = strbuf_status(&text);
    if (status == LORAD_OK) {
        hash128_hex(hash128(text.data, text.length), hex);
        p->folder = file_join(p->options.cache_dir, hex);
        if (!p->folder) status = LORAD_NOMEM;
    }
    strbuf_free(&text);
    return status;
}

/* ---- the thread ---- */

static void announce_rows(void *context)
{
    struct preparation *p = context;
    pthread_mutex_lock(&p->lock);
    p->rows_known = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static enum status fill(struct preparation *p)
{
    struct prepare_job job = {.options = &p->options,
                              .list = &p->list,
                              .folder = p->folder,
                              .stop = &p->stop,
                              .counters = &p->counters};
    return prepare_folder_fill(&job, &p->report, announce_rows, p);
}

/* With the lock. What cannot become whole by going on is removed. */
static enum status fill_locked(struct preparation *p, bool discard)
{
    prepare_lock_clear(&p->held);
    enum status status = discard ? prepare_folder_discard(p->folder) : LORAD_OK;
    if (status == LORAD_OK) status = fill(p);
    if (status == LORAD_OK) return status;
    prepare_lock_note(&p->held, status);
    rmdir(p->folder); /* when there is nothing in it */
    if (status == LORAD_DATA) {
        char message[sizeof p->message];
        snprintf(message, sizeof message, "%s", status_message());
        if (prepare_folder_discard(p->folder) != LORAD_OK) log_debug("%s", status_message());
        status = FAIL(status, "%s", message);
    }
    return status;
}

static enum status follow_once(struct preparation *p, int *quiet)
{
    enum { QUIET_LOOKS = 50 };
    bool busy;
    enum status failure;
    char *path = file_join(p->folder, DATASET_GROWING);
    if (!path) return LORAD_NOMEM;
    if (!p->rows_known && file_exists(path)) announce_rows(p);
    free(path);
    if (p->options.follow) {
        TRY(prepare_lock_look(p->folder, &busy, &failure));
        if (busy)
            *quiet = 0;
        else if (failure != LORAD_OK)
            return prepare_lock_failure(p->folder, failure);
        else if (++*quiet > QUIET_LOOKS)
            return FAIL(LORAD_IO, "preparing %s has ended before it was done: start again, and it continues",
                        p->folder);
    }
    nanosleep(&(struct timespec){0, 20000000}, NULL);
    return LORAD_OK;
}

static enum status prepare_or_follow(struct preparation *p)
{
    bool fresh = p->options.overwrite_cache && !p->options.follow, followed = false;
    for (int quiet = 0;;) {
        bool got = false;
        enum folder_state state = FOLDER_DAMAGED;
        if (!fresh) TRY(prepare_folder_look(&state, p->folder, &p->report));
        if (state == FOLDER_COMPLETE) return LORAD_OK;
        if (atomic_load(&p->stop)) return FAIL(LORAD_REQUEUE, "preparing was stopped");
        if (!p->options.follow) TRY(prepare_lock_try(&p->held, p->folder, &got));
        if (got) {
            enum status failure = followed ? prepare_lock_noted(&p->held) : LORAD_OK;
            if (failure != LORAD_OK && failure != LORAD_REQUEUE)
                return prepare_lock_failure(p->folder, failure);
            /* Another process may have finished it meanwhile. */
            if (!fresh) TRY(prepare_folder_look(&state, p->folder, &p->report));
            if (state == FOLDER_COMPLETE) return LORAD_OK;
            if (state == FOLDER_DAMAGED && !fresh)
                log_warn("prepared data cannot be used and is made again: %s", status_message());
            status_clear();
            return fill_locked(p, state == FOLDER_DAMAGED);
        }
        if (!followed && !p->options.follow)
            log_info("another process is preparing the same data: following it");
        followed = true;
        fresh = false; /* what the other one makes is as new */
        TRY(follow_once(p, &quiet));
    }
}

static void end(struct preparation *p, enum status status)
{
    pthread_mutex_lock(&p->lock);
    p->status = status;
    if (status != LORAD_OK) snprintf(p->message, sizeof p->message, "%s", status_message());
    p->rows_known = p->done = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static void *run_thread(void *argument)
{
    struct preparation *p = argument;
    enum status status = prepare_or_follow(p);
    prepare_lock_release(&p->held);
    end(p, status);
    return NULL;
}

/* ---- the caller's side ---- */

static void destroy(struct preparation *p)
{
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->changed);
    source_list_free(&p->list);
    free(p->sources);
    free(p->folder);
    free(p);
}

static enum status make(struct preparation *p, const struct prepare_options *options)
{
    if (options->cutoff_len < 2)
        return FAIL(LORAD_CONFIG, "cutoff_len is %d; it must be at least 2", options->cutoff_len);
    size_t n = options->n_sources > 0 ? (size_t)options->n_sources : 0;
    if (!(p->sources = memory_new(n, sizeof *p->sources))) return LORAD_NOMEM;
    if (n > 0) memcpy(p->sources, options->sources, n * sizeof *p->sources);
    p->options.sources = p->sources;
    TRY(source_list_open(&p->list, p->sources, options->n_sources));
    source_list_scratch(&p->list, options->cache_dir);
    TRY(file_make_dirs(options->cache_dir));
    return find_folder(p);
}

static enum status start_thread(struct preparation *p)
{
    int error = thread_start(&p->thread, run_thread, p);
    if (error) return FAIL(LORAD_NOMEM, "cannot start a thread to prepare data: %s", strerror(error));
    p->started = true;
    return LORAD_OK;
}

enum status preparation_begin(struct preparation **out, const struct prepare_options *options)
{
    struct preparation *p = memory_new(1, sizeof *p);
    if (!p) return LORAD_NOMEM;
    p->options = *options;
    p->held.fd = -1;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    enum status status = make(p, options);
    bool fresh = options->overwrite_cache && !options->follow;
    enum folder_state state = FOLDER_DAMAGED;
    if (status == LORAD_OK && !fresh) status = prepare_folder_look(&state, p->folder, &p->report);
    if (status == LORAD_OK && state == FOLDER_COMPLETE)
        p->rows_known = p->done = true;
    else if (status == LORAD_OK) {
        status_clear();
        status = start_thread(p);
    }
    if (status == LORAD_OK)
        *out = p;
    else
        destroy(p);
    return status;
}

bool preparation_rows_known(struct preparation *p)
{
    pthread_mutex_lock(&p->lock);
    bool known = p->rows_known;
    pthread_mutex_unlock(&p->lock);
    return known;
}

enum status preparation_folder(struct preparation *p, char **dir)
{
    pthread_mutex_lock(&p->lock);
    while (!p->rows_known) pthread_cond_wait(&p->changed, &p->lock);
    enum status status = p->status == LORAD_OK ? LORAD_OK : FAIL(p->status, "%s", p->message);
    pthread_mutex_unlock(&p->lock);
    TRY(status);
    char *folder = memory_string(p->folder);
    if (!folder) return LORAD_NOMEM;
    *dir = folder;
    return LORAD_OK;
}

enum status preparation_start(struct preparation **out, char **dir, const struct prepare_options *options)
{
    struct preparation *p;
    TRY(preparation_begin(&p, options));
    enum status status = preparation_folder(p, dir);
    if (status == LORAD_OK) {
        *out = p;
        return LORAD_OK;
    }
    preparation_cancel(p);
    char message[sizeof p->message];
    snprintf(message, sizeof message, "%s", status_message());
    if (preparation_finish(p, NULL) == LORAD_OK) log_debug("%s", message);
    return FAIL(status, "%s", message);
}

enum status preparation_poll(struct preparation *p, bool *done)
{
    pthread_mutex_lock(&p->lock);
    *done = p->done;
    enum status status = p->done && p->status != LORAD_OK ? FAIL(p->status, "%s", p->message) : LORAD_OK;
    pthread_mutex_unlock(&p->lock);
    return status;
}

struct preparation_progress preparation_progress(const struct preparation *p)
{
    const struct prepare_counters *c = &p->counters;
    return (struct preparation_progress){.scanned_bytes = atomic_load(&c->scanned_bytes),
                                         .source_bytes = atomic_load(&c->source_bytes),
                                         .rows_done = atomic_load(&c->rows_done),
                                         .raw_rows = atomic_load(&c->raw_rows),
                                         .tokens = atomic_load(&c->tokens)};
}

void preparation_cancel(struct preparation *p)
{
    atomic_store(&p->stop, true);
}

enum status preparation_finish(struct preparation *p, struct prepare_report *report)
{
    if (!p) return LORAD_OK;
    if (p->started) pthread_join(p->thread, NULL);
    enum status status = p->status == LORAD_OK ? LORAD_OK : FAIL(p->status, "%s", p->message);
    if (status == LORAD_OK && report) *report = p->report;
    destroy(p);
    return status;
}

enum status dataset_prepare(char **shard_dir, const struct prepare_options *options,
                            struct prepare_report *report)
{
    struct preparation *preparation;
    char *folder;
    TRY(preparation_start(&preparation, &folder, options));
    enum status status = preparation_finish(preparation, report);
    if (status == LORAD_OK)
        *shard_dir = folder;
    else
        free(folder);
    return status;
}
