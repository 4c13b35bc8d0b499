#include "launch/status_text.h"

#include <stdio.h>
#include <string.h>

void age_text(char text[32], double seconds)
{
    long long s = seconds > 0 ? (long long)(seconds + 0.5) : 0;
    if (s < 60)
        snprintf(text, 32, "%lld s", s);
    else if (s < 3600)
        snprintf(text, 32, "%lld min %lld s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(text, 32, "%lld h %lld min", s / 3600, s / 60 % 60);
    else
        snprintf(text, 32, "%lld d %lld h", s / 86400, s / 3600 % 24);
}

static const char *text_of(const struct json *run, const char *key)
{
    const char *text = js_string(js_get(run, key), NULL);
    return text ? text : "";
}

static void put(struct strbuf *out, const struct json *run, const char *key)
{
    strbuf_put_shown(out, text_of(run, key));
}

static double real_of(const struct json *run, const char *key)
{
    return js_real(js_get(run, key), 0);
}

static long long int_of(const struct json *run, const char *key)
{
    return (long long)js_int(js_get(run, key), 0);
}

static void line(struct strbuf *out, const char *title)
{
    strbuf_printf(out, "\n  %-11s", title);
}

static void write_headline(struct strbuf *out, const struct json *run)
{
    long long step = int_of(run, "step"), total = int_of(run, "total_steps");
    const char *name = *text_of(run, "run") ? text_of(run, "run") : text_of(run, "output_dir");
    strbuf_put_shown(out, *name ? name : "the run");
    strbuf_puts(out, ": ");
    put(out, run, "phase");
    if (total > 0)
        strbuf_printf(out, ", step %lld of %lld (%.1f %%), epoch %.2f", step, total,
                      100.0 * (double)step / (double)total, real_of(run, "epoch"));
    if (!js_get(run, "stage")) return;
    strbuf_puts(out, ", stage ");
    put(out, run, "stage");
    strbuf_printf(out, " (%lld of %lld)", int_of(run, "stage_number"), int_of(run, "stages"));
}

static void write_numbers(struct strbuf *out, const struct json *run)
{
    if (!js_get(run, "loss")) return;
    char left[32];
    line(out, "loss");
    strbuf_printf(out, "%.4f   lr %.3e   norm %.3g   %.0f tok/s", real_of(run, "loss"),
                  real_of(run, "learning_rate"), real_of(run, "grad_norm"),
                  real_of(run, "tokens_per_second"));
    if (js_get(run, "seconds_left")) {
        age_text(left, real_of(run, "seconds_left"));
        strbuf_printf(out, "   left %s", left);
    }
    if (js_get(run, "eval_loss")) {
        line(out, "evaluation");
        strbuf_printf(out, "%.4f at step %lld", real_of(run, "eval_loss"), int_of(run, "eval_step"));
    }
}

static void write_saves(struct strbuf *out, const struct json *run, double now)
{
    long long failed = int_of(run, "failed_saves"), skipped = int_of(run, "skipped_steps");
    char age[32];
    line(out, "checkpoint");
    if (js_get(run, "checkpoint_step"))
        strbuf_printf(out, "step %lld", int_of(run, "checkpoint_step"));
    else
        strbuf_puts(out, "none yet");
    if (js_get(run, "checkpoint_time")) {
        age_text(age, now - real_of(run, "checkpoint_time"));
        strbuf_printf(out, ", %s ago", age);
    }
    if (failed > 0) strbuf_printf(out, ", %lld saves FAILED", failed);
    if (skipped > 0) {
        line(out, "skipped");
        strbuf_printf(out, "%lld steps, not finite", skipped);
    }
}

static void write_place(struct strbuf *out, const struct json *run)
{
    long long start = int_of(run, "start");
    line(out, "ranks");
    strbuf_printf(out, "%lld = TP %lld x DP %lld on ", int_of(run, "ranks"),
                  int_of(run, "tensor_parallel_size"), int_of(run, "data_parallel_size"));
    put(out, run, "hosts");
    line(out, "device");
    put(out, run, "device");
    line(out, "since");
    put(out, run, "since");
    strbuf_printf(out, ", process %lld", int_of(run, "pid"));
    if (start > 1) strbuf_printf(out, ", start %lld in this folder", start);
    line(out, "output_dir");
    put(out, run, "output_dir");
}

static void write_overrides(struct strbuf *out, const struct json *run)
{
    const struct json *list = js_get(run, "overrides");
    for (size_t i = 0; i < js_length(list); i++) {
        const struct json *one = js_at(list, i);
        line(out, i ? "" : "set");
        put(out, one, "key");
        strbuf_printf(out, " %g since step %lld (configured: %g)", real_of(one, "value"), int_of(one, "step"),
                      real_of(one, "was"));
    }
}

static void put_after(struct strbuf *out, const char *before, const struct json *run, const char *key)
{
    if (!*text_of(run, key)) return;
    strbuf_puts(out, before);
    put(out, run, key);
}

/* What else there is to say of Redis: up or down, since when, why. */
static void write_redis(struct strbuf *out, const struct json *run)
{
    const struct json *redis = js_get(run, "redis");
    if (!redis) return;
    line(out, "redis");
    put(out, redis, "state");
    put_after(out, ", ", redis, "server");
    put_after(out, ", since ", redis, "since");
    put_after(out, ": ", redis, "reason");
    if (int_of(redis, "dropped") > 0) strbuf_printf(out, ", %lld notes dropped", int_of(redis, "dropped"));
}

void status_text(struct strbuf *out, const struct json *run, double now)
{
    write_headline(out, run);
    write_numbers(out, run);
    if (js_get(run, "output_dir")) { /* before that there is nothing but a phase */
        write_saves(out, run, now);
        write_place(out, run);
    }
    if (*text_of(run, "straggler")) {
        line(out, "straggler");
        put(out, run, "straggler");
    }
    write_overrides(out, run);
    write_redis(out, run);
    strbuf_putc(out, '\n');
}

/* ---- a run that does not answer ---- */

static const char *sight_word(const struct control_sight *sight)
{
    return sight->ended ? "ended" : sight->alive ? "alive, but does not answer here" : "killed";
}

void sight_text(struct strbuf *out, const struct control_sight *sight, const char *output_dir,
                int64_t committed_step)
{
    char age[32];
    age_text(age, sight->age_seconds);
    strbuf_printf(out, "%s: not running, %s at step %lld", *sight->run ? sight->run : output_dir,
                  sight_word(sight), (long long)sight->step);
    if (sight->alive) {
        strbuf_clear(out);
        strbuf_printf(out, "%s: on host %s (process %lld), step %lld; ask there, or through Redis",
                      *sight->run ? sight->run : output_dir, sight->host, (long long)sight->pid,
                      (long long)sight->step);
    }
    if (sight->exit_code >= 0) strbuf_printf(out, ", exit code %d", sight->exit_code);
    line(out, "heartbeat");
    strbuf_printf(out, "%s ago, on host %s", age, sight->host);
    if (!sight->ended) strbuf_printf(out, ", phase %s", sight->phase);
    line(out, "checkpoint");
    if (committed_step >= 0)
        strbuf_printf(out, "step %lld; resume_from_checkpoint: auto continues there",
                      (long long)committed_step);
    else
        strbuf_puts(out, "none");
    line(out, "output_dir");
    strbuf_printf(out, "%s\n", output_dir);
}

void sight_json(struct strbuf *out, const struct control_sight *sight, const char *output_dir,
                int64_t committed_step)
{
    const char *phase = sight->ended ? "ended" : sight->alive ? "elsewhere" : "killed";
    strbuf_printf(out, "{\"phase\":\"%s\",\"run\":", phase);
    js_write_string(out, sight->run, strlen(sight->run));
    strbuf_puts(out, ",\"output_dir\":");
    js_write_string(out, output_dir, strlen(output_dir));
    strbuf_puts(out, ",\"hosts\":");
    js_write_string(out, sight->host, strlen(sight->host));
    strbuf_puts(out, ",\"since\":");
    js_write_string(out, sight->since, strlen(sight->since));
    strbuf_printf(out, ",\"step\":%lld,\"pid\":%lld,\"start\":%lld", (long long)sight->step,
                  (long long)sight->pid, (long long)sight->epoch);
    if (sight->exit_code >= 0) strbuf_printf(out, ",\"exit\":%d", sight->exit_code);
    if (committed_step >= 0) strbuf_printf(out, ",\"checkpoint_step\":%lld", (long long)committed_step);
    strbuf_puts(out, ",\"heartbeat\":");
    js_write_string(out, sight->time, strlen(sight->time));
    strbuf_puts(out, "}");
}

void runs_text(struct strbuf *out, const struct control_run *runs, size_t n)
{
    size_t widest = 4;
    for (size_t i = 0; i < n; i++)
        if (strlen(runs[i].name) > widest) widest = strlen(runs[i].name);
    if (n == 0) strbuf_puts(out, "Redis knows no run\n");
    if (n > 0)
        strbuf_printf(out, "%-*s  %-12s %10s  %-21s %s\n", (int)widest, "name", "state", "step", "last sign",
                      "where");
    for (size_t i = 0; i < n; i++) {
        bool ended = strcmp(runs[i].state, "ended") == 0;
        strbuf_printf(out, "%-*s  %-12s %10lld  %-21s %s:%s\n", (int)widest, runs[i].name,
                      runs[i].alive || ended ? runs[i].state : "lost", (long long)runs[i].step, runs[i].time,
                      runs[i].host, runs[i].output_dir);
    }
}

static void add_word(struct strbuf *out, const char *key, const char *value)
{
    strbuf_printf(out, ",\"%s\":", key);
    js_write_string(out, value, strlen(value));
}

void runs_json(struct strbuf *out, const struct control_run *runs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        strbuf_printf(out, "{\"alive\":%s,\"step\":%lld,\"epoch\":%lld,\"pid\":%lld",
                      runs[i].alive ? "true" : "false", (long long)runs[i].step, (long long)runs[i].epoch,
                      (long long)runs[i].pid);
        add_word(out, "name", runs[i].name);
        add_word(out, "state", runs[i].state);
        add_word(out, "host", runs[i].host);
        add_word(out, "output_dir", runs[i].output_dir);
        add_word(out, "since", runs[i].since);
        add_word(out, "time", runs[i].time);
        strbuf_puts(out, "}\n");
    }
}
