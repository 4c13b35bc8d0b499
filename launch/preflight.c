/*
 * preflight.c: `lorad check`: everything a run needs, looked at without running it: configuration, model
 * headers and memory plan, tokenizer and template, every row of the data, the output folder, and two rows as
 * they are trained.
 *
 * 1. A problem never hides another one that can be found without it: each part runs when its own inputs are
 *    there.
 * 2. The report goes to standard output, problems to standard error at the end; the exit code is the first
 *    one's.
 * 3. What it prepares is what a run finds in the cache later.
 */
#include "launch/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "dataloader/chat_template.h"
#include "dataloader/dataloader.h"
#include "dataloader/tokenizer.h"

enum { SHOWN_ROWS = 2, SHOWN_TOKENS = 400 };

struct preflight {
    const struct run_options *run;
    struct tokenizer *tokenizer; /* NULL: could not be opened */
    struct chat_template *chat;  /* NULL: likewise */
    bool colour;                 /* standard output is a terminal */
    struct strbuf problems;      /* one a line */
    int n_problems;
    enum status first;
};

/* Keeps the recorded message when `status` is a failure, once: a part that builds on another one repeats its
 * problem. True when it is LORAD_OK. */
static bool check(struct preflight *p, enum status status)
{
    if (status == LORAD_OK) return true;
    if (p->n_problems > 0 && strstr(strbuf_text(&p->problems), status_message())) return false;
    strbuf_printf(&p->problems, "%s\n", status_message());
    p->n_problems++;
    if (p->first == LORAD_OK) p->first = status;
    return false;
}

static void check_config(struct preflight *p, struct config *config)
{
    config_check_paths(config);
    size_t n = config_problem_count(config);
    for (size_t i = 0; i < n; i++) strbuf_printf(&p->problems, "%s\n", config_problem(config, i));
    p->n_problems += (int)n;
    p->first = config_status(config);
    if (config_noted(config)[0]) printf("These keys change nothing here: %s\n\n", config_noted(config));
}

static void check_tokenizer(struct preflight *p)
{
    if (!check(p, tokenizer_open(&p->tokenizer, p->run->model_dir))) return;
    if (!check(p, chat_template_open(&p->chat, p->tokenizer, p->run->template_name))) return;
    bool chosen = p->run->template_name;
    const char *name = chat_template_name(p->chat);
    printf("template: %s%s\n\n", name,
           chosen ? ""
           : strcmp(name, "plain") == 0
               ? " (the model has no chat template; set template to choose another one)"
               : " (the model's own)");
}

/* Model headers, adapter; with the rows memory and steps too. */
static void check_plan(struct preflight *p, const struct run_plan_request *request)
{
    struct strbuf plan = STRBUF_EMPTY;
    if (check(p, run_plan(&plan, p->run, request)) && request->rows) printf("%s\n", strbuf_text(&plan));
    strbuf_free(&plan);
}

/* true when output_dir can be written to. */
static bool check_output(struct preflight *p)
{
    const char *dir = p->run->output_dir;
    if (!check(p, file_make_dirs(dir))) return false;
    if (access(dir, W_OK | X_OK) == 0) return true;
    return check(p, FAIL(LORAD_CANNOT_CREATE, "output_dir: %s is not writable", dir));
}

/* ---- data ---- */

/* One row, its supervised parts green, or in [[ ]] where there is no colour. */
static enum status print_row(const struct preflight *p, const struct dataset *dataset, int64_t index)
{
    struct dataset_row row = dataset_row(dataset, index);
    struct strbuf text = STRBUF_EMPTY;
    const char *on = p->colour ? "\033[32m" : "[[", *off = p->colour ? "\033[0m" : "]]";
    int shown = row.n_tokens < SHOWN_TOKENS ? row.n_tokens : SHOWN_TOKENS;
    enum status status = LORAD_OK;
    for (int i = 0; i < shown && status == LORAD_OK;) {
        int end = i + 1; /* decoded in runs: one character may be several tokens */
        while (end < shown && row.codes[end] == row.codes[i]) end++;
        if (row.codes[i]) strbuf_puts(&text, on);
        status = tokenizer_decode(p->tokenizer, row.tokens + i, (size_t)(end - i), false, &text);
        if (row.codes[i]) strbuf_puts(&text, off);
        i = end;
    }
    if (status == LORAD_OK)
        printf("\n--- %s:%lld, %d tokens, %d supervised%s\n%s%s\n", dataset_source_name(dataset, row.source),
               (long long)row.line, row.n_tokens, row.n_supervised, p->colour ? " (green)" : " ([[...]])",
               strbuf_text(&text), shown < row.n_tokens ? " ..." : "");
    strbuf_free(&text);
    return status;
}

static enum status print_rows(const struct preflight *p, const char *shard_dir)
{
    struct dataset *dataset = NULL;
    TRY(dataset_open(&dataset, shard_dir));
    enum status status = LORAD_OK;
    int shown = 0;
    for (int64_t i = 0; shown < SHOWN_ROWS && i < dataset_raw_rows(dataset) && status == LORAD_OK; i++) {
        if (dataset_length(dataset, i) == 0) continue;
        status = print_row(p, dataset, i);
        shown++;
    }
    dataset_close(dataset);
    return status;
}

/* All rows; the two parts are looked at whatever is wrong with the other. */
static void check_rows(struct preflight *p, int32_t number, bool verify)
{
    const struct run_options *run = p->run;
    const struct stage_options stage = run_stage(run, number);
    struct run_rows *rows;
    struct strbuf text = STRBUF_EMPTY;
    int before = p->n_problems;
    if (*stage.name) printf("== stage %d of %d, %s\n", number + 1, run_stages(run), stage.name);
    if (!check(p, run_rows_open(&rows, run, number))) return;
    if (stage.n_train_sources > 0) check(p, run_rows_prepare(rows, false, verify));
    if (stage.n_eval_sources > 0 || stage.val_size > 0) check(p, run_rows_prepare(rows, true, verify));
    if (check(p, run_rows_review(rows))) {
        run_rows_text(rows, &text);
        if (verify && p->n_problems == before)
            strbuf_puts(&text, "Every byte was read again and is as it was written.\n");
        printf("%s", strbuf_text(&text));
    }
    strbuf_free(&text);
    if (run_rows_folder(rows, false)) {
        check(p, print_rows(p, run_rows_folder(rows, false)));
        printf("\n");
    }
    run_rows_close(rows);
}

static void print_problems(const struct preflight *p)
{
    fflush(stdout);
    const char *at = strbuf_text(&p->problems);
    while (*at) {
        int n = (int)strcspn(at, "\n");
        log_error("%.*s", n, at);
        at += n + (at[n] == '\n');
    }
}

static enum status print_value(const struct config *config, const char *key)
{
    const char *value;
    TRY(config_status(config));
    TRY(config_value_of(&value, config, key));
    printf("%s\n", value);
    return LORAD_OK;
}

enum status verb_check(const struct command *command)
{
    struct config *config = NULL;
    TRY(config_load(&config, command->config_path, command->sets, command->n_sets));
    if (command->value_of) {
        enum status status = print_value(config, command->value_of);
        config_destroy(config);
        return status;
    }
    struct preflight p = {
        .run = config_run(config), .colour = isatty(STDOUT_FILENO), .problems = STRBUF_EMPTY};
    const struct run_options *run = p.run;
    check_config(&p, config);
    int ranks = command->plan_ranks ? command->plan_ranks : run->tensor_parallel_size;
    bool has_model = run->model_dir && file_is_dir(run->model_dir);
    if (has_model) check_tokenizer(&p);
    bool writable = run->output_dir && check_output(&p);
    bool rows = writable && p.chat;
    int before = p.n_problems;
    for (int32_t i = 0; rows && i < run_stages(run); i++) check_rows(&p, i, command->verify);
    if (has_model && run_stage(run, 0).n_train_sources > 0)
        check_plan(&p, &(struct run_plan_request){
                           .world = ranks, .gpu = command->gpu, .rows = rows && p.n_problems == before});
    chat_template_close(p.chat);
    tokenizer_close(p.tokenizer);
    print_problems(&p);
    enum status status = strbuf_status(&p.problems);
    if (status == LORAD_OK && p.n_problems > 0)
        status = FAIL(p.first, "%s: %d problem%s, listed above", command->config_path, p.n_problems,
                      p.n_problems > 1 ? "s" : "");
    else if (status == LORAD_OK)
        printf("No problems found.\n");
    strbuf_free(&p.problems);
    config_destroy(config);
    return status;
}
