/*
 * 1. metrics.jsonl holds whole lines only: a line that could not be written in full is cut off again.
 * 2. `offset` is the length of the file, so a checkpoint may store it at any time.
 * 3. Each start writes to a file of its own under that name: an earlier start that was taken over but still
 * runs writes to one that nobody sees.
 */
#include "trainer/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/strbuf.h"
#include "comm/coord.h"
#include "trainer/event_file.h"

struct metrics {
    int fd;
    int64_t offset;
    bool warned;
    struct strbuf line;
    struct event_file *events; /* NULL: no TensorBoard */
    struct coord *coord;
};

/* ---- the file ---- */

static enum status cannot(enum status status, const char *what, const char *path)
{
    return FAIL(status, "cannot %s %s: %s", what, path, strerror(errno));
}

/* A new run does not write over the log of an old one. */
static enum status set_aside(const char *folder, const char *path)
{
    int64_t bytes = 0;
    if (!file_exists(path)) return LORAD_OK;
    TRY(file_stat(&bytes, NULL, path));
    if (bytes == 0) return unlink(path) == 0 ? LORAD_OK : cannot(LORAD_CANNOT_CREATE, "remove", path);
    for (int n = 1; n < 100000; n++) {
        char name[64];
        snprintf(name, sizeof name, "metrics.%d.jsonl", n);
        char *other = file_join(folder, name);
        if (!other) return LORAD_NOMEM;
        bool taken = file_exists(other);
        int code = taken ? 0 : rename(path, other);
        if (!taken && code == 0) log_info("kept the metrics of an earlier run as %s", other);
        free(other);
        if (taken) continue;
        return code == 0 ? LORAD_OK : cannot(LORAD_CANNOT_CREATE, "rename", path);
    }
    return FAIL(LORAD_CANNOT_CREATE, "too many old metrics files in %s", folder);
}

static enum status copy_bytes(int to, const char *to_path, int from, const char *from_path, int64_t bytes)
{
    char block[65536];
    while (bytes > 0) {
        ssize_t n = read(from, block, bytes < (int64_t)sizeof block ? (size_t)bytes : sizeof block);
        if (n < 0) return cannot(LORAD_IO, "read", from_path);
        if (n == 0) return FAIL(LORAD_IO, "%s became shorter while it was read", from_path);
        for (ssize_t done = 0, m; done < n; done += m)
            if ((m = write(to, block + done, (size_t)(n - done))) <= 0)
                return cannot(LORAD_IO, "write", to_path);
        bytes -= n;
    }
    return LORAD_OK;
}

/* The first `bytes` of the file at `path` become a new one in its place. */
static enum status copy_lines(const char *path, int64_t bytes)
{
    char copy[4096];
    snprintf(copy, sizeof copy, "%s.tmp", path);
    int from = open(path, O_RDONLY | O_CLOEXEC);
    if (from < 0) return cannot(LORAD_CANNOT_CREATE, "open", path);
    int to = open(copy, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    enum status status =
        to < 0 ? cannot(LORAD_CANNOT_CREATE, "create", copy) : copy_bytes(to, copy, from, path, bytes);
    close(from);
    if (to >= 0 && close(to) != 0 && status == LORAD_OK) status = cannot(LORAD_IO, "write", copy);
    if (status == LORAD_OK && rename(copy, path) != 0) status = cannot(LORAD_CANNOT_CREATE, "rename", copy);
    return status;
}

static enum status open_lines(struct metrics *metrics, const char *folder, int64_t resume_bytes)
{
    int64_t bytes = 0;
    char *path = file_join(folder, "metrics.jsonl");
    if (!path) return LORAD_NOMEM;
    enum status status = resume_bytes == 0 ? set_aside(folder, path) : LORAD_OK;
    if (status == LORAD_OK && file_exists(path)) status = file_stat(&bytes, NULL, path);
    if (status == LORAD_OK && bytes < resume_bytes)
        log_warn("%s ends at byte %lld, before the checkpoint's %lld: some lines are missing", path,
                 (long long)bytes, (long long)resume_bytes);
    metrics->offset = bytes < resume_bytes ? bytes : resume_bytes;
    if (status == LORAD_OK && metrics->offset > 0) status = copy_lines(path, metrics->offset);
    if (status == LORAD_OK) {
        metrics->fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (metrics->offset == 0 ? O_TRUNC : 0), 0666);
        if (metrics->fd < 0) status = cannot(LORAD_CANNOT_CREATE, "open", path);
    }
    free(path);
    return status;
}

static void warn_once(struct metrics *metrics, int error)
{
    if (metrics->warned) return;
    metrics->warned = true;
    log_warn("cannot write metrics.jsonl: %s; training goes on without some of its lines", strerror(error));
}

static void write_line(struct metrics *metrics)
{
    strbuf_putc(&metrics->line, '}');
    if (!metrics->line.failed) coord_tell(metrics->coord, COORD_METRICS, strbuf_text(&metrics->line));
    strbuf_putc(&metrics->line, '\n');
    if (metrics->line.failed) {
        warn_once(metrics, ENOMEM);
        return;
    }
    size_t done = 0;
    while (done < metrics->line.length) {
        ssize_t n = pwrite(metrics->fd, metrics->line.data + done, metrics->line.length - done,
                           (off_t)(metrics->offset + (int64_t)done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            int error = n < 0 ? errno : EIO;
            if (ftruncate(metrics->fd, metrics->offset) != 0) error = errno;
            warn_once(metrics, error);
            return;
        }
        done += (size_t)n;
    }
    metrics->offset += (int64_t)done;
    metrics->warned = false;
}

enum status metrics_open(struct metrics **out, const struct metrics_options *options)
{
    struct metrics *metrics = memory_new(1, sizeof *metrics);
    char *folder = file_join(options->output_dir, "logs");
    enum status status = metrics && folder ? LORAD_OK : LORAD_NOMEM;
    if (metrics) *metrics = (struct metrics){.fd = -1, .coord = options->coord};
    if (status == LORAD_OK) status = file_make_dirs(folder);
    if (status == LORAD_OK) status = open_lines(metrics, folder, options->resume_bytes);
    if (status == LORAD_OK && options->tensorboard)
        status = event_file_open(&metrics->events, folder, options->resume_bytes ? options->resume_step : -1);
    free(folder);
    if (status != LORAD_OK) {
        metrics_close(metrics);
        return status;
    }
    *out = metrics;
    return LORAD_OK;
}

void metrics_close(struct metrics *metrics)
{
    if (!metrics) return;
    if (metrics->fd >= 0) close(metrics->fd);
    event_file_close(metrics->events);
    strbuf_free(&metrics->line);
    free(metrics);
}

int64_t metrics_offset(const struct metrics *metrics)
{
    return metrics ? metrics->offset : 0;
}

/* ---- the records ---- */

static void add_key(struct strbuf *line, const char *key)
{
    strbuf_printf(line, "%s\"%s\": ", line->length ? ", " : "{", key);
}

static void add_int(struct strbuf *line, const char *key, int64_t value)
{
    add_key(line, key);
    strbuf_printf(line, "%lld", (long long)value);
}

static void add_real(struct strbuf *line, const char *key, double value)
{
    add_key(line, key);
    js_write_double(line, value);
}

static void add_bool(struct strbuf *line, const char *key, bool value)
{
    add_key(line, key);
    strbuf_puts(line, value ? "true" : "false");
}

static void add_stage(struct strbuf *line, const char *stage)
{
    if (!stage || !*stage) return;
    add_key(line, "stage");
    js_write_string(line, stage, strlen(stage));
}

static double share(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

void metrics_log_step(struct metrics *metrics, const struct step_record *record)
{
    if (!metrics) return;
    struct strbuf *line = &metrics->line;
    double rate = share((double)record->tokens, record->step_seconds);
    strbuf_clear(line);
    add_int(line, "step", record->step);
    add_stage(line, record->stage);
    add_real(line, "epoch", record->epoch);
    add_real(line, "loss", record->loss);
    add_real(line, "grad_norm", record->grad_norm);
    add_real(line, "learning_rate", record->learning_rate);
    add_int(line, "supervised_tokens", record->supervised_tokens);
    add_int(line, "tokens", record->tokens);
    add_int(line, "total_tokens", record->total_tokens);
    add_real(line, "tokens_per_second", rate);
    add_real(line, "step_seconds", record->step_seconds);
    add_real(line, "loader_wait_seconds", record->loader_wait_seconds);
    add_real(line, "save_stall_seconds", record->save_stall_seconds);
    add_real(line, "packing_efficiency", share((double)record->tokens, (double)record->slots));
    add_int(line, "skipped_steps", record->skipped_steps);
    if (record->skipped) add_bool(line, "skipped", true);
    if (record->loss_scale > 0) add_real(line, "loss_scale", record->loss_scale);
    if (record->overflowed) add_bool(line, "overflow", true);
    write_line(metrics);

    const struct event_value values[] = {
        {"train/loss", record->loss},
        {"train/grad_norm", record->grad_norm},
        {"train/learning_rate", record->learning_rate},
        {"train/epoch", record->epoch},
        {"train/tokens_per_second", rate},
        {"train/supervised_tokens", (double)record->supervised_tokens},
        {"train/skipped_steps", (double)record->skipped_steps},
        {"train/loss_scale", record->loss_scale}, /* the last: left out where there is none */
    };
    int n = sizeof values / sizeof *values;
    event_file_add(metrics->events, record->step, values, record->loss_scale > 0 ? n : n - 1);
}

void metrics_log_eval(struct metrics *metrics, const struct eval_record *record)
{
    if (!metrics) return;
    struct strbuf *line = &metrics->line;
    strbuf_clear(line);
    add_int(line, "step", record->step);
    add_stage(line, record->stage);
    add_real(line, "epoch", record->epoch);
    add_real(line, "eval_loss", record->loss);
    add_real(line, "eval_perplexity", exp(record->loss));
    add_real(line, "eval_token_accuracy", record->token_accuracy);
    add_int(line, "eval_tokens", record->tokens);
    add_real(line, "eval_seconds", record->seconds);
    add_bool(line, "best", record->best);
    write_line(metrics);

    const struct event_value values[] = {
        {"eval/loss", record->loss},
        {"eval/perplexity", exp(record->loss)},
        {"eval/token_accuracy", record->token_accuracy},
    };
    event_file_add(metrics->events, record->step, values, (int)(sizeof values / sizeof *values));
}
