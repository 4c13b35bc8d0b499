#include "trainer/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"

void run_identity_make(struct run_identity *out, const struct session *session, const struct dataset *train)
{
    const struct run_options *o = session->options;
    *out = (struct run_identity){
        .model = session->model_hash,
        .tokenizer = tokenizer_hash(session->tokenizer),
        .dataset = dataset_fingerprint(train),
        .dataset_key = dataset_key(train),
        .lora_rank = session->lora->rank,
        .lora_alpha = session->lora->alpha,
        .use_rslora = session->lora->use_rslora,
        .lora_parameters = session->lora->parameters,
        .cutoff_len = o->cutoff_len,
        .micro_batch_size = o->per_device_train_batch_size,
        .packing = o->packing,
        .data_seed = o->data_seed,
        .seed = o->seed,
    };
    snprintf(out->template_name, sizeof out->template_name, "%s", chat_template_name(session->chat));
    snprintf(out->precision, sizeof out->precision, "%s", dtype_name(session_dtype(o)));
}

static void write_hash(struct strbuf *out, const char *key, struct hash128 value)
{
    char text[33];
    hash128_hex(value, text);
    strbuf_printf(out, "\"%s\":\"%s\",", key, text);
}

static void write_real(struct strbuf *out, const char *key, double value)
{
    strbuf_printf(out, "\"%s\":", key);
    js_write_double(out, value);
    strbuf_putc(out, ',');
}

static void write_identity(struct strbuf *out, const struct run_identity *identity)
{
    strbuf_puts(out, "\"identity\":{");
    write_hash(out, "model", identity->model);
    write_hash(out, "tokenizer", identity->tokenizer);
    write_hash(out, "dataset", identity->dataset);
    write_real(out, "lora_alpha", identity->lora_alpha);
    strbuf_printf(
        out,
        "\"template\":\"%s\",\"lora_rank\":%d,\"use_rslora\":%s,\"lora_parameters\":%lld,\"cutoff_len\":%d,"
        "\"per_device_train_batch_size\":%d,\"packing\":%s,\"data_seed\":\"%llu\",\"seed\":\"%llu\","
        "\"precision\":\"%"
        "s\"}",
        identity->template_name, identity->lora_rank, identity->use_rslora ? "true" : "false",
        (long long)identity->lora_parameters, identity->cutoff_len, identity->micro_batch_size,
        identity->packing ? "true" : "false", (unsigned long long)identity->data_seed,
        (unsigned long long)identity->seed, identity->precision);
}

static void write_layout(struct strbuf *out, const struct session *session)
{
    const char *describe = device_describe(session->device);
    strbuf_printf(out, "\"layout\":{\"tensor_parallel_size\":%d,\"data_parallel_size\":%d,\"device\":",
                  session->part.tp, session->part.dp);
    js_write_string(out, describe, strlen(describe));
    char config[33];
    hash128_hex(session->options->config_hash, config);
    strbuf_printf(out, ",\"config\":\"%s\"}", config);
}

void run_state_write(struct strbuf *out, const struct run_state *state, const struct run_identity *identity,
                     const struct session *session)
{
    strbuf_printf(out,
                  "{\"step\":%lld,\"applied_steps\":%lld,\"total_steps\":%lld,"
                  "\"cursor\":{\"epoch\":%lld,\"window\":%lld,\"pack\":%lld},\"global_batch_size\":%lld,"
                  "\"tokens\":%lld,\"supervised_tokens\":%lld,\"skipped_in_row\":%d,\"skipped_steps\":%lld,"
                  "\"best_step\":%lld,\"evaluations_without_gain\":%d,\"metrics_bytes\":%lld,",
                  (long long)state->step, (long long)state->applied_steps, (long long)state->total_steps,
                  (long long)state->cursor.epoch, (long long)state->cursor.window,
                  (long long)state->cursor.pack, (long long)state->global_batch_size,
                  (long long)state->tokens, (long long)state->supervised_tokens, state->skipped_in_row,
                  (long long)state->skipped_steps, (long long)state->best_step,
                  state->evaluations_without_gain, (long long)state->metrics_bytes);
    write_real(out, "epoch", state->epoch);
    if (state->has_best) write_real(out, "best_metric", state->best_metric);
    write_identity(out, identity);
    strbuf_putc(out, ',');
    write_layout(out, session);
    strbuf_putc(out, '}');
}

enum status run_state_read(struct run_state *out, const struct json *json, const char *where)
{
    struct run_state state = {0};
    const struct json *cursor;
    int64_t skipped_in_row, without_gain;
    const struct {
        int64_t *to;
        const char *key;
    } numbers[] = {
        {&state.step, "step"},
        {&state.applied_steps, "applied_steps"},
        {&state.total_steps, "total_steps"},
        {&state.global_batch_size, "global_batch_size"},
        {&state.tokens, "tokens"},
        {&state.supervised_tokens, "supervised_tokens"},
        {&skipped_in_row, "skipped_in_row"},
        {&state.skipped_steps, "skipped_steps"},
        {&state.best_step, "best_step"},
        {&without_gain, "evaluations_without_gain"},
        {&state.metrics_bytes, "metrics_bytes"},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        TRY(js_need_int(numbers[i].to, json, numbers[i].key, where));
    TRY(js_need(&cursor, json, "cursor", JS_OBJECT, where));
    TRY(js_need_int(&state.cursor.epoch, cursor, "epoch", where));
    TRY(js_need_int(&state.cursor.window, cursor, "window", where));
    TRY(js_need_int(&state.cursor.pack, cursor, "pack", where));
    TRY(js_need_real(&state.epoch, json, "epoch", where));
    state.skipped_in_row = (int32_t)skipped_in_row;
    state.evaluations_without_gain = (int32_t)without_gain;
    state.has_best = js_get(json, "best_metric") != NULL;
    if (state.has_best) TRY(js_need_real(&state.best_metric, json, "best_metric", where));
    if (state.step < 0 || state.applied_steps < 0 || state.applied_steps > state.step ||
        state.global_batch_size < 1)
        return FAIL(
            LORAD_DATA, "%s: step %lld, applied_steps %lld and global_batch_size %lld do not fit together",
            where, (long long)state.step, (long long)state.applied_steps, (long long)state.global_batch_size);
    *out = state;
    return LORAD_OK;
}

static void text_of(struct strbuf *out, const struct json *value)
{
    const char *text = js_string(value, NULL);
    strbuf_clear(out);
    if (text)
        strbuf_puts(out, text);
    else if (value)
        js_write_value(out, value);
    else
        strbuf_puts(out, "nothing");
}

static bool is_hash(const char *text, struct hash128 hash)
{
    char hex[33];
    hash128_hex(hash, hex);
    return strcmp(text, hex) == 0;
}

enum status run_identity_check(const struct json *json, const struct run_identity *now, const char *where)
{
    const struct json *old;
    struct json *mine = NULL;
    struct strbuf text = STRBUF_EMPTY, differences = STRBUF_EMPTY, was = STRBUF_EMPTY, is = STRBUF_EMPTY;
    TRY(js_need(&old, json, "identity", JS_OBJECT, where));
    strbuf_putc(&text, '{');
    write_identity(&text, now);
    strbuf_putc(&text, '}');
    enum status status = js_parse(&mine, strbuf_text(&text), text.length, "identity");
    const struct json *wanted = js_get(mine, "identity");
    for (void *it = js_first(wanted); status == LORAD_OK && it; it = js_next(wanted, it)) {
        text_of(&is, js_member(it));
        text_of(&was, js_get(old, js_key(it)));
        if (strcmp(strbuf_text(&is), strbuf_text(&was)) == 0) continue;
        if (strcmp(js_key(it), "dataset") == 0 && is_hash(strbuf_text(&was), now->dataset_key)) continue;
        bool hash = strlen(strbuf_text(&is)) == 32;
        strbuf_printf(&differences, "%s%s", differences.length ? ", " : "", js_key(it));
        if (hash)
            strbuf_puts(&differences, " (its contents changed)");
        else
            strbuf_printf(&differences, " (was %s, is %s)", strbuf_text(&was), strbuf_text(&is));
    }
    if (status == LORAD_OK && differences.length)
        status = FAIL(
            LORAD_CONFIG,
            "%s belongs to another run: %s. Restore the old value to continue, or start fresh with another "
            "output_dir (adapter_name_or_path continues its adapter on new data)",
            where, strbuf_text(&differences));
    js_destroy(mine);
    strbuf_free(&text);
    strbuf_free(&differences);
    strbuf_free(&was);
    strbuf_free(&is);
    return status;
}

/* The line of `text` for the same key as `line`, whose name is `key` bytes long; NULL: none. */
static const char *find_key(const char *text, const char *line, size_t key)
{
    while (text && *text) {
        if (strncmp(text, line, key + 1) == 0) return text;
        text = strchr(text, '\n');
        if (text) text++;
    }
    return NULL;
}

/* What the value of a line is, with its blank, or " not set". */
static void add_value(struct strbuf *out, const char *line, size_t key)
{
    if (line)
        strbuf_add(out, line + key + 1, strcspn(line, "\n") - key - 1);
    else
        strbuf_puts(out, " not set");
}

/* For each key of `lines`: how `was` and `is` differ in it. `absent_only`: only keys that `is` lacks. */
static void compare_lines(struct strbuf *out, const char *lines, const char *was, const char *is,
                          bool absent_only)
{
    static const char how[] = "resume_from_checkpoint:"; /* how a run is continued is no difference */
    for (const char *line = lines; *line;) {
        size_t length = strcspn(line, "\n"), key = strcspn(line, ":\n");
        bool is_key =
            line[0] != ' ' && line[0] != '-' && key < length && strncmp(line, how, sizeof how - 1) != 0;
        const char *old = is_key ? find_key(was, line, key) : NULL,
                   *now = is_key ? find_key(is, line, key) : NULL;
        bool same = old && now && strcspn(old, "\n") == strcspn(now, "\n") &&
                    strncmp(old, now, strcspn(old, "\n")) == 0;
        if (is_key && !same && !(absent_only && now)) {
            if (out->length) strbuf_puts(out, ", ");
            strbuf_add(out, line, key);
            strbuf_puts(out, " (was");
            add_value(out, old, key);
            strbuf_puts(out, ", is");
            add_value(out, now, key);
            strbuf_putc(out, ')');
        }
        line += length + (line[length] == '\n');
    }
}

void run_config_differences(struct strbuf *out, const char *was, const char *is)
{
    compare_lines(out, is, was, is, false);
    compare_lines(out, was, was, is, true);
}

static void announce_config(const struct session *session, const char *dir)
{
    enum { MOST_BYTES = 1 << 20 };
    struct strbuf differences = STRBUF_EMPTY;
    char *path = file_join(dir, "lorad.yaml"), *was = NULL;
    size_t length;
    const char *is = session->options->config_text;
    if (is && path && file_exists(path) && file_read(&was, &length, path, MOST_BYTES) == LORAD_OK)
        run_config_differences(&differences, was, is);
    if (differences.length)
        log_info("the configuration differs from the checkpoint's: %s", strbuf_text(&differences));
    else if (!was)
        log_info("the configuration differs from the checkpoint's");
    strbuf_free(&differences);
    free(was);
    free(path);
}

void run_state_announce(const struct json *json, const struct session *session, const char *dir)
{
    const struct json *layout = js_get(json, "layout");
    int64_t tp = js_int(js_get(layout, "tensor_parallel_size"), 0),
            dp = js_int(js_get(layout, "data_parallel_size"), 0);
    const char *device = js_string(js_get(layout, "device"), NULL),
               *config = js_string(js_get(layout, "config"), NULL);
    char mine[33];
    hash128_hex(session->options->config_hash, mine);
    if (tp != session->part.tp || dp != session->part.dp)
        log_info("layout changed from TP %lld x DP %lld to TP %d x DP %d: the same rows in the same order, "
                 "losses equal up "
                 "to rounding",
                 (long long)tp, (long long)dp, session->part.tp, session->part.dp);
    if (device && strcmp(device, device_describe(session->device)) != 0)
        log_info("computed before on \"%s\": losses equal up to rounding", device);
    if (config && strcmp(config, mine) != 0) announce_config(session, dir);
}
