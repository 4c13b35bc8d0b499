/*
 * prepare_rows.c: raw rows through the threads and out again in order.
 *
 * The calling thread takes rows from the order and puts them, some hundred at a time, into a ring of chunks.
 * Threads take the chunks in turn and fill in tokens or problems. The calling thread takes finished chunks
 * out in the order in which it put them in, so what is written does not depend on the number of threads.
 * The rows of a chunk lie all over the sources: the machine is told of them as they go into the ring, so that
 * a slow disk reads for many at a time.
 *
 * Invariants:
 * (1) consumed <= taken <= filled <= consumed + ring. Chunk i (at i % ring) belongs to the calling thread
 *     before it is filled and once it is done, to one worker in between.
 * (2) `filled`, `taken` and `done` change under `lock`; `consumed` is the calling thread's.
 */
#include "dataloader/prepare.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/thread.h"

enum { CHUNK_ROWS = 256, CHUNK_BYTES = 1 << 20, MOST_THREADS = 64, RELEASE_ROWS = 4096 };

struct row_result {
    enum row_problem problem; /* ROW_PROBLEMS: none */
    size_t detail;            /* into chunk.details */
    size_t first_token;
    int32_t n_tokens; /* 0: dropped */
    size_t first_finding, n_findings;
    bool masked;
};

struct chunk {
    int32_t n;
    int32_t file[CHUNK_ROWS];
    int64_t number[CHUNK_ROWS]; /* raw rows */
    struct raw_row raw[CHUNK_ROWS];
    struct row_result result[CHUNK_ROWS];
    int32_t *tokens;
    float *weights;
    size_t n_tokens, token_capacity, weight_capacity;
    struct finding_list findings;
    struct row_signature *signature; /* [CHUNK_ROWS]; zero: dropped. NULL: not wanted */
    struct strbuf details;           /* strings with their NULs */
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
    int64_t since_release; /* rows written since the sources' memory was given back */
};

/* ---- workers ---- */

static enum status keep_tokens(struct chunk *chunk, struct row_result *result,
                               const struct encoded_row *encoded, int32_t n)
{
    void *block = chunk->tokens;
    TRY(memory_grow(&block, &chunk->token_capacity, chunk->n_tokens + (size_t)n, sizeof *chunk->tokens));
    chunk->tokens = block;
    block = chunk->weights;
    TRY(memory_grow(&block, &chunk->weight_capacity, chunk->n_tokens + (size_t)n, sizeof *chunk->weights));
    chunk->weights = block;
    memcpy(chunk->tokens + chunk->n_tokens, encoded->tokens.ids, (size_t)n * sizeof *chunk->tokens);
    memcpy(chunk->weights + chunk->n_tokens, encoded->weights, (size_t)n * sizeof *chunk->weights);
    result->first_token = chunk->n_tokens;
    result->n_tokens = n;
    chunk->n_tokens += (size_t)n;
    return LORAD_OK;
}

/* Whether a shard can hold the row. */
static bool few_weights(const float *weights, size_t n)
{
    float seen[SHARD_ROW_WEIGHTS], last = 0;
    int n_seen = 0;
    for (size_t i = 0; i < n; i++) {
        if (weights[i] == last) continue;
        last = weights[i];
        int at = 0;
        while (at < n_seen && seen[at] != last) at++;
        if (at < n_seen || last == 0 || last == 1) continue;
        if (n_seen == SHARD_ROW_WEIGHTS) return false;
        seen[n_seen++] = last;
    }
    return true;
}

static enum status encode_messages(const struct prepare_options *options, const struct parsed_row *row,
                                   struct encoded_row *encoded)
{
    if (row->is_text)
        return chat_template_encode_text(options->chat, row->messages[0].content, row->messages[0].length,
                                         encoded);
    return chat_template_encode(options->chat, row->messages, row->n, options->chat_options, encoded);
}

/* Turns parsed messages into tokens; sets row->problem where that fails or the row is too long. A text may be
 * longer: it is trained on in pieces. */
static enum status encode_row(const struct prepare_options *options, struct parsed_row *row,
                              struct encoded_row *encoded, int32_t *kept)
{
    *kept = 0;
    enum status status = encode_messages(options, row, encoded);
    if (status == LORAD_DATA) { /* something about this row that only the template knows */
        parsed_row_reject(row, ROW_ROLE_ORDER, "%s", status_message());
        status_clear();
        return LORAD_OK;
    }
    TRY(status);
    size_t n = encoded->tokens.length, most = row->is_text ? INT32_MAX : (size_t)options->cutoff_len;
    if (n > most) {
        bool cut = options->excess == EXCESS_TRUNCATE;
        parsed_row_reject(row, cut ? ROW_TRUNCATED : ROW_TOO_LONG, "%zu tokens, cutoff_len is %zu", n, most);
        if (!cut) return LORAD_OK;
        n = most;
    }
    bool target = false;
    for (size_t i = 1; i < n && !target; i++) target = encoded->weights[i] > 0;
    if (!target)
        parsed_row_reject(row, ROW_NO_LABEL, "no supervised token among %zu", n);
    else if (!few_weights(encoded->weights, n))
        parsed_row_reject(row, ROW_MANY_WEIGHTS, "more than %d different ones", SHARD_ROW_WEIGHTS);
    else
        *kept = (int32_t)n;
    return LORAD_OK;
}

/* What one thread uses again and again. Starts zeroed. */
struct worker {
    struct parsed_row row;
    struct encoded_row encoded;
    struct inspection inspection;
    struct signature_maker maker;
};

static void worker_free(struct worker *worker)
{
    parsed_row_free(&worker->row);
    encoded_row_free(&worker->encoded);
    inspection_free(&worker->inspection);
    signature_maker_free(&worker->maker);
}

/* Looks into the row; masks what it finds, or rejects the row. */
static enum status inspect_row(const struct inspect_options *options, struct worker *worker,
                               struct chunk *chunk, struct row_result *result)
{
    struct parsed_row *row = &worker->row;
    enum inspect_verdict verdict;
    TRY(row_inspect(options, &worker->inspection, row->messages, row->n, &chunk->findings, &verdict));
    result->n_findings = chunk->findings.n - result->first_finding;
    result->masked = verdict == INSPECT_MASKED;
    if (verdict != INSPECT_DROP) return LORAD_OK;
    struct strbuf text = STRBUF_EMPTY;
    finding_text(&text, chunk->findings.at + result->first_finding, result->n_findings, options->words);
    parsed_row_reject(row, ROW_PRIVATE, "%s", strbuf_text(&text));
    strbuf_free(&text);
    return LORAD_OK;
}

static enum status process_row(const struct prepare_job *job, struct chunk *chunk, int32_t i,
                               struct worker *worker)
{
    const struct prepare_options *o = job->options;
    struct row_result *result = &chunk->result[i];
    struct parsed_row *row = &worker->row;
    int32_t kept = 0;
    *result = (struct row_result){.problem = ROW_PROBLEMS, .first_finding = chunk->findings.n};
    TRY(source_reader_parse(job->reader[chunk->file[i]], &chunk->raw[i], row));
    if (row->problem == ROW_PROBLEMS && o->inspect) TRY(inspect_row(o->inspect, worker, chunk, result));
    if (row->problem == ROW_PROBLEMS) TRY(encode_row(o, row, &worker->encoded, &kept));
    if (row->problem != ROW_PROBLEMS) {
        result->problem = row->problem;
        result->detail = chunk->details.length;
        strbuf_add(&chunk->details, strbuf_text(&row->detail), row->detail.length + 1);
    }
    if (kept > 0) TRY(keep_tokens(chunk, result, &worker->encoded, kept));
    if (!chunk->signature) return LORAD_OK;
    chunk->signature[i] = (struct row_signature){0};
    return kept > 0 ? row_signature_make(&chunk->signature[i], &worker->maker, row->messages, row->n)
                    : LORAD_OK;
}

static enum status process_chunk(const struct prepare_job *job, struct chunk *chunk, struct worker *worker)
{
    chunk->n_tokens = 0;
    chunk->findings.n = 0;
    strbuf_clear(&chunk->details);
    for (int32_t i = 0; i < chunk->n; i++) TRY(process_row(job, chunk, i, worker));
    return strbuf_status(&chunk->details);
}

static void *run_worker(void *argument)
{
    struct pipeline *pipeline = argument;
    struct worker worker = {0};
    pthread_mutex_lock(&pipeline->lock);
    for (;;) {
        while (!pipeline->stop && pipeline->taken == pipeline->filled)
            pthread_cond_wait(&pipeline->changed, &pipeline->lock);
        if (pipeline->stop) break;
        struct chunk *chunk = &pipeline->chunk[pipeline->taken++ % pipeline->ring];
        pthread_mutex_unlock(&pipeline->lock);
        chunk->status = process_chunk(pipeline->job, chunk, &worker);
        if (chunk->status != LORAD_OK)
            snprintf(chunk->message, sizeof chunk->message, "%s", status_message());
        pthread_mutex_lock(&pipeline->lock);
        chunk->done = true;
        pthread_cond_broadcast(&pipeline->changed);
    }
    pthread_mutex_unlock(&pipeline->lock);
    worker_free(&worker);
    return NULL;
}

/* ---- the calling thread: in ---- */

/* False: no rows are left. */
static enum status fill_chunk(struct pipeline *pipeline, bool *filled)
{
    const struct prepare_job *job = pipeline->job;
    struct chunk *chunk = &pipeline->chunk[pipeline->filled % pipeline->ring];
    size_t bytes = 0;
    chunk->n = 0;
    chunk->done = false;
    while (chunk->n < CHUNK_ROWS && bytes < CHUNK_BYTES) {
        int64_t number = prepare_order_next(job->order);
        if (number < 0) break;
        struct raw_row *raw = &chunk->raw[chunk->n];
        int32_t file = (int32_t)job->index.entry[number].file;
        TRY(row_index_row(&job->index, number, job->reader, job->list->n, raw));
        source_reader_will_need(job->reader[file], raw);
        bytes += raw->length;
        chunk->number[chunk->n] = number;
        chunk->file[chunk->n++] = file;
    }
    *filled = chunk->n > 0;
    if (!*filled) return LORAD_OK;
    pthread_mutex_lock(&pipeline->lock);
    pipeline->filled++;
    pthread_cond_broadcast(&pipeline->changed);
    pthread_mutex_unlock(&pipeline->lock);
    return LORAD_OK;
}

/* ---- the calling thread: out ---- */

static enum status note_problem(struct prepare_job *job, const struct chunk *chunk, int32_t i)
{
    const struct row_result *result = &chunk->result[i];
    const struct source_file *file = &job->list->file[chunk->file[i]];
    const char *detail = chunk->details.data + result->detail;
    if (result->problem == ROW_TOO_LONG && job->options->excess == EXCESS_RAISE)
        return FAIL(LORAD_DATA, "%s:%lld: %s, and excess_length_strategy is raise", file->name,
                    (long long)chunk->raw[i].line, detail);
    prepare_detail_write(&job->details, chunk->number[i], file->path, chunk->raw[i].line,
                         row_problem_name(result->problem), detail);
    return strbuf_status(&job->details);
}

static enum status note_findings(struct prepare_job *job, const struct chunk *chunk, int32_t i)
{
    const struct row_result *result = &chunk->result[i];
    struct strbuf text = STRBUF_EMPTY;
    finding_text(&text, chunk->findings.at + result->first_finding, result->n_findings,
                 job->options->inspect->words);
    prepare_detail_write(&job->details, chunk->number[i], job->list->file[chunk->file[i]].path,
                         chunk->raw[i].line, result->masked ? "masked" : "found", strbuf_text(&text));
    enum status status = strbuf_status(&text);
    strbuf_free(&text);
    return status == LORAD_OK ? strbuf_status(&job->details) : status;
}

static enum status report_row(struct prepare_job *job, const struct chunk *chunk, int32_t i)
{
    const struct row_result *result = &chunk->result[i];
    const float *weights = chunk->weights + result->first_token;
    struct report_row row = {
        .place = {.row = chunk->number[i], .line = chunk->raw[i].line, .file = chunk->file[i]},
        .problem = result->problem,
        .n_tokens = result->n_tokens,
        .masked = result->masked,
        .n_findings = result->n_findings};
    if (row.n_findings > 0) row.findings = chunk->findings.at + result->first_finding;
    for (int32_t t = 1; t < row.n_tokens; t++) row.n_supervised += weights[t] > 0;
    return data_report_add(job->report, &row, job->options->inspect ? job->options->inspect->words : NULL);
}

static enum status write_row(struct prepare_job *job, const struct chunk *chunk, int32_t i)
{
    const struct row_result *result = &chunk->result[i];
    struct shard_entry entry = {.n = result->n_tokens,
                                .source = chunk->file[i],
                                .raw_row = chunk->number[i],
                                .line = chunk->raw[i].line,
                                .problem =
                                    result->problem == ROW_PROBLEMS ? 0 : 1 + (uint32_t)result->problem};
    if (entry.n > 0) {
        entry.tokens = chunk->tokens + result->first_token;
        entry.weights = chunk->weights + result->first_token;
    }
    if (!shard_writer_takes(job->writer, entry.weights, entry.n)) TRY(prepare_close_shard(job));
    if (result->problem != ROW_PROBLEMS) TRY(note_problem(job, chunk, i));
    if (result->n_findings > 0 && result->problem != ROW_PRIVATE) TRY(note_findings(job, chunk, i));
    if (chunk->signature) strbuf_add(&job->signatures, &chunk->signature[i], sizeof *chunk->signature);
    TRY(report_row(job, chunk, i));
    TRY(shard_writer_add(job->writer, &entry));
    atomic_fetch_add_explicit(&job->counters->rows_done, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&job->counters->tokens, entry.n, memory_order_relaxed);
    return shard_writer_full(job->writer) ? prepare_close_shard(job) : LORAD_OK;
}

static enum status consume_chunk(struct pipeline *pipeline, const struct chunk *chunk)
{
    struct prepare_job *job = pipeline->job;
    if (chunk->status != LORAD_OK) return FAIL(chunk->status, "%s", chunk->message);
    for (int32_t i = 0; i < chunk->n; i++) TRY(write_row(job, chunk, i));
    pipeline->since_release += chunk->n;
    if (pipeline->since_release >= RELEASE_ROWS) {
        for (int32_t i = 0; i < job->list->n; i++) source_reader_release(job->reader[i]);
        pipeline->since_release = 0;
    }
    return LORAD_OK;
}

static enum status pump(struct pipeline *pipeline)
{
    bool more = true;
    for (;;) {
        if (atomic_load(pipeline->job->stop)) return FAIL(LORAD_REQUEUE, "preparing was stopped");
        while (more && pipeline->filled - pipeline->consumed < pipeline->ring)
            TRY(fill_chunk(pipeline, &more));
        if (pipeline->filled == pipeline->consumed) break;
        struct chunk *chunk = &pipeline->chunk[pipeline->consumed % pipeline->ring];
        pthread_mutex_lock(&pipeline->lock);
        while (!chunk->done) pthread_cond_wait(&pipeline->changed, &pipeline->lock);
        pthread_mutex_unlock(&pipeline->lock);
        TRY(consume_chunk(pipeline, chunk));
        pipeline->consumed++;
    }
    return shard_writer_rows(pipeline->job->writer) > 0 ? prepare_close_shard(pipeline->job) : LORAD_OK;
}

/* ---- together ---- */

static int32_t usable_threads(int32_t wanted)
{
    cpu_set_t set;
    if (wanted <= 0) wanted = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return wanted < MOST_THREADS ? wanted : MOST_THREADS;
}

static enum status start_workers(struct pipeline *pipeline, int32_t wanted)
{
    int error = 0;
    while (error == 0 && pipeline->n_threads < wanted) {
        error = thread_start(&pipeline->thread[pipeline->n_threads], run_worker, pipeline);
        if (error == 0) pipeline->n_threads++;
    }
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
    enum status status = pipeline->chunk ? LORAD_OK : LORAD_NOMEM;
    for (int64_t i = 0; status == LORAD_OK && job->options->signatures && i < pipeline->ring; i++)
        if (!(pipeline->chunk[i].signature = memory_new(CHUNK_ROWS, sizeof(struct row_signature))))
            status = LORAD_NOMEM;
    if (status == LORAD_OK) status = start_workers(pipeline, threads);
    if (status == LORAD_OK) status = pump(pipeline);
    stop_workers(pipeline);
    for (int64_t i = 0; pipeline->chunk && i < pipeline->ring; i++) {
        free(pipeline->chunk[i].tokens);
        free(pipeline->chunk[i].weights);
        free(pipeline->chunk[i].signature);
        finding_list_free(&pipeline->chunk[i].findings);
        strbuf_free(&pipeline->chunk[i].details);
    }
    free(pipeline->chunk);
    pthread_cond_destroy(&pipeline->changed);
    pthread_mutex_destroy(&pipeline->lock);
    free(pipeline);
    return status;
}
