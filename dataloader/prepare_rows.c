/*
 * prepare_rows.c: raw rows through the threads and out again in order.
 *
 * The calling thread finds the rows and puts them, some hundred at a time, into a ring of chunks. Threads
 * take the chunks in turn and fill in tokens or problems. The calling thread takes finished chunks out in the
 * order in which it put them in, so what is written does not depend on the number of threads.
 *
 * Invariants:
 * (1) consumed <= taken <= filled <= consumed + ring. Chunk i (at i % ring) belongs to the calling thread
 *     before it is filled and once it is done, to one worker in between.
 * (2) `filled`, `taken` and `done` change under `lock`; `consumed` is the calling thread's.
 */
#include "dataloader/prepare.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { CHUNK_ROWS = 256, CHUNK_BYTES = 1 << 20, MOST_THREADS = 64 };

struct row_result {
    enum row_problem problem; /* ROW_PROBLEMS: none */
    size_t detail;            /* into chunk.details */
    size_t first_token;
    int32_t n_tokens; /* 0: dropped */
};

struct chunk {
    int32_t n;
    int32_t source[CHUNK_ROWS];
    struct raw_row raw[CHUNK_ROWS];
    struct row_result result[CHUNK_ROWS];
    int32_t *tokens;
    uint8_t *supervised;
    size_t n_tokens, token_capacity, supervised_capacity;
    struct strbuf details; /* strings with their NULs */
    enum status status;
    char message[512];
    bool done;
};

struct pipeline {
    struct prepare_job *job;
    struct chunk *chunk;
    int64_t ring, filled, taken, consumed;
    bool stop;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread[MOST_THREADS];
    int32_t n_threads;

    /* Where the calling thread is in the files. */
    int32_t source;
    int64_t row_number;
    FILE *problems;
};

/* ---- workers ---- */

static enum status keep_tokens(struct chunk *chunk, struct row_result *result,
                               const struct encoded_row *encoded, int32_t n)
{
    void *block = chunk->tokens;
    TRY(memory_grow(&block, &chunk->token_capacity, chunk->n_tokens + (size_t)n, sizeof *chunk->tokens));
    chunk->tokens = block;
    block = chunk->supervised;
    TRY(memory_grow(&block, &chunk->supervised_capacity, chunk->n_tokens + (size_t)n, 1));
    chunk->supervised = block;
    memcpy(chunk->tokens + chunk->n_tokens, encoded->tokens.ids, (size_t)n * sizeof *chunk->tokens);
    for (int32_t i = 0; i < n; i++) chunk->supervised[chunk->n_tokens + (size_t)i] = encoded->weights[i] > 0;
    result->first_token = chunk->n_tokens;
    result->n_tokens = n;
    chunk->n_tokens += (size_t)n;
    return LORAD_OK;
}

/* Turns parsed messages into tokens; sets row->problem where that fails or the row is too long. */
static enum status encode_row(const struct prepare_options *options, struct parsed_row *row,
                              struct encoded_row *encoded, int32_t *kept)
{
    *kept = 0;
    enum status status =
        chat_template_encode(options->chat, row->messages, row->n, options->chat_options, encoded);
    if (status == LORAD_DATA) { /* something about this row that only the template knows */
        parsed_row_reject(row, ROW_ROLE_ORDER, "%s", status_message());
        status_clear();
        return LORAD_OK;
    }
    TRY(status);
    size_t n = encoded->tokens.length, most = (size_t)options->cutoff_len;
    if (n > most) {
        bool cut = options->excess == EXCESS_TRUNCATE;
        parsed_row_reject(row, cut ? ROW_TRUNCATED : ROW_TOO_LONG, "%zu tokens, cutoff_len is %zu", n, most);
        if (!cut) return LORAD_OK;
        n = most;
    }
    bool target = false;
    for (size_t i = 1; i < n && !target; i++) target = encoded->weights[i] > 0;
    if (target)
        *kept = (int32_t)n;
    else
        parsed_row_reject(row, ROW_NO_LABEL, "no supervised token among %zu", n);
    return LORAD_OK;
}

static enum status process_chunk(const struct prepare_job *job, struct chunk *chunk, struct parsed_row *row,
                                 struct encoded_row *encoded)
{
    chunk->n_tokens = 0;
    strbuf_clear(&chunk->details);
    for (int32_t i = 0; i < chunk->n; i++) {
        int32_t kept = 0;
        struct row_result *result = &chunk->result[i];
        *result = (struct row_result){.problem = ROW_PROBLEMS};
        TRY(source_reader_parse(job->reader[chunk->source[i]], &chunk->raw[i], row));
        if (row->problem == ROW_PROBLEMS) TRY(encode_row(job->options, row, encoded, &kept));
        if (row->problem != ROW_PROBLEMS) {
            result->problem = row->problem;
            result->detail = chunk->details.length;
            strbuf_add(&chunk->details, strbuf_text(&row->detail), row->detail.length + 1);
        }
        if (kept > 0) TRY(keep_tokens(chunk, result, encoded, kept));
    }
    return strbuf_status(&chunk->details);
}

static void *run_worker(void *argument)
{
    struct pipeline *pipeline = argument;
    struct parsed_row row = {0};
    struct encoded_row encoded = {0};
    pthread_mutex_lock(&pipeline->lock);
    for (;;) {
        while (!pipeline->stop && pipeline->taken == pipeline->filled)
            pthread_cond_wait(&pipeline->changed, &pipeline->lock);
        if (pipeline->stop) break;
        struct chunk *chunk = &pipeline->chunk[pipeline->taken++ % pipeline->ring];
        pthread_mutex_unlock(&pipeline->lock);
        chunk->status = process_chunk(pipeline->job, chunk, &row, &encoded);
        if (chunk->status != LORAD_OK)
            snprintf(chunk->message, sizeof chunk->message, "%s", status_message());
        pthread_mutex_lock(&pipeline->lock);
        chunk->done = true;
        pthread_cond_broadcast(&pipeline->changed);
    }
    pthread_mutex_unlock(&pipeline->lock);
    parsed_row_free(&row);
    encoded_row_free(&encoded);
    return NULL;
}

/* ---- the calling thread: in ---- */

static bool next_row(struct pipeline *pipeline, struct raw_row *row)
{
    const struct prepare_job *job = pipeline->job;
    const struct row_split *split = &job->split;
    while (pipeline->source < job->list->n) {
        if (!source_reader_next(job->reader[pipeline->source], row)) {
            pipeline->source++;
            continue;
        }
        uint64_t number = (uint64_t)pipeline->row_number++;
        bool kept_back =
            split->kept_back > 0 && permutation_at(&split->permutation, number) < (uint64_t)split->kept_back;
        if (kept_back == split->want_kept_back) return true;
    }
    return false;
}

/* False: no rows are left. */
static bool fill_chunk(struct pipeline *pipeline)
{
    struct chunk *chunk = &pipeline->chunk[pipeline->filled % pipeline->ring];
    size_t bytes = 0;
    chunk->n = 0;
    chunk->done = false;
    while (chunk->n < CHUNK_ROWS && bytes < CHUNK_BYTES && next_row(pipeline, &chunk->raw[chunk->n])) {
        bytes += chunk->raw[chunk->n].length;
        chunk->source[chunk->n++] = pipeline->source;
    }
    if (chunk->n == 0) return false;
    pthread_mutex_lock(&pipeline->lock);
    pipeline->filled++;
    pthread_cond_broadcast(&pipeline->changed);
    pthread_mutex_unlock(&pipeline->lock);
    return true;
}

/* ---- the calling thread: out ---- */

static enum status write_problem(struct pipeline *pipeline, const char *file, const struct row_place *place,
                                 const char *detail)
{
    const struct prepare_job *job = pipeline->job;
    if (!pipeline->problems && !(pipeline->problems = fopen(job->problems_file, "we")))
        return FAIL(LORAD_CANNOT_CREATE, "cannot create %s: %s", job->problems_file, strerror(errno));
    const char *problem = row_problem_name(place->problem);
    struct strbuf line = STRBUF_EMPTY;
    strbuf_puts(&line, "{\"file\": ");
    js_write_string(&line, file, strlen(file));
    strbuf_printf(&line, ", \"line\": %lld, \"problem\": \"%s\", \"detail\": ", (long long)place->line,
                  problem);
    js_write_string(&line, detail, strlen(detail));
    strbuf_puts(&line, "}\n");
    enum status status = strbuf_status(&line);
    if (status == LORAD_OK && fwrite(line.data, 1, line.length, pipeline->problems) != line.length)
        status = FAIL(LORAD_IO, "cannot write %s: %s", job->problems_file, strerror(errno));
    strbuf_free(&line);
    return status;
}

static enum status note_problem(struct pipeline *pipeline, const struct chunk *chunk, int32_t i)
{
    const struct prepare_job *job = pipeline->job;
    const struct row_result *result = &chunk->result[i];
    struct prepare_report *report = job->report;
    const struct source_file *file = &job->list->file[chunk->source[i]];
    const char *name = file->name, *detail = chunk->details.data + result->detail;
    struct row_place place = {.problem = result->problem, .source = file->source, .line = chunk->raw[i].line};
    size_t length = strlen(name);
    if (length < sizeof place.file)
        memcpy(place.file, name, length);
    else {
        /* Not in the middle of a character. */
        const char *tail = name + length - (sizeof place.file - 4);
        while ((*tail & 0xC0) == 0x80) tail++;
        snprintf(place.file, sizeof place.file, "...%s", tail);
    }
    int64_t count = report->problem_count[place.problem]++;
    if (count < PREPARE_PLACES) report->place[place.problem][count] = place;
    if (place.problem == ROW_TOO_LONG && job->options->excess == EXCESS_RAISE)
        return FAIL(LORAD_DATA, "%s:%lld: %s, and excess_length_strategy is raise", name,
                    (long long)place.line, detail);
    return write_problem(pipeline, file->path, &place, detail);
}

static enum status consume_chunk(struct pipeline *pipeline, const struct chunk *chunk)
{
    struct prepare_report *report = pipeline->job->report;
    if (chunk->status != LORAD_OK) return FAIL(chunk->status, "%s", chunk->message);
    for (int32_t i = 0; i < chunk->n; i++) {
        const struct row_result *result = &chunk->result[i];
        report->rows_read++;
        if (result->problem != ROW_PROBLEMS) TRY(note_problem(pipeline, chunk, i));
        if (result->n_tokens == 0) {
            report->rows_dropped++;
            continue;
        }
        const uint8_t *supervised = chunk->supervised + result->first_token;
        TRY(shard_writer_add(pipeline->job->writer, chunk->tokens + result->first_token, supervised,
                             result->n_tokens, chunk->source[i], chunk->raw[i].line));
        report->rows_kept++;
        report->tokens += result->n_tokens;
        for (int32_t t = 1; t < result->n_tokens; t++) report->supervised_tokens += supervised[t];
        if (result->n_tokens > report->longest_row) report->longest_row = result->n_tokens;
    }
    return LORAD_OK;
}

static enum status pump(struct pipeline *pipeline)
{
    bool more = true;
    for (;;) {
        while (more && pipeline->filled - pipeline->consumed < pipeline->ring) more = fill_chunk(pipeline);
        if (pipeline->filled == pipeline->consumed) return LORAD_OK;
        struct chunk *chunk = &pipeline->chunk[pipeline->consumed % pipeline->ring];
        pthread_mutex_lock(&pipeline->lock);
        while (!chunk->done) pthread_cond_wait(&pipeline->changed, &pipeline->lock);
        pthread_mutex_unlock(&pipeline->lock);
        TRY(consume_chunk(pipeline, chunk));
        pipeline->consumed++;
    }
}

/* ---- together ---- */

static int32_t usable_threads(int32_t wanted)
{
    cpu_set_t set;
    if (wanted <= 0) wanted = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return wanted < MOST_THREADS ? wanted : MOST_THREADS;
}

/* Signals are for the main thread. */
static enum status start_workers(struct pipeline *pipeline, int32_t wanted)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = 0;
    while (error == 0 && pipeline->n_threads < wanted) {
        error = pthread_create(&pipeline->thread[pipeline->n_threads], NULL, run_worker, pipeline);
        if (error == 0) pipeline->n_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pipeline->n_threads > 0
               ? LORAD_OK
               : FAIL(LORAD_NOMEM, "cannot start a tokenising thread: %s", strerror(error));
}

static void stop_workers(struct pipeline *pipeline)
{
    pthread_mutex_lock(&pipeline->lock);
    pipeline->stop = true;
    pthread_cond_broadcast(&pipeline->changed);
    pthread_mutex_unlock(&pipeline->lock);
    for (int32_t i = 0; i < pipeline->n_threads; i++) pthread_join(pipeline->thread[i], NULL);
}

enum status prepare_rows(struct prepare_job *job)
{
    int32_t threads = usable_threads(job->options->threads);
    struct pipeline *pipeline = memory_new(1, sizeof *pipeline);
    if (!pipeline) return LORAD_NOMEM;
    pipeline->job = job;
    pipeline->ring = 2 * threads + 2;
    pthread_mutex_init(&pipeline->lock, NULL);
    pthread_cond_init(&pipeline->changed, NULL);
    pipeline->chunk = memory_new((size_t)pipeline->ring, sizeof *pipeline->chunk);
    enum status status = pipeline->chunk ? start_workers(pipeline, threads) : LORAD_NOMEM;
    if (status == LORAD_OK) status = pump(pipeline);
    stop_workers(pipeline);
    if (pipeline->problems && fclose(pipeline->problems) != 0 && status == LORAD_OK)
        status = FAIL(LORAD_IO, "cannot write %s: %s", job->problems_file, strerror(errno));
    for (int64_t i = 0; pipeline->chunk && i < pipeline->ring; i++) {
        free(pipeline->chunk[i].tokens);
        free(pipeline->chunk[i].supervised);
        strbuf_free(&pipeline->chunk[i].details);
    }
    free(pipeline->chunk);
    pthread_cond_destroy(&pipeline->changed);
    pthread_mutex_destroy(&pipeline->lock);
    free(pipeline);
    return status;
}
