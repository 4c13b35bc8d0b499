/* verb_prepare.c: `lorad prepare`: all rows of a configuration into the cache, with a report on them. */
#include "launch/verbs.h"

#include <stdio.h>

#include "base/log.h"

static enum status prepare_all(struct run_rows *rows, const struct stage_options *stage,
                               const struct command *command)
{
    struct strbuf text = STRBUF_EMPTY;
    if (stage->n_train_sources > 0) TRY(run_rows_prepare(rows, false, command->verify));
    if (stage->n_eval_sources > 0 || stage->val_size > 0) TRY(run_rows_prepare(rows, true, command->verify));
    TRY(run_rows_review(rows));
    if (command->json)
        run_rows_json(rows, &text);
    else
        run_rows_text(rows, &text);
    enum status status = strbuf_status(&text);
    if (status == LORAD_OK) fputs(strbuf_text(&text), stdout);
    strbuf_free(&text);
    return status;
}

static enum status prepare_stage(const struct run_options *run, int32_t number, const struct command *command)
{
    const struct stage_options stage = run_stage(run, number);
    struct run_rows *rows;
    TRY(run_rows_open(&rows, run, number));
    if (*stage.name && !command->json)
        printf("== stage %d of %d, %s\n", number + 1, run_stages(run), stage.name);
    enum status status = prepare_all(rows, &stage, command);
    run_rows_close(rows);
    return status;
}

/* All problems are said; the code is the first one's. */
static enum status check_config(struct config *config, const char *path)
{
    config_check_paths(config);
    size_t n = config_problem_count(config);
    for (size_t i = 0; n > 1 && i < n; i++) log_error("%s", config_problem(config, i));
    enum status status = config_status(config);
    return n > 1 ? FAIL(status, "%s: %zu problems, listed above", path, n) : status;
}

enum status verb_prepare(const struct command *command)
{
    struct config *config = NULL;
    TRY(config_load(&config, command->config_path, command->sets, command->n_sets));
    const struct run_options *run = config_run(config);
    enum status status = check_config(config, command->config_path);
    const struct stage_options first = run_stage(run, 0);
    if (status == LORAD_OK && first.n_train_sources == 0 && first.n_eval_sources == 0)
        status = FAIL(LORAD_CONFIG, "there is nothing to prepare: set dataset (or --set dataset=FILE)");
    for (int32_t i = 0; status == LORAD_OK && i < run_stages(run); i++)
        status = prepare_stage(run, i, command);
    config_destroy(config);
    return status;
}
