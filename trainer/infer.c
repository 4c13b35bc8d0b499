/* infer.c: the two things besides training: held-out loss, and a greedy answer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "trainer/data.h"
#include "trainer/evaluate.h"
#include "trainer/stage.h"

static void print_rows(const struct dataset *rows, const struct evaluation *result, bool json)
{
    for (int64_t i = 0; i < dataset_raw_rows(rows); i++) {
        struct dataset_row row = dataset_row(rows, i);
        if (row.n_tokens == 0) continue;
        const char *source = dataset_source_name(rows, row.source);
        if (!json) {
            printf("%s:%lld  loss %.6f  tokens %d\n", source, (long long)row.line, result->row_loss[i],
                   row.n_supervised);
            continue;
        }
        struct strbuf text = STRBUF_EMPTY;
        strbuf_puts(&text, "{\"file\":");
        js_write_string(&text, source, strlen(source));
        strbuf_printf(&text, ",\"line\":%lld,\"tokens\":%d,\"loss\":", (long long)row.line, row.n_supervised);
        js_write_double(&text, result->row_loss[i]);
        strbuf_puts(&text, "}\n");
        fputs(strbuf_text(&text), stdout);
        strbuf_free(&text);
    }
}

static void print_result(const struct dataset *rows, const struct evaluation *result,
                         const struct eval_options *eval)
{
    if (eval->per_row) print_rows(rows, result, eval->json);
    if (!eval->json) {
        printf("loss %.6f  perplexity %.4f  token accuracy %.4f  over %lld supervised tokens of %lld rows\n",
               result->loss, exp(result->loss), result->accuracy, (long long)result->tokens,
               (long long)dataset_kept_rows(rows));
        return;
    }
    struct strbuf text = STRBUF_EMPTY;
    strbuf_puts(&text, "{\"eval_loss\":");
    js_write_double(&text, result->loss);
    strbuf_puts(&text, ",\"eval_perplexity\":");
    js_write_double(&text, exp(result->loss));
    strbuf_puts(&text, ",\"eval_token_accuracy\":");
    js_write_double(&text, result->accuracy);
    strbuf_printf(&text, ",\"eval_tokens\":%lld,\"rows\":%lld}\n", (long long)result->tokens,
                  (long long)dataset_kept_rows(rows));
    fputs(strbuf_text(&text), stdout);
    strbuf_free(&text);
}

struct evaluating {
    struct session session;
    struct dataset *rows;
};

static enum status evaluate_all(struct evaluating *e, const struct run_options *options,
                                const struct eval_options *eval, const struct comm_world_info *ranks)
{
    /* the last stage's held-out rows: what the finished adapter is for */
    const struct stage_options stage = run_stage(options, run_stages(options) - 1);
    if (!data_has_eval(&stage))
        return FAIL(LORAD_CONFIG, "there is nothing to evaluate on: set eval_file, or val_size");
    TRY(session_read(&e->session, options, eval->adapter_dir, SESSION_INFER));
    TRY(session_join(&e->session, ranks));
    TRY(data_open(&e->rows, NULL, &e->session, &stage, DATA_EVAL));
    struct loader_options loader = data_eval_loader(&e->session);
    struct loader_capacity capacity = loader_capacity(e->rows, &loader);
    TRY(session_load(&e->session, capacity, eval->adapter_dir, SESSION_INFER));
    struct evaluation result;
    TRY(evaluate(&result, &e->session, e->rows, eval->adapter_dir != NULL, eval->per_row));
    if (ranks->rank == 0) print_result(e->rows, &result, eval);
    free(result.row_loss);
    return LORAD_OK;
}

enum status run_eval(const struct run_options *options, const struct eval_options *eval,
                     const struct comm_world_info *ranks)
{
    struct evaluating e = {0};
    enum status status = evaluate_all(&e, options, eval, ranks);
    dataset_close(e.rows);
    session_close(&e.session);
    return status;
}

/* ---- generation ---- */

struct generating {
    struct session session;
    struct decoder *decoder;
    struct token_list prompt;
    struct token_list answer;
    struct token_stream *stream;
    struct strbuf text; /* not printed yet */
};

/* Prints what is certain of the text so far. */
static enum status print_new(struct generating *g, enum status status)
{
    if (status == LORAD_OK) status = strbuf_status(&g->text);
    if (status == LORAD_OK && g->text.length && g->session.ranks.rank == 0) {
        fwrite(strbuf_text(&g->text), 1, g->text.length, stdout);
        fflush(stdout);
    }
    strbuf_clear(&g->text);
    return status;
}

static enum status answer(struct generating *g, int32_t max_new_tokens)
{
    int32_t stop = chat_template_end_token(g->session.chat), eos = tokenizer_eos(g->session.tokenizer), next;
    const int32_t *feed = g->prompt.ids;
    int32_t n = (int32_t)g->prompt.length, room = g->session.options->cutoff_len - n;
    g->answer.ids = memory_new((size_t)max_new_tokens + 1, sizeof(int32_t));
    if (!g->answer.ids) return LORAD_NOMEM;
    while ((int32_t)g->answer.length < max_new_tokens && (int32_t)g->answer.length < room) {
        TRY(decoder_next(g->decoder, feed, n, &next));
        if (next == stop || next == eos) break;
        g->answer.ids[g->answer.length++] = next;
        TRY(print_new(g, token_stream_add(g->stream, next, &g->text)));
        feed = &g->answer.ids[g->answer.length - 1];
        n = 1;
    }
    TRY(print_new(g, token_stream_finish(g->stream, &g->text)));
    if (g->session.ranks.rank == 0) putchar('\n');
    return LORAD_OK;
}

static enum status generate_all(struct generating *g, const struct run_options *options,
                                const struct generate_options *generate, const struct comm_world_info *ranks)
{
    struct message messages[2];
    size_t n = 0;
    TRY(session_read(&g->session, options, generate->adapter_dir, SESSION_GENERATE));
    TRY(session_join(&g->session, ranks));
    if (generate->system)
        messages[n++] = (struct message){ROLE_SYSTEM, generate->system, strlen(generate->system), 1};
    messages[n++] = (struct message){ROLE_USER, generate->prompt, strlen(generate->prompt), 1};
    TRY(chat_template_prompt(g->session.chat, messages, n, &g->prompt));
    if ((int32_t)g->prompt.length >= options->cutoff_len)
        return FAIL(LORAD_USAGE, "the prompt has %zu tokens, but cutoff_len is %d", g->prompt.length,
                    options->cutoff_len);
    struct loader_capacity capacity = {.tokens = options->cutoff_len, .sequences = 1};
    TRY(session_load(&g->session, capacity, generate->adapter_dir, SESSION_GENERATE));
    TRY(decoder_create(&g->decoder, g->session.model, generate->adapter_dir != NULL));
    TRY(token_stream_create(&g->stream, g->session.tokenizer, true));
    return answer(g, generate->max_new_tokens);
}

enum status run_generate(const struct run_options *options, const struct generate_options *generate,
                         const struct comm_world_info *ranks)
{
    struct generating g = {0};
    enum status status = generate_all(&g, options, generate, ranks);
    decoder_destroy(g.decoder);
    token_stream_destroy(g.stream);
    strbuf_free(&g.text);
    token_list_free(&g.prompt);
    token_list_free(&g.answer);
    session_close(&g.session);
    return status;
}
