/* verb_prepare.c: `lorad prepare`: all rows of a configuration into the cache, with a report on them. */
#include "launch/verbs.h"

#include <stdio.h>

#include "base/log.h"

static enum status prepare_all(struct run_rows *rows, const struct run_options *run,
                               const struct command *command)
{
    struct strbuf text = STRBUF_EMPTY;
    if (run->n_train_sources > 0) TRY(run_rows_prepare(rows, false, command->verify));
    if (run->n_eval_sources > 0 || run->val_size > 0) TRY(run_rows_prepare(rows, true, command->verify));
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
    struct run_rows *rows = NULL;
    TRY(config_load(&config, command->config_path, command->sets, command->n_sets));
    const struct run_options *run = config_run(config);
    enum status status = check_config(config, command->config_path);
    if (status == LORAD_OK && run->n_train_sources == 0 && run->n_eval_sources == 0)
        status = FAIL(LORAD_CONFIG, "there is nothing to prepare: set dataset (or --set dataset=FILE)");
    if (status == LORAD_OK) status = run_rows_open(&rows, run);
    if (status == LORAD_OK) status = prepare_all(rows, run, command);
    run_rows_close(rows);
    config_destroy(config);
    return status;
}
