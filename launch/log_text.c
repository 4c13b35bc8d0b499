#include "launch/log_text.h"

static double real(const struct json *line, const char *key)
{
    return js_real(js_get(line, key), 0);
}

static void metrics_text(struct strbuf *out, const struct json *line)
{
    const char *stage = js_string(js_get(line, "stage"), NULL);
    strbuf_printf(out, "step %lld  ", (long long)js_int(js_get(line, "step"), 0));
    if (stage) strbuf_put_shown(out, stage);
    if (stage) strbuf_puts(out, "  ");
    if (js_get(line, "eval_loss")) {
        strbuf_printf(out, "eval loss %.4f  token accuracy %.2f%%  %lld tokens in %.1f s%s",
                      real(line, "eval_loss"), 100 * real(line, "eval_token_accuracy"),
                      (long long)js_int(js_get(line, "eval_tokens"), 0), real(line, "eval_seconds"),
                      js_bool(js_get(line, "best"), false) ? "  best so far" : "");
        return;
    }
    strbuf_printf(out, "epoch %.2f  loss %.4f  lr %.3e  norm %.3g  %.0f tok/s%s", real(line, "epoch"),
                  real(line, "loss"), real(line, "learning_rate"), real(line, "grad_norm"),
                  real(line, "tokens_per_second"),
                  js_bool(js_get(line, "skipped"), false) ? "  skipped" : "");
}

static void event_text(struct strbuf *out, const struct json *line)
{
    const char *time = js_string(js_get(line, "time"), NULL), *event = js_string(js_get(line, "event"), NULL),
               *text = js_string(js_get(line, "text"), NULL);
    strbuf_put_shown(out, time ? time : "");
    strbuf_puts(out, "  ");
    if (js_get(line, "step")) strbuf_printf(out, "step %lld  ", (long long)js_int(js_get(line, "step"), 0));
    strbuf_put_shown(out, event ? event : "");
    if (text && *text) strbuf_puts(out, ": ");
    strbuf_put_shown(out, text ? text : "");
}

void log_line_text(struct strbuf *out, const struct json *line)
{
    if (js_get(line, "event"))
        event_text(out, line);
    else
        metrics_text(out, line);
}
