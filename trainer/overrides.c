#include "trainer/overrides.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"

const struct override_key override_keys[] = {
    {"learning_rate", false, 0, 10, true},      {"weight_decay", false, 0, 1, false},
    {"max_grad_norm", false, 0, 1e9, false},    {"save_steps", true, 1, 1e12, false},
    {"save_total_limit", true, 0, 1e6, false},  {"eval_steps", true, 1, 1e12, false},
    {"logging_steps", true, 1, 1e12, false},    {"early_stopping_patience", true, 0, 1e6, false},
    {"max_skipped_steps", true, 1, 1e6, false},
};
const int32_t override_n_keys = sizeof override_keys / sizeof *override_keys;

/* ---- where a value stands ---- */

enum kind { REAL, INT64, INT32 };

/* In struct run_options; the three of the optimizer stand in each stage's options too. */
static const struct field {
    const char *key;
    enum kind kind;
    size_t offset;
} fields[] = {
    {"weight_decay", REAL, offsetof(struct run_options, optimizer.weight_decay)},
    {"max_grad_norm", REAL, offsetof(struct run_options, optimizer.max_grad_norm)},
    {"save_steps", INT64, offsetof(struct run_options, save_steps)},
    {"save_total_limit", INT32, offsetof(struct run_options, save_total_limit)},
    {"eval_steps", INT64, offsetof(struct run_options, eval_steps)},
    {"logging_steps", INT64, offsetof(struct run_options, logging_steps)},
    {"early_stopping_patience", INT32, offsetof(struct run_options, early_stopping_patience)},
    {"max_skipped_steps", INT32, offsetof(struct run_options, max_skipped_steps)},
};

static bool is_of_stage(const char *key)
{
    return strcmp(key, "learning_rate") == 0;
}

static const struct field *field_of(const char *key)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (strcmp(fields[i].key, key) == 0) return &fields[i];
    return NULL;
}

static const struct override_key *key_of(const char *name)
{
    for (int32_t i = 0; i < override_n_keys; i++)
        if (strcmp(override_keys[i].name, name) == 0) return &override_keys[i];
    return NULL;
}

static double configured_value(const struct run_options *configured, const char *key, int32_t stage)
{
    if (is_of_stage(key)) return run_stage(configured, stage).optimizer.learning_rate;
    const struct field *field = field_of(key);
    const char *at = (const char *)configured + field->offset;
    switch (field->kind) {
    case REAL:
        return *(const double *)(const void *)at;
    case INT64:
        return (double)*(const int64_t *)(const void *)at;
    default:
        return (double)*(const int32_t *)(const void *)at;
    }
}

static void put_in_force(const struct override_place *place, const struct override_record *record)
{
    if (is_of_stage(record->key)) {
        place->stages->all[record->stage].options.optimizer.learning_rate = record->value;
        return;
    }
    const struct field *field = field_of(record->key);
    char *at = (char *)place->options + field->offset;
    switch (field->kind) {
    case REAL:
        *(double *)(void *)at = record->value;
        break;
    case INT64:
        *(int64_t *)(void *)at = (int64_t)record->value;
        break;
    default:
        *(int32_t *)(void *)at = (int32_t)record->value;
    }
    for (int32_t i = 0; i < place->stages->n; i++) {
        struct optimizer_options *optimizer = &place->stages->all[i].options.optimizer;
        optimizer->weight_decay = place->options->optimizer.weight_decay;
        optimizer->max_grad_norm = place->options->optimizer.max_grad_norm;
    }
}

/* ---- what may be set ---- */

static enum status unknown_key(const char *key)
{
    struct strbuf all = STRBUF_EMPTY;
    for (int32_t i = 0; i < override_n_keys; i++)
        strbuf_printf(&all, "%s%s", i ? ", " : "", override_keys[i].name);
    enum status status =
        FAIL(LORAD_CONFIG, "%s cannot be set on a running job; these can: %s", key, strbuf_text(&all));
    strbuf_free(&all);
    return status;
}

/* A plain decimal number within the key's limits. */
static enum status read_value(double *out, const struct override_key *key, const char *text)
{
    char *end;
    double value = strtod(text, &end);
    bool plain = *text && strspn(text, "+-.0123456789eE") == strlen(text) && !*end && isfinite(value);
    if (!plain) return FAIL(LORAD_CONFIG, "%s: \"%s\" is not a number", key->name, text);
    if (key->whole && value != floor(value))
        return FAIL(LORAD_CONFIG, "%s: %s is not a whole number", key->name, text);
    bool low = value < key->lowest || (key->above_lowest && value <= key->lowest);
    if (low || value > key->highest)
        return FAIL(LORAD_CONFIG, "%s: %s is not in %s%g, %g]", key->name, text,
                    key->above_lowest ? "(" : "[", key->lowest, key->highest);
    *out = value;
    return LORAD_OK;
}

static const char *strategy_word(enum when when)
{
    static const char *const words[] = {
        [WHEN_NO] = "no", [WHEN_STEPS] = "steps", [WHEN_EPOCH] = "epoch", [WHEN_BEST] = "best"};
    return words[when];
}

/* Rules between keys; those of the configuration hold, and nobody sets what is not looked at. */
static enum status check_effect(const struct override_record *record, const struct override_place *place,
                                int32_t stage)
{
    const struct run_options *o = place->options;
    const struct optimizer_options *optimizer = &place->stages->all[stage].options.optimizer;
    int64_t save = strcmp(record->key, "save_steps") == 0 ? (int64_t)record->value : o->save_steps,
            eval = strcmp(record->key, "eval_steps") == 0 ? (int64_t)record->value : o->eval_steps;
    if (strcmp(record->key, "save_steps") == 0 && o->save_strategy != WHEN_STEPS)
        return FAIL(LORAD_CONFIG, "save_steps has no effect: save_strategy is %s",
                    strategy_word(o->save_strategy));
    if (strcmp(record->key, "eval_steps") == 0 && o->eval_strategy != WHEN_STEPS)
        return FAIL(LORAD_CONFIG, "eval_steps has no effect: eval_strategy is %s",
                    strategy_word(o->eval_strategy));
    if (strcmp(record->key, "early_stopping_patience") == 0 && o->eval_strategy == WHEN_NO)
        return FAIL(LORAD_CONFIG, "early_stopping_patience has no effect: there are no evaluations");
    bool steps = save != o->save_steps || eval != o->eval_steps;
    if (steps && o->load_best_model_at_end && o->save_strategy == WHEN_STEPS && save % eval != 0)
        return FAIL(LORAD_CONFIG,
                    "load_best_model_at_end needs save_steps (%lld) to be a multiple of eval_steps (%lld)",
                    (long long)save, (long long)eval);
    bool low = optimizer->schedule == SCHEDULE_COSINE_WITH_MIN_LR && record->value < optimizer->min_lr;
    if (is_of_stage(record->key) && low)
        return FAIL(LORAD_CONFIG, "learning_rate: %g is below min_lr, %g", record->value, optimizer->min_lr);
    return LORAD_OK;
}

enum status override_read(struct override_record *out, const struct override_place *place,
                          const struct run_state *state, const char *key, const char *value)
{
    const struct override_key *known = key_of(key);
    struct override_record record = {.step = state->step, .stage = state->stage.number};
    if (!known) return unknown_key(key);
    snprintf(record.key, sizeof record.key, "%s", key);
    TRY(read_value(&record.value, known, value));
    TRY(check_effect(&record, place, record.stage));
    record.was = configured_value(place->configured, key, record.stage);
    clock_utc(record.time);
    *out = record;
    return LORAD_OK;
}

/* ---- the journal ---- */

static bool is_replaced(const struct run_state *state, int32_t i)
{
    const struct override_record *record = &state->overrides[i];
    if (is_of_stage(record->key) && record->stage < state->stage.number) return true;
    for (int32_t j = i + 1; j < state->n_overrides; j++) {
        const struct override_record *later = &state->overrides[j];
        bool same_place = !is_of_stage(record->key) || later->stage == record->stage;
        if (same_place && strcmp(later->key, record->key) == 0) return true;
    }
    return false;
}

static void drop(struct run_state *state, int32_t i)
{
    state->n_overrides--;
    memmove(&state->overrides[i], &state->overrides[i + 1],
            (size_t)(state->n_overrides - i) * sizeof *state->overrides);
}

void override_apply(const struct override_place *place, struct run_state *state,
                    const struct override_record *record)
{
    put_in_force(place, record);
    /* Full: the oldest that a later one has replaced goes; there are fewer keys than places. */
    for (int32_t i = 0; state->n_overrides == MOST_OVERRIDES && i < MOST_OVERRIDES; i++)
        if (is_replaced(state, i)) drop(state, i);
    if (state->n_overrides == MOST_OVERRIDES) drop(state, 0);
    state->overrides[state->n_overrides++] = *record;
}

static void say_dropped(const struct override_record *record, double now)
{
    struct strbuf text = STRBUF_EMPTY;
    override_text(&text, record);
    log_info("%s, set at step %lld, no longer holds: the configuration now says %g (it said %g)",
             strbuf_text(&text), (long long)record->step, now, record->was);
    strbuf_free(&text);
}

void overrides_replay(const struct override_place *place, struct run_state *state)
{
    for (int32_t i = 0; i < state->n_overrides;) {
        const struct override_record *record = &state->overrides[i];
        bool known = key_of(record->key) && record->stage < place->stages->n;
        double now = known ? configured_value(place->configured, record->key, record->stage) : 0;
        if (known && now == record->was) {
            put_in_force(place, record);
            i++;
            continue;
        }
        if (known) say_dropped(record, now);
        drop(state, i);
    }
    struct strbuf text = STRBUF_EMPTY;
    for (int32_t i = 0; i < state->n_overrides; i++) {
        if (is_replaced(state, i)) continue;
        if (text.length) strbuf_puts(&text, ", ");
        override_text(&text, &state->overrides[i]);
    }
    if (text.length) log_info("set while the run went on, and in force again: %s", strbuf_text(&text));
    strbuf_free(&text);
}

void override_text(struct strbuf *out, const struct override_record *record)
{
    strbuf_printf(out, "%s ", record->key);
    js_write_double(out, record->value);
}

void overrides_write(struct strbuf *out, const struct run_state *state)
{
    strbuf_putc(out, '[');
    for (int32_t i = 0; i < state->n_overrides; i++) {
        const struct override_record *record = &state->overrides[i];
        strbuf_printf(out, "%s{\"step\":%lld,\"stage\":%d,\"key\":\"%s\",\"value\":", i ? "," : "",
                      (long long)record->step, record->stage, record->key);
        js_write_double(out, record->value);
        strbuf_puts(out, ",\"was\":");
        js_write_double(out, record->was);
        strbuf_printf(out, ",\"time\":\"%s\"}", record->time);
    }
    strbuf_putc(out, ']');
}

static enum status parse_record(struct override_record *out, const struct json *json, const char *where)
{
    const char *key, *time;
    int64_t stage;
    TRY(js_need_int(&out->step, json, "step", where));
    TRY(js_need_int(&stage, json, "stage", where));
    TRY(js_need_string(&key, json, "key", where));
    TRY(js_need_string(&time, json, "time", where));
    TRY(js_need_real(&out->value, json, "value", where));
    TRY(js_need_real(&out->was, json, "was", where));
    const struct override_key *known = key_of(key);
    bool within = known && out->value >= known->lowest && out->value <= known->highest;
    bool dated = strlen(time) < sizeof out->time && strspn(time, "0123456789-:TZ") == strlen(time);
    if (!within || !dated || stage < 0 || stage >= MOST_STAGES || out->step < 0)
        return FAIL(LORAD_DATA,
                    "%s: overrides: \"%.40s\" set to %g at step %lld in stage %lld makes no sense", where,
                    key, out->value, (long long)out->step, (long long)stage);
    out->stage = (int32_t)stage;
    snprintf(out->key, sizeof out->key, "%s", key);
    snprintf(out->time, sizeof out->time, "%s", time);
    return LORAD_OK;
}

enum status overrides_parse(struct run_state *out, const struct json *list, const char *where)
{
    size_t n = js_length(list);
    if (n > MOST_OVERRIDES)
        return FAIL(LORAD_DATA, "%s: %zu overrides, more than %d", where, n, MOST_OVERRIDES);
    for (size_t i = 0; i < n; i++) TRY(parse_record(&out->overrides[i], js_at(list, i), where));
    out->n_overrides = (int32_t)n;
    return LORAD_OK;
}
