#include "trainer/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "trainer/overrides.h"
#include "trainer/stage_identity.h"

enum { STATE_VERSION = 3 };

static const char *const end_words[STAGE_ENDS] = {[STAGE_GOES_ON] = "goes_on",
                                                  [STAGE_LENGTH] = "length",
                                                  [STAGE_EVAL_LOSS] = "eval_loss_below",
                                                  [STAGE_PLATEAU] = "plateau",
                                                  [STAGE_EARLY_STOPPING] = "early_stopping"};

void run_identity_make(struct run_identity *out, const struct session *session)
{
    const struct run_options *o = session->options;
    *out = (struct run_identity){
        .model = session->model_hash,
        .tokenizer = tokenizer_hash(session->tokenizer),
        .lora_rank = session->lora->rank,
        .lora_alpha = session->lora->alpha,
        .use_rslora = session->lora->use_rslora,
        .lora_parameters = session->lora->parameters,
        .cutoff_len = o->cutoff_len,
        .micro_batch_size = session->micro_batch_size,
        .packing = o->packing,
        .data_seed = o->data_seed,
        .seed = o->seed,
    };
    snprintf(out->template_name, sizeof out->template_name, "%s", chat_template_name(session->chat));
    snprintf(out->precision, sizeof out->precision, "%s", dtype_name(session->model_options.dtype));
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
    strbuf_puts(out, "\"stages\":[");
    for (int32_t i = 0; i < identity->n_stages; i++) stage_identity_write(out, &identity->stages[i], i);
    strbuf_puts(out, "],");
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
    strbuf_printf(out,
                  "\"layout\":{\"tensor_parallel_size\":%d,\"data_parallel_size\":%d,\"sequence_parallel\":%s,"
                  "\"device\":",
                  session->part.tp, session->part.dp, session->options->sequence_parallel ? "true" : "false");
    js_write_string(out, describe, strlen(describe));
    char config[33];
    hash128_hex(session->options->config_hash, config);
    strbuf_printf(out, ",\"collectives\":\"%s\",\"config\":\"%s\"}", comm_describe(session->world), config);
}

static void write_record(struct strbuf *out, const struct stage_record *record)
{
    strbuf_puts(out, "{\"name\":");
    js_write_string(out, record->name, strlen(record->name));
    if (record->has_loss) {
        strbuf_puts(out, ",\"eval_loss\":");
        js_write_double(out, record->eval_loss);
    }
    strbuf_printf(out, ",\"end\":\"%s\",\"first_step\":%lld,\"last_step\":%lld}", end_words[record->end],
                  (long long)record->first_step, (long long)record->last_step);
}

static void write_append(struct strbuf *out, const struct append_record *append)
{
    strbuf_printf(out, "{\"epoch\":%lld,\"old_rows\":[", (long long)append->epoch);
    for (int32_t g = 0; g < append->n_groups; g++)
        strbuf_printf(out, "%s%lld", g ? "," : "", (long long)append->old_rows[g]);
    strbuf_puts(out, "]}");
}

static void write_stage(struct strbuf *out, const struct stage_state *stage)
{
    strbuf_printf(out,
                  "\"stage\":{\"number\":%d,\"first_step\":%lld,\"evaluations_on_plateau\":%d,"
                  "\"spent\":%s,",
                  stage->number, (long long)stage->first_step, stage->evaluations_on_plateau,
                  stage->spent ? "true" : "false");
    if (stage->has_loss) write_real(out, "last_loss", stage->last_loss);
    if (stage->has_level) write_real(out, "level", stage->level);
    strbuf_puts(out, "\"appends\":[");
    for (int32_t i = 0; i < stage->n_appends; i++) {
        if (i) strbuf_putc(out, ',');
        write_append(out, &stage->appends[i]);
    }
    strbuf_puts(out, "],\"done\":[");
    for (int32_t i = 0; i < stage->number; i++) {
        if (i) strbuf_putc(out, ',');
        write_record(out, &stage->done[i]);
    }
    strbuf_puts(out, "]},");
}

static void write_scales(struct strbuf *out, const struct fixed_scales *scales)
{
    strbuf_puts(out, "\"fixed_exponents\":[");
    for (int32_t i = 0; i < scales->n; i++) {
        if (i) strbuf_putc(out, ',');
        if (scales->exponent[i] == FIXED_UNKNOWN)
            strbuf_puts(out, "null");
        else
            strbuf_printf(out, "%d", scales->exponent[i]);
    }
    strbuf_puts(out, "],");
}

static void write_loss_scale(struct strbuf *out, const struct loss_scale *scale)
{
    if (!loss_scale_in_use(scale)) return;
    strbuf_puts(out, "\"loss_scale\":{");
    write_real(out, "value", scale->value);
    strbuf_printf(out, "\"good_steps\":%lld},", (long long)scale->good_steps);
}

void run_state_write(struct strbuf *out, const struct run_state *state, const struct run_identity *identity,
                     const struct session *session)
{
    strbuf_printf(
        out,
        "{\"version\":%d,\"step\":%lld,\"applied_steps\":%lld,\"total_steps\":%lld,"
        "\"cursor\":{\"epoch\":%lld,\"window\":%lld,\"pack\":%lld},\"global_batch_size\":%lld,"
        "\"tokens\":%lld,\"supervised_tokens\":%lld,\"skipped_in_row\":%d,\"skipped_steps\":%lld,"
        "\"best_step\":%lld,\"evaluations_without_gain\":%d,\"metrics_bytes\":%lld,",
        STATE_VERSION, (long long)state->step, (long long)state->applied_steps, (long long)state->total_steps,
        (long long)state->cursor.epoch, (long long)state->cursor.window, (long long)state->cursor.pack,
        (long long)state->global_batch_size, (long long)state->tokens, (long long)state->supervised_tokens,
        state->skipped_in_row, (long long)state->skipped_steps, (long long)state->best_step,
        state->evaluations_without_gain, (long long)state->metrics_bytes);
    write_real(out, "epoch", state->epoch);
    if (state->has_best) write_real(out, "best_metric", state->best_metric);
    strbuf_printf(out, "\"evaluation_owed\":%s,", state->evaluation_owed ? "true" : "false");
    write_scales(out, &state->scales);
    write_loss_scale(out, &state->loss_scale);
    write_stage(out, &state->stage);
    strbuf_puts(out, "\"overrides\":");
    overrides_write(out, state);
    strbuf_putc(out, ',');
    write_identity(out, identity);
    strbuf_putc(out, ',');
    write_layout(out, session);
    strbuf_putc(out, '}');
}

static enum status read_record(struct stage_record *out, const struct json *json, const char *where)
{
    const char *name, *end;
    TRY(js_need_string(&name, json, "name", where));
    TRY(js_need_string(&end, json, "end", where));
    TRY(js_need_int(&out->first_step, json, "first_step", where));
    TRY(js_need_int(&out->last_step, json, "last_step", where));
    snprintf(out->name, sizeof out->name, "%s", name);
    out->has_loss = js_get(json, "eval_loss") != NULL;
    if (out->has_loss) TRY(js_need_real(&out->eval_loss, json, "eval_loss", where));
    for (int i = STAGE_LENGTH; i < STAGE_ENDS; i++)
        if (strcmp(end_words[i], end) == 0) out->end = (enum stage_end)i;
    if (out->end == STAGE_GOES_ON) return FAIL(LORAD_DATA, "%s: a stage cannot end by \"%.40s\"", where, end);
    return LORAD_OK;
}

static enum status read_appends(struct stage_state *out, const struct json *stage, const char *where)
{
    const struct json *list, *rows;
    TRY(js_need(&list, stage, "appends", JS_ARRAY, where));
    if (js_length(list) > MOST_APPENDS)
        return FAIL(LORAD_DATA, "%s: rows were added %zu times, more than %d", where, js_length(list),
                    MOST_APPENDS);
    out->n_appends = (int32_t)js_length(list);
    for (int32_t i = 0; i < out->n_appends; i++) {
        struct append_record *append = &out->appends[i];
        TRY(js_need_int(&append->epoch, js_at(list, (size_t)i), "epoch", where));
        TRY(js_need(&rows, js_at(list, (size_t)i), "old_rows", JS_ARRAY, where));
        if (js_length(rows) > MOST_APPEND_GROUPS || append->epoch < 0)
            return FAIL(LORAD_DATA, "%s: what was added to %zu datasets in epoch %lld makes no sense", where,
                        js_length(rows), (long long)append->epoch);
        append->n_groups = (int32_t)js_length(rows);
        for (int32_t g = 0; g < append->n_groups; g++)
            append->old_rows[g] = js_int(js_at(rows, (size_t)g), 0);
    }
    return LORAD_OK;
}

/* An optional number. */
static enum status read_real(bool *has, double *out, const struct json *json, const char *key,
                             const char *where)
{
    *has = js_get(json, key) != NULL;
    return *has ? js_need_real(out, json, key, where) : LORAD_OK;
}

static enum status read_stage(struct stage_state *out, const struct json *json, const char *where)
{
    const struct json *stage, *done;
    int64_t number, on_plateau;
    TRY(js_need(&stage, json, "stage", JS_OBJECT, where));
    TRY(js_need_int(&number, stage, "number", where));
    TRY(js_need_int(&out->first_step, stage, "first_step", where));
    TRY(js_need_int(&on_plateau, stage, "evaluations_on_plateau", where));
    TRY(js_need(&done, stage, "done", JS_ARRAY, where));
    TRY(read_appends(out, stage, where));
    TRY(read_real(&out->has_loss, &out->last_loss, stage, "last_loss", where));
    TRY(read_real(&out->has_level, &out->level, stage, "level", where));
    if (number < 0 || number >= MOST_STAGES || js_length(done) != (size_t)number || on_plateau < 0 ||
        on_plateau > INT32_MAX || out->first_step < 0)
        return FAIL(LORAD_DATA, "%s: stage %lld after %zu others at step %lld makes no sense", where,
                    (long long)number, js_length(done), (long long)out->first_step);
    out->spent = js_bool(js_get(stage, "spent"), false);
    out->number = (int32_t)number;
    out->evaluations_on_plateau = (int32_t)on_plateau;
    for (int32_t i = 0; i < out->number; i++) TRY(read_record(&out->done[i], js_at(done, (size_t)i), where));
    return LORAD_OK;
}

static enum status read_scales(struct fixed_scales *out, const struct json *json, const char *where)
{
    const struct json *list;
    TRY(js_need(&list, json, "fixed_exponents", JS_ARRAY, where));
    if (js_length(list) > MOST_FIXED_SCALES)
        return FAIL(LORAD_DATA, "%s: %zu fixed_exponents, more than %d", where, js_length(list),
                    MOST_FIXED_SCALES);
    out->n = (int32_t)js_length(list);
    for (int32_t i = 0; i < out->n; i++) {
        int64_t exponent = js_int(js_at(list, (size_t)i), FIXED_UNKNOWN);
        if (exponent != FIXED_UNKNOWN && (exponent < -149 || exponent > 128))
            return FAIL(LORAD_DATA, "%s: fixed_exponents has %lld, which no f32 has", where,
                        (long long)exponent);
        out->exponent[i] = (int16_t)exponent;
    }
    return LORAD_OK;
}

/* Checkpoints without one are of other precisions. */
static enum status read_loss_scale(struct loss_scale *out, const struct json *json, const char *where)
{
    const struct json *scale = js_get(json, "loss_scale");
    if (!scale) return LORAD_OK;
    TRY(js_need_real(&out->value, scale, "value", where));
    TRY(js_need_int(&out->good_steps, scale, "good_steps", where));
    if (loss_scale_is_valid(out)) return LORAD_OK;
    return FAIL(LORAD_DATA, "%s: loss_scale %g after %lld good steps makes no sense", where, out->value,
                (long long)out->good_steps);
}

enum status run_state_read(struct run_state *out, const struct json *json, const char *where)
{
    struct run_state state = {0};
    const struct json *cursor, *overrides;
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
    state.evaluation_owed = js_bool(js_get(json, "evaluation_owed"), false);
    TRY(read_scales(&state.scales, json, where));
    TRY(read_loss_scale(&state.loss_scale, json, where));
    TRY(js_need(&overrides, json, "overrides", JS_ARRAY, where));
    TRY(overrides_parse(&state, overrides, where));
    TRY(read_stage(&state.stage, json, where));
    state.stage.n_groups =
        stage_identity_rows(state.stage.group_rows, MOST_APPEND_GROUPS,
                            js_at(js_get(js_get(json, "identity"), "stages"), (size_t)state.stage.number));
    state.skipped_in_row = (int32_t)skipped_in_row;
    state.evaluations_without_gain = (int32_t)without_gain;
    state.has_best = js_get(json, "best_metric") != NULL;
    if (state.has_best) TRY(js_need_real(&state.best_metric, json, "best_metric", where));
    if (state.step < 0 || state.applied_steps < 0 || state.applied_steps > state.step ||
        state.stage.first_step > state.step || state.global_batch_size < 1)
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

/* Stages of a checkpoint that must be what they were; MOST_STAGES when its number makes no sense. */
static int32_t stages_begun(const struct json *json)
{
    int64_t number = js_int(js_get(js_get(json, "stage"), "number"), -1);
    return number >= 0 && number < MOST_STAGES ? (int32_t)number + 1 : MOST_STAGES;
}

enum status run_identity_check(const struct json *json, const struct run_identity *now, const char *where)
{
    const struct json *old;
    struct json *mine = NULL;
    struct strbuf text = STRBUF_EMPTY, differences = STRBUF_EMPTY, was = STRBUF_EMPTY, is = STRBUF_EMPTY;
    int64_t version = js_int(js_get(json, "version"), 0);
    if (version != STATE_VERSION)
        return FAIL(LORAD_CONFIG,
                    "%s was written by another version of lorad (state %lld; this one reads %d): continue it "
                    "with that version, or start fresh with another output_dir",
                    where, (long long)version, STATE_VERSION);
    TRY(js_need(&old, json, "identity", JS_OBJECT, where));
    strbuf_putc(&text, '{');
    write_identity(&text, now);
    strbuf_putc(&text, '}');
    enum status status = js_parse(&mine, strbuf_text(&text), text.length, "identity");
    const struct json *wanted = js_get(mine, "identity");
    int32_t begun = stages_begun(json);
    if (status == LORAD_OK)
        stage_identity_compare(&differences, js_get(old, "stages"), now->stages, now->n_stages,
                               (struct stage_span){0, begun, begun - 1});
    for (void *it = js_first(wanted); status == LORAD_OK && it; it = js_next(wanted, it)) {
        if (strcmp(js_key(it), "stages") == 0) continue;
        text_of(&is, js_member(it));
        text_of(&was, js_get(old, js_key(it)));
        if (strcmp(strbuf_text(&is), strbuf_text(&was)) == 0) continue;
        bool hash = strlen(strbuf_text(&is)) == 32;
        if (hash)
            difference_add(&differences, "%s (its contents changed)", js_key(it));
        else
            difference_add(&differences, "%s (was %s, is %s)", js_key(it), strbuf_text(&was),
                           strbuf_text(&is));
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

/* Stages behind the one in progress may be others now. */
static void announce_stages(const struct json *json, const struct run_identity *identity)
{
    struct strbuf differences = STRBUF_EMPTY;
    int32_t begun = stages_begun(json);
    stage_identity_compare(&differences, js_get(js_get(json, "identity"), "stages"), identity->stages,
                           identity->n_stages, (struct stage_span){begun, MOST_STAGES, -1});
    if (differences.length)
        log_info("stages that have not begun differ from the checkpoint's: %s", strbuf_text(&differences));
    strbuf_free(&differences);
}

/* Sums end elsewhere. MPI adds in one order; NCCL in one of its own, which for two addends is no other. */
static void announce_rows(const struct json *layout, const struct session *session)
{
    bool is = session->options->sequence_parallel,
         was = js_bool(js_get(layout, "sequence_parallel"), is),
         rounds = session->part.tp > 2 && strcmp(comm_kind(session->tp), "nccl") == 0;
    if (was != is)
        log_info("sequence_parallel was %s before and is %s now: %s", was ? "on" : "off", is ? "on" : "off",
                 rounds ? "losses equal up to rounding" : "the same bits");
}

void run_state_announce(const struct json *json, const struct run_identity *identity,
                        const struct session *session, const char *dir)
{
    const struct json *layout = js_get(json, "layout");
    int64_t tp = js_int(js_get(layout, "tensor_parallel_size"), 0),
            dp = js_int(js_get(layout, "data_parallel_size"), 0);
    const char *device = js_string(js_get(layout, "device"), NULL),
               *collectives = js_string(js_get(layout, "collectives"), NULL),
               *config = js_string(js_get(layout, "config"), NULL);
    char mine[33];
    hash128_hex(session->options->config_hash, mine);
    bool elastic = session->adapter->sums && js_length(js_get(json, "fixed_exponents")) > 0;
    bool same_layout = tp == session->part.tp && dp == session->part.dp;
    if (!same_layout)
        log_info(
            "layout changed from TP %lld x DP %lld to TP %d x DP %d: the same rows in the same order, %s",
            (long long)tp, (long long)dp, session->part.tp, session->part.dp,
            elastic && tp == session->part.tp ? "and the same bits" : "losses equal up to rounding");
    if (device && strcmp(device, device_describe(session->device)) != 0)
        log_info("computed before on \"%s\": losses equal up to rounding", device);
    else if (same_layout && collectives && strcmp(collectives, comm_describe(session->world)) != 0)
        log_info("collectives were by %s before and are by %s now: losses equal up to rounding", collectives,
                 comm_describe(session->world));
    if (tp == session->part.tp && tp > 1) announce_rows(layout, session);
    if (config && strcmp(config, mine) != 0) announce_config(session, dir);
    announce_stages(json, identity);
}
