#include "trainer/teller.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "trainer/overrides.h"
#include "trainer/run_event.h"

enum { HOST_BYTES = 64, TELL_NS = 200 * 1000 * 1000 };

/* ---- where it runs ---- */

/* "node1 x 4, node2 x 4" for ranks in the order of their numbers. */
static void name_hosts(struct strbuf *out, const char (*names)[HOST_BYTES], int n)
{
    for (int i = 0, same; i < n; i += same) {
        for (same = 1; i + same < n && strcmp(names[i], names[i + same]) == 0;) same++;
        strbuf_printf(out, "%s%s", i ? ", " : "", names[i]);
        if (same > 1) strbuf_printf(out, " x %d", same);
    }
}

enum status teller_open(struct teller *teller, struct coord *coord, const struct session *session,
                        const struct run_state *state)
{
    char mine[HOST_BYTES] = "unknown";
    char(*names)[HOST_BYTES] = memory_new((size_t)session->ranks.world, sizeof *names);
    *teller = (struct teller){.coord = coord,
                              .options = session->options,
                              .session = session,
                              .state = state,
                              .seconds_left = -1,
                              .saved_step = -1,
                              .last = {.step = -1},
                              .eval = {.step = -1}};
    clock_utc(teller->since);
    if (gethostname(mine, sizeof mine - 1) != 0) snprintf(mine, sizeof mine, "unknown");
    enum status status = comm_agree(session->world, names ? LORAD_OK : LORAD_NOMEM);
    if (status == LORAD_OK) status = comm_host_all_gather(session->world, mine, names, sizeof mine);
    if (status == LORAD_OK)
        name_hosts(&teller->hosts, (const char(*)[HOST_BYTES])names, session->ranks.world);
    free(names);
    return status;
}

void teller_close(struct teller *teller)
{
    strbuf_free(&teller->hosts);
    strbuf_free(&teller->text);
}

/* ---- the status ---- */

static void add_text(struct strbuf *out, const char *key, const char *value)
{
    strbuf_printf(out, "\"%s\":", key);
    js_write_string(out, value, strlen(value));
    strbuf_putc(out, ',');
}

static void add_int(struct strbuf *out, const char *key, int64_t value)
{
    strbuf_printf(out, "\"%s\":%lld,", key, (long long)value);
}

static void add_real(struct strbuf *out, const char *key, double value)
{
    strbuf_printf(out, "\"%s\":", key);
    js_write_double(out, value);
    strbuf_putc(out, ',');
}

static void add_where(struct strbuf *out, const struct teller *teller)
{
    const struct session *session = teller->session;
    const char *name = teller->options->run_name;
    if (name) add_text(out, "run", name);
    add_text(out, "output_dir", teller->options->output_dir);
    add_text(out, "hosts", strbuf_text(&teller->hosts));
    add_int(out, "pid", (int64_t)getpid());
    add_int(out, "ranks", session->ranks.world);
    add_int(out, "tensor_parallel_size", session->part.tp);
    add_int(out, "data_parallel_size", session->part.dp);
    add_text(out, "device", device_describe(session->device));
    add_text(out, "since", teller->since);
    add_int(out, "start", coord_epoch(teller->coord));
}

static void add_progress(struct strbuf *out, const struct teller *teller)
{
    const struct run_state *state = teller->state;
    const struct step_record *last = &teller->last;
    add_int(out, "step", state->step);
    add_int(out, "total_steps", state->total_steps);
    add_real(out, "epoch", state->epoch);
    if (run_stages(teller->options) > 0 && teller->options->n_stages > 0) {
        struct stage_options stage = run_stage(teller->options, state->stage.number);
        add_text(out, "stage", stage.name);
        add_int(out, "stage_number", state->stage.number + 1);
        add_int(out, "stages", teller->options->n_stages);
    }
    if (last->step >= 0) {
        add_real(out, "loss", last->loss);
        add_real(out, "learning_rate", last->learning_rate);
        add_real(out, "grad_norm", last->grad_norm);
        add_real(out, "tokens_per_second", teller->rate);
    }
    if (teller->seconds_left >= 0) add_real(out, "seconds_left", teller->seconds_left);
    if (teller->eval.step >= 0) {
        add_int(out, "eval_step", teller->eval.step);
        add_real(out, "eval_loss", teller->eval.loss);
    }
    add_int(out, "total_tokens", state->tokens);
    add_int(out, "skipped_steps", state->skipped_steps);
}

static void add_saves(struct strbuf *out, const struct teller *teller)
{
    if (teller->saved_step >= 0) {
        add_int(out, "checkpoint_step", teller->saved_step);
        if (teller->saved_time > 0) add_real(out, "checkpoint_time", teller->saved_time);
    }
    add_int(out, "failed_saves", teller->failed_saves);
}

static void add_straggler(struct strbuf *out, const struct teller *teller)
{
    struct strbuf words = STRBUF_EMPTY;
    if (straggler_text(teller->straggler, &words) > 0) add_text(out, "straggler", strbuf_text(&words));
    strbuf_free(&words);
}

static void publish(struct teller *teller)
{
    struct strbuf *text = &teller->text;
    char now[21];
    strbuf_clear(text);
    strbuf_puts(text, "{\"version\":1,");
    add_text(text, "phase", teller->phase);
    add_where(text, teller);
    add_progress(text, teller);
    add_saves(text, teller);
    add_straggler(text, teller);
    strbuf_puts(text, "\"overrides\":");
    overrides_write(text, teller->state);
    clock_utc(now);
    strbuf_printf(text, ",\"time\":\"%s\"}", now);
    if (!text->failed) coord_publish_status(teller->coord, strbuf_text(text));
    teller->told_ns = clock_monotonic_ns();
}

void teller_refresh(struct teller *teller)
{
    if (teller->coord) publish(teller);
}

void teller_phase(struct teller *teller, const char *phase)
{
    if (!teller->coord || strcmp(teller->phase, phase) == 0) return;
    snprintf(teller->phase, sizeof teller->phase, "%s", phase);
    coord_heartbeat(teller->coord, teller->state->step, phase);
    publish(teller);
}

void teller_step(struct teller *teller, const struct step_record *record, double seconds_left)
{
    if (!teller->coord) return;
    double rate = record->step_seconds > 0 ? (double)record->tokens / record->step_seconds : 0;
    bool first = teller->last.step < 0;
    teller->rate = first ? rate : teller->rate + 0.1 * (rate - teller->rate);
    teller->last = *record;
    teller->seconds_left = seconds_left;
    bool training = strcmp(teller->phase, "training") == 0;
    if (!training)
        teller_phase(teller, "training");
    else
        coord_heartbeat(teller->coord, record->step, "training");
    if (training && clock_monotonic_ns() - teller->told_ns >= TELL_NS) publish(teller);
    if (record->skipped)
        teller_event(teller, "skipped", "loss %g, gradient norm %g", record->loss, record->grad_norm);
}

void teller_eval(struct teller *teller, const struct eval_record *record)
{
    if (!teller->coord) return;
    teller->eval = *record;
    teller_event(teller, "evaluation", "eval_loss %.4f, token accuracy %.2f %%%s", record->loss,
                 100 * record->token_accuracy, record->best ? ", best so far" : "");
}

void teller_saves(struct teller *teller, int64_t saved_step, int64_t failures)
{
    if (!teller->coord) return;
    bool news = saved_step != teller->saved_step || failures != teller->failed_saves;
    if (saved_step > teller->saved_step) teller->saved_time = clock_unix_seconds();
    teller->saved_step = saved_step;
    teller->failed_saves = failures;
    if (news) publish(teller);
}

/* ---- events ---- */

void teller_event(struct teller *teller, const char *event, const char *format, ...)
{
    if (!teller->coord) return;
    char words[1024];
    struct strbuf line = STRBUF_EMPTY;
    va_list args;
    va_start(args, format);
    vsnprintf(words, sizeof words, format, args);
    va_end(args);
    run_event_begin(&line, event, teller->state->step);
    run_event_end(&line, "%s", words);
    run_event_tell(&line, teller->coord);
}
